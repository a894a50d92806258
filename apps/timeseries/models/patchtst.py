"""PatchTST: attention among the patches of one variate, the same for every variate on its own.

Paper: Nie et al., "A time series is worth 64 words: long-term forecasting with transformers", ICLR
2023 (section 3.1).  Code it corresponds to: yuqinie98/PatchTST, PatchTST_supervised/layers/
PatchTST_backbone.py.

Letters: B windows, L lookback, H horizon, N variates, p = ``patch``, s = ``stride``, P patches, d =
``dim``, h heads.

    x standardised per window, its last value repeated s times, cut into P = (L - p) // s + 2 patches
    z = dropout(Linear(p -> d)(patch) + position)                        (B N, P, d)
    scores = q k^T / sqrt(d / h) + scores of the layer before            (B N, h, P, P)
    z = norm(z + proj(softmax(scores) v)); norm(z + ffn(z))              ``depth`` times
    forecast = Linear(P d -> H)(z), restored

The norms are batch norms over all windows, variates and patches, as published (after Zerveas et al.,
KDD 2021).  While training, a window's forecast so depends on its batch; the trained model's does not.
Scores carried from layer to layer are RealFormer's (He et al., 2021): not in the paper's equations,
but on in the authors' code.  transformers' PatchTST has none.

Deviates from the authors' code: a window shorter than a patch is one patch, and the next one is its
last value; the head reads the patches in the order of time (theirs channel by channel: the same up
to the order of its weights); several outputs for a stamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import (
    Forecaster,
    Shape,
    register,
    restore,
    split_outputs,
    standardise,
)
from core.blocks import BlockConfig, BlockContext, PostBlock
from core.errors import UsageError
from core.mixers.attention import Attention, AttentionConfig
from core.mixers.base import check_choice, join_heads
from core.ops.dropout import dropout

Norm = Literal["batch", "layer"]


@dataclass(frozen=True, kw_only=True)
class PatchTSTConfig:
    """Sizes of the authors' scripts for ETTh1 and ETTh2.

    ``dropout`` acts on tokens, in the feed-forward, on what it adds, and twice on what attention
    adds, as in the authors' code; never on attention's weights.
    """

    patch: int = 16
    stride: int = 8
    dim: int = 16
    depth: int = 3
    ffn: int = 128
    heads: int = 4
    dropout: float = 0.3
    norm: Norm = "batch"
    residual_scores: bool = True


@register("patchtst", PatchTSTConfig)
class PatchTST(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q)."""

    def __init__(self, config: PatchTSTConfig, shape: Shape) -> None:
        super().__init__(shape)
        for name in ("patch", "stride", "dim", "depth", "ffn"):
            if getattr(config, name) < 1:
                raise UsageError(f"{name} {getattr(config, name)}: must be 1 or more.")
        if config.stride > config.patch:
            raise UsageError(
                f"stride {config.stride}: with patches of {config.patch} stamps it leaves some out; "
                "give at most the patch."
            )
        check_choice(config.norm, Norm, "norm")
        L, d = shape.lookback, config.dim
        self.dropout, self.residual_scores = config.dropout, config.residual_scores
        self.patch = min(config.patch, L)
        self.stride = min(config.stride, self.patch)
        patches = (L - self.patch) // self.stride + 2
        self.embed = nn.Linear(self.patch, d)
        self.position = nn.Parameter(torch.empty(patches, d).uniform_(-0.02, 0.02))
        self.layers = nn.ModuleList(
            Layer(config, BlockContext(dim=d, rank=1, index=i, depth=config.depth))
            for i in range(config.depth)
        )
        self.head = nn.Linear(patches * d, shape.horizon * shape.outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        x, mean, std = standardise(x)
        series = F.pad(x.transpose(1, 2), (0, self.stride), mode="replicate")
        patches = series.flatten(0, 1).unfold(-1, self.patch, self.stride)  # (B N, P, p)
        z = self.embed(patches) + self.position
        if self.dropout and self.training:
            z = dropout(z, self.dropout)
        scores: Tensor | None = None
        for layer in self.layers:
            z, scores = layer(z, scores if self.residual_scores else None)
        y = self.head(z.flatten(1)).unflatten(0, (x.shape[0], -1))
        return restore(split_outputs(y, self.shape), mean, std)


class Layer(PostBlock):
    """z (R, P, d) and the scores of the layer before, or None -> the same two.

    Scores are (R, h, P, P'), of P keys for P' queries.
    """

    mixer: Attention

    def __init__(self, config: PatchTSTConfig, context: BlockContext) -> None:
        batch = config.norm == "batch"
        block = BlockConfig(
            mixer=AttentionConfig(heads=config.heads),
            ffn_ratio=(config.ffn + 0.5) / config.dim,  # a half against rounding down
            norm="none" if batch else config.norm,
            form="post",
            dropout=config.dropout,
        )
        super().__init__(block, context)
        if batch:
            self.norm1, self.norm2 = BatchNorm(context.dim), BatchNorm(context.dim)

    def forward(  # type: ignore[override]
        self, z: Tensor, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = self.mixer.project(z)
        # Keys before queries: PyTorch's softmax over a last axis of 12 takes 1.5 ms for 896 tables,
        # 0.6 ms backwards, over the one before it 0.4 and 0.1.
        scores = k @ (q * q.shape[-1] ** -0.5).mT
        if before is not None:
            scores = scores + before
        mixed = self.mixer.proj(join_heads(scores.softmax(-2).mT @ v))
        if self.dropout and self.training:
            mixed = dropout(mixed, self.dropout)
        z = self.norm1(z + self.branch(mixed, None))
        return self.feed_forward(z), scores


class BatchNorm(nn.BatchNorm1d):
    """Statistics of each channel over all else: (R, P, d) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)
