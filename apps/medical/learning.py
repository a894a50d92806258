"""What a segmentation network learns from, minimises and is measured by: this app's training task.

Three pieces that ``core.training`` and ``train`` put together: batches of augmented patches, the
loss with its quick validation, and the full measurement of whole cases on their own grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.medical.data.augment import Augmentation, training_transform
from apps.medical.data.plan import Plan
from apps.medical.data.preprocess import load_sample, restore
from apps.medical.data.store import PreparedCases
from apps.medical.data.targets import instances_from_classes
from apps.medical.data.volume import Volume
from apps.medical.losses import LossName, make_loss
from apps.medical.metrics import instance_metrics, mask_metrics, overlap
from apps.medical.sliding import sliding_argmax
from core.progress import Progress, SilentProgress
from core.training.seeding import derive


class SegmentationBatches:
    """Batch ``i``: augmented patches of the next cases of a seeded shuffle, repeated for ever."""

    def __init__(
        self, cases: PreparedCases, ids: Sequence[str], seed: int, settings: Augmentation | None
    ) -> None:
        self.cases, self.ids, self.seed = cases, list(ids), seed
        self.transform = training_transform(cases.plan, settings)

    def batch_at(self, index: int) -> dict[str, Tensor]:
        size = self.cases.plan.batch
        patches = [self._patch(index * size + i) for i in range(size)]
        return {key: torch.stack([p[key] for p in patches]) for key in ("image", "label")}

    def _patch(self, n: int) -> dict[str, Tensor]:
        epoch, place = divmod(n, len(self.ids))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.ids))
        sample = self.cases[self.ids[order[place]]]
        return self.transform(sample, derive(self.seed, "patch", n))


class SegmentationTask:
    """Minimises a loss at every scale of the network; validated by the mean Dice of whole cases."""

    monitor = "dice"
    mode: Literal["max", "min"] = "max"

    def __init__(
        self, cases: PreparedCases, validation: Sequence[str], loss: LossName = "dice_ce"
    ) -> None:
        self.cases, self.validation = cases, list(validation)
        self.criterion = make_loss(loss)

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        logits = network(batch["image"])
        maps = logits if isinstance(logits, list) else [logits]
        total, weights = torch.zeros((), device=maps[0].device), 0.0
        for i, scores in enumerate(maps):
            label = batch["label"]
            if scores.shape[2:] != label.shape[2:]:
                label = F.interpolate(label.float(), scores.shape[2:], mode="nearest")
            total = total + 0.5**i * self.criterion(scores.float(), label)
            weights += 0.5**i
        return total / weights, {}

    def validate(self, network: nn.Module) -> dict[str, float]:
        plan = self.cases.plan
        device = next(network.parameters()).device
        dice: list[list[float]] = []
        for case_id in self.validation:
            sample = self.cases[case_id]
            found = sliding_argmax(
                sample["image"], network, plan.patch, batch=plan.batch, device=device
            )
            dice.append(_dice(found, np.asarray(sample["label"][0]), plan))
        if not dice:
            return {self.monitor: 0.0}
        means = [float(np.nanmean(c)) if not np.isnan(c).all() else 0.0 for c in np.array(dice).T]
        return {self.monitor: float(np.mean(means))} | {
            f"dice_{i + 1}": value for i, value in enumerate(means)
        }


def _dice(found: np.ndarray, truth: np.ndarray, plan: Plan) -> list[float]:
    """Dice of each foreground class of one case; NaN where neither has it."""
    if plan.target == "instances":
        pairs = [(found > 0, truth > 0)]
    else:
        pairs = [(found == k, truth == k) for k in range(1, plan.out_channels)]
    return [overlap(a, b)[0] for a, b in pairs]


def validate_cases(
    network: nn.Module,
    cases: PreparedCases,
    ids: Sequence[str],
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Dice, IoU, HD95 (mm) and NSD at 1 mm of each case on its own grid, and their means.

    {"cases": {id: {label: {metric: value}}}, "mean": {label: {metric: value}}}; means leave out
    the cases where a metric is undefined (both masks empty).
    """
    plan, rows = cases.plan, {}
    network = network.to(device).eval()
    with (progress or SilentProgress()).task("validating", total=len(ids)) as task:
        for case_id in ids:
            case = cases.dataset.case(case_id)
            sample, prepared = load_sample(cases.dataset, case, plan)
            found = sliding_argmax(
                sample["image"], network, plan.patch, batch=plan.batch, device=device
            )
            truth = cases.dataset.read_label(case)
            restored = restore(found, prepared).reshape(truth.array.shape)
            if plan.target == "instances":
                rows[case_id] = {"foreground": _objects(restored, truth)}
            else:
                rows[case_id] = {
                    name: mask_metrics(restored == k, truth.array == k, truth.spacing, 1.0)
                    for k, name in plan.labels.items()
                    if k != 0
                }
            task.advance(1, note=case_id)
    return {"cases": rows, "mean": mean_metrics(rows.values())} if rows else {}


def _objects(classes: np.ndarray, truth: Volume) -> dict[str, float]:
    """Background, interior and border against numbered objects: as masks, and object by object."""
    found = instances_from_classes(classes)
    masks = mask_metrics(found > 0, truth.array > 0, truth.spacing, 1.0)
    objects = instance_metrics(found, truth.array)
    return masks | {key: objects[key] for key in ("f1_50", "ap_50", "ap_mean", "pq", "aji")}


def mean_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean of every metric of every label over cases, without those where it is undefined."""
    rows = list(rows)
    means: dict[str, dict[str, float | None]] = {}
    for label in rows[0]:
        means[label] = {}
        for metric in rows[0][label]:
            values = [r[label][metric] for r in rows if r[label][metric] is not None]
            values = [v for v in values if not np.isnan(v)]
            means[label][metric] = float(np.mean(values)) if values else None
    return means
