"""Weights to start a training from: a pre-trained encoder, or another trained model.

What has the same name and shape in both networks is taken, everything else starts fresh.  Of a
pre-training run that is the encoder; of a model also its decoder, where it is the same, and its
heads, where there are as many labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from apps.medical.data.plan import Plan
from apps.medical.store import METADATA, TENSORS, NetworkSpec, find_model, fold_folders
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.files import sha256
from core.pretraining import Transfer, load_matching
from core.weights.folder import load_folder

ENCODER = "encoder"
"""Folder of a pre-training run that holds its encoder."""
SEEN_ALIKE = ("channels", "orientation", "crop", "spacing", "normalisation")
"""What of a plan decides how a network sees an image."""


class EncoderSpec(StrictModel):
    """Everything about a pre-trained encoder but its tensors: ``model.json``."""

    app: str = "medical"
    kind: str = "encoder"
    format: int = 1
    network: NetworkSpec
    plan: Plan
    pretext: dict[str, Any]
    cases: list[str]
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    intended_use: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Initial:
    """Tensors by name, and where they come from.  ``cases`` were seen without their labels."""

    source: str
    sha256: str
    tensors: dict[str, Tensor]
    plan: Plan
    about: str
    cases: frozenset[str]

    def record(self) -> dict[str, Any]:
        """What a run's records say of it, and hold equal on resume."""
        return {"about": self.about, "sha256": self.sha256}


def read_initial(ref: str | Path) -> Initial:
    """The encoder of a pre-training run, or a trained model by folder or shipped name.

    Raises UsageError for a run that was not finished, several folds, or nothing there; DataError for
    damaged weights.
    """
    folder = Path(ref)
    if (folder / ENCODER / METADATA).is_file():
        folder = folder / ENCODER
    elif (folder / "checkpoints").is_dir() and not (folder / METADATA).is_file():
        raise UsageError(f"{folder}: this run was not finished; continue it with --resume first")
    else:
        folder = find_model(ref)
    parts = fold_folders(folder)
    if parts and not (folder / METADATA).is_file():
        raise UsageError(f"{folder}: holds several folds; give one, such as {parts[0]}")
    tensors, metadata = load_folder(folder)
    try:
        plan = validate(Plan, metadata["plan"], str(folder / METADATA))
        if metadata.get("kind") == ENCODER:
            spec = validate(EncoderSpec, metadata, str(folder / METADATA))
            steps = spec.training.get("steps")
            about = f"{spec.network.name} encoder, {spec.pretext.get('task')}, {steps} steps"
            cases = frozenset(spec.cases)
        else:
            about = f"{metadata['network']['name']} trained on {plan.dataset}"
            cases = frozenset()
    except (KeyError, TypeError, UsageError) as error:
        raise DataError(f"{folder / METADATA}: does not describe a network ({error})") from error
    return Initial(
        source=str(folder),
        sha256=sha256(folder / TENSORS),
        tensors=tensors,
        plan=plan,
        about=about,
        cases=cases,
    )


def start_from(
    initial: Initial, network: nn.Module, plan: Plan, validation: Sequence[str]
) -> tuple[Transfer, list[str]]:
    """Load what fits into ``network``; what a person should know about it, each in a line.

    Raises DataError when nothing fits.
    """
    found = load_matching(network, initial.tensors, initial.source)
    notes = [f"{initial.source} ({initial.about}): {found.text()}"]
    for name in SEEN_ALIKE:
        then, now = getattr(initial.plan, name), getattr(plan, name)
        if then != now and not (name == "channels" and len(then) == len(now)):
            notes.append(
                f"{initial.source}: was trained with {name} {then}, this plan has {now}; its "
                f"features may not fit; give both the same --plan"
            )
    seen = sorted(initial.cases & set(validation))
    if seen:
        notes.append(
            f"{initial.source}: {len(seen)} of the {len(validation)} validation cases were seen in "
            "pre-training, without labels, so their metrics may be too good; pre-train with the "
            "same --fold to leave them out"
        )
    return found, notes
