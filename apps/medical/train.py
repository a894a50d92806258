"""Train a segmentation network on a data set, fold by fold.

    RUN/plan.yaml                       how images become network input; edit it and start anew
    RUN/fold_0/config.yaml, metrics.csv, log.jsonl, env.json, checkpoints/    see core.training
    RUN/fold_0/model.safetensors, model.json       the best weights: a model folder
    RUN/fold_0/validation.json          Dice, HD95 and NSD of every validation case on its own grid
    RUN/full/                           the same, from `--fold full`: no validation.json
    RUN/cv_summary.json                 all folds together
    RUN/cache/                          prepared cases; may be deleted

RUN itself is a model as well: the ensemble of its folds (without RUN/full).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from apps.medical import catalog
from apps.medical.data.augment import Augmentation
from apps.medical.data.datasets import Dataset, open_dataset
from apps.medical.data.plan import Plan, plan_dataset, read_plan, write_plan
from apps.medical.data.splits import Fold, digest, fold_folder, folds, validated_cases
from apps.medical.data.store import PreparedCases
from apps.medical.initial import Initial, read_initial, start_from
from apps.medical.learning import (
    SegmentationBatches,
    SegmentationTask,
    mean_metrics,
    validate_cases,
)
from apps.medical.losses import LossName, make_loss
from apps.medical.models import build
from apps.medical.store import METADATA, TENSORS, ModelSpec, NetworkSpec, is_of_step, save_model
from core import grid
from core.config import validate
from core.errors import DataError, UsageError
from core.files import plain, read_json, write_json
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.training import TrainConfig, fit, load_weights
from core.training.seeding import derive
from core.weights.folder import load_state

FOLDS = 5
DEFAULT_STEPS = 2000
VALIDATION_CASES = 24
"""Cases of the fold that are segmented at each validation while training; all of them at the end."""

INTENDED_USE = "Research use only. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True)
class FoldResult:
    """Where one fold ended: its folder, and metrics over its validation cases by label name."""

    fold: str
    folder: Path
    steps: int
    seconds: float
    stopped_because: str
    metrics: dict[str, Any]
    initial: dict[str, Any] | None = None  # what it started from, if not afresh

    def report(self) -> dict[str, Any]:
        """For a machine."""
        started = {} if self.initial is None else {"initial": self.initial}
        return {
            "fold": self.fold,
            "folder": str(self.folder),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "stopped_because": self.stopped_because,
            "metrics": self.metrics.get("mean", {}),
            **started,
        }

    def text(self) -> str:
        """For a person: a line for the fold and one for each label."""
        lines = [
            f"fold {self.fold}: {self.steps} steps in {self.seconds / 60:.1f} min "
            f"({self.stopped_because}), {len(self.metrics.get('cases', {}))} validation cases; "
            f"model in {self.folder}"
        ]
        for label, values in self.metrics.get("mean", {}).items():
            shown = ", ".join(f"{k} {v:.3f}" for k, v in values.items() if v is not None)
            lines.append(f"  {label}: {shown}")
        return "\n".join(lines)


def training_config(
    model: str | None = None,
    *,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    **given: Any,
) -> TrainConfig:
    """This application's defaults: AdamW, cosine decay, an average of the weights.

    The peak rate is that of ``model``'s entry in the catalog, or 2e-3.
    Without a budget, ``DEFAULT_STEPS``.  ``val_every`` defaults to a tenth of the steps, but at least
    50, or, for a budget in minutes alone, to every 200.  Raises UsageError naming the setting that is wrong.
    """
    if max_steps is None and max_minutes is None:
        max_steps = DEFAULT_STEPS
    if given.get("val_every") is None:
        given["val_every"] = 200 if max_steps is None else max(50, max_steps // 10)
    if given.get("lr") is None:
        entry = catalog.MODELS.get(model or "")
        given["lr"] = catalog.ModelEntry.learning_rate if entry is None else entry.learning_rate
    defaults = {"weight_decay": 0.01, "warmup_steps": 20, "ema_decay": 0.99}
    values = {**defaults, **given, "max_steps": max_steps, "max_minutes": max_minutes}
    return validate(TrainConfig, values, "training settings")


def train(
    dataset: Path | str,
    model: str | None,
    out: Path | str,
    *,
    fold: str = "0",
    preset: str | None = "small",
    options: Mapping[str, Any] | None = None,
    plan: Path | None = None,
    plan_overrides: Sequence[str] = (),
    augmentation: Augmentation | None = None,
    config: TrainConfig | Callable[[str], TrainConfig] = training_config,
    loss: LossName = "dice_ce",
    initial: str | Path | None = None,
    initial_rate: float = 1.0,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[FoldResult]:
    """Train ``model`` on one fold ("0" to "4"), on "all" of them in turn, or on "full".

    "full" takes every case and validates on none: for the weights one ships once cross-validation
    has measured the recipe.  Folds already finished in ``out`` are kept when ``resume``.
    ``config`` may be a function of the network's name, as :func:`training_config` is, whose rates
    differ.  ``loss`` is one of ``losses.LOSSES``.  ``initial`` is a pre-training run or a trained model whose
    weights to start from; what was loaded learns at ``initial_rate`` of the learning rate, all else at
    the whole of it.

    Raises UsageError for an unknown model, option, loss or fold and for an ``out`` that holds a run when
    neither ``resume`` nor ``force`` is given; DataError for unreadable data; whatever
    ``core.training.fit`` raises.
    """
    progress = progress or SilentProgress()
    _require_fold(fold)
    # What is wrong with these is found before anything is read.
    make_loss(loss)
    if not isinstance(config, TrainConfig):
        config(model or "")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out needs a folder")
    if not 0 <= initial_rate <= 1:
        raise UsageError(f"--init-lr {initial_rate:g}: a share of the learning rate, 0 to 1")
    if initial is None and initial_rate != 1:
        raise UsageError(
            f"--init-lr {initial_rate:g}: goes with --init, which says what to start from"
        )
    start = None if initial is None else read_initial(initial)
    data = open_dataset(dataset)
    _require_labels(data, progress)
    if model is not None:  # a wrong name is found before the data set is measured
        catalog.resolve(model, data.rank, preset, **(options or {}))
    splits = splits_of(data, fold)
    made = run_plan(data, out, plan, plan_overrides, progress)
    name = model or made.network.name
    own = made.network.options if name == made.network.name else {}
    given = {**own, **(options or {})}
    settings = {**plan_options(name, made, preset, given), **given}
    network = NetworkSpec(
        name=name,
        rank=made.rank,
        in_channels=len(made.channels),
        out_channels=made.out_channels,
        options=plain(catalog.resolve(name, made.rank, preset, **settings)),
    )
    _require_same_run(out, made, network, replaced=set(splits) if force else set())
    keep_plan(made, out / "plan.yaml")
    chosen = config if isinstance(config, TrainConfig) else config(name)
    cases = PreparedCases(data, made, out / "cache")
    results = []
    for each, (training, validation) in splits.items():
        cases.prepare([*training, *validation], progress)
        results.append(
            _train_fold(
                each,
                cases,
                (training, validation),
                network,
                out / fold_folder(each),
                augmentation,
                chosen,
                loss,
                start,
                initial_rate,
                resume=resume,
                force=force,
                device=device,
                progress=progress,
            )
        )
    summary = summarise(out)
    if summary:
        write_json(out / "cv_summary.json", summary, force=True)
    return results


def _train_fold(
    fold: str,
    cases: PreparedCases,
    split: tuple[list[str], list[str]],
    network: NetworkSpec,
    folder: Path,
    augmentation: Augmentation | None,
    config: TrainConfig,
    loss: LossName,
    initial: Initial | None,
    initial_rate: float,
    *,
    resume: bool,
    force: bool,
    device: torch.device | str,
    progress: Progress,
) -> FoldResult:
    training, validation = split
    plan = cases.plan
    torch.manual_seed(derive(config.seed, "weights", 0) % 2**63)
    net = build(
        network.name, network.rank, network.in_channels, network.out_channels, **network.options
    )
    started: dict[str, Any] | None = None
    rates: dict[str, float] = {}
    if initial is not None:
        found, notes = start_from(initial, net, plan, validation)
        slower = {} if initial_rate == 1 else {"learning_rate_share": initial_rate}
        started = {"from": initial.source, **initial.record(), **slower, **found.report()}
        rates = dict.fromkeys(found.loaded, initial_rate)
        for note in notes:
            progress.message(note)
    every = max(1, len(validation) // VALIDATION_CASES)
    settings = augmentation or Augmentation()
    if force and not resume:  # the results of the run that is being replaced
        for old in (METADATA, TENSORS, "validation.json"):
            (folder / old).unlink(missing_ok=True)
    result = fit(
        net,
        SegmentationTask(cases, validation[::every][:VALIDATION_CASES], loss),
        SegmentationBatches(cases, training, config.seed, settings),
        config,
        folder,
        resume=resume,
        force=force,
        progress=progress,
        device=device,
        context={
            "fold": fold,
            "network": network.model_dump(),
            "plan": plan.model_dump(mode="json"),
            "augmentation": settings.model_dump(),
            "training_cases": digest(training),
            # only where it is another one: runs begun before there was a choice go on
            **({} if loss == "dice_ce" else {"loss": loss}),
            **({} if initial is None else {"initial": initial.record()}),
            **({} if initial_rate == 1 else {"initial_rate": initial_rate}),
        },
        rates=rates,
    )
    metrics = _finished(folder, result.steps, bool(validation)) if resume else None
    if metrics is not None:
        return FoldResult(
            fold,
            folder,
            result.steps,
            result.seconds,
            str(result.stopped_because),
            metrics,
            started,
        )
    # With nothing to validate on there is no best: the last average is the result.
    source = result.best if validation else result.last
    load_state(net, load_weights(source), str(source))
    net.eval()
    metrics = validate_cases(net, cases, validation, device, progress)
    if validation:
        write_json(folder / "validation.json", metrics, force=True)
    spec = ModelSpec(
        name=network.name,
        network=network,
        plan=plan,
        labels=plan.labels,
        training={
            "dataset": cases.dataset.name,
            "fold": fold,
            "cases": len(training),
            "cases_sha256": digest(training),
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "config": config.model_dump(),
            "augmentation": settings.model_dump(),
            "loss": loss,
            **({} if started is None else {"initial": started}),
            "environment": environment(config.seed),
        },
        metrics=metrics.get("mean", {}),
        intended_use=INTENDED_USE,
    )
    save_model(folder, net, spec, force=True)
    return FoldResult(
        fold, folder, result.steps, result.seconds, str(result.stopped_because), metrics, started
    )


def summarise(run: Path) -> dict[str, Any]:
    """Every finished fold of a run together: means over all validation cases."""
    finished, rows = validated_cases(run)
    if not rows:
        return {}
    return {
        "folds": finished,
        "cases": len(rows),
        "mean": mean_metrics(rows.values()),
    }


def _finished(folder: Path, steps: int, validated: bool) -> dict[str, Any] | None:
    """The metrics of a fold whose model and validation are those of step ``steps``, else None."""
    if not is_of_step(folder, steps):
        return None
    try:
        return read_json(folder / "validation.json") if validated else {}
    except DataError:
        return None


def _require_fold(fold: str) -> None:
    if fold not in ("all", "full", *map(str, range(FOLDS))):
        raise UsageError(f"--fold {fold}: want 0 to {FOLDS - 1}, all, or full (every case).")


def splits_of(data: Dataset, fold: str) -> dict[str, Fold]:
    """(training ids, validation ids) of each fold to train."""
    if fold == "full":
        return {fold: ([case.id for case in data.cases], [])}
    splits = {str(i): split for i, split in enumerate(folds(data, FOLDS))}
    if fold == "all":
        return splits
    if fold not in splits:
        raise UsageError(
            f"--fold {fold}: {data.root} comes with {len(splits)} folds of its own; want 0 to "
            f"{len(splits) - 1}, all, or full (every case)."
        )
    return {fold: splits[fold]}


def _require_labels(data: Dataset, progress: Progress) -> None:
    if len(data.cases) < 2:
        raise DataError(
            f"{data.root}: {len(data.cases)} case with an image and a label; training needs two or "
            "more (the check verb says what is wrong with the others)."
        )
    if data.problems:
        progress.message(
            f"{data.root}: {len(data.problems)} cases are left out, first "
            f"{data.problems[0].text}; the check verb lists them all"
        )


def _require_same_run(run: Path, plan: Plan, network: NetworkSpec, replaced: set[str]) -> None:
    """A run is one cross-validation: UsageError if a fold that stays has another plan or network.

    Options that only one of the two knows do not count: they came or went with a version.
    """
    about = network.model_dump(mode="json")
    now = {"plan": plan.model_dump(mode="json"), "network": about, "option": about["options"]}
    names = [
        fold_folder(fold) for fold in ("full", *map(str, range(FOLDS))) if fold not in replaced
    ]
    for name in names:
        before = _recorded(run / name / "config.yaml")
        for group, values in now.items():
            known = before.get(group, {})
            for key in known.keys() & values.keys() - {"options"}:
                if known[key] != values[key]:
                    raise UsageError(
                        f"{run / name}: was trained with {group} {key} {known[key]}, now it is "
                        f"{values[key]}; the folds of a run share plan and network: undo that, use "
                        "a new --out, or replace the fold with --force"
                    )


def _recorded(file: Path) -> dict[str, Any]:
    """What a fold's config.yaml says about plan, network and options; empty without one."""
    try:
        context = yaml.safe_load(file.read_text(encoding="utf-8"))["context"]
        return {**context, "option": context["network"]["options"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise DataError(
            f"{file}: is not a run's record ({error!r}); restore or remove it"
        ) from error


def run_plan(
    data: Dataset, out: Path, given: Path | None, overrides: Sequence[str], progress: Progress
) -> Plan:
    """The plan of this run: the given file, the run's own, or a new one."""
    own = out / "plan.yaml"
    if given is not None:
        plan = read_plan(given, overrides)
    elif own.exists():
        plan = read_plan(own, overrides)
    else:
        plan = plan_dataset(data, own, overrides, progress)
    if plan.rank != data.rank or len(plan.channels) != len(data.channels):
        raise UsageError(
            f"{given or own}: a plan for rank {plan.rank} and {len(plan.channels)} channels; "
            f"{data.root} has rank {data.rank} and {len(data.channels)}."
        )
    return plan


def keep_plan(plan: Plan, own: Path) -> None:
    """Write ``plan`` to ``own`` unless it is there already."""
    if not own.exists() or read_plan(own) != plan:
        write_plan(plan, own, force=True)


def plan_options(
    name: str, plan: Plan, preset: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Strides that follow an anisotropic plan; isotropic ones are the networks' own.

    ``given`` are the options that stand, such as a number of levels.
    """
    if all(len(set(level)) == 1 for level in plan.strides):
        return {}
    defaults = catalog.resolve(name, plan.rank, preset, **given)
    levels = [tuple(level) for level in plan.strides]
    if name in ("dynunet", "umamba_bot", "umamba_enc"):
        n = min(len(defaults["channels"]), len(levels))
        return {"channels": defaults["channels"][:n], "strides": levels[:n]}
    if name == "unet":
        n = min(len(defaults["channels"]), len(levels))
        return {"channels": defaults["channels"][:n], "strides": levels[1:n]}
    if max(grid.per_axis(defaults["patch"], plan.rank, "patch")) > 2:
        levels[1:3] = [tuple(a * b for a, b in zip(*levels[1:3], strict=True))]
    # As published, Swin UNETR reduces once more after its last level.
    halvings = len(defaults["depths"]) - (0 if defaults.get("outputs") == "start" else 1)
    rest = levels[2 : 2 + halvings]
    rest += [(1,) * plan.rank] * (halvings - len(rest))
    return {"patch": levels[1], "strides": rest}
