"""Open-loop metrics of a driver on recorded frames. They say little about driving: see ``drive``.

ade / fde    mean distance to the expert's positions, over all and at the last horizon, m
miou         mean over the classes that occur of intersection over union, of all pixels together
f1           of the red light and the stop sign, yes above 0.5, and of the brake, above ``BRAKES``
mae          of steering, throttle, brake and speed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from apps.driving.training.losses import IGNORED

SECONDS = 0.5
"""Between two waypoints."""

BRAKES = 0.1
"""Of the pedal's way: from here on a car brakes."""


class Metrics:
    """Sums over batches; ``result`` divides them."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        k = len(self.classes)
        self.confusion = torch.zeros(k, k, dtype=torch.long)  # truth x found
        self.sums: dict[str, Tensor] = {}
        self.frames = 0

    def add(self, outputs: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> None:
        """Count a batch; ``outputs`` and ``truth`` as for ``losses.Losses``."""
        out = {name: value.detach().float().cpu() for name, value in outputs.items()}
        true = {name: value.cpu() for name, value in truth.items()}
        self.frames += len(true["speed"])
        self._segmentation(out["semantics"], true["semantics"])
        points, known = true["waypoints"], torch.isfinite(true["waypoints"]).all(-1)
        self._distances("waypoints", out["waypoints"], points, known)
        self._distances("constant speed", _straight_on(true["speed"], points), points, known)
        self._sum("control", (out["control"] - true["control"]).abs().sum(0))
        self._sum("brake", _counts(out["control"][:, 2] > BRAKES, true["control"][:, 2] > BRAKES))
        self._sum("speed", (out["speed"] - true["speed"]).abs().sum())
        for name in ("red_light", "stop_sign"):
            self._sum(name, _counts(out[name] > 0, true[name] > 0.5))

    def result(self) -> dict[str, Any]:
        """Everything, for model.json; None where it is undefined (no red light among the frames)."""
        if not self.frames:
            raise ValueError("no frame was added")
        steer, throttle, brake = (self.sums["control"] / self.frames).tolist()
        return {
            "frames": self.frames,
            "miou": self._miou(),
            "iou": dict(zip(self.classes, self._iou())),
            "waypoints": self._horizons("waypoints"),
            # What it costs to assume that the car goes straight on at its speed.
            "waypoints_constant_speed": self._horizons("constant speed"),
            "red_light": _rates(self.sums["red_light"]),
            "stop_sign": _rates(self.sums["stop_sign"]),
            "brake": _rates(self.sums["brake"]) | {"mae": brake},
            "steer_mae": steer,
            "throttle_mae": throttle,
            "speed_mae": float(self.sums["speed"]) / self.frames,
        }

    def brief(self) -> dict[str, float]:
        """A dozen numbers, NaN where undefined, for the log of a training."""
        full = self.result()

        def number(value: float | None) -> float:
            return float("nan") if value is None else value

        return {
            "miou": number(full["miou"]),
            "ade": number(full["waypoints"]["ade"]),
            "fde": number(full["waypoints"]["fde"]),
            "red_light_f1": number(full["red_light"]["f1"]),
            "stop_sign_f1": number(full["stop_sign"]["f1"]),
            "brake_f1": number(full["brake"]["f1"]),
            "steer_mae": full["steer_mae"],
            "throttle_mae": full["throttle_mae"],
            "brake_mae": full["brake"]["mae"],
            "speed_mae": full["speed_mae"],
        }

    def _segmentation(self, logits: Tensor, labels: Tensor) -> None:
        known = labels != IGNORED
        k = len(self.classes)
        pairs = labels[known] * k + logits.argmax(1)[known]
        self.confusion += torch.bincount(pairs, minlength=k * k).view(k, k)

    def _distances(self, name: str, found: Tensor, truth: Tensor, known: Tensor) -> None:
        distance = torch.linalg.vector_norm(found - torch.nan_to_num(truth), dim=-1) * known
        self._sum(name, torch.stack([distance.sum(0), known.sum(0).float()]))

    def _sum(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums.get(name, torch.zeros(())) + values.double()

    def _iou(self) -> list[float | None]:
        hit = self.confusion.diag().double()
        either = self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diag()
        return [float(h / e) if e > 0 else None for h, e in zip(hit, either)]

    def _miou(self) -> float | None:
        occurs = self.confusion.sum(1) > 0
        found = [v for v, yes in zip(self._iou(), occurs.tolist()) if yes and v is not None]
        return sum(found) / len(found) if found else None

    def _horizons(self, name: str) -> dict[str, float | None]:
        total, count = self.sums[name]
        each = [float(t / c) if c > 0 else None for t, c in zip(total, count)]
        metres = {f"{SECONDS * (i + 1):g}s": value for i, value in enumerate(each)}
        ade = float(total.sum() / count.sum()) if count.sum() > 0 else None
        return {"ade": ade, "fde": each[-1]} | metres


def _straight_on(speed: Tensor, points: Tensor) -> Tensor:
    steps = torch.arange(1, points.shape[1] + 1) * SECONDS
    ahead = speed.view(-1, 1) * steps
    return torch.stack([ahead, torch.zeros_like(ahead)], dim=-1)


def _counts(found: Tensor, truth: Tensor) -> Tensor:
    """(true positives, false positives, false negatives)."""
    pairs = [found & truth, found & ~truth, ~found & truth]
    return torch.stack([p.sum().float() for p in pairs])


def _rates(counts: Tensor) -> dict[str, Any]:
    hit, wrong, missed = counts.tolist()
    return {
        "f1": 2 * hit / (2 * hit + wrong + missed) if hit + wrong + missed else None,
        "precision": hit / (hit + wrong) if hit + wrong else None,
        "recall": hit / (hit + missed) if hit + missed else None,
        "frames": int(hit + missed),
    }
