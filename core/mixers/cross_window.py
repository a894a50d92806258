"""Cross-shaped window attention with locally-enhanced positional encoding, at rank 1 to 3.

Paper: Dong et al., "CSWin Transformer", CVPR 2022 (sections 3.2 and 3.3, equations 1 to 6).
Code it corresponds to: microsoft/CSWin-Transformer, ``LePEAttention`` and ``CSWinBlock``.

The heads are split into R groups; group r attends inside stripes that run along the whole of axis
r and are ``stripe`` wide on the others, so that the groups of a position together see a cross.  At
rank 2 group 0 has the vertical stripes and group 1 the horizontal ones, half the heads each.  At
rank 1 there is one stripe: the sequence.

LePE (equation 6): a depthwise convolution of the values, 3 wide, zero-padded at the stripe's edge,
added to the attention's result.

Deviates from the authors' code: any grid size (the last stripe is as narrow as what is left; there
the stripe must divide the grid), any rank.  Where R does not divide the heads, the groups differ
by one head and take turns from block to block; with fewer heads than axes so do the axes.  At rank
3 the paper is silent; stripes that run along one axis are our reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
class CrossWindowConfig:
    """``stripe`` None is one full attention over the grid with LePE, as in CSWin's last stage."""

    heads: int
    stripe: int | None = 7
    qkv_bias: bool = True


@register_mixer("cross_window", CrossWindowConfig)
class CrossWindowAttention(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S."""

    def __init__(self, config: CrossWindowConfig, context: BlockContext) -> None:
        super().__init__()
        self.rank, self.stripe = context.rank, config.stripe
        heads = check_heads(config.heads, context.dim)
        self.groups = [(heads, 0)]
        if config.stripe is not None:
            grid.per_axis(config.stripe, context.rank, "stripe")
            self.groups = share_heads(heads, context.rank, context.index)
        head_dim = context.dim // heads
        self.dims = [h * head_dim for h, _ in self.groups]
        self.qkv = nn.Linear(context.dim, 3 * context.dim, bias=config.qkv_bias)
        self.lepe = nn.ModuleList(
            ChannelsLastConv(d, d, 3, context.rank, padding=1, groups=d) for d in self.dims
        )
        self.proj = nn.Linear(context.dim, context.dim)

    def forward(self, x: Tensor) -> Tensor:
        S = grid.grid_of(x, self.rank)
        q, k, v = (t.split(self.dims, -1) for t in self.qkv(x).chunk(3, -1))
        outs = []
        for g, (heads, axis) in enumerate(self.groups):
            w = [None if a == axis else self.stripe for a in range(self.rank)]
            outs.append(self.attend_stripes(q[g], k[g], v[g], S, w, heads, self.lepe[g]))
        return self.proj(outs[0] if len(outs) == 1 else torch.cat(outs, -1))

    def attend_stripes(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        S: Sequence[int],
        w: Sequence[int | None],
        heads: int,
        lepe: nn.Module,
    ) -> Tensor:
        """One group's attention: q, k, v and the result are (B, *S, c).

        ``w`` is the stripe's width on each axis, None where it takes the whole of it.
        """
        if not grid.is_static(S):
            return self.attend_padded(q, k, v, S, w, heads, lepe)
        # The whole stripes, then what is left on each axis: no padding, so nothing to mask.
        width = [s if v_ is None else min(v_, s) for s, v_ in zip(S, w, strict=True)]
        whole = [s // v_ * v_ for s, v_ in zip(S, width, strict=True)]
        pieces: dict[tuple[int, ...], Tensor] = {}
        spans = [[(0, n)] + ([(n, s)] if n < s else []) for n, s in zip(whole, S, strict=True)]
        for choice in itertools.product(*(range(len(s)) for s in spans)):
            ranges = [spans[a][j] for a, j in enumerate(choice)]
            cut = (slice(None), *(slice(a, b) for a, b in ranges))
            size = [b - a for a, b in ranges]
            here = [min(v_, s) for v_, s in zip(width, size, strict=True)]
            pieces[choice] = stripe_attention(q[cut], k[cut], v[cut], here, heads, lepe)
        return grid.join(pieces, self.rank)

    def attend_padded(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        S: Sequence[int],
        w: Sequence[int | None],
        heads: int,
        lepe: nn.Module,
    ) -> Tensor:
        """The same without branching on a size, for export: padded to whole stripes, masked."""
        padded = [
            s if v_ is None else grid.ceil_div(s, v_) * v_ for s, v_ in zip(S, w, strict=True)
        ]
        width = [s if v_ is None else v_ for s, v_ in zip(S, w, strict=True)]
        q, k, v = (grid.pad_to(t, padded) for t in (q, k, v))
        mask = None
        if any(v_ is not None for v_ in w):
            regions = [
                grid.axis_regions(s, p, 0, True, q.device) for s, p in zip(S, padded, strict=True)
            ]
            mask = grid.region_mask(regions, width)[:, None]
        x = stripe_attention(q, k, v, width, heads, lepe, mask)
        for axis, s in zip(grid.axes(self.rank), S, strict=True):
            x = x.index_select(axis, torch.arange(s, device=x.device))  # has exactly S, as a slice
        return x


def stripe_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Sequence[int],
    heads: int,
    lepe: nn.Module,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention and LePE inside windows of sizes ``w`` that divide the grid: (B, *S, c)."""
    B, S = q.shape[0], q.shape[1:-1]
    qw, kw, vw = (grid.windows(t, w) for t in (q, k, v))  # (B, n, L, c)
    qh, kh, vh = (split_heads(t, heads) for t in (qw, kw, vw))  # (B, n, h, L, c / h)
    out = join_heads(attend(qh, kh, vh, mask))
    n = vw.shape[1]
    local = lepe(vw.reshape(B * n, *w, vw.shape[-1]))
    return grid.unwindows(out + local.reshape(out.shape), w, S)


def share_heads(heads: int, rank: int, index: int) -> list[tuple[int, int]]:
    """Heads and axis of each group, for block ``index`` of a stage: R groups, or one a head."""
    groups = min(rank, heads)
    sizes = [heads // groups + (g < heads % groups) for g in range(groups)]
    turn = index if heads % rank else 0
    return [(h, (g + turn) % rank) for g, h in enumerate(sizes)]
