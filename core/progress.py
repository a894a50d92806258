"""Progress that a terminal, a log file and a web page can all show.

Work reports to a ``Progress``; what that looks like is the subclass's business, and the work never
knows. A subclass implements one method, ``show``:

    progress = get_progress(quiet=False)
    with progress.task("segment", total=len(cases)) as task:
        for case in cases:
            ...
            task.advance(note=case.id)

Everything goes to standard error, so that standard output carries results only.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    import rich.progress

Event = Literal["start", "advance", "done", "failed"]


class Task:
    """One piece of work: how much is done, of how much, since when. ``total`` may be set late."""

    def __init__(self, progress: Progress, label: str, total: float | None) -> None:
        self.label = label
        self.total = total
        self.done: float = 0
        self.note = ""
        self._progress = progress
        self._started = time.monotonic()

    def advance(self, n: float = 1, note: str | None = None) -> None:
        """Count ``n`` more units as done; ``note`` says what is happening, in a few words."""
        self.done += n
        if note is not None:
            self.note = note
        self._progress.show(self, "advance")

    @property
    def elapsed(self) -> float:
        """Seconds since the task began."""
        return time.monotonic() - self._started

    @property
    def remaining(self) -> float | None:
        """Seconds left at the average pace so far; None before there is a pace or a total."""
        if not self.total or not self.done:
            return None
        return max(0.0, (self.total - self.done) * self.elapsed / self.done)


class Progress(ABC):
    """Where progress is reported. Tasks may nest."""

    @contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        """Report one piece of work for as long as the block runs."""
        task = Task(self, label, total)
        self.show(task, "start")
        try:
            yield task
        except BaseException:
            self.show(task, "failed")
            raise
        self.show(task, "done")

    @abstractmethod
    def show(self, task: Task, event: Event) -> None:
        """Show that ``task`` started, advanced, or ended."""

    def message(self, text: str) -> None:
        """Say one line between the bars. Silent unless a subclass shows it."""
        del text


class SilentProgress(Progress):
    """Shows nothing: ``--quiet``, tests, and callers who do not ask."""

    def show(self, task: Task, event: Event) -> None:
        del task, event


class PlainProgress(Progress):
    """Sparse lines for a log file or a pipe: at most one per ``interval`` seconds and task."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream = stream
        self._interval = interval
        self._spoken: dict[int, float] = {}  # id(task) -> seconds into it when it last spoke

    def show(self, task: Task, event: Event) -> None:
        key = id(task)
        if event == "start":
            self._spoken[key] = 0.0
        elif event == "advance":
            if task.elapsed - self._spoken[key] >= self._interval:
                self._spoken[key] = task.elapsed
                self.message(describe(task))
        else:
            nested = len(self._spoken) > 1
            spoke = self._spoken.pop(key) > 0
            if event == "failed":
                self.message(f"{describe(task)} - stopped")
            elif spoke or not nested:  # a short step inside a longer task is not news
                self.message(f"{task.label}: done in {clock(task.elapsed)}")

    def message(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)


class RichProgress(Progress):
    """Bars with elapsed time and time left, for a person at a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars: rich.progress.Progress = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
            console=Console(stderr=True),
            # Standard output is for results: rich must not carry prints over to standard error.
            redirect_stdout=False,
        )
        self._rows: dict[int, rich.progress.TaskID] = {}

    def show(self, task: Task, event: Event) -> None:
        key = id(task)
        if event == "start":
            if not self._rows:
                self._bars.start()
            self._rows[key] = self._bars.add_task(task.label, total=task.total, note="")
        row = self._rows[key]
        self._bars.update(row, completed=task.done, total=task.total, note=task.note)
        if event in ("done", "failed"):
            del self._rows[key]
            self._bars.stop_task(row)
            if self._rows:
                self._bars.remove_task(row)  # a finished inner bar makes room for the next
            else:
                self._bars.stop()

    def message(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


def get_progress(quiet: bool = False) -> Progress:
    """What suits standard error now: nothing, bars at a terminal, sparse lines elsewhere."""
    if quiet:
        return SilentProgress()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichProgress()
    return PlainProgress()


def describe(task: Task) -> str:
    """``segment: 3/8, 0:12 elapsed, 0:20 left, hippocampus_003`` - a task on one line."""
    count = f"{task.done:g}" if task.total is None else f"{task.done:g}/{task.total:g}"
    parts = [f"{task.label}: {count}", f"{clock(task.elapsed)} elapsed"]
    if task.remaining is not None:
        parts.append(f"{clock(task.remaining)} left")
    if task.note:
        parts.append(task.note)
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
