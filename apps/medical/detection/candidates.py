"""From a probability map to a detection map: separate lesion candidates, one confidence each.

The rule "dynamic" lets every lesion choose its own threshold, so that a faint lesion beside a bright
one is neither lost nor swollen:

    p      the map, (*S), in 0..1             f   ``factor``, 2.5
    1. m = max p; stop when m < ``floor`` or when ``most`` candidates are found
    2. components (26-connected) of p >= m / f with more than ``min_voxels`` voxels
    3. the one with the highest peak is the candidate, its peak is the confidence; where there is
       none, what lies above m / f is too small for a lesion and is erased
    4. erase the candidate from p; drop it if it touches an earlier one; back to 1

"dynamic-fast" does steps 1 and 2 once and keeps every component; a number is that threshold.

Source: Bosma et al. 2023, Radiology: Artificial Intelligence 5:e230031 (doi:10.1148/ryai.230031),
as DIAGNijmegen/Report-Guided-Annotation applies it: our maps equal that package's "dynamic-v2",
"dynamic-fast" and fixed thresholds (its "dynamic" may end in candidates of confidence 0 where only
small components are left; the authors mended that in "dynamic-v2").  Deviates from it: thresholds
are never rounded, and the fast and the fixed rule honour ``most`` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from core.errors import DataError, UsageError, unknown

RULES = ("dynamic", "dynamic-fast")


@dataclass(frozen=True, kw_only=True)
class CandidateRule:
    """How candidates are cut out; the defaults are PI-CAI's.

    ``threshold`` is one of ``RULES`` or a probability; ``most`` None sets no limit.  Raises
    UsageError for a setting without meaning.
    """

    threshold: str | float = "dynamic"
    factor: float = 2.5
    min_voxels: int = 10
    most: int | None = 5
    floor: float = 0.01

    def __post_init__(self) -> None:
        given = self.threshold
        if isinstance(given, str):
            if given not in RULES:
                raise UsageError(unknown("threshold", given, (*RULES, "a number such as 0.3")))
        elif not 0 < given <= 1:
            raise UsageError(f"threshold {given}: must be above 0 and at most 1")
        if self.factor <= 1 or self.min_voxels < 0 or not 0 < self.floor <= 1:
            raise UsageError("candidates need factor > 1, min_voxels >= 0 and 0 < floor <= 1")
        if self.most is not None and self.most < 1:
            raise UsageError(f"most {self.most}: at least one candidate, or None for no limit")

    @classmethod
    def parse(cls, text: str, **settings: Any) -> CandidateRule:
        """With ``threshold`` as written on a command line."""
        try:
            return cls(threshold=float(text), **settings)
        except ValueError:
            return cls(threshold=text, **settings)

    def describe(self) -> dict[str, Any]:
        """For manifests."""
        return {
            "threshold": self.threshold,
            "factor": self.factor,
            "min_voxels": self.min_voxels,
            "most": self.most,
            "floor": self.floor,
            "connectivity": "all neighbours (26 in 3-D)",
            "confidence": "peak probability",
        }


@dataclass(frozen=True, eq=False)
class Candidates:
    """``map`` (*S) float32 has each candidate's confidence in its voxels, else 0; ``index`` (*S)
    numbers them from 1; ``confidences[i]`` belongs to number i + 1, highest first."""

    map: np.ndarray
    index: np.ndarray
    confidences: tuple[float, ...]


def extract_candidates(probability: np.ndarray, rule: CandidateRule | None = None) -> Candidates:
    """The candidates of a map (*S) of rank 2 or 3.  Raises DataError where it is no probability."""
    rule = rule or CandidateRule()
    p = np.asarray(probability, dtype=np.float32)
    if p.ndim not in (2, 3) or p.size == 0:
        raise DataError(f"probability map of shape {p.shape}: want a picture or a volume")
    if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1 + 1e-6):
        raise DataError("probability map: values must be finite and between 0 and 1")
    masks = _dynamic(p, rule) if rule.threshold == "dynamic" else _fixed(p, rule)
    peaks = [float(p[where].max()) for where in masks]
    order = sorted(range(len(masks)), key=lambda i: -peaks[i])  # stable: the first found wins ties
    out = np.zeros_like(p)
    index = np.zeros(p.shape, dtype=np.int32)
    for number, i in enumerate(order, start=1):
        out[masks[i]] = peaks[i]
        index[masks[i]] = number
    return Candidates(out, index, tuple(peaks[i] for i in order))


Where = tuple[np.ndarray, ...]


def _fixed(p: np.ndarray, rule: CandidateRule) -> list[Where]:
    """The best components of one threshold."""
    peak = p.max()
    if rule.threshold == "dynamic-fast":
        if peak < rule.floor:
            return []
        threshold = float(peak / rule.factor)
    else:
        threshold = float(rule.threshold)
    found = _components(p, threshold, rule.min_voxels)
    found.sort(key=lambda entry: -entry[0])
    return [where for _, where in found[: rule.most]]


def _dynamic(p: np.ndarray, rule: CandidateRule) -> list[Where]:
    left, taken = p.copy(), np.zeros(p.shape, dtype=bool)
    masks: list[Where] = []
    while rule.most is None or len(masks) < rule.most:
        peak = left.max()
        if peak < rule.floor:
            break
        threshold = float(peak / rule.factor)
        found = _components(left, threshold, rule.min_voxels)
        if not found:
            left[left > threshold] = 0
            continue
        _, where = max(
            found, key=lambda entry: entry[0]
        )  # the first of equals, as they are numbered
        near = np.zeros_like(taken)
        near[where] = True
        if not (_grown(near) & taken).any():
            masks.append(where)
            taken[where] = True
        left[where] = 0
    return masks


def _components(p: np.ndarray, threshold: float, min_voxels: int) -> list[tuple[float, Where]]:
    """(peak, voxels) of the components of p >= threshold that are large enough, in scan order."""
    inside = (p >= np.float32(threshold)) & (p > 0)
    index, _ = ndimage.label(inside, structure=_everywhere(p.ndim))
    found = []
    for number, box in enumerate(ndimage.find_objects(index), start=1):
        local = np.nonzero(index[box] == number)
        if len(local[0]) > min_voxels:
            where = tuple(axis + part.start for axis, part in zip(local, box, strict=True))
            found.append((float(p[where].max()), where))
    return found


def _grown(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, structure=_everywhere(mask.ndim))


def _everywhere(rank: int) -> np.ndarray:
    return np.ones((3,) * rank, dtype=bool)


def describe_candidates(
    found: Candidates, affine: np.ndarray, spacing: Sequence[float]
) -> list[dict[str, Any]]:
    """What a reader wants to know of each candidate of a volume (*S), in the order of their numbers.

    ``centre_mm`` is the centroid in RAS+ millimetres (+x is the patient's right), ``centre_voxel``
    the lesion's voxel nearest to it, ``slices`` the first and last on the grid's third axis.
    ``diameter_mm`` is the longest distance between two of its voxels' centres.
    """
    cell = abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000
    rows = []
    for number, confidence in enumerate(found.confidences, start=1):
        voxels = np.argwhere(found.index == number)
        centre = voxels.mean(0)
        nearest = voxels[((voxels - centre) ** 2 * np.square(spacing)).sum(1).argmin()]
        rows.append(
            {
                "lesion": number,
                "confidence": confidence,
                "voxels": len(voxels),
                "volume_ml": len(voxels) * cell,
                "diameter_mm": _diameter(voxels, affine),
                "centre_mm": (affine[:3, :3] @ centre + affine[:3, 3]).tolist(),
                "centre_voxel": nearest.tolist(),
                "slices": [int(voxels[:, 2].min()), int(voxels[:, 2].max())],
            }
        )
    return rows


def _diameter(voxels: np.ndarray, affine: np.ndarray) -> float:
    """Longest distance between two of the voxels (n, 3), in mm."""
    from scipy.spatial import ConvexHull, QhullError

    points = voxels @ np.asarray(affine)[:3, :3].T
    if len(points) > 200:  # the farthest pair are corners of the hull
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # flat: one slice
            points = points[ConvexHull(points @ _flat(points)).vertices]
    farthest = 0.0
    for start in range(0, len(points), 512):
        part = points[start : start + 512, None] - points[None]
        farthest = max(farthest, float((part**2).sum(-1).max()))
    return farthest**0.5


def _flat(points: np.ndarray) -> np.ndarray:
    """(3, 2): the two directions of the plane that points (n, 3) lie in."""
    _, _, directions = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return directions[:2].T
