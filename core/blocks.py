"""Block = norm, mixer, norm, feed-forward; and the small layers that blocks are made of.

Everything here maps (B, *S, C) to (B, *S, C') with a grid S of rank 1 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import BlockContext, build_mixer
from core.nn import BatchNormGrid, ChannelsLastConv, make_activation, make_norm
from core.ops.dropout import dropout

__all__ = [
    "BatchNormGrid",
    "Block",
    "BlockConfig",
    "BlockContext",
    "ChannelsLastConv",
    "DropPath",
    "FusedBlock",
    "Mlp",
    "PositionEmbedding",
    "PostBlock",
    "make_norm",
]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): drops the whole branch of an example."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Mlp(nn.Module):
    """Linear, (3-wide depthwise convolution, as in PVTv2,) activation, Linear."""

    def __init__(
        self,
        dim: int,
        ratio: float,
        rank: int,
        *,
        depthwise: bool = False,
        act: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.depthwise = (
            ChannelsLastConv(hidden, hidden, 3, rank, padding=1, groups=hidden)
            if depthwise
            else None
        )
        self.act = make_activation(act)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.depthwise is not None:
            x = self.depthwise(x)
        x = self.act(x)
        if self.dropout and self.training:
            x = dropout(x, self.dropout)
        return self.fc2(x)


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a block is made of.

    ``form``: ``"residual"`` is x + mix(norm(x)), then x + ffn(norm(x)); ``"fused"`` is ConvNeXt's
    x + ffn(norm(mix(x))); ``"post"`` is the first transformer's norm(x + mix(x)), then norm(x +
    ffn(x)).  ``mixer`` None leaves the mixer out, ``ffn_ratio`` None the feed-forward.  ``dropout``
    acts inside the feed-forward and, "fused" apart, on what each branch adds.  ``layer_scale`` is
    the initial value of a learned gain per channel on each branch (None: no gain).
    """

    mixer: Any
    ffn_ratio: float | None = 4.0
    ffn_depthwise: bool = False
    ffn_act: str = "gelu"
    ffn_bias: bool = True
    norm: str = "layer"
    norm_eps: float = 1e-5
    layer_scale: float | None = None
    form: Literal["residual", "fused", "post"] = "residual"
    dropout: float = 0.0

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The block at ``context``.  Raises UsageError where nothing is left of it."""
        if self.mixer is None and (self.ffn_ratio is None or self.form == "fused"):
            raise UsageError("block without mixer: it needs another form and an ffn_ratio.")
        return _FORMS[self.form](self, context, drop_path)


def _scale(value: float | None, dim: int) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(torch.full((dim,), value))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class Block(nn.Module):
    """x + scale1 * mixer(norm1(x)), then x + scale2 * ffn(norm2(x))."""

    def __init__(self, config: BlockConfig, context: BlockContext, drop_path: float = 0.0) -> None:
        super().__init__()
        dim = context.dim
        self.mixer: nn.Module | None = None
        if config.mixer is not None:
            self.norm1 = make_norm(config.norm, dim, config.norm_eps)
            self.mixer = build_mixer(config.mixer, context)
            self.scale1 = _scale(config.layer_scale, dim)
        self.drop_path = DropPath(drop_path)
        self.dropout = config.dropout
        self.ffn: Mlp | None = None
        if config.ffn_ratio is not None:
            self.norm2 = make_norm(config.norm, dim, config.norm_eps)
            self.ffn = Mlp(
                dim,
                config.ffn_ratio,
                context.rank,
                depthwise=config.ffn_depthwise,
                act=config.ffn_act,
                bias=config.ffn_bias,
                dropout=config.dropout,
            )
            self.scale2 = _scale(config.layer_scale, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.mixer is not None:
            x = x + self.branch(self.mixer(self.norm1(x)), self.scale1)
        return self.feed_forward(x)

    def branch(self, y: Tensor, scale: Tensor | None) -> Tensor:
        """What a branch adds: scaled, and in training thinned out."""
        y = _scaled(y, scale)
        if self.dropout and self.training:
            y = dropout(y, self.dropout)
        return self.drop_path(y)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second branch, position by position."""
        if self.ffn is None:
            return x
        return x + self.branch(self.ffn(self.norm2(x)), self.scale2)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One position (B, C) of a sequence, where the mixer has a ``step``; see SequenceTrunk."""
        if self.mixer is not None:
            mixed, state = self.mixer.step(self.norm1(x), state)  # type: ignore[operator]
            x = x + self.branch(mixed, self.scale1)
        return self.feed_forward(x), state

    def forward_extra(self, x: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """The block on a grid and on ``extra`` tokens (B, E, C) that lie outside it."""
        if self.mixer is None:
            return self.feed_forward(x), self.feed_forward(extra)
        mixed, mixed_extra = self.mixer.forward_extra(self.norm1(x), self.norm1(extra))  # type: ignore[operator]
        x = x + self.branch(mixed, self.scale1)
        extra = extra + self.branch(mixed_extra, self.scale1)
        return self.feed_forward(x), self.feed_forward(extra)


class PostBlock(Block):
    """norm1(x + mixer(x)), then norm2(x + ffn(x)) (Vaswani et al., 2017, section 3.1)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.mixer is not None:
            x = self.norm1(x + self.branch(self.mixer(x), self.scale1))
        return self.feed_forward(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        if self.ffn is None:
            return x
        return self.norm2(x + self.branch(self.ffn(x), self.scale2))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if self.mixer is not None:
            mixed, state = self.mixer.step(x, state)  # type: ignore[operator]
            x = self.norm1(x + self.branch(mixed, self.scale1))
        return self.feed_forward(x), state

    def forward_extra(self, x: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        if self.mixer is None:
            return self.feed_forward(x), self.feed_forward(extra)
        mixed, mixed_extra = self.mixer.forward_extra(x, extra)  # type: ignore[operator]
        x = self.norm1(x + self.branch(mixed, self.scale1))
        extra = self.norm1(extra + self.branch(mixed_extra, self.scale1))
        return self.feed_forward(x), self.feed_forward(extra)


class FusedBlock(nn.Module):
    """ConvNeXt's x + scale * ffn(norm(mixer(x))) (Liu et al., CVPR 2022, figure 4)."""

    def __init__(self, config: BlockConfig, context: BlockContext, drop_path: float = 0.0) -> None:
        super().__init__()
        self.mixer = build_mixer(config.mixer, context)
        self.norm = make_norm(config.norm, context.dim, config.norm_eps)
        self.ffn = Mlp(
            context.dim,
            config.ffn_ratio or 4.0,
            context.rank,
            depthwise=config.ffn_depthwise,
            act=config.ffn_act,
            bias=config.ffn_bias,
            dropout=config.dropout,
        )
        self.scale = _scale(config.layer_scale, context.dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(_scaled(self.ffn(self.norm(self.mixer(x))), self.scale))


_FORMS: dict[str, type[nn.Module]] = {"residual": Block, "fused": FusedBlock, "post": PostBlock}


class PositionEmbedding(nn.Module):
    """(B, *S, C) -> the same plus a learned vector for each position (ViT, section 3.1).

    The vectors belong to a grid of ``sizes``; to another they are interpolated linearly.
    """

    def __init__(self, dim: int, sizes: Sequence[int], rank: int) -> None:
        super().__init__()
        self.sizes = grid.per_axis(sizes, rank, "position")
        self.table = nn.Parameter(torch.zeros(1, *self.sizes, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        S = x.shape[1:-1]
        table: Tensor = self.table
        if not grid.is_static(S) or list(S) != list(self.sizes):
            mode = ("linear", "bilinear", "trilinear")[len(self.sizes) - 1]
            table = F.interpolate(table.movedim(-1, 1), tuple(S), mode=mode).movedim(1, -1)
        return x + table


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform linear weights (Glorot and Bengio, 2010) and zero biases.

    Deviates from the papers, which draw with a standard deviation of 0.02 whatever the width.  That
    suits hundreds of channels and long schedules; a narrow network then starts as an identity: a
    Swin-Unet of 32 channels still put out background alone after 120 steps, and learns at once so.
    """
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
