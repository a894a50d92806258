"""An image before it is segmented: what its header says, and how a model finds it.

``predict`` asks the same questions by the same functions, so that what a person is told beforehand is
what the report says afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.medical.data.preprocess import Prepared, prepare
from apps.medical.data.volume import Volume
from apps.medical.ood import input_warnings
from core.errors import DataError

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan
    from apps.medical.uncertainty import Seen


@dataclass(frozen=True, eq=False)
class Fit:
    """The network's input, what readers had to decide (``notes``), and how the image is ``unlike``
    those that the model was trained on."""

    prepared: Prepared
    notes: list[str]
    unlike: list[str]


def fit(
    volumes: Sequence[Volume], plan: Plan, seen: Seen | None = None, *, repair: bool = False
) -> Fit:
    """Bring ``volumes`` (the plan's channels) onto the network's grid and say what to mind.

    Raises DataError for an image of one value, and as ``prepare`` does where the model cannot take it.
    """
    notes: list[str] = []
    for volume in volumes:
        values = volume.array
        if values.size and values.min() == values.max():
            raise DataError(
                f"{volume.path}: every voxel is {values.flat[0]:g}, nothing to segment; "
                "was it exported correctly?"
            )
        notes += [f"{volume.path.name}: {note}" for note in volume.notes.values()]
    prepared = prepare(volumes, plan, repair=repair)
    if prepared.repaired:
        notes.append(
            f"{prepared.repaired} NaN or infinite voxels were replaced by the lowest or highest "
            "finite value"
        )
    return Fit(prepared, notes, input_warnings(volumes, prepared, plan, seen))


def image_facts(volumes: Sequence[Volume]) -> list[tuple[str, str]]:
    """What the headers say of a case, as pairs of name and text; nothing that names a patient."""
    from nibabel import aff2axcodes

    first = volumes[0]
    shape = " × ".join(map(str, first.shape))
    pairs = [("Grid", f"{shape} {'voxels' if first.rank == 3 else 'pixels'}")]
    series = getattr(first.store, "series", None)
    if series is not None:
        told = (
            ("Modality", "modality"), ("Body part", "body_part"), ("Series number", "number"),
            ("Acquired", "orientation"),
        )  # fmt: skip
        for text, key in told:
            value = str(getattr(series, key, "") or "")
            if value and value.lower() not in ("none", "unknown"):
                pairs.append((text, value[:60].lower() if key == "body_part" else value[:60]))
    if first.physical:
        edges = " × ".join(f"{edge:.3g}" for edge in first.spacing)
        view = " × ".join(f"{n * d:.4g}" for n, d in zip(first.shape, first.spacing))
        pairs.append(("Voxel", f"{edges} mm"))
        pairs.append(("Field of view", f"{view} mm"))
        pairs.append(("Axes towards", "".join(str(c) for c in aff2axcodes(first.affine))))
    channels = sum(volume.channels for volume in volumes)
    if channels > 1:
        pairs.append(("Channels", str(channels)))
    return pairs
