from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.classification import nearest


def table(a: np.ndarray, b: np.ndarray) -> float:
    """Dynamic time warping cell by cell, series (C, T)."""
    found = np.full((a.shape[1] + 1, b.shape[1] + 1), np.inf)
    found[0, 0] = 0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            cost = ((a[:, i] - b[:, j]) ** 2).sum()
            found[i + 1, j + 1] = cost + min(found[i, j], found[i, j + 1], found[i + 1, j])
    return float(found[-1, -1])


@pytest.mark.parametrize("block", [1, 8_000_000])
def test_warping_equals_the_table(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK_CELLS", block)
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(5, 3, 9)), rng.normal(size=(4, 3, 7))
    n, m = np.array([9, 1, 4, 9, 6]), np.array([7, 2, 1, 5])
    got = nearest.warping(train, n, test, m)
    for i in range(4):
        for j in range(5):
            want = table(test[i, :, : m[i]], train[j, :, : n[j]])
            assert got[i, j] == pytest.approx(want)


def test_euclidean_and_majority() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(5, 3, 9)), rng.normal(size=(4, 3, 9))
    want = ((test[:, None] - train[None]) ** 2).sum((2, 3))
    np.testing.assert_allclose(nearest.euclidean(train, test), want)
    assert nearest.majority(np.array([2, 0, 2, 1]), 4) == 2
    assert nearest.majority(np.array([1, 0]), 2) == 0
