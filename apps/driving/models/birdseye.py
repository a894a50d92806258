"""The semantic depth cloud (SDC): classes of pixels laid on the ground plane, and its encoder.

LeTFuser (Agand et al., arXiv 2310.13135, section 3; after Natan and Miura, "End-to-end autonomous
driving with semantic depth cloud mapping and multi-agent", IEEE TIV 2022, arXiv 2204.05513): a
pixel's class and depth make a labelled point; seen from above, the points are one picture with a
channel for each class.

For the pixel at row i, column j of a camera with focal length f, width W and height H:

    right   = (j + 1/2 - W/2) / f * depth
    down    = (i + 1/2 - H/2) / f * depth
    forward = depth                            CARLA's depth is along the optical axis
    point   = camera's position + R (forward, right, -down)     ego frame; R is Camera.rotation

A point enters the cell below it if its depth is a positive number and its height above the road is
within the configured band: what hangs over the road and the sky are left out. A cell has a 1 for
every class that has a point in it, so that a car does not hide the road it is on, and which of many
points came last does not matter.

Row 0 of the grid is the farthest, column 0 the leftmost.

The class of a pixel is the likeliest one, as in the paper: no gradient flows through the cloud.

Deviates from the authors' code: the cameras' own intrinsics, positions and angles (there f = 160
pixels instead of 277 and the side views turned by 65 degrees instead of 60); heights (there
ignored); all points of a cell (there the last one written).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from apps.driving.models.config import CloudConfig
from apps.driving.models.encoder import conv
from apps.driving.rig import Rig


def panorama_points(rig: Rig, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays and camera positions, (3, H, width) each: point = position + depth * ray, ego frame."""
    rays = np.concatenate([camera.rays() for camera in rig.cameras], 1)
    positions = np.concatenate(
        [np.broadcast_to((c.x, c.y, c.z), (*rig.size, 3)) for c in rig.cameras], 1
    )
    cut = (rays.shape[1] - width) // 2
    kept = slice(cut, cut + width)
    return rays[:, kept].transpose(2, 0, 1), positions[:, kept].transpose(2, 0, 1)


class Points(nn.Module):
    """Depth of the panorama (B, H, W) -> points (B, 3, h, w) in the ego frame, float32.

    ``step`` takes every n-th row and column, from the middle of the first n on. A depth that is no
    number gives a point that is none.
    """

    def __init__(self, rig: Rig, width: int, step: tuple[int, int]) -> None:
        super().__init__()
        self.step = step
        for name, values in zip(("rays", "positions"), panorama_points(rig, width)):
            taken = values[:, step[0] // 2 :: step[0], step[1] // 2 :: step[1]]
            tensor = torch.from_numpy(taken.astype(np.float32))
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, depth: Tensor) -> Tensor:
        down, across = self.step
        taken = depth[:, None, down // 2 :: down, across // 2 :: across]
        rays, positions = cast(Tensor, self.rays), cast(Tensor, self.positions)
        return torch.addcmul(positions, taken.to(rays.dtype), rays)


class DepthCloud(nn.Module):
    """Classes (B, H / s, W / s) int64 and depth (B, H, W) of the panorama -> (B, K, rows, columns).

    ``stride`` is s, of the class map; the result is 0 or 1, float32.
    """

    def __init__(
        self, rig: Rig, width: int, classes: int, stride: int, config: CloudConfig
    ) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.points = Points(rig, width, config.step)
        for name, size, step in zip(("row", "column"), (rig.size[0], width), config.step):
            taken = torch.arange(step // 2, size, step) // stride
            self.register_buffer(name, taken, persistent=False)

    @torch.no_grad()
    def forward(self, classes: Tensor, depth: Tensor) -> Tensor:
        cell = self.cells(depth)
        labels = classes.index_select(1, cast(Tensor, self.row)).index_select(
            2, cast(Tensor, self.column)
        )
        rows, columns = self.config.shape
        area, B = rows * columns, classes.shape[0]
        # What lies outside goes to one more place behind the grid, which is cut off.
        index = torch.where(cell < 0, self.classes * area, labels * area + cell)
        flat = torch.zeros(B, self.classes * area + 1, dtype=torch.float32, device=depth.device)
        flat = flat.scatter(1, index.flatten(1), 1.0)
        return flat[:, :-1].unflatten(1, (self.classes, rows, columns))

    def cells(self, depth: Tensor) -> Tensor:
        """The number of the cell, row by row, that each point is above, or -1: (B, h, w) int64."""
        grid = self.config
        rows, columns = grid.shape
        points = self.points(depth)
        x, y, z = points.unbind(1)
        # Comparisons with NaN are false, so a point that is none is in no cell; nor is one behind
        # its camera, which a depth that is not positive would be.
        row, column = (grid.ahead[1] - x) / grid.cell, (y - grid.right[0]) / grid.cell
        down, across = grid.step
        inside = depth[:, down // 2 :: down, across // 2 :: across] > 0
        for value, low, high in (
            (row, 0.0, float(rows)), (column, 0.0, float(columns)), (z, *grid.height)
        ):  # fmt: skip
            inside = inside & (value >= low) & (value < high)
        row, column = (torch.where(inside, v, 0.0).long() for v in (row, column))
        return torch.where(inside, row * columns + column, -1)


class CloudEncoder(nn.Module):
    """Convolutions, each level at half the grid: (B, K, rows, columns) -> (B, C, ~rows / 2^n, ...)."""

    def __init__(self, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        dims = (classes, *widths)
        self.levels = nn.Sequential(
            *(nn.Sequential(conv(a, b, stride=2), conv(b, b)) for a, b in itertools.pairwise(dims))
        )
        self.channels, self.stride = dims[-1], 2 ** len(widths)

    def forward(self, cloud: Tensor) -> Tensor:
        return self.levels(cloud.contiguous(memory_format=torch.channels_last))


class EfficientCloudEncoder(nn.Module):
    """EfficientNet-B1 (Tan and Le, ICML 2019) up to stride 16, MONAI's, with fresh weights.

    As in the paper (its ``features[0..5]``, 112 channels).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        from monai.networks.nets import EfficientNetBNFeatures

        net: Any = EfficientNetBNFeatures(
            "efficientnet-b1", pretrained=False, spatial_dims=2, in_channels=classes
        )
        stem = [net._conv_stem_padding, net._conv_stem, net._bn0, net._swish]
        self.levels = nn.Sequential(*stem, *net._blocks[:5])
        self.channels, self.stride = 112, 16

    def forward(self, cloud: Tensor) -> Tensor:
        return self.levels(cloud.contiguous(memory_format=torch.channels_last))


def make_encoder(classes: int, widths: Sequence[int] | str) -> CloudEncoder | EfficientCloudEncoder:
    """The bird's eye's encoder that a configuration asks for."""
    if isinstance(widths, str):
        return EfficientCloudEncoder(classes)
    return CloudEncoder(classes, widths)
