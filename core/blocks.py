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
from core.nn import BatchNormGrid, ChannelsLastConv, make_norm

__all__ = [
    "BatchNormGrid",
    "Block",
    "BlockConfig",
    "BlockContext",
    "ChannelsLastConv",
    "ConvDown",
    "ConvDownConfig",
    "DropPath",
    "FusedBlock",
    "MergeDown",
    "MergeDownConfig",
    "Mlp",
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
    """Linear, (3-wide depthwise convolution, as in PVTv2,) GELU, Linear."""

    def __init__(self, dim: int, ratio: float, rank: int, *, depthwise: bool = False) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.depthwise = (
            ChannelsLastConv(hidden, hidden, 3, rank, padding=1, groups=hidden)
            if depthwise
            else None
        )
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.depthwise is not None:
            x = self.depthwise(x)
        return self.fc2(self.act(x))


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a block is made of.

    ``form``: ``"residual"`` is x + mix(norm(x)), then x + ffn(norm(x)); ``"fused"`` is ConvNeXt's
    x + ffn(norm(mix(x))).  ``ffn_ratio`` None leaves the feed-forward out.  ``layer_scale`` is the
    initial value of a learned gain per channel on each branch (None: no gain).
    """

    mixer: Any
    ffn_ratio: float | None = 4.0
    ffn_depthwise: bool = False
    norm: str = "layer"
    norm_eps: float = 1e-5
    layer_scale: float | None = None
    form: Literal["residual", "fused"] = "residual"

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The block at ``context``."""
        return (FusedBlock if self.form == "fused" else Block)(self, context, drop_path)


def _scale(value: float | None, dim: int) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(torch.full((dim,), value))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class Block(nn.Module):
    """x + scale1 * mixer(norm1(x)), then x + scale2 * ffn(norm2(x))."""

    def __init__(self, config: BlockConfig, context: BlockContext, drop_path: float = 0.0) -> None:
        super().__init__()
        dim = context.dim
        self.norm1 = make_norm(config.norm, dim, config.norm_eps)
        self.mixer = build_mixer(config.mixer, context)
        self.scale1 = _scale(config.layer_scale, dim)
        self.drop_path = DropPath(drop_path)
        self.ffn: Mlp | None = None
        if config.ffn_ratio is not None:
            self.norm2 = make_norm(config.norm, dim, config.norm_eps)
            self.ffn = Mlp(dim, config.ffn_ratio, context.rank, depthwise=config.ffn_depthwise)
            self.scale2 = _scale(config.layer_scale, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(_scaled(self.mixer(self.norm1(x)), self.scale1))
        return self.feed_forward(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second branch, position by position."""
        if self.ffn is None:
            return x
        return x + self.drop_path(_scaled(self.ffn(self.norm2(x)), self.scale2))

    def forward_extra(self, x: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """The block on a grid and on ``extra`` tokens (B, E, C) that lie outside it."""
        mixed, mixed_extra = self.mixer.forward_extra(self.norm1(x), self.norm1(extra))  # type: ignore[operator]
        x = x + self.drop_path(_scaled(mixed, self.scale1))
        extra = extra + self.drop_path(_scaled(mixed_extra, self.scale1))
        return self.feed_forward(x), self.feed_forward(extra)


class FusedBlock(nn.Module):
    """ConvNeXt's x + scale * ffn(norm(mixer(x))) (Liu et al., CVPR 2022, figure 4)."""

    def __init__(self, config: BlockConfig, context: BlockContext, drop_path: float = 0.0) -> None:
        super().__init__()
        self.mixer = build_mixer(config.mixer, context)
        self.norm = make_norm(config.norm, context.dim, config.norm_eps)
        self.ffn = Mlp(
            context.dim, config.ffn_ratio or 4.0, context.rank, depthwise=config.ffn_depthwise
        )
        self.scale = _scale(config.layer_scale, context.dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(_scaled(self.ffn(self.norm(self.mixer(x))), self.scale))


@dataclass(frozen=True, kw_only=True)
class ConvDownConfig:
    """Down-sampling by a strided convolution, with optional norms around it.

    ``ceil(S / stride)`` positions come out whatever S is: the input is zero-padded at its end where
    the convolution alone would give fewer.  (The authors' codes round down, or refuse.)
    """

    stride: int | tuple[int, ...]
    kernel: int | tuple[int, ...]
    padding: int | tuple[int, ...] = 0
    norm_before: str = "none"
    norm_after: str = "none"
    norm_eps: float = 1e-5
    bias: bool = True

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        return ConvDown(self, dim_in, dim_out, rank)


class ConvDown(nn.Module):
    """(B, *S, C) -> (B, *ceil(S / stride), C')."""

    def __init__(self, config: ConvDownConfig, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        self.stride = grid.per_axis(config.stride, rank, "stride")
        self.kernel = grid.per_axis(config.kernel, rank, "kernel")
        padding = config.padding
        self.padding = (padding,) * rank if isinstance(padding, int) else tuple(padding)
        if any(k < s + p for k, s, p in zip(self.kernel, self.stride, self.padding, strict=True)):
            raise UsageError(
                f"kernel {self.kernel}: shorter than stride {self.stride} plus padding "
                f"{self.padding}, it would leave the end of a grid unread; use a longer one."
            )
        self.norm_before = make_norm(config.norm_before, dim_in, config.norm_eps)
        self.conv = ChannelsLastConv(
            dim_in,
            dim_out,
            self.kernel,
            rank,
            stride=self.stride,
            padding=self.padding,
            bias=config.bias,
        )
        self.norm_after = make_norm(config.norm_after, dim_out, config.norm_eps)

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """``sizes``: the result's, ceil(S / stride), where the caller has a simpler form of them."""
        x = self.norm_before(x)
        S = x.shape[1:-1]
        n = sizes or [grid.ceil_div(v, s) for v, s in zip(S, self.stride, strict=True)]
        # Positions after the last that the convolution reads on top of the grid: at least 0.
        after = [
            (m - 1) * s + k - p - v
            for m, s, k, p, v in zip(n, self.stride, self.kernel, self.padding, S, strict=True)
        ]
        if grid.is_static(S):
            short = [max(0, a - p) for a, p in zip(after, self.padding, strict=True)]
            return self.norm_after(self.conv(grid.pad_after(x, short) if any(short) else x))
        sides = [q for p, a in zip(self.padding, after, strict=True) for q in (p, a)]
        x = F.pad(
            x, [0, 0] + [q for r in reversed(range(len(n))) for q in sides[2 * r : 2 * r + 2]]
        )
        return self.norm_after(self.conv(x, padded=True))


NeighbourOrder = Literal["first", "last", "monai"]


@dataclass(frozen=True, kw_only=True)
class MergeDownConfig:
    """Patch merging (Swin, section 3.1): concatenate neighbours, norm, project.

    ``order`` of the neighbours: ``"first"`` axis varies fastest (Swin), ``"last"`` axis varies
    fastest (MONAI's ``mergingv2``), ``"monai"`` is MONAI's ``merging``, whose 3-D form takes two
    neighbours twice and leaves two out, and which its published weights were trained with.
    ``stride`` may be 1 on an axis that is not to be reduced.
    """

    stride: int | tuple[int, ...] = 2
    order: NeighbourOrder = "first"
    norm_eps: float = 1e-5

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        return MergeDown(self, dim_in, dim_out, rank)


class MergeDown(nn.Module):
    """(B, *S, C) -> (B, *ceil(S / stride), C')."""

    def __init__(self, config: MergeDownConfig, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        self.stride = grid.per_axis(config.stride, rank, "stride")
        self.offsets = _neighbours(self.stride, config.order)
        self.norm = nn.LayerNorm(dim_in * len(self.offsets), eps=config.norm_eps)
        self.proj = nn.Linear(dim_in * len(self.offsets), dim_out, bias=False)

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """``sizes``: the result's, ceil(S / stride), where the caller has a simpler form of them."""
        n = sizes or [grid.ceil_div(v, s) for v, s in zip(x.shape[1:-1], self.stride, strict=True)]
        x = grid.pad_to(x, [m * s for m, s in zip(n, self.stride, strict=True)])
        parts = [
            x[(slice(None), *(slice(o, None, s) for o, s in zip(offset, self.stride, strict=True)))]
            for offset in self.offsets
        ]
        return self.proj(self.norm(torch.cat(parts, -1)))


def _neighbours(stride: tuple[int, ...], order: NeighbourOrder) -> list[tuple[int, ...]]:
    last: list[tuple[int, ...]] = [()]
    for s in stride:
        last = [(*head, o) for head in last for o in range(s)]
    if order == "first":
        return sorted(last, key=lambda offset: offset[::-1])
    if order == "monai" and stride == (2, 2, 2):
        return [
            (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1),
            (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1),
        ]  # fmt: skip
    return last


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
