"""Depthwise convolution as token mixer.

Paper: Liu et al., "A ConvNet for the 2020s" (ConvNeXt), CVPR 2022 (section 2.5, 7 x 7 kernels).
Code it corresponds to: facebookresearch/ConvNeXt, transformers' ConvNextModel.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from core import grid
from core.mixers.base import BlockContext, check_odd, register_mixer
from core.nn import ChannelsLastConv


@dataclass(frozen=True, kw_only=True)
class DepthwiseConfig:
    """One filter of ``size`` (odd) a channel."""

    size: int = 7


@register_mixer("depthwise", DepthwiseConfig)
class Depthwise(nn.Module):
    """(B, *S, C) -> (B, *S, C), zero-padded at the grid's edge."""

    def __init__(self, config: DepthwiseConfig, context: BlockContext) -> None:
        super().__init__()
        check_odd(config.size, "depthwise size")
        self.rank = context.rank
        self.conv = ChannelsLastConv(
            context.dim,
            context.dim,
            config.size,
            context.rank,
            padding=config.size // 2,
            groups=context.dim,
        )

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.rank)
        return self.conv(x)
