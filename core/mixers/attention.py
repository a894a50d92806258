"""Global attention: every position of a grid attends to every other, at rank 1 to 3.

Papers: Vaswani et al., "Attention is all you need", NeurIPS 2017 (section 3.2); Dosovitskiy et al.,
"An image is worth 16x16 words", ICLR 2021; grouped queries: Ainslie et al., "GQA", EMNLP 2023.
Code it corresponds to: transformers' ViTSelfAttention and LlamaAttention without its rotation.

Letters: B batch, S grid sizes, L = prod(S) positions, C channels, h heads, m key-value heads,
c = C / h channels of a head.

It knows no positions: add them to its input.  Time and, where the scores are kept, memory grow with
L squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import (
    BlockContext,
    attend,
    check_heads,
    join_heads,
    register_mixer,
    split_heads,
)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """``kv_heads`` (None: as many as ``heads``, which they divide) are shared by groups of queries.

    ``causal``: a position sees itself and those before it in raster order.  ``dropout`` acts on the
    softmax's weights, as in the first paper (section 5.4) and in transformers.
    """

    heads: int
    kv_heads: int | None = None
    causal: bool = False
    bias: bool = True
    dropout: float = 0.0


class AttentionState(NamedTuple):
    """Keys and values of the past, (B, m, T, c) each; they grow by one a step."""

    k: Tensor
    v: Tensor


@register_mixer("attention", AttentionConfig)
class Attention(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S."""

    def __init__(self, config: AttentionConfig, context: BlockContext) -> None:
        super().__init__()
        dim = context.dim
        self.rank, self.causal, self.dropout = context.rank, config.causal, config.dropout
        self.heads = check_heads(config.heads, dim)
        self.kv_heads = self.heads if config.kv_heads is None else config.kv_heads
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise UsageError(f"kv_heads {self.kv_heads}: must divide the {self.heads} heads.")
        kv = dim // self.heads * self.kv_heads
        self.splits = [dim, kv, kv]
        self.qkv = nn.Linear(dim, sum(self.splits), bias=config.bias)
        self.proj = nn.Linear(dim, dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.rank)
        return self.mix(x.flatten(1, -2)).reshape(x.shape)

    def forward_extra(self, x: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """The mixer on a grid and on ``extra`` tokens (B, E, C).

        They come first, or last where attention is causal and the last position has seen all.
        """
        grid.grid_of(x, self.rank)
        tokens = x.flatten(1, -2)
        n, L = extra.shape[1], tokens.shape[1]
        if self.causal:
            y, y_extra = self.mix(torch.cat((tokens, extra), 1)).split([L, n], 1)
        else:
            y_extra, y = self.mix(torch.cat((extra, tokens), 1)).split([n, L], 1)
        return y.reshape(x.shape), y_extra

    def mix(self, tokens: Tensor) -> Tensor:
        """Attention among tokens (B, L, C)."""
        q, k, v = self.project(tokens)
        dropout = self.dropout if self.training else 0.0
        out = attend(q, self.spread(k), self.spread(v), causal=self.causal, dropout=dropout)
        return self.proj(join_heads(out))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, C) -> queries (B, h, L, c), keys and values (B, m, L, c)."""
        q, k, v = self.qkv(tokens).split(self.splits, -1)
        return (
            split_heads(q, self.heads),
            split_heads(k, self.kv_heads),
            split_heads(v, self.kv_heads),
        )

    def spread(self, t: Tensor) -> Tensor:
        """(B, m, L, c) -> (B, h, L, c), each key-value head for its group of queries."""
        share = self.heads // self.kv_heads
        return t if share == 1 else t.repeat_interleave(share, 1)

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AttentionState:
        """The state before the first step; device and dtype are the parameters' unless given."""
        if not self.causal or self.rank != 1:
            raise UsageError(
                f"attention with causal={self.causal} at rank {self.rank}: cannot be streamed; use "
                "causal=True and rank 1."
            )
        like, width = self.qkv.weight, self.splits[0] // self.heads
        none = torch.zeros(
            batch, self.kv_heads, 0, width, device=device or like.device, dtype=dtype or like.dtype
        )
        return AttentionState(none, none)

    def step(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One position of a sequence: x and y are (B, C).  Steps equal ``forward`` to rounding."""
        q, k, v = self.project(x[:, None])
        k = torch.cat((state.k, k.to(state.k.dtype)), 2)
        v = torch.cat((state.v, v.to(state.v.dtype)), 2)
        out = attend(q, self.spread(k).to(q.dtype), self.spread(v).to(q.dtype))
        return self.proj(join_heads(out))[:, 0], AttentionState(k, v)
