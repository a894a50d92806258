"""Train a forecaster on a panel and measure it on the rows that came last.

    OUT/model.safetensors, model.json     the model folder (see store)
    OUT/run/                              config.yaml, metrics.csv, log.jsonl, checkpoints (see core.training)

Training rows set the scaling and whatever a model computes from data; validation rows choose the
epoch; test rows are forecast once, at the end, by the model and by the naive methods beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from apps.timeseries import catalog
from apps.timeseries.catalog import Recipe
from apps.timeseries.data import frequency
from apps.timeseries.data.panel import Panel
from apps.timeseries.data.reading import read_panel
from apps.timeseries.data.splits import Borders, chronological_each, origins, protocol_borders
from apps.timeseries.data.windows import Rows, WindowBatches, scalings, with_static
from apps.timeseries.learning import ForecastTask, Watch
from apps.timeseries.models.base import Shape, build, option_defaults
from apps.timeseries.predictor import ModelPredictor
from apps.timeseries.store import (
    DataSpec,
    LoadedModel,
    ModelSpec,
    NetworkSpec,
    ShapeSpec,
    save,
)
from core.config import validate
from core.errors import DataError, UsageError, unknown
from core.files import require_absent
from core.progress import Progress, SilentProgress
from core.training import FitResult, TrainConfig, load_weights
from core.training import fit as run_training
from core.training.seeding import derive, seeded
from core.weights.folder import METADATA, load_state

LOOKBACK = 96
MAX_STEPS = 10_000
"""Of a fit without its own budget; the benchmark protocols train as many epochs as published."""
VALIDATE_EVERY = 500
"""Steps between validations, where an epoch is longer."""

LICENCE = "that of the data it was trained on"
INTENDED_USE = "Forecasts of the series named in data.series, or of others like them."


@dataclass(frozen=True)
class Trained:
    """A trained model in memory, its borders by series, and how the run went."""

    model: LoadedModel
    borders: dict[str, Borders]
    result: FitResult
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FitReport:
    """What ``fit`` left: the folder, and what is in its model.json."""

    folder: Path
    spec: ModelSpec
    notes: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """For a machine."""
        spec = self.spec
        return {
            "folder": str(self.folder),
            "model": spec.network.name,
            "lookback": spec.network.shape.lookback,
            "horizon": spec.network.shape.horizon,
            "borders": spec.data.borders,
            "training": spec.training,
            "metrics": spec.metrics,
            "coverage": spec.coverage,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A recipe with its options resolved: what is trained, and how."""

    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)


def settings(name: str, changes: Mapping[str, Any] | None = None) -> Settings:
    """The recipe of ``name`` with ``changes``, each an option of the network or a recipe's field.

    Raises UsageError naming the nearest for anything else.
    """
    entry = catalog.model(name)
    fields = {f.name for f in dataclasses.fields(Recipe)} - {"options"}
    known = option_defaults(entry.name)
    recipe, options = entry.recipe, dict(entry.recipe.options)
    for key, value in (changes or {}).items():
        if key in fields:
            _check_field(key, value)
            recipe = dataclasses.replace(recipe, **{key: value})
        elif key in known:
            options[key] = value
        else:
            what = f"setting of model {entry.name!r}"
            raise UsageError(unknown(what, key, sorted(fields | set(known))))
    return Settings(recipe=recipe, options=options)


def _check_field(name: str, value: Any) -> None:
    """UsageError where a field of the recipe is of the wrong kind or size."""
    default = getattr(Recipe(), name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        right, want = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        right, want = number and value >= 1 and value == int(value), "a whole number, 1 or more"
    elif name == "average":
        right, want = value is None or (number and 0 < value < 1), "between 0 and 1, or none"
    elif isinstance(default, float):
        right, want = number and 0 < value < math.inf, "a number above 0"
    else:
        right, want = isinstance(value, str), "a word"
    if not right:
        raise UsageError(f"{name} {value}: must be {want}")


def train(
    panel: Panel,
    name: str,
    *,
    horizon: int,
    run_dir: Path,
    lookback: int | None = None,
    options: Mapping[str, Any] | None = None,
    borders: Borders | Mapping[str, Borders] | None = None,
    quantiles: Sequence[float] = (),
    max_steps: int | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
    test: bool = True,
    watch: Watch | None = None,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Trained:
    """Train the model ``name`` on the training rows of ``panel``; its best epoch by validation.

    ``borders`` of all series or of each by id; None: 80, 10 and 10 % of each series' rows (without
    ``test``, 85 and 15 %).  Series too short for a window are left out of training and are noted.
    ``watch`` is told the metrics of each validation.

    Raises DataError where no series is long enough; UsageError for settings that do not exist; what
    ``core.training.fit`` raises.
    """
    if horizon < 1:
        raise UsageError(f"horizon {horizon}: must be 1 or more")
    entry = catalog.model(name)
    lookback = lookback or LOOKBACK
    chosen = settings(entry.name, options)
    recipe = chosen.recipe
    parts, notes = _borders(panel, borders, lookback, horizon, test)
    static = panel.static_names if "known" in entry.covariates else ()
    panel = panel.with_series([with_static(s, static) for s in panel])
    marks = recipe.marks and "known" in entry.covariates and panel.freq is not None
    scaled = scalings(panel, [parts[s.id].train if s.id in parts else len(s) for s in panel])
    rows = Rows(panel, scaled, marks)
    training = _windows(panel, rows, parts, "train", lookback, horizon)
    validation = _windows(panel, rows, parts, "val", lookback, horizon)
    for part, found in (("training", training), ("validation", validation)):
        if len(found) == 0:
            border = max(parts.values(), key=lambda b: b.val)
            own = border.train if part == "training" else border.val - border.train
            raise DataError(
                f"{panel.source}: no {part} window of {lookback} + {horizon} rows without a missing "
                f"value ({part} has {own} rows of its own); give more rows, choose a smaller "
                "--lookback or --horizon, or repair the file with --fill"
            )
    quantiles = tuple(sorted(quantiles))
    _check_quantiles(quantiles)
    shape = Shape(
        lookback=lookback,
        horizon=horizon,
        variates=len(panel.targets),
        past=len(panel.past_names),
        known=rows.known.shape[1],
        outputs=max(1, len(quantiles)),
    )
    with seeded(derive(seed, "weights")):
        network = build(entry.name, shape, **chosen.options)
    network.fit_statistics(_training_rows(panel, rows, parts))
    loss = "pinball" if quantiles else recipe.loss
    batches = WindowBatches(rows, training, lookback, horizon, batch=recipe.batch, seed=seed)
    config = _config(recipe, batches.per_epoch, max_steps, max_minutes, seed)
    data = DataSpec(
        file=panel.source,
        sha256=panel.sha256,
        layout=panel.layout,
        freq=panel.freq,
        season=frequency.season(panel.freq),
        targets=list(panel.targets),
        past=list(panel.past_names),
        known=list(panel.known_names),
        static=list(static),
        marks=marks,
        tz=panel.tz or "",
        series=[s.id for s in panel],
        rows=sum(len(s) for s in panel),
        borders=max(parts.values(), key=lambda b: b.test).report(),
        trained_until=_trained_until(panel, parts),
    )
    spec = ModelSpec(
        name=entry.name,
        network=NetworkSpec(
            name=entry.name,
            shape=ShapeSpec(**dataclasses.asdict(shape)),
            options=chosen.options,
        ),
        data=data,
        quantiles=list(quantiles),
        licence=LICENCE,
        intended_use=INTENDED_USE,
    )
    task = ForecastTask(
        rows, validation, lookback, horizon, loss=loss, quantiles=quantiles, watch=watch
    )
    context = {
        "network": spec.network.model_dump(),
        "data": {"sha256": panel.sha256, "borders": data.borders, "targets": data.targets},
        "recipe": dataclasses.asdict(dataclasses.replace(recipe, options={})) | {"loss": loss},
    }
    result = run_training(
        network,
        task,
        batches,
        config,
        run_dir,
        resume=resume,
        force=force,
        progress=progress,
        device=device,
        context=context,
    )
    load_state(network, load_weights(result.best), str(result.best))
    spec = spec.model_copy(
        update={
            "training": {
                "recipe": context["recipe"],
                "seed": seed,
                "steps": result.steps,
                "steps_per_epoch": batches.per_epoch,
                "seconds": round(result.seconds, 1),
                "stopped_because": _stopped(result, recipe, batches.per_epoch),
                "windows": {"train": len(training), "validation": len(validation)},
                "parameters": sum(p.numel() for p in network.parameters()),
            },
            "metrics": {"validation": result.metrics},
        }
    )
    by_id = {s.id: scaling for s, scaling in zip(panel, scaled)}
    model = LoadedModel(network.to(device).eval(), spec, by_id, Path(run_dir))
    return Trained(model, parts, result, tuple(notes))


def fit(
    data: Path | str | pd.DataFrame | pd.Series | Panel,
    model: str = "itransformer",
    *,
    horizon: int,
    out: Path,
    lookback: int | None = None,
    options: Mapping[str, Any] | None = None,
    quantiles: Sequence[float] = (),
    max_steps: int | None = None,
    max_minutes: float | None = None,
    protocol: str | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **reading: Any,
) -> FitReport:
    """Train ``model`` on a file or a data frame and write a model folder with its measured errors and coverage.

    ``protocol``: the borders of a benchmark instead of 80, 10 and 10 % of the rows.  ``reading``:
    see ``data.reading.read_panel``.  Raises as ``train``; UsageError when ``out`` holds a model and
    neither ``resume`` nor ``force`` is given.
    """
    from apps.timeseries.assess import assess

    out, progress = Path(out), progress or SilentProgress()
    if catalog.baseline(model):
        raise UsageError(
            f"model {model}: is a baseline and needs no fitting; use it by name in forecast and backtest"
        )
    catalog.model(model)
    if not resume:
        require_absent(out / METADATA, force)
    panel = data if isinstance(data, Panel) else read_panel(data, **reading)
    borders = None
    if protocol is not None:
        borders = protocol_borders(protocol, min(len(s) for s in panel), panel.source)
    trained = train(
        panel,
        model,
        lookback=lookback,
        horizon=horizon,
        borders=borders,
        run_dir=out / "run",
        options=options,
        quantiles=quantiles,
        max_steps=MAX_STEPS if max_steps is None and max_minutes is None else max_steps,
        max_minutes=max_minutes,
        seed=seed,
        resume=resume,
        force=force,
        device=device,
        progress=progress,
    )
    metrics, coverage, notes = assess(
        panel, ModelPredictor(trained.model), trained.borders, horizon, progress
    )
    spec = trained.model.spec
    spec = spec.model_copy(update={"metrics": spec.metrics | metrics, "coverage": coverage})
    ordered = [trained.model.scalings[s.id] for s in panel]
    save(out, trained.model.network, spec, ordered, force=force or resume)
    return FitReport(out, spec, panel.notes + trained.notes + notes)


def _borders(
    panel: Panel,
    given: Borders | Mapping[str, Borders] | None,
    lookback: int,
    horizon: int,
    test: bool,
) -> tuple[dict[str, Borders], list[str]]:
    """Borders of each series that is long enough, and what to tell about the others."""
    if isinstance(given, Mapping):
        return dict(given), []
    if given is not None:
        return {s.id: given for s in panel}, []
    parts = chronological_each(panel, lookback, horizon, test)
    left = len(panel) - len(parts)
    notes = [f"{left} of {len(panel)} series are too short to train on and are left out"]
    return parts, notes if left else []


def _windows(
    panel: Panel, rows: Rows, parts: Mapping[str, Borders], part: str, lookback: int, horizon: int
) -> np.ndarray:
    """Flat origins of the windows of one part that hold no missing number."""
    found = []
    for series, at in zip(panel, rows.first):
        if series.id in parts:
            border = parts[series.id]
            limits = (0, border.train) if part == "train" else (border.train, border.val)
            found.append(at + origins(*limits, lookback, horizon))
    return rows.usable(np.concatenate(found), lookback, horizon)


def _training_rows(panel: Panel, rows: Rows, parts: Mapping[str, Borders]) -> torch.Tensor:
    """Scaled training rows of all series, one after another (T, N); at most a million of them."""
    pieces = [
        rows.values[at : at + parts[s.id].train]
        for s, at in zip(panel, rows.first)
        if s.id in parts
    ]
    kept, total = [], 0
    for piece in pieces:
        kept.append(piece)
        total += len(piece)
        if total >= 1_000_000:
            break
    return torch.cat(kept)


def _config(
    recipe: Recipe,
    per_epoch: int,
    max_steps: int | None,
    max_minutes: float | None,
    seed: int,
) -> TrainConfig:
    steps = recipe.epochs * per_epoch
    if max_steps is not None:
        steps = min(steps, max_steps)
    every = min(per_epoch, VALIDATE_EVERY) if max_steps is not None else per_epoch
    return validate(
        TrainConfig,
        {
            "max_steps": steps,
            "max_minutes": max_minutes,
            "lr": recipe.rate,
            "weight_decay": 0.0,
            "grad_clip": None,
            "schedule": "halving" if recipe.halving else "cosine",
            "halve_every": per_epoch if recipe.halving else None,
            "ema_decay": recipe.average,
            "precision": recipe.precision,
            "seed": seed,
            "val_every": every,
            # Patience is told in epochs.
            "patience": recipe.patience * max(1, math.ceil(per_epoch / every)),
        },
        "training settings",
    )


def _stopped(result: FitResult, recipe: Recipe, per_epoch: int) -> str:
    """Why training ended; the recipe's epochs are the loop's steps."""
    whole = result.steps >= recipe.epochs * per_epoch
    return "epochs" if whole and result.stopped_because == "max_steps" else result.stopped_because


def _check_quantiles(quantiles: tuple[float, ...]) -> None:
    if any(not 0 < q < 1 for q in quantiles) or len(set(quantiles)) < len(quantiles):
        raise UsageError(f"quantiles {list(quantiles)}: must be different numbers between 0 and 1")
    if len(quantiles) == 1:
        raise UsageError(
            f"quantile {quantiles[0]} alone bounds no interval; give two or more, such as 0.1, 0.5 and 0.9"
        )


def _trained_until(panel: Panel, parts: Mapping[str, Borders]) -> str | None:
    """The last stamp that training or validation saw, of all series."""
    stamps = [s.times[parts[s.id].val - 1] for s in panel if s.id in parts]
    return str(max(stamps)) if stamps else None
