"""How an image differs from what a model was trained on, in words a reader can weigh.

Two sources. The plan says what the whole training set was like: spacing, field of view, channels,
CT intensities. A calibration adds what single held-out cases were like: how far their intensities
lay from each other, how large their structures were, how uncertain the model was inside them. What
lies outside all of that is told; what lies inside is no proof that the model knows such images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps.medical.data.plan import Plan
from apps.medical.data.preprocess import Prepared
from apps.medical.data.volume import Volume
from apps.medical.uncertainty import LEVELS, Seen, quantile_distance, quantiles

# Beyond these ratios an image is unlike what the model was trained on, and the reader must know.
SPACING_RATIO, EXTENT_RATIO, ANISOTROPY = 1.5, 1.75, 3.0
# Beyond the extremes of the held-out cases, of which there are few, by this much.
BEYOND = 1.5

# DICOM modality (PS3.3 C.7.3.1.1.1) that a channel's name in the plan promises.
MODALITIES = {
    "CT": {"ct", "cta", "hu", "cbct"},
    "MR": {
        *("mr", "mri", "mra", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "t2star", "flair"),
        *("dwi", "adc", "hbv", "pd", "pdw", "swi", "lge", "cine"),
    },
    "PT": {"pt", "pet", "suv"},
    "US": {"us", "ultrasound"},
}
# BodyPartExamined (PS3.16 annex L) where a structure is to be found, by a word of its name.
BODY_PARTS = {
    "hippocampus": {"HEAD", "BRAIN"},
    "brain": {"HEAD", "BRAIN"},
    "glioma": {"HEAD", "BRAIN"},
    "prostate": {"PROSTATE", "PELVIS", "ABDOMENPELVIS"},
    "liver": {"LIVER", "ABDOMEN", "ABDOMENPELVIS", "CHESTABDOMEN", "CHESTABDPELVIS"},
    "spleen": {"SPLEEN", "ABDOMEN", "ABDOMENPELVIS", "CHESTABDOMEN", "CHESTABDPELVIS"},
    "kidney": {"KIDNEY", "ABDOMEN", "ABDOMENPELVIS", "CHESTABDPELVIS"},
    "pancreas": {"PANCREAS", "ABDOMEN", "ABDOMENPELVIS", "CHESTABDPELVIS"},
    "lung": {"LUNG", "CHEST", "THORAX", "CHESTABDOMEN", "CHESTABDPELVIS"},
    "heart": {"HEART", "CHEST", "THORAX"},
    "atrium": {"HEART", "CHEST", "THORAX"},
}


def input_warnings(
    volumes: Sequence[Volume], prepared: Prepared, plan: Plan, seen: Seen | None = None
) -> list[str]:
    """Warnings that need no prediction: kind of image, intensity, spacing, field of view."""
    return [
        *_kind(volumes[0], plan),
        *_intensity(volumes, prepared, plan, seen),
        *_geometry(volumes[0], prepared, plan, seen),
    ]


def output_warnings(
    stats: Mapping[str, Any], mean_entropy: float | None, seen: Seen | None
) -> list[str]:
    """Warnings about what was found: volumes and uncertainty that no held-out case had.

    ``stats`` is a case's stats.json; ``mean_entropy`` is that inside the segmentation (None: empty).
    """
    if seen is None:
        return []
    found = []
    for name, entry in stats.get("labels", {}).items():
        size, unit = entry.get(stats["unit"]), stats["unit"]
        low, high = seen.volumes.get(name, (0.0, float("inf")))
        if size and (size > BEYOND * high or size < low / BEYOND):
            found.append(
                f"{name} of {size:.3g} {unit}: the held-out cases had {low:.3g} to {high:.3g} {unit}"
            )
    if mean_entropy is not None and mean_entropy > 1.25 * seen.uncertainty[1]:
        found.append(
            f"the model is less certain (mean uncertainty {mean_entropy:.2f} inside the "
            f"segmentation) than in any held-out case (at most {seen.uncertainty[1]:.2f}): check "
            "the result with care"
        )
    return found


def _kind(volume: Volume, plan: Plan) -> list[str]:
    """Modality and body part of a DICOM series against the plan's words."""
    series = getattr(volume.store, "series", None)
    if series is None:
        return []
    found = []
    given = str(getattr(series, "modality", "") or "").upper()
    wanted = {kind for name in plan.channels if (kind := modality_of(name))}
    if given and wanted and given not in wanted:
        found.append(
            f"the series is {given}, the model was trained on {' and '.join(sorted(wanted))} "
            f"({', '.join(plan.channels)}): its result means nothing on another modality"
        )
    part = re.sub(r"[^A-Z]", "", str(getattr(series, "body_part", "") or "").upper())
    expected = body_parts(plan)
    if part and expected and part not in expected:
        found.append(
            f"the series is of {part.lower()}, the model was trained on {plan.dataset} "
            f"({', '.join(sorted(expected)).lower()})"
        )
    return found


def modality_of(channel: str) -> str | None:
    """The DICOM modality a channel's name promises: "T1w MR" -> MR; None where it tells nothing."""
    words = set(re.split(r"[^a-z0-9]+", channel.lower()))
    return next((kind for kind, names in MODALITIES.items() if words & names), None)


def body_parts(plan: Plan) -> set[str]:
    """Body parts in which the plan's data set or labels lie; empty where their names do not tell."""
    words = set(re.split(r"[^a-z]+", " ".join([plan.dataset, *plan.labels.values()]).lower()))
    return set().union(*(parts for word, parts in BODY_PARTS.items() if word in words))


def _intensity(
    volumes: Sequence[Volume], prepared: Prepared, plan: Plan, seen: Seen | None
) -> list[str]:
    found = []
    channels = [channel for volume in volumes for channel in volume.channel_first]
    for channel, rule, stats in zip(channels, plan.normalisation, plan.intensity):
        if rule != "ct" or stats is None:
            continue
        outside = np.mean((channel < stats.low) | (channel > stats.high))
        if outside > 0.995:
            found.append(
                f"almost no voxel lies in the model's intensity range {stats.low:g} to "
                f"{stats.high:g}: is this CT in Hounsfield units?"
            )
    if found or seen is None:
        return found
    known = zip(plan.channels, quantiles(prepared.image), seen.quantiles, seen.quantile_distance)
    for name, here, usual, farthest in known:
        distance = quantile_distance(here, usual)
        if distance > BEYOND * farthest:
            at = int(np.argmax(np.abs(np.subtract(here, usual))))
            found.append(
                f"the intensities of {name} are distributed unlike any held-out case's "
                f"({distance / max(farthest, 1e-9):.1f} times as far from their mean as the "
                f"farthest, most at the {LEVELS[at]:.0%} quantile): another contrast, region or "
                "export?"
            )
    return found


def _geometry(volume: Volume, prepared: Prepared, plan: Plan, seen: Seen | None) -> list[str]:
    found: list[str] = []
    if not volume.physical or plan.spacing is None:
        return found
    edges = np.array(prepared.reference.spacing)
    if max(edges) > ANISOTROPY * min(edges):
        found.append(
            f"anisotropic voxels ({_mm(edges)}): thin structures along the coarse axis suffer"
        )
    size = [n * d for n, d in zip(prepared.shape, prepared.spacing)]
    usual = [n * d for n, d in zip(plan.median_shape, plan.spacing)]
    if any(max(a / b, b / a) > EXTENT_RATIO for a, b in zip(size, usual)):
        found.append(
            f"field of view {_mm(size)}, the model was trained on about {_mm(usual)}: expect "
            "errors outside what it has seen; crop to the same region"
        )
    elif seen is not None and any(
        n > high * BEYOND or n < low / BEYOND for n, (low, high) in zip(size, seen.extent)
    ):
        found.append(
            f"field of view {_mm(size)}: the held-out cases had {_mm([a for a, _ in seen.extent])} "
            f"to {_mm([b for _, b in seen.extent])}"
        )
    ordered, trained = sorted(edges), sorted(plan.spacing)  # orientation does not matter here
    if any(max(a / b, b / a) > SPACING_RATIO for a, b in zip(ordered, trained)):
        found.append(f"voxels of {_mm(edges)}, the model was trained on {_mm(plan.spacing)}")
    return found


def _mm(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values) + " mm"
