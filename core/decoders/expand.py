"""Up-sampling by learned rearrangement, on channels-last grids (B, *S, C).

Letters: f up-sampling factors, one per axis, F = prod(f); R rank; k width of CARAFE's neighbourhood,
K = k^R.

PatchExpand: Cao et al., "Swin-Unet", 2021 (section 3.4).  In their code the widths are C/2 for a
factor 2 and C for the last step, of 4; here the width is an argument.

CarafeExpand: Wang et al., "CARAFE", ICCV 2019 (section 3.2), as CSWin-UNet (Liu et al., 2024) uses
it: compressor to C/4, encoder 3 wide, k = 3.  Deviates from the paper: n-d; the linear map to the
new width comes before the reassembly, not after.  The weights of a position sum to 1 and the map
has no bias, so the result is the same and the map runs on F times fewer positions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from core import grid
from core.nn import ChannelsLastConv

ExpandKind = Literal["linear", "carafe"]


def unfold_factors(x: Tensor, f: Sequence[int]) -> Tensor:
    """(B, *S, F, C) -> (B, *(S * f), C); the F offsets are in raster order."""
    B, *S = x.shape[:-2]
    R, C = len(S), x.shape[-1]
    x = x.reshape(B, *S, *f, C)
    x = x.permute(0, *(i for r in range(R) for i in (1 + r, 1 + R + r)), 2 * R + 1)
    return x.reshape(B, *(s * v for s, v in zip(S, f, strict=True)), C)


class PatchExpand(nn.Module):
    """(B, *S, C) -> (B, *(S * f), C'): a linear map to F * C' channels, rearranged, layer norm."""

    def __init__(self, dim: int, dim_out: int, factor: grid.PerAxis, rank: int) -> None:
        super().__init__()
        self.factor = grid.per_axis(factor, rank, "factor")
        self.proj = nn.Linear(dim, dim_out * math.prod(self.factor), bias=False)
        self.norm = nn.LayerNorm(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        F = math.prod(self.factor)
        x = x.unflatten(-1, (F, x.shape[-1] // F))
        return self.norm(unfold_factors(x, self.factor))


class CarafeExpand(nn.Module):
    """(B, *S, C) -> (B, *(S * f), C'): each new position is a weighted mean of k^R old ones.

    The weights are a softmax that a small convolution predicts from the content.  Outside the grid
    the neighbours are zero, as in the authors' code.
    """

    def __init__(
        self, dim: int, dim_out: int, factor: grid.PerAxis, rank: int, kernel: int = 3
    ) -> None:
        super().__init__()
        self.rank, self.kernel = rank, kernel
        self.factor = grid.per_axis(factor, rank, "factor")
        squeezed = max(1, dim // 4)
        weights = kernel**rank * math.prod(self.factor)
        self.compress = nn.Linear(dim, squeezed)
        self.encode = ChannelsLastConv(squeezed, weights, 3, rank, padding=1)
        self.proj = nn.Linear(dim, dim_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.encode(self.compress(x))
        weights = weights.unflatten(-1, (math.prod(self.factor), self.kernel**self.rank))
        weights = weights.float().softmax(-1)  # (B, *S, F, K)
        values = neighbourhoods(self.proj(x), self.kernel)  # (B, *S, K, C')
        return unfold_factors(weights.to(values.dtype) @ values, self.factor)


def neighbourhoods(x: Tensor, k: int) -> Tensor:
    """(B, *S, C) -> (B, *S, K, C): the k^R positions around each, zero outside, in raster order."""
    S, R = x.shape[1:-1], x.ndim - 2
    before, after = (k - 1) // 2, k // 2
    x = nn.functional.pad(x, [0, 0] + [before, after] * R)
    parts = [
        x[(slice(None), *(slice(o, o + s) for o, s in zip(offset, S, strict=True)))]
        for offset in itertools.product(range(k), repeat=R)
    ]
    return torch.stack(parts, -2)


def make_expand(
    kind: ExpandKind, dim: int, dim_out: int, factor: grid.PerAxis, rank: int
) -> nn.Module:
    """The up-sampling module ``kind``."""
    module = CarafeExpand if kind == "carafe" else PatchExpand
    return module(dim, dim_out, factor, rank)
