"""One recorded route: its frames, its samples, the table of its tags.

A sample is a frame together with where the car went next. So a frame has a sample where the next
``steps`` half seconds were recorded too: not at a route's end, and not shortly before frames that
were left out because noise steered. ``waypoints`` are what the car did, not what a driver foresaw.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.recordings import layout, pictures, tags
from apps.driving.recordings.layout import Measurement
from apps.driving.rig import Rig
from apps.driving.routes.plan import to_ego
from core.errors import DataError

_LOOKS = 8  # pictures of a route that are looked at to tell its table of tags


@dataclass(frozen=True)
class Labels:
    """What is known of a frame but its pictures.

    ``target`` (2,) float32: the next point of the sparse route, ego frame, metres; ``command``: 1
    to 6 (``agents.base.Command``). ``waypoints`` (T, 2) float32: where the car was 0.5, 1, ... s
    later, ego frame. ``control`` (3,) float32: steer in [-1, 1], throttle and brake in [0, 1].
    ``red_light``: a light that is not green holds within 30 m; in recordings that do not say, the
    driver brakes for one. ``stop_sign``: the driver yields to one. ``tick``: half seconds into the
    route.
    """

    speed: float
    target: np.ndarray
    command: int
    waypoints: np.ndarray
    control: np.ndarray
    red_light: bool
    stop_sign: bool
    vehicle: bool
    walker: bool
    junction: bool
    tick: int


@dataclass(frozen=True)
class Sample(Labels):
    """A frame: ``Labels`` and its pictures, V cameras in the rig's order.

    ``rgb`` (V, H, W, 3) uint8; ``depth`` (V, H, W) float32 metres along the optical axis;
    ``semantics`` (V, H, W) uint8, tags of CARLA 0.9.14 and later.
    """

    rgb: np.ndarray
    depth: np.ndarray
    semantics: np.ndarray


class Recording:
    """One route. ``len`` counts samples; ``frames`` is how many were recorded."""

    def __init__(
        self,
        path: Path,
        name: str,
        town: str,
        rig: Rig,
        numbers: list[str],
        measurements: list[Measurement],
        *,
        steps: int = 4,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.town = town
        self.rig = rig
        self.steps = steps
        self.about = about or {}
        self.measurements = measurements
        self._numbers = numbers
        ticks = [m.tick if m.tick is not None else i for i, m in enumerate(measurements)]
        self._ticks = np.array(ticks, np.int64)
        if (np.diff(self._ticks) <= 0).any():
            raise DataError(f"{path}: 'tick' does not rise from frame to frame; record it anew")
        n = len(measurements)
        self._starts = [i for i in range(n - steps) if ticks[i + steps] == ticks[i] + steps]

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def frames(self) -> int:
        """Recorded frames, more than samples."""
        return len(self.measurements)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Every field of ``Labels``, a row for each sample."""
        rows = [self.labels(i) for i in range(len(self))]
        kinds: dict[str, Any] = {"speed": np.float32, "command": np.int64, "tick": np.int64}
        kinds |= {"target": np.float32, "waypoints": np.float32, "control": np.float32}
        shapes = {"target": (2,), "waypoints": (self.steps, 2), "control": (3,)}
        return {
            name: np.array([getattr(row, name) for row in rows], kinds.get(name, bool)).reshape(
                len(rows), *shapes.get(name, ())
            )
            for name in Labels.__dataclass_fields__
        }

    def labels(self, index: int) -> Labels:
        """Of sample ``index``, no picture read. IndexError where there is none."""
        return Labels(**self._fields(self._frame(index)))

    def sample(self, index: int) -> Sample:
        """Sample ``index``. DataError, naming the file, for a picture that cannot be used."""
        frame = self._frame(index)
        return Sample(
            **self._fields(frame),
            rgb=self.picture(frame, layout.RGB),
            depth=self.picture(frame, layout.DEPTH),
            semantics=self.picture(frame, layout.SEMANTICS),
        )

    def frame_of(self, index: int) -> int:
        """The place among the recorded frames of sample ``index``."""
        return self._frame(index)

    def picture(self, frame: int, kind: str) -> np.ndarray:
        """ "rgb", "depth" or "semantics" of a recorded frame, as in ``Sample``."""
        panorama = self._panorama(frame, kind)
        if kind == layout.DEPTH:
            panorama = pictures.unpack_depth(panorama)
        elif kind == layout.SEMANTICS:
            panorama = self._renumbered(panorama, self.picture_file(frame, kind))
        return pictures.apart(panorama, len(self.rig.cameras))

    def picture_file(self, frame: int, kind: str) -> Path:
        """Where the picture of a recorded frame lies."""
        return self.path / kind / f"{self._numbers[frame]}.png"

    def measurement_file(self, frame: int) -> Path:
        """Where the measurement of a recorded frame lies."""
        return self.path / layout.MEASUREMENTS / f"{self._numbers[frame]}.json"

    @cached_property
    def table(self) -> tags.Table:
        """The table its tags are written in. DataError where pictures or route.json disagree."""
        said = self.about.get("tags")
        if said not in (None, "old", "new"):
            raise DataError(f"{self.path / layout.ABOUT}: 'tags' is {said!r}, neither old nor new")
        count = max(1, min(_LOOKS, self.frames))
        looked = sorted({int(i) for i in np.linspace(0, self.frames - 1, count)})
        seen = {}
        for frame in looked:
            table = tags.table_of(self._panorama(frame, layout.SEMANTICS))
            if table is not None:
                seen[table] = self.picture_file(frame, layout.SEMANTICS)
        if len(seen) > 1:
            raise DataError(
                f"{self.path}: mixed tables of tags: {seen['old']} has CARLA's of before 0.9.14, "
                f"{seen['new']} that of 0.9.14 and later; leave the route out"
            )
        found: tags.Table | None = next(iter(seen), None)
        if said is not None and found not in (None, said):
            raise DataError(
                f"{self.path}: {layout.ABOUT} says its tags are {said}, {seen[found]} looks {found} "
                "(old: before CARLA 0.9.14); leave the route out"
            )
        table = said or found
        if table is None:
            raise DataError(
                f"{self.path}: no picture of tags shows a road where the car stands, so their table "
                f'is not known; write {layout.ABOUT} with {{"tags": "old"}} or "new" beside them'
            )
        return "old" if table == "old" else "new"

    def digest(self) -> str:
        """SHA-256 of what is read: measurements' bytes, pictures' names and sizes."""
        total = hashlib.sha256(self.name.encode())
        for number in self._numbers:
            total.update((self.path / layout.MEASUREMENTS / f"{number}.json").read_bytes())
            for kind in layout.PICTURES:
                file = self.path / kind / f"{number}.png"
                total.update(
                    f"{kind}{number}:{file.stat().st_size if file.exists() else 0}".encode()
                )
        return total.hexdigest()

    def _frame(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.path}")
        return self._starts[index]

    def _panorama(self, frame: int, kind: str) -> np.ndarray:
        height, width = self.rig.size
        size = height, width * len(self.rig.cameras)
        channels = 1 if kind == layout.SEMANTICS else 3
        return pictures.read_png(self.picture_file(frame, kind), size, channels)

    def _renumbered(self, panorama: np.ndarray, file: Path) -> np.ndarray:
        if self.table == "new":
            if tags.table_of(panorama) == "old":
                raise DataError(f"{file}: has the old table of tags, its route has the new one")
            return panorama
        if tags.table_of(panorama) == "new":
            raise DataError(f"{file}: has the new table of tags, its route has the old one")
        new: np.ndarray = tags.OLD_TO_NEW[panorama]
        if (new == tags.UNKNOWN).any():
            wrong = int(panorama[new == tags.UNKNOWN][0])
            raise DataError(f"{file}: tag {wrong} is not in the old table, 0 to 24; write it anew")
        return new

    def _fields(self, frame: int) -> dict[str, Any]:
        now = self.measurements[frame]
        later = self.measurements[frame + 1 : frame + 1 + self.steps]
        points = np.array([*(m.position for m in later), now.target])
        ego = to_ego(points, now.position, now.heading).astype(np.float32)
        red = now.hazards["light"] if now.red_light is None else now.red_light
        return {
            "speed": now.speed,
            "target": ego[-1],
            "command": 4 if now.command == -1 else now.command,  # VOID: follow the lane
            "waypoints": ego[:-1],
            "control": np.array([now.steer, now.throttle, now.brake], np.float32),
            "red_light": red,
            "stop_sign": now.hazards["stop"],
            "vehicle": now.hazards["vehicle"],
            "walker": now.hazards["walker"],
            "junction": now.junction,
            "tick": int(self._ticks[frame]),
        }
