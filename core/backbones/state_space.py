"""State-space and retention backbones: VMamba, Vim, EfficientVMamba, ViR.

MobileMamba is in ``mobile_mamba.py``, trunks over sequences in ``sequence.py``.

Deviates from the authors' codes: any rank and any input size (a grid's end is padded where a
stride does not divide it; theirs round down).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from core import grid
from core.backbones.family import (
    Mixer,
    Sizes,
    doubling,
    enter,
    family,
    halve,
    levels,
    mixer_or,
    patchify,
    plain_heads,
    stage_count,
)
from core.backbones.pyramid import StageConfig
from core.blocks import BlockConfig
from core.down import DownConfig, MergeDownConfig, conv_stem
from core.errors import UsageError, unknown
from core.mixers.inverted_residual import InvertedResidualConfig
from core.mixers.local_global import LocalGlobalConfig
from core.mixers.mamba import MambaConfig
from core.mixers.retention import RetentionConfig


@family
def vmamba(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    d_state: int = 1,
    expand: float = 2.0,
    gate: bool = False,
    conv_bias: bool = False,
    ffn_ratio: float | None = 4.0,
    patch: grid.PerAxis = 4,
    stem: Literal["conv", "patch"] = "conv",
    down: Literal["conv", "merge"] = "conv",
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """VMamba (Liu et al., NeurIPS 2024), code MzeroMiko/VMamba.

    The defaults are its second version: two strided convolutions as ``stem``, a convolution to go
    ``down``, SS2D without gate.  The first ("vanilla", which VM-UNet and Swin-UMamba are made of)
    has ``d_state=16, gate=True, conv_bias=True, ffn_ratio=None, stem="patch", down="merge"``.
    ``vmamba_t`` is s1l8, which the authors' table has as VMamba-T; ``vmamba_t_s2l5`` is the earlier.

    Parameter counts are those of MzeroMiko/VMamba 2ed52ea to the last digit.  With its weights
    mapped onto ``vmamba_t``, ``vmamba_t_s2l5`` and ``vanilla_vmamba_t``, all four maps agree to
    2.2e-6 relative (L2) at 224 x 224 and 224 x 256.
    """
    stage_count(dims=dims, depths=depths)
    for what, value, known in [
        ("stem", stem, ("conv", "patch")),
        ("down", down, ("conv", "merge")),
    ]:
        if value not in known:
            raise UsageError(unknown(f"vmamba {what}", value, known))

    def reduce(i: int) -> DownConfig:
        if i == 0 and stem == "patch":
            return patchify(patch, rank, norm_after="layer")
        if i == 0:
            return conv_stem(patch, rank, (max(1, dims[0] // 2),), norm_after="layer")
        return halve(norm_after="layer") if down == "conv" else MergeDownConfig()

    def block(i: int) -> BlockConfig:
        own = MambaConfig(
            d_state=d_state,
            expand=expand,
            path="cross",
            conv="grid",
            conv_bias=conv_bias,
            gate=gate,
            norm="layer",
        )
        return BlockConfig(mixer=mixer_or(mixer, own, plain_heads(dims[i])), ffn_ratio=ffn_ratio)

    return levels(dims, depths, reduce, block)


@family
def vim(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    d_state: int = 16,
    expand: float = 2.0,
    patch: grid.PerAxis = 16,
    position: grid.PerAxis = 14,
    class_token: bool = True,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """Vision Mamba (Zhu et al., ICML 2024), code hustvl/Vim.

    Bidirectional "v2" blocks without feed-forward, RMS norms, a class token in the middle of the
    sequence.  ``position`` is the grid that the learned position embedding is made for (224 / 16).
    The published ones have one stage; with more, patches of 2 lead from one to the next, and the
    class token lives in the last.  It is left out when ``mixer`` puts another mixer in place.

    Deviates from the code: the class token has no row of its own in the position embedding (C
    parameters fewer, which its own value makes up for).
    With the weights of hustvl/Vim dd0358a mapped onto ``vim_t`` and ``vim_s``, the map agrees to
    1e-7 and the class token to 1e-6 relative (L2).
    """
    stage_count(dims=dims, depths=depths)
    token = class_token and mixer in (None, "mamba")

    def down(i: int) -> DownConfig:
        return patchify(patch if i == 0 else 2, rank)

    def block(i: int) -> BlockConfig:
        own = MambaConfig(d_state=d_state, expand=expand, path="bidirectional", merge="mean")
        return BlockConfig(
            mixer=mixer_or(mixer, own, plain_heads(dims[i])), ffn_ratio=None, norm="rms"
        )

    stages = levels(dims, depths, down, block, end_norm="rms")
    return with_tokens(stages, position, rank, int(token))


@family
def vir(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    heads: Sizes,
    ffn_ratio: float = 4.0,
    layer_scale: float | None = 1e-5,
    patch: grid.PerAxis = 16,
    position: grid.PerAxis = 14,
    class_token: bool = True,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """ViR, a ViT with retention (Hatamizadeh et al., 2023), code anom63931/ViR.

    Causal along the raster of patches, with a class token at the end, which has seen them all.
    ``position`` and more than one stage as in :func:`vim`.  That code has the sizes S, B and L.

    Deviates from the code: its parallel form takes a softmax of the scores times the mask, which
    its recurrent and chunkwise forms do not, so that they disagree (by 125 % at the logits); here
    all forms are the latter.  With the weights of its d91fd8b mapped onto ``vir_s``, map and class
    token agree with both to 1.1e-6 relative (L2).
    """
    stage_count(dims=dims, depths=depths, heads=heads)
    eps = 1e-6

    def down(i: int) -> DownConfig:
        return patchify(patch if i == 0 else 2, rank)

    def block(i: int) -> BlockConfig:
        own = RetentionConfig(heads=heads[i], gate=False, norm=False, slowest=1 / 512, bias=True)
        return BlockConfig(
            mixer=mixer_or(mixer, own, heads[i]),
            ffn_ratio=ffn_ratio,
            layer_scale=layer_scale,
            norm_eps=eps,
        )

    stages = levels(dims, depths, down, block, end_norm="layer", end_norm_eps=eps)
    token = class_token and mixer in (None, "retention")
    return with_tokens(stages, position, rank, int(token))


def with_tokens(
    stages: tuple[StageConfig, ...], position: grid.PerAxis, rank: int, tokens: int
) -> tuple[StageConfig, ...]:
    """``stages`` with a position embedding in the first, and ``tokens`` extra ones in the last."""
    sizes = grid.per_axis(position, rank, "position")
    first = dataclasses.replace(stages[0], position=sizes)
    stages = (first, *stages[1:])
    return (*stages[:-1], dataclasses.replace(stages[-1], extra_tokens=tokens))


@family
def efficient_vmamba(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    d_state: int = 16,
    expand: float = 2.0,
    skip: int = 2,
    scanned: int = 2,
    patch: grid.PerAxis = 4,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """EfficientVMamba (Pei et al., AAAI 2025), code TerryPei/EfficientVMamba.

    The first ``scanned`` stages scan every ``skip``-th position beside a local convolution; the
    others are inverted residuals.  Widths are those of the training logs, with which the
    repository's configs (96 channels for S) do not agree; and so are the parameter counts.  With
    the weights of its 0bc5ee2 mapped onto ``efficient_vmamba_t`` and ``_b``, all maps agree to
    1.2e-6 relative (L2) at sizes that the code need not pad.

    A program exported with dynamic sizes wants maps of more than ``skip`` positions on each axis in
    the scanned stages.
    """
    stage_count(dims=dims, depths=depths)

    def block(i: int) -> BlockConfig:
        if mixer is None and i >= scanned:
            return BlockConfig(mixer=InvertedResidualConfig(), ffn_ratio=None, norm="none")
        scan = MambaConfig(
            d_state=d_state, expand=expand, path="atrous", skip=skip, conv="grid", norm="layer"
        )
        own = LocalGlobalConfig(mixer=scan)
        return BlockConfig(mixer=mixer_or(mixer, own, plain_heads(dims[i])), ffn_ratio=None)

    def down(i: int) -> DownConfig:
        return MergeDownConfig() if i else patchify(patch, rank, norm_after="layer")

    return levels(dims, depths, down, block)


_VANILLA: dict[str, Any] = {
    "d_state": 16,
    "gate": True,
    "conv_bias": True,
    "ffn_ratio": None,
    "stem": "patch",
    "down": "merge",
}
enter(
    vmamba,
    {
        "vmamba_t": {"dims": doubling(96), "depths": (2, 2, 8, 2), "expand": 1.0},
        "vmamba_s": {"dims": doubling(96), "depths": (2, 2, 15, 2)},
        "vmamba_b": {"dims": doubling(128), "depths": (2, 2, 15, 2)},
        "vmamba_t_s2l5": {"dims": doubling(96), "depths": (2, 2, 5, 2)},
        "vanilla_vmamba_t": {"dims": doubling(96), "depths": (2, 2, 9, 2), **_VANILLA},
        "vanilla_vmamba_s": {"dims": doubling(96), "depths": (2, 2, 27, 2), **_VANILLA},
        "vanilla_vmamba_b": {"dims": doubling(128), "depths": (2, 2, 27, 2), **_VANILLA},
    },
)
enter(
    vim,
    {
        "vim_t": {"dims": (192,), "depths": (24,)},
        "vim_s": {"dims": (384,), "depths": (24,)},
    },
)
enter(
    efficient_vmamba,
    {
        "efficient_vmamba_t": {"dims": doubling(48), "depths": (2, 2, 4, 2)},
        "efficient_vmamba_s": {"dims": doubling(64), "depths": (2, 2, 4, 2)},
        "efficient_vmamba_b": {"dims": doubling(96), "depths": (2, 2, 9, 2)},
    },
)
enter(
    vir,
    {
        "vir_s": {"dims": (384,), "depths": (12,), "heads": (6,)},
        "vir_b": {"dims": (768,), "depths": (12,), "heads": (12,)},
        "vir_l": {"dims": (1024,), "depths": (24,), "heads": (16,)},
    },
)
