"""What the viewer shows, as geometry: planes of an image and its layers, and points in them.

Two index systems. A *voxel* is an index of the file's array: (i, j, k), (i, j), or (row, column) of a
picture. A *position* is an index of the view: axes to the patient's right, anterior and superior
(``overlay.Turned``), or (row, column). Planes, sliders and clicks speak of positions; what a person
reads is the voxel, and millimetres where the file has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
from nibabel import orientations

from apps.medical.data.volume import Volume
from apps.medical.overlay import Plane, Turned, planes
from core.errors import DataError

SAGITTAL, CORONAL, AXIAL, FLAT = 0, 1, 2, -1
NAMES = {AXIAL: "Axial", CORONAL: "Coronal", SAGITTAL: "Sagittal", FLAT: "Picture"}
Position = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Layers:
    """What is drawn over an image, each array on its grid (*S).

    ``labels`` holds the ids that ``names`` names; with ``instances``, or without any names, they
    number objects instead.
    ``reference`` has the same ids and is drawn as outlines. ``uncertainty`` is 0 (certain) to 1.
    """

    labels: np.ndarray | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    reference: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    instances: bool = False
    reference_name: str = "Reference"

    @property
    def objects(self) -> bool:
        return self.instances or not self.names


@dataclass(frozen=True, kw_only=True)
class Crosshair:
    """The point under the crosshair. ``mm`` is RAS+, or None for a picture; ``value`` has an entry a
    channel. Of a layer that is not there the entry is None."""

    voxel: tuple[int, ...]
    mm: tuple[float, float, float] | None
    value: tuple[float, ...]
    label: int | None = None
    name: str | None = None
    reference: int | None = None
    reference_name: str | None = None
    uncertainty: float | None = None

    @property
    def place(self) -> str:
        """Millimetres with the direction's letter, as "R 17.6, P 35.3, S 12.1 mm"."""
        if self.mm is None:
            return ""
        letters = (("R", "L"), ("A", "P"), ("S", "I"))
        parts = [f"{pair[v < 0]} {abs(v):.1f}" for v, pair in zip(self.mm, letters)]
        return ", ".join(parts) + " mm"


@dataclass(frozen=True, eq=False)
class Cut:
    """One plane ready to paint. Arrays (rows, columns); ``image`` in 0..1, perhaps RGB.

    Column c shows the view's index ``first[0]`` + c along ``across``, counted from the end where
    ``mirrored[0]``; rows likewise along ``up``.
    """

    axis: int
    plane: Plane
    reference: np.ndarray | None
    uncertainty: np.ndarray | None
    across: int
    up: int
    mirrored: tuple[bool, bool]
    first: tuple[int, int] = (0, 0)

    @property
    def letters(self) -> tuple[str, str, str, str] | None:
        """Left, right, top, bottom."""
        return self.plane.letters

    def zoomed(self, zoom: float, around: Position, size: Position) -> Cut:
        """The part of the plane near a position that is ``zoom`` times smaller, along both sides.

        It moves on in steps of half its length, so that it stands still while the crosshair is near
        its middle.
        """
        if zoom <= 1:
            return self
        spans: list[slice] = []
        for along, mirrored in zip((self.across, self.up), self.mirrored):
            n = size[along]
            count = max(1, min(n, math.ceil(n / zoom)))
            p = n - 1 - around[along] if mirrored else around[along]
            step = max(1, count // 2)
            start = (p - count // 4) // step * step
            start = min(max(start, 0), n - count)
            spans.append(slice(start, start + count))
        part = (spans[1], spans[0])
        plane = replace(self.plane, image=self.plane.image[part], labels=self.plane.labels[part])
        return replace(
            self,
            plane=plane,
            reference=None if self.reference is None else self.reference[part],
            uncertainty=None if self.uncertainty is None else self.uncertainty[part],
            first=(spans[0].start, spans[1].start),
        )


class Scene:
    """An image with its layers. Raises DataError for a layer that is not on the image's grid."""

    def __init__(self, volume: Volume, layers: Layers) -> None:
        self.volume, self.layers = volume, layers
        for what in ("labels", "reference", "uncertainty"):
            array = getattr(layers, what)
            if array is not None and array.shape != volume.shape:
                raise DataError(
                    f"{volume.path.name}: the {what} have shape {array.shape}, the image"
                    f" {volume.shape}; they belong to another image"
                )
        self.flat = not volume.physical
        self.colour = self.flat and volume.channels >= 3
        self.white = _white(volume) if self.colour else 1.0
        self._nothing = np.broadcast_to(np.uint8(0), volume.shape)
        self.labels = self._nothing if layers.labels is None else layers.labels
        if self.flat:
            self.size: Position = volume.shape
            self.edges: tuple[float, ...] = (1.0, 1.0)
            self.axes: tuple[int, ...] = (FLAT,)
            return
        grid = volume.shape if volume.rank == 3 else (*volume.shape, 1)
        turns = orientations.io_orientation(volume.affine).astype(int)
        self._turns = turns  # row a: the view's axis of the array's axis a, and its direction
        order = np.argsort(turns[:, 0])
        self.size = tuple(int(grid[a]) for a in order)
        self.edges = tuple((*volume.spacing, 1.0)[a] for a in order)
        seen = [a for a in (AXIAL, CORONAL, SAGITTAL) if min(self._others(a)) > 1]
        self.axes = tuple(seen) or (AXIAL,)

    def _others(self, axis: int) -> list[int]:
        return [n for a, n in enumerate(self.size) if a != axis]

    # Points

    def voxel(self, position: Position) -> tuple[int, ...]:
        """The array's index of a position."""
        if self.flat:
            return position
        whole = (
            position[t] if way > 0 else self.size[t] - 1 - position[t] for t, way in self._turns
        )
        return tuple(int(v) for v in whole)[: self.volume.rank]

    def position(self, voxel: tuple[int, ...]) -> Position:
        """The position of an index of the array."""
        if self.flat:
            return self.clip(voxel)
        found = [0, 0, 0]
        for v, (t, way) in zip((*voxel, 0)[:3], self._turns):
            found[t] = v if way > 0 else self.size[t] - 1 - v
        return self.clip(tuple(found))

    def nearest(self, mm: tuple[float, float, float]) -> Position:
        """The position whose voxel is nearest to a point in RAS+ millimetres."""
        index = np.linalg.solve(self.volume.affine, [*mm, 1.0])[:3]
        return self.position(tuple(int(v) for v in np.rint(np.clip(index, -1e6, 1e6))))

    def clip(self, position: Position) -> Position:
        return tuple(int(min(max(p, 0), n - 1)) for p, n in zip(position, self.size))

    def describe(self, position: Position) -> Crosshair:
        """What is at a position."""
        voxel, layers = self.voxel(position), self.layers
        mm = None
        if not self.flat:
            point = self.volume.affine @ [*(*voxel, 0)[:3], 1.0]
            mm = cast(tuple[float, float, float], tuple(float(v) for v in point[:3]))
        label = None if layers.labels is None else int(layers.labels[voxel])
        reference = None if layers.reference is None else int(layers.reference[voxel])
        doubt = layers.uncertainty
        return Crosshair(
            voxel=voxel,
            mm=mm,
            value=tuple(float(channel[voxel]) for channel in self.volume.channel_first),
            label=label,
            name=None if label is None else self.name(label),
            reference=reference,
            reference_name=None if reference is None else self.name(reference),
            uncertainty=None if doubt is None else float(doubt[voxel]),
        )

    def name(self, label: int) -> str:
        """What an id stands for."""
        if self.layers.objects:
            return f"object {label}" if label else "background"
        known = self.layers.names.get(label)
        return known if known else f"label {label}" if label else "background"

    @cached_property
    def present(self) -> dict[int, str]:
        """The structures by id: those that have names, and what else the arrays hold."""
        if self.layers.objects:
            return {}
        ids = {label for label in self.layers.names if label}
        for array in (self.layers.labels, self.layers.reference):
            if array is not None:
                ids |= {int(label) for label in np.unique(array)} - {0}
        return {label: self.name(label) for label in sorted(ids)}

    def start(self, label: int | None = None) -> Position:
        """In the middle of a structure's largest section; of all, or of the image without any."""
        best = None
        for array in (self.layers.labels, self.layers.reference):
            if best is None and array is not None:
                best = self._middle(array > 0 if label is None else array == label)
        return best or tuple(n // 2 for n in self.size)

    def _middle(self, mask: np.ndarray) -> Position | None:
        """The position of the voxel of ``mask`` (*S) nearest to its largest section's centre."""
        fixed: tuple[int, ...] = ()
        if mask.ndim == 3:
            across = int(np.flatnonzero(self._turns[:, 0] == AXIAL)[0])
            area = mask.sum(axis=tuple(a for a in range(3) if a != across))
            fixed = (across, int(area.argmax()))
            mask = np.take(mask, fixed[1], across)
        points = np.argwhere(mask)
        if not len(points):
            return None
        middle = points[((points - points.mean(0)) ** 2).sum(1).argmin()].tolist()
        if fixed:
            middle.insert(*fixed)
        return self.position(tuple(middle))

    # Planes

    def cut(
        self,
        axis: int,
        index: int,
        window: tuple[float, float] | None,
        *,
        channel: int = 0,
        radiological: bool = True,
    ) -> Cut:
        """The plane across ``axis`` through ``index`` of the view."""
        volume, layers = self.volume, self.layers
        if self.flat:
            plane = planes(self._channel(channel), self.labels, None if self.colour else window)[0]
            image = plane.image
            if self.colour and window is not None:
                low, high = window
                image = np.clip((image * self.white - low) / max(high - low, 1e-12), 0, 1)
            plane = replace(plane, image=image, title=f"{self.size[1]} × {self.size[0]} pixels")
            return Cut(
                FLAT, plane, layers.reference, layers.uncertainty,
                across=1, up=0, mirrored=(False, False),
            )  # fmt: skip
        plane = Turned.of(self._channel(channel), self.labels, window).cut(axis, index)
        reference = doubt = None
        if layers.reference is not None or layers.uncertainty is not None:
            carried = self._nothing if layers.uncertainty is None else layers.uncertainty
            beside = Turned.of(
                replace(volume, array=carried),
                self._nothing if layers.reference is None else layers.reference,
                (0.0, 1.0),
            ).cut(axis, index)
            doubt = None if layers.uncertainty is None else beside.image
            reference = None if layers.reference is None else beside.labels
        across, up = (a for a in range(3) if a != axis)
        mirrored = True
        if not radiological and axis != SAGITTAL:
            mirrored = False
            left, right, top, bottom = cast(tuple[str, str, str, str], plane.letters)
            plane = replace(
                plane,
                image=plane.image[:, ::-1],
                labels=plane.labels[:, ::-1],
                letters=(right, left, top, bottom),
            )
            reference = None if reference is None else reference[:, ::-1]
            doubt = None if doubt is None else doubt[:, ::-1]
        return Cut(axis, plane, reference, doubt, across, up, (mirrored, True))

    def _channel(self, channel: int) -> Volume:
        """The image with one channel; a colour picture as it is."""
        if self.colour or self.volume.channels == 1:
            return self.volume
        return replace(self.volume, array=self.volume.channel_first[channel])


def _white(volume: Volume) -> float:
    """The value that ``overlay.planes`` draws white in a colour picture."""
    if volume.array.dtype == np.uint8:
        return 255.0
    return max(float(np.nan_to_num(np.asarray(volume.array, np.float32)).max()), 1e-12)
