"""Fit a ShapeFormer to one ``.ts`` file, say how well it does on another, keep it in a folder.

What is chosen is chosen on a part of the training file that is held back: shapelets, scaling and
weights come from the rest of it, the epoch that is kept is the one with the least loss on the part
held back.  The test file is read once, at the end: its labels reach nothing but the scores.

Protocol of the authors' code that this replaces: the epoch with the best accuracy on the test set
is kept and that accuracy reported (xuanmay2701/shapeformer, Training.py), so that their published
figures are not comparable.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from apps.timeseries.classification import nearest
from apps.timeseries.classification.shapeformer import Matches, ShapeFormer, ShapeFormerConfig
from apps.timeseries.classification.shapelets import Shapelet, discover
from apps.timeseries.classification.ts_files import Cases, read_ts
from apps.timeseries.data.windows import Scaling
from core.config import StrictModel, validate
from core.errors import DataError, UsageError
from core.files import require_writable, sha256, write_json
from core.progress import Progress, get_progress
from core.training.seeding import seeded
from core.weights.folder import METADATA, TENSORS, load_folder, load_state, save_folder

REPORT = "report.json"
WARPING_CELLS = 20_000_000_000
"""Alignments beyond so many table cells (about ten minutes) are left out of the report."""


class Options(StrictModel):
    """``window`` None: half of the longest training series.  ``validation``: share held back.

    ``most``: candidates that discovery tries.  ``patience``: epochs without a lower loss.
    """

    per_class: int = Field(10, ge=1)
    window: int | None = Field(None, ge=1)
    points: float = Field(0.2, gt=0, le=1)
    most: int = Field(40_000, ge=1)
    dim: int = Field(64, ge=1)
    generic_dim: int = Field(32, ge=1)
    heads: int = Field(4, ge=1)
    ffn: int = Field(128, ge=1)
    kernel: int = Field(8, ge=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    rate: float = Field(1e-3, gt=0)
    decay: float = Field(5e-4, ge=0)
    batch: int = Field(16, ge=1)
    epochs: int = Field(150, ge=1)
    patience: int = Field(40, ge=1)
    validation: float = 0.2


class ClassifierSpec(StrictModel):
    """Everything about a classifier but its tensors: ``model.json``."""

    app: Literal["timeseries"] = "timeseries"
    task: Literal["classification"] = "classification"
    format: Literal[1] = 1
    network: dict[str, Any]
    classes: list[str]
    data: dict[str, Any]
    options: Options
    shapelets: list[dict[str, Any]]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Scale(Scaling):
    """Mean and deviation of each channel, (C,)."""

    @classmethod
    def of_cases(cls, cases: Cases) -> Scale:
        """Of every value that is there; deviation 1 for a constant channel."""
        found = Scaling.of(np.concatenate(cases.series, 1).T)
        return cls(found.mean, found.std)

    def arrays(self, cases: Cases) -> tuple[np.ndarray, np.ndarray]:
        """Scaled series (n, C, longest), 0 beyond their ends, and lengths (n,).

        A missing value lies on the line between its neighbours in time, the nearest's at an end; a
        channel without any value is 0, the mean.
        """
        lengths = cases.lengths
        arrays = np.zeros((len(lengths), cases.channels, int(lengths.max())))
        for row, series in zip(arrays, cases.series):
            scaled = (series - self.mean[:, None]) / self.std[:, None]
            for c in np.flatnonzero(np.isnan(scaled).any(1)):
                seen = np.flatnonzero(~np.isnan(scaled[c]))
                at = np.arange(scaled.shape[1])
                scaled[c] = np.interp(at, seen, scaled[c, seen]) if len(seen) else 0.0
            row[:, : series.shape[1]] = scaled
        return arrays, lengths


@dataclass(frozen=True)
class Classifier:
    """A trained ShapeFormer with what it needs to read other series."""

    network: ShapeFormer
    scale: Scale
    spec: ClassifierSpec

    def probabilities(self, cases: Cases) -> np.ndarray:
        """Of each case and class, in the order of ``spec.classes``: (n, classes).

        Raises DataError for series of other channels.
        """
        if cases.channels != self.network.config.channels:
            raise DataError(
                f"{cases.name}: series of {cases.channels} channels, and the model was fitted to "
                f"{self.network.config.channels}; give series of the same channels"
            )
        inputs = _inputs(*self.scale.arrays(cases))
        return (
            torch.cat([_scores(self.network, _part(inputs, p)) for p in _parts(len(inputs[0]))])
            .softmax(1)
            .double()
            .numpy()
        )

    def predict(self, cases: Cases) -> list[str]:
        """The likeliest class of each case."""
        return [self.spec.classes[i] for i in self.probabilities(cases).argmax(1)]


def classify(
    train: str | Path | Cases,
    test: str | Path | Cases | None = None,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fit to ``train``, score on ``test``, write a model folder and ``report.json`` to ``out``.

    ``options``: those of ``Options``.  The report holds the accuracy on the test file with its 95 %
    interval (Wilson), each class' recall, the confusion of classes, and the accuracies of the most
    frequent class and of the nearest series (Euclidean where all lengths are equal, dynamic time
    warping), which learn from the whole training file.

    Raises UsageError for a missing file, an unknown option, or a folder that holds a model unless
    ``force``; DataError for files that are not the format, too few cases, or classes and channels
    of ``test`` that ``train`` does not have.
    """
    started = time.perf_counter()
    settings = validate(Options, options, "classify")
    progress = progress or get_progress(quiet=True)
    if out is not None:
        require_writable(Path(out), (TENSORS, METADATA, REPORT), force)
    cases, about = _read(train)
    held, fit = _split(cases, settings.validation, seed)
    tested, test_about = (None, None) if test is None else _read(test)
    truth = None if tested is None else _check_test(cases, tested)
    classifier, fitting = _fit(cases.take(fit), cases.take(held), settings, seed, progress)
    report: dict[str, Any] = {
        "train": about | {"fitted": len(fit), "held_back": len(held)},
        "test": test_about,
        "classes": list(cases.classes),
        "seed": seed,
        "options": settings.model_dump(),
        **fitting,
    }
    if tested is not None and truth is not None:
        found = classifier.probabilities(tested).argmax(1)
        report["scores"] = _scored(truth, found, cases.classes)
        report["baselines"] = _baselines(cases, tested, truth)
    report["seconds"] = round(time.perf_counter() - started, 1)
    if out is not None:
        spec = classifier.spec.model_copy(
            update={"data": about | {"seed": seed}, "metrics": report.get("scores", {})}
        )
        _save(Path(out), classifier, spec, force)
        write_json(Path(out) / REPORT, report, force=True)
    return report


def load(folder: str | Path) -> Classifier:
    """A classifier from the folder that ``classify`` wrote.

    Raises UsageError when there is none, DataError for a folder of another kind or version and for
    damaged weights.
    """
    folder = Path(folder)
    tensors, metadata = load_folder(folder)
    if (metadata.get("app"), metadata.get("task")) != ("timeseries", "classification"):
        raise DataError(f"{folder / METADATA}: is no classifier; give a folder that classify wrote")
    if metadata.get("format") != 1:
        raise DataError(
            f"{folder / METADATA}: has schema version {metadata.get('format')!r}, this program "
            "reads 1; update the program or fit the classifier again"
        )
    try:
        spec = validate(ClassifierSpec, metadata, str(folder / METADATA))
        network = ShapeFormer(_config(spec.network))
    except (UsageError, TypeError, ValueError) as error:
        raise DataError(f"{folder / METADATA}: {error}") from error
    missing = {"scale/mean", "scale/std"} - set(tensors)
    if missing:
        raise DataError(f"{folder}: lacks {min(missing)}; copy the whole folder again")
    scale = Scale(*(tensors.pop(f"scale/{k}").double().numpy() for k in ("mean", "std")))
    load_state(network, tensors, str(folder))
    return Classifier(network.eval(), scale, spec)


def _read(source: str | Path | Cases) -> tuple[Cases, dict[str, Any]]:
    cases = source if isinstance(source, Cases) else read_ts(source)
    lengths = cases.lengths
    about: dict[str, Any] = {
        "name": cases.name,
        "cases": len(lengths),
        "channels": cases.channels,
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "missing": int(sum(np.isnan(s).sum() for s in cases.series)),
    }
    if not isinstance(source, Cases):
        about |= {"file": Path(source).name, "sha256": sha256(Path(source))}
    return cases, about


def _split(cases: Cases, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices held back and kept: of each class the share, at least one where there are two."""
    if not 0 < share < 1:
        raise UsageError(f"validation {share}: a share of the training cases, e.g. 0.2.")
    labels = np.array(cases.labels)
    held = []
    for i, label in enumerate(cases.classes):
        own = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held.append(np.random.default_rng((seed, i)).permutation(own)[: max(0, count)])
    chosen = np.sort(np.concatenate(held))
    kept = np.setdiff1d(np.arange(len(labels)), chosen)
    if len(chosen) == 0 or len(set(labels[kept])) < 2:
        raise DataError(
            f"{cases.name}: {len(labels)} training cases of {len(set(labels))} classes; give two "
            "or more of each of at least two classes, so that some can be held back"
        )
    return chosen, kept


def _check_test(train: Cases, test: Cases) -> np.ndarray:
    if test.channels != train.channels:
        raise DataError(
            f"{test.name}: test series of {test.channels} channels, training series of "
            f"{train.channels}; give files of the same data set"
        )
    strange = sorted(set(test.labels) - set(train.classes))
    if strange:
        raise DataError(
            f"{test.name}: test cases of class {', '.join(strange)}, which the training file does "
            f"not declare ({', '.join(train.classes)}); give files of the same data set"
        )
    return _numbers(test, train.classes)


def _numbers(cases: Cases, classes: tuple[str, ...]) -> np.ndarray:
    return np.array([classes.index(label) for label in cases.labels])


def _fit(
    train: Cases, held: Cases, settings: Options, seed: int, progress: Progress
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, and what to report of how it came about."""
    scale = Scale.of_cases(train)
    arrays, lengths = scale.arrays(train)
    labels = _numbers(train, train.classes)
    T = arrays.shape[2]
    window = T // 2 if settings.window is None else settings.window
    clock = time.perf_counter()
    shapelets = discover(
        arrays,
        lengths,
        labels,
        len(train.classes),
        per_class=settings.per_class,
        window=window,
        points=settings.points,
        most=settings.most,
    )
    if not shapelets:
        raise DataError(
            f"{train.name}: no stretch of any series tells one class from the others; are the "
            "labels right, and the series not constant?"
        )
    discovery = time.perf_counter() - clock
    progress.message(f"{len(shapelets)} shapelets in {discovery:.1f} s")
    network_options = {
        "channels": train.channels,
        "classes": len(train.classes),
        "length": T,
        "sizes": [len(s.values) for s in shapelets],
        "window": window,
        **settings.model_dump(include={"dim", "generic_dim", "heads", "ffn", "kernel", "dropout"}),
    }
    with seeded(seed):
        network = ShapeFormer(_config(network_options))
        network.set_shapelets(shapelets)
        learned = _learn(
            network,
            _matched(network, _inputs(arrays, lengths)),
            torch.from_numpy(labels),
            _matched(network, _inputs(*scale.arrays(held))),
            torch.from_numpy(_numbers(held, train.classes)),
            settings,
            progress,
        )
    described = [_described(s, train.classes) for s in shapelets]
    spec = ClassifierSpec(
        network=network_options,
        classes=list(train.classes),
        data={},
        options=settings,
        shapelets=described,
        metrics={},
    )
    seconds = {"discovery": round(discovery, 1)}
    fitting = {
        "validation": learned,
        "shapelets": described,
        "seconds_of": seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    return Classifier(network.eval(), scale, spec), fitting


def _described(shapelet: Shapelet, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "class": classes[shapelet.label],
        "channel": shapelet.channel,
        "start": shapelet.start,
        "end": shapelet.end,
        "gain": round(shapelet.gain, 4),
    }


def _config(options: dict[str, Any]) -> ShapeFormerConfig:
    return ShapeFormerConfig(**{**options, "sizes": tuple(options.get("sizes", ()))})


Inputs = tuple[Tensor, Tensor, Matches | None]


def _inputs(arrays: np.ndarray, lengths: np.ndarray) -> Inputs:
    return torch.from_numpy(arrays).float(), torch.from_numpy(lengths), None


def _matched(network: ShapeFormer, inputs: Inputs) -> Inputs:
    x, lengths, _ = inputs
    return x, lengths, network.match(x, lengths)


def _part(inputs: Inputs, part: Any) -> Inputs:
    x, lengths, matches = inputs
    kept = None if matches is None else Matches(*(m[part] for m in matches))
    return x[part], lengths[part], kept


def _parts(n: int, size: int = 128) -> list[slice]:
    return [slice(at, at + size) for at in range(0, n, size)]


@torch.no_grad()
def _scores(network: ShapeFormer, inputs: Inputs) -> Tensor:
    return network.eval()(*inputs)


def _learn(
    network: ShapeFormer,
    train: Inputs,
    labels: Tensor,
    held: Inputs,
    held_labels: Tensor,
    settings: Options,
    progress: Progress,
) -> dict[str, Any]:
    """Train, and leave the weights of the epoch with the least loss on what was held back."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.rate, weight_decay=settings.decay
    )
    n = len(labels)
    steps = -(-n // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, settings.epochs * steps, settings.rate / 20
    )
    best: dict[str, Any] = {"loss": float("inf")}
    kept = {k: v.clone() for k, v in network.state_dict().items()}
    with progress.task("epochs", settings.epochs) as task:
        for epoch in range(1, settings.epochs + 1):
            network.train()
            order = torch.randperm(n)
            for at in range(0, n, settings.batch):
                chosen = order[at : at + settings.batch]
                loss = F.cross_entropy(network(*_part(train, chosen)), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 4.0)
                optimizer.step()
                schedule.step()
            scores = torch.cat([_scores(network, _part(held, p)) for p in _parts(len(held_labels))])
            found = float(F.cross_entropy(scores, held_labels))
            task.advance(1)
            if found < best["loss"]:
                right = float((scores.argmax(1) == held_labels).float().mean())
                best = {"loss": found, "accuracy": right, "epoch": epoch}
                kept = {k: v.clone() for k, v in network.state_dict().items()}
            elif epoch - best.get("epoch", 0) >= settings.patience:
                break
    network.load_state_dict(kept)
    if "epoch" not in best:
        raise DataError("training diverged: no finite loss on what was held back; lower the rate")
    return best | {"epochs": epoch}


def _scored(truth: np.ndarray, found: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    K = len(classes)
    confusion = np.bincount(truth * K + found, minlength=K * K).reshape(K, K)
    count = confusion.sum(1)
    recall = {
        label: float(confusion[k, k] / count[k]) for k, label in enumerate(classes) if count[k]
    }
    right = int(np.trace(confusion))
    return {
        "accuracy": right / len(truth),
        "accuracy_interval_95": list(wilson(right, len(truth))),
        "balanced_accuracy": float(np.mean(list(recall.values()))),
        "recall": recall,
        "confusion": confusion.tolist(),  # rows: the true class
        "cases": len(truth),
    }


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share of ``right`` in n (Wilson, 1927)."""
    share, extra = right / n, z * z / n
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * np.sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _baselines(train: Cases, test: Cases, truth: np.ndarray) -> dict[str, Any]:
    """Accuracies of what learns nothing, from the whole training file; None: was left out."""
    labels = _numbers(train, train.classes)
    scale = Scale.of_cases(train)
    (a, n), (b, m) = scale.arrays(train), scale.arrays(test)
    result: dict[str, Any] = {
        "majority": float((truth == nearest.majority(labels, len(train.classes))).mean()),
        "nearest_euclidean": None,
        "nearest_warping": None,
    }
    if len({*n.tolist(), *m.tolist()}) == 1:
        found = labels[nearest.euclidean(a, b).argmin(1)]
        result["nearest_euclidean"] = float((found == truth).mean())
    if len(a) * len(b) * a.shape[2] * b.shape[2] <= WARPING_CELLS:
        found = labels[nearest.warping(a, n, b, m).argmin(1)]
        result["nearest_warping"] = float((found == truth).mean())
    return result


def _save(folder: Path, classifier: Classifier, spec: ClassifierSpec, force: bool) -> None:
    tensors = dict(classifier.network.state_dict())
    tensors["scale/mean"] = torch.from_numpy(classifier.scale.mean)
    tensors["scale/std"] = torch.from_numpy(classifier.scale.std)
    save_folder(folder, tensors, spec.model_dump(mode="json"), force=force)
