"""Segmentation networks: ``build(name, rank=..., in_channels=..., out_channels=..., **options)``.

Every network maps (B, C, *S) to logits (B, K, *S) for any size S, in 2-D and 3-D.  With
``deep_supervision=n`` it returns, in training only, a list of 1 + n logit maps, finest first.
Names, papers, options and presets are data in ``catalog.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from apps.medical import catalog
from core import grid
from core.backbones import zoo
from core.backbones.pyramid import Pyramid, PyramidConfig
from core.blocks import BlockConfig
from core.decoders import ExpandingDecoder, JoinDecoder, ResidualConvConfig, ResidualDecoder
from core.decoders.conv import PointConv, channels_last
from core.errors import UsageError
from core.nn import recomputed, sound_convolutions

Strides = Sequence[grid.PerAxis]
Logits = Tensor | list[Tensor]


def names() -> list[str]:
    """Names of the networks, in the catalog's order."""
    return [*catalog.MODELS]


def build(
    name: str,
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    preset: str | None = None,
    **options: Any,
) -> nn.Module:
    """The network ``name`` with fresh weights; see :func:`catalog.resolve` for its options.

    Raises UsageError naming the nearest model, preset or option where one is unknown.
    """
    chosen = catalog.resolve(name, rank, preset, **options)
    if in_channels < 1 or out_channels < 1:
        raise UsageError(
            f"model {name!r} from {in_channels} to {out_channels} channels: want at least 1 of each."
        )
    return _BUILDERS[name](rank, in_channels, out_channels, **chosen)


def make_heads(
    decoder: JoinDecoder | ExpandingDecoder,
    out_channels: int,
    deep_supervision: int,
    *,
    bias: bool,
) -> nn.ModuleList:
    """1-wide convolutions to the classes: the finest map's, and ``deep_supervision`` coarser ones'.

    Raises UsageError when the decoder has fewer levels.
    """
    levels = len(decoder.channels)
    if not 0 <= deep_supervision < levels:
        raise UsageError(
            f"deep_supervision {deep_supervision}: this network has {levels - 1} coarser levels."
        )
    return nn.ModuleList(
        PointConv(c, out_channels, bias=bias) for c in decoder.channels[: deep_supervision + 1]
    )


class Segmenter(nn.Module):
    """A pyramid, a decoder (``core.decoders.unet``) and 1-wide convolutions to the classes."""

    def __init__(
        self,
        encoder: Pyramid,
        decoder: JoinDecoder | ExpandingDecoder,
        out_channels: int,
        *,
        bias: bool = True,
        deep_supervision: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.heads = make_heads(decoder, out_channels, deep_supervision, bias=bias)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether insides are recomputed in the backward pass."""
        return self.encoder.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.encoder.gradient_checkpointing = value
        self.decoder.gradient_checkpointing = value

    def forward(self, x: Tensor) -> Logits:
        x = channels_last(x)
        maps = self.decoder(x, self.encoder(x))
        if self.training and len(self.heads) > 1:
            return [head(m) for head, m in zip(self.heads, maps, strict=False)]
        return self.heads[0](maps[0])


def _swin_unetr(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    heads: Sequence[int],
    window: grid.PerAxis,
    policy: Any,
    strides: Strides | None,
    merge_order: Any,
    convolutions: bool,
    outputs: Any,
    affine: bool,
    width: int | None,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al. 2022).  Corresponds to MONAI's ``SwinUNETR``.

    ``outputs="start"``, as published: the decoder sees each level before its attention, and one
    more merging follows the last.  ``outputs="end"``: it sees each level after its attention, and
    there is no such merging.  ``convolutions`` adds the residual convolution of Swin UNETR V2 (He
    et al., MICCAI 2023) before each level's attention.  MONAI's weights want ``policy="monai"``.

    Deviates from MONAI: padding and wrapped windows are masked by default; instance norms have
    gains by default; any input size.
    """
    levels = len(depths)
    if outputs == "start":
        levels, depths, heads = levels + 1, (*depths, 0), (*heads, 1)
    config = zoo.swin(
        rank,
        in_channels,
        dims=zoo.doubling(feature_size, levels),
        depths=depths,
        heads=heads,
        window=window,
        patch=patch,
        patch_norm=False,
        policy=policy,
        merge_order=merge_order,
        merge_strides=strides,
        drop_path=drop_path,
        gradient_checkpointing=gradient_checkpointing,
    )
    lead = ResidualConvConfig(affine=affine) if convolutions else None
    last = None if outputs == "start" else lead
    stages = [replace(s, lead=lead) for s in config.stages[:-1]]
    stages.append(replace(config.stages[-1], lead=last))
    encoder = Pyramid(replace(config, outputs=outputs, stages=tuple(stages)))
    decoder = ResidualDecoder(
        rank,
        in_channels,
        encoder.channels,
        encoder.strides,
        width=width,
        affine=affine,
        gradient_checkpointing=gradient_checkpointing,
    )
    return Segmenter(encoder, decoder, out_channels, deep_supervision=deep_supervision)


def _mirror(config: PyramidConfig) -> list[BlockConfig]:
    return [cast("BlockConfig", stage.block) for stage in config.stages]


def _swin_unet(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    heads: Sequence[int],
    window: grid.PerAxis,
    policy: Any,
    strides: Strides | None,
    decoder_depths: Sequence[int] | None,
    expand: Any,
    width: int | None,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """Swin-Unet (Cao et al. 2021).  Corresponds to HuCaoFighting/Swin-Unet.

    Deviates from the authors' code: any input size and rank (there, multiples of 28 and the size it
    was built for); one input channel is not repeated to three; ``expand="carafe"`` is possible.
    """
    config = zoo.swin(
        rank,
        in_channels,
        dims=zoo.doubling(feature_size, len(depths)),
        depths=depths,
        heads=heads,
        window=window,
        patch=patch,
        policy=policy,
        merge_strides=strides,
        drop_path=drop_path,
        gradient_checkpointing=gradient_checkpointing,
    )
    encoder = Pyramid(config)
    decoder = ExpandingDecoder(
        rank,
        encoder.channels,
        encoder.strides,
        _mirror(config),
        (*depths[:-1], 0) if decoder_depths is None else decoder_depths,
        expand=expand,
        width=width,
        gradient_checkpointing=gradient_checkpointing,
    )
    return Segmenter(encoder, decoder, out_channels, bias=False, deep_supervision=deep_supervision)


def _cswin_unet(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    heads: Sequence[int],
    stripes: Sequence[int | None],
    strides: Strides | None,
    decoder: str,
    decoder_depths: Sequence[int] | None,
    width: int | None,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """CSWin-UNet in 2-D (Liu et al. 2024), CSwin UNet in 3-D (after Li et al. 2023).

    In 2-D it corresponds to eatbeanss/CSWin-UNet: CARAFE up-sampling, decoder blocks mirrored.  In
    3-D no reference code is public; this is our reading of the paper: stripes along each of the
    three axes, a 3 x 3 x 3 depthwise LePE, and ``patch=(1, 2, 2)`` for thick slices.
    ``decoder="residual"`` takes Swin UNETR's decoder instead of CARAFE and mirrored blocks.

    Deviates from the authors' 2-D code: any input size.
    """
    config = zoo.cswin(
        rank,
        in_channels,
        dims=zoo.doubling(feature_size, len(depths)),
        depths=depths,
        heads=heads,
        stripes=stripes,
        patch=patch,
        down_strides=strides,
        drop_path=drop_path,
        gradient_checkpointing=gradient_checkpointing,
    )
    encoder = Pyramid(config)
    if decoder == "residual":
        if decoder_depths is not None:
            raise UsageError("decoder_depths: only the 'carafe' decoder has blocks; leave it out.")
        head = ResidualDecoder(
            rank,
            in_channels,
            encoder.channels,
            encoder.strides,
            width=width,
            gradient_checkpointing=gradient_checkpointing,
        )
        return Segmenter(encoder, head, out_channels, deep_supervision=deep_supervision)
    if decoder != "carafe":
        raise UsageError(f"decoder {decoder!r}: want 'carafe' or 'residual'.")
    expanding = ExpandingDecoder(
        rank,
        encoder.channels,
        encoder.strides,
        _mirror(config),
        depths if decoder_depths is None else decoder_depths,
        expand="carafe",
        width=width,
        gradient_checkpointing=gradient_checkpointing,
    )
    return Segmenter(
        encoder, expanding, out_channels, bias=False, deep_supervision=deep_supervision
    )


def _att_swin_unet(rank: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    from apps.medical import att_swin_unet

    return att_swin_unet.build(rank, in_channels, out_channels, **options)


def _mamba(
    network: str, rank: int, in_channels: int, out_channels: int, **options: Any
) -> nn.Module:
    from apps.medical import mamba_unets

    build: Callable[..., nn.Module] = getattr(mamba_unets, network)
    return build(rank, in_channels, out_channels, **options)


class AnySize(nn.Module):
    """A MONAI network that wants multiples of its strides, at any size.

    The input is extended at its end by repeating its border, the output is cropped.  The coarsest
    grid keeps two positions at least, which instance norms need.
    """

    def __init__(
        self, network: nn.Module, strides: Strides, rank: int, gradient_checkpointing: bool
    ) -> None:
        super().__init__()
        self.network = sound_convolutions(network)
        columns = zip(*(grid.per_axis(s, rank, "stride") for s in strides), strict=True)
        self.multiple = [math.prod(column) for column in columns]
        self.gradient_checkpointing = gradient_checkpointing
        for module in network.modules():
            if type(module).__name__ in ("UnetBasicBlock", "UnetResBlock", "ResidualUnit"):
                module.forward = functools.partial(self._run, module.forward)

    def _run(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return recomputed(self.gradient_checkpointing and self.training, forward, x)

    def forward(self, x: Tensor) -> Logits:
        S = list(x.shape[2:])
        whole = [-(-s // m) * m for s, m in zip(S, self.multiple, strict=True)]
        if whole == self.multiple:
            whole[-1] *= 2
        if whole != S:
            amounts = [v for s, w in zip(S[::-1], whole[::-1], strict=True) for v in (0, w - s)]
            x = F.pad(x, amounts, mode="replicate")
        y = self.network(x)
        cut = (..., *(slice(0, s) for s in S))
        if y.ndim == x.ndim + 1:  # DynUNet stacks what deep supervision gives, (B, n, K, *S)
            return [*y[cut].unbind(1)]
        return y[cut]


def _dynunet(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: Sequence[int],
    strides: Strides,
    kernels: Sequence[grid.PerAxis] | None,
    residual: bool,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """MONAI's DynUNet, nnU-Net's network (Isensee et al. 2021).

    ``strides`` and ``kernels`` have one entry a level, the first stride being 1.  By default a
    kernel is 3 wide, and 1 on an axis that has not been reduced while another has: there the voxels
    are far apart, as in nnU-Net's rule.
    """
    from monai.networks.nets import DynUNet

    steps = [grid.per_axis(s, rank, "stride") for s in strides]
    if len(steps) != len(channels):
        raise UsageError(
            f"dynunet: {len(channels)} channels but {len(steps)} strides; one a level."
        )
    sizes = default_kernels(steps) if kernels is None else [grid.per_axis(k, rank) for k in kernels]
    network = DynUNet(
        spatial_dims=rank,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=sizes,
        strides=steps,
        upsample_kernel_size=steps[1:],
        filters=list(channels),
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=deep_supervision > 0,
        deep_supr_num=max(1, deep_supervision),
        res_block=residual,
    )
    return AnySize(network, steps, rank, gradient_checkpointing)


def default_kernels(steps: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """3, or 1 on the axes that lag behind: a level where another axis is reduced and this is not."""
    sizes = []
    for i, step in enumerate(steps):
        following = steps[max(i, 1)] if len(steps) > 1 else step
        uneven = len(set(following)) > 1
        sizes.append(tuple(1 if uneven and s == 1 else 3 for s in following))
    return sizes


def _unet(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: Sequence[int],
    strides: Strides,
    residual_units: int,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """MONAI's UNet with residual units (Kerfoot et al. 2019).  It has no deep supervision."""
    from monai.networks.nets import UNet

    if deep_supervision:
        raise UsageError("unet: has no deep supervision; set deep_supervision=0 or take dynunet.")
    steps = [grid.per_axis(s, rank, "stride") for s in strides]
    if len(steps) != len(channels) - 1:
        raise UsageError(
            f"unet: {len(channels)} channels but {len(steps)} strides; one stride less is wanted."
        )
    network = UNet(
        spatial_dims=rank,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=list(channels),
        strides=cast("Sequence[int]", steps),  # takes tuples too, whatever its annotation says
        num_res_units=residual_units,
    )
    return AnySize(network, steps, rank, gradient_checkpointing)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "swin_unetr": _swin_unetr,
    "swin_unet": _swin_unet,
    "cswin_unet": _cswin_unet,
    "att_swin_unet": _att_swin_unet,
    "umamba_bot": functools.partial(_mamba, "umamba", everywhere=False),
    "umamba_enc": functools.partial(_mamba, "umamba", everywhere=True),
    "vm_unet": functools.partial(_mamba, "vm_unet"),
    "segmamba": functools.partial(_mamba, "segmamba"),
    "swin_umamba": functools.partial(_mamba, "swin_umamba"),
    "dynunet": _dynunet,
    "unet": _unet,
}
