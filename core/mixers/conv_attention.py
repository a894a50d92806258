"""Attention whose queries, keys and values come from convolutions (CvT).

Paper: Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV 2021 (section 3.2:
depthwise convolution, batch norm, linear; keys and values with stride 2).
Code it corresponds to: microsoft/CvT, transformers' CvtModel.  As there, logits are scaled by
C ** -0.5 of all channels, not of a head's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core import grid
from core.mixers.base import (
    BlockContext,
    attend,
    check_heads,
    check_odd,
    join_heads,
    register_mixer,
    split_heads,
)
from core.nn import BatchNormGrid, ChannelsLastConv


@dataclass(frozen=True, kw_only=True)
class ConvAttentionConfig:
    """``kernel`` (odd) of the projections; ``kv_stride`` of the keys' and values'."""

    heads: int
    kernel: int = 3
    kv_stride: int = 2
    qkv_bias: bool = True


class ConvProjection(nn.Module):
    """Depthwise convolution and batch norm: (B, *S, C) -> (B, *ceil(S / stride), C)."""

    def __init__(self, dim: int, rank: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv(
            dim, dim, kernel, rank, stride=stride, padding=kernel // 2, groups=dim, bias=False
        )
        self.norm = BatchNormGrid(dim, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@register_mixer("conv_attention", ConvAttentionConfig)
class ConvAttention(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S; extra tokens (a class token) skip the convolutions."""

    def __init__(self, config: ConvAttentionConfig, context: BlockContext) -> None:
        super().__init__()
        dim, rank = context.dim, context.rank
        check_odd(config.kernel, "kernel")
        self.rank, self.heads, self.scale = rank, check_heads(config.heads, dim), dim**-0.5
        self.conv_q = ConvProjection(dim, rank, config.kernel, 1)
        self.conv_k = ConvProjection(dim, rank, config.kernel, config.kv_stride)
        self.conv_v = ConvProjection(dim, rank, config.kernel, config.kv_stride)
        self.q = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.k = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.v = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_extra(x, None)[0]

    def forward_extra(self, x: Tensor, extra: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The mixer on a grid and on ``extra`` tokens (B, E, C), which attend and are attended."""
        grid.grid_of(x, self.rank)
        tokens = [c(x).flatten(1, -2) for c in (self.conv_q, self.conv_k, self.conv_v)]
        if extra is not None:
            tokens = [torch.cat((extra, t), 1) for t in tokens]
        q, k, v = (
            split_heads(linear(t), self.heads)
            for linear, t in zip((self.q, self.k, self.v), tokens, strict=True)
        )
        out = self.proj(join_heads(attend(q, k, v, scale=self.scale)))
        if extra is None:
            return out.reshape(x.shape), None
        first = extra.shape[1]
        return out[:, first:].reshape(x.shape), out[:, :first]
