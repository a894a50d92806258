"""Exponential moving average of a network's weights.

    e_t = d_t e_{t-1} + (1 - d_t) w_t,    d_t = min(decay, (1 + t) / (10 + t)),    t = 1, 2, ...

The ramp of d_t (as in TensorFlow's ExponentialMovingAverage) lets the average leave the random
initial weights behind within a few dozen steps. Buffers, such as the running statistics of a batch
normalisation, are averages already and are copied.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Holds ``network``, an averaged copy of the network given to it, in evaluation mode."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def decay_at(self, updates: int) -> float:
        """d_t for the ``updates``-th update, counted from 1."""
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Move the average towards ``network`` (update number ``updates``, from 1)."""
        average: list[Tensor] = list(self.network.parameters())
        current: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(average, current, 1.0 - self.decay_at(updates))
        for kept, new in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(new)
