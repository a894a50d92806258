"""A mixer beside a local convolution, each weighted channel by channel and added.

Paper: Pei et al., "EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba", AAAI 2025
(efficient visual state space block).
Code it corresponds to: TerryPei/EfficientVMamba, ``VSSBlock`` and ``BiAttn``: one gate weighs both
branches, each by its own mean over the grid.

    y = gate(mixer(x)) + gate(pointwise(gelu(batchnorm(depthwise(x)))))
    gate(v) = v * sigmoid(expand(gelu(reduce(mean of layernorm(v)))))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import BlockContext, build_mixer, register_mixer
from core.mixers.mamba import MambaConfig
from core.nn import BatchNormGrid, ChannelsLastConv


def _atrous() -> MambaConfig:
    return MambaConfig(path="atrous", conv="grid", norm="layer")


@dataclass(frozen=True, kw_only=True)
class LocalGlobalConfig:
    """``mixer`` (a config) sees far; its default is ES2D.  ``squeeze``: part of the channels."""

    mixer: Any = field(default_factory=_atrous)
    squeeze: float = 0.125


class ChannelGate(nn.Module):
    """(B, *S, C) -> the same, each channel weighted by what its example's channels are on average."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.reduce = nn.Linear(dim, hidden)
        self.expand = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.norm(x).mean(tuple(range(1, x.ndim - 1)), keepdim=True)
        return x * self.expand(F.gelu(self.reduce(mean))).sigmoid()


class LocalBranch(nn.Module):
    """3-wide depthwise convolution, batch norm, GELU, pointwise: (B, *S, C) -> (B, *S, C)."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv(dim, dim, 3, rank, padding=1, groups=dim)
        self.norm = BatchNormGrid(dim, rank)
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.gelu(self.norm(self.conv(x))))


@register_mixer("local_global", LocalGlobalConfig)
class LocalGlobal(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S."""

    def __init__(self, config: LocalGlobalConfig, context: BlockContext) -> None:
        super().__init__()
        if config.squeeze <= 0:
            raise UsageError(f"squeeze {config.squeeze}: must be above 0.")
        self.rank = context.rank
        self.mixer = build_mixer(config.mixer, context)
        self.local = LocalBranch(context.dim, context.rank)
        self.gate = ChannelGate(context.dim, max(1, int(context.dim * config.squeeze)))

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.rank)
        return self.gate(self.mixer(x)) + self.gate(self.local(x))
