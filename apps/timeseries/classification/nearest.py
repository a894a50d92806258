"""What a classifier must beat: the most frequent class, and the class of the nearest series.

Dynamic time warping: Sakoe and Chiba, 1978; of all channels together (DTW_D): Shokoohi-Yekta et
al., "Generalizing DTW to the multi-dimensional case requires an adaptive approach", 2017.  Without
a window.
"""

from __future__ import annotations

import numpy as np

BLOCK_CELLS = 8_000_000
"""Cells of alignment tables that are held at once: 64 MB."""


def majority(labels: np.ndarray, classes: int) -> int:
    """The most frequent of labels from 0; the first of several."""
    return int(np.bincount(labels, minlength=classes).argmax())


def euclidean(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Squared distances (tests, trains) of series (., C, T) of one length."""
    a, b = test.reshape(len(test), -1), train.reshape(len(train), -1)
    return np.maximum((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1), 0.0)


def warping(
    train: np.ndarray, train_lengths: np.ndarray, test: np.ndarray, test_lengths: np.ndarray
) -> np.ndarray:
    """Squared distances (tests, trains) under the best warping of time; series (., C, T).

    Whatever lies beyond a series' length does not count.
    """
    block = max(1, BLOCK_CELLS // (train.shape[2] * max(1, test.shape[2])))
    result = np.empty((len(test), len(train)))
    for at in range(0, len(train), block):
        part = slice(at, at + block)
        for t, (series, length) in enumerate(zip(test, test_lengths)):
            result[t, part] = _to_one(train[part], train_lengths[part], series[:, :length])
    return result


def _to_one(train: np.ndarray, lengths: np.ndarray, series: np.ndarray) -> np.ndarray:
    """From all of train (n, C, T) to one series (C, t), a diagonal of their tables at a time: (n,)."""
    n, C, T = train.shape
    t = series.shape[1]
    cross = (series.T @ train.transpose(1, 0, 2).reshape(C, n * T)).reshape(t, n, T)
    cost = (series**2).sum(0)[:, None, None] - 2 * cross + (train**2).sum(1)
    cost = np.maximum(cost, 0.0).transpose(1, 0, 2)  # (n, t, T)
    found = np.empty(n)
    # Entry i + 1 of diagonal k is cell (i, k - i) of the table; entry 0 is beyond its border.
    before = np.full((n, t + 1), np.inf)
    last = before.copy()
    before[:, 0] = 0.0  # what the first pair comes from
    for k in range(t + T - 1):
        i = np.arange(max(0, k - T + 1), min(t - 1, k) + 1)
        now = np.full((n, t + 1), np.inf)
        least = np.minimum(np.minimum(last[:, i], last[:, i + 1]), before[:, i])
        now[:, i + 1] = cost[:, i, k - i] + least
        ended = lengths + t - 2 == k
        found[ended] = now[ended, t]
        before, last = last, now
    return found
