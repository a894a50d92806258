"""Trained models on disk: what a folder holds, where the shipped ones are, how they come back.

A model folder holds ``model.safetensors`` and ``model.json`` (a ``ModelSpec``). A folder with
sub-folders ``fold_0``, ``fold_1``, ... that are model folders is an ensemble. Nothing in a model
folder is ever executed: pickled checkpoints are refused by their content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from apps.medical.data.plan import Plan
from apps.medical.dicom.codes import LabelCode
from apps.medical.uncertainty import Calibration
from core import shipped as shipped_models
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.files import read_json, sha256
from core.shipped import model_cards

if TYPE_CHECKING:
    import torch
    from torch import nn

METADATA = "model.json"
TENSORS = "model.safetensors"


class NetworkSpec(StrictModel):
    """The arguments of ``apps.medical.models.build``."""

    name: str
    rank: Literal[2, 3]
    in_channels: int
    out_channels: int
    options: dict[str, Any] = {}


class ModelSpec(StrictModel):
    """Everything about a model but its tensors: ``model.json``."""

    app: Literal["medical"] = "medical"
    format: Literal[1] = 1
    name: str
    network: NetworkSpec
    plan: Plan
    labels: dict[int, str]
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    calibration: Calibration | None = None
    licence: str | None = None
    intended_use: str | None = None
    codes: dict[int, LabelCode] = {}  # what DICOM calls the labels; `codes_for` where empty


@dataclass(frozen=True)
class Model:
    """A model ready to run: evaluation mode, on its device. Several networks are an ensemble."""

    networks: tuple[nn.Module, ...]
    spec: ModelSpec
    folder: Path
    folds: tuple[str, ...] = ()  # names of the ensemble's folders, empty for a single model
    weights: dict[str, str] = field(default_factory=dict)  # file below `folder` -> sha256

    @property
    def network(self) -> nn.Module:
        """The network, or the first of an ensemble."""
        return self.networks[0]


def shipped() -> list[str]:
    """Names of the models that come with the program."""
    return list(model_cards("medical"))


def find_model(ref: str | Path) -> Path:
    """As ``core.shipped.find_model``, for this application."""
    return shipped_models.find_model(ref, "medical")


def load_model(
    ref: str | Path,
    device: torch.device | str = "cpu",
    folds: str | Sequence[int] = "all",
) -> Model:
    """Load a shipped model by name or a model folder by path; ``folds`` picks from an ensemble.

    ``folds`` is "all", "first", or fold numbers such as ``[0, 2]`` or "0,2". Raises UsageError for an unknown
    model or fold; DataError for missing, damaged or pickled weights, for weights of another
    architecture, and for folds that do not belong together.
    """
    from core.weights.folder import load_folder

    folder = find_model(ref)
    parts = fold_folders(folder) if folder.is_dir() and not _is_model(folder) else []
    chosen = _choose(parts, folds, folder)
    if not chosen and folder.is_dir() and not (folder / METADATA).exists():
        held = sorted(p.name for p in folder.iterdir())[:3]
        if not any(name.endswith((".pt", ".pth", ".ckpt", ".bin", ".pkl")) for name in held):
            raise DataError(
                f"{folder}: no trained model here (neither {METADATA} nor fold_0/{METADATA}); "
                "train one or copy the whole model folder"
            )
    specs, networks, sums = [], [], {}
    for part in chosen or [folder]:
        tensors, metadata = load_folder(part)
        specs.append(_spec(metadata, part))
        networks.append(_network(specs[-1], tensors, part).to(device).eval())
        file = part / TENSORS
        sums[file.relative_to(folder).as_posix()] = sha256(file)
    _check_alike(specs, chosen)
    names = tuple(part.name for part in chosen)
    return Model(tuple(networks), specs[0], folder, names, sums)


def is_of_step(folder: Path, step: int) -> bool:
    """Whether ``folder`` holds weights, and those that were saved at training step ``step``."""
    try:
        made = read_json(folder / METADATA)["training"]["steps"]
    except (DataError, KeyError, TypeError):
        return False
    return bool(made == step and (folder / TENSORS).is_file())


def read_spec(ref: str | Path) -> ModelSpec:
    """What a model's ``model.json`` says (of an ensemble, the first fold's), without its tensors.

    Imports no torch. Raises UsageError for an unknown model, DataError for a folder without one and
    for a description that is damaged or of something else.
    """
    folder = find_model(ref)
    cards = [folder / METADATA, *(part / METADATA for part in fold_folders(folder))]
    card = next((card for card in cards if card.is_file()), None)
    if card is None:
        raise DataError(f"{folder}: no trained model here; give a shipped name or a model folder")
    metadata = read_json(card)
    metadata.pop("tensors", None)  # the folder's own key, see core.weights.folder
    return _spec(metadata, card.parent)


def save_model(
    folder: Path,
    network: nn.Module,
    spec: ModelSpec,
    force: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model folder; ``dtype`` is how floating tensors are stored (None: as they are).

    Raises as ``core.weights.folder.save_folder`` does.
    """
    from core.weights.folder import save_folder

    metadata = spec.model_dump(mode="json")
    save_folder(Path(folder), network.state_dict(), metadata, force=force, dtype=dtype)


def _is_model(folder: Path) -> bool:
    return (folder / METADATA).is_file()


def fold_folders(folder: Path) -> list[Path]:
    """The model folders fold_0, fold_1, ... below ``folder``, in numerical order."""
    found = [f for f in folder.glob("fold_*") if re.fullmatch(r"fold_\d+", f.name) and _is_model(f)]
    return sorted(found, key=lambda f: int(f.name[5:]))


def _choose(parts: list[Path], folds: str | Sequence[int], folder: Path) -> list[Path]:
    if folds in ("all", "first"):
        return parts if folds == "all" else parts[:1]
    try:
        wanted = [int(number) for number in (folds.split(",") if isinstance(folds, str) else folds)]
    except ValueError:
        raise UsageError(f"folds '{folds}': give 'all', 'first' or numbers such as 0,1,2") from None
    if not parts:
        if wanted == [0]:
            return []
        raise UsageError(f"{folder}: is a single model without folds; leave out --folds")
    known = {int(part.name[5:]): part for part in parts}
    for number in wanted:
        if number not in known:
            raise UsageError(
                f"{folder}: no fold {number}; it has {', '.join(map(str, sorted(known)))}"
            )
    return [known[number] for number in dict.fromkeys(wanted)]


def _spec(metadata: dict[str, Any], folder: Path) -> ModelSpec:
    if metadata.get("format", 1) != 1:
        raise DataError(
            f"{folder / METADATA}: format {metadata['format']!r} is newer than this program (1); "
            "update it"
        )
    if metadata.get("task") == "classification":
        raise DataError(
            f"{folder / METADATA}: is a classifier; use it with `classify predict --model {folder}`"
        )
    try:
        return validate(ModelSpec, metadata, str(folder / METADATA))
    except UsageError as error:  # the file is wrong, not the command line
        raise DataError(str(error)) from error


def _network(spec: ModelSpec, tensors: dict[str, torch.Tensor], folder: Path) -> nn.Module:
    from apps.medical import models
    from core.weights.folder import load_state

    about = spec.network
    try:
        network = models.build(
            about.name,
            rank=about.rank,
            in_channels=about.in_channels,
            out_channels=about.out_channels,
            **about.options,
        )
    except UsageError as error:
        raise DataError(f"{folder / METADATA}: {error}") from error
    load_state(network, tensors, str(folder))
    return network


def _check_alike(specs: list[ModelSpec], parts: list[Path]) -> None:
    """An ensemble must see the same input and mean the same by its outputs."""
    first = specs[0]
    for spec, part in zip(specs[1:], parts[1:]):
        for what in ("labels", "plan"):
            if getattr(spec, what) != getattr(first, what):
                raise DataError(
                    f"{part}: its {what} differs from {parts[0].name}'s; "
                    "folds of one ensemble must share both"
                )
