"""U-shaped networks with Mamba layers: U-Mamba, VM-UNet, SegMamba and Swin-UMamba, in 2-D and 3-D.

Their Mamba is ``core``'s mixer of that name, which needs no compiler and no GPU.  Every network has
an option ``mixer``: "mamba" as published, None for the same network without the layers that hold
it (the ablation the papers leave out), or the name of another mixer in its place.

Letters: B batch, C channels, S grid sizes, R rank.  The grid is one of voxels or patches; layers
inside a pyramid are channels-last, (B, *S, C), decoders are channels-first.

U-Mamba: Ma et al. 2024, arXiv:2401.04722.  VM-UNet: Ruan and Xiang 2024, arXiv:2402.02491.
SegMamba: Xing et al., MICCAI 2024, arXiv:2401.13560.  Swin-UMamba: Liu et al., MICCAI 2024,
arXiv:2402.03302.

The authors' codes need mamba_ssm and with it CUDA, and autocast is switched off around the layer or
the loss becomes NaN.  Here scans and norms accumulate in float32 under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from apps.medical.models import Segmenter, default_kernels
from core import grid
from core.backbones.family import doubling, mixer_or, patchify, plain_heads, stage_count
from core.backbones.pyramid import Pyramid, PyramidConfig, StageConfig
from core.blocks import BlockConfig, BlockContext
from core.decoders import (
    ExpandingDecoder,
    InstanceNorm,
    JoinDecoder,
    NearestUp,
    PointConv,
    ResidualConv,
    ResidualConvConfig,
    ResidualDownConfig,
    UpJoin,
    factors,
)
from core.down import ConvDownConfig, DownConfig, MergeDownConfig
from core.errors import UsageError
from core.mixers import build_mixer
from core.mixers.mamba import MambaConfig
from core.nn import CONV

PerLevel = int | Sequence[int] | None


def chosen_mixer(name: str | None, dim: int, **options: Any) -> Any:
    """Config of the mixer ``name``: of Mamba's with ``options``, of another's as it comes."""
    if name is None:
        return None
    own = MambaConfig(**options)
    return own if name == "mamba" else mixer_or(name, own, plain_heads(dim))


# ---- U-Mamba -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MixerLayerConfig:
    """Layer norm and a mixer; ``residual`` adds what came in."""

    mixer: Any
    residual: bool

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The layer at ``context``.  It has no branch to drop."""
        return MixerLayer(self, context)


class MixerLayer(nn.Module):
    """(B, *S, C) -> mixer(norm(x)), or x + mixer(norm(x))."""

    def __init__(self, config: MixerLayerConfig, context: BlockContext) -> None:
        super().__init__()
        self.residual = config.residual
        self.norm = nn.LayerNorm(context.dim)
        self.mixer = build_mixer(config.mixer, context)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixer(self.norm(x))
        return x + y if self.residual else y


def umamba(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    everywhere: bool,
    channels: Sequence[int],
    strides: Sequence[grid.PerAxis],
    kernels: Sequence[grid.PerAxis] | None,
    depths: PerLevel,
    decoder_depths: PerLevel,
    mixer: str | None,
    residual: bool,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """U-Mamba.  Corresponds to bowang-lab/U-Mamba, UMambaBot and UMambaEnc.

    A residual encoder and a convolutional decoder as nnU-Net's, with a Mamba layer (layer norm,
    Mamba with d_state 16, d_conv 4, expand 2, over the voxels in raster order) after the last stage
    (Bot) or, ``everywhere``, after each (Enc).  ``strides`` and ``kernels`` have one entry a level,
    the first stride being 1, and default kernels are DynUNet's.  ``depths`` and ``decoder_depths``
    are residual blocks a level (the decoder's finest first, one level less); None is the authors'
    rule, 2 in the half of the levels that are computed first and 1 in the others.

    ``residual=False`` is the published code: what enters the layer is not added to what leaves it,
    so all that later stages know has passed the scan.
    ``mixer=None`` gives the authors' "no Mamba base" of an independent comparison (Isensee et al.
    2024, arXiv:2404.09556), which was as good.

    Deviates from the authors' code: shortcuts that change width or stride are normed and others are
    identities, and convolutions before an instance norm have no bias, which it would remove; where a
    grid has fewer voxels than channels theirs scans the channels instead, which ties the weights to
    one input size; any input size.
    """
    steps = [grid.per_axis(s, rank, "stride") for s in strides]
    n = stage_count(channels=channels, strides=steps)
    if n < 2:
        raise UsageError(f"umamba with {n} level: at least 2 are needed.")
    if max(steps[0]) > 1:
        raise UsageError(f"umamba with first stride {strides[0]}: want 1, the image's own grid.")
    sizes = (
        default_kernels(steps)
        if kernels is None
        else [grid.per_axis(k, rank, "kernel") for k in kernels]
    )
    stage_count(channels=channels, kernels=sizes)
    before = _per_level(depths, n, "depths")
    after = _per_level(decoder_depths, n - 1, "decoder_depths", reverse=True)

    stages = []
    for i, dim in enumerate(channels):
        blocks: list[Any] = [ResidualConvConfig(kernel=sizes[i])] * (before[i] - 1)
        if i == 0:  # their stem is a stage of its own on the same grid
            blocks = [ResidualConvConfig(kernel=sizes[0])] * (2 * before[0] - 1)
        if mixer is not None and (everywhere or i == n - 1):
            chosen = chosen_mixer(mixer, dim, d_state=16, d_conv=4, expand=2.0)
            blocks = [*blocks, MixerLayerConfig(mixer=chosen, residual=residual)]
        down = ResidualDownConfig(stride=steps[i], kernel=sizes[i])
        stages.append(StageConfig(dim=dim, depth=len(blocks), block=tuple(blocks), down=down))
    encoder = Pyramid(
        PyramidConfig(
            rank=rank,
            in_channels=in_channels,
            stages=tuple(stages),
            gradient_checkpointing=gradient_checkpointing,
        )
    )
    joins = []
    for i in range(n - 1):
        dim, k = channels[i], sizes[i]
        convs = [ResidualConv(2 * dim, dim, rank, kernel=k)]
        convs += [ResidualConv(dim, dim, rank, kernel=k) for _ in range(after[i] - 1)]
        up = NearestUp(channels[i + 1], dim, steps[i + 1])
        joins.append(UpJoin(up, nn.Identity(), nn.Sequential(*convs)))
    decoder = JoinDecoder(
        nn.Identity(), joins, channels[:-1], gradient_checkpointing=gradient_checkpointing
    )
    return Segmenter(encoder, decoder, out_channels, deep_supervision=deep_supervision)


def _per_level(given: PerLevel, n: int, what: str, *, reverse: bool = False) -> list[int]:
    """Blocks of each of ``n`` levels; None is 2 in the first half, in the order they are computed."""
    if given is None:
        first = math.ceil(n / 2) if not reverse else math.ceil(n / 2 + 0.5)
        rule = [2] * min(first, n) + [1] * max(0, n - first)
        return rule[::-1] if reverse else rule
    counts = [given] * n if isinstance(given, int) else list(given)
    if len(counts) != n or min(counts) < 1:
        raise UsageError(f"{what} {given!r}: want one positive int, or one for each of {n} levels.")
    return counts


# ---- VM-UNet and Swin-UMamba ---------------------------------------------------------------


def _vss(mixer: str | None, dim: int) -> BlockConfig:
    """VMamba's first block: x + SS2D(norm(x)) with a gate, and no feed-forward."""
    ss2d = chosen_mixer(mixer, dim, d_state=16, path="cross", conv="grid", norm="layer")
    return BlockConfig(mixer=ss2d, ffn_ratio=None)


def _vss_stages(
    dims: Sequence[int],
    depths: Sequence[int],
    downs: Sequence[DownConfig],
    mixer: str | None,
) -> tuple[StageConfig, ...]:
    stage_count(dims=dims, depths=depths, downs=downs)
    return tuple(
        StageConfig(dim=dim, depth=depth if mixer else 0, block=_vss(mixer, dim), down=down)
        for dim, depth, down in zip(dims, depths, downs, strict=True)
    )


def _between(strides: Sequence[grid.PerAxis] | None, n: int, rank: int) -> list[tuple[int, ...]]:
    """Per axis, each of the ``n`` strides between levels; None is 2 everywhere."""
    steps = [2] * n if strides is None else strides
    if len(steps) != n:
        raise UsageError(f"strides {strides}: want {n}, one between each two levels.")
    return [grid.per_axis(s, rank, "stride") for s in steps]


def _merges(strides: Sequence[grid.PerAxis] | None, n: int, rank: int) -> list[DownConfig]:
    """``n`` patch mergings."""
    return [MergeDownConfig(stride=s) for s in _between(strides, n, rank)]


def vm_unet(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    decoder_depths: Sequence[int],
    strides: Sequence[grid.PerAxis] | None,
    mixer: str | None,
    width: int | None,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """VM-UNet.  Corresponds to JCruan519/VM-UNet.

    A Swin-Unet of VMamba's first blocks: four scans of the grid in 2-D (rows, columns and both
    reversed), six in 3-D, our reading; skips are added.  ``decoder_depths`` are finest first, the
    coarsest level included.  Without a mixer what is left is linear: patches merged and expanded.

    Deviates from the authors' code: a skip is what leaves a level's blocks and joins after the
    expansion; theirs adds what enters the next level's blocks before the expansion, so that the
    finest level has none.  Layer norms where the decoder begins and ends, as in Swin-Unet; no
    repeated input channels; any input size.  Logits come out: theirs has a sigmoid inside
    ``forward`` for one class, so that a loss on logits applies it twice.
    """
    n = stage_count(depths=depths, decoder_depths=decoder_depths)
    downs = [patchify(patch, rank, norm_after="layer"), *_merges(strides, n - 1, rank)]
    stages = _vss_stages(doubling(feature_size, n), depths, downs, mixer)
    encoder = Pyramid(
        PyramidConfig(
            rank=rank,
            in_channels=in_channels,
            stages=stages,
            drop_path=drop_path,
            gradient_checkpointing=gradient_checkpointing,
        )
    )
    finest = max(1, feature_size // max(grid.per_axis(patch, rank, "patch")))
    decoder = ExpandingDecoder(
        rank,
        encoder.channels,
        encoder.strides,
        [_vss(mixer, dim) for dim in encoder.channels],
        decoder_depths if mixer else [0] * n,
        skips="add",
        width=width or finest,
        gradient_checkpointing=gradient_checkpointing,
    )
    return Segmenter(encoder, decoder, out_channels, deep_supervision=deep_supervision)


def swin_umamba(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    strides: Sequence[grid.PerAxis] | None,
    mixer: str | None,
    width: int | None,
    last: bool,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """Swin-UMamba.  Corresponds to JiarunLiu/Swin-UMamba, ``SwinUMamba`` (not its -D variant).

    A 7-wide convolution of stride ``patch`` with instance norm, VMamba's tiny encoder on patches of
    2 of what it gives, and UNETR's decoder.  ``depths`` begin with the level of that convolution,
    which has no blocks; the second level embeds patches, the others merge them.  ``width`` is that of
    the decoder on the image's grid (default: ``feature_size``), ``last`` the residual block there that
    ends it.

    Deviates from the authors' code: shortcuts as in ``core``; any size, and rank 3 as our reading.
    Its ImageNet weights are VMamba's and are not loaded here.
    """
    n = len(depths)
    if n < 3 or depths[0] != 0:
        raise UsageError(
            f"swin_umamba with depths {tuple(depths)}: want 0 first, for the convolution, and at "
            "least two levels more."
        )
    merges = _merges(strides, n - 1, rank)
    stem = InstanceDownConfig(stride=patch, kernel=7, after=True)  # type: ignore[arg-type]
    embed = patchify(merges[0].stride, rank, norm_after="layer")
    stages = _vss_stages(doubling(feature_size, n), depths, [stem, embed, *merges[1:]], mixer)
    encoder = Pyramid(
        PyramidConfig(
            rank=rank,
            in_channels=in_channels,
            stages=stages,
            drop_path=drop_path,
            gradient_checkpointing=gradient_checkpointing,
        )
    )
    widths = [width or feature_size, *encoder.channels[1:], encoder.channels[-1]]
    decoder = _unetr(
        rank, in_channels, encoder, widths, bottom=nn.Identity(), last=last,
        gradient_checkpointing=gradient_checkpointing,
    )  # fmt: skip
    return Segmenter(encoder, decoder, out_channels, deep_supervision=deep_supervision)


def _unetr(
    rank: int,
    in_channels: int,
    encoder: Pyramid,
    widths: Sequence[int],
    *,
    bottom: nn.Module,
    last: bool,
    gradient_checkpointing: bool,
    before: Sequence[nn.Module] | None = None,
) -> JoinDecoder:
    """UNETR's decoder: a residual block on the image and each map, transposed convolutions between.

    ``widths`` of the levels, the image's first; ``bottom`` makes the last of them.  ``before`` is
    applied to each map (not the image) first.
    """
    dims = [in_channels, *encoder.channels]
    steps = factors(encoder.strides, rank)
    joins = []
    for i, step in enumerate(steps):
        skip: nn.Module = ResidualConv(dims[i], widths[i], rank)
        if before is not None and i > 0:
            skip = nn.Sequential(before[i - 1], skip)
        joins.append(UpJoin.transposed(widths[i + 1], widths[i], step, rank, skip=skip))
    return JoinDecoder(
        bottom,
        joins,
        widths[:-1],
        last=ResidualConv(widths[0], widths[0], rank) if last else None,
        gradient_checkpointing=gradient_checkpointing,
    )


# ---- SegMamba ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InstanceDownConfig:
    """A strided convolution with an instance norm ``before`` (no gain) or ``after`` it (gain)."""

    stride: int | tuple[int, ...]
    kernel: int | tuple[int, ...]
    before: bool = False
    after: bool = False

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        return InstanceDown(self, dim_in, dim_out, rank)


class InstanceDown(nn.Module):
    """(B, *S, C) -> (B, *ceil(S / stride), C')."""

    def __init__(self, config: InstanceDownConfig, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        kernel = grid.per_axis(config.kernel, rank, "kernel")
        stride = grid.per_axis(config.stride, rank, "stride")
        padding = tuple(k // 2 if k % 2 else 0 for k in kernel)
        plain = ConvDownConfig(stride=stride, kernel=kernel, padding=padding, bias=not config.after)
        self.before = InstanceNorm(dim_in, affine=False) if config.before else nn.Identity()
        self.conv = plain.build(dim_in, dim_out, rank)
        self.after = InstanceNorm(dim_out) if config.after else nn.Identity()

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """``sizes``: the result's, where the caller has a simpler form of them."""
        x = self.before(x.movedim(-1, 1)).movedim(1, -1)
        return self.after(self.conv(x, sizes).movedim(-1, 1)).movedim(1, -1)


@dataclass(frozen=True, kw_only=True)
class GatedConvConfig:
    """A :class:`GatedConv` as the leading block of a stage."""

    def build(self, context: BlockContext, drop_path: float = 0.0) -> nn.Module:
        """The block at ``context``.  It has no branch to drop."""
        return GatedConv(context.dim, context.rank)


class GatedConv(nn.Module):
    """x + fuse(wide(wide(x)) * gate(x)): SegMamba's gated spatial convolution.

    (B, *S, C) -> (B, *S, C).  ``wide`` is a 3-wide, ``gate`` and ``fuse`` are 1-wide convolutions,
    each with instance norm and ReLU.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        conv = CONV[rank - 1]
        self.wide = nn.Sequential(
            conv(dim, dim, 3, padding=1, bias=False), InstanceNorm(dim, affine=False), nn.ReLU(),
            conv(dim, dim, 3, padding=1, bias=False), InstanceNorm(dim, affine=False), nn.ReLU(),
        )  # fmt: skip
        self.gate, self.fuse = (
            nn.Sequential(
                PointConv(dim, dim, bias=False), InstanceNorm(dim, affine=False), nn.ReLU()
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x.movedim(-1, 1)
        return x + self.fuse(self.wide(y) * self.gate(y)).movedim(1, -1)


def segmamba(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    strides: Sequence[grid.PerAxis] | None,
    hidden: int | None,
    mixer: str | None,
    path: str,
    width: int | None,
    last: bool,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """A network in SegMamba's style.  Corresponds to ge-xing/SegMamba.

    A 7-wide convolution of stride ``patch``; in each stage a gated spatial convolution, then Mamba
    layers that scan the voxels forward, backward and from slice to slice, the first axis being the
    slices'; an instance norm and a feed-forward on what goes to UNETR's decoder, whose coarsest
    level has ``hidden`` channels (default: twice the last stage's).  ``width`` is that of the decoder on
    the image's grid (default: ``feature_size``), ``last`` the residual block there that ends it.

    Deviates from the authors' code: any size (there 128^3 alone, since the numbers of slices 64,
    32, 16 and 8 are written into the layers) and width (there 48 is written into the head); the two
    paths of the gated convolution are multiplied, as the paper says, where the code adds them; 2-D
    is our reading, rows being the slices.
    """
    n = len(depths)
    dims = doubling(feature_size, n)
    downs = [
        InstanceDownConfig(stride=patch, kernel=7),  # type: ignore[arg-type]
        *(
            InstanceDownConfig(stride=s, kernel=s, before=True)
            for s in _between(strides, n - 1, rank)
        ),
    ]
    stages = []
    for dim, depth, down in zip(dims, depths, downs, strict=True):
        chosen = chosen_mixer(mixer, dim, d_state=16, d_conv=4, expand=2.0, path=path)
        block = BlockConfig(mixer=chosen, ffn_ratio=None)
        kept = depth if mixer else 0
        stages.append(
            StageConfig(dim=dim, depth=kept, block=block, down=down, lead=GatedConvConfig())
        )
    encoder = Pyramid(
        PyramidConfig(
            rank=rank,
            in_channels=in_channels,
            stages=tuple(stages),
            drop_path=drop_path,
            gradient_checkpointing=gradient_checkpointing,
        )
    )
    before = [
        nn.Sequential(
            InstanceNorm(c, affine=False), PointConv(c, 2 * c), nn.GELU(), PointConv(2 * c, c)
        )
        for c in dims
    ]
    widths = [width or feature_size, *dims[1:], hidden or 2 * dims[-1]]
    bottom = nn.Sequential(before[-1], ResidualConv(dims[-1], widths[-1], rank))
    decoder = _unetr(
        rank, in_channels, encoder, widths, bottom=bottom, last=last,
        gradient_checkpointing=gradient_checkpointing, before=before,
    )  # fmt: skip
    return Segmenter(encoder, decoder, out_channels, deep_supervision=deep_supervision)
