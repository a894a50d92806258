"""Pooling as token mixer.

Paper: Yu et al., "MetaFormer is actually what you need for vision", CVPR 2022 (equation 4).
Code it corresponds to: sail-sg/poolformer, transformers' PoolFormerModel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.mixers.base import BlockContext, check_odd, register_mixer
from core.nn import AVG_POOL


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Average over ``size`` (odd) neighbours on every axis, minus the centre."""

    size: int = 3


@register_mixer("pool", PoolConfig)
class Pooling(nn.Module):
    """(B, *S, C) -> (B, *S, C): mean of the neighbours inside the grid, minus x; no parameters."""

    def __init__(self, config: PoolConfig, context: BlockContext) -> None:
        super().__init__()
        check_odd(config.size, "pool size")
        self.rank, self.size = context.rank, config.size
        self.pool = AVG_POOL[context.rank - 1](
            config.size, 1, config.size // 2, count_include_pad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        S = grid.grid_of(x, self.rank)
        first = x.movedim(-1, 1)
        if grid.is_static(S) and min(S) >= self.size:
            return self.pool(first).movedim(1, -1) - x
        # torch refuses a kernel longer than an axis, so pad, sum and count the neighbours inside.
        # A symbolic axis may turn out that short.
        pad = [self.size // 2] * (2 * self.rank)
        total = [F.pad(t, pad) for t in (first, torch.ones_like(first[:1, :1]))]
        mean = [self.pool_inside(t) for t in total]
        return (mean[0] / mean[1]).movedim(1, -1) - x

    def pool_inside(self, x: Tensor) -> Tensor:
        """Plain average over every full kernel: (B, C, *S) -> (B, C, *(S - size + 1))."""
        return AVG_POOL[x.ndim - 3](self.size, 1)(x)
