"""Layers of mobile networks: convolution and batch norm, squeeze and excite, inverted residual.

All map (B, *S, C) to (B, *S', C').  Papers: Sandler et al., "MobileNetV2", CVPR 2018 (inverted
residuals); Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from core.down import ConvDown, ConvDownConfig
from core.nn import BatchNormGrid, ChannelsLastConv


class PointwiseNorm(nn.Module):
    """Linear without bias, then batch norm.  ``zero`` starts the norm's gain at 0."""

    def __init__(self, dim_in: int, dim_out: int, rank: int, *, zero: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out, bias=False)
        self.norm = batch_norm(dim_out, rank, zero=zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class DepthwiseNorm(nn.Module):
    """Depthwise convolution of an odd ``size`` without bias, then batch norm."""

    def __init__(self, dim: int, rank: int, *, size: int = 3, zero: bool = False) -> None:
        super().__init__()
        self.conv = ChannelsLastConv(
            dim, dim, size, rank, padding=size // 2, groups=dim, bias=False
        )
        self.norm = batch_norm(dim, rank, zero=zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def batch_norm(dim: int, rank: int, *, zero: bool = False) -> BatchNormGrid:
    """A batch norm; with ``zero`` a residual branch that ends with it starts as nothing."""
    norm = BatchNormGrid(dim, rank)
    if zero:
        nn.init.zeros_(norm.norm.weight)
    return norm


class SqueezeExcite(nn.Module):
    """x * sigmoid(expand(relu(reduce(mean of x over the grid)))), with ``hidden`` channels."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, hidden)
        self.expand = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(tuple(range(1, x.ndim - 1)), keepdim=True)
        return x * self.expand(F.relu(self.reduce(mean))).sigmoid()


class InvertedResidual(nn.Module):
    """The branch of MobileNetV2's block: expand, 3-wide depthwise, squeeze and excite, project.

    (B, *S, C) -> (B, *ceil(S / stride), C'); the caller adds the input where there is a residual.
    ``hidden`` channels within, ``squeezed`` of them in the squeeze.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        rank: int,
        *,
        hidden: int,
        squeezed: int,
        stride: int | tuple[int, ...] = 1,
    ) -> None:
        super().__init__()
        self.expand = PointwiseNorm(dim_in, hidden, rank)
        conv = ConvDownConfig(kernel=3, stride=stride, padding=1, groups=hidden, bias=False)
        self.conv = ConvDown(conv, hidden, hidden, rank)
        self.norm = batch_norm(hidden, rank)
        self.squeeze = SqueezeExcite(hidden, squeezed)
        self.project = PointwiseNorm(hidden, dim_out, rank)

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """``sizes``: the result's, where the caller has a simpler form of ceil(S / stride)."""
        x = F.relu(self.expand(x))
        x = F.relu(self.norm(self.conv(x, sizes)))
        return self.project(self.squeeze(x))
