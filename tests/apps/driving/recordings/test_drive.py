"""Where a recorded route starts; the drive itself is tested by test_collect.py."""

from __future__ import annotations

import numpy as np

from apps.driving.recordings.drive import _start
from apps.driving.routes.plan import Plan


def test_starts_beside_the_lane_but_not_far() -> None:
    n = 20
    plan = Plan(
        town="T",
        xy=np.stack([np.zeros(n), np.arange(n, dtype=float)], -1),
        yaw=np.full(n, 90.0),
        command=np.full(n, 4),
        junction=np.zeros(n, bool),
        speed_limit=np.full(n, 8.0),
        s=np.arange(n, dtype=float),
    )
    assert _start(plan, 0, perturb=False) == (0.0, 0.0, 0.0, 90.0)
    starts = np.array([_start(plan, seed, perturb=True) for seed in range(50)])
    assert np.abs(starts[:, 0]).max() <= 0.7  # across the road; along it nothing
    assert np.ptp(starts[:, 0]) > 0.5
    np.testing.assert_allclose(starts[:, 1], 0, atol=1e-9)
    assert (np.abs(starts[:, 3] - 90) <= 6).all()
    assert np.ptp(starts[:, 3]) > 5
