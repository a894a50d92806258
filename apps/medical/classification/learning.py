"""What a classifier learns from, minimises and is measured by, for ``core.training.fit``.

Batches are functions of their number: which cases, how they are turned, which instances of a bag.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from apps.medical.classification.data import LabelledCase
from apps.medical.classification.distillation import Distillation, distillation_loss
from apps.medical.classification.inputs import PreparedInputs
from apps.medical.classification.metrics import balanced_accuracy, mean_auroc
from core.config import StrictModel
from core.training.seeding import derive


class ClassAugmentation(StrictModel):
    """``flip``: mirror each axis with this probability (0 where left and right matter).

    ``rotation`` in degrees and ``scale`` bound a random affine map; ``intensity`` the gain and the
    offset, in deviations.  ``instances``: most of a bag's that a step sees.
    """

    flip: float = Field(0.5, ge=0, le=1)
    rotation: float = Field(20.0, ge=0, le=180)
    scale: float = Field(0.2, ge=0, lt=1)
    intensity: float = Field(0.2, ge=0)
    instances: int = Field(4096, ge=1)


class ClassBatches:
    """Batch ``i``: augmented inputs, labels, and for a teacher nothing more.

    ``balanced``: each example's class is drawn first, all alike, then one of its cases; otherwise
    the cases come as they are, shuffled anew each time round.  Bags come one by one.
    """

    def __init__(
        self,
        inputs: PreparedInputs,
        cases: Sequence[LabelledCase],
        batch: int,
        seed: int,
        augmentation: ClassAugmentation,
        *,
        balanced: bool = True,
    ) -> None:
        self.inputs, self.cases, self.seed = inputs, list(cases), seed
        self.bags = inputs.preparation.kind == "bags"
        self.batch = 1 if self.bags else batch
        self.augmentation, self.balanced = augmentation, balanced
        self.by_class: list[list[LabelledCase]] = [
            [c for c in self.cases if c.label == label]
            for label in sorted({c.label for c in self.cases})
        ]

    def batch_at(self, index: int) -> dict[str, Tensor]:
        chosen = [self._case(index * self.batch + i) for i in range(self.batch)]
        inputs = [self._augmented(case, index * self.batch + i) for i, case in enumerate(chosen)]
        labels = torch.tensor([case.label for case in chosen])
        return {"input": torch.stack(inputs), "label": labels}

    def _case(self, n: int) -> LabelledCase:
        if self.balanced:
            random = np.random.default_rng(derive(self.seed, "case", n))
            own = self.by_class[random.integers(len(self.by_class))]
            return own[random.integers(len(own))]
        epoch, place = divmod(n, len(self.cases))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.cases))
        return self.cases[order[place]]

    def _augmented(self, case: LabelledCase, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.seed, "example", n) % 2**63)
        value = self.inputs[case.id]
        if self.bags:
            most = self.augmentation.instances
            if value.shape[0] <= most:
                return value
            kept = torch.randperm(value.shape[0], generator=generator)[:most]
            return value[kept.sort().values]  # neighbours stay neighbours
        return augmented(value, self.augmentation, generator)


def augmented(image: Tensor, settings: ClassAugmentation, generator: torch.Generator) -> Tensor:
    """Image (C, *S), mirrored, turned, scaled and with another contrast, the size kept."""

    def draw(bound: float) -> float:
        return bound * (2 * float(torch.rand((), generator=generator)) - 1)

    rank = image.ndim - 1
    for axis in range(1, rank + 1):
        if float(torch.rand((), generator=generator)) < settings.flip:
            image = image.flip(axis)
    if settings.rotation or settings.scale:
        planes = [(0, 1)] if rank == 2 else [(0, 1), (0, 2), (1, 2)]
        matrix = torch.eye(rank) * (1 + draw(settings.scale))
        for i, j in planes:
            angle = math.radians(draw(settings.rotation))
            turn = torch.eye(rank)
            turn[i, i] = turn[j, j] = math.cos(angle)
            turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        theta = torch.cat((matrix, torch.zeros(rank, 1)), 1)[None]
        grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
        image = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
    return image * (1 + draw(settings.intensity)) + draw(settings.intensity)


class ClassTask:
    """Cross-entropy, or with a ``teacher`` the loss of ``distillation``.

    Validated by cross-entropy (the lowest is best), balanced accuracy and AUROC.
    """

    monitor = "loss"
    mode: Literal["max", "min"] = "min"

    def __init__(
        self,
        inputs: PreparedInputs,
        validation: Sequence[LabelledCase],
        *,
        teacher: nn.Module | None = None,
        distillation: Distillation | None = None,
        smoothing: float = 0.1,
    ) -> None:
        self.inputs, self.validation = inputs, list(validation)
        self.teacher, self.smoothing = teacher, smoothing
        self.distillation = distillation or Distillation()

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        logits = network(batch["input"]).float()
        if self.teacher is None:
            if logits.ndim == 3:
                logits = logits[:, 0]
            return F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing), {}
        with torch.no_grad():
            said = self.teacher.to(logits.device)(batch["input"]).float()
        return distillation_loss(logits, batch["label"], said, self.distillation, self.smoothing)

    def validate(self, network: nn.Module) -> dict[str, float]:
        if not self.validation:
            return {self.monitor: 0.0}
        p, _ = probabilities(network, self.inputs, self.validation)
        y = np.array([case.label for case in self.validation])
        return {
            self.monitor: float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()),
            "balanced_accuracy": balanced_accuracy(p, y),
            "auroc": mean_auroc(p, y),
        }


@torch.no_grad()
def probabilities(
    network: nn.Module,
    inputs: PreparedInputs,
    cases: Sequence[LabelledCase],
    *,
    features: bool = False,
    batch: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities (n, K) of ``cases`` and, if wanted, their features (n, C), else (n, 0)."""
    device = next(network.parameters()).device
    size = 1 if inputs.preparation.kind == "bags" else batch
    found: list[Tensor] = []
    vectors: list[Tensor] = []
    for at in range(0, len(cases), size):
        given = torch.stack([inputs[c.id] for c in cases[at : at + size]]).to(device)
        found.append(network(given).double().softmax(1).cpu())
        if features:
            vectors.append(network.features(given).double().cpu())  # type: ignore[operator]
    probable = torch.cat(found).numpy()
    return probable, torch.cat(vectors).numpy() if features else np.zeros((len(probable), 0))
