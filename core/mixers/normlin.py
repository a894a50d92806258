"""NormLin: a learned matrix among positions, its rows positive and of sum 1, in attention's place.

Paper: Yue et al., "OLinear: a linear model for time series forecasting in orthogonally transformed
domain", NeurIPS 2025 (section 4.3).  Code it corresponds to: jackyue1994/OLinear's LinearEncoder,
which is this mixer and the feed-forward layer around it.

Letters: B batch, S grid sizes, L = prod(S) positions, C channels, W the (L, L) parameter.

    A = softplus(W) / sum over a row of softplus(W),   y = proj(dropout(A) v(x))

The matrix is the same for every example and knows its positions by number, so a mixer serves one
number of them.  Deviates from the authors' code in nothing; the variant with the channels'
correlation (OLinear-C) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import BlockContext, register_mixer
from core.ops.dropout import dropout


@dataclass(frozen=True, kw_only=True)
class NormLinConfig:
    """``positions`` of the grid, all axes together.  ``dropout`` acts on the entries of A."""

    positions: int
    dropout: float = 0.0


@register_mixer("normlin", NormLinConfig)
class NormLin(nn.Module):
    """(B, *S, C) -> (B, *S, C) with prod(S) = ``positions``, in raster order."""

    def __init__(self, config: NormLinConfig, context: BlockContext) -> None:
        super().__init__()
        L, dim = config.positions, context.dim
        if L < 1:
            raise UsageError(f"normlin positions {L}: must be 1 or more.")
        self.rank, self.dropout = context.rank, config.dropout
        self.weight = nn.Parameter(torch.eye(L) + torch.randn(L, L))
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        S = grid.grid_of(x, self.rank)
        tokens = x.flatten(1, -2)
        if grid.is_static(S) and tokens.shape[1] != len(self.weight):
            raise UsageError(
                f"normlin for {len(self.weight)} positions: got a grid of {tuple(S)}; build the "
                f"mixer with positions={tokens.shape[1]}."
            )
        A = self.matrix().to(x.dtype)
        if self.training and self.dropout:
            A = dropout(A, self.dropout)
        return self.proj(A @ self.v(tokens)).reshape(x.shape)

    def matrix(self) -> Tensor:
        """A (L, L): entries positive, the sum of each row 1."""
        return F.normalize(F.softplus(self.weight), p=1.0, dim=-1)

    def extra_repr(self) -> str:
        return f"positions={len(self.weight)}, dropout={self.dropout}"
