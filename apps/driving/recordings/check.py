"""Whether a data set is fit to learn from: everything that is wrong with it, not only the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.recordings import layout
from apps.driving.recordings.reader import read_route
from apps.driving.recordings.recording import Recording
from apps.driving.rig import LETFUSER, Rig
from core.errors import DataError
from core.progress import Progress, SilentProgress

_LEAP_M = 5.0  # that far beyond what its speed explains, a car did not drive but was put
_HEIGHT_M = 0.5  # a depth below this is inside the car's own body: a camera that sees nothing


def check_dataset(
    folder: Path,
    *,
    rig: Rig = LETFUSER,
    every: int = 1,
    steps: int = 4,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Look at every route below ``folder``; of its frames, decode the pictures of each ``every``-th.

    Returns ``ok``, ``routes``, ``frames``, ``samples``, ``towns`` (samples of each), ``tags``
    (routes by table) and ``problems``: one line each, naming the file. UsageError without a folder.
    """
    folder = Path(folder)
    paths = layout.find_routes(folder)
    problems: list[str] = []
    towns: dict[str, int] = {}
    tables: dict[str, int] = {}
    frames = samples = 0
    with (progress or SilentProgress()).task("check", len(paths)) as task:
        for path in paths:
            task.advance(0, path.name)
            try:
                recording = read_route(path, rig=rig, steps=steps, root=folder)
                problems += _moves(recording)
                problems += _pictures(recording, every)
                tables[recording.table] = tables.get(recording.table, 0) + 1
            except DataError as error:
                problems.append(str(error))
            else:
                frames += recording.frames
                samples += len(recording)
                towns[recording.town] = towns.get(recording.town, 0) + len(recording)
            task.advance()
    if not paths:
        problems.append(f"{folder}: no recordings here; give a folder that collect wrote")
    return {
        "ok": not problems,
        "folder": str(folder),
        "routes": len(paths),
        "frames": frames,
        "samples": samples,
        "towns": towns,
        "tags": tables,
        "problems": problems,
    }


def _moves(recording: Recording) -> list[str]:
    """What its measurements say that cannot be."""
    problems = []
    measured = recording.measurements
    for i, now in enumerate(measured):
        file = recording.measurement_file(i)
        for name, value, low in (
            ("steer", now.steer, -1.0),
            ("throttle", now.throttle, 0.0),
            ("brake", now.brake, 0.0),
        ):
            if not low - 1e-6 <= value <= 1 + 1e-6:
                problems.append(f"{file}: {name} is {value:g}, outside {low:g} to 1")
        if i + 1 < len(measured):
            after = measured[i + 1]
            ticks = 1 if now.tick is None or after.tick is None else after.tick - now.tick
            moved = float(np.hypot(*(after.position - now.position)))
            driven = max(abs(now.speed), abs(after.speed)) * ticks * layout.INTERVAL
            if moved > driven + _LEAP_M:
                problems.append(
                    f"{file}: {moved:.1f} m to the next frame at {now.speed:.1f} m/s; "
                    "the car was put elsewhere, or frames are missing"
                )
    return problems


def _pictures(recording: Recording, every: int) -> list[str]:
    problems = []
    for i in range(0, recording.frames, max(1, every)):
        for kind in layout.PICTURES:
            try:
                picture = recording.picture(i, kind)
            except DataError as error:
                problems.append(str(error))
                if kind == layout.SEMANTICS and "tag" in str(error):
                    return problems  # the route's table is wrong: each picture would say so
                continue
            if kind == layout.RGB and int(picture.max()) == int(picture.min()):
                problems.append(f"{recording.picture_file(i, kind)}: all pixels are the same")
            if kind == layout.DEPTH and float(np.median(picture)) < _HEIGHT_M:
                problems.append(
                    f"{recording.picture_file(i, kind)}: depth is nothing nearly all over"
                )
    return problems
