"""A pyramid: stages of blocks on ever coarser grids, described by data.

``forward`` takes (B, C, *S) and returns one (B, C_i, *S_i) for each stage, finest first, with
S_i = ceil(S / strides[i]), for any size S >= 1 of rank 1 to 3.

``torch.export`` takes it at a fixed size, and with dynamic batch and sizes.  The exporter treats
lengths of 1 apart, so a program traced with larger ones wants every map to be at least 2 long on
each axis, and longer than one window or stripe; the latter is a guard only, and
``program.module(check_guards=False)`` gives the exact result without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from core import grid
from core.blocks import BlockContext, PositionEmbedding, init_weights
from core.down import DownConfig
from core.errors import UsageError
from core.nn import make_norm, recomputed


class AnyBlockConfig(Protocol):
    """What a stage asks of the config of a block: ``BlockConfig``, or a family's own."""

    @property
    def mixer(self) -> Any:
        """Config of its token mixer, or None."""

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The block, (B, *S, C) -> (B, *S, C)."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Reduce the grid by ``down``, then ``depth`` blocks with ``dim`` channels.

    ``block`` is one config for all blocks, or a tuple with one for each (a hybrid's pattern).
    ``position`` is the grid a learned absolute position embedding is made for (ViT, Vim).
    ``end_norm`` is applied to what leaves the stage, also on the way to the next one (PVTv2).
    ``extra_tokens`` learned tokens join the grid's in this stage (CvT's class token).  ``lead`` is
    the config of one more block, of another kind, that goes before the ``depth`` others.
    """

    dim: int
    depth: int
    block: AnyBlockConfig | tuple[AnyBlockConfig, ...]
    down: DownConfig
    end_norm: str = "none"
    end_norm_eps: float = 1e-5
    extra_tokens: int = 0
    lead: Any = None
    position: tuple[int, ...] | None = None

    @property
    def blocks(self) -> tuple[AnyBlockConfig, ...]:
        """The config of each block.  Raises UsageError where they are not ``depth``."""
        blocks = self.block if isinstance(self.block, tuple) else (self.block,) * self.depth
        if len(blocks) != self.depth:
            raise UsageError(
                f"stage of depth {self.depth} with {len(blocks)} block configs: give one a block."
            )
        return blocks


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """``drop_path`` grows linearly from 0 at the first block to this rate at the last.

    ``outputs``: ``"end"`` returns what leaves a stage; ``"start"`` what enters its blocks, which is
    what Swin UNETR feeds its decoder with.  The last stage then has depth 0.
    """

    rank: int
    in_channels: int
    stages: tuple[StageConfig, ...]
    drop_path: float = 0.0
    outputs: Literal["end", "start"] = "end"
    gradient_checkpointing: bool = False

    def build(self) -> Pyramid:
        """The backbone, with fresh weights."""
        return Pyramid(self)


class Stage(nn.Module):
    """One level of a pyramid: ``down`` is (B, *S, C) -> (B, *ceil(S / stride), C'), then blocks."""

    def __init__(
        self, config: StageConfig, dim_in: int, rank: int, index: int, drop_path: list[float]
    ) -> None:
        super().__init__()
        self.down = config.down.build(dim_in, config.dim, rank)
        self.blocks = nn.ModuleList(
            block.build(
                BlockContext(dim=config.dim, rank=rank, stage=index, index=i, depth=config.depth),
                drop_path[i],
            )
            for i, block in enumerate(config.blocks)
        )
        self.lead: nn.Module | None = None
        if config.lead is not None:
            context = BlockContext(dim=config.dim, rank=rank, stage=index, depth=config.depth)
            self.lead = config.lead.build(context)
        self.norm = make_norm(config.end_norm, config.dim, config.end_norm_eps)
        self.position: nn.Module | None = None
        if config.position is not None:
            self.position = PositionEmbedding(config.dim, config.position, rank)
        self.extra: nn.Parameter | None = None
        if config.extra_tokens:
            self.extra = nn.Parameter(torch.zeros(1, config.extra_tokens, config.dim))
            nn.init.trunc_normal_(self.extra, std=0.02)

    def forward(self, x: Tensor, recompute: bool = False) -> tuple[Tensor, Tensor | None]:
        """The blocks on what ``down`` gave: the grid and the extra tokens (B, E, C'), or None."""
        if self.position is not None:
            x = self.position(x)
        if self.lead is not None:
            x = recomputed(recompute, self.lead, x)
        extra = None if self.extra is None else self.extra.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            call: Any = block if extra is None else block.forward_extra
            inputs = (x,) if extra is None else (x, extra)
            out = recomputed(recompute, call, *inputs)
            x, extra = (out, None) if extra is None else out
        return self.norm(x), None if extra is None else self.norm(extra)


class Pyramid(nn.Module):
    """Multi-scale backbone built from a :class:`PyramidConfig`.

    ``channels[i]`` and ``strides[i]`` describe the i-th output; a stride is an int where all axes
    agree and a tuple where they do not.  Set ``gradient_checkpointing`` to recompute blocks in the
    backward pass (batch norms, CvT's, then see each batch twice).
    """

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        rank = grid.check_rank(config.rank)
        if config.in_channels < 1 or not config.stages:
            raise UsageError(
                f"pyramid with {config.in_channels} input channels and {len(config.stages)} "
                "stages: both must be at least 1."
            )
        last = config.stages[-1]
        if config.outputs == "start" and (last.depth or last.lead is not None):
            raise UsageError(
                "pyramid with outputs='start': the last stage's blocks would lead nowhere; give it "
                "depth 0."
            )
        self.config, self.rank = config, rank
        self.gradient_checkpointing = config.gradient_checkpointing
        depths = [s.depth for s in config.stages]
        rates = [config.drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        dims = [config.in_channels, *(s.dim for s in config.stages)]
        self.stages = nn.ModuleList(
            Stage(s, dims[i], rank, i, rates[sum(depths[:i]) : sum(depths[: i + 1])])
            for i, s in enumerate(config.stages)
        )
        self.channels = dims[1:]
        self.strides: list[int | tuple[int, ...]] = []
        total = (1,) * rank
        for s in config.stages:
            here = grid.per_axis(s.down.stride, rank, "stride")
            total = tuple(t * v for t, v in zip(total, here, strict=True))
            self.strides.append(total[0] if len(set(total)) == 1 else total)
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> one (B, channels[i], *ceil(S / strides[i])) a stage, finest first."""
        return self.forward_extra(x)[0]

    def forward_extra(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """As ``forward``, with the last stage's extra tokens (B, E, C), or None if it has none."""
        if x.ndim != self.rank + 2 or x.shape[1] != self.config.in_channels:
            axes = ", ".join("DHW"[3 - self.rank :])
            raise UsageError(
                f"input of shape {tuple(x.shape)}: this backbone wants (B, "
                f"{self.config.in_channels}, {axes}); create it with another rank or in_channels."
            )
        recompute = self.gradient_checkpointing and self.training
        x, extra, outputs = x.movedim(1, -1), None, []
        # From the input's sizes, since ceil(ceil(S / a) / b) = ceil(S / ab) but the nested form
        # grows from stage to stage, until an exporter takes minutes to reason about it.
        S = x.shape[1:-1]
        for stage, stride in zip(self.stages, self.strides, strict=True):
            assert isinstance(stage, Stage)
            t = grid.per_axis(stride, self.rank)
            start = stage.down(x, [grid.ceil_div(s, v) for s, v in zip(S, t, strict=True)])
            x, extra = stage(start, recompute)
            outputs.append((start if self.config.outputs == "start" else x).movedim(-1, 1))
        return outputs, extra

    def extra_repr(self) -> str:
        millions = sum(math.prod(p.shape) for p in self.parameters()) / 1e6
        return f"rank={self.rank}, channels={self.channels}, {millions:.1f} M parameters"
