"""LeTFuser: a transformer on three views, a semantic depth cloud, and one fused vector that drives.

Paper: Agand et al., "LeTFuser: Light-weight End-to-end Transformer-Based Sensor Fusion for Autonomous
Driving with Multi-Task Learning", CVPR workshops 2023 (arXiv 2310.13135).
Code: pagand/e2etransfuser, branch cvpr-w, ``x13/model.py`` with ``kind="min_cvt"``, ``version=2``.

    panorama  = three views side by side, cut to ``width``
    maps      = CvT(panorama), with a convolutional stem beside or before it      ``encoder``
    semantics = decoder(maps)                                                     ``encoder``
    cloud     = argmax(semantics) and depth, seen from above                      ``birdseye``
    hx        = fusion(coarsest map, encoder(cloud)), measurements                ``heads``
    waypoints, control, lights, signs, speed                                      ``heads``

What differs from the paper and from its code is said in each of those modules.  ``small`` differs
most: it sees all of the 180 degrees, its CvT works at strides 8, 16 and 32 behind a stem of two
convolutions, and it fuses by attention.  One decision, batch of one, on one thread of an EPYC of 2024
(float32): ``small`` (1.9 M parameters) 29 ms, ``small-mamba`` (2.1 M) 34, ``late-fusion`` (3.4 M)
38, ``cvt13`` (23.3 M) 362; a training sample of ``small`` in batches of 16, both ways: 70 ms, and 52
in bfloat16.
"""

from __future__ import annotations

import torch
from torch import nn

from apps.driving.models.base import Driver, Inputs, Outputs
from apps.driving.models.birdseye import DepthCloud, Points, make_encoder
from apps.driving.models.config import ModelConfig
from apps.driving.models.encoder import Encoder, Normalise, SemanticDecoder, conv, initialise
from apps.driving.models.heads import Heads


class LeTFuser(Driver):
    """See the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        classes, height = len(config.classes), config.rig.size[0]
        self.normalise = Normalise()
        self.encoder = Encoder(config.stem, config.backbone)
        channels, strides = self.encoder.channels, self.encoder.strides
        self.neck = conv(channels[-1], config.neck, kernel=1)
        self.decoder = SemanticDecoder(config.neck, channels, strides, classes, config.decoder)
        self.cloud = DepthCloud(
            config.rig, config.width, classes, config.decoder.stride, config.cloud
        )
        self.cloud_encoder = make_encoder(classes, config.birdseye)
        fine = self.decoder.strides[-1]
        self.points = Points(config.rig, config.width, (fine, fine))
        halvings = self.cloud_encoder.stride
        rows, columns = config.cloud.shape
        self.heads = Heads(
            config,
            config.neck,
            self.decoder.channels[-1],
            self.cloud_encoder.channels,
            (
                (height // strides[-1], config.width // strides[-1]),
                (-(-rows // halvings), -(-columns // halvings)),
            ),
        )
        for part in (self.encoder.stem, self.neck, self.decoder, self.cloud_encoder):
            initialise(part)

    def forward(self, inputs: Inputs) -> Outputs:
        self.check(inputs)
        picture, depth = self.panorama(inputs.rgb), self.panorama(inputs.depth)
        picture = self.normalise(picture).contiguous(memory_format=torch.channels_last)
        maps = self.encoder(picture)
        coarsest = self.neck(maps[-1])
        semantics, decoded = self.decoder(coarsest, maps)
        birdseye = self.cloud(semantics.argmax(1), depth)
        return self.heads(
            inputs,
            semantics=semantics,
            birdseye=birdseye,
            pictures=coarsest,
            fine=decoded[-1],
            other=self.cloud_encoder(birdseye),
            points=self.points(depth),
            picture=picture,
        )

    def fusion_parameters(self) -> list[nn.Parameter]:
        return [self.neck[0].weight]  # type: ignore[index]


def build(config: ModelConfig) -> Driver:
    """The network of ``config`` with fresh weights.

    Raises UsageError where the backbone, an option of it, or its fit with stem and decoder is wrong.
    """
    if config.architecture == "late-fusion":
        from apps.driving.models.late_fusion import LateFusion

        return LateFusion(config)
    return LeTFuser(config)
