"""What a segmentation's own probabilities say about it, and how far held-out cases bear them out.

Glossary
    z, p      mean scores and probabilities (K, *S): p = softmax(z / T). Of several members (folds,
              mirrorings) z is the logarithm of their mean probability, so that T = 1 is their mean
    T         temperature, fitted on held-out cases (Guo et al. 2017, arXiv:1706.04599); 1 without
    entropy   -sum p log p / log K of a voxel, 0 certain to 1 all classes alike
    confidence of label k: mean p_k over the voxels that got it
    expected Dice of label k: 2 sum_{mask} p_k / (|mask| + sum p_k), the Dice that these
              probabilities, taken at their word, promise; the last sum leaves out p_k < 0.02, of
              which a large background has more than a structure. A calibration corrects its mean
              error and adds a bound that 1 - alpha of the cases keep (split conformal)
    miss rate false negative rate of label k in a case: share of the reference's voxels left out
    extent    of label k: the voxels of p_k >= t_k. Conformal risk control (Angelopoulos et al. 2022,
              arXiv:2208.02814, equation 4) chooses t_k so that the mean miss rate of new cases that
              resemble the held-out ones is at most alpha
    ECE       expected calibration error: |accuracy - confidence| of the likeliest class, in 15 bins
              of equal width, weighted by their share of voxels

Deviates from Guo et al.: the validation set is cases, not independent samples, so intervals resample
patients. Deviates from Angelopoulos et al.: t_k is not taken above 0.5, where the bound holds a
fortiori, for an extent smaller than the segmentation would mislead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config import StrictModel

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15
FAINT = 0.02
THRESHOLDS = np.arange(1, 501) / 1000
# Quantiles by which an image's normalised intensities are compared with those of training.
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Figure(StrictModel):
    """A mean over cases with its 95 % bootstrap interval (over patients); None: undefined."""

    mean: float | None
    ci95: tuple[float, float] | None
    n: int


class LabelCalibration(StrictModel):
    """One label on the held-out cases. ``extent_miss_rate`` and ``volume_coverage`` are measured by
    cross-fitting: each half of the cases with what the other half chose."""

    dice: Figure
    confidence: Figure
    precision: Figure  # share of the voxels that got the label that bear it
    dice_shift: float  # mean of expected - measured, taken off
    expected_dice_error: Figure  # |expected - shift - measured|
    dice_constant_error: Figure  # of saying the mean Dice for every case: the floor
    dice_margin: float | None  # measured >= expected - margin at 1 - alpha
    dice_coverage: Figure | None
    miss_rate: Figure  # of the segmentation itself
    threshold: float | None  # t_k; None where the cases are too few for alpha
    extent_miss_rate: Figure | None
    volume_factor: float | None  # true volume within [v / factor, v * factor] at 1 - alpha
    volume_coverage: Figure | None


class Bin(StrictModel):
    """One bin of the reliability diagram, after temperature scaling."""

    confidence: float
    accuracy: float
    share: float


class Seen(StrictModel):
    """What the held-out cases looked like: an image far from all of them deserves a warning."""

    extent: list[tuple[float, float]]  # field of view per network axis, mm or px: least, largest
    volumes: dict[str, tuple[float, float]]  # references' volumes, mL, mm2 or px
    uncertainty: tuple[float, float]  # mean entropy inside the segmentation
    quantiles: list[list[float]]  # per channel, at LEVELS, of the network's input
    quantile_distance: list[float]  # per channel: the farthest any case lies from the others' mean


class Calibration(StrictModel):
    """Measured on cases the model was not trained on; part of its model.json."""

    temperature: float
    ece_before: Figure
    ece_after: Figure  # cross-fitted, as is nll_after
    nll_before: Figure
    nll_after: Figure
    alpha: float
    labels: dict[str, LabelCalibration]
    reliability: list[Bin]
    seen: Seen
    cases: int
    patients: int
    dataset: str
    cases_sha256: str
    how: str
    overlap: float
    tta: bool
    seed: int
    tensors_sha256: str | None
    environment: dict[str, Any] = {}


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Normalised entropy (*S), float32 in 0..1, of probabilities (K, *S) that sum to 1."""
    p = np.asarray(probabilities, np.float32)
    if len(p) < 2:
        return np.zeros(p.shape[1:], np.float32)
    found = np.zeros(p.shape[1:], np.float32)
    for plane in p:
        found -= plane * np.log(np.maximum(plane, np.finfo(np.float32).tiny))
    return np.clip(found / np.float32(np.log(len(p))), 0, 1)


def softmax(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(z / T) over axis 0, float32."""
    z = np.asarray(scores, np.float32) / np.float32(temperature)
    p = np.exp(z - z.max(0))
    return p / p.sum(0)


class Confidence:
    """Sums up entropy, confidence and extents while ``sliding_argmax`` finishes one piece at a time.

    After it, ``entropy`` (*S) is the uncertainty map on the network's grid; ``summary`` gives the
    figures per class. ``thresholds`` are the extents' t_k per class (None: no extent).
    """

    def __init__(
        self,
        shape: Sequence[int],
        temperature: float = 1.0,
        thresholds: Sequence[float | None] = (),
    ) -> None:
        self.entropy = np.zeros(tuple(shape), np.float32)
        self.temperature = temperature
        self.thresholds = list(thresholds)
        self._sums: np.ndarray | None = None  # (4, K): voxels, p inside, p everywhere, extent
        self._inside = 0.0  # summed entropy of everything that is not background

    def __call__(self, box: tuple[tuple[int, int], ...], scores: Tensor) -> None:
        """Take the mean scores (K, *piece) of one box (start, stop) per axis."""
        import torch

        scores = scores.float()
        exact = torch.float32 if scores.device.type == "mps" else torch.float64  # it has no other
        p = (scores / self.temperature).softmax(0)
        classes = p.shape[0]
        # By the scores themselves: dividing by a temperature may tie two that differ in the last bit.
        winner = scores.max(0).indices
        h = -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(0) / np.log(max(classes, 2))
        h = h.clamp(0, 1)
        self.entropy[tuple(slice(a, b) for a, b in box)] = h.cpu().numpy()
        if self._sums is None:
            self._sums = np.zeros((4, classes))
        chosen = p.gather(0, winner[None])[0].to(exact).flatten()
        flat = winner.flatten()
        self._sums[0] += torch.bincount(flat, minlength=classes).cpu().numpy()
        self._sums[1] += torch.bincount(flat, chosen, minlength=classes).cpu().numpy()
        visible = p.where(p >= FAINT, 0.0).flatten(1)
        self._sums[2] += visible.sum(1, dtype=exact).cpu().numpy()
        for k, threshold in enumerate(self.thresholds[:classes]):
            if threshold is not None:
                self._sums[3, k] += int((p[k] >= threshold).sum())
        self._inside += float(h[winner > 0].sum(dtype=exact))

    def summary(self) -> list[dict[str, float | None]]:
        """Per class: confidence, expected_dice, extent_voxels; None where there is no such thing."""
        found: list[dict[str, float | None]] = []
        if self._sums is None:
            return found
        for k, (count, inside, everywhere, extent) in enumerate(self._sums.T):
            has = k < len(self.thresholds) and self.thresholds[k] is not None
            found.append(
                {
                    "confidence": float(inside / count) if count else None,
                    "expected_dice": float(2 * inside / (count + everywhere)) if count else None,
                    "extent_voxels": float(extent) if has else None,
                }
            )
        return found

    @property
    def mean_inside(self) -> float | None:
        """Mean entropy of the voxels that are not background; None where there is none."""
        count = 0.0 if self._sums is None else float(self._sums[0, 1:].sum())
        return self._inside / count if count else None


def fit_temperature(
    scores: Sequence[np.ndarray], truth: Sequence[np.ndarray], low: float = 0.05, high: float = 20.0
) -> float:
    """The T that minimises the mean negative log-likelihood of cases: scores (n, K), classes (n).

    Each case counts alike, whatever its size. The likelihood is unimodal in 1 / T.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        t = float(np.exp(log_t))
        return float(np.mean([nll(z, y, t) for z, y in zip(scores, truth, strict=True)]))

    best = minimize_scalar(
        loss, bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(best.x))


def nll(scores: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of classes (n) under scores (n, K)."""
    z = scores / np.float32(temperature)
    top = z.max(1)
    log_sum = np.log(np.exp(z - top[:, None]).sum(1)) + top
    return float(np.mean(log_sum - np.take_along_axis(z, truth[:, None], 1)[:, 0]))


def reliability(scores: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(3, BINS): voxels, summed confidence and correct ones of the likeliest class, for ECE."""
    p = softmax(scores.T, temperature)
    confidence, winner = p.max(0), scores.argmax(1)
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    weights = (None, confidence, (winner == truth).astype(float))
    return np.stack([np.bincount(index, w, minlength=BINS).astype(float) for w in weights])


def expected_calibration_error(bins: np.ndarray) -> np.ndarray:
    """ECE of (..., 3, BINS) as ``reliability`` gives them, NaN where there is no voxel."""
    count, confidence, correct = np.moveaxis(np.asarray(bins, float), -2, 0)
    total = count.sum(-1)
    gap = np.abs(correct - confidence).sum(-1)
    return np.divide(gap, total, out=np.full_like(gap, np.nan), where=total > 0)


def control_risk(losses: np.ndarray, alpha: float) -> float | None:
    """The largest threshold whose mean loss is controlled at ``alpha``; None if none is.

    ``losses`` (n, len(THRESHOLDS)): a case's miss rate at each threshold, within 0..1 and growing
    with the threshold. n / (n + 1) mean + 1 / (n + 1) <= alpha (Angelopoulos et al., equation 4).
    """
    n = len(losses)
    if n == 0:
        return None
    bound = (n * np.mean(losses, 0) + 1) / (n + 1)
    good = np.flatnonzero(bound <= alpha)
    return float(THRESHOLDS[good[-1]]) if good.size else None


def miss_rates(p: np.ndarray) -> np.ndarray:
    """Miss rate (len(THRESHOLDS)) of a case from p_k (n) at the reference's voxels of label k."""
    return np.searchsorted(np.sort(p), THRESHOLDS, side="left") / max(1, len(p))


def conformal_factor(ratios: np.ndarray, alpha: float) -> float | None:
    """Split conformal factor f >= 1: true / predicted volume lies in [1/f, f] at 1 - alpha.

    ``ratios`` (n) of held-out cases; None when n is too small for this alpha.
    """
    margin = conformal_margin(np.abs(np.log(ratios)), alpha)
    return None if margin is None else float(np.exp(margin))


def conformal_margin(excess: np.ndarray, alpha: float) -> float | None:
    """Split conformal bound: a new case's excess is at most this with 1 - alpha; None: n too small."""
    n = len(excess)
    rank = int(np.ceil((n + 1) * (1 - alpha)))
    return float(np.sort(excess)[rank - 1]) if 0 < rank <= n else None


def quantiles(image: np.ndarray) -> list[list[float]]:
    """Per channel of (C, *S) the quantiles at LEVELS, of at most 200,000 evenly taken voxels."""
    found = []
    for channel in image:
        values = channel.reshape(-1)
        values = values[:: max(1, values.size // 200_000)]
        found.append([float(q) for q in np.quantile(values, LEVELS)])
    return found


def quantile_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Mean absolute difference of two rows of quantiles (a coarse 1-Wasserstein distance)."""
    return float(np.mean(np.abs(np.subtract(a, b))))


def usable(calibration: Calibration | None, networks: int, tensors: Mapping[str, str]) -> str:
    """Why a calibration does not speak for this run's model, or "" when it does.

    ``tensors`` are the SHA-256 of the weights that are used, by file.
    """
    if calibration is None:
        return "this model has not been calibrated (see `calibrate`)"
    if networks > 1:
        return f"calibration was measured on one network, this run averages {networks}"
    known = calibration.tensors_sha256
    if known is not None and tensors and known not in tensors.values():
        return "the weights changed after they were calibrated; run `calibrate` again"
    return ""
