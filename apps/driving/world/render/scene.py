"""What cameras and rays look at: a flat ground with a picture on it, and upright boxes.

``Scene`` is the world at one moment, ``Lens`` a pinhole camera, ``Picture`` what it takes.
Both renderers and the rays see the same ``Solids``: the boxes, where those of a car, a truck, a
two-wheeler, a walker or a tree's crown are split into a few parts that fill the same bounds.

Letters: K solids, N pixels, H x W pixels of a picture; a camera looks along its x (y to the right, z
up), so that pixel (row j, column i) with its centre at u = (i + 1/2 - W/2) / f to the right and
v = (H/2 - j - 1/2) / f up is met by the ray (1, u, v), and depth is the distance along x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.tags import Tag
from apps.driving.world.weather import Weather

if TYPE_CHECKING:
    from apps.driving.world.townscape.ground import Ground

FAR = 1000.0
"""m: the depth of the sky, and the far end of CARLA's depth encoding."""
NEAR = 0.1
"""m: nothing nearer than this along the optical axis is seen."""
SMALLEST = 0.35
"""Pixels: a solid whose bounding sphere's radius is smaller on the picture is left out."""


class Style(IntEnum):
    """How the faces of a solid are painted."""

    PLAIN = 0
    FACADE = 1  # rows of windows
    BODY = 2  # a vehicle's, with lamps before and behind
    CABIN = 3  # glass on the sides
    SIGNAL = 4  # a head of a traffic light: three lamps at its -x
    LEAVES = 5


@dataclass(frozen=True)
class Lens:
    """A pinhole camera: pixels, and the horizontal field of view in degrees."""

    width: int
    height: int
    fov: float = 90.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or not 0.0 < self.fov < 180.0:
            raise ValueError(
                f"a lens of {self.width} x {self.height} pixels and {self.fov} degrees: "
                "both sides must be at least 1 and the field of view between 0 and 180"
            )

    @property
    def focal(self) -> float:
        """Focal length, pixels."""
        return self.width / (2.0 * math.tan(math.radians(self.fov) / 2.0))

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """u (W) to the right and v (H) up of the pixels' centres at a depth of 1, float64."""
        u = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        v = (self.height / 2 - np.arange(self.height) - 0.5) / self.focal
        return u, v


@dataclass(frozen=True)
class Picture:
    """What a camera takes."""

    depth: np.ndarray  # (H, W) float32, m along the optical axis; FAR where the sky is
    tags: np.ndarray  # (H, W) uint8 of Tag
    instance: np.ndarray  # (H, W) int32: Boxes.instance, 0 on the ground and in the sky
    rgb: np.ndarray | None  # (H, W, 3) uint8, unless it was not asked for


@dataclass(frozen=True)
class Scene:
    """The world at one moment. A renderer keeps what it made of ``ground``, ``fixed`` and ``lamps``
    while it is given the same objects: make new ones instead of changing them."""

    ground: Ground
    fixed: Boxes
    moving: Boxes
    weather: Weather = field(default_factory=Weather)
    light_rows: np.ndarray | None = None
    """(m) rows of ``fixed`` that are heads of traffic lights, seen from their -x."""
    light_rgb: np.ndarray | None = None
    """(m, 3) uint8: the colours in which they shine now; all three lamps are off where dark."""
    lamps: np.ndarray | None = None
    """(l, 3) x, y, z of street lamps, m, which shine at night."""
    headlights: np.ndarray | None = None
    """(n, 4) x, y, z (m) and yaw (radians) of vehicles' headlights that are on; seen at night."""

    @cached_property
    def solids(self) -> Solids:
        """Everything that stands on the ground, the fixed first, in the order of their rows."""
        fixed = solids_of(self.fixed)
        if self.light_rows is not None and self.light_rgb is not None and len(self.light_rows):
            rows = np.searchsorted(fixed.owner, self.light_rows)
            rgb, style = fixed.rgb.copy(), fixed.style.copy()
            rgb[rows], style[rows] = self.light_rgb, Style.SIGNAL
            fixed = replace(fixed, rgb=rgb, style=style)
        moving = Solids.of(self.moving, start=len(self.fixed))
        return Solids(
            *(np.concatenate([getattr(p, f.name) for p in (fixed, moving)]) for f in fields(Solids))
        )


@dataclass(frozen=True)
class Solids:
    """K boxes ready to be met by rays."""

    centre: np.ndarray  # (K, 3) float64, m
    half: np.ndarray  # (K, 3) float64, m
    turn: np.ndarray  # (K, 2) float64: cosine and sine of the yaw
    radius: np.ndarray  # (K) float64, m: of the sphere about the box
    tag: np.ndarray  # (K) uint8
    rgb: np.ndarray  # (K, 3) uint8
    instance: np.ndarray  # (K) int32
    style: np.ndarray  # (K) uint8 of Style
    owner: np.ndarray  # (K) int32: the row of the box that it is a part of, ascending

    def __len__(self) -> int:
        return len(self.radius)

    def take(self, rows: np.ndarray) -> Solids:
        """The solids at an index or mask."""
        return Solids(*(getattr(self, f.name)[rows] for f in fields(self)))

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (3) or (K, 3) of the world along each solid's own axes: (K, 3)."""
        c, s = self.turn[:, 0], self.turn[:, 1]
        x, y, z = vectors.T
        return np.stack([c * x + s * y, c * y - s * x, z + 0 * c], axis=1)

    @classmethod
    def of(cls, boxes: Boxes, start: int = 0) -> Solids:
        """The parts of ``boxes``, whose owners count from ``start``."""
        shapes = _SHAPE_OF[boxes.tag]
        slender = boxes.half[:, 2] > 2.5 * boxes.half[:, 0]
        shapes = np.where(slender & (boxes.tag == Tag.VEGETATION), 0, shapes)  # a trunk
        count = _COUNT[shapes]
        owner = np.repeat(np.arange(len(boxes)), count)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        part = _PARTS[_FIRST[shapes[owner]] + nth]  # (K, 10)
        half = np.asarray(boxes.half, float)[owner]
        turn = np.asarray(boxes.yaw, float)[owner]
        c, s = np.cos(turn), np.sin(turn)
        offset = half * part[:, 0:3]
        centre = np.asarray(boxes.centre, float)[owner]
        centre = centre + np.stack(
            [
                c * offset[:, 0] - s * offset[:, 1],
                s * offset[:, 0] + c * offset[:, 1],
                offset[:, 2],
            ],
            axis=1,
        )
        narrow = half[:, :2].min(axis=1, keepdims=True)  # turned, the longer side would stick out
        half[:, :2] = np.where(part[:, 6:7] != 0, narrow, half[:, :2])
        half = half * part[:, 3:6]
        turn = turn + part[:, 6]
        own = part[:, 7] < 0
        rgb = np.where(
            own[:, None],
            np.minimum(boxes.rgb[owner] * -part[:, 7:8], 255),
            part[:, 7:8] * np.ones(3),
        ).astype(np.uint8)
        tag = np.where(part[:, 9] < 0, boxes.tag[owner], part[:, 9]).astype(np.uint8)
        return cls(
            centre=centre,
            half=half,
            turn=np.stack([np.cos(turn), np.sin(turn)], axis=1),
            radius=np.linalg.norm(half, axis=1),
            tag=tag,
            rgb=rgb,
            instance=boxes.instance[owner].astype(np.int32),
            style=part[:, 8].astype(np.uint8),
            owner=(owner + start).astype(np.int32),
        )


_memo: list[tuple[Boxes, Solids]] = []


def solids_of(boxes: Boxes) -> Solids:
    """``Solids.of(boxes)``, remembered for the last four objects asked for."""
    for known, solids in _memo:
        if known is boxes:
            return solids
    solids = Solids.of(boxes)
    _memo.append((boxes, solids))
    del _memo[:-4]
    return solids


# One row a part: centre (x, y, z) and half (x, y, z) in halves of the box, yaw added (radians),
# grey 0..255 or minus a share of the box's colour, Style, Tag or -1 for the box's own.
_Shape = list[tuple[float, ...]]
_TYRE = 26.0
_PLAIN: _Shape = [(0, 0, 0, 1, 1, 1, 0, -1, Style.PLAIN, -1)]
_HOUSE: _Shape = [(0, 0, 0, 1, 1, 1, 0, -1, Style.FACADE, -1)]
_CAR: _Shape = [
    (0, 0, -0.25, 1, 1, 0.43, 0, -1, Style.BODY, -1),  # z from 0.16 of the height to 0.59
    (-0.08, 0, 0.56, 0.56, 0.86, 0.44, 0, -0.92, Style.CABIN, -1),  # 0.56 .. 1
    (0.62, 0, -0.62, 0.15, 0.97, 0.38, 0, _TYRE, Style.PLAIN, -1),
    (-0.62, 0, -0.62, 0.15, 0.97, 0.38, 0, _TYRE, Style.PLAIN, -1),
]
_TRUCK: _Shape = [
    (-0.24, 0, 0.13, 0.76, 1, 0.87, 0, -1, Style.BODY, -1),
    (0.76, 0, 0.0, 0.24, 0.94, 0.74, 0, -0.9, Style.CABIN, -1),
    (0.66, 0, -0.7, 0.11, 0.97, 0.3, 0, _TYRE, Style.PLAIN, -1),
    (-0.6, 0, -0.7, 0.17, 0.97, 0.3, 0, _TYRE, Style.PLAIN, -1),
]
_BUS: _Shape = [
    (0, 0, -0.35, 1, 1, 0.45, 0, -1, Style.BODY, -1),  # z from 0.1 of the height to 0.55
    (0, 0, 0.55, 1, 1, 0.45, 0, -1, Style.CABIN, -1),
    (0.6, 0, -0.7, 0.09, 0.98, 0.3, 0, _TYRE, Style.PLAIN, -1),
    (-0.5, 0, -0.7, 0.09, 0.98, 0.3, 0, _TYRE, Style.PLAIN, -1),
]
_CYCLE: _Shape = [
    (0, 0, -0.4, 1, 0.2, 0.28, 0, -1, Style.PLAIN, -1),
    (0.66, 0, -0.62, 0.33, 0.1, 0.38, 0, _TYRE, Style.PLAIN, -1),
    (-0.66, 0, -0.62, 0.33, 0.1, 0.38, 0, _TYRE, Style.PLAIN, -1),
    (0.4, 0, 0.0, 0.06, 1, 0.06, 0, 60.0, Style.PLAIN, -1),  # handlebar
    (-0.1, 0, 0.28, 0.22, 0.6, 0.42, 0, 92.0, Style.PLAIN, Tag.RIDER),
    (-0.02, 0, 0.85, 0.13, 0.28, 0.15, 0, 168.0, Style.PLAIN, Tag.RIDER),
]
_WALKER: _Shape = [
    (0.2, -0.42, -0.52, 0.4, 0.36, 0.48, 0, 52.0, Style.PLAIN, -1),
    (-0.2, 0.42, -0.52, 0.4, 0.36, 0.48, 0, 60.0, Style.PLAIN, -1),
    (0, 0, 0.32, 1, 1, 0.36, 0, -1, Style.PLAIN, -1),
    (0.05, 0, 0.84, 0.5, 0.44, 0.16, 0, 176.0, Style.PLAIN, -1),
]
_CROWN: _Shape = [
    (0, 0, -0.25, 1, 1, 0.75, 0, -0.94, Style.LEAVES, -1),
    (0, 0, 0.1, 0.7, 0.7, 0.9, math.pi / 4, -1, Style.LEAVES, -1),
]
_SHAPES = [_PLAIN, _HOUSE, _CAR, _TRUCK, _BUS, _CYCLE, _WALKER, _CROWN]
_PARTS = np.array([part for shape in _SHAPES for part in shape], float)
_COUNT = np.array([len(shape) for shape in _SHAPES])
_FIRST = np.cumsum(_COUNT) - _COUNT
_SHAPE_OF = np.zeros(256, np.int64)
_SHAPE_OF[[Tag.BUILDINGS, Tag.CAR, Tag.TRUCK, Tag.BUS]] = 1, 2, 3, 4
_SHAPE_OF[[Tag.MOTORCYCLE, Tag.BICYCLE, Tag.PEDESTRIANS, Tag.VEGETATION]] = 5, 5, 6, 7


@dataclass(frozen=True)
class Camera:
    """A lens at a place: the eye (3), m, and the rotation whose columns are forward, right, up."""

    eye: np.ndarray
    axes: np.ndarray
    lens: Lens

    @classmethod
    def at(cls, pose: Transform, lens: Lens) -> Camera:
        """The camera at ``pose``."""
        m = pose.matrix()
        return cls(m[:3, 3], m[:3, :3], lens)

    @property
    def height(self) -> float:
        """m above the ground, negative below, never 0 (1 mm at least)."""
        z = float(self.eye[2])
        return math.copysign(max(abs(z), 1e-3), z)

    def sees(self, solids: Solids) -> np.ndarray:
        """Ascending rows of the solids that may be on the picture: in its pyramid, and large enough."""
        lens, radius = self.lens, solids.radius
        at = (solids.centre - self.eye) @ self.axes
        x, y, z = at[:, 0], at[:, 1], at[:, 2]
        seen = (x > NEAR - radius) & (x < FAR + radius) & (radius * lens.focal > SMALLEST * x)
        for side, off in ((lens.width, y), (lens.height, z)):
            slope = side / (2.0 * lens.focal)  # the pyramid's face is |off| = slope * x
            seen &= np.abs(off) < slope * x + radius * math.sqrt(1.0 + slope * slope)
        return np.flatnonzero(seen)
