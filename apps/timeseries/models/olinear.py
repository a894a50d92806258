"""OLinear: linear layers among decorrelated time steps, normalised ones among variates.

Paper: Yue et al., "OLinear: a linear model for time series forecasting in orthogonally transformed
domain", NeurIPS 2025.  Code it corresponds to: jackyue1994/OLinear, model/OLinear.py, with the
layers of its LinearEncoder (core's "normlin" mixer in a post-norm block).

Letters: B windows, L lookback, H horizon, N variates, E = ``embed``, d = ``dim``; z a window's
variate after instance normalisation with learned gain and shift, e the embedding (E), Q and Q' the
orthogonal bases of L and of H steps.

    tokens = lift(e (x) Q z + delta1)                    lift: Linear(E L -> d)
    tokens = LayerNorm(blocks of NormLin and feed-forward, post-norm)
    y = fc2(gelu(fc1(Q'^T lower(tokens) + delta2)))      lower: Linear(d -> E H), fc1: E H -> ffn
    forecast = the instance normalisation undone on dropout(y)

Parameters, their shapes and first values are the published ones, so training runs the same course;
what is computed is the same function by fewer multiplications (``lifted``, ``lowered``): with the
authors' weights the forecasts are theirs to 2e-6.

Deviates from the authors' code: the bases come from the training rows alone (theirs from 60 % of
ETT's rows, beyond the training border at 8,640), by ``fit_statistics``; eigenvectors get a sign of
their own; with several outputs for a stamp ``fc2`` ends in H Q numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import Forecaster, Shape, register, restore, standardise
from core.blocks import BlockConfig, BlockContext
from core.errors import DataError
from core.grid import is_static
from core.mixers import mixer_config
from core.ops.dropout import dropout

CONSTANT = 1e-4
"""A variate with a lower variance at any lag does not count for the bases (authors' notebook)."""


@dataclass(frozen=True, kw_only=True)
class OLinearConfig:
    """Sizes of the authors' scripts for ETTh1.  ``dropout`` acts in the blocks and on the output."""

    dim: int = 512
    depth: int = 2
    ffn: int = 512
    embed: int = 16
    dropout: float = 0.2


@register("olinear", OLinearConfig)
class OLinear(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q).  Until ``fit_statistics`` the bases are identities."""

    basis_in: Tensor
    basis_out: Tensor

    def __init__(self, config: OLinearConfig, shape: Shape) -> None:
        super().__init__(shape)
        L, H, N, E, d = shape.lookback, shape.horizon, shape.variates, config.embed, config.dim
        self.dropout = config.dropout
        self.gain, self.shift = nn.Parameter(torch.ones(N)), nn.Parameter(torch.zeros(N))
        self.register_buffer("basis_in", torch.eye(L))
        self.register_buffer("basis_out", torch.eye(H))
        self.embedding = nn.Parameter(torch.randn(E))
        self.delta1 = nn.Parameter(torch.zeros(N, L))
        self.delta2 = nn.Parameter(torch.zeros(N, H))
        self.lift = nn.Linear(E * L, d)
        block = BlockConfig(
            mixer=mixer_config("normlin", positions=N, dropout=config.dropout),
            ffn_ratio=config.ffn / d,
            form="post",
            dropout=config.dropout,
        )
        self.blocks = nn.Sequential(
            *(
                block.build(BlockContext(dim=d, rank=1, index=i, depth=config.depth))
                for i in range(config.depth)
            )
        )
        self.norm = nn.LayerNorm(d)
        self.lower = nn.Linear(d, E * H)
        self.fc1 = nn.Linear(E * H, config.ffn)
        self.fc2 = nn.Linear(config.ffn, H * shape.outputs)

    def fit_statistics(self, train: Tensor) -> None:
        """The bases from scaled training rows (T, N).  Raises DataError for too few rows."""
        self.basis_in.copy_(basis(train, self.shape.lookback))
        self.basis_out.copy_(basis(train, self.shape.horizon))

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        x, mean, std = standardise(x)
        tokens = self.lifted((x * self.gain + self.shift).transpose(1, 2))
        y = self.fc2(F.gelu(self.lowered(self.norm(self.blocks(tokens)))))
        if self.dropout and self.training:
            y = dropout(y, self.dropout)
        gain: Tensor = self.gain + 1e-10  # the square of standardise's 1e-5
        shift: Tensor = self.shift
        if self.shape.outputs > 1:
            y = y.unflatten(-1, (self.shape.horizon, self.shape.outputs)).transpose(1, 2)
            gain, shift = gain.unsqueeze(-1), shift.unsqueeze(-1)
        else:
            y = y.transpose(1, 2)
        return restore((y - shift) / gain, mean, std)

    def lifted(self, z: Tensor) -> Tensor:
        """lift(e (x) Q z + delta1): (B, N, L) -> tokens (B, N, d).

        The layer's weight w (d, E, L) meets products of one e and one step only, so it is summed
        over E first: once with weights e for Q z, once with ones for delta1.  That is E times fewer
        multiplications in the layer and in the basis, and no (B, N, E L) is kept for the gradient.
        """
        E = len(self.embedding)
        w = self.lift.weight.unflatten(1, (E, -1))
        factors = torch.stack((self.embedding, torch.ones_like(self.embedding)))
        # Expanded by hand: a broadcast product would transpose w and, backwards, its gradient.
        sums = torch.bmm(factors.expand(len(w), 2, E), w)  # (d, 2, L)
        return F.linear(z @ self.basis_in.T, sums[:, 0]) + F.linear(
            self.delta1, sums[:, 1], self.lift.bias
        )

    def lowered(self, tokens: Tensor) -> Tensor:
        """fc1(Q'^T lower(tokens) + delta2): (B, N, d) -> (B, N, ffn).

        Linear from end to end, so the layers can be multiplied into one of (ffn, d) first.
        """
        H, E, (B, N, d) = self.shape.horizon, len(self.embedding), tokens.shape
        ffn, wide = self.fc1.out_features, E * H
        one_by_one = B * N * wide * (d + ffn + H)
        composed = ffn * wide * (d + H) + B * N * d * ffn
        if not is_static(tokens.shape) or one_by_one <= composed:
            # 224 tokens of ETTh1: 0.39 G multiplications, composed 0.54 G; at 700 it is 1.2 to 0.7.
            steps = self.lower(tokens).unflatten(-1, (E, H)) @ self.basis_out  # (B, N, E, H)
            steps = steps + self.delta2.unsqueeze(1)
            return self.fc1(steps.transpose(-1, -2).reshape(B, N, wide))
        w = self.fc1.weight.unflatten(1, (H, E)).transpose(1, 2)  # (ffn, E, H)
        v = (w @ self.basis_out.T).reshape(ffn, wide)
        bias = F.linear(self.lower.bias, v, self.fc1.bias) + F.linear(self.delta2, w.sum(1))
        return tokens @ (v @ self.lower.weight).T + bias


def basis(train: Tensor, steps: int) -> Tensor:
    """The orthogonal basis (steps, steps) that decorrelates successive rows of train (T, N).

    Rows of the result are eigenvectors of the mean over variates of cov[i, j] / cov[j, j], i >= j,
    the covariance of stamps i and j of every stretch of ``steps`` rows (paper, section 4.2; the
    authors' notebook), by descending eigenvalue; the first entry of a row to reach half of its
    greatest magnitude is positive.  Variates that hardly vary are left out; if none is left, the
    identity.  Raises DataError where there are not two stretches.
    """
    T = len(train)
    M = T - steps + 1  # stretches
    if M < 2:
        raise DataError(
            f"olinear: {T} training rows for a basis of {steps} steps; give {steps + 1} or more, or "
            "a shorter lookback and horizon."
        )
    x = train.detach().double()
    x = x - x.mean(0)
    total = F.pad(x.cumsum(0), (0, 0, 1, 0))
    mean = (total[M:] - total[:steps]) / M  # (steps, N), of the rows i .. i + M - 1

    def diagonal(k: int) -> Tensor:
        """cov[i + k, i] for every i: (steps - k, N).

        The sum of x[i + k + s] x[i + s] over s < M differs from its neighbour's in two terms.
        """
        n = steps - k
        product = x[k:] * x[: T - k]
        first = product[:M].sum(0, keepdim=True)
        change = product[M : M + n - 1] - product[: n - 1]
        sums = torch.cat((first, first + change.cumsum(0)))
        return (sums - M * mean[k:] * mean[:n]) / (M - 1)

    variance = diagonal(0)
    varies = (variance >= CONSTANT).all(0)
    if not varies.any():
        return torch.eye(steps, dtype=train.dtype, device=train.device)
    x, mean, variance = x[:, varies], mean[:, varies], variance[:, varies]
    sigma = torch.zeros(steps, steps, dtype=x.dtype, device=x.device)
    for k in range(steps):
        sigma.diagonal(-k).copy_((diagonal(k) / variance[: steps - k]).mean(1))
    _, vectors = torch.linalg.eigh(sigma, UPLO="L")
    rows = vectors.T.flip(0)
    large = rows.abs() >= 0.5 * rows.abs().amax(1, keepdim=True)
    first = rows.gather(1, large.int().argmax(1, keepdim=True))
    return (rows * first.sign()).to(train.dtype)
