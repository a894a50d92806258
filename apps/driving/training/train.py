"""Train a driver on recorded drives and measure it on routes it never saw.

OUT/model.safetensors, model.json    the model folder (see ``models.store``), best by validation
OUT/run/                             config.yaml, metrics.csv, log.jsonl, checkpoints (core.training)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.driving.models.base import Driver
from apps.driving.models.config import PRESETS, ModelConfig, preset
from apps.driving.models.letfuser import build
from apps.driving.models.store import load_driver, save_model
from apps.driving.recordings.reader import Dataset, open_dataset
from apps.driving.recordings.tags import GROUP_NAMES, GROUPS
from apps.driving.training.balance import make_balance
from apps.driving.training.batches import (
    DrivingBatches,
    Frames,
    Route,
    class_shares,
    draw_weights,
    evenly,
    in_batches,
    kinds,
    split_routes,
)
from apps.driving.training.config import TASKS, BalanceName, Recipe, read_options
from apps.driving.training.learning import DrivingTask, Trainee, measure
from apps.driving.training.losses import CLASSIFICATION, Losses, class_weights, yes_weight
from apps.driving.training.metrics import Metrics
from core.config import change, validate
from core.errors import UsageError
from core.files import require_absent, sha256
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.training import FitResult, TrainConfig, fit, load_weights
from core.training.checkpoint import read_state
from core.training.config import RESUMABLE
from core.training.seeding import derive, seeded
from core.weights.folder import METADATA, TENSORS, load_state

MAX_STEPS = 20_000
"""Of a training without a budget of its own."""

LICENCE = "that of the recordings it was trained on"


@dataclass(frozen=True)
class TrainReport:
    """What ``train`` left: the folder, how the run went, and the metrics of its best weights."""

    folder: Path
    model: str
    result: FitResult
    training: dict[str, Any]
    metrics: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def report(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "folder": str(self.folder),
            "model": self.model,
            "steps": self.result.steps,
            "seconds": round(self.result.seconds, 1),
            "stopped_because": self.result.stopped_because,
            "training": self.training,
            "metrics": self.metrics,
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """For a person."""
        result = self.result
        lines = [
            f"{self.model}: {result.steps} steps in {result.seconds / 60:.1f} min "
            f"({result.stopped_because}); model in {self.folder}"
        ]
        for part, values in self.metrics.items():
            points, floor = values["waypoints"], values["waypoints_constant_speed"]
            shown = {
                "ADE m": points["ade"],
                "FDE m": points["fde"],
                "(straight on at constant speed": floor["ade"],
                "mIoU": values["miou"],
                "red light F1": values["red_light"]["f1"],
                "stop sign F1": values["stop_sign"]["f1"],
                "steer error": values["steer_mae"],
                "brake F1": values["brake"]["f1"],
                "speed error m/s": values["speed_mae"],
            }
            found = ", ".join(
                f"{name} {'-' if value is None else format(value, '.3f')}"
                + (")" if name.startswith("(") else "")
                for name, value in shown.items()
            )
            lines.append(f"  {part}, {values['frames']} frames: {found}")
        return "\n".join([*lines, *self.notes])


def train(
    data: Sequence[Path | str],
    *,
    model: str | Path = "small",
    out: Path | str,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    towns: Sequence[str] | None = None,
    val_towns: Sequence[str] | None = None,
    val_fraction: float = 0.1,
    balance: BalanceName = "gradnorm",
    device: torch.device | str = "cpu",
    threads: int | None = None,
    workers: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    options: Sequence[str] = (),
) -> TrainReport:
    """Train ``model``, a preset or the folder of a driver to go on from, and write ``out``.

    ``towns``: only these are learnt from and measured on (None: all). ``val_towns`` are kept out of
    training; without them ``val_fraction`` of each town's routes is. ``options``: ``key=value`` changes of
    the recipe (``config.Recipe``) and, with ``model.`` before them, of the network. ``max_minutes``
    counts training and its validations; the last measurement comes on top (about 0.1 s a frame).
    Under torchrun each process takes its share of the batches and the first one writes.

    Raises UsageError for an unknown model, option or balance, and for an ``out`` that holds a model
    or a run when neither ``resume`` nor ``force`` is given; DataError for recordings that cannot be
    read, split or belong to other cameras; what ``core.training.fit`` raises.
    """
    out, progress = Path(out), progress or SilentProgress()
    recipe, changes = read_options(options)
    if not 0 < val_fraction < 1:
        raise UsageError(f"validation fraction {val_fraction}: must be between 0 and 1")
    config = _training_config(recipe, max_steps, max_minutes, seed, workers, threads)
    if not resume:
        require_absent(out / METADATA, force)
    if threads is not None:
        torch.set_num_threads(threads)  # the table of labels is read before the loop begins
    driver, origin = _network(str(model), changes, seed)
    about = driver.config
    if tuple(about.classes) != tuple(GROUP_NAMES):
        raise UsageError(
            f"model {about.name!r} tells apart {', '.join(about.classes)}; recordings are sorted into "
            f"{', '.join(GROUP_NAMES)}; use these classes"
        )
    dataset = open_dataset(
        [Path(folder) for folder in data], towns=towns, rig=about.rig, steps=about.steps
    )
    split = split_routes(dataset.recordings, val_towns, val_fraction, seed)
    frames = Frames(split.train, GROUPS, about.steps)
    held_out = Frames(split.val, GROUPS, about.steps)
    progress.message(
        f"{len(frames)} frames of {len(split.train)} routes to learn from, {len(held_out)} of "
        f"{len(split.val)} to validate on"
    )
    weights = draw_weights(kinds(frames), recipe.sampling)
    losses = _losses(frames, weights, recipe, len(about.classes))
    batches = DrivingBatches(frames, recipe.batch, seed, weights, recipe.augment)
    balancing = make_balance(balance, recipe.weights.vector, CLASSIFICATION, recipe.gradnorm)
    trainee = Trainee(driver, balancing)
    chosen = evenly(held_out, recipe.val_frames)
    task = DrivingTask(
        trainee,
        losses,
        recipe.weights.vector,
        lambda: in_batches(held_out, chosen, recipe.batch),
    )
    described = _data(dataset, split.train, split.val, frames, held_out)
    # What must be the same on resume, by names that an error can tell.
    context = {
        "balance": balance,
        "data": dataset.digest,
        "model": about.model_dump(mode="json"),
        "origin": origin,
        "seed": seed,
        "validation_towns": described["towns"]["val"],
        "validation_routes": described["split_sha256"],
    } | {
        f"recipe.{name}": value
        for name, value in recipe.model_dump(mode="json").items()
        if name not in RESUMABLE
    }
    result = fit(
        trainee,
        task,
        batches,
        config,
        out / "run",
        resume=resume,
        force=force,
        progress=progress,
        device=device,
        context=context,
    )
    best = load_weights(result.best)
    load_state(trainee, best, str(result.best))
    training = {
        "seed": seed,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "stopped_because": result.stopped_because,
        "best_step": read_state(result.best).step,
        "origin": origin,
        "balance": balance,
        "weights": {
            name: round(weight, 6) for name, weight in zip(TASKS, balancing.current().tolist())
        },
        "recipe": recipe.model_dump(mode="json"),
        "data": described,
        "parameters": sum(p.numel() for p in driver.parameters()),
        "environment": environment(seed),
    }
    first = int(os.environ.get("RANK", "0")) == 0
    metrics = _measure(driver, held_out, recipe, device, progress) if first else {}
    if first:
        save_model(
            out, driver, training=training, metrics=metrics, licence=LICENCE, force=force or resume
        )
    return TrainReport(out, about.name, result, training, metrics)


def _training_config(
    recipe: Recipe,
    max_steps: int | None,
    max_minutes: float | None,
    seed: int,
    workers: int,
    threads: int | None,
) -> TrainConfig:
    names = set(TrainConfig.model_fields) & set(Recipe.model_fields)
    return validate(
        TrainConfig,
        {name: getattr(recipe, name) for name in names}
        | {
            "max_steps": MAX_STEPS if max_steps is None and max_minutes is None else max_steps,
            "max_minutes": max_minutes,
            "seed": seed,
            "workers": workers,
            "threads": threads,
        },
        "training settings",
    )


def _network(model: str, changes: Sequence[str], seed: int) -> tuple[Driver, str | None]:
    """A new network of a preset, or one from a folder and the SHA-256 of its weights."""
    if model not in PRESETS and Path(model).is_dir():
        if changes:
            raise UsageError(
                f"{model}: is trained already and stays as it is; leave out model.{changes[0]}"
            )
        loaded = load_driver(model)
        return loaded.network.train().requires_grad_(True), sha256(loaded.folder / TENSORS)
    config: ModelConfig = change(preset(model), changes, f"model {model}")
    with seeded(derive(seed, "weights")):
        return build(config), None


def _losses(frames: Frames, weights: np.ndarray, recipe: Recipe, classes: int) -> Losses:
    """The rare things count more: classes by their pixels, a yes by its share of the drawn frames."""
    share = weights / weights.sum()
    return Losses(
        classes=class_weights(class_shares(frames, classes)),
        yes=(
            yes_weight(float(share[frames.red_light].sum()), recipe.rare),
            yes_weight(float(share[frames.stop_sign].sum()), recipe.rare),
        ),
        dice=recipe.dice,
    )


def _data(
    dataset: Dataset,
    train: Sequence[Route],
    val: Sequence[Route],
    frames: Frames,
    held_out: Frames,
) -> dict[str, Any]:
    """What a model's card says of its data."""
    names = {
        "train": [f"{r.town}/{r.name}" for r in train],
        "val": [f"{r.town}/{r.name}" for r in val],
    }
    return {
        "digest": dataset.digest,
        "split_sha256": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "towns": {
            "train": sorted({r.town for r in train}),
            "val": sorted({r.town for r in val}),
        },
        "routes": {"train": len(train), "val": len(val)},
        "frames": {"train": len(frames), "val": len(held_out)},
        "kinds": {name: int(found.sum()) for name, found in kinds(frames).items()},
    }


def _measure(
    driver: Driver,
    frames: Frames,
    recipe: Recipe,
    device: torch.device | str,
    progress: Progress,
) -> dict[str, Any]:
    """Metrics of all validation frames together, and of each town's."""
    chosen = evenly(frames, recipe.test_frames)
    towns = np.array([frames.routes[frames.place[i, 0]].town for i in chosen])
    metrics: dict[str, Any] = {}
    every = Metrics(driver.config.classes)
    driver.to(device).eval()
    with progress.task("measure", total=len(chosen)) as shown:
        for town in sorted(set(towns)):
            own = Metrics(driver.config.classes)
            for batch in in_batches(frames, chosen[towns == town], recipe.batch):
                measure(driver, batch, device, own, every)
                shown.advance(len(batch["speed"]), note=town)
            metrics[str(town)] = own.result()
    return {"validation": every.result()} | (metrics if len(metrics) > 1 else {})
