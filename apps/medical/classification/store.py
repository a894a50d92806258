"""Trained classifiers on disk: ``model.safetensors`` and ``model.json``, as for segmentation.

A folder with ``fold_0``, ``fold_1``, ... is an ensemble: the mean of their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from apps.medical.classification.data import LabelledCase
from apps.medical.classification.inputs import Preparation
from apps.medical.classification.mil import R2TMIL, R2TConfig
from apps.medical.classification.networks import ClassifierNetwork, build_classifier
from apps.medical.store import fold_folders
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.files import sha256
from core.weights.folder import METADATA, load_folder, load_state, save_folder


class BagNetwork(StrictModel):
    """The arguments of ``R2TMIL``; "ab_mil" is it without re-embedding."""

    name: Literal["r2t_mil", "ab_mil"]
    in_dim: int = Field(ge=1)
    classes: int = Field(ge=2)
    options: dict[str, Any] = {}

    def build(self) -> R2TMIL:
        """The network with fresh weights.  Raises UsageError for an unknown option."""
        try:
            config = R2TConfig(in_dim=self.in_dim, classes=self.classes, **self.options)
        except TypeError as error:
            known = ", ".join(
                k for k in R2TConfig.__dataclass_fields__ if k not in ("in_dim", "classes")
            )
            raise UsageError(f"{self.name}: {error}; its options are {known}") from error
        return R2TMIL(config, reembed=self.name == "r2t_mil")


class ClassifierSpec(StrictModel):
    """Everything about a classifier but its tensors: ``model.json``."""

    app: Literal["medical"] = "medical"
    task: Literal["classification"] = "classification"
    format: Literal[1] = 1
    network: ClassifierNetwork | BagNetwork
    preparation: Preparation
    classes: list[str]
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    intended_use: str | None = None


@dataclass(frozen=True)
class ClassifierModel:
    """Classifiers ready to run; several are an ensemble, each with its own preparation."""

    networks: tuple[nn.Module, ...]
    specs: tuple[ClassifierSpec, ...]
    folder: Path

    @property
    def spec(self) -> ClassifierSpec:
        """The first member's."""
        return self.specs[0]


def build(network: ClassifierNetwork | BagNetwork) -> nn.Module:
    """The network with fresh weights.  Raises UsageError."""
    return network.build() if isinstance(network, BagNetwork) else build_classifier(network)


def save_classifier(
    folder: Path, network: nn.Module, spec: ClassifierSpec, force: bool = False
) -> None:
    """Write a model folder; raises as ``core.weights.folder.save_folder``."""
    save_folder(folder, network.state_dict(), spec.model_dump(mode="json"), force=force)


def load_classifier(folder: Path | str, device: torch.device | str = "cpu") -> ClassifierModel:
    """The classifier, or the ensemble of folds, in ``folder``, in evaluation mode.

    Raises UsageError where there is none, DataError for another kind of model, damaged weights, or
    folds that do not belong together.
    """
    folder = Path(folder)
    parts = [folder]
    if folder.is_dir() and not (folder / METADATA).exists():
        parts = fold_folders(folder)
        if not parts:
            raise UsageError(
                f"{folder}: no trained classifier here (neither {METADATA} nor fold_0/{METADATA})"
            )
    networks, specs = [], []
    for part in parts:
        tensors, metadata = load_folder(part)
        if (metadata.get("app"), metadata.get("task")) != ("medical", "classification"):
            raise DataError(
                f"{part / METADATA}: is no classifier; `predict` takes segmentation models"
            )
        try:
            spec = validate(ClassifierSpec, metadata, str(part / METADATA))
            network = build(spec.network)
        except (UsageError, TypeError) as error:  # the file is wrong, not the command line
            raise DataError(str(error)) from error
        load_state(network, tensors, str(part))
        networks.append(network.to(device).eval())
        specs.append(spec)
    for spec, part in zip(specs[1:], parts[1:]):
        if (spec.classes, spec.preparation.kind) != (specs[0].classes, specs[0].preparation.kind):
            raise DataError(f"{part}: its classes differ from {parts[0].name}'s; folds share them")
    return ClassifierModel(tuple(networks), tuple(specs), folder)


def fingerprints(cases: Sequence[LabelledCase]) -> list[str]:
    """What was seen, by content: the first 16 digits of each file's SHA-256, sorted."""
    return sorted({sha256(case.file)[:16] for case in cases})
