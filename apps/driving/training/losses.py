"""A driver's losses: one number per task, in the order of ``config.TASKS``.

As LeTFuser's: segmentation, L1 of the waypoints, steering, throttle and brake, the red light, the
stop sign, L1 of the speed. Deviates from its code: one softmax over the classes instead of a sigmoid
for each, and L1 of the light's probability is a cross-entropy, weighted for the rare yes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

IGNORED = 255
"""The class of a pixel without a truth."""

CLASSIFICATION = (True, False, False, False, False, True, True, False)
"""Which of ``TASKS`` are cross-entropies."""


@dataclass(frozen=True)
class Losses:
    """``classes``: weight of each class's pixels (K,). ``yes``: of a red light and a stop sign."""

    classes: Sequence[float]
    yes: tuple[float, float] = (1.0, 1.0)
    dice: float = 0.5

    def __call__(self, outputs: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
        """(n,) losses of a batch. ``outputs``: fields of the model's Outputs. ``truth``: see ``batches``."""
        control = (outputs["control"] - truth["control"]).abs().mean(0)
        return torch.stack(
            [
                self.semantics(outputs["semantics"], truth["semantics"]),
                waypoint_loss(outputs["waypoints"], truth["waypoints"]),
                *control.unbind(),
                yes_loss(outputs["red_light"], truth["red_light"], self.yes[0]),
                yes_loss(outputs["stop_sign"], truth["stop_sign"], self.yes[1]),
                (outputs["speed"] - truth["speed"]).abs().mean(),
            ]
        )

    def semantics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits (B, K, h, w), labels (B, h, w) int64 -> cross-entropy + ``dice`` x Dice loss."""
        logarithms = F.log_softmax(logits, dim=1)
        weights = torch.tensor(self.classes, device=logits.device, dtype=logits.dtype)
        known = labels != IGNORED
        if not bool(known.any()):
            return logits.sum() * 0.0  # every view was dropped: nothing to compare
        loss = F.nll_loss(logarithms, labels, weights, ignore_index=IGNORED)
        if self.dice > 0:
            # Of the classes in the batch, over the batch: one that is nowhere has no Dice.
            classes = torch.unique(labels[known])
            one_hot = labels.unsqueeze(1) == classes.view(1, -1, 1, 1)
            likely = logarithms[:, classes].exp() * known.unsqueeze(1)
            loss = loss + self.dice * _DICE(likely, one_hot.to(likely.dtype))
        return loss


_DICE = DiceLoss(batch=True)


def waypoint_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Mean L1 of (B, T, 2); points of ``truth`` that are NaN (after the recording's end) are left out."""
    known = torch.isfinite(truth)
    error = torch.where(known, found - torch.nan_to_num(truth), 0.0).abs()
    return error.sum() / known.sum().clamp_min(1)


def yes_loss(logits: Tensor, truth: Tensor, weight: float) -> Tensor:
    """Binary cross-entropy (B,), a yes counting ``weight`` times; their weighted mean."""
    weights = torch.where(truth > 0.5, weight, 1.0)
    losses = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    return (weights * losses).sum() / weights.sum()


def class_weights(shares: Sequence[float]) -> list[float]:
    """Weights of classes from their shares of pixels: 1 / log(1.02 + p), of mean 1 over pixels.

    ENet's (Paszke et al. 2016, section 5.2); a share below 0.001 counts as that.
    """
    p = torch.tensor(shares, dtype=torch.float64)
    w = 1 / torch.log(1.02 + p.clamp_min(1e-3))
    mean = float((w * p).sum() / p.sum().clamp_min(1e-9))
    return [round(float(x) / mean, 4) if mean > 0 else 1.0 for x in w]


def yes_weight(share: float, most: float) -> float:
    """How much a yes counts where ``share`` of the frames have one: as all noes together, at most ``most``."""
    if share <= 0:
        return 1.0
    return min(most, max(1.0, (1 - share) / share))
