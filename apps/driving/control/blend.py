"""One driver out of two: the PIDs that follow the waypoints, and the network's own controls.

As LeTFuser's ``mlp_pid_control`` (github.com/pagand/e2etransfuser, leaderboard/team_code/x13/model.py,
from oskarnatan/end-to-end-driving, arXiv 2204.05513):

- "one_of": one that gives gas is enough. Where both do, their means; where one does, that one
  alone steers and gives gas; where none does, the car brakes.
- "both_must": the car goes only where both give gas.
- "pid_only", "mlp_only": one of them, the other is ignored.

Their weights ``cw_pid`` and ``cw_mlp`` are 0.5 up to 1e-4 after training, so means are plain here.

Deviates from the authors' code: there, a throttle below 0.2 means full brake of the PIDs. At the
speed it wants a controller gives no gas, so theirs stamps on both pedals by turns; here each
controller's own brake counts, and where neither brakes the car rolls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from core.errors import UsageError, unknown

Mode = Literal["one_of", "both_must", "pid_only", "mlp_only"]
MODES: tuple[str, ...] = get_args(Mode)

BRAKES = 0.5  # the authors' agent rounds the network's brake to 0 or 1


class Controls(NamedTuple):
    """``throttle`` and ``brake`` in [0, 1], ``steer`` in [-1, 1]."""

    throttle: float
    steer: float
    brake: float


@dataclass(frozen=True, kw_only=True)
class Blend:
    """How two controllers share the car.

    ``active`` is the throttle from which on a controller counts as giving gas. ``max_throttle`` caps
    the PIDs' throttle and scales the network's.
    """

    mode: Mode = "one_of"
    active: float = 0.2
    max_throttle: float = 0.75

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(unknown("blend", str(self.mode), MODES))

    def __call__(self, pid: Controls, mlp: Controls) -> Controls:
        """The pedals and the wheel. ``mlp`` is as the network gives it; ``pid`` as the PIDs do."""
        pid = _bounded(pid)._replace(throttle=min(max(pid.throttle, 0.0), self.max_throttle))
        if self.mode == "pid_only":
            return self._alone(pid)
        mlp = _bounded(mlp)
        mlp = Controls(mlp.throttle * self.max_throttle, mlp.steer, float(mlp.brake >= BRAKES))
        if self.mode == "mlp_only":
            return self._alone(mlp)

        goes = pid.throttle >= self.active, mlp.throttle >= self.active
        mean = Controls(*((a + b) / 2 for a, b in zip(pid, mlp)))
        if all(goes):
            return mean._replace(brake=0.0)
        if any(goes) and self.mode == "one_of":
            return (pid if goes[0] else mlp)._replace(brake=0.0)
        return mean._replace(throttle=0.0)

    def _alone(self, one: Controls) -> Controls:
        if one.throttle >= self.active:
            return one._replace(brake=0.0)
        return one._replace(throttle=0.0)


def _bounded(one: Controls) -> Controls:
    return Controls(
        min(max(one.throttle, 0.0), 1.0),
        min(max(one.steer, -1.0), 1.0),
        min(max(one.brake, 0.0), 1.0),
    )
