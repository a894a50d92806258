"""Autoformer: a series taken apart into trend and rest at every layer, attention by autocorrelation.

Paper: Wu et al., "Autoformer: decomposition transformers with auto-correlation for long-term series
forecasting", NeurIPS 2021.  Code it corresponds to: thuml/Autoformer, models/Autoformer.py.

Letters: B windows, L lookback, H horizon, S ``label`` stamps of the past that the decoder repeats,
N variates, K known covariates, d = ``dim``, Q outputs for a stamp.

    season, trend = decompose(x)
    encoder, on embed(x):      z = decompose(z + correlate(z)).rest;  z = decompose(z + ffn(z)).rest
    decoder, on embed([last S of season, zeros (H)]):   the same with a second correlation, queries
        from the decoder and keys from the encoder; the three trends, through a circular
        convolution, are added to [last S of trend, mean of x (H times)]
    forecast = last H of: trend + Linear(season normalised)

An embedding is a circular convolution of width 3 of the variates plus a linear map of the known
covariates; with the calendar's features that is the published one, and positions have none of
their own.

With their weights it forecasts what thuml/Autoformer does, in training mode too, to 2e-6 (published
sizes, 8 windows of 96 stamps).

Deviates from the authors' code: ``label`` is cut to L; a moving average of even width has the longer
half ahead, where theirs loses a stamp and fails; each window keeps its own lags outside training,
as theirs, and ``delays`` chooses for training (see core's "autocorrelation" mixer, which also says
why 8 published heads are no option here).  Biases that can change no forecast are left out, those
of seven queries and keys and two norms: 4,608 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import Forecaster, Shape, register
from core.blocks import BlockContext
from core.errors import UsageError
from core.grid import is_static
from core.mixers.autocorrelation import Autocorrelation, AutocorrelationConfig, Delays
from core.ops.dropout import dropout
from core.ops.feed_forward import feed_forward

WINDOWS = 32
"""Forecast at once outside training: 256 of ETTh1 would hold 0.6 GB in a feed-forward layer."""

ROWS = 32
"""Of a moving average at once: with 24 or 48 the same, with 16 and 72 slower."""


@dataclass(frozen=True, kw_only=True)
class AutoformerConfig:
    """Sizes of the authors' scripts for ETTh1.  ``kernel`` stamps in the moving average."""

    dim: int = 512
    ffn: int = 2048
    encoders: int = 2
    decoders: int = 1
    label: int = 48
    factor: float = 3.0
    kernel: int = 25
    dropout: float = 0.05
    delays: Delays = "batch"


@register("autoformer", AutoformerConfig)
class Autoformer(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q), with known covariates (B, L + H, K)."""

    def __init__(self, config: AutoformerConfig, shape: Shape) -> None:
        super().__init__(shape)
        if config.label < 0 or config.kernel < 1:
            raise UsageError(
                f"autoformer label {config.label}, kernel {config.kernel}: give a label of 0 or "
                "more and a kernel of 1 or more."
            )
        L, N, d = shape.lookback, shape.variates, config.dim
        self.label = min(config.label, L)
        self.decompose = Decomposition(config.kernel)
        self.embed_past = Embedding(N, shape.known, d, config.dropout)
        self.embed_future = Embedding(N, shape.known, d, config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoders))
        self.encoder_norm = SeasonalNorm(d)
        outputs = N * shape.outputs
        self.decoder = nn.ModuleList(DecoderLayer(config, outputs) for _ in range(config.decoders))
        self.decoder_norm = SeasonalNorm(d)
        self.head = nn.Linear(d, outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        whole = torch.is_grad_enabled() or self.training or not is_static(x.shape)
        if whole or len(x) <= WINDOWS:
            return self.forecast(x, known)
        parts = [None] * len(x) if known is None else known.split(WINDOWS)
        return torch.cat(
            [self.forecast(x, k) for x, k in zip(x.split(WINDOWS), parts, strict=False)]
        )

    def forecast(self, x: Tensor, known: Tensor | None) -> Tensor:
        """``forward`` of all windows at once."""
        L, H, N, Q = (
            self.shape.lookback,
            self.shape.horizon,
            self.shape.variates,
            self.shape.outputs,
        )
        start = L - self.label
        season, trend = self.decompose(x)
        trend = torch.cat((trend[:, start:], x.mean(1, keepdim=True).expand(-1, H, -1)), 1)
        season = F.pad(season[:, start:], (0, 0, 0, H))

        memory = self.embed_past(x, None if known is None else known[:, :L])
        for layer in self.encoder:
            memory = layer(memory)
        memory = self.encoder_norm(memory)

        z = self.embed_future(season, None if known is None else known[:, start:])
        trend = trend.repeat_interleave(Q, -1)
        for layer in self.decoder:
            z, part = layer(z, memory)
            trend = trend + part
        y = trend[:, -H:] + self.head(self.decoder_norm(z)[:, -H:])
        return y if Q == 1 else y.unflatten(-1, (N, Q))


class Decomposition(nn.Module):
    """(B, L, C) -> the rest and the trend, which is the mean of ``kernel`` stamps around each.

    Before the first stamp and after the last their values are repeated, so any kernel is possible
    at any length.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel, self.before, self.after = kernel, (kernel - 1) // 2, kernel // 2

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        trend = self.average(x)
        return x - trend, trend

    def rest(self, x: Tensor) -> Tensor:
        """Only the rest."""
        if _traced(x):
            return x - self.average(x)
        rest: Tensor = _Banded.apply(x, self.before, self.after, True)
        return rest

    def average(self, x: Tensor) -> Tensor:
        """Only the trend."""
        if not _traced(x):
            trend: Tensor = _Banded.apply(x, self.before, self.after, False)
            return trend
        x = torch.cat(
            (x[:, :1].expand(-1, self.before, -1), x, x[:, -1:].expand(-1, self.after, -1)), 1
        )
        # As a grid L x 1 with channels last: sums run over whole rows of channels.
        mean = F.avg_pool2d(x.unsqueeze(2).permute(0, 3, 1, 2), (self.kernel, 1), 1)
        return mean.permute(0, 2, 3, 1).squeeze(2)


def _traced(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting()


class _Banded(torch.autograd.Function):
    """The moving average of x (B, L, C), or x without it, as products with the rows of a matrix.

    Row i of it is zero outside i - before .. i + after, so a few rows at a time meet a few columns.
    32 x 512 channels: 1.9 ms at 96 stamps (whole matrix 3.8, pooling 8), 3.1 at 144 (7.2, 16).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: int, after: int, rest: bool) -> Tensor:
        ctx.before, ctx.after, ctx.rest = before, after, rest
        return _banded(x, before, after, rest, transposed=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        g = _banded(grads[0], ctx.before, ctx.after, ctx.rest, transposed=True)
        return g, None, None, None


def _banded(x: Tensor, before: int, after: int, rest: bool, transposed: bool) -> Tensor:
    B, L, _ = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    stamps = torch.arange(L, device=x.device)
    lead, trail = (after, before) if transposed else (before, after)
    for start in range(0, L, ROWS):
        rows = slice(start, min(start + ROWS, L))
        near = slice(max(start - lead, 0), rows.stop + trail)
        i, j = stamps[rows].unsqueeze(1), stamps[near]
        share = _counts(j, i, L, before, after) if transposed else _counts(i, j, L, before, after)
        share = share.to(x.dtype) / (before + after + 1)
        if rest:
            share = (i == j).to(x.dtype) - share
        torch.bmm(share.expand(B, -1, -1), x[:, near], out=y[:, rows])
    return y


def _counts(i: Tensor, j: Tensor, L: int, before: int, after: int) -> Tensor:
    """How often stamp j counts in the mean at stamp i: once near it, the ends for what is beyond."""
    near = (j - i >= -before) & (j - i <= after)
    first = (j == 0) * (before - i).clamp_min(0)
    last = (j == L - 1) * (after - (L - 1 - i)).clamp_min(0)
    return near + first + last


class SeasonalNorm(nn.Module):
    """LayerNorm minus its mean over time, which is not for the seasonal part to carry.

    So the norm needs no bias.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x - x.mean(1, keepdim=True)


class Embedding(nn.Module):
    """(B, T, N) and known covariates (B, T, K) -> (B, T, d)."""

    def __init__(self, variates: int, known: int, dim: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.empty(dim, variates, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity="leaky_relu")
        self.marks = nn.Linear(known, dim, bias=False) if known else None

    def forward(self, x: Tensor, known: Tensor | None) -> Tensor:
        # The convolution and the covariates' map as one product: 3 N + K numbers are few.
        inputs = [x.roll(1, 1), x, x.roll(-1, 1)]
        weight = self.weight.permute(0, 2, 1).flatten(1)
        if self.marks is not None:
            if known is None:
                raise UsageError(
                    "autoformer built for known covariates: give them, known=(B, L+H, K)."
                )
            inputs.append(known)
            weight = torch.cat((weight, self.marks.weight), 1)
        return _drop(self, F.linear(torch.cat(inputs, -1), weight), self.rate)


class FeedForward(nn.Module):
    """Linear, GELU, dropout, Linear, dropout; no biases."""

    def __init__(self, dim: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rate = self.rate if self.training else 0.0
        return _drop(self, feed_forward(x, self.fc1.weight, self.fc2.weight, rate), self.rate)


class EncoderLayer(nn.Module):
    """(B, L, d) -> (B, L, d): the seasonal part, twice cleared of its trend."""

    def __init__(self, config: AutoformerConfig) -> None:
        super().__init__()
        self.rate = config.dropout
        self.mixer = _autocorrelation(config)
        self.ffn = FeedForward(config.dim, config.ffn, config.dropout)
        self.decompose = Decomposition(config.kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = self.decompose.rest(x + _drop(self, self.mixer(x), self.rate))
        return self.decompose.rest(x + self.ffn(x))


class DecoderLayer(nn.Module):
    """z (B, T, d) and memory (B, L, d) -> seasonal part (B, T, d), trend (B, T, outputs)."""

    def __init__(self, config: AutoformerConfig, outputs: int) -> None:
        super().__init__()
        self.rate = config.dropout
        self.mixer = _autocorrelation(config)
        self.cross = _autocorrelation(config, cross=True)
        self.ffn = FeedForward(config.dim, config.ffn, config.dropout)
        self.decompose = Decomposition(config.kernel)
        # The published circular convolution, width 3 and no bias.
        self.trend = nn.Conv1d(config.dim, outputs, 3, bias=False)

    def forward(self, z: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        a = z + _drop(self, self.mixer(z), self.rate)
        z = self.decompose.rest(a)
        b = z + _drop(self, self.cross.mix(z, memory), self.rate)
        z = self.decompose.rest(b)
        c = z + self.ffn(z)
        z = self.decompose.rest(c)
        # The three trends' sum, convolved.  Taps first: what is averaged and shifted then has few
        # channels.
        taps = self.trend.weight.permute(2, 0, 1).flatten(0, 1)
        trend = self.decompose.average(F.linear(a + b + c, taps))
        left, here, right = trend.chunk(3, -1)
        return z, left.roll(1, 1) + here + right.roll(-1, 1)


def _autocorrelation(config: AutoformerConfig, cross: bool = False) -> Autocorrelation:
    mixer = AutocorrelationConfig(factor=config.factor, delays=config.delays)
    return Autocorrelation(mixer, BlockContext(dim=config.dim, rank=1), cross=cross)


def _drop(module: nn.Module, x: Tensor, rate: float) -> Tensor:
    return dropout(x, rate) if module.training and rate else x
