"""Named backbones: one table of published sizes and one builder for each family.

``create("swin_t", rank=3, in_channels=1, window=5)``: every keyword of a family's builder can be
overridden; ``list("cvt*")`` names what there is.  At rank 2 the sizes are the published ones; at
rank 1 and 3 the same tables apply to other grids and no published weights exist.

Overrides that all families share: ``patch`` (stride of the first stage, an int or one per axis),
``dims``, ``depths``, ``drop_path``, ``gradient_checkpointing`` and ``mixer``, which puts any other
registered mixer (a name or a config) in place of the family's own in every stage.  Sequence trunks
have one stage, so ``dim`` and ``depth``; a hybrid's ``pattern`` is its depth and mixers.
"""

from __future__ import annotations

import builtins
import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

from core import grid
from core.backbones import mobile_mamba, sequence, state_space  # noqa: F401  (files their names)
from core.backbones.family import (
    ZOO,
    Mixer,
    Sizes,
    doubling,
    enter,
    family,
    halve,
    levels,
    mixer_or,
    options_of,
    overlap,
    patchify,
    plain_heads,
    stage_count,
)
from core.backbones.pyramid import Pyramid, StageConfig
from core.blocks import BlockConfig
from core.down import ConvDownConfig, MergeDownConfig, NeighbourOrder
from core.errors import UsageError, unknown
from core.mixers.conv_attention import ConvAttentionConfig
from core.mixers.cross_window import CrossWindowConfig
from core.mixers.depthwise import DepthwiseConfig
from core.mixers.pool import PoolConfig
from core.mixers.reduced import ReducedConfig
from core.mixers.window import Policy, WindowConfig


def create(name: str, rank: int = 2, in_channels: int = 3, **overrides: Any) -> Pyramid:
    """The backbone ``name`` over a grid of ``rank`` axes, with fresh weights.

    Raises UsageError for an unknown name or override, naming the nearest.
    """
    builder, sizes = ZOO[name]
    known = options_of(builder)
    for override in overrides:
        if override not in known:
            raise UsageError(unknown(f"option of backbone {name!r}", override, known))
    return builder(grid.check_rank(rank), in_channels, **{**sizes, **overrides}).build()


def list(pattern: str = "*") -> builtins.list[str]:
    """Names of the backbones that match a shell pattern, in table order."""
    return [name for name in ZOO if fnmatch.fnmatch(name, pattern.lower())]


@family
def swin(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    heads: Sizes,
    window: grid.PerAxis = 7,
    patch: grid.PerAxis = 4,
    patch_norm: bool = True,
    ffn_ratio: float = 4.0,
    policy: Policy = "masked",
    merge_order: NeighbourOrder = "first",
    merge_strides: Sequence[grid.PerAxis] | None = None,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """Swin Transformer (Liu et al., ICCV 2021, section 3.3)."""
    n = stage_count(dims=dims, depths=depths, heads=heads)
    w = window if isinstance(window, int) else tuple(window)
    merges = [2] * (n - 1) if merge_strides is None else merge_strides
    stage_count(merges=[None, *merges], dims=dims)

    def down(i: int) -> ConvDownConfig | MergeDownConfig:
        if i == 0:
            return patchify(patch, rank, norm_after="layer" if patch_norm else "none")
        stride = grid.per_axis(merges[i - 1], rank, "merge stride")
        return MergeDownConfig(stride=stride, order=merge_order)

    def block(i: int) -> BlockConfig:
        own = WindowConfig(heads=heads[i], window=w, policy=policy)
        return BlockConfig(mixer=mixer_or(mixer, own, heads[i]), ffn_ratio=ffn_ratio)

    return levels(dims, depths, down, block)


@family
def cswin(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    heads: Sizes,
    stripes: Sequence[int | None] = (1, 2, 7, None),
    patch: grid.PerAxis = 4,
    down_strides: Sequence[grid.PerAxis] | None = None,
    ffn_ratio: float = 4.0,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """CSWin Transformer (Dong et al., CVPR 2022, table 1).  A stripe of None attends to all."""
    n = stage_count(dims=dims, depths=depths, heads=heads, stripes=stripes)
    downs = [2] * (n - 1) if down_strides is None else down_strides
    stage_count(downs=[None, *downs], dims=dims)

    def down(i: int) -> ConvDownConfig:
        if i == 0:
            return overlap(patch, rank, 2, norm_after="layer")
        stride = grid.per_axis(downs[i - 1], rank)
        return ConvDownConfig(kernel=3, stride=stride, padding=1, norm_after="layer")

    def block(i: int) -> BlockConfig:
        own = CrossWindowConfig(heads=heads[i], stripe=stripes[i])
        return BlockConfig(mixer=mixer_or(mixer, own, heads[i]), ffn_ratio=ffn_ratio)

    return levels(dims, depths, down, block)


@family
def pvtv2(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    heads: Sizes = (1, 2, 5, 8),
    reductions: Sizes = (8, 4, 2, 1),
    ffn_ratios: Sequence[float] = (8, 8, 4, 4),
    patch: grid.PerAxis = 4,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """PVT v2 (Wang et al., CVMJ 2022, table 1)."""
    stage_count(dims=dims, depths=depths, heads=heads, reductions=reductions, ffns=ffn_ratios)
    eps = 1e-6

    def down(i: int) -> ConvDownConfig:
        norms: dict[str, Any] = {"norm_after": "layer", "norm_eps": eps}
        return halve(**norms) if i else overlap(patch, rank, 3, **norms)

    def block(i: int) -> BlockConfig:
        own = ReducedConfig(heads=heads[i], reduction=reductions[i], norm_eps=eps)
        return BlockConfig(
            mixer=mixer_or(mixer, own, heads[i]),
            ffn_ratio=ffn_ratios[i],
            ffn_depthwise=True,
            norm_eps=eps,
        )

    return levels(dims, depths, down, block, end_norm="layer", end_norm_eps=eps)


@family
def poolformer(
    rank: int,
    *,
    dims: Sizes = (64, 128, 320, 512),
    depths: Sizes,
    layer_scale: float | None = 1e-5,
    pool: int = 3,
    ffn_ratio: float = 4.0,
    patch: grid.PerAxis = 4,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """PoolFormer (Yu et al., CVPR 2022, table 1)."""
    stage_count(dims=dims, depths=depths)

    def block(i: int) -> BlockConfig:
        return BlockConfig(
            mixer=mixer_or(mixer, PoolConfig(size=pool), plain_heads(dims[i])),
            ffn_ratio=ffn_ratio,
            norm="grid",
            layer_scale=layer_scale,
        )

    return levels(dims, depths, lambda i: halve() if i else overlap(patch, rank, 2), block)


@family
def convnext(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    kernel: int = 7,
    layer_scale: float | None = 1e-6,
    ffn_ratio: float = 4.0,
    patch: grid.PerAxis = 4,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """ConvNeXt (Liu et al., CVPR 2022, section 3)."""
    stage_count(dims=dims, depths=depths)
    eps = 1e-6

    def down(i: int) -> ConvDownConfig:
        if i == 0:
            return patchify(patch, rank, norm_after="layer", norm_eps=eps)
        return patchify(2, rank, norm_before="layer", norm_eps=eps)

    def block(i: int) -> BlockConfig:
        return BlockConfig(
            mixer=mixer_or(mixer, DepthwiseConfig(size=kernel), plain_heads(dims[i])),
            ffn_ratio=ffn_ratio,
            norm_eps=eps,
            layer_scale=layer_scale,
            form="fused",
        )

    return levels(dims, depths, down, block)


@family
def cvt(
    rank: int,
    *,
    dims: Sizes = (64, 192, 384),
    depths: Sizes,
    heads: Sizes = (1, 3, 6),
    ffn_ratio: float = 4.0,
    patch: grid.PerAxis = 4,
    class_token: bool = True,
    kv_strides: Sizes | None = None,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """CvT (Wu et al., ICCV 2021, table 2).  The class token lives in the last stage.

    It is left out when ``mixer`` puts another mixer in place, which would not know it.
    ``kv_strides``, one a stage, are those of keys and values, published as 2 everywhere; with a
    larger one the projections' kernel grows so that no position goes unread.
    """
    n = stage_count(dims=dims, depths=depths, heads=heads)
    kv = [2] * n if kv_strides is None else kv_strides
    stage_count(kv_strides=kv, dims=dims)
    token = class_token and mixer in (None, "conv_attention")

    def down(i: int) -> ConvDownConfig:
        return halve(norm_after="layer") if i else overlap(patch, rank, 2, norm_after="layer")

    def block(i: int) -> BlockConfig:
        kernel = max(3, 2 * (kv[i] // 2) + 1)
        own = ConvAttentionConfig(heads=heads[i], kernel=kernel, kv_stride=kv[i])
        return BlockConfig(mixer=mixer_or(mixer, own, heads[i]), ffn_ratio=ffn_ratio)

    stages = levels(dims, depths, down, block)
    return (*stages[:-1], dataclasses.replace(stages[n - 1], extra_tokens=int(token)))


enter(
    swin,
    {
        "swin_t": {"dims": doubling(96), "depths": (2, 2, 6, 2), "heads": doubling(3)},
        "swin_s": {"dims": doubling(96), "depths": (2, 2, 18, 2), "heads": doubling(3)},
        "swin_b": {"dims": doubling(128), "depths": (2, 2, 18, 2), "heads": doubling(4)},
    },
)
enter(
    cswin,
    {
        "cswin_t": {"dims": doubling(64), "depths": (1, 2, 21, 1), "heads": doubling(2)},
        "cswin_s": {"dims": doubling(64), "depths": (2, 4, 32, 2), "heads": doubling(2)},
        "cswin_b": {"dims": doubling(96), "depths": (2, 4, 32, 2), "heads": doubling(4)},
        "cswin_l": {"dims": doubling(144), "depths": (2, 4, 32, 2), "heads": (6, 12, 24, 24)},
    },
)
_PVT = (64, 128, 320, 512)
enter(
    pvtv2,
    {
        "pvtv2_b0": {"dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
        "pvtv2_b1": {"dims": _PVT, "depths": (2, 2, 2, 2)},
        "pvtv2_b2": {"dims": _PVT, "depths": (3, 4, 6, 3)},
        "pvtv2_b3": {"dims": _PVT, "depths": (3, 4, 18, 3)},
        "pvtv2_b4": {"dims": _PVT, "depths": (3, 8, 27, 3)},
        "pvtv2_b5": {"dims": _PVT, "depths": (3, 6, 40, 3), "ffn_ratios": (4, 4, 4, 4)},
    },
)
_WIDE = (96, 192, 384, 768)
enter(
    poolformer,
    {
        "poolformer_s12": {"depths": (2, 2, 6, 2)},
        "poolformer_s24": {"depths": (4, 4, 12, 4)},
        "poolformer_s36": {"depths": (6, 6, 18, 6), "layer_scale": 1e-6},
        "poolformer_m36": {"dims": _WIDE, "depths": (6, 6, 18, 6), "layer_scale": 1e-6},
        "poolformer_m48": {"dims": _WIDE, "depths": (8, 8, 24, 8), "layer_scale": 1e-6},
    },
)
enter(
    convnext,
    {
        "convnext_t": {"dims": doubling(96), "depths": (3, 3, 9, 3)},
        "convnext_s": {"dims": doubling(96), "depths": (3, 3, 27, 3)},
        "convnext_b": {"dims": doubling(128), "depths": (3, 3, 27, 3)},
        "convnext_l": {"dims": doubling(192), "depths": (3, 3, 27, 3)},
    },
)
enter(
    cvt,
    {
        "cvt_13": {"depths": (1, 2, 10)},
        "cvt_21": {"depths": (1, 4, 16)},
        "cvt_w24": {"dims": (192, 768, 1024), "depths": (2, 2, 20), "heads": (3, 12, 16)},
    },
)
