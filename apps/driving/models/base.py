"""What every driving network takes and returns.

B batch, V cameras in the rig's order, H x W pixels of one camera, K classes, T waypoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apps.driving.models.config import ModelConfig
from core.errors import DataError


class Inputs(NamedTuple):
    """What a network sees of B moments."""

    rgb: Tensor  # (B, V, 3, H, W), 0 to 255, uint8 or floating
    depth: Tensor  # (B, V, H, W), metres along the optical axis
    speed: Tensor  # (B,), m/s; NaN where it is not known
    target: Tensor  # (B, 2), metres in the ego frame: x forward, y right
    command: Tensor  # (B,), int64, 1 to 6: ``agents.base.Command``

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Inputs:
        """The same on ``device``."""
        return Inputs(*(value.to(device, non_blocking=non_blocking) for value in self))


class Outputs(NamedTuple):
    """What a network says of B moments."""

    semantics: Tensor  # (B, K, h, w), logits of the panorama; see ``Driver.semantic_targets``
    birdseye: Tensor  # (B, K, hb, wb), 0 or 1; far rows first, columns from left to right
    waypoints: Tensor  # (B, T, 2), metres in the ego frame, 0.5 s apart
    control: Tensor  # (B, 3): steer -1 to 1, throttle 0 to 1, brake 0 to 1
    red_light: Tensor  # (B,), logit
    stop_sign: Tensor  # (B,), logit
    speed: Tensor  # (B,), m/s, as guessed from the pictures alone


class Driver(nn.Module, ABC):
    """A driving network: ``forward(inputs)`` is ``Outputs``, float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, inputs: Inputs) -> Outputs:
        """What the network says of each moment by itself."""

    @abstractmethod
    def fusion_parameters(self) -> list[nn.Parameter]:
        """The last parameters that every output depends on: where GradNorm takes its norms."""

    def panorama(self, views: Tensor) -> Tensor:
        """(B, V, ..., H, W) side by side, cut to the configured width: (B, ..., H, width)."""
        side_by_side = torch.cat(views.unbind(1), -1)
        cut = (side_by_side.shape[-1] - self.config.width) // 2
        return side_by_side[..., cut : cut + self.config.width]

    def semantic_targets(self, classes: Tensor) -> Tensor:
        """Labels for the logits: class numbers (B, V, H, W) -> (B, h, w) int64.

        A logit speaks for a square of pixels and is taught by the one below and right of its centre.
        """
        stride = self.config.decoder.stride
        return self.panorama(classes)[..., stride // 2 :: stride, stride // 2 :: stride].long()

    def check(self, inputs: Inputs) -> None:
        """DataError where the shapes are not those of the configured cameras."""
        height, width = self.config.rig.size
        views = len(self.config.rig.cameras)
        batch = inputs.rgb.shape[0]
        wanted: Mapping[str, tuple[int, ...]] = {
            "rgb": (batch, views, 3, height, width),
            "depth": (batch, views, height, width),
            "speed": (batch,),
            "target": (batch, 2),
            "command": (batch,),
        }
        for name, shape in wanted.items():
            given = tuple(getattr(inputs, name).shape)
            if given != shape:
                raise DataError(
                    f"{name} of shape {given}: model {self.config.name!r} is for {views} cameras of "
                    f"{width} x {height} pixels and wants {shape}"
                )
