"""A teacher for a student: found, held still, and checked to fit and not to know the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from apps.medical.classification.data import LabelledCase, LabelledData
from apps.medical.classification.inputs import ImagePreparation
from apps.medical.classification.store import ClassifierModel, fingerprints, load_classifier
from core import grid
from core.errors import UsageError
from core.weights.folder import METADATA

Size = int | tuple[int, ...] | None


def load_teacher(path: Path, folder: str, device: torch.device | str) -> ClassifierModel:
    """The model in ``path`` or, of a run, in its ``folder``, its weights held still.

    Raises UsageError for an ensemble without that folder, and as ``load_classifier``.
    """
    own = Path(path) / folder
    teacher = load_classifier(own if (own / METADATA).is_file() else path, device)
    if len(teacher.networks) > 1:
        raise UsageError(
            f"{path}: an ensemble without {folder}; give one model as the teacher, trained on "
            "this fold"
        )
    for parameter in teacher.networks[0].parameters():
        parameter.requires_grad_(False)
    return teacher


def require_fitting(teacher: ClassifierModel, data: LabelledData, size: Size) -> None:
    """Refuse a teacher of other inputs, classes or, where one is asked for, size.  UsageError."""
    spec = teacher.spec
    if data.kind == "bags" or not isinstance(spec.preparation, ImagePreparation):
        raise UsageError(f"{teacher.folder}: only image classifiers teach image classifiers")
    if set(spec.classes) != set(data.classes):
        raise UsageError(
            f"{teacher.folder}: knows {', '.join(spec.classes)}; the data has "
            f"{', '.join(data.classes)}: a teacher must know the same classes"
        )
    if size is not None:
        wanted = grid.per_axis(size, spec.preparation.rank, "size")
        if tuple(wanted) != tuple(spec.preparation.size):
            raise UsageError(
                f"--size {size}: the teacher sees {list(spec.preparation.size)}; leave --size out"
            )


def require_unseen(teacher: ClassifierModel, validation: Sequence[LabelledCase]) -> None:
    """Refuse a teacher that was trained on a validation case, by the files' content.  UsageError."""
    seen = set(teacher.spec.training.get("seen", ()))
    for case in validation:
        if fingerprints([case])[0] in seen:
            raise UsageError(
                f"{teacher.folder}: the teacher was trained on {case.id}, a validation case of this "
                "fold; train it on the same fold, or metrics would be too good"
            )
