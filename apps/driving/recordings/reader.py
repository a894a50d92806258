"""Reading recordings, ours and those of TransFuser and LeTFuser, and many of them as one data set.

Measurements are read when a recording is opened, pictures when a sample is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.recordings import layout
from apps.driving.recordings.layout import Measurement
from apps.driving.recordings.recording import Labels, Recording, Sample
from apps.driving.rig import LETFUSER, Rig
from core.errors import DataError, UsageError

__all__ = ["Dataset", "Labels", "Recording", "Sample", "open_dataset", "read_route"]


class Dataset:
    """Samples of many recordings, one after another."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = list(recordings)
        counts = [len(recording) for recording in self.recordings]
        self._ends = np.cumsum(counts, dtype=np.int64) if counts else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        recording, within = self.place(index)
        return recording.sample(within)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def place(self, index: int) -> tuple[Recording, int]:
        """The recording that has sample ``index``, and its number there. IndexError beyond."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        which = int(np.searchsorted(self._ends, index, side="right"))
        recording = self.recordings[which]
        return recording, index - int(self._ends[which]) + len(recording)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Every field of ``Labels``, a row for each sample."""
        rows = [recording.columns for recording in self.recordings]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    @property
    def towns(self) -> tuple[str, ...]:
        """Names of the towns, sorted."""
        return tuple(sorted({recording.town for recording in self.recordings}))

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the recordings, in order."""
        return tuple(recording.name for recording in self.recordings)

    @cached_property
    def digest(self) -> str:
        """Differs where a route, a measurement, or a picture's size differs: 64 hex digits."""
        parts = [recording.digest() for recording in self.recordings]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_route(
    path: Path, *, rig: Rig = LETFUSER, steps: int = 4, root: Path | None = None
) -> Recording:
    """The recording in a folder; ``root`` is the data set's, for its name.

    ``rig`` is what recordings without a route.json were taken with, and all others must have been.
    DataError where measurements are missing or cannot be used, where a frame lacks a picture, or
    where the cameras are others. Steps of 0.5 s ahead: ``steps`` of them, one or more.
    """
    path, root = Path(path), Path(root) if root is not None else Path(path)
    if steps < 1:
        raise UsageError(f"steps {steps}: give how many waypoints a sample has, one or more")
    folder = path / layout.MEASUREMENTS
    if not folder.is_dir():
        raise DataError(f"{path}: has no folder {layout.MEASUREMENTS}; give a route's folder")
    about = layout.read_object(path / layout.ABOUT) if (path / layout.ABOUT).exists() else {}
    if about.get("format", layout.FORMAT) != layout.FORMAT:
        raise DataError(
            f"{path / layout.ABOUT}: has schema version {about['format']!r}, this program reads "
            f"{layout.FORMAT}; update the program"
        )
    _require_rig(about, rig, path)
    numbers = sorted(file.stem for file in folder.glob("*.json"))
    if not numbers:
        raise DataError(f"{folder}: is empty; leave the route out or record it anew")
    for kind in layout.PICTURES:
        if not (path / kind).is_dir():
            raise DataError(f"{path}: has no folder {kind}; copy the route again or leave it out")
        lacking = set(numbers) - {file.stem for file in (path / kind).glob("*.png")}
        if lacking:
            raise DataError(
                f"{path / kind / min(lacking)}.png: is missing, as are {len(lacking) - 1} more; copy "
                "the route again or leave it out"
            )
    measurements = []
    for number in numbers:
        file = folder / f"{number}.json"
        measurements.append(Measurement.from_dict(layout.read_object(file), str(file)))
    town = about.get("town")
    return Recording(
        path,
        path.relative_to(root).as_posix() if path != root else path.name,
        town if isinstance(town, str) else layout.town_of(path, root),
        rig,
        numbers,
        measurements,
        steps=steps,
        about=about,
    )


def open_dataset(
    folders: Sequence[Path | str],
    *,
    towns: Collection[str] | None = None,
    exclude: Collection[str] = (),
    rig: Rig = LETFUSER,
    steps: int = 4,
) -> Dataset:
    """Every route below ``folders`` in ``towns`` (None: all) and not in ``exclude``, by name.

    UsageError where a folder or a town is not there, where nothing is left, or where two folders
    hold a route of one name; DataError as ``read_route``.
    """
    found: dict[str, Recording] = {}
    for folder in map(Path, folders):
        for path in layout.find_routes(folder):
            recording = read_route(path, rig=rig, steps=steps, root=folder)
            twin = found.setdefault(recording.name, recording)
            if twin is not recording:
                raise UsageError(
                    f"{path}: a route of this name is in {twin.path}, too; give each folder once"
                )
    known = {recording.town for recording in found.values()}
    for town in {*(towns or ()), *exclude} - known:
        raise UsageError(
            f"town {town!r} is not in the recordings; they have {', '.join(sorted(known))}"
        )
    kept = [
        found[name]
        for name in sorted(found)
        if (towns is None or found[name].town in towns) and found[name].town not in exclude
    ]
    if not sum(map(len, kept)):
        raise UsageError(
            f"{', '.join(map(str, folders))}: no samples here"
            + (" in these towns" if towns is not None or exclude else "")
            + "; give a folder that collect wrote"
        )
    return Dataset(kept)


def _require_rig(about: dict[str, Any], rig: Rig, path: Path) -> None:
    said = about.get("rig")
    if said is None:
        return
    try:
        recorded = Rig.from_dict(said)
    except (UsageError, TypeError, AttributeError) as error:
        raise DataError(f"{path / layout.ABOUT}: {error}") from None
    if recorded.digest != rig.digest:
        raise DataError(
            f"{path}: was recorded with other cameras ({_shown(recorded)}) than asked for "
            f"({_shown(rig)}); give that rig or leave the route out"
        )


def _shown(rig: Rig) -> str:
    height, width = rig.size
    yaws = "/".join(f"{camera.yaw:g}" for camera in rig.cameras)
    return f"{len(rig.cameras)} of {width} x {height} at {yaws} degrees, {rig.digest}"
