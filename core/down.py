"""Down-sampling layers: (B, *S, C) -> (B, *ceil(S / stride), C') for any size S."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError, unknown
from core.nn import BatchNormGrid, ChannelsLastConv, make_activation, make_norm


class DownConfig(Protocol):
    """What a stage asks of the config of its down-sampling layer."""

    @property
    def stride(self) -> int | tuple[int, ...]:
        """Of the whole layer, one int or one per axis."""

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        """The layer; its ``forward`` also takes the result's sizes, ceil(S / stride)."""


@dataclass(frozen=True, kw_only=True)
class ConvDownConfig:
    """Down-sampling by a strided convolution, with optional norms around it.

    ``ceil(S / stride)`` positions come out whatever S is: the input is zero-padded at its end where
    the convolution alone would give fewer.  (The authors' codes round down, or refuse.)  The norms
    are those of ``core.nn.NORMS``, or "batch".
    """

    stride: int | tuple[int, ...]
    kernel: int | tuple[int, ...]
    padding: int | tuple[int, ...] = 0
    norm_before: str = "none"
    norm_after: str = "none"
    norm_eps: float = 1e-5
    bias: bool = True
    groups: int = 1

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
        if len(self.padding) != rank or min(self.padding) < 0:
            raise UsageError(
                f"padding {padding}: want an int, or one per axis of rank {rank}, >= 0."
            )
        if any(k < s + p for k, s, p in zip(self.kernel, self.stride, self.padding, strict=True)):
            raise UsageError(
                f"kernel {self.kernel}: shorter than stride {self.stride} plus padding "
                f"{self.padding}, it would leave the end of a grid unread; use a longer one."
            )
        self.norm_before = _norm(config.norm_before, dim_in, rank, config.norm_eps)
        self.conv = ChannelsLastConv(
            dim_in,
            dim_out,
            self.kernel,
            rank,
            stride=self.stride,
            padding=self.padding,
            groups=config.groups,
            bias=config.bias,
        )
        self.norm_after = _norm(config.norm_after, dim_out, rank, config.norm_eps)

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


def _norm(name: str, dim: int, rank: int, eps: float) -> nn.Module:
    return BatchNormGrid(dim, rank, eps) if name == "batch" else make_norm(name, dim, eps)


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
    if order not in get_args(NeighbourOrder):
        raise UsageError(unknown("order of neighbours", order, get_args(NeighbourOrder)))
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


@dataclass(frozen=True, kw_only=True)
class SeriesDownConfig:
    """Down-sampling layers one after another, with the activation ``act`` between them.

    ``dims`` are the channels between the ``steps``, one fewer than those (VMamba's and
    MobileMamba's stems).
    """

    steps: tuple[DownConfig, ...]
    dims: tuple[int, ...]
    act: str = "gelu"

    def __post_init__(self) -> None:
        if not self.steps or len(self.dims) != len(self.steps) - 1:
            raise UsageError(
                f"series of {len(self.steps)} layers with {len(self.dims)} widths between them: "
                "give at least one layer, and widths one fewer than layers."
            )

    @property
    def stride(self) -> int | tuple[int, ...]:
        """Product of the steps' strides.  Raises UsageError where their ranks disagree."""
        strides = [step.stride for step in self.steps]
        rank = max(1 if isinstance(s, int) else len(s) for s in strides)
        axes = zip(*(grid.per_axis(s, rank, "stride") for s in strides), strict=True)
        total = tuple(math.prod(axis) for axis in axes)
        return total[0] if len(set(total)) == 1 else total

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        return SeriesDown(self, dim_in, dim_out, rank)


class SeriesDown(nn.Module):
    """(B, *S, C) -> (B, *ceil(S / stride), C')."""

    def __init__(self, config: SeriesDownConfig, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        dims = (dim_in, *config.dims, dim_out)
        self.steps = nn.ModuleList(
            step.build(dims[i], dims[i + 1], rank) for i, step in enumerate(config.steps)
        )
        self.act = make_activation(config.act)

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """``sizes``: the result's, ceil(S / stride), where the caller has a simpler form of them."""
        for i, step in enumerate(self.steps):
            last = i == len(self.steps) - 1
            x = step(x if i == 0 else self.act(x), sizes if last else None)
        return x


def conv_stem(
    patch: grid.PerAxis, rank: int, dims: Sequence[int], act: str = "gelu", **options: Any
) -> SeriesDownConfig:
    """Convolutions in series whose strides multiply to ``patch``, with ``dims`` between them.

    Kernels are 3 wide, or the stride + 1 where that is more; ``options`` go to each convolution.
    """
    rest = grid.per_axis(patch, rank, "patch")
    convs = []
    for left in range(len(dims) + 1, 0, -1):
        # The smallest divisor that is enough if the later ones do as much: 4 = 2 * 2, 2 = 2 * 1.
        stride = tuple(
            next(d for d in range(1, p + 1) if p % d == 0 and d**left >= p) for p in rest
        )
        rest = tuple(p // s for p, s in zip(rest, stride, strict=True))
        kernel = tuple(max(3, s + 1) for s in stride)
        convs.append(ConvDownConfig(kernel=kernel, stride=stride, padding=1, **options))
    return SeriesDownConfig(steps=tuple(convs), dims=tuple(dims), act=act)
