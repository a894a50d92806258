"""Correct a segmentation by hand: remove components, clean labels, threshold probabilities.

What a person did is a list of small steps, ``Edits``. The same steps on the same segmentation give
the same labels, so that a correction can be undone, repeated and read in the manifest.

A component touches by faces, edges or corners, as in ``postprocess``. Of numbered objects each number
is one component. A threshold replaces the model's choice between all classes: a voxel gets the
structure of highest probability where that is at least the threshold, else none. The probabilities
are the model's own, before any calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from apps.medical.derived import Making, write_made
from apps.medical.postprocess import Steps, clean
from apps.medical.results import Result, case_folder, check_outputs
from core.config import StrictModel
from core.errors import DataError, UsageError
from core.files import sha256


class Remove(StrictModel):
    """Take away the component of ``label`` that holds the voxel ``at``; of an object, all of it."""

    do: Literal["remove"] = "remove"
    label: int
    at: tuple[int, ...]


class Clean(StrictModel):
    """Do ``steps`` to one label, or to each (None)."""

    do: Literal["clean"] = "clean"
    label: int | None = None
    steps: Steps


class Edits(StrictModel):
    """The threshold comes first; then the steps, one after the other."""

    threshold: float | None = Field(None, ge=0, le=1)
    steps: tuple[Annotated[Remove | Clean, Field(discriminator="do")], ...] = ()

    @property
    def idle(self) -> bool:
        return self == Edits()

    def then(self, step: Remove | Clean) -> Edits:
        """These edits and one more."""
        return Edits(threshold=self.threshold, steps=(*self.steps, step))

    def undone(self) -> Edits:
        """These edits without the last step."""
        return Edits(threshold=self.threshold, steps=self.steps[:-1])

    def words(self, names: Mapping[int, str], unit: str = "mL") -> list[str]:
        """One line per edit; ``unit`` is that of sizes."""
        lines = []
        if self.threshold is not None:
            lines.append(f"voxels with a probability of at least {self.threshold:g} kept")
        for step in self.steps:
            if isinstance(step, Remove):
                name = names.get(step.label, f"object {step.label}")
                lines.append(f"{name}: component at voxel {', '.join(map(str, step.at))} removed")
                continue
            name = "every label" if step.label is None else names.get(step.label, str(step.label))
            if step.steps.keep_largest:
                lines.append(f"{name}: all but the largest component removed")
            if step.steps.min_size > 0:
                lines.append(f"{name}: components below {step.steps.min_size:g} {unit} removed")
            if step.steps.fill_holes:
                lines.append(f"{name}: holes filled")
        return lines


@dataclass(frozen=True)
class Component:
    """One connected part of a label: its size (mL, mm2 of a slice, pixels) and the voxel of it that
    lies nearest its centre, which names it."""

    label: int
    voxels: int
    size: float
    at: tuple[int, ...]


def components(labels: np.ndarray, voxel: float, *, instances: bool = False) -> list[Component]:
    """Every component of a label map (*S), by label and from the largest; ``voxel`` is a voxel's size."""
    found = []
    everywhere = np.ones((3,) * labels.ndim)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        mask = labels[box] == label
        parts, count = (mask.astype(np.int32), 1) if instances else ndimage.label(mask, everywhere)
        for number, inner in enumerate(ndimage.find_objects(parts, count), 1):
            index = np.argwhere(parts[inner] == number)
            nearest = index[((index - index.mean(0)) ** 2).sum(1).argmin()]
            start = [a.start + b.start for a, b in zip(box, inner)]
            at = tuple(int(n) for n in nearest + start)
            found.append(Component(label, len(index), len(index) * voxel, at))
    return sorted(found, key=lambda part: (part.label, -part.voxels, part.at))


def apply(
    labels: np.ndarray,
    edits: Edits,
    voxel: float,
    *,
    instances: bool = False,
    probabilities: np.ndarray | None = None,
    ids: Sequence[int] = (),
) -> np.ndarray:
    """The label map (*S) after ``edits``; ``labels`` stays as it is.

    ``probabilities`` (K, *S) and the ``ids`` of their K classes, background first, are what a threshold
    needs. Raises UsageError for a threshold without them or on numbered objects, and for a step that
    does not fit the labels.
    """
    out = labels.copy()
    if edits.threshold is not None:
        if probabilities is None or instances:
            raise UsageError(
                "a threshold needs the model's probabilities of labels; segment with probabilities "
                "saved, or leave it out"
            )
        out = _thresholded(probabilities, ids, edits.threshold).astype(labels.dtype)
    for step in edits.steps:
        if isinstance(step, Remove):
            _remove(out, step, instances)
        elif instances and (step.steps.keep_largest or step.steps.fill_holes):
            raise UsageError("numbered objects can be removed alone or by size, nothing else")
        elif instances:
            sizes = np.bincount(out.ravel())
            out[(sizes * voxel < step.steps.min_size)[out]] = 0
        else:
            _clean(out, step, voxel)
    return out


def component_at(labels: np.ndarray, at: Sequence[int], *, instances: bool = False) -> Remove:
    """The step that removes what lies at a voxel. UsageError where nothing does."""
    place = tuple(int(n) for n in at)
    inside = len(place) == labels.ndim and all(0 <= n < s for n, s in zip(place, labels.shape))
    label = int(labels[place]) if inside else 0
    if not label:
        raise UsageError("no label lies there; move the crosshair onto what should go")
    return Remove(label=label, at=place)


def write_edited(
    root: Path, source: Result, labels: np.ndarray, edits: Edits, *, force: bool = False
) -> Path:
    """Write ``labels`` (*S), made of ``source`` by ``edits``, as a case folder below ``root``.

    It holds what ``predict`` writes, as far as the image is still where it was and the model known:
    without them no report and no seg.dcm. In seg.dcm the segments are SEMIAUTOMATIC. Raises UsageError
    for a folder that exists, DataError for labels that do not fit the source's grid.
    """
    grid = source.read()
    if labels.shape != grid.shape:
        raise DataError(f"{source.file}: has shape {grid.shape}, the edited labels {labels.shape}")
    root = Path(root)
    check_outputs(root, [source.case], force=force)
    unit = "mL" if grid.physical and grid.rank == 3 else "mm2" if grid.physical else "pixels"
    lines = edits.words(source.labels, unit)
    warnings = [f"edited by hand after the segmentation: {line}" for line in lines]
    about: dict[str, Any] = {
        "made_by": "edit",
        "edits": edits.model_dump(mode="json"),
        "source": {"file": str(source.file), "sha256": sha256(source.file)},
        "voxels_changed": int(np.count_nonzero(labels != grid.array)),
    }
    making = Making(
        suffix="edited by hand",
        run="edited by hand afterwards; the uncertainty is that of the model before",
        by_person=True,
        warnings=warnings,
    )
    with case_folder(root / source.case, force) as folder:
        write_made(folder, source, labels, grid, about, making)
    return root / source.case


def _thresholded(probabilities: np.ndarray, ids: Sequence[int], threshold: float) -> np.ndarray:
    if len(ids) != len(probabilities) or len(ids) < 2:
        raise UsageError(
            f"{len(probabilities)} maps of probability for {len(ids)} labels; they do not belong "
            "together"
        )
    best = probabilities[1:].argmax(0)
    sure = np.take_along_axis(probabilities[1:], best[None], 0)[0] >= threshold
    return np.where(sure, np.asarray(ids[1:])[best], 0)


def _remove(labels: np.ndarray, step: Remove, instances: bool) -> None:
    inside = len(step.at) == labels.ndim and all(0 <= n < s for n, s in zip(step.at, labels.shape))
    # An earlier step may have taken it, or a new threshold: then there is nothing left to do.
    if not inside or labels[step.at] != step.label:
        return
    mask = labels == step.label
    if not instances:
        parts, _ = ndimage.label(mask, np.ones((3,) * labels.ndim))
        mask = parts == parts[step.at]
    labels[mask] = 0


def _clean(labels: np.ndarray, step: Clean, voxel: float) -> None:
    chosen = np.unique(labels) if step.label is None else [step.label]
    for label in chosen:
        if label:
            mask = labels == label
            kept = clean(mask, labels == 0, step.steps, voxel)
            labels[mask & ~kept] = 0
            labels[kept] = label
