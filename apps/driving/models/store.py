"""Trained drivers on disk: ``model.safetensors`` and ``model.json`` (a ``DriverSpec``).

Nothing in a model folder is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from apps.driving.models.base import Driver
from apps.driving.models.config import ModelConfig
from apps.driving.models.letfuser import build
from apps.driving.rig import Rig
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.shipped import find_model
from core.weights.folder import METADATA, load_folder, load_state, save_folder

FORMAT = 1


class DriverSpec(StrictModel):
    """Everything about a driver but its tensors: ``model.json``.

    ``network`` holds the rig: a driver's weights are for its cameras.
    """

    app: Literal["driving"] = "driving"
    format: Literal[1] = 1
    name: str
    network: ModelConfig
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    licence: str | None = None
    intended_use: str | None = None


@dataclass(frozen=True)
class LoadedDriver:
    """A driver ready to run, in evaluation mode."""

    network: Driver
    spec: DriverSpec
    folder: Path

    @property
    def config(self) -> ModelConfig:
        """What the network is made of, its cameras included."""
        return self.spec.network


def save_model(
    folder: Path,
    network: Driver,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
    intended_use: str | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> None:
    """Write a model folder. ``dtype``: how floating tensors are stored (None: as they are).

    Raises as ``core.weights.folder.save_folder``: UsageError where a model is there already and
    ``force`` is false, DataError for values that ``dtype`` cannot hold, ResourceError where it
    cannot be written.
    """
    spec = DriverSpec(
        name=network.config.name,
        network=network.config,
        training=dict(training or {}),
        metrics=dict(metrics or {}),
        licence=licence,
        intended_use=intended_use,
    )
    save_folder(
        Path(folder), network.state_dict(), spec.model_dump(mode="json"), force=force, dtype=dtype
    )


def load_driver(
    ref: str | Path, *, rig: Rig | None = None, device: torch.device | str = "cpu"
) -> LoadedDriver:
    """Load a shipped driver by name or a model folder by path.

    ``rig``: the cameras it will be given, where they are known. Raises UsageError for an unknown
    model; DataError for a folder of another application or schema version, for weights that are
    missing, damaged or pickled, and for a driver of other cameras than ``rig``.
    """
    folder = find_model(ref, "driving")
    if folder.is_dir() and not (folder / METADATA).exists():
        raise DataError(
            f"{folder}: no trained driver here (no {METADATA}); give a folder from train"
        )
    tensors, metadata = load_folder(folder)
    spec = _spec(metadata, folder)
    if rig is not None:
        require_rig(spec.network, rig, str(folder))
    try:
        network = build(spec.network)
    except UsageError as error:  # the file is wrong, not the command line
        raise DataError(f"{folder / METADATA}: {error}") from error
    load_state(network, tensors, str(folder))
    return LoadedDriver(network.to(device).eval(), spec, folder)


def require_rig(config: ModelConfig, rig: Rig, source: str) -> None:
    """DataError, naming the first difference, where ``config`` is for other cameras than ``rig``."""
    if config.rig == rig:
        return
    own, given = config.rig.cameras, rig.cameras
    what = f"{len(own)} cameras, not {len(given)}"
    for a, b in zip(own, given, strict=False):
        changed = [key for key, value in vars(a).items() if vars(b)[key] != value]
        if changed and len(own) == len(given):
            key = changed[0]
            what = f"camera {a.name!r} with {key} {vars(a)[key]!r}, not {vars(b)[key]!r}"
            break
    raise DataError(
        f"{source}: was trained for other cameras ({what}); give it its own cameras, or train a "
        "model for these"
    )


def _spec(metadata: dict[str, Any], folder: Path) -> DriverSpec:
    where = folder / METADATA
    if metadata.get("app") != "driving":
        raise DataError(f"{where}: is not a driver; give a folder that train wrote")
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"{where}: has schema version {metadata.get('format')!r}, this program reads {FORMAT}; "
            "update the program or train the model again"
        )
    try:
        return validate(DriverSpec, metadata, str(where))
    except UsageError as error:
        raise DataError(str(error)) from error
