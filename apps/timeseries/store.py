"""Trained forecasters on disk: ``model.safetensors`` and ``model.json`` (a ``ModelSpec``).

The tensors are the network's (``network/...``) and each series' scaling (``scaling/...``, a row for
each series).  Nothing in a model folder is ever executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.data.windows import Scaling, SeriesScaling
from apps.timeseries.models.base import Forecaster, Shape, build
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.shipped import find_model
from core.weights.folder import METADATA, load_folder, load_state, save_folder

FORMAT = 1
_SCALED = ("values", "past", "known")


class ShapeSpec(StrictModel):
    """The fields of ``models.base.Shape``."""

    lookback: int
    horizon: int
    variates: int
    past: int = 0
    known: int = 0
    outputs: int = 1


class NetworkSpec(StrictModel):
    """The arguments of ``models.base.build``."""

    name: str
    shape: ShapeSpec
    options: dict[str, Any] = {}


class DataSpec(StrictModel):
    """The columns and the clock a model was trained on, in their order."""

    file: str
    sha256: str
    layout: Literal["wide", "long"]
    freq: str | None
    season: int
    targets: list[str]
    past: list[str] = []
    known: list[str] = []
    static: list[str] = []  # come before the known covariates, constant in time
    marks: bool = False  # calendar features follow the known covariates
    tz: str | None = None  # the stamps' zone, "" where they have none; None in older models
    series: list[str]
    rows: int
    borders: dict[str, int] | None = None  # of the longest series
    trained_until: str | None = None  # the last stamp that training or validation saw


class ModelSpec(StrictModel):
    """Everything about a forecaster but its tensors: ``model.json``."""

    app: Literal["timeseries"] = "timeseries"
    format: Literal[1] = 1
    name: str
    network: NetworkSpec
    data: DataSpec
    quantiles: list[float] = []
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    coverage: dict[str, Any] = {}
    licence: str | None = None
    intended_use: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A forecaster ready to run, in evaluation mode."""

    network: Forecaster
    spec: ModelSpec
    scalings: dict[str, SeriesScaling]  # by series id
    folder: Path


def save(
    folder: Path,
    network: Forecaster,
    spec: ModelSpec,
    scalings: list[SeriesScaling],
    force: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model folder; ``scalings`` in the order of ``spec.data.series``.

    ``dtype``: how the network's floating tensors are stored (None: as they are).  Raises as ``core.weights.folder.save_folder``.
    """
    tensors: dict[str, Tensor] = {
        f"network/{name}": value.to(dtype) if dtype and value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    for part in _SCALED:
        for what in ("mean", "std"):
            rows = np.stack([getattr(getattr(s, part), what) for s in scalings])
            tensors[f"scaling/{part}.{what}"] = torch.from_numpy(rows)
    save_folder(Path(folder), tensors, spec.model_dump(mode="json"), force=force)


def load(ref: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a shipped model by name or a model folder by path.

    Raises UsageError for an unknown model; DataError for a folder of another application or schema
    version, and for missing, damaged or pickled weights.
    """
    folder = find_model(ref, "timeseries")
    if folder.is_dir() and not (folder / METADATA).exists():
        raise DataError(f"{folder}: no trained model here (no {METADATA}); give a folder from fit")
    tensors, metadata = load_folder(folder)
    spec = _spec(metadata, folder)
    about = spec.network
    try:
        network = build(about.name, Shape(**about.shape.model_dump()), **about.options)
    except UsageError as error:
        raise DataError(f"{folder / METADATA}: {error}") from error
    state = {k.removeprefix("network/"): v for k, v in tensors.items() if k.startswith("network/")}
    load_state(network, state, str(folder))
    return LoadedModel(network.to(device).eval(), spec, _scalings(tensors, spec, folder), folder)


def _spec(metadata: dict[str, Any], folder: Path) -> ModelSpec:
    where = folder / METADATA
    if metadata.get("app") != "timeseries":
        raise DataError(f"{where}: is not a forecaster; give a folder that fit wrote")
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"{where}: has schema version {metadata.get('format')!r}, this program reads {FORMAT}; "
            "update the program or fit the model again"
        )
    try:
        return validate(ModelSpec, metadata, str(where))
    except UsageError as error:  # the file is wrong, not the command line
        raise DataError(str(error)) from error


def _scalings(
    tensors: dict[str, Tensor], spec: ModelSpec, folder: Path
) -> dict[str, SeriesScaling]:
    data = spec.data
    widths = {
        "values": len(data.targets),
        "past": len(data.past),
        "known": len(data.static) + len(data.known),
    }
    parts: list[list[Scaling]] = []
    for part in _SCALED:
        try:
            mean, std = (tensors[f"scaling/{part}.{w}"].double().numpy() for w in ("mean", "std"))
        except KeyError as error:
            raise DataError(f"{folder}: lacks the tensor {error}; copy the folder again") from error
        columns = widths[part]
        if mean.shape != std.shape or mean.shape != (len(spec.data.series), columns):
            raise DataError(
                f"{folder}: the scaling of {part} is {mean.shape}, {METADATA} speaks of "
                f"{(len(spec.data.series), columns)}; copy the folder again"
            )
        parts.append([Scaling(m, s) for m, s in zip(mean, std)])
    return {name: SeriesScaling(*columns) for name, columns in zip(spec.data.series, zip(*parts))}
