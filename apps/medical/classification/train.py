"""Train a classifier of images or bags on a data set, fold by fold, with or without a teacher.

    RUN/fold_0/config.yaml, metrics.csv, log.jsonl, env.json, checkpoints/    see core.training
    RUN/fold_0/model.safetensors, model.json       the last average of the weights: a model folder
    RUN/fold_0/validation.json                     probabilities of every validation case, and scores
    RUN/full/                                      from `--fold full`: every case, no validation
    RUN/cv_summary.json                            all folds together

RUN itself is a model: the ensemble of its folds.  Nothing is chosen on validation cases unless
``val_every`` is given; then the best of those weights are kept, and the results say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apps.medical.classification.bags import require_unseen_features
from apps.medical.classification.catalog import BAGS
from apps.medical.classification.data import (
    LabelledCase,
    LabelledData,
    only,
    open_labelled,
    patient_folds,
    rank_and_channels,
    relabelled,
)
from apps.medical.classification.distillation import Distillation
from apps.medical.classification.inputs import (
    BagPreparation,
    ImagePreparation,
    PreparedInputs,
    fit_bags,
    fit_images,
)
from apps.medical.classification.learning import (
    ClassAugmentation,
    ClassBatches,
    ClassTask,
)
from apps.medical.classification.networks import ClassifierNetwork, backbone_config
from apps.medical.classification.scores import described, measured, summarise
from apps.medical.classification.store import (
    BagNetwork,
    ClassifierModel,
    ClassifierSpec,
    build,
    fingerprints,
    save_classifier,
)
from apps.medical.classification.teacher import load_teacher, require_fitting, require_unseen
from apps.medical.data.splits import digest, fold_folder
from core import grid
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.files import sha256, write_json
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.training import TrainConfig, fit, load_weights
from core.training.seeding import derive
from core.weights.folder import METADATA, TENSORS, load_state

FOLDS = 5
DEFAULT_STEPS = 1000
SIZES = {2: 128, 3: 48}
INTENDED_USE = "Research use only. Not a medical device; not for diagnosis or treatment."


class ClassSettings(StrictModel):
    """What a run is made with, beside ``TrainConfig``.

    ``size``: the network's grid, one number or one an axis (None: 128 in 2-D, 48 in 3-D, or the
    teacher's).  ``smoothing`` None: 0.1 for images (DeiT), 0 for bags.  ``token``: a student has a
    distillation token.
    """

    size: int | tuple[int, ...] | None = None
    batch: int = 16
    balanced: bool = True
    smoothing: float | None = None
    token: bool = True
    augmentation: ClassAugmentation = ClassAugmentation()
    distillation: Distillation = Distillation()


@dataclass(frozen=True)
class ClassFold:
    """Where one fold ended."""

    fold: str
    folder: Path
    steps: int
    seconds: float
    stopped_because: str
    results: dict[str, Any]

    def report(self) -> dict[str, Any]:
        """For a machine; without the cases."""
        return {
            "fold": self.fold,
            "folder": str(self.folder),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "stopped_because": self.stopped_because,
            **{key: value for key, value in self.results.items() if key != "cases"},
        }

    def text(self) -> str:
        """For a person."""
        minutes = f"{self.seconds / 60:.1f} min ({self.stopped_because})"
        head = f"fold {self.fold}: {self.steps} steps in {minutes}; model in {self.folder}"
        return "\n".join([head, *described(self.results)])


def class_config(
    *,
    bags: bool = False,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    **given: Any,
) -> TrainConfig:
    """Defaults: AdamW at 1e-3 with decay 0.05 for images (DeiT's decay), at 2e-4 with 1e-5 for bags.

    The latter are R2T-MIL's published settings.  Raises UsageError naming the setting that is wrong.
    """
    if max_steps is None and max_minutes is None:
        max_steps = DEFAULT_STEPS
    own = {"lr": 2e-4, "weight_decay": 1e-5} if bags else {"lr": 1e-3, "weight_decay": 0.05}
    chosen = {key: value for key, value in given.items() if value is not None}
    values = {"warmup_steps": 20, "ema_decay": 0.99, **own, **chosen}
    limits = {"max_steps": max_steps, "max_minutes": max_minutes}
    return validate(TrainConfig, {**values, **limits}, "training settings")


def train_classifier(
    dataset: Path,
    network: str,
    out: Path,
    *,
    fold: str = "0",
    options: Mapping[str, Any] | None = None,
    settings: ClassSettings | None = None,
    config: TrainConfig | None = None,
    teacher: Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[ClassFold]:
    """Train ``network`` on one fold ("0" to "4"), on "all", or on "full" (no validation).

    ``teacher``: a run or model folder of ``train_classifier``; of a run the same fold's model
    teaches.  It must know the same classes and must not have seen a validation case: compared by
    the files' content.

    Raises UsageError for unknown names, a teacher that does not fit, or an ``out`` that holds a run;
    DataError for unreadable data; whatever ``core.training.fit`` raises.
    """
    progress = progress or SilentProgress()
    if fold not in ("all", "full", *map(str, range(FOLDS))):
        raise UsageError(f"--fold {fold}: want 0 to {FOLDS - 1}, all, or full (every case).")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out needs a folder")
    data = only(open_labelled(dataset), "bags" if network in BAGS else "images")
    if data.problems:
        progress.message(
            f"{data.root}: {len(data.problems)} rows are left out, first: {data.problems[0]}"
        )
    settings = settings or ClassSettings()
    config = config or class_config(bags=data.kind == "bags")
    results = []
    for name, (training, validation) in _splits(data, fold).items():
        results.append(
            _train_fold(
                name,
                data,
                (training, validation),
                network,
                dict(options or {}),
                out / fold_folder(name),
                settings,
                config,
                None if teacher is None else load_teacher(teacher, fold_folder(name), device),
                resume=resume,
                force=force,
                device=device,
                progress=progress,
            )
        )
    summary = summarise(out, data.classes, config.seed)
    if summary:
        write_json(out / "cv_summary.json", summary, force=True)
    return results


def _train_fold(
    fold: str,
    data: LabelledData,
    split: tuple[list[str], list[str]],
    name: str,
    options: dict[str, Any],
    folder: Path,
    settings: ClassSettings,
    config: TrainConfig,
    teacher: ClassifierModel | None,
    *,
    resume: bool,
    force: bool,
    device: torch.device | str,
    progress: Progress,
) -> ClassFold:
    if teacher is not None:
        require_fitting(teacher, data, settings.size)
        data = relabelled(data, teacher.spec.classes, str(teacher.folder))
    training, validation = data.take(split[0]), data.take(split[1])
    if teacher is not None:
        require_unseen(teacher, validation)
    preparation: ImagePreparation | BagPreparation
    network: ClassifierNetwork | BagNetwork
    if data.kind == "bags":
        require_unseen_features(data, validation)
        preparation = fit_bags(training)
        network = BagNetwork(
            name=name,  # one of BAGS, see train_classifier
            in_dim=preparation.dim,
            classes=len(data.classes),
            options=options,
        )
    else:
        preparation = _images(data, training, settings, teacher, progress)
        network = ClassifierNetwork(
            name=name,
            rank=preparation.rank,
            in_channels=preparation.channels,
            classes=len(data.classes),
            size=preparation.size,
            distilled=teacher is not None and settings.token,
            options=options,
        )
        backbone_config(network)  # a wrong name or option before anything is written
    torch.manual_seed(derive(config.seed, "weights", 0) % 2**63)
    net = build(network)
    inputs = PreparedInputs([*training, *validation], preparation)
    smoothing = settings.smoothing
    if smoothing is None:
        smoothing = 0.0 if data.kind == "bags" else 0.1
    if force and not resume:  # the results of the run that is being replaced
        for old in (METADATA, TENSORS, "validation.json"):
            (folder / old).unlink(missing_ok=True)
    result = fit(
        net,
        ClassTask(
            inputs,
            validation,
            teacher=None if teacher is None else teacher.networks[0].to(device),
            distillation=settings.distillation,
            smoothing=smoothing,
        ),
        ClassBatches(
            inputs,
            training,
            settings.batch,
            config.seed,
            settings.augmentation,
            balanced=settings.balanced,
        ),
        config,
        folder,
        resume=resume,
        force=force,
        progress=progress,
        device=device,
        context={
            "fold": fold,
            "network": network.model_dump(mode="json"),
            "preparation": preparation.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "classes": list(data.classes),
            "teacher": None if teacher is None else sha256(teacher.folder / TENSORS),
            "training_cases": digest(split[0]),
        },
    )
    chosen = config.val_every is not None and bool(validation)
    source = result.best if chosen else result.last
    load_state(net, load_weights(source), str(source))
    net.to(device).eval()
    results: dict[str, Any] = {}
    if validation:
        progress.message(f"fold {fold}: measuring {len(validation)} validation cases")
        results = measured(net, inputs, validation, training, data.classes, config.seed)
        results["weights_chosen_on_these_cases"] = chosen
        write_json(folder / "validation.json", results, force=True)
    spec = ClassifierSpec(
        network=network,
        preparation=preparation,
        classes=list(data.classes),
        training={
            "dataset": data.name,
            "fold": fold,
            "cases": len(training),
            "seen": fingerprints(training),
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "teacher": None if teacher is None else teacher.spec.network.name,
            "settings": settings.model_dump(mode="json"),
            "config": config.model_dump(),
            "environment": environment(config.seed),
        },
        metrics={key: value for key, value in results.items() if key != "cases"},
        intended_use=INTENDED_USE,
    )
    save_classifier(folder, net, spec, force=True)
    return ClassFold(
        fold, folder, result.steps, result.seconds, str(result.stopped_because), results
    )


def _images(
    data: LabelledData,
    training: Sequence[LabelledCase],
    settings: ClassSettings,
    teacher: ClassifierModel | None,
    progress: Progress,
) -> ImagePreparation:
    """The teacher's preparation, so that both see the same values, or one made for ``training``."""
    if teacher is not None:
        assert isinstance(teacher.spec.preparation, ImagePreparation)  # see require_fitting
        return teacher.spec.preparation
    rank, channels = rank_and_channels(data)
    wanted = SIZES[rank] if settings.size is None else settings.size
    size = grid.per_axis(wanted, rank, "size")
    return fit_images(training, rank, channels, size, progress)  # type: ignore[arg-type]


def _splits(data: LabelledData, fold: str) -> dict[str, tuple[list[str], list[str]]]:
    if fold == "full":
        return {fold: ([case.id for case in data.cases], [])}
    made = patient_folds(data, min(FOLDS, len({case.patient for case in data.cases})))
    splits = {str(i): split for i, split in enumerate(made)}
    if fold != "all" and fold not in splits:
        raise DataError(f"{data.root}: {len(splits)} patients make {len(splits)} folds, not {fold}")
    splits = splits if fold == "all" else {fold: splits[fold]}
    for name, (training, _) in splits.items():
        found = {case.label for case in data.take(training)}
        lost = [c for i, c in enumerate(data.classes) if i not in found]
        if lost:
            raise DataError(
                f"{data.root}: no case of class {lost[0]!r} is left to train fold {name} on; its "
                "patients are all in validation: add patients of it"
            )
    return splits
