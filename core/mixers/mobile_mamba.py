"""MobileMamba's mixer: part of the channels sees far, part near, the rest passes.

Paper: He et al., "MobileMamba: Lightweight Multi-Receptive Visual Mamba Network", CVPR 2025
(multi-receptive field feature interaction, MRFFI).
Code it corresponds to: lewandofskee/MobileMamba, ``MobileMambaModule``, ``MBWTConv2d`` and ``SS2D``.

    far  = scale1 * mamba(x1) + unhaar(scale2 * depthwise(haar(x1)))
    near = batchnorm(a * relu(batchnorm(depthwise(x2))))
    y    = batchnorm(linear(relu([far, near, x3])))

Its Mamba scans the raster and its reverse with a state of 1, a gate, a convolution over the grid, a
layer norm of the sum, and batch norms after both projections.
Deviates from the code: any rank (a Haar transform of 2^R bands); Mamba's usual initial step sizes;
the Haar filters are arithmetic, not parameters (R = 2: 32 a channel that sees far, never trained).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import BlockContext, check_odd, register_mixer
from core.mixers.mamba import Mamba, MambaConfig
from core.mobile import DepthwiseNorm, PointwiseNorm, batch_norm
from core.nn import ChannelsLastConv


@dataclass(frozen=True, kw_only=True)
class MobileMambaConfig:
    """``far`` and ``near``: their parts of the channels; ``far`` in whole multiples of ``unit``.

    ``kernel`` (odd) of the depthwise convolutions, ``expand`` of the Mamba.
    """

    far: float = 0.8
    near: float = 0.2
    kernel: int = 7
    expand: float = 2.0
    unit: int = 16


class BatchNormMamba(Mamba):
    """Mamba with batch norms after its projections."""

    def __init__(self, config: MambaConfig, context: BlockContext) -> None:
        super().__init__(config, context)
        self.in_norm = batch_norm(self.in_proj.out_features, context.rank)
        self.out_norm = batch_norm(context.dim, context.rank)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        u, z = self.in_norm(self.in_proj(x)).chunk(2, -1)
        return u, z

    def leave(self, y: Tensor, z: Tensor | None) -> Tensor:
        return self.out_norm(super().leave(y, z))


class Far(nn.Module):
    """Mamba over the grid, and a depthwise convolution of its Haar bands: (B, *S, C) -> same."""

    def __init__(self, config: MobileMambaConfig, context: BlockContext) -> None:
        super().__init__()
        scan = MambaConfig(
            d_state=1, expand=config.expand, path="bidirectional", conv="grid", norm="layer"
        )
        self.mamba = BatchNormMamba(scan, context)
        self.scale = nn.Parameter(torch.ones(context.dim))
        bands = context.dim * 2**context.rank
        self.conv = ChannelsLastConv(
            bands,
            bands,
            config.kernel,
            context.rank,
            padding=config.kernel // 2,
            groups=bands,
            bias=False,
        )
        self.band_scale = nn.Parameter(torch.full((bands,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        bands = self.conv(haar(x)) * self.band_scale
        return self.mamba(x) * self.scale + unhaar(bands, x.shape[1:-1])


class Near(nn.Module):
    """Depthwise convolution, batch norm, ReLU, a gain a channel, batch norm."""

    def __init__(self, dim: int, rank: int, kernel: int) -> None:
        super().__init__()
        self.conv = DepthwiseNorm(dim, rank, size=kernel)
        self.gain = nn.Parameter(torch.ones(dim))
        self.norm = batch_norm(dim, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)) * self.gain)


@register_mixer("mobile_mamba", MobileMambaConfig)
class MobileMamba(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S.  Ends with a batch norm that starts at 0, as there."""

    def __init__(self, config: MobileMambaConfig, context: BlockContext) -> None:
        super().__init__()
        dim, self.rank = context.dim, context.rank
        check_odd(config.kernel, "kernel")
        if config.unit < 1 or config.far < 0 or config.near < 0:
            raise UsageError(
                f"mobile_mamba with far {config.far}, near {config.near} and unit {config.unit}: "
                "the first two must be at least 0, unit at least 1."
            )
        far = min(dim, _nearest_multiple(int(config.far * dim), config.unit))
        near = min(dim - far, int(config.near * dim))
        self.splits = [far, near, dim - far - near]
        within = BlockContext(dim=far, rank=context.rank)
        self.far: nn.Module = Far(config, within) if far else nn.Identity()
        self.near: nn.Module = Near(near, self.rank, config.kernel) if near else nn.Identity()
        self.proj = PointwiseNorm(dim, dim, self.rank, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.rank)
        far, near, rest = x.split(self.splits, -1)
        return self.proj(F.relu(torch.cat((self.far(far), self.near(near), rest), -1)))


def _nearest_multiple(n: int, unit: int) -> int:
    """The multiple of ``unit`` nearest to ``n``, the higher of two."""
    return (2 * n + unit) // (2 * unit) * unit


def haar(x: Tensor) -> Tensor:
    """(B, *S, C) -> (B, *ceil(S / 2), C 2^R): bands fastest, those of the first axis fastest of all.

    Orthonormal; an odd axis is zero-padded.
    """
    cells = [grid.ceil_div(s, 2) for s in x.shape[1:-1]]
    x = grid.pad_to(x, [2 * n for n in cells])
    for axis, n in reversed(list(enumerate(cells, 1))):
        a, b = x.unflatten(axis, (n, 2)).unbind(axis + 1)
        x = torch.stack((a + b, a - b), -1).flatten(-2) * 0.5**0.5
    return x


def unhaar(x: Tensor, S: torch.Size) -> Tensor:
    """The inverse of :func:`haar`, cut to the grid ``S``."""
    for axis in grid.axes(x.ndim - 2):
        low, high = x.unflatten(-1, (-1, 2)).unbind(-1)
        x = torch.stack((low + high, low - high), axis + 1).flatten(axis, axis + 1) * 0.5**0.5
    return grid.take_to(x, S)
