"""Augmentation: labels stay true, draws are seeded, nothing leaves its range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apps.driving.training.augment import augment
from apps.driving.training.config import AugmentConfig
from apps.driving.training.losses import IGNORED


def _sample() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "rgb": rng.integers(0, 256, (3, 20, 36, 3), dtype=np.uint8),
        "depth": rng.uniform(1, 100, (3, 20, 36)).astype(np.float32),
        "semantics": rng.integers(0, 13, (3, 20, 36), dtype=np.uint8),
        "speed": np.float32(4.0),
        "speed_input": np.float32(4.0),
        "target": np.array([20.0, -3.0], np.float32),
        "waypoints": rng.normal(size=(4, 2)).astype(np.float32),
    }


def _only(**on: Any) -> AugmentConfig:
    return AugmentConfig.none().model_copy(update=on)


def _run(config: AugmentConfig, seed: int = 0) -> dict[str, np.ndarray]:
    return augment(_sample(), config, np.random.default_rng([seed, 1]))


def _changed(found: dict[str, np.ndarray]) -> set[str]:
    before = _sample()
    return {k for k in before if not np.array_equal(before[k], found[k], equal_nan=True)}


def test_without_strength_nothing_changes() -> None:
    assert _changed(_run(AugmentConfig.none())) == set()


@pytest.mark.parametrize(
    ("on", "touched"),
    [
        ({"colour": 1.0}, {"rgb"}),
        ({"noise": 1.0}, {"rgb"}),
        ({"depth_noise": 1.0}, {"depth"}),
        ({"depth_holes": 1.0}, {"depth"}),
        ({"view_dropout": 1.0}, {"rgb", "depth", "semantics"}),
        ({"target_error": 1.0}, {"target"}),
        ({"speed_error": 1.0}, {"speed_input"}),
        ({"speed_dropout": 1.0}, {"speed_input"}),
    ],
)
def test_each_change_touches_only_its_own(on: dict[str, float], touched: set[str]) -> None:
    found = _run(_only(**on))
    assert _changed(found) == touched
    before = _sample()
    assert all(
        found[k].dtype == before[k].dtype and found[k].shape == before[k].shape for k in before
    )


def test_the_input_is_not_written_to() -> None:
    sample = _sample()
    every = AugmentConfig(colour=1, noise=1, view_dropout=1, depth_noise=1, depth_holes=1)
    augment(sample, every, np.random.default_rng(0))
    assert all(np.array_equal(sample[k], v) for k, v in _sample().items())


def test_a_draw_is_its_seeds() -> None:
    every = AugmentConfig(colour=1, noise=1, view_dropout=1, depth_noise=1, depth_holes=1)
    one, same, other = _run(every, 3), _run(every, 3), _run(every, 4)
    assert all(np.array_equal(one[k], same[k], equal_nan=True) for k in one)
    assert not np.array_equal(one["rgb"], other["rgb"])


def test_a_lost_view_is_never_the_front_and_its_pixels_have_no_truth() -> None:
    seen = set()
    for seed in range(30):
        found = _run(_only(view_dropout=1.0), seed)
        lost = [v for v in range(3) if not found["rgb"][v].any()]
        assert len(lost) == 1
        seen.update(lost)
        assert not found["depth"][lost[0]].any()
        assert (found["semantics"][lost[0]] == IGNORED).all()
    assert seen == {0, 2}


def test_errors_are_of_the_size_told() -> None:
    config = _only(target_error=0.5, speed_error=0.2, depth_noise=1.0, depth_error=0.02)
    runs = [_run(config, seed) for seed in range(300)]
    target = np.array([r["target"] - _sample()["target"] for r in runs])
    assert target.std() == pytest.approx(0.5, rel=0.15)
    speed = np.array([r["speed_input"] - 4.0 for r in runs])
    assert speed.std() == pytest.approx(0.2, rel=0.15)
    relative = np.array([r["depth"] / _sample()["depth"] - 1 for r in runs])
    assert 0.005 < relative.std() < 0.02
    assert all(r["speed"] == 4.0 for r in runs)  # the truth of the speed head


def test_noise_is_as_strong_as_told() -> None:
    grey = _sample() | {"rgb": np.full((3, 40, 40, 3), 128, np.uint8)}
    config = _only(noise=1.0, noise_level=10)
    spread = [
        augment(grey, config, np.random.default_rng(s))["rgb"].astype(float).std()
        for s in range(100)
    ]
    assert 7 < max(spread) <= 11
    assert min(spread) < 2
