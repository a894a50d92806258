"""A drive that was traced, read back: what the car saw, meant and did, decision by decision.

    ROUTE.trace/meta.json              the route, the roads around it, the cameras: once, at the start
    ROUTE.trace/ticks.jsonl            a line a decision, as they are made
    ROUTE.trace/pictures/000012-rgb.jpg    every ``picture_every``-th decision, a file a kind
    ROUTE.trace/result.json            ``RouteResult.as_dict``: only when the drive is over

docs/driving-agent.md describes every key. Lines are only ever added, and a line is written after the
pictures it names, so a drive can be read while it goes on (``Trace.refresh``). A trace is read as if
it came from a stranger: sizes are bounded, numbers checked, and no path is taken from it.
``trace_writer`` writes it, ``above`` draws it, ``replay`` makes a page of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.trace_format import (
    GUESSES,
    KINDS_OF_PICTURES,
    MAX_LINE_BYTES,
    META,
    NUMBERS,
    PICTURES,
    RESULT,
    TICKS,
    Lane,
    Meta,
    Neighbour,
    Tick,
    read_infractions,
    read_meta,
    read_object,
    read_tick,
)
from core.errors import DataError, UsageError, unknown

if TYPE_CHECKING:
    from apps.driving.evaluation.replay import Replay

__all__ = ["SUFFIX", "Lane", "Meta", "Neighbour", "Tick", "Trace", "clear", "picture_name", "spans"]

SUFFIX = ".trace"
MAX_TICKS = 200_000  # more than five hours at ten decisions a second
MAX_TICKS_BYTES = 2**29
MAX_PICTURE_BYTES = 4 * 2**20


class Trace:
    """The trace in ``folder`` (``ROUTE.trace``), as far as it is written.

    >>> trace = Trace("out/0.trace")
    >>> tick = trace[trace.at(12.5)]
    >>> speed = trace.columns["speed"]

    ``ticks`` in order; ``result`` is the route's result once the drive is over, else None. Raises
    DataError, naming the file, where there is no trace or what is there is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta: Meta = read_meta(self.folder / META)
        self.ticks: list[Tick] = []
        self.result: dict[str, Any] | None = None
        self._read = 0  # bytes of the ticks' file
        self._inode = 0
        self.refresh()

    @staticmethod
    def begun(folder: str | Path) -> bool:
        """Whether there is a trace in a folder that can be opened, if only just begun."""
        return (Path(folder) / META).is_file()

    def refresh(self) -> int:
        """Read what has been written since; how many decisions are new.

        DataError where a line is damaged, or where the drive was begun anew in the meantime.
        """
        file = self.folder / TICKS
        before = len(self.ticks)
        # asked for first: what is read below is then all there is
        over = (self.folder / RESULT).is_file()
        try:
            if file.is_file():
                known = file.stat()
                self._inode = self._inode or known.st_ino
                if known.st_ino != self._inode or known.st_size < self._read:
                    raise DataError(f"{self.folder}: was begun anew; open it again")
                self._add_lines(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        if len(self.ticks) > before:
            self.__dict__.pop("columns", None)
        if over and self.result is None:
            self.result = read_object(self.folder / RESULT)
        if len(self.ticks) > before or over:
            self.__dict__.pop("infractions", None)
        return len(self.ticks) - before

    def _add_lines(self, file: Path) -> None:
        with file.open("rb") as stream:
            stream.seek(self._read)
            while line := stream.readline(MAX_LINE_BYTES + 1):
                name = f"{file}, line {len(self.ticks) + 1}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{name}: over {MAX_LINE_BYTES // 1024} KB; not a trace's")
                if not line.endswith(b"\n"):
                    return  # still being written
                if len(self.ticks) >= MAX_TICKS or self._read > MAX_TICKS_BYTES:
                    raise DataError(f"{file}: over {MAX_TICKS} decisions; not a trace's")
                tick = read_tick(line, len(self.ticks), name)
                if self.ticks and tick.time < self.ticks[-1].time:
                    raise DataError(f"{name}: time goes backwards; the trace is damaged")
                self.ticks.append(tick)
                self._read += len(line)

    @property
    def over(self) -> bool:
        """Whether the drive has ended, and all of it is read."""
        return self.result is not None

    def __len__(self) -> int:
        return len(self.ticks)

    def __getitem__(self, index: int) -> Tick:
        return self.ticks[index]

    def at(self, time: float) -> int:
        """The index of the last decision that was made by then; 0 before the first."""
        return max(int(np.searchsorted(self.columns["time"], time + 1e-6)) - 1, 0)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """(n,) float64 each, NaN where there is no number: ``NUMBERS`` and ``GUESSES`` of a Tick."""
        return {
            name: np.array([getattr(tick, name) for tick in self.ticks], np.float64)
            for name in (*NUMBERS, *GUESSES)
        }

    @cached_property
    def infractions(self) -> tuple[Infraction, ...]:
        """All so far, by time; of a drive that is over, those of its result (some end with it)."""
        if self.result is None:
            found = [one for tick in self.ticks for one in tick.infractions]
        else:
            found = read_infractions(self.result, self.folder / RESULT)
        return tuple(sorted(found, key=lambda one: one.time))

    @property
    def interventions(self) -> list[tuple[float, float, str]]:
        """What the supervisor changed: (from, until, reason) s, one after the other."""
        return spans(self.ticks, lambda tick: tick.interventions, last=self.meta.interval)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of pictures that there are."""
        first = next((tick.pictures for tick in self.ticks if tick.pictures is not None), None)
        if first is None:
            return ()
        return tuple(kind for kind in KINDS_OF_PICTURES if self._file(first, kind).is_file())

    def picture(self, index: int, kind: str = "rgb") -> Path | None:
        """The file of the last picture of a kind up to decision ``index`` (-1: the newest).

        None where there is none yet. UsageError for a kind that is none.
        """
        if kind not in KINDS_OF_PICTURES:
            raise UsageError(unknown("kind of picture", kind, KINDS_OF_PICTURES))
        if not self.ticks:
            return None
        last = range(len(self.ticks))[index]
        for tick in reversed(self.ticks[: last + 1]):
            if tick.pictures is not None:
                file = self._file(tick.pictures, kind)
                if file.is_file():
                    return file
        return None

    def image(self, index: int, kind: str = "rgb") -> np.ndarray | None:
        """(h, w, 3) uint8 of ``picture``; DataError where the file is no picture or too large."""
        from PIL import Image

        file = self.picture(index, kind)
        if file is None:
            return None
        try:
            if file.stat().st_size > MAX_PICTURE_BYTES:
                raise DataError(f"{file}: over {MAX_PICTURE_BYTES // 2**20} MB; not a trace's")
            with Image.open(file) as image:
                if image.width * image.height > 2**24:
                    raise DataError(f"{file}: {image.width} x {image.height} pixels are too many")
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{file}: not a picture ({error})") from error

    def replay(self, moments: int = 60) -> Replay:
        """A page with a slider over so many moments; a notebook shows it, ``save`` writes it.

        Raises as ``Replay``.
        """
        from apps.driving.evaluation.replay import Replay

        return Replay(self, moments)

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / PICTURES / picture_name(number, kind)


def picture_name(number: int, kind: str) -> str:
    """``000012-rgb.jpg``."""
    return f"{number:06d}-{kind}{KINDS_OF_PICTURES[kind]}"


def clear(folder: Path) -> None:
    """Remove the files of a trace from a folder, and those folders that are then empty.

    Raises OSError where a file cannot be removed.
    """
    names = [folder / name for name in (META, TICKS, RESULT)]
    for kind, suffix in KINDS_OF_PICTURES.items():
        names += (folder / PICTURES).glob(f"[0-9]*-{kind}{suffix}")
    for file in names:
        file.unlink(missing_ok=True)
    for place in (folder / PICTURES, folder):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def spans(
    ticks: Iterable[Tick], names: Callable[[Tick], Collection[str]], last: float = 0.0
) -> list[tuple[float, float, str]]:
    """When each of the ``names`` of a tick held, without a break: (from, until, name) s, in order.

    What still holds at the last tick ends ``last`` s after it.
    """
    found: list[tuple[float, float, str]] = []
    running: dict[str, float] = {}
    time = 0.0
    for tick in ticks:
        time, now = tick.time, names(tick)
        found += [(running.pop(name), time, name) for name in list(running) if name not in now]
        for name in now:
            running.setdefault(name, time)
    found += [(since, time + last, name) for name, since in running.items()]
    return sorted(found)
