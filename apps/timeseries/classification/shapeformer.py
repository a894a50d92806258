"""ShapeFormer: attention among a series' differences from shapelets, and among its own stamps.

Paper: Le et al., "ShapeFormer: Shapelet Transformer for Multivariate Time Series Classification",
KDD 2024 (figure 3, sections 4.2 to 4.4).  Code it corresponds to: xuanmay2701/shapeformer,
Models/shapeformer.py.

Letters: B series, C channels, T their padded length, S shapelets, l the longest one's length, d and
e the widths of the two branches.

    class branch     token s = A_s (best match of shapelet s) - B_s (shapelet s)
                               + channel + start + end embedding
                     tokens * w -> transformer layer -> tokens * w -> mean over s
    generic branch   two convolutions, along 8 stamps and across the channels -> tokens of stamps
                     + position -> transformer layer -> mean over the series' own stamps
    scores = Linear of both, side by side

w (S,) are learned and begin as the information gains, over their mean.  Matches are those of
``shapelets.best_places``; they are made once for a data set (``Matches``), since shapelets stay
what was found.

Series may differ in length: stamps beyond one's end are no token of the generic branch and in no
match, and a shapelet longer than the series has a learned vector in place of its difference.

Deviates from the paper and its code: the shapelets do not move (theirs are parameters, reached by
no gradient but a bias', as the place of a match has none); the mean of all class tokens speaks for
the branch, not the first one; LayerNorm for BatchNorm, so that a series' scores do not depend on
its batch; fixed sines as positions, which go on beyond the longest training series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.classification.shapelets import Shapelet, best_places
from core.blocks import Mlp
from core.errors import UsageError
from core.mixers.base import attend, check_heads, join_heads, split_heads


@dataclass(frozen=True, kw_only=True)
class ShapeFormerConfig:
    """``window``: how far from its place a shapelet is looked for.  ``kernel``: stamps."""

    channels: int
    classes: int
    length: int  # of the longest training series: starts and ends of shapelets are below and up to
    sizes: tuple[int, ...]  # of the shapelets
    window: int
    dim: int = 64
    generic_dim: int = 32
    heads: int = 4
    ffn: int = 128
    kernel: int = 8
    dropout: float = 0.4


class Matches(NamedTuple):
    """Each shapelet's best match (B, S, l), 0 beyond its size, and whether there is one (B, S)."""

    values: Tensor
    found: Tensor


class Layer(nn.Module):
    """norm(x + attention(x)), then norm(x + ffn(x)); keys where ``valid`` (B, L) is false unseen."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = check_heads(heads, dim), dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = Mlp(dim, ffn / dim, 1, act="relu", dropout=dropout)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        bias = None
        if valid is not None:
            bias = torch.zeros_like(valid, dtype=x.dtype).masked_fill(~valid, -1e9)[:, None, None]
        x = self.norm1(x + join_heads(attend(q, k, v, bias)))
        y = F.dropout(self.ffn(x), self.dropout, self.training)
        return self.norm2(x + y)


class ShapeFormer(nn.Module):
    """(B, C, T), lengths (B,), matches of the same series -> scores (B, classes)."""

    values: Tensor
    sizes: Tensor
    channel: Tensor
    start: Tensor

    def __init__(self, config: ShapeFormerConfig) -> None:
        super().__init__()
        self.config = config
        S, d, e = len(config.sizes), config.dim, config.generic_dim
        if S < 1 or min(config.sizes) < 2 or max(config.sizes) > config.length:
            raise UsageError(
                f"shapelets of sizes {sorted(set(config.sizes))} in series of {config.length}: give "
                "at least one, each of 2 stamps to the length of a series."
            )
        longest = max(config.sizes)
        self.register_buffer("values", torch.zeros(S, longest))
        self.register_buffer("sizes", torch.tensor(config.sizes))
        self.register_buffer("channel", torch.zeros(S, dtype=torch.int64))
        self.register_buffer("start", torch.zeros(S, dtype=torch.int64))
        self.weight = nn.Parameter(torch.ones(S))
        bound = self.sizes.rsqrt()[:, None, None]  # as nn.Linear's own first weights
        self.of_match = nn.Parameter((2 * torch.rand(S, longest, d) - 1) * bound)
        self.of_shapelet = nn.Parameter((2 * torch.rand(S, longest, d) - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(S, d))
        self.absent = nn.Parameter(torch.zeros(S, d))
        self.channel_embedding = nn.Embedding(config.channels, d)
        self.start_embedding = nn.Embedding(config.length, d)
        self.end_embedding = nn.Embedding(config.length + 1, d)
        self.class_layer = Layer(d, config.heads, config.ffn, config.dropout)
        self.along = nn.Conv2d(1, e, (1, config.kernel))
        self.along_norm = nn.LayerNorm(e)
        self.across = nn.Linear(e * config.channels, e)  # a convolution over all channels
        self.across_norm = nn.LayerNorm(e)
        self.generic_layer = Layer(e, config.heads, config.ffn, config.dropout)
        self.head = nn.Linear(d + e, config.classes)

    def set_shapelets(self, shapelets: Sequence[Shapelet]) -> None:
        """Take what was discovered, in the order of ``config.sizes``, and the gains as weights."""
        for i, shapelet in enumerate(shapelets):
            size = len(shapelet.values)
            self.values[i, :size] = torch.from_numpy(shapelet.values).to(self.values.dtype)
            self.channel[i], self.start[i] = shapelet.channel, shapelet.start
        gains = torch.tensor([s.gain for s in shapelets])
        with torch.no_grad():
            self.weight.copy_(gains / gains.mean().clamp(min=1e-6))

    @torch.no_grad()
    def match(self, x: Tensor, lengths: Tensor) -> Matches:
        """The matches of series (B, C, T), each ``lengths`` (B,) long, for ``forward``."""
        rows, n = x.double().cpu().numpy(), lengths.cpu().numpy()
        S, longest = self.values.shape
        values = np.zeros((len(rows), S, longest))
        found = np.zeros((len(rows), S), dtype=bool)
        shapelets, channels = self.values.double().cpu().numpy(), self.channel.tolist()
        for s, size in enumerate(self.sizes.tolist()):
            its = rows[:, channels[s]]
            start = np.array([int(self.start[s])])
            away, place = best_places(
                shapelets[s : s + 1, :size], start, its, n, self.config.window
            )
            found[:, s] = np.isfinite(away[0])
            stamps = np.minimum(place[0][:, None] + np.arange(size), its.shape[1] - 1)
            values[:, s, :size] = np.take_along_axis(its, stamps, 1) * found[:, s, None]
        return Matches(torch.from_numpy(values).to(x), torch.from_numpy(found).to(device=x.device))

    def forward(self, x: Tensor, lengths: Tensor, matches: Matches | None = None) -> Tensor:
        matches = self.match(x, lengths) if matches is None else matches
        return self.head(torch.cat([self.of_classes(matches), self.generic(x, lengths)], 1))

    def of_classes(self, matches: Matches) -> Tensor:
        """The class branch: (B, d)."""
        own = torch.einsum("sl,sld->sd", self.values, self.of_shapelet) + self.bias
        tokens = torch.einsum("bsl,sld->bsd", matches.values, self.of_match) - own
        tokens = torch.where(matches.found[..., None], tokens, self.absent)
        tokens = tokens + self.channel_embedding(self.channel) + self.start_embedding(self.start)
        tokens = tokens + self.end_embedding(self.start + self.sizes)
        weight = self.weight[:, None]
        return (self.class_layer(tokens * weight) * weight).mean(1)

    def generic(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The generic branch: (B, e)."""
        at = torch.arange(x.shape[2], device=x.device)
        valid = at < lengths[:, None]
        x = x.masked_fill(~valid[:, None], 0.0)  # beyond a series' end, as before its start
        half = self.config.kernel // 2
        x = F.pad(x, (half, self.config.kernel - 1 - half))
        y = self.along(x[:, None]).permute(0, 3, 2, 1)  # (B, T, C, e)
        y = F.gelu(self.along_norm(y)).flatten(2)
        y = F.gelu(self.across_norm(self.across(y)))
        y = self.generic_layer(y + positions(at, y), valid)
        kept = y * valid[..., None]
        return kept.sum(1) / lengths[:, None].to(y)


def positions(at: Tensor, like: Tensor) -> Tensor:
    """Sines and cosines of stamps ``at`` (T,) (Vaswani et al., 2017, section 3.5): (T, e)."""
    e = like.shape[-1]
    rate = torch.exp(torch.arange(0, e, 2, device=at.device) * (-math.log(1e4) / e))
    angle = at[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :e].to(like)
