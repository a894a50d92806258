"""GPHT: causal attention over patches at several scales, each stage on what the last left over.

Paper: Liu et al., "Generative Pretrained Hierarchical Transformer for Time Series Forecasting", KDD
2024 (arXiv:2402.16516; figure 2, sections 3.2 to 3.4).  Code it corresponds to:
icantnamemyself/GPHT (MIT), models/GPHT.py and exp/exp_long_term_forecasting_GPHT.py.

Letters: B windows, N variates, T = t K stamps in t tokens of K = ``token`` stamps, p pool of a
stage, d = ``dim``, Q outputs for a stamp.

    z[0] = (x - mean) / std, over the window
    stage n: tokens = Linear(K / p -> d)(max over every p stamps of z[n]) + position
             tokens = LN(blocks(tokens)): causal attention and feed-forward, each x = LN(x + f(x))
             out[n] = Linear(d -> K Q)(tokens): of each token, the stamps of the next one
             z[n+1] = z[n] - out[n], K stamps later; 0 for the first token
    next tokens = mean + std * sum of out[n]

``generate`` appends the last token's forecast to the window, drops as many of the earliest stamps,
normalises anew and goes on; what exceeds the horizon is cut off.  Of several outputs the middle one
is what is appended and what a stage leaves over.

The ``L % token`` earliest stamps of a lookback are not looked at: of 336 none, and 96 are 2 tokens.
``training_loss`` is the published one: every token of the window against the next.  Like there, a
window is normalised whole, so its first tokens are told the mean of later ones (not of what is to
be forecast); the stages themselves see the past alone, to the bit.

Deviates from the authors' code: the default sizes are small (theirs: dim 512, ffn 2048, 3 blocks a
stage, 8 heads, 38 million parameters, trained on seven data sets at once; here one panel is enough)
and the learning is from scratch: no pre-training, no freezing.  Attention's scores are dropped out
as there; linear biases differ (one matrix for q, k and v).  Any token, pools and number of stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import Forecaster, Shape, register, restore, standardise
from core.blocks import BlockConfig, BlockContext
from core.errors import UsageError
from core.mixers import mixer_config


@dataclass(frozen=True, kw_only=True)
class GPHTConfig:
    """``pools``: one a stage, each a divisor of ``token``.  ``depth``: blocks of a stage."""

    token: int = 48
    pools: tuple[int, ...] = (8, 4, 2, 1)
    dim: int = 64
    depth: int = 2
    heads: int = 4
    ffn: int = 128
    dropout: float = 0.1


class GPHTStage(nn.Module):
    """(b, T) -> (b, T, Q): of every token, the stamps of the next one."""

    def __init__(self, config: GPHTConfig, pool: int, outputs: int) -> None:
        super().__init__()
        self.token, self.pool, self.dropout = config.token, pool, config.dropout
        self.outputs = outputs
        self.embed = nn.Linear(config.token // pool, config.dim, bias=False)
        attention = mixer_config(
            "attention", heads=config.heads, causal=True, dropout=config.dropout
        )
        block = BlockConfig(
            mixer=attention,
            ffn_ratio=config.ffn / config.dim,
            form="post",
            dropout=config.dropout,
        )
        self.blocks = nn.Sequential(
            *(
                block.build(BlockContext(dim=config.dim, rank=1, index=i, depth=config.depth))
                for i in range(config.depth)
            )
        )
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.token * outputs)

    def forward(self, z: Tensor) -> Tensor:
        pooled = z.unflatten(1, (-1, self.pool)).amax(2).unflatten(1, (-1, self.token // self.pool))
        tokens = self.embed(pooled)
        tokens = tokens + positions(tokens.shape[1], tokens)
        if self.dropout and self.training:
            tokens = F.dropout(tokens, self.dropout)
        out = self.head(self.norm(self.blocks(tokens)))
        return out.flatten(1).unflatten(1, (-1, self.outputs))


@register("gpht", GPHTConfig)
class GPHT(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q)."""

    def __init__(self, config: GPHTConfig, shape: Shape) -> None:
        super().__init__(shape)
        self.token = config.token
        if config.token < 1 or not config.pools:
            raise UsageError(
                f"gpht with token {config.token} and pools {config.pools}: give a token of 1 or "
                "more stamps and at least one pool, e.g. token=48, pools=(8, 4, 2, 1)."
            )
        for pool in config.pools:
            if pool < 1 or config.token % pool:
                raise UsageError(
                    f"pool {pool}: must divide the token of {config.token} stamps; give other "
                    "pools or another token."
                )
        if shape.lookback < config.token:
            raise UsageError(
                f"lookback {shape.lookback}: gpht reads tokens of {config.token} stamps; give a "
                "longer lookback (336 is the published one) or a smaller option token."
            )
        self.stages = nn.ModuleList(GPHTStage(config, pool, shape.outputs) for pool in config.pools)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        return self.generate(x, self.shape.horizon)

    def generate(self, x: Tensor, horizon: int) -> Tensor:
        """Any horizon: (B, L, N) -> (B, horizon, N) or (B, horizon, N, Q), a token a pass."""
        found: list[Tensor] = []
        while len(found) * self.token < horizon:
            y = self.forecasts(x)[:, -self.token :]
            found.append(y)
            x = torch.cat([x, self._middle(y)], 1)[:, self.token :]
        return torch.cat(found, 1)[:, :horizon]

    def forecasts(self, x: Tensor) -> Tensor:
        """(B, T, N) -> (B, T - T % token, N) or (B, T - T % token, N, Q), each a token later.

        The T % token earliest stamps are not looked at.
        """
        x = x[:, x.shape[1] % self.token :]
        z, mean, std = standardise(x)
        rows = z.transpose(1, 2).flatten(0, 1)
        y = self.decoded(rows).unflatten(0, (-1, x.shape[2])).transpose(1, 2)
        return restore(y if self.shape.outputs > 1 else y.squeeze(-1), mean, std)

    def decoded(self, rows: Tensor) -> Tensor:
        """The stages on normalised sequences (b, T) -> (b, T, Q), each token from those up to it."""
        total = torch.zeros_like(rows).unsqueeze(-1)
        for stage in self.stages:
            out = stage(rows)
            total = total + out
            rows = rows - F.pad(out[:, : -self.token, self.shape.outputs // 2], (self.token, 0))
        return total

    def training_loss(
        self,
        x: Tensor,
        y: Tensor,
        past: Tensor | None,
        known: Tensor | None,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """``loss`` of every token of x against the next: of y (B, H, N) the first one's stamps.

        Tokens are given to ``loss`` one by one, as a batch of forecasts over ``token`` stamps.  If
        H is less than that, the last token counts only with those H stamps, by a ``loss`` of its
        own.
        """
        K, H, skipped = self.token, y.shape[1], x.shape[1] % self.token
        found = self.forecasts(x).unflatten(1, (-1, K))  # (B, t, K, N[, Q])
        truth = torch.cat([x[:, skipped + K :], y[:, :K]], 1)
        if H >= K:
            return loss(found.flatten(0, 1), truth.unflatten(1, (-1, K)).flatten(0, 1))
        last = loss(found[:, -1, :H], y)
        t = found.shape[1]
        if t == 1:
            return last
        earlier = truth[:, : (t - 1) * K].unflatten(1, (-1, K))
        return (last + (t - 1) * loss(found[:, :-1].flatten(0, 1), earlier.flatten(0, 1))) / t

    def _middle(self, y: Tensor) -> Tensor:
        return y if self.shape.outputs == 1 else y[..., self.shape.outputs // 2]


def positions(count: int, like: Tensor) -> Tensor:
    """Sines and cosines in turn (Vaswani et al., 2017, section 3.5): (count, d)."""
    d = like.shape[-1]
    at = torch.arange(count, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, d, 2, device=like.device) * (-math.log(1e4) / d))
    angle = at * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :d].to(like.dtype)
