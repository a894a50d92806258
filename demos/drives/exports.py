"""What a person takes away from a drive: tables, the film, everything in one archive."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from apps.driving.evaluation.report import SUMMARY

if TYPE_CHECKING:
    from apps.driving.evaluation.trace import Trace

LIMIT_BYTES = 512 * 2**20  # of an archive


def decisions_csv(trace: Trace) -> bytes:
    """A line a decision: pose, speed, pedals, what the driver thought, what happened. UTF-8."""
    columns = trace.columns
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        (*columns, "command", "hazards", "interventions", "infractions", "lights", "waypoints")
    )
    for row, tick in enumerate(trace.ticks):
        numbers = [f"{values[row]:.6g}" for values in columns.values()]
        writer.writerow(
            (
                *("" if text == "nan" else text for text in numbers),
                tick.command.name,
                " ".join(tick.hazards),
                " ".join(tick.interventions),
                "; ".join(f"{one.kind}: {one.message}" for one in tick.infractions),
                " ".join(f"{number}={state}" for number, state in tick.lights.items()),
                " ".join(f"{x:.2f},{y:.2f}" for x, y in tick.waypoints),
            )
        )
    return stream.getvalue().encode()


def film(out: Path) -> Path | None:
    """The MP4 of a drive's folder, if it has one."""
    found = sorted(out.glob("*.mp4"))
    return found[0] if found else None


def archive(out: Path) -> bytes:
    """The whole folder of a drive as a ZIP: results, film, trace with its pictures."""
    stream = io.BytesIO()
    # pictures and films do not get smaller
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(out.rglob("*")):
            if file.is_file() and stream.tell() < LIMIT_BYTES:
                packed.write(file, file.relative_to(out).as_posix())
    return stream.getvalue()


__all__ = ["SUMMARY", "archive", "decisions_csv", "film"]
