"""The inverted residual of MobileNetV2, with squeeze and excite, as a token mixer.

Papers: Sandler et al., CVPR 2018; in EfficientVMamba's last stages (Pei et al., AAAI 2025).
Code it corresponds to: TerryPei/EfficientVMamba, ``InvertedResidual``.  Its batch norms stand for
the block's norm: use ``BlockConfig(mixer=..., norm="none", ffn_ratio=None)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import BlockContext, register_mixer
from core.mobile import InvertedResidual


@dataclass(frozen=True, kw_only=True)
class InvertedResidualConfig:
    """``expand`` times the channels within, ``squeeze`` of those in the squeeze and excite."""

    expand: float = 4.0
    squeeze: float = 0.125


@register_mixer("inverted_residual", InvertedResidualConfig)
class InvertedResidualMixer(nn.Module):
    """(B, *S, C) -> (B, *S, C), zero-padded at the grid's edge."""

    def __init__(self, config: InvertedResidualConfig, context: BlockContext) -> None:
        super().__init__()
        if config.expand <= 0 or config.squeeze <= 0:
            raise UsageError(
                f"inverted residual with expand {config.expand} and squeeze {config.squeeze}: both "
                "must be above 0."
            )
        self.rank = context.rank
        hidden = max(1, int(context.dim * config.expand))
        squeezed = max(1, int(hidden * config.squeeze))
        self.branch = InvertedResidual(
            context.dim, context.dim, context.rank, hidden=hidden, squeezed=squeezed
        )

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.rank)
        return self.branch(x)
