"""Named backbones: one table of published sizes and one builder for each family.

``create("swin_t", rank=3, in_channels=1, window=5)``: every keyword of a family's builder can be
overridden; ``list("cvt*")`` names what there is.  At rank 2 the sizes are the published ones; at
rank 1 and 3 the same tables apply to other grids and no published weights exist.

Overrides that all families share: ``patch`` (stride of the first stage, an int or one per axis),
``dims``, ``depths``, ``drop_path``, ``gradient_checkpointing`` and ``mixer``, which puts any other
registered mixer (a name or a config) in place of the family's own in every stage.
"""

from __future__ import annotations

import builtins
import dataclasses
import fnmatch
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from core import grid
from core.backbones.pyramid import Pyramid, PyramidConfig, StageConfig
from core.blocks import BlockConfig, ConvDownConfig, MergeDownConfig, NeighbourOrder
from core.errors import UsageError, unknown
from core.mixers import mixer_config
from core.mixers.base import takes
from core.mixers.conv_attention import ConvAttentionConfig
from core.mixers.cross_window import CrossWindowConfig
from core.mixers.depthwise import DepthwiseConfig
from core.mixers.pool import PoolConfig
from core.mixers.reduced import ReducedConfig
from core.mixers.window import Policy, WindowConfig
from core.registry import Registry

Builder = Callable[..., PyramidConfig]
Sizes = Sequence[int]
Mixer = Any
"""None (the family's own), the name of a registered mixer, or a mixer config."""

_ZOO: Registry[tuple[Builder, dict[str, Any]]] = Registry("backbone")


def create(name: str, rank: int = 2, in_channels: int = 3, **overrides: Any) -> Pyramid:
    """The backbone ``name`` over a grid of ``rank`` axes, with fresh weights.

    Raises UsageError for an unknown name or override, naming the nearest.
    """
    builder, sizes = _ZOO[name]
    known = _options(builder)
    for override in overrides:
        if override not in known:
            raise UsageError(unknown(f"option of backbone {name!r}", override, known))
    return Pyramid(builder(grid.check_rank(rank), in_channels, **{**sizes, **overrides}))


def list(pattern: str = "*") -> builtins.list[str]:
    """Names of the backbones that match a shell pattern, in table order."""
    return [name for name in _ZOO if fnmatch.fnmatch(name, pattern.lower())]


def _stages(**columns: Sequence[Any]) -> int:
    """Number of stages; UsageError when the columns of a size table disagree."""
    lengths = {key: len(value) for key, value in columns.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"stages disagree: {lengths}; give every list one entry a stage.")
    return next(iter(lengths.values()))


def _mixer(override: Mixer, own: Any, heads: int) -> Any:
    if override is None:
        return own
    if isinstance(override, str):
        options = {"heads": heads} if takes(override, "heads") else {}
        return mixer_config(override, **options)
    return override


def _patchify(patch: grid.PerAxis, rank: int, **norms: Any) -> ConvDownConfig:
    """Non-overlapping patches."""
    size = grid.per_axis(patch, rank, "patch")
    return ConvDownConfig(kernel=size, stride=size, **norms)


def _overlap(patch: grid.PerAxis, rank: int, padding: int, **norms: Any) -> ConvDownConfig:
    """Overlapping patches: kernel 2 s - 1 for stride s, with ``padding`` at the published s = 4."""
    stride = grid.per_axis(patch, rank, "patch")
    return ConvDownConfig(
        kernel=tuple(2 * s - 1 for s in stride),
        stride=stride,
        padding=tuple(padding if s == 4 else s - 1 for s in stride),
        **norms,
    )


def _halve(**norms: Any) -> ConvDownConfig:
    return ConvDownConfig(kernel=3, stride=2, padding=1, **norms)


def _family(stages: Callable[..., tuple[StageConfig, ...]]) -> Builder:
    """A builder of whole pyramids from one of stages: adds what all families share."""

    @functools.wraps(stages)
    def build(
        rank: int,
        in_channels: int,
        *,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        **options: Any,
    ) -> PyramidConfig:
        return PyramidConfig(
            rank=rank,
            in_channels=in_channels,
            stages=stages(rank, **options),
            drop_path=drop_path,
            gradient_checkpointing=gradient_checkpointing,
        )

    return build


def _options(builder: Builder) -> builtins.list[str]:
    """Names that ``create`` may override."""
    own = inspect.signature(builder).parameters  # wraps() shows those of the stages' function
    return [*(name for name in own if name != "rank"), "drop_path", "gradient_checkpointing"]


def _levels(
    dims: Sizes,
    depths: Sizes,
    down: Callable[[int], ConvDownConfig | MergeDownConfig],
    block: Callable[[int], BlockConfig],
    **options: Any,
) -> tuple[StageConfig, ...]:
    """Stage i from ``down(i)`` and ``block(i)``."""
    return tuple(
        StageConfig(dim=dim, depth=depth, down=down(i), block=block(i), **options)
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True))
    )


@_family
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
    n = _stages(dims=dims, depths=depths, heads=heads)
    w = window if isinstance(window, int) else tuple(window)
    merges = [2] * (n - 1) if merge_strides is None else merge_strides
    _stages(merges=[None, *merges], dims=dims)

    def down(i: int) -> ConvDownConfig | MergeDownConfig:
        if i == 0:
            return _patchify(patch, rank, norm_after="layer" if patch_norm else "none")
        stride = grid.per_axis(merges[i - 1], rank, "merge stride")
        return MergeDownConfig(stride=stride, order=merge_order)

    def block(i: int) -> BlockConfig:
        own = WindowConfig(heads=heads[i], window=w, policy=policy)
        return BlockConfig(mixer=_mixer(mixer, own, heads[i]), ffn_ratio=ffn_ratio)

    return _levels(dims, depths, down, block)


@_family
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
    n = _stages(dims=dims, depths=depths, heads=heads, stripes=stripes)
    downs = [2] * (n - 1) if down_strides is None else down_strides
    _stages(downs=[None, *downs], dims=dims)

    def down(i: int) -> ConvDownConfig:
        if i == 0:
            return _overlap(patch, rank, 2, norm_after="layer")
        stride = grid.per_axis(downs[i - 1], rank)
        return ConvDownConfig(kernel=3, stride=stride, padding=1, norm_after="layer")

    def block(i: int) -> BlockConfig:
        own = CrossWindowConfig(heads=heads[i], stripe=stripes[i])
        return BlockConfig(mixer=_mixer(mixer, own, heads[i]), ffn_ratio=ffn_ratio)

    return _levels(dims, depths, down, block)


@_family
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
    _stages(dims=dims, depths=depths, heads=heads, reductions=reductions, ffns=ffn_ratios)
    eps = 1e-6

    def down(i: int) -> ConvDownConfig:
        norms: dict[str, Any] = {"norm_after": "layer", "norm_eps": eps}
        return _halve(**norms) if i else _overlap(patch, rank, 3, **norms)

    def block(i: int) -> BlockConfig:
        own = ReducedConfig(heads=heads[i], reduction=reductions[i], norm_eps=eps)
        return BlockConfig(
            mixer=_mixer(mixer, own, heads[i]),
            ffn_ratio=ffn_ratios[i],
            ffn_depthwise=True,
            norm_eps=eps,
        )

    return _levels(dims, depths, down, block, end_norm="layer", end_norm_eps=eps)


@_family
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
    _stages(dims=dims, depths=depths)

    def block(i: int) -> BlockConfig:
        return BlockConfig(
            mixer=_mixer(mixer, PoolConfig(size=pool), _plain_heads(dims[i])),
            ffn_ratio=ffn_ratio,
            norm="grid",
            layer_scale=layer_scale,
        )

    return _levels(dims, depths, lambda i: _halve() if i else _overlap(patch, rank, 2), block)


@_family
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
    _stages(dims=dims, depths=depths)
    eps = 1e-6

    def down(i: int) -> ConvDownConfig:
        if i == 0:
            return _patchify(patch, rank, norm_after="layer", norm_eps=eps)
        return _patchify(2, rank, norm_before="layer", norm_eps=eps)

    def block(i: int) -> BlockConfig:
        return BlockConfig(
            mixer=_mixer(mixer, DepthwiseConfig(size=kernel), _plain_heads(dims[i])),
            ffn_ratio=ffn_ratio,
            norm_eps=eps,
            layer_scale=layer_scale,
            form="fused",
        )

    return _levels(dims, depths, down, block)


@_family
def cvt(
    rank: int,
    *,
    dims: Sizes = (64, 192, 384),
    depths: Sizes,
    heads: Sizes = (1, 3, 6),
    ffn_ratio: float = 4.0,
    patch: grid.PerAxis = 4,
    class_token: bool = True,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """CvT (Wu et al., ICCV 2021, table 2).  The class token lives in the last stage.

    It is left out when ``mixer`` puts another mixer in place, which would not know it.
    """
    n = _stages(dims=dims, depths=depths, heads=heads)
    token = class_token and mixer in (None, "conv_attention")

    def down(i: int) -> ConvDownConfig:
        return _halve(norm_after="layer") if i else _overlap(patch, rank, 2, norm_after="layer")

    def block(i: int) -> BlockConfig:
        own = ConvAttentionConfig(heads=heads[i])
        return BlockConfig(mixer=_mixer(mixer, own, heads[i]), ffn_ratio=ffn_ratio)

    stages = _levels(dims, depths, down, block)
    return (*stages[:-1], dataclasses.replace(stages[n - 1], extra_tokens=int(token)))


def _plain_heads(dim: int) -> int:
    """Heads of 32 channels, for an attention put into a family that has none of its own."""
    return max(1, dim // 32) if dim % max(1, dim // 32) == 0 else 1


def doubling(first: int, n: int = 4) -> tuple[int, ...]:
    """``first``, twice it, four times it, ...: the usual widths (or heads) of ``n`` stages."""
    return tuple(first * 2**i for i in range(n))


def _enter(builder: Builder, table: dict[str, dict[str, Any]]) -> None:
    for name, sizes in table.items():
        _ZOO[name] = (builder, sizes)


_enter(
    swin,
    {
        "swin_t": {"dims": doubling(96), "depths": (2, 2, 6, 2), "heads": doubling(3)},
        "swin_s": {"dims": doubling(96), "depths": (2, 2, 18, 2), "heads": doubling(3)},
        "swin_b": {"dims": doubling(128), "depths": (2, 2, 18, 2), "heads": doubling(4)},
    },
)
_enter(
    cswin,
    {
        "cswin_t": {"dims": doubling(64), "depths": (1, 2, 21, 1), "heads": doubling(2)},
        "cswin_s": {"dims": doubling(64), "depths": (2, 4, 32, 2), "heads": doubling(2)},
        "cswin_b": {"dims": doubling(96), "depths": (2, 4, 32, 2), "heads": doubling(4)},
        "cswin_l": {"dims": doubling(144), "depths": (2, 4, 32, 2), "heads": (6, 12, 24, 24)},
    },
)
_PVT = (64, 128, 320, 512)
_enter(
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
_enter(
    poolformer,
    {
        "poolformer_s12": {"depths": (2, 2, 6, 2)},
        "poolformer_s24": {"depths": (4, 4, 12, 4)},
        "poolformer_s36": {"depths": (6, 6, 18, 6), "layer_scale": 1e-6},
        "poolformer_m36": {"dims": _WIDE, "depths": (6, 6, 18, 6), "layer_scale": 1e-6},
        "poolformer_m48": {"dims": _WIDE, "depths": (8, 8, 24, 8), "layer_scale": 1e-6},
    },
)
_enter(
    convnext,
    {
        "convnext_t": {"dims": doubling(96), "depths": (3, 3, 9, 3)},
        "convnext_s": {"dims": doubling(96), "depths": (3, 3, 27, 3)},
        "convnext_b": {"dims": doubling(128), "depths": (3, 3, 27, 3)},
        "convnext_l": {"dims": doubling(192), "depths": (3, 3, 27, 3)},
    },
)
_enter(
    cvt,
    {
        "cvt_13": {"depths": (1, 2, 10)},
        "cvt_21": {"depths": (1, 4, 16)},
        "cvt_w24": {"dims": (192, 768, 1024), "depths": (2, 2, 20), "heads": (3, 12, 16)},
    },
)
