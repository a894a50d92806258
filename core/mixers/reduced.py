"""Spatial-reduction attention: full attention with keys and values on a coarser grid.

Papers: Wang et al., "Pyramid Vision Transformer", ICCV 2021 (section 3.3, SRA), and "PVT v2", 2022.
Code it corresponds to: whai362/PVT, transformers' PvtV2Model.
Deviates from it: the last, partial cell of the reduction is zero-padded instead of dropped, so that
every position is seen at any grid size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from core import grid
from core.mixers.base import (
    BlockContext,
    attend,
    check_heads,
    join_heads,
    register_mixer,
    split_heads,
)
from core.nn import ChannelsLastConv


@dataclass(frozen=True, kw_only=True)
class ReducedConfig:
    """Keys and values on a grid ``reduction`` times coarser on every axis (1: plain attention)."""

    heads: int
    reduction: int | tuple[int, ...] = 1
    qkv_bias: bool = True
    norm_eps: float = 1e-5


@register_mixer("reduced", ReducedConfig)
class ReducedAttention(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S."""

    def __init__(self, config: ReducedConfig, context: BlockContext) -> None:
        super().__init__()
        dim, self.rank = context.dim, context.rank
        self.heads = check_heads(config.heads, dim)
        self.factor = grid.per_axis(config.reduction, context.rank, "reduction")
        self.q = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=config.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.reduce: nn.Module | None = None
        if max(self.factor) > 1:
            self.reduce = ChannelsLastConv(dim, dim, self.factor, context.rank, stride=self.factor)
            self.norm = nn.LayerNorm(dim, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        S = grid.grid_of(x, self.rank)
        q = split_heads(self.q(x).flatten(1, -2), self.heads)
        source = x
        if self.reduce is not None:
            whole = [grid.ceil_div(s, f) * f for s, f in zip(S, self.factor, strict=True)]
            source = self.norm(self.reduce(grid.pad_to(source, whole)))
        k, v = (split_heads(t, self.heads) for t in self.kv(source.flatten(1, -2)).chunk(2, -1))
        return self.proj(join_heads(attend(q, k, v))).reshape(x.shape)
