"""The shares of two controllers, by hand, as the authors' rules have them."""

from __future__ import annotations

import pytest

from apps.driving.control.blend import MODES, Blend, Controls
from core.errors import UsageError

GO = Controls(0.6, 0.2, 0.0)
GO_NET = Controls(0.8, 0.4, 0.0)  # 0.6 once scaled by 0.75
IDLE = Controls(0.1, -0.4, 0.0)
STOP = Controls(0.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("mode", "pid", "mlp", "expected"),
    [
        ("one_of", GO, GO_NET, (0.6, 0.3, 0.0)),
        ("one_of", GO, STOP, (0.6, 0.2, 0.0)),
        ("one_of", STOP, GO_NET, (0.6, 0.4, 0.0)),
        ("one_of", STOP, STOP, (0.0, 0.1, 1.0)),
        ("one_of", IDLE, STOP, (0.0, -0.15, 0.5)),
        ("one_of", IDLE, IDLE, (0.0, -0.4, 0.0)),
        ("both_must", GO, GO_NET, (0.6, 0.3, 0.0)),
        ("both_must", GO, STOP, (0.0, 0.15, 0.5)),
        ("both_must", STOP, STOP, (0.0, 0.1, 1.0)),
        ("pid_only", GO, STOP, (0.6, 0.2, 0.0)),
        ("pid_only", STOP, GO_NET, (0.0, 0.1, 1.0)),
        ("mlp_only", STOP, GO_NET, (0.6, 0.4, 0.0)),
        ("mlp_only", GO, Controls(0.1, 0.3, 0.7), (0.0, 0.3, 1.0)),
    ],
)
def test_shares(mode: str, pid: Controls, mlp: Controls, expected: tuple[float, ...]) -> None:
    assert Blend(mode=mode)(pid, mlp) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wild", [Controls(9, 9, 9), Controls(-9, -9, -9)])
def test_results_are_within_bounds_and_never_on_both_pedals(mode: str, wild: Controls) -> None:
    for pid, mlp in [(wild, GO), (GO, wild), (wild, wild), (STOP, wild)]:
        throttle, steer, brake = Blend(mode=mode)(pid, mlp)  # type: ignore[arg-type]
        assert 0 <= throttle <= 0.75
        assert -1 <= steer <= 1
        assert 0 <= brake <= 1
        assert throttle * brake == 0


def test_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"blend 'oneof'.*'one_of'"):
        Blend(mode="oneof")  # type: ignore[arg-type]
