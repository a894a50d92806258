"""TimelyGPT: retention with xPos and causal convolutions over the patches of each variate.

Paper: Song et al., "TimelyGPT: Extrapolatable Transformer Pre-training for Long-term Time-Series
Forecasting in Healthcare", 2023 (arXiv:2312.00817; figure 1, sections 3.1 to 3.4).  Code it
corresponds to: li-lab-mcgill/TimelyGPT, TimelyGPT_CTS/models/TimelyGPT.py.

Letters: B windows, N variates, T = t P stamps in t tokens of P = ``patch`` stamps, S = ``span``
stamps forecast from each token, d = ``dim``, Q outputs for a stamp.

    token i = Linear(P -> d) of (stamps of patch i - mean[i]) / std[i]
    x + Retention(LN x);  x + TemporalConv(LN x);  x + FFN(LN x)      ``depth`` times, then LN
    stamps after patch i = mean[i] + std[i] * Linear(d -> S Q)

mean[i] and std[i] are those of all stamps up to the end of patch i, so what a token puts out
depends on nothing after it, to the bit, and every token is an honest example of the next S stamps:
``training_loss`` learns from all of them at once.  Retention is RetNet's with xPos and 1 - decay
from 1 / 32 to 1 / 512; its three forms agree, and ``initial_state`` and ``step`` read one patch at
a time with the same result, in memory that does not grow.  ``generate`` takes as many steps as a
horizon needs: what is forecast is read as if it had happened, of several outputs the middle one.

Deviates from the paper and its code: every variate is a sequence of its own (theirs mixes them in
the tokeniser).  Patches without overlap stand for two strided convolutions and a third over
neighbouring tokens, which see the next token.  The temporal convolution is padded at its start
(theirs is centred: half of its 31 tokens are the future) and has LayerNorm, not BatchNorm.  A token
forecasts S stamps rather than the next token of 4, so that 96 steps ahead take one pass.  The
running normalisation takes the place of none in their forward pass; no start token, since nothing
can be said before the first patch.  xPos turns the channels of each head alike (theirs gives every
head its own frequencies), by angles from 1 to 1e-4, and keys are as wide as values.  The norm of a
head subtracts no mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apps.timeseries.models.base import Forecaster, Shape, register
from core.backbones.pyramid import StageConfig
from core.backbones.sequence import SequenceConfig, State, stem
from core.blocks import BlockConfig
from core.errors import UsageError
from core.mixers import mixer_config
from core.ops.retention import Form


@dataclass(frozen=True, kw_only=True)
class TimelyGPTConfig:
    """``span``: stamps forecast from a token, a multiple of ``patch`` (never beyond the horizon).

    ``kernel``: tokens that a temporal convolution sees.  ``warmup``: the share of a window's
    lookback that must have passed before a token counts in ``training_loss``.
    """

    patch: int = 8
    span: int = 96
    dim: int = 64
    depth: int = 2
    heads: int = 4
    ffn: int = 128
    kernel: int = 31
    dropout: float = 0.1
    warmup: float = 0.5
    form: Form = "auto"


class Running(NamedTuple):
    """Of each sequence (b, 1): its first stamp, how many there were, their sums less the first."""

    first: Tensor
    stamps: Tensor
    total: Tensor
    squares: Tensor


class TimelyState(NamedTuple):
    """What has been read: the trunk's state and the running sums (None before the first patch)."""

    trunk: State
    running: Running | None


@register("timelygpt", TimelyGPTConfig)
class TimelyGPT(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q).  The L % patch earliest stamps are not looked at."""

    def __init__(self, config: TimelyGPTConfig, shape: Shape) -> None:
        super().__init__(shape)
        self.patch, self.warmup = config.patch, config.warmup
        if config.patch < 1 or config.span < 1 or config.span % config.patch:
            raise UsageError(
                f"timelygpt with patch {config.patch} and span {config.span}: a token forecasts "
                f"whole patches; give a span that is a multiple of patch, e.g. {12 * config.patch}."
            )
        if shape.lookback < config.patch:
            raise UsageError(
                f"lookback {shape.lookback}: timelygpt reads patches of {config.patch}; give a "
                f"longer lookback or a smaller option patch."
            )
        if not 0 <= config.warmup < 1:
            raise UsageError(f"warmup {config.warmup}: a share of the lookback, from 0 to below 1.")
        self.span = min(config.span, -(-shape.horizon // config.patch) * config.patch)
        retention = mixer_config(
            "retention",
            heads=config.heads,
            rotary=True,
            xpos=512.0,
            slowest=1 / 512,
            form=config.form,
        )
        conv = mixer_config("temporal_conv", size=config.kernel)
        ffn_ratio = config.ffn / config.dim
        blocks = (
            BlockConfig(mixer=retention, ffn_ratio=None, dropout=config.dropout),
            BlockConfig(mixer=conv, ffn_ratio=ffn_ratio, dropout=config.dropout),
        )
        stage = StageConfig(
            dim=config.dim,
            depth=2 * config.depth,
            block=blocks * config.depth,
            down=stem(config.patch, 1),
            end_norm="layer",
        )
        self.trunk = SequenceConfig(rank=1, in_channels=1, stages=(stage,)).build()
        self.head = nn.Linear(config.dim, self.span * shape.outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        return self.generate(x, self.shape.horizon)

    def generate(self, x: Tensor, horizon: int) -> Tensor:
        """Any horizon: (B, L, N) -> (B, horizon, N) or (B, horizon, N, Q).

        In one pass up to ``span``; beyond, in steps whose time grows with L + horizon and whose
        memory does not.
        """
        tokens = self.patches(x)
        found: list[Tensor] = []
        # 200 stamps from 96 are 3 passes over the tokens or 24 steps: the graph is made of passes.
        if horizon <= self.span or torch.compiler.is_exporting():
            while len(found) * self.span < horizon:
                z, mean, std = self.normalised(tokens)
                found.append(self._told(self.encoded(z)[:, -1], mean[:, -1], std[:, -1]))
                tokens = torch.cat([tokens, self._as_patches(found[-1])], 1)
            return self._split(torch.cat(found, 1), x.shape[2])[:, :horizon]
        state = self.initial_state(tokens.shape[0])
        while len(found) * self.span < horizon:
            for patch in tokens.unbind(1):
                y, state = self._step(patch, state)
            found.append(y)
            tokens = self._as_patches(y)
        return self._split(torch.cat(found, 1), x.shape[2])[:, :horizon]

    def forecasts(self, values: Tensor) -> Tensor:
        """(B, T, N) -> (B, t, span, N) or (B, t, span, N, Q): after every patch, what follows it.

        The T % patch earliest stamps are not looked at.  Element i is that of ``generate`` on the
        stamps up to the end of patch i, and depends on them alone.
        """
        z, mean, std = self.normalised(self.patches(values))
        return self.told(self.encoded(z), mean, std, values)

    def training_loss(
        self,
        x: Tensor,
        y: Tensor,
        past: Tensor | None,
        known: Tensor | None,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """``loss`` of the span after every token whose span lies in the window (B, L + H, N).

        Tokens of the first ``warmup`` of the lookback do not count.  Where the window is too short
        for any other, the loss of the forecast itself.
        """
        values, L, P, S = torch.cat([x, y], 1), x.shape[1], self.patch, self.span
        skipped = L % P  # so that a patch ends where the lookback does
        values = values[:, skipped:]
        known_tokens = (values.shape[1] - S) // P
        first = min(math.ceil(self.warmup * L / P), L // P) - 1
        if known_tokens <= max(first, 0):
            return loss(self.generate(x, y.shape[1]), y)
        first = max(first, 0)
        z, mean, std = self.normalised(self.patches(values[:, : known_tokens * P]))
        h = self.encoded(z)[:, first:]
        found = self.told(h, mean[:, first:], std[:, first:], x).flatten(0, 1)
        truth = values[:, (first + 1) * P :].unfold(1, S, P)[:, : known_tokens - first]
        return loss(found, truth.movedim(-1, 2).flatten(0, 1))

    def initial_state(self, batch: int) -> TimelyState:
        """Before the first patch of ``batch`` sequences: windows times variates."""
        return TimelyState(self.trunk.initial_state(batch), None)

    def step(self, values: Tensor, state: TimelyState | None = None) -> tuple[Tensor, TimelyState]:
        """The next patch (B, patch, N): what follows it (B, span, N) or (B, span, N, Q), new state.

        Steps equal ``forecasts`` to rounding.  Call it in ``eval`` mode.  Raises UsageError for
        other than ``patch`` stamps.
        """
        if values.ndim != 3 or values.shape[1] != self.patch:
            raise UsageError(
                f"step of shape {tuple(values.shape)}: timelygpt reads (B, {self.patch}, N) at a "
                "time."
            )
        B, _, N = values.shape
        y, state = self._step(
            values.transpose(1, 2).flatten(0, 1), state or self.initial_state(B * N)
        )
        return self._split(y, N), state

    def _step(self, patch: Tensor, state: TimelyState) -> tuple[Tensor, TimelyState]:
        """One patch (b, patch) of each sequence: (b, span) or (b, span, Q) in original units."""
        z, mean, std, running = _normalised(patch[:, None], state.running)
        h, trunk = self.trunk.step(z, state.trunk)
        return self._told(h, mean[:, 0], std[:, 0]), TimelyState(trunk, running)

    def _told(self, h: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Encoded tokens (..., dim), mean and std (..., 1) -> (..., span) or (..., span, Q)."""
        y = self.head(h)
        if self.shape.outputs > 1:
            y, mean, std = y.unflatten(-1, (self.span, -1)), mean[..., None], std[..., None]
        return mean + std * y

    def _as_patches(self, y: Tensor) -> Tensor:
        """What ``_step`` forecast, as the next patches (b, span / patch, patch)."""
        middle = y if self.shape.outputs == 1 else y[..., self.shape.outputs // 2]
        return middle.unflatten(1, (-1, self.patch))

    def _split(self, y: Tensor, variates: int) -> Tensor:
        """(B N, S) or (B N, S, Q) -> (B, S, N) or (B, S, N, Q)."""
        return y.unflatten(0, (-1, variates)).transpose(1, 2)

    def patches(self, values: Tensor) -> Tensor:
        """(B, T, N) -> (B N, t, patch), the T % patch earliest stamps left out."""
        T = values.shape[1]
        rows = values[:, T % self.patch :].transpose(1, 2).flatten(0, 1)
        return rows.unflatten(1, (-1, self.patch))

    def normalised(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, t, patch) by the statistics of all stamps to their end, those (b, t, 1)."""
        return _normalised(tokens, None)[:3]

    def encoded(self, tokens: Tensor) -> Tensor:
        """(b, t, patch) -> (b, t, dim)."""
        return self.trunk(tokens.flatten(1).unsqueeze(1))[-1].transpose(1, 2)

    def told(self, h: Tensor, mean: Tensor, std: Tensor, like: Tensor) -> Tensor:
        """Encoded tokens (B N, t, dim) -> (B, t, span, N) or (B, t, span, N, Q)."""
        y = self._told(h, mean, std)
        return y.unflatten(0, (-1, like.shape[2])).movedim(1, 3)


def _normalised(tokens: Tensor, before: Running | None) -> tuple[Tensor, Tensor, Tensor, Running]:
    """Tokens (b, t, P), mean and std (b, t, 1) of all stamps up to each, and the sums after them.

    Sums are of differences from a sequence's first stamp: of 1000.0 and 1000.1, squares themselves
    would leave float32 nothing of the variance.  std = sqrt(population variance + 1e-5).
    """
    if before is None:
        zero = torch.zeros_like(tokens[:, 0, :1])
        before = Running(tokens[:, 0, :1], zero, zero, zero)
    away = (tokens - before.first[:, None]).detach()
    steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)
    count = before.stamps[:, None] + tokens.shape[2] * steps[:, None]
    total = before.total[:, None] + away.sum(2, keepdim=True).cumsum(1)
    squares = before.squares[:, None] + away.square().sum(2, keepdim=True).cumsum(1)
    shift = total / count
    std = ((squares / count - shift.square()).clamp(min=0) + 1e-5).sqrt()
    mean = before.first[:, None].detach() + shift
    after = Running(before.first, count[:, -1], total[:, -1], squares[:, -1])
    return (tokens - mean) / std, mean, std, after
