"""Autocorrelation: positions exchanged by whole-sequence shifts, the few at which keys match best.

Paper: Wu et al., "Autoformer", NeurIPS 2021 (section 3.2, equations 5 to 7).  Code it corresponds
to: thuml/Autoformer's layers/AutoCorrelation.py; transformers' AutoformerAttention.

Letters: B batch, S grid sizes, L = prod(S) positions, M positions of another sequence, C channels,
t a lag from 0 to L - 1, k = clip(int(factor ln L), 1, L) lags kept.

    score(t) = mean over channels of sum_i q[i + t] k[i]             indices modulo L
    y[i] = sum over the k best lags t of softmax(score)(t) v[i + t], then projected

The mean over channels goes over all heads, and so do a lag and its weight: heads change nothing,
and there are none.  A key or value beyond L is cut off; where there are fewer, zeros follow.

How it is computed, exactly the same function:
- scores are sums over the diagonals of the matrix q k^T, the shifts one circulant matrix, or for
  many positions products of Fourier transforms, irfft(..., n=L) at every L, whichever costs less;
- either a few examples at a time, so that what lies between stays in the cache and is not kept: the
  gradients of scores are shifts and those of shifts scores, computed from the inputs alone;
- q k^T = x (Wq^T (Wk x' + bk))^T and proj(shift(v)) = shift(proj(v)), so of the four projections of
  a sequence two remain, by products of two weights: 0.27 G multiplications instead of 1.61 G for
  3,072 positions of 512 channels.

Deviates from the authors' code: in training they take the lags by the mean score of the batch
(``delays="batch"``), and so do we, but ``"sample"`` is there too; outside training each example has
its own, in both.  q has no bias and k has one only in cross use with M < L: added to every score
alike, it changes no softmax.  k below 1 or above L, which fails there, is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import BlockContext, check_choice, register_mixer
from core.ops.precision import accumulate_dtype, product_dtype, without_autocast

MATRIX = {2: 0.0084, 4: 0.036, 8: 0.072}
"""ns that a product of two channels costs, by bytes of a number, on one thread of an AMD EPYC."""
LAYOUT, TRANSFORM = 0.7, 8.0
"""ns for each entry of a matrix whatever the channels, and for each number that is transformed.

Scores and shifts of 32 x 512 channels in bfloat16, forward, ms by matrices against Fourier: 4 to 17
at 144 positions, 24 to 46 at 384, 97 to 105 at 768, 395 to 307 at 1,536; in float32 91 to 46 at 384.
"""
BLOCK = 2**20
"""Entries of the matrices that are held at once."""

Delays = Literal["batch", "sample"]


@dataclass(frozen=True, kw_only=True)
class AutocorrelationConfig:
    """``factor`` times ln L lags are kept.  ``delays``: whose lags count in training."""

    factor: float = 1.0
    delays: Delays = "batch"


@register_mixer("autocorrelation", AutocorrelationConfig)
class Autocorrelation(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S, in raster order from end to beginning."""

    def __init__(
        self, config: AutocorrelationConfig, context: BlockContext, *, cross: bool = False
    ) -> None:
        super().__init__()
        if not config.factor > 0:
            raise UsageError(f"autocorrelation factor {config.factor}: must be above 0.")
        dim = context.dim
        self.rank, self.factor = context.rank, config.factor
        self.delays = check_choice(config.delays, Delays, "delays")
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=cross)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.rank)
        tokens = x.flatten(1, -2)
        return self.mix(tokens, tokens).reshape(x.shape)

    def mix(self, x: Tensor, other: Tensor) -> Tensor:
        """Queries from x (B, L, C), keys and values from ``other`` (B, M, C) -> (B, L, C)."""
        L, C = x.shape[1:]
        other = other[:, :L]
        keys = _both(other, self.k, self.q.weight.T)
        values = _both(other, self.v, self.proj.weight)
        weights = lag_weights(
            lag_scores(x, keys) / C,
            lags_kept(L, self.factor),
            shared=self.training and self.delays == "batch",
        )
        return shifted(values, weights) + self.proj.bias

    def extra_repr(self) -> str:
        return f"factor={self.factor}, delays={self.delays}"


def lags_kept(L: int, factor: float) -> int:
    """k of the glossary."""
    return min(max(int(factor * math.log(L)), 1), L)


def lag_scores(q: Tensor, k: Tensor) -> Tensor:
    """sum over i and channels of q[i + t] k[i]: (B, L, C), (B, M <= L, C) -> (B, L), float32."""
    dtype = product_dtype(q, k)
    fourier = by_fourier(k.shape[1], k.shape[2], dtype)
    if not fourier:
        q, k = q.to(dtype), k.to(dtype)
    if not grid.is_static(q.shape) or torch.compiler.is_compiling():
        return _scores(q, k, fourier)
    scores: Tensor = _Scores.apply(q, k, fourier)
    return scores


def lag_weights(scores: Tensor, kept: int, shared: bool = False) -> Tensor:
    """Softmax of the ``kept`` best scores of a row of (B, L), zero elsewhere.

    ``shared``: the best by the mean over the batch.
    """
    best = scores.mean(0, keepdim=True).expand_as(scores) if shared else scores
    lags = best.topk(kept, -1).indices
    return torch.zeros_like(scores).scatter(1, lags, scores.gather(1, lags).softmax(-1))


def shifted(v: Tensor, weights: Tensor) -> Tensor:
    """sum over t of weights[t] v[i + t]: v (B, M <= L, C), weights (B, L) -> (B, L, C).

    Indices are modulo L, and v is zero from M on.
    """
    L, dtype = weights.shape[1], product_dtype(v)
    fourier = by_fourier(v.shape[1], v.shape[2], dtype)
    if not fourier:
        v = v.to(dtype)
    if not grid.is_static(v.shape) or torch.compiler.is_compiling():
        return _shifts(v, weights, L, fourier)
    moved: Tensor = _Shifts.apply(v, weights, L, fourier)
    return moved


def by_fourier(positions: int, channels: int, dtype: torch.dtype) -> bool:
    """Whether Fourier transforms of keys or values cost less than matrices with as many rows."""
    return positions * (LAYOUT + MATRIX[dtype.itemsize] * channels) > TRANSFORM * channels


class _Scores(torch.autograd.Function):
    """``_scores`` of a few examples at a time.  The gradients are shifts of the inputs."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, fourier: bool) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.fourier = fourier
        parts = _chunks(q.shape[1] * k.shape[1], q, k)
        return torch.cat([_scores(a, b, fourier) for a, b in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (q, k), (for_q, for_k, _) = grads, ctx.saved_tensors, ctx.needs_input_grad
        dq = _Shifts.apply(k, _turned(grad), q.shape[1], ctx.fourier) if for_q else None
        dk = _Shifts.apply(q, grad, k.shape[1], ctx.fourier) if for_k else None
        return dq, dk, None


class _Shifts(torch.autograd.Function):
    """``_shifts`` of a few examples at a time.  The gradients are a shift and scores."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, weights: Tensor, rows: int, fourier: bool) -> Tensor:
        ctx.save_for_backward(v, weights)
        ctx.fourier = fourier
        parts = _chunks(rows * v.shape[1], v, weights)
        return torch.cat([_shifts(a, b, rows, fourier) for a, b in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), (v, weights), (for_v, for_weights, *_) = (
            grads,
            ctx.saved_tensors,
            ctx.needs_input_grad,
        )
        dv = dw = None
        if for_v:
            dv = _Shifts.apply(grad, _turned(weights), v.shape[1], ctx.fourier)
        if for_weights:
            missing = weights.shape[1] - grad.shape[1]  # 0 unless rows were left out
            whole = F.pad(grad, (0, 0, 0, missing)) if missing else grad
            dw = _turned(_Scores.apply(whole, v, ctx.fourier)).to(weights.dtype)
        return dv, dw, None, None


def _scores(q: Tensor, k: Tensor, fourier: bool) -> Tensor:
    """``lag_scores`` of some examples, in the dtype that they have."""
    L, M = q.shape[1], k.shape[1]
    with without_autocast(q):
        if fourier:
            return torch.fft.irfft((_rfft(q, L) * _rfft(k, L).conj()).sum(-1), n=L)
        products = k @ q.transpose(1, 2)  # (B, M, L), of which score t sums column i + t of row i
        twice = torch.cat((products, products), -1).flatten(1)
        # Row i moved i to the left.
        rows = F.pad(twice, (0, M)).unflatten(1, (M, 2 * L + 1))[..., :L]
        return rows.to(accumulate_dtype(rows.dtype)).sum(1)


def _shifts(v: Tensor, weights: Tensor, rows: int, fourier: bool) -> Tensor:
    """The first ``rows`` of ``shifted`` of some examples, in the dtype that v has."""
    L, M = weights.shape[1], v.shape[1]
    with without_autocast(v):
        if fourier:
            spectrum = _rfft(v, L) * torch.fft.rfft(weights).conj().unsqueeze(-1)
            return torch.fft.irfft(spectrum, n=L, dim=1)[:, :rows].to(v.dtype)
        twice = weights.repeat(1, 2).unsqueeze(1).expand(-1, rows, -1).flatten(1)
        circulant = twice[:, : rows * (2 * L - 1)].unflatten(1, (rows, 2 * L - 1))[..., :M]
        return circulant.to(v.dtype) @ v  # row i: weights moved i to the right


def _turned(weights: Tensor) -> Tensor:
    """(B, L) -> the same at lag -t."""
    return weights.flip(-1).roll(1, -1)


def _chunks(entries: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """As many examples at a time as have ``BLOCK`` entries, each of them ``entries``."""
    count = max(1, BLOCK // max(1, entries))
    return zip(*(x.split(count) for x in tensors), strict=True)


def _both(x: Tensor, first: nn.Linear, second: Tensor) -> Tensor:
    """second (first(x)), the two weights multiplied first where that is less."""
    if grid.is_static(x.shape) and x[..., 0].numel() <= len(second):
        return F.linear(first(x), second)
    return F.linear(x, second @ first.weight, None if first.bias is None else second @ first.bias)


def _rfft(x: Tensor, n: int) -> Tensor:
    half = x.dtype in (torch.bfloat16, torch.float16)
    return torch.fft.rfft(x.float() if half else x, n=n, dim=1)
