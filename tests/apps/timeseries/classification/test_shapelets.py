"""Discovery equal to its definition, one candidate, window and threshold at a time."""

from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.classification.shapelets import (
    Shapelet,
    best_places,
    discover,
    distances,
    important_points,
    information_gain,
)


def points_by_hand(row: np.ndarray, points: int) -> set[tuple[int, int]]:
    """The authors' procedure, point by point: the candidates of one series."""
    n = len(row)
    x = (np.arange(n) - np.arange(n).mean()) / np.arange(n).std()
    chosen, found = [0, n - 1], set()
    for _ in range(min(points, n) - 2):
        best, where = -1.0, -1
        for j in range(n):
            if j in chosen:
                continue
            a = max(p for p in chosen if p < j)
            b = min(p for p in chosen if p > j)
            slope = (row[b] - row[a]) / (x[b] - x[a])
            away = abs(row[a] + slope * (x[j] - x[a]) - row[j]) / np.sqrt(1 + slope**2)
            if away > best:
                best, where = away, j
        chosen = sorted([*chosen, where])
        at = chosen.index(where)
        found.add((chosen[at - 1], chosen[at + 1]))
        if at > 1:
            found.add((chosen[at - 2], chosen[at]))
        if at < len(chosen) - 2:
            found.add((chosen[at], chosen[at + 2]))
    return found


def test_important_points_of_unequal_series() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([30, 12, 3, 2, 1, 25])
    rows = rng.normal(size=(6, 30)).cumsum(1)
    for points in (2, 3, 5, 9, 40):
        found = important_points(rows, lengths, points)
        for r, n in enumerate(lengths):
            got = {(a, b) for row, a, b in found.tolist() if row == r}
            want = points_by_hand(rows[r, :n], points) if n > 2 else set()
            assert got == want, (points, r)
        assert len(np.unique(found, axis=0)) == len(found)


def test_what_lies_beyond_a_series_does_not_count() -> None:
    rng = np.random.default_rng(1)
    rows, lengths = rng.normal(size=(3, 20)), np.array([20, 9, 14])
    other = rows.copy()
    for r, n in enumerate(lengths):
        other[r, n:] = 1e6
    points = [important_points(x, lengths, 8).tolist() for x in (rows, other)]
    assert points[0] == points[1]
    starts = np.array([3, 12])
    away = [
        distances(rng_free, starts, x, lengths, 5)
        for x in (rows, other)
        for rng_free in [rows[:2, :6]]
    ]
    np.testing.assert_allclose(away[0], away[1])


@pytest.mark.parametrize("window", [0, 2, 100])
def test_distances_by_hand(window: int) -> None:
    rng = np.random.default_rng(2)
    rows, lengths = rng.normal(size=(5, 15)), np.array([15, 4, 9, 15, 3])
    candidates, starts = rng.normal(size=(3, 4)), np.array([0, 7, 11])
    got, places = best_places(candidates, starts, rows, lengths, window)
    for m, s in enumerate(candidates):
        complexity = 0.001 + (np.diff(s) ** 2).sum()
        for n, row in enumerate(rows):
            start = min(starts[m], max(lengths[n] - 4, 0))
            options = []
            for p in range(max(0, start - window), min(start + window, lengths[n] - 4) + 1):
                w = row[p : p + 4]
                c = 0.001 + (np.diff(w) ** 2).sum()
                ratio = max(c, complexity) / min(c, complexity)
                options.append((np.sqrt(((s - w) ** 2).sum() * ratio), p))
            want = min(options, default=(np.inf, 0))
            np.testing.assert_allclose(got[m, n], want[0], rtol=1e-9)
            assert places[m, n] == want[1]
    assert np.isinf(got[:, 4]).all()


def test_a_stretch_is_at_its_own_place() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4, 30))
    away, place = best_places(rows[2:3, 10:17], np.array([10]), rows, np.full(4, 30), 3)
    assert away[0, 2] == pytest.approx(0, abs=1e-6)
    assert place[0, 2] == 10
    assert np.isinf(best_places(np.zeros((1, 31)), np.array([0]), rows, np.full(4, 30), 3)[0]).all()


def entropy(ours: np.ndarray) -> float:
    shares = [p for p in (ours.mean(), 1 - ours.mean()) if p > 0]
    return -sum(p * np.log2(p) for p in shares)


def test_information_gain_by_hand() -> None:
    rng = np.random.default_rng(4)
    ours = np.array([True, True, False, False, True, False, False])
    away = rng.integers(0, 5, (50, 7)).astype(float)
    away[0] = [0, 0, 5, 5, 0, 5, np.inf]
    away[1] = 2.0
    gain, gap = information_gain(away, ours)
    for m in range(50):
        options = [0.0]
        for threshold in np.unique(away[m])[:-1]:
            near = away[m] <= threshold
            split = near.mean() * entropy(ours[near]) + (~near).mean() * entropy(ours[~near])
            options.append(entropy(ours) - split)
        assert gain[m] == pytest.approx(max(options), abs=1e-12)
    assert gain[0] == pytest.approx(entropy(ours))
    assert gain[1] == 0
    assert gap[0] > 0
    assert np.isfinite(gap).all()


def planted(seed: int, n: int = 12, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 2 channels; class 1 has a tooth in channel 1 around place 20."""
    rng = np.random.default_rng(seed)
    series = 0.1 * rng.normal(size=(n, 2, 40))
    labels = np.arange(n) % 2
    for i in np.flatnonzero(labels):
        at = 20 + shift * (i % 3 - 1)
        series[i, 1, at : at + 6] += [0, 2, 4, -4, -2, 0]
    return series, labels


def find(series: np.ndarray, labels: np.ndarray, **options: int) -> list[Shapelet]:
    settings = {"per_class": 3, "window": 6, **options}
    return discover(series, np.full(len(series), 40), labels, 2, **settings)


@pytest.mark.parametrize("shift", [0, 3])
def test_finds_what_was_planted(shift: int) -> None:
    series, labels = planted(0, shift=shift)
    best = next(s for s in find(series, labels) if s.label == 1)
    assert best.channel == 1
    assert best.gain == pytest.approx(1.0)
    assert best.start < 26 + shift
    assert best.end > 20 - shift
    np.testing.assert_array_equal(best.values, series[best.source, 1, best.start : best.end])
    assert labels[best.source] == 1


def test_picks_apart_and_the_best_first() -> None:
    found = find(*planted(1), per_class=4)
    for label in (0, 1):
        own = [s for s in found if s.label == label]
        assert len(own) == 4
        assert sorted((s.gain for s in own), reverse=True) == pytest.approx([s.gain for s in own])
        for i, a in enumerate(own):
            for b in own[:i]:
                shared = min(a.end, b.end) - max(a.start, b.start)
                shorter = min(len(a.values), len(b.values))
                assert a.channel != b.channel or shared <= 0.5 * shorter


def test_same_twice_and_thinned_when_there_are_many() -> None:
    series, labels = planted(2)
    first, second, few = find(series, labels), find(series, labels), find(series, labels, most=20)
    assert [(s.channel, s.start, s.source) for s in first] == [
        (s.channel, s.start, s.source) for s in second
    ]
    assert 0 < len(few) <= 6


def test_constants_hold_no_shapelet() -> None:
    assert find(np.ones((6, 2, 40)), np.arange(6) % 2) == []
