"""Decoders: from a pyramid's maps back to the grid of the image, at rank 1 to 3 and any size."""

from core.decoders.conv import InstanceNorm, PointConv, ResidualConv, ResidualConvConfig
from core.decoders.expand import CarafeExpand, PatchExpand
from core.decoders.unet import ExpandingDecoder, ResidualDecoder

__all__ = [
    "CarafeExpand",
    "ExpandingDecoder",
    "InstanceNorm",
    "PatchExpand",
    "PointConv",
    "ResidualConv",
    "ResidualConvConfig",
    "ResidualDecoder",
]
