"""From an encoder's maps back to the image by linear maps: deliberately too weak to do the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from core import grid
from core.backbones.pyramid import Pyramid
from core.blocks import init_weights


class PixelHead(nn.Module):
    """Maps (B, C_i, *S_i), finest first, to an image (B, C, *S): the sum of what each level gives.

    A level gives, at each of its positions, the voxels of the patch below it: ``hidden`` linear
    layers with GELU, then one to C * prod(stride) channels (SimMIM's head with ``hidden=0`` on the
    last level, GMML's with ``hidden=3``).
    """

    def __init__(
        self, encoder: Pyramid, *, levels: Literal["all", "last"] = "last", hidden: int = 0
    ) -> None:
        super().__init__()
        self.channels = encoder.config.in_channels
        count = len(encoder.channels)
        self.levels = [*range(count)] if levels == "all" else [count - 1]
        self.strides = [grid.per_axis(encoder.strides[i], encoder.rank) for i in self.levels]
        self.layers = nn.ModuleList(
            _perceptron(encoder.channels[i], self.channels * math.prod(stride), hidden)
            for i, stride in zip(self.levels, self.strides, strict=True)
        )
        init_weights(self)
        for layer in self.layers:
            last: Any = layer[-1]  # type: ignore[index]
            # The image is begun at its mean: Xavier's start costs 1.2 to 6 times as much error.
            nn.init.trunc_normal_(last.weight, std=0.02)

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
        """``sizes`` of the image, S."""
        parts = []
        for i, stride, layer in zip(self.levels, self.strides, self.layers, strict=True):
            x = layer(maps[i].movedim(1, -1))  # (B, *S_i, prod(stride) C)
            whole = [n * s for n, s in zip(x.shape[1:-1], stride, strict=True)]
            voxels = x.reshape(x.shape[0], -1, math.prod(stride), self.channels)
            parts.append(grid.crop_to(grid.unwindows(voxels, stride, whole), sizes))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total.movedim(-1, 1)


def _perceptron(dim: int, out: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(dim, dim), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(dim, out))
