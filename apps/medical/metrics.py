"""Agreement of two masks or two sets of objects: pure functions of arrays.

Glossary
    P, R     predicted and reference voxels of one label (bool, same shape)
    surface  of a mask: its voxels with a face neighbour outside the mask; beyond the image counts
             as outside, so a mask cut by the image border has a surface there
    d(p, R)  Euclidean distance in mm from the centre of a voxel to the nearest surface voxel of R

    Dice = 2|P∩R| / (|P|+|R|)          IoU = |P∩R| / |P∪R|
    HD95 = max of the 95th percentiles of d(p, R) over the surface of P and of d(r, P) over that of
           R (linear interpolation between ranks), not the percentile of the two pooled
    NSD  = share of both surfaces' voxels that lie within the tolerance of the other surface
           (Nikolov et al. 2021, arXiv:1809.04430, with voxels instead of surface elements)

Where a mask is empty: both empty, everything but the volume error is undefined (NaN); one empty,
Dice = IoU = NSD = 0 and HD95 is undefined, for no distance to nothing exists. Callers must count
undefined values, never average over them in silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse

NAN = float("nan")
IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def overlap(p: np.ndarray, r: np.ndarray) -> tuple[float, float]:
    """(Dice, IoU) of two masks; NaN when both are empty."""
    both, total = int(np.count_nonzero(p & r)), int(np.count_nonzero(p) + np.count_nonzero(r))
    if total == 0:
        return NAN, NAN
    return 2 * both / total, both / (total - both)


def surface_distances(
    p: np.ndarray, r: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """d(p, R) of P's surface voxels and d(r, P) of R's, in the unit of ``spacing``.

    Both empty arrays when either mask is empty.
    """
    if not p.any() or not r.any():
        return np.empty(0), np.empty(0)
    box = _bounds(p | r)
    p, r = p[box], r[box]  # distances between surfaces need nothing outside their common box
    p_surface, r_surface = _surface(p), _surface(r)
    to_r = ndimage.distance_transform_edt(~r_surface, sampling=tuple(spacing))
    to_p = ndimage.distance_transform_edt(~p_surface, sampling=tuple(spacing))
    return to_r[p_surface], to_p[r_surface]


def hausdorff(from_p: np.ndarray, from_r: np.ndarray, percentile: float = 95) -> float:
    """The larger of the two directed percentiles; NaN when there are no distances."""
    if from_p.size == 0:
        return NAN
    return float(max(np.percentile(from_p, percentile), np.percentile(from_r, percentile)))


def surface_dice(from_p: np.ndarray, from_r: np.ndarray, tolerance: float) -> float:
    """NSD at ``tolerance`` from ``surface_distances``; NaN when there are no distances."""
    if from_p.size == 0:
        return NAN
    # A distance such as 3 x 0.7 must not miss a tolerance of 2.1 by rounding.
    near = tolerance * (1 + 1e-9)
    close = np.count_nonzero(from_p <= near) + np.count_nonzero(from_r <= near)
    return close / (from_p.size + from_r.size)


def mask_metrics(
    p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float
) -> dict[str, float]:
    """dice, iou, hd95, nsd of one label of one case, by the rules above."""
    dice, iou = overlap(p, r)
    from_p, from_r = surface_distances(p, r, spacing)
    nsd = surface_dice(from_p, from_r, tolerance)
    if from_p.size == 0 and not np.isnan(dice):
        nsd = 0.0  # one mask is empty: no surface voxel has a partner
    return {"dice": dice, "iou": iou, "hd95": hausdorff(from_p, from_r), "nsd": nsd}


def instance_metrics(p: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Agreement of numbered objects (0 is background).

    Objects match when IoU > t; for t >= 0.5 each has at most one partner. With TP, FP, FN at t:
        ap_t  = TP / (TP + FP + FN)   (as in the 2018 Data Science Bowl); ap_mean over 0.50 .. 0.95
        f1_50 = 2 TP / (2 TP + FP + FN) at 0.5
        sq, rq, pq: mean IoU of the matches at 0.5, f1_50, and their product (Kirillov et al. 2019)
        aji: aggregated Jaccard index (Kumar et al. 2017): summed intersections over summed unions
             of each reference object with the prediction of largest IoU, plus the area of
             predictions that are nobody's largest
    All NaN when neither has an object; all 0 when only one has.
    """
    p_area, r_area, pairs = _objects(p, r)
    n_p, n_r = len(p_area), len(r_area)
    names = ("ap_50", "ap_75", "ap_mean", "f1_50", "sq", "rq", "pq", "aji")
    out: dict[str, float] = {"objects_pred": n_p, "objects_ref": n_r}
    if n_p == 0 or n_r == 0:
        return out | dict.fromkeys(names, NAN if n_p == n_r else 0.0)
    inter = pairs.data.astype(float)
    union = p_area[pairs.row] + r_area[pairs.col] - inter
    iou = inter / union
    matches = {t: int(np.count_nonzero(iou > t)) for t in IOU_THRESHOLDS}
    precision = {t: m / (n_p + n_r - m) for t, m in matches.items()}
    f1 = 2 * matches[0.5] / (n_p + n_r)
    sq = float(iou[iou > 0.5].mean()) if matches[0.5] else 0.0
    # Last in this order wins a reference: its pair of largest IoU, the smaller id on ties.
    order = np.lexsort((-pairs.row, iou))
    best = dict(zip(pairs.col[order].tolist(), order.tolist()))
    chosen = list(best.values())
    unused = np.delete(p_area, pairs.row[chosen]).sum()
    missed = np.delete(r_area, pairs.col[chosen]).sum()
    return out | {
        "ap_50": precision[0.5],
        "ap_75": precision[0.75],
        "ap_mean": float(np.mean(list(precision.values()))),
        "f1_50": f1,
        "sq": sq,
        "rq": f1,
        "pq": sq * f1,
        "aji": float(inter[chosen].sum() / (union[chosen].sum() + unused + missed)),
    }


def _objects(p: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, sparse.coo_matrix]:
    """Areas of P's and R's objects, and the voxels each pair shares (objects of P x of R)."""
    p_ids, p_index = np.unique(p, return_inverse=True)
    r_ids, r_index = np.unique(r, return_inverse=True)
    ones = np.ones(p.size, np.int64)
    shape = (len(p_ids), len(r_ids))
    table = sparse.coo_matrix((ones, (p_index.ravel(), r_index.ravel())), shape=shape).tocsr()
    keep_p, keep_r = np.flatnonzero(p_ids > 0), np.flatnonzero(r_ids > 0)
    p_area = np.asarray(table.sum(1)).ravel()[keep_p]
    r_area = np.asarray(table.sum(0)).ravel()[keep_r]
    return p_area, r_area, table[keep_p][:, keep_r].tocoo()


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _bounds(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the true voxels. No margin: beyond it counts as outside anyway."""
    return ndimage.find_objects(mask.astype(np.uint8))[0]
