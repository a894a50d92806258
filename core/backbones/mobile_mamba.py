"""MobileMamba: a three-stage backbone for small devices.

Paper: He et al., "MobileMamba: Lightweight Multi-Receptive Visual Mamba Network", CVPR
2025.  Code it corresponds to: lewandofskee/MobileMamba 0980f48.

Deviates from the code: any rank and any size; and see ``core/mixers/mobile_mamba.py``.  With its
weights mapped onto ``mobile_mamba_t2`` and ``mobile_mamba_b1``, all maps agree to 5.2e-6 relative
(L2) at 192 x 192 and 208 x 160.  The parameters it trains are as many to the last one; published
counts hold its frozen Haar filters as well (0.3 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.backbones.family import Mixer, Sizes, enter, family, mixer_or, plain_heads, stage_count
from core.backbones.pyramid import StageConfig
from core.blocks import DropPath
from core.down import DownConfig, conv_stem
from core.mixers.base import BlockContext, build_mixer
from core.mixers.mobile_mamba import MobileMambaConfig
from core.mobile import DepthwiseNorm, InvertedResidual, PointwiseNorm


class LocalPair(nn.Module):
    """x + depthwise(x), then x + feed-forward(x) of twice the width: (B, *S, C) -> the same."""

    def __init__(self, dim: int, rank: int, *, zero: bool) -> None:
        super().__init__()
        self.conv = DepthwiseNorm(dim, rank, zero=zero)
        self.rise = PointwiseNorm(dim, 2 * dim, rank)
        self.fall = PointwiseNorm(2 * dim, dim, rank, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(x)
        return x + self.fall(F.relu(self.rise(x)))


@dataclass(frozen=True, kw_only=True)
class MobileBlockConfig:
    """A mixer between two :class:`LocalPair`, and a residual around the whole."""

    mixer: Any

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The block at ``context``."""
        return MobileBlock(self, context, drop_path)


class MobileBlock(nn.Module):
    """(B, *S, C) -> the same."""

    def __init__(
        self, config: MobileBlockConfig, context: BlockContext, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.before = LocalPair(context.dim, context.rank, zero=True)
        self.mixer = build_mixer(config.mixer, context)
        self.after = LocalPair(context.dim, context.rank, zero=True)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return x + self.drop_path(self.after(y + self.mixer(y)))


@dataclass(frozen=True, kw_only=True)
class MobileDownConfig:
    """An inverted residual with ``stride``, between two :class:`LocalPair`."""

    stride: int | tuple[int, ...] = 2

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        """The layer."""
        return MobileDown(self, dim_in, dim_out, rank)


class MobileDown(nn.Module):
    """(B, *S, C) -> (B, *ceil(S / stride), C')."""

    def __init__(self, config: MobileDownConfig, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        self.before = LocalPair(dim_in, rank, zero=False)
        self.merge = InvertedResidual(
            dim_in, dim_out, rank, hidden=4 * dim_in, squeezed=dim_in, stride=config.stride
        )
        self.after = LocalPair(dim_out, rank, zero=False)

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """``sizes``: the result's, where the caller has a simpler form of ceil(S / stride)."""
        return self.after(self.merge(self.before(x), sizes))


@family
def mobile_mamba(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes = (1, 2, 2),
    far: Sequence[float] = (0.8, 0.7, 0.6),
    near: Sequence[float] = (0.2, 0.2, 0.3),
    kernels: Sizes = (7, 5, 3),
    expand: float = 2.0,
    unit: int = 16,
    patch: grid.PerAxis = 16,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """MobileMamba (He et al., CVPR 2025).  B1, B2 and B4 are one network at three image sizes."""
    n = stage_count(dims=dims, depths=depths, far=far, near=near, kernels=kernels)

    def down(i: int) -> DownConfig:
        if i:
            return MobileDownConfig()
        inner = [max(1, dims[0] // part) for part in (8, 4, 2)]
        return conv_stem(patch, rank, inner, act="relu", norm_after="batch", bias=False)

    def block(i: int) -> MobileBlockConfig:
        own = MobileMambaConfig(
            far=far[i], near=near[i], kernel=kernels[i], expand=expand, unit=unit
        )
        return MobileBlockConfig(mixer=mixer_or(mixer, own, plain_heads(dims[i])))

    return tuple(
        StageConfig(dim=dims[i], depth=depths[i], down=down(i), block=block(i)) for i in range(n)
    )


_B: dict[str, Any] = {"dims": (200, 376, 448), "depths": (2, 3, 2)}
enter(
    mobile_mamba,
    {
        "mobile_mamba_t2": {"dims": (144, 272, 368)},
        "mobile_mamba_t4": {"dims": (176, 368, 448)},
        "mobile_mamba_s6": {"dims": (192, 384, 448)},
        "mobile_mamba_b1": _B,
        "mobile_mamba_b2": _B,
        "mobile_mamba_b4": _B,
    },
)
