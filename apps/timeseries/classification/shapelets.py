"""Shapelets: short stretches of training series that tell one class from the others.

Papers: Le et al., "ShapeFormer: Shapelet Transformer for Multivariate Time Series Classification",
KDD 2024 (section 4.1), whose discovery is that of Le et al., "Learning Perceptual Position-aware
Shapelets", 2022; Batista et al., "CID: an efficient complexity-invariant distance", 2014; Ye and
Keogh, "Time series shapelets", KDD 2009.  Code it corresponds to: xuanmay2701/shapeformer,
Shapelet/auto_pisd.py and mul_shapelet_discovery.py.

Letters: n series, C channels, T the longest length, m candidates, l length of a candidate.

    1. perceptually important points: of a series' channel first the ends, then again and again the
       point furthest from the straight line between its neighbours, until a share of T is found;
       each new one gives three candidates, the stretches over three points in a row around it
    2. distance of candidate s to a series: the least over places p of w within ``window`` of where
       s was found, of |s - w| sqrt(CE(w) / CE(s)) (the greater complexity over the lesser), with
       complexity CE(s) = 0.001 + sum of squared differences of neighbours
    3. quality: the information gain about "of the class or not" of the best threshold of distance
    4. for each class the best ones, no two sharing most of their place in one channel

Everything is one matrix product for all candidates of a channel and length: 12,000 candidates and
40 series of 100 x 6 take seconds, not hours.

Deviates from the authors' code: all thresholds are tried (theirs: five shares of the class); equal
gains are told apart by the gap between the class' mean distance and the others'; lengths may
differ: windows lie inside a series, the nearest places count where none is within reach, and a
series shorter than a candidate is infinitely far.  Where there are more than ``most`` candidates,
evenly spread ones are tried.  Ties are broken by place, so nothing is left to chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COMPLEXITY = 0.001
"""Added to a complexity, that of a constant being 0 (authors' code)."""


@dataclass(frozen=True)
class Shapelet:
    """Values of ``channel`` from place ``start`` of series ``source``, good at telling ``label``."""

    values: np.ndarray
    channel: int
    start: int
    source: int
    label: int
    gain: float

    @property
    def end(self) -> int:
        return self.start + len(self.values)


def important_points(rows: np.ndarray, lengths: np.ndarray, points: int) -> np.ndarray:
    """Candidates (m, 3), rows of (row, start, end), of rows (r, T) that are ``lengths`` (r,) long.

    ``points`` of each row, ends included, fewer where it is shorter.  Time counts in standard
    deviations of itself, as the authors' does.  Sorted, none twice.
    """
    r, T = rows.shape
    at = np.arange(T)
    each = np.arange(r)
    last = lengths - 1
    # The deviation of 0 ... n - 1 is sqrt((n^2 - 1) / 12).
    pace = np.sqrt(12.0 / np.maximum(lengths.astype(float) ** 2 - 1.0, 1.0))[:, None]
    left = np.zeros((r, T), dtype=np.int64)  # of every place, the important points around it
    right = np.broadcast_to(last[:, None], (r, T)).copy()
    chosen = np.zeros((r, T), dtype=bool)
    chosen[:, 0] = True
    chosen[each, last] = True
    found = []
    for _ in range(max(points - 2, 0)):
        y0 = np.take_along_axis(rows, left, 1)
        y1 = np.take_along_axis(rows, right, 1)
        run = (right - left) * pace
        slope = (y1 - y0) / np.where(run > 0, run, 1.0)
        away = np.abs(y0 + slope * (at - left) * pace - rows) / np.sqrt(1 + slope**2)
        away[chosen | (at > last[:, None])] = -1.0
        new = away.argmax(1)
        able = away[each, new] >= 0
        if not able.any():
            break
        chosen[each[able], new[able]] = True
        here = at[None] == new[:, None]
        before, after = left[each, new], right[each, new]
        able_ = able[:, None]
        left = np.where(able_ & ((at > new[:, None]) & (at <= after[:, None])), new[:, None], left)
        right = np.where(
            able_ & ((at < new[:, None]) & (at >= before[:, None])), new[:, None], right
        )
        # Of the new point itself, its neighbours stay; of a neighbour, the new point is one.
        left = np.where(here & able_, before[:, None], left)
        right = np.where(here & able_, after[:, None], right)
        beyond_left, beyond_right = left[each, before], right[each, after]
        for start, end, there in (
            (before, after, able),
            (beyond_left, new, able & (before > 0)),
            (new, beyond_right, able & (after < last)),
        ):
            found.append(np.stack([each[there], start[there], end[there]], 1))
    if not found:
        return np.empty((0, 3), dtype=np.int64)
    return np.unique(np.concatenate(found), axis=0)


def distances(
    candidates: np.ndarray, starts: np.ndarray, rows: np.ndarray, lengths: np.ndarray, window: int
) -> np.ndarray:
    """Of candidates (m, l) found at ``starts`` (m,) to rows (n, T): (m, n), see step 2."""
    return best_places(candidates, starts, rows, lengths, window)[0]


def best_places(
    candidates: np.ndarray, starts: np.ndarray, rows: np.ndarray, lengths: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """The distances (m, n) and the places (m, n) they are found at; infinity and 0 if there is none."""
    m, size = candidates.shape
    n, T = rows.shape
    if size > T:
        return np.full((m, n), np.inf), np.zeros((m, n), dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(rows, size, axis=1)  # (n, places, l)
    places = windows.shape[1]
    steps = np.diff(rows, axis=1) ** 2
    total = np.concatenate([np.zeros((n, 1)), steps.cumsum(1)], 1)
    window_complexity = COMPLEXITY + total[:, size - 1 :] - total[:, :places]
    complexity = COMPLEXITY + (np.diff(candidates, axis=1) ** 2).sum(1)
    squares = (windows**2).sum(2)
    at = np.arange(places)
    inside = at[None] + size <= lengths[:, None]  # (n, places)
    best = np.empty((m, n))
    place = np.empty((m, n), dtype=np.int64)
    flat = np.ascontiguousarray(windows).reshape(-1, size).T
    block = max(1, 4_000_000 // (n * places))  # 32 MB of float64 at a time
    for i in range(0, m, block):
        part = candidates[i : i + block]
        away = (part @ flat).reshape(len(part), n, places)
        away *= -2.0
        away += squares
        away += (part**2).sum(1)[:, None, None]
        np.maximum(away, 0.0, out=away)
        c = complexity[i : i + block, None, None]
        away *= np.maximum(window_complexity, c) / np.minimum(window_complexity, c)
        # Where a short series ends before the reach begins, its last places are the nearest.
        start = np.minimum(starts[i : i + block, None], np.maximum(lengths - size, 0)[None])
        reach = np.abs(at - start[:, :, None]) <= window
        away[~(reach & inside)] = np.inf
        place[i : i + block] = away.argmin(2)
        best[i : i + block] = np.sqrt(away.min(2))
    place[np.isinf(best)] = 0
    return best, place


def information_gain(away: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of distances (m, n) and membership ``ours`` (n,) bool: the best gain in bits and the gap.

    The gap is the others' mean distance less the class', in units of their mean; infinite distances
    count as the greatest finite one.
    """
    n = len(ours)
    order = np.argsort(away, axis=1, kind="stable")
    ranked = np.take_along_axis(away, order, 1)
    inside = ours[order].cumsum(1)[:, :-1].astype(float)  # of ours, among the nearest k
    k = np.arange(1, n, dtype=float)
    members = float(ours.sum())
    after = k / n * _entropy(inside / k) + (n - k) / n * _entropy((members - inside) / (n - k))
    gain = _entropy(np.array(members / n)) - after
    # No threshold lies between equal distances.
    gain[~(ranked[:, 1:] > ranked[:, :-1])] = 0.0
    finite = np.where(np.isfinite(away), away, -np.inf).max(1, keepdims=True)
    bounded = np.where(np.isfinite(away), away, np.where(np.isfinite(finite), finite, 0.0))
    gap = bounded[:, ~ours].mean(1) - bounded[:, ours].mean(1)
    return gain.max(1), gap / np.maximum(bounded.mean(1), 1e-12)


def _entropy(share: np.ndarray) -> np.ndarray:
    rest = 1.0 - share
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -share * np.log2(share) - rest * np.log2(rest)
    return np.nan_to_num(bits, nan=0.0)


def discover(
    series: np.ndarray,
    lengths: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    per_class: int,
    window: int,
    points: float = 0.2,
    most: int = 40_000,
) -> list[Shapelet]:
    """Up to ``per_class`` shapelets of each class, class by class, the best first.

    series (n, C, T), whatever beyond ``lengths`` (n,); labels (n,) from 0.  ``window``: how far from
    its place a shapelet is looked for.  ``points``: important points as a share of the longest
    length, at least 5.  A class without series has none, nor has one of series of constants.
    """
    n, C, T = series.shape
    rows = series.transpose(1, 0, 2).reshape(C * n, T)
    found = important_points(rows, np.tile(lengths, C), max(5, int(points * T)))
    found = found[found[:, 2] - found[:, 1] >= 2]
    if len(found) > most:
        found = found[np.linspace(0, len(found) - 1, most).astype(np.int64)]
    channel, source = found[:, 0] // n, found[:, 0] % n
    start, size = found[:, 1], found[:, 2] - found[:, 1]
    gains, gaps = np.zeros(len(found)), np.zeros(len(found))
    for c, length in sorted({*zip(channel.tolist(), size.tolist())}):
        chosen = np.flatnonzero((channel == c) & (size == length))
        values = np.stack([series[source[i], c, start[i] : start[i] + length] for i in chosen])
        away = distances(values, start[chosen], series[:, c], lengths, window)
        for label in np.unique(labels[source[chosen]]):
            its = labels[source[chosen]] == label
            gains[chosen[its]], gaps[chosen[its]] = information_gain(away[its], labels == label)
    shapelets: list[Shapelet] = []
    for label in range(classes):
        own = np.flatnonzero(labels[source] == label)
        ranked = own[np.lexsort((own, -gaps[own], -gains[own].round(12)))]
        picked = _apart(ranked, channel, start, size, per_class)
        shapelets += [
            Shapelet(
                values=series[source[i], channel[i], start[i] : start[i] + size[i]].copy(),
                channel=int(channel[i]),
                start=int(start[i]),
                source=int(source[i]),
                label=label,
                gain=float(gains[i]),
            )
            for i in picked
            if gains[i] > 0
        ]
    return shapelets


def _apart(
    ranked: np.ndarray, channel: np.ndarray, start: np.ndarray, size: np.ndarray, most: int
) -> list[int]:
    """The first ``most`` of ``ranked`` of which no two share over half of the shorter one's place.

    Filled up with the best of the others where there are not so many.
    """
    picked: list[int] = []
    for i in ranked:
        if len(picked) == most:
            break
        j = np.array(picked, dtype=np.int64)
        shared = np.minimum(start[i] + size[i], start[j] + size[j]) - np.maximum(start[i], start[j])
        close = (channel[j] == channel[i]) & (shared > 0.5 * np.minimum(size[i], size[j]))
        if not close.any():
            picked.append(int(i))
    return (picked + [int(i) for i in ranked if i not in picked])[:most]
