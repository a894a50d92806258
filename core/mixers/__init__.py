"""Mixers: modules ``(B, *S, C) -> (B, *S, C)`` that exchange information between grid positions.

A mixer is found by name and built from a frozen config and the place it sits in:
``build_mixer(mixer_config("window", heads=3), BlockContext(dim=96, rank=2))``.
"""

from core.mixers import (
    attention,
    autocorrelation,
    conv_attention,
    cross_window,
    depthwise,
    inverted_residual,
    local_global,
    mamba,
    mamba2,
    mobile_mamba,
    normlin,
    pool,
    reduced,
    retention,
    temporal_conv,
    window,
)
from core.mixers.base import BlockContext, build_mixer, mixer_config, mixer_names

__all__ = [
    "BlockContext",
    "attention",
    "autocorrelation",
    "build_mixer",
    "conv_attention",
    "cross_window",
    "depthwise",
    "inverted_residual",
    "local_global",
    "mamba",
    "mamba2",
    "mixer_config",
    "mixer_names",
    "mobile_mamba",
    "normlin",
    "pool",
    "reduced",
    "retention",
    "temporal_conv",
    "window",
]
