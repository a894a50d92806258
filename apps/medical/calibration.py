"""What held-out cases say of a model's probabilities: the figures of a ``Calibration``.

The measures are those of ``apps.medical.uncertainty``; ``apps.medical.calibrate`` runs the cases.
What is chosen on cases (temperature, extents' thresholds, ranges' factors) is judged by
cross-fitting: chosen on one half of the patients, measured on the other, and the other way round.
What is written are the choices on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apps.medical.evaluate import RESAMPLES, bootstrap
from apps.medical.uncertainty import (
    BINS,
    FAINT,
    THRESHOLDS,
    Bin,
    Calibration,
    Figure,
    LabelCalibration,
    Seen,
    conformal_factor,
    conformal_margin,
    control_risk,
    entropy,
    expected_calibration_error,
    fit_temperature,
    miss_rates,
    nll,
    quantile_distance,
    reliability,
    softmax,
)
from core.errors import DataError

FEWEST = 4  # patients: two for each half


@dataclass(frozen=True, eq=False, kw_only=True)
class Held:
    """One held-out case: sampled scores (n, K) and true classes (n), and figures per class (K)."""

    patient: str
    scores: np.ndarray
    truth: np.ndarray
    near: np.ndarray  # (n,) bool: within NEAR voxels of the prediction
    dice: list[float]
    volume_true: list[float]
    volume_pred: list[float]
    extent: list[float]
    quantiles: list[list[float]]

    def edge(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and classes of the voxels near the prediction; of all where nothing was found."""
        if not self.near.any():
            return self.scores, self.truth
        return self.scores[self.near], self.truth[self.near]


def summarise(
    held: Sequence[Held], names: Sequence[str], *, alpha: float, seed: int, about: dict[str, Any]
) -> Calibration:
    """All figures of held-out cases. ``names`` are the classes', background first; without labels
    (numbered objects) it is empty. DataError for fewer than four patients."""
    patients = [case.patient for case in held]
    halves = halve(patients, seed)
    sides = [[case for case, half in zip(held, halves) if half == side] for side in (0, 1)]

    def fit(side: Sequence[Held]) -> float:
        return fit_temperature(*zip(*(case.edge() for case in side)))

    whole = fit(held)
    by_half = [fit(side) for side in sides]
    # Each case is judged at the temperature of the other half, which chooses at its own.
    own, crossed = ([by_half[h ^ other] for h in halves] for other in (0, 1))

    def figure(values: Sequence[float]) -> Figure:
        return _figure(values, patients, seed)

    def ece(temperatures: Sequence[float]) -> Figure:
        found = [reliability(*c.edge(), t) for c, t in zip(held, temperatures)]
        return _ece(np.array(found), patients, seed)

    ones = [1.0] * len(held)
    pooled = sum(reliability(*case.edge(), whole) for case in held)
    assert not isinstance(pooled, int)
    doubt = [_doubt(case, whole) for case in held]
    labels = {
        name: _label(k, held, halves, (whole, own, crossed), alpha, figure)
        for k, name in enumerate(names)
        if k > 0
    }
    return Calibration(
        temperature=whole,
        ece_before=ece(ones),
        ece_after=ece(crossed),
        nll_before=figure([nll(*c.edge()) for c in held]),
        nll_after=figure([nll(*c.edge(), t) for c, t in zip(held, crossed)]),
        alpha=alpha,
        labels=labels,
        reliability=_bins(pooled),
        seen=_seen(held, names, [value for value in doubt if not np.isnan(value)]),
        cases=len(held),
        patients=len(set(patients)),
        **about,
    )


def halve(patients: Sequence[str], seed: int) -> list[int]:
    """Half 0 or 1 of each case, all of a patient's on one side. DataError below four patients."""
    names = sorted(set(patients))
    if len(names) < FEWEST:
        raise DataError(
            f"{len(names)} held-out patients: calibration needs at least {FEWEST}, and some twenty "
            "to say anything firm"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    side = {names[n]: place % 2 for place, n in enumerate(order)}
    return [side[patient] for patient in patients]


def _label(
    k: int,
    held: Sequence[Held],
    halves: Sequence[int],
    temperatures: tuple[float, Sequence[float], Sequence[float]],
    alpha: float,
    figure: Callable[[Sequence[float]], Figure],
) -> LabelCalibration:
    """Class ``k`` over the cases; temperatures: of all cases, of each one's half, of the other."""
    nan = float("nan")
    whole, own, crossed = temperatures
    confidence, precision, excess = [], [], []
    missed, ratios = [], []
    losses = np.full((3, len(held), len(THRESHOLDS)), nan)  # at whole, own, crossed
    for i, (case, t) in enumerate(zip(held, crossed)):
        p = softmax(case.scores.T, t)[k]
        mine, true = case.scores.argmax(1) == k, case.truth == k
        total = float(p[p >= FAINT].sum())
        inside = float(p[mine].sum())
        confidence.append(inside / mine.sum() if mine.any() else nan)
        precision.append(float(true[mine].mean()) if mine.any() else nan)
        promised = 2 * inside / (mine.sum() + total) if mine.any() else nan
        excess.append(promised - case.dice[k])
        missed.append(float((~mine[true]).mean()) if true.any() else nan)
        for j, at in enumerate((whole, own[i], t)):
            if true.any():
                losses[j, i] = miss_rates(softmax(case.scores[true].T, at)[k])
        both = case.volume_true[k] > 0 and case.volume_pred[k] > 0
        ratios.append(case.volume_true[k] / case.volume_pred[k] if both else nan)
    threshold, extent = _control(losses, halves, alpha, figure)
    shift, margin, error, kept = _dice(np.array(excess), halves, alpha, figure)
    factor, coverage = _ranges(np.array(ratios), halves, alpha, figure)
    return LabelCalibration(
        dice=figure([case.dice[k] for case in held]),
        confidence=figure(confidence),
        precision=figure(precision),
        dice_shift=shift,
        expected_dice_error=error,
        dice_constant_error=_constant(np.array([c.dice[k] for c in held]), halves, figure),
        dice_margin=margin,
        dice_coverage=kept,
        miss_rate=figure(missed),
        threshold=threshold,
        extent_miss_rate=extent,
        volume_factor=factor,
        volume_coverage=coverage,
    )


def _control(
    losses: np.ndarray,
    halves: Sequence[int],
    alpha: float,
    figure: Callable[[Sequence[float]], Figure],
) -> tuple[float | None, Figure | None]:
    """The threshold by all cases, and each half's miss rate at the one the other half chose.

    ``losses`` (3, n, THRESHOLDS) as ``_label`` makes them, NaN for a case without the label.
    """
    whole, own, crossed = losses
    defined, half = ~np.isnan(whole[:, 0]), np.array(halves)
    chosen = control_risk(whole[defined], alpha)
    measured = np.full(len(whole), np.nan)
    for side in (0, 1):
        threshold = control_risk(own[defined & (half != side)], alpha)
        if threshold is None:
            return chosen, None
        column = int(np.searchsorted(THRESHOLDS, threshold - 1e-9))
        measured[half == side] = crossed[half == side, column]
    return chosen, figure(measured.tolist())


def _dice(
    excess: np.ndarray,
    halves: Sequence[int],
    alpha: float,
    figure: Callable[[Sequence[float]], Figure],
) -> tuple[float, float | None, Figure, Figure | None]:
    """Mean excess of the expected Dice (n), its bound, and cross-fitted what is left of them."""
    defined, half = ~np.isnan(excess), np.array(halves)
    left, kept = np.full(len(excess), np.nan), np.full(len(excess), np.nan)
    bounded = True
    for side in (0, 1):
        others, here = excess[defined & (half != side)], defined & (half == side)
        left[here] = np.abs(excess[here] - (others.mean() if others.size else 0.0))
        margin = conformal_margin(others, alpha)
        if margin is None:
            bounded = False
        else:
            kept[here] = excess[here] <= margin
    shift = float(excess[defined].mean()) if defined.any() else 0.0
    chosen = conformal_margin(excess[defined], alpha)
    return shift, chosen, figure(left.tolist()), figure(kept.tolist()) if bounded else None


def _constant(
    dice: np.ndarray, halves: Sequence[int], figure: Callable[[Sequence[float]], Figure]
) -> Figure:
    """Error of saying the other half's mean Dice for every case of a half."""
    defined, half = ~np.isnan(dice), np.array(halves)
    off = np.full(len(dice), np.nan)
    for side in (0, 1):
        others = dice[defined & (half != side)]
        if others.size:
            off[half == side] = np.abs(dice[half == side] - others.mean())
    return figure(off.tolist())


def _ranges(
    ratios: np.ndarray,
    halves: Sequence[int],
    alpha: float,
    figure: Callable[[Sequence[float]], Figure],
) -> tuple[float | None, Figure | None]:
    defined, half = ~np.isnan(ratios), np.array(halves)
    chosen = conformal_factor(ratios[defined], alpha)
    covered = np.full(len(ratios), np.nan)
    for side in (0, 1):
        factor = conformal_factor(ratios[defined & (half != side)], alpha)
        if factor is None:
            return chosen, None
        here = defined & (half == side)
        covered[here] = np.abs(np.log(ratios[here])) <= np.log(factor) + 1e-12
    return chosen, figure(covered.tolist())


def _figure(values: Sequence[float], patients: Sequence[str], seed: int) -> Figure:
    array = np.array(values, float)
    defined = array[~np.isnan(array)]
    mean = float(defined.mean()) if defined.size else None
    return Figure(mean=mean, ci95=bootstrap(array, patients, seed), n=int(defined.size))


def _ece(bins: np.ndarray, patients: Sequence[str], seed: int) -> Figure:
    """ECE of all voxels together, (n, 3, BINS); the bootstrap resamples patients."""
    names = sorted(set(patients))
    index = np.array([names.index(patient) for patient in patients])
    sums = np.zeros((len(names), 3 * BINS))
    np.add.at(sums, index, bins.reshape(len(bins), -1))
    picks = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    weights = np.zeros((RESAMPLES, len(names)))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], picks), 1.0)
    samples = expected_calibration_error((weights @ sums).reshape(-1, 3, BINS))
    low, high = np.percentile(samples, (2.5, 97.5))
    mean = float(expected_calibration_error(bins.sum(0)))
    return Figure(mean=mean, ci95=(float(low), float(high)), n=len(bins))


def _bins(pooled: np.ndarray) -> list[Bin]:
    total = pooled[0].sum()
    return [
        Bin(confidence=float(said / n), accuracy=float(right / n), share=float(n / total))
        for n, said, right in pooled.T
        if n > 0
    ]


def _seen(held: Sequence[Held], names: Sequence[str], doubt: Sequence[float]) -> Seen:
    extents = np.array([case.extent for case in held])
    rows = np.array([case.quantiles for case in held])  # (n, C, LEVELS)
    mean = rows.mean(0)
    farthest = [
        # From the mean of the others, as a new case will be from the mean of all of these.
        max(
            quantile_distance(row, (mean[c] * len(rows) - row) / (len(rows) - 1))
            for row in rows[:, c]
        )
        for c in range(rows.shape[1])
    ]
    volumes = {}
    for k, name in enumerate(names):
        found = [case.volume_true[k] for case in held if case.volume_true[k] > 0]
        if k > 0 and found:
            volumes[name] = (min(found), max(found))
    return Seen(
        extent=[(float(a), float(b)) for a, b in zip(extents.min(0), extents.max(0))],
        volumes=volumes,
        uncertainty=(min(doubt), max(doubt)) if doubt else (0.0, 1.0),
        quantiles=mean.tolist(),
        quantile_distance=farthest,
    )


def _doubt(case: Held, temperature: float) -> float:
    """Mean entropy of the voxels that are not background; NaN without any."""
    inside = case.scores.argmax(1) > 0
    if not inside.any():
        return float("nan")
    return float(entropy(softmax(case.scores[inside].T, temperature)).mean())
