"""From pictures to feature maps and semantics: stem, transformer pyramid, decoder.

LeTFuser (Agand et al., arXiv 2310.13135, section 3; code: pagand/e2etransfuser, branch cvpr-w,
``x13/model.py``) runs CvT-13 (Wu et al., ICCV 2021) on the three views side by side, with a strided
convolution beside it for the finest level, and decodes semantics in the manner of U-Net
(Ronneberger et al., MICCAI 2015).

Tensors are channels-first here, (B, C, h, w), in channels-last memory.

Deviates from the authors' code: pictures are scaled to [0, 1] before ImageNet's mean and deviation
are taken off (there 0 to 255 is normalised as if it were 0 to 1); classes exclude one another, so
that their logits go through a softmax and not a sigmoid each; the number of stages is free.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core
from apps.driving.models.config import BackboneConfig, DecoderConfig
from core import grid
from core.backbones.pyramid import Pyramid
from core.errors import UsageError
from core.mixers import mixer_config

# ImageNet's, of pictures in [0, 1].
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """RGB 0 to 255, uint8 or floating -> (x / 255 - mean) / deviation, float32."""

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
        self.register_buffer("gain", (1 / (255 * deviation)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / deviation).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        gain, shift = cast(Tensor, self.gain), cast(Tensor, self.shift)
        return torch.addcmul(shift, rgb.to(gain.dtype), gain)


def conv(dim_in: int, dim: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch norm, ReLU; the grid becomes ceil(S / stride)."""
    return nn.Sequential(
        nn.Conv2d(dim_in, dim, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(dim),
        nn.ReLU(inplace=True),
    )


def separable(dim_in: int, dim: int, *, stride: int = 1) -> nn.Module:
    """A 1-wide convolution, then a 3-wide one of each channel (Sandler et al., CVPR 2018)."""
    return nn.Sequential(conv(dim_in, dim, kernel=1), conv(dim, dim, stride=stride, groups=dim))


class Encoder(nn.Module):
    """Panorama (B, 3, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]), finest first.

    The stem halves the grid once for each of its widths. Its maps come first; those of the
    backbone, whose patches begin at the picture or at the stem's end, follow. ``strides`` are all
    powers of two, each twice the one before.
    """

    def __init__(self, stem: Sequence[int], config: BackboneConfig) -> None:
        super().__init__()
        dims = (3, *stem)
        self.stem = nn.ModuleList(conv(a, b, stride=2) for a, b in itertools.pairwise(dims))
        self.feeds_stem = config.feed == "stem"
        self.backbone = _backbone(config, dims[-1] if self.feeds_stem else 3)
        first = 2 ** len(stem) if self.feeds_stem else 1
        strides = [*(2**i for i in range(1, len(dims)))]
        strides += [first * grid.per_axis(s, 2)[0] for s in self.backbone.strides]
        if strides != [2**i for i in range(1, len(strides) + 1)]:
            raise UsageError(
                f"strides {strides} of stem and backbone: want 2, 4, 8, ...; change the stem's widths "
                "or the backbone's patch"
            )
        self.channels = [*stem, *self.backbone.channels]
        self.strides = strides

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        y = x
        for layer in self.stem:
            y = layer(y)
            maps.append(y)
        return [*maps, *self.backbone(y if self.feeds_stem else x)]


def _backbone(config: BackboneConfig, in_channels: int) -> Pyramid:
    """UsageError where the name, an option or the mixer is not the core's."""
    options = dict(config.options)
    mixer = options.get("mixer")
    if isinstance(mixer, dict):
        values = dict(mixer)
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise UsageError(f"mixer {mixer}: want its 'name' beside its options")
        options["mixer"] = mixer_config(name, **values)
    return core.create(config.name, rank=2, in_channels=in_channels, **options)


class Up(nn.Module):
    """Twice the grid by bilinear interpolation, the finer map beside it, and convolutions.

    (B, C, h, w) and (B, C', 2 h, 2 w) -> (B, dim, 2 h, 2 w).
    """

    def __init__(self, dim_in: int, dim_skip: int, dim: int, *, light: bool) -> None:
        super().__init__()
        # Light: narrow to ``dim`` before the grid grows; a 1-wide convolution and an interpolation
        # commute, and on the coarse grid it costs a quarter.
        self.narrow = conv(dim_in, dim, kernel=1) if light else nn.Identity()
        joined = (dim if light else dim_in) + dim_skip
        self.convs = (
            separable(joined, dim) if light else nn.Sequential(conv(joined, dim), conv(dim, dim))
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.convs(torch.cat((x, skip), 1))


class SemanticDecoder(nn.Module):
    """Maps of an encoder -> (logits at ``config.stride``, the decoder's own maps, coarsest first).

    ``channels`` and ``strides`` describe the own maps. A level of the decoder that has no map of the
    encoder to join, because the stride asks for more, is interpolated.
    """

    def __init__(
        self,
        bottom: int,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        config: DecoderConfig,
    ) -> None:
        super().__init__()
        levels = len(config.widths)
        if levels >= len(channels):
            raise UsageError(
                f"decoder of {levels} widths: the encoder has {len(channels) - 1} finer maps to join"
            )
        skips = [*reversed(channels[:-1])][:levels]
        self.strides = [*reversed(strides[:-1])][:levels]
        if self.strides[-1] < config.stride:
            raise UsageError(
                f"decoder of {levels} widths ends at stride {self.strides[-1]}, finer than the "
                f"configured {config.stride}; give fewer widths"
            )
        dims = [bottom, *config.widths]
        self.ups = nn.ModuleList(
            Up(dims[i], skip, dims[i + 1], light=config.separable) for i, skip in enumerate(skips)
        )
        self.channels = dims[1:]
        self.logits = nn.Conv2d(dims[-1], classes, 1)
        self.rest = self.strides[-1] // config.stride

    def forward(self, bottom: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """``bottom`` stands for the coarsest of ``maps``, which are finest first."""
        x, own = bottom, []
        for up, skip in zip(self.ups, reversed(maps[:-1])):
            x = up(x, skip)
            own.append(x)
        logits = self.logits(x).float()
        if self.rest > 1:
            logits = F.interpolate(
                logits, scale_factor=float(self.rest), mode="bilinear", align_corners=False
            )
        return logits, own


def initialise(module: nn.Module) -> None:
    """He-normal convolutions (He et al., ICCV 2015) for the ReLUs after them; biases zero."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
