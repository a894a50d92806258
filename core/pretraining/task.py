"""The training task of every pretext: minimise its loss, validate on images that were held out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn


class PretrainTask:
    """For ``core.training.fit``.  A batch is {"image": (B, C, *S), "inside": (B, 1, *S) bool}.

    ``inside`` may be left out where nothing is padding.  ``held_out`` are batches that can be gone
    through again and again.  Validation masks them as training would, from the same generator
    state at the same step; ``gain`` is 1 - reconstruction / floor: 0 for a network that says the
    mean of what it sees, 1 for a perfect one.
    """

    monitor = "reconstruction"
    mode: Literal["max", "min"] = "min"

    def __init__(self, held_out: Iterable[Any]) -> None:
        self.held_out = held_out

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        found = network(batch["image"], batch.get("inside"))
        parts = {name: float(value) for name, value in found.items() if name != "loss"}
        return found["loss"], parts

    def validate(self, network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        sums: dict[str, float] = defaultdict(float)
        images = 0
        for batch in self.held_out:
            batch = {key: value.to(device) for key, value in batch.items()}
            count = len(batch["image"])
            for name, value in network(batch["image"], batch.get("inside")).items():
                sums[name] += count * float(value.detach())
            images += count
        means = {name: value / images for name, value in sums.items()}
        if not means:
            return {self.monitor: math.nan}
        gain = 1 - means[self.monitor] / means["floor"] if means["floor"] > 0 else math.nan
        return {**means, "gain": gain}
