"""Convolutional building blocks of decoders.

Here tensors are channels-first, (B, C, *S), as convolutions want them, but lie in channels-last
memory: that is what a pyramid's maps are, so nothing is copied between the two.  One residual block
32 -> 16 channels on two grids of 40 x 56 x 40, forward and backward on one thread: 168 ms in
channels-last against 171 to 190 in contiguous memory in float32, 70 against 81 in bfloat16; a first
convolution with one input channel takes 1.2 instead of 8.8 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core import grid
from core.blocks import BlockContext
from core.nn import CONV

_BLOCK = 8192
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """(B, C, *S) in channels-last memory; at rank 1 torch has no such format, and x is returned."""
    return x.to(memory_format=_LAST[x.ndim]) if x.ndim in _LAST else x


class InstanceNorm(nn.Module):
    """(B, C, *S) -> the same, each example's channel at mean 0 and variance 1, then gain and bias.

    ``affine=False`` has no gain and bias, as in MONAI's Swin UNETR.  A grid of a single position is
    all bias; torch's own layer refuses it.

    torch's instance norm leaves channels-last memory, which costs it and the next convolution two
    to three times their time (24 channels of 96^3: 151 and 376 ms, against 51 and 186).  Batch norms
    of one example each stay in it.  Where gradients are wanted they take their own statistics, which
    the kernel sums naively (6e-5 off at 40 x 56 x 40, 1e-3 at 96^3: right for training, not for
    results); where not, they are given :func:`channel_statistics`.
    """

    def __init__(self, dim: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        gradients = torch.is_grad_enabled()
        if torch.compiler.is_compiling() or (gradients and not self.training):
            w, b = self.weight, self.bias
            return torch.instance_norm(x, w, b, None, None, True, 0.0, self.eps, False)
        # A 3-d convolution of one example leaves channels-last memory; bringing it back pays.
        x = x if gradients else channels_last(x)
        parts = [self.normalise(example, own=gradients) for example in x.split(1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def normalise(self, x: Tensor, *, own: bool) -> Tensor:
        """One example (1, C, *S), by the kernel's ``own`` statistics or by accurate ones."""
        mean, variance = (None, None) if own else channel_statistics(x)
        return torch.batch_norm(
            x, self.weight, self.bias, mean, variance, own, 0.0, self.eps, False
        )


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of (1, C, *S): (C,) each, to float32 rounding at 96^3.

    One pass over blocks of rows that fit a cache, around an estimate of the mean, summed in float64.
    """
    rows = x[0].movedim(0, -1).reshape(-1, x.shape[1])
    guess = rows[:_BLOCK].to(torch.float64).mean(0)
    total, squares = torch.zeros_like(guess), torch.zeros_like(guess)
    wide = x.dtype if x.dtype is torch.float64 else torch.float32
    centre = guess.to(wide)
    for block in rows.split(_BLOCK):
        d = block.to(wide) - centre
        ones = d.new_ones(1, len(d))
        with torch.autocast(x.device.type, enabled=False):
            total += (ones @ d)[0]
            squares += (ones @ d.square())[0]
    shift = total / len(rows)
    variance = (squares / len(rows) - shift.square()).clamp_min(0.0)
    return (guess + shift).to(wide), variance.to(wide)


class PointConv(nn.Linear):
    """A 1-wide convolution, (B, C, *S) -> (B, C', *S), as the matrix product that it is.

    32 -> 16 channels on two grids of 40 x 56 x 40, both ways: 13 instead of 53 ms in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResidualConv(nn.Module):
    """act(norm(conv(act(norm(conv(x))))) + shortcut(x)), with 3-wide convolutions and leaky ReLUs.

    (B, C, *S) -> (B, C', *ceil(S / stride)).  The shortcut is a 1-wide convolution and norm where
    C' is not C or the stride not 1.  ``kernel`` is odd.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        rank: int,
        *,
        affine: bool = True,
        kernel: grid.PerAxis = 3,
        stride: grid.PerAxis = 1,
    ) -> None:
        super().__init__()
        conv: Any = CONV[rank - 1]
        k, self.stride = (
            grid.per_axis(kernel, rank, "kernel"),
            grid.per_axis(stride, rank, "stride"),
        )
        half = tuple(v // 2 for v in k)
        self.conv1 = conv(dim_in, dim, k, stride=self.stride, padding=half, bias=False)
        self.norm1 = InstanceNorm(dim, affine=affine)
        self.conv2 = conv(dim, dim, k, padding=half, bias=False)
        self.norm2 = InstanceNorm(dim, affine=affine)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if dim_in != dim or max(self.stride) > 1:
            self.shortcut = nn.Sequential(
                PointConv(dim_in, dim, bias=False), InstanceNorm(dim, affine=affine)
            )
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if max(self.stride) > 1:  # what a strided 1-wide convolution reads
            read: Any = (..., *(slice(None, None, s) for s in self.stride))
            x = x[read]
        return self.act(y + self.shortcut(x))


@dataclass(frozen=True, kw_only=True)
class ResidualConvConfig:
    """A :class:`ResidualConv` as a block of a pyramid's stage (Swin UNETR V2's leading block)."""

    affine: bool = True
    kernel: int | tuple[int, ...] = 3

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The block at ``context``.  It has no branch to drop."""
        return _GridResidualConv(
            context.dim, context.dim, context.rank, affine=self.affine, kernel=self.kernel
        )


class _GridResidualConv(ResidualConv):
    """(B, *S, C) -> (B, *ceil(S / stride), C'); ``sizes`` are the result's, which it has anyway."""

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


@dataclass(frozen=True, kw_only=True)
class ResidualDownConfig:
    """Down-sampling by a strided :class:`ResidualConv`, nnU-Net's residual encoder's."""

    stride: int | tuple[int, ...] = 2
    kernel: int | tuple[int, ...] = 3

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        return _GridResidualConv(dim_in, dim_out, rank, kernel=self.kernel, stride=self.stride)


def he_init(module: nn.Module, slope: float = 0.01) -> None:
    """He-normal weights for leaky ReLUs, zero biases, in every convolution of ``module``."""
    kinds = (nn.modules.conv._ConvNd, PointConv)
    for m in module.modules():
        if isinstance(m, kinds):
            nn.init.kaiming_normal_(m.weight, a=slope)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
