"""The baseline: two convolutional networks, on RGB and on depth, joined only at their ends.

ResNet-18 (He et al., CVPR 2016; MONAI's, from fresh weights; ``config.resnet`` channels at its first
level, 64 in the paper) sees the RGB panorama, a small network of strided convolutions the depth
panorama; the means of both ends are fused.  This is the "late fusion" of TransFuser's comparison
(Prakash et al., CVPR 2021, section 4) with depth in the place of lidar.  Decoder and heads are
LeTFuser's.  The bird's eye is drawn to be looked at; nothing here reads it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apps.driving.models.base import Driver, Inputs, Outputs
from apps.driving.models.birdseye import CloudEncoder, DepthCloud, Points
from apps.driving.models.config import ModelConfig
from apps.driving.models.encoder import Normalise, SemanticDecoder, conv, initialise
from apps.driving.models.heads import Heads

_STRIDES = (2, 4, 8, 16, 32)


class ResNet18(nn.Module):
    """(B, 3, H, W) -> maps of ``channels`` at strides 2 to 32, finest first.

    ``width``: channels of the first two maps; each that follows has twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        from monai.networks.nets import ResNet

        self.channels = (width, width, 2 * width, 4 * width, 8 * width)
        net: Any = ResNet(
            "basic", [2, 2, 2, 2], list(self.channels[1:]), spatial_dims=2, n_input_channels=3,
            conv1_t_stride=2, shortcut_type="B", feed_forward=False,
        )  # fmt: skip
        self.levels = nn.ModuleList(
            (
                nn.Sequential(net.conv1, net.bn1, net.act),
                nn.Sequential(net.maxpool, net.layer1),
                net.layer2,
                net.layer3,
                net.layer4,
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class LateFusion(Driver):
    """See the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        classes, (height, _) = len(config.classes), config.rig.size
        self.normalise = Normalise()
        self.rgb = ResNet18(config.resnet)
        channels = self.rgb.channels
        self.neck = conv(channels[-1], config.neck, kernel=1)
        self.decoder = SemanticDecoder(config.neck, channels, _STRIDES, classes, config.decoder)
        self.depth = CloudEncoder(1, config.depth)
        self.cloud = DepthCloud(
            config.rig, config.width, classes, config.decoder.stride, config.cloud
        )
        fine = self.decoder.strides[-1]
        self.points = Points(config.rig, config.width, (fine, fine))
        coarse = (_STRIDES[-1], self.depth.stride)
        rgb_grid, depth_grid = ((-(-height // s), -(-config.width // s)) for s in coarse)
        self.heads = Heads(
            config, config.neck, self.decoder.channels[-1], self.depth.channels,
            (rgb_grid, depth_grid),
        )  # fmt: skip
        for part in (self.neck, self.decoder, self.depth):
            initialise(part)

    def forward(self, inputs: Inputs) -> Outputs:
        self.check(inputs)
        picture, depth = self.panorama(inputs.rgb), self.panorama(inputs.depth)
        picture = self.normalise(picture).contiguous(memory_format=torch.channels_last)
        maps = self.rgb(picture)
        coarsest = self.neck(maps[-1])
        semantics, decoded = self.decoder(coarsest, maps)
        return self.heads(
            inputs,
            semantics=semantics,
            birdseye=self.cloud(semantics.argmax(1), depth),
            pictures=coarsest,
            fine=decoded[-1],
            other=self.depth(nearness(depth)[:, None]),
            points=self.points(depth),
            picture=picture,
        )

    def fusion_parameters(self) -> list[nn.Parameter]:
        return [self.neck[0].weight]  # type: ignore[index]


def nearness(depth: Tensor) -> Tensor:
    """1 at the camera, 1/2 at 10 m, 0 far away and where depth is no positive number."""
    known = torch.isfinite(depth) & (depth > 0)
    return torch.where(known, 10.0 / (10.0 + torch.where(known, depth, 0.0)), 0.0)
