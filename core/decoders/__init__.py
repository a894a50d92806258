"""Decoders: from a pyramid's maps back to the grid of the image, at rank 1 to 3 and any size."""

from core.decoders.conv import (
    InstanceNorm,
    PointConv,
    ResidualConv,
    ResidualConvConfig,
    ResidualDownConfig,
)
from core.decoders.expand import CarafeExpand, PatchExpand
from core.decoders.unet import (
    ExpandingDecoder,
    JoinDecoder,
    NearestUp,
    ResidualDecoder,
    UpJoin,
    factors,
)

__all__ = [
    "CarafeExpand",
    "ExpandingDecoder",
    "InstanceNorm",
    "JoinDecoder",
    "NearestUp",
    "PatchExpand",
    "PointConv",
    "ResidualConv",
    "ResidualConvConfig",
    "ResidualDecoder",
    "ResidualDownConfig",
    "UpJoin",
    "factors",
]
