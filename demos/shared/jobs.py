"""Work in the background, one piece after the other, that a page can watch and cancel.

    key = key_of(path, options)
    job = jobs.submit(key, "Segment", lambda progress: predict(path, out=workspace(key), progress=progress))
    if jobs.watch(job):
        show(job.result)

A job belongs to the server: a page that is loaded again, or another tab, finds it by its key. Whatever
reports its progress through ``core.progress`` can be cancelled: the report raises ``Cancelled`` in it.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

import streamlit as st

from core.progress import Event, Progress, Task, clock
from demos.shared import workspace as folders
from demos.shared.words import escaped, sentence
from demos.shared.workspace import workspace

__all__ = ["Cancelled", "Job", "Step", "busy", "find", "forget", "submit", "watch", "workspace"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT = 64  # jobs that a server remembers
REFRESH_S = 0.5
PATIENT_S, SLOW_S = 8.0, 2.0
"""Work that takes longer than the first is looked at only so often: a look costs 60 ms of processor time
on a busy machine, which the work would have."""
END_S = 5.0  # how long the server's end waits for work to stop


class Cancelled(BaseException):
    """The person does not want it any more. Not an Exception: no handler of errors may swallow it."""


@dataclass(frozen=True)
class Step:
    """One bar: what, how much of how much (None: unknown), a few words, seconds left (None: unknown)."""

    label: str
    done: float
    total: float | None
    note: str
    remaining: float | None


class JobProgress(Progress):
    """Keeps what is reported for the page, and stops the work when it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._steps: dict[int, Step] = {}
        self._lines: deque[str] = deque(maxlen=200)
        self._lock = threading.Lock()

    def show(self, task: Task, event: Event) -> None:
        with self._lock:
            if event in ("done", "failed"):
                self._steps.pop(id(task), None)
            else:
                self._steps[id(task)] = Step(
                    task.label, task.done, task.total, task.note, task.remaining
                )
        if event != "failed":  # that one is told while something is raised already
            self._stop_if_cancelled()

    def message(self, text: str) -> None:
        with self._lock:
            self._lines.append(text)
        self._stop_if_cancelled()

    def steps(self) -> list[Step]:
        """What runs now, outermost first."""
        with self._lock:
            return list(self._steps.values())

    def lines(self) -> list[str]:
        """The last messages, oldest first."""
        with self._lock:
            return list(self._lines)

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class Job:
    """One piece of work. Read it from any thread; ``result`` once ``state`` is "done"."""

    def __init__(self, key: str, label: str, work: Callable[[Progress], Any]) -> None:
        self.key, self.label = key, label
        self.state: State = "waiting"
        self.result: Any = None
        self.error = ""
        self._work: Callable[[Progress], Any] | None = work
        self._progress = JobProgress()
        self._ended = threading.Event()
        self._asked = time.monotonic()
        self._turn = (
            threading.Lock()
        )  # beginning and being cancelled before that exclude each other

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen: done, failed or cancelled."""
        return self._ended.is_set()

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self._asked

    @property
    def messages(self) -> list[str]:
        """What the work said, line by line."""
        return self._progress.lines()

    def progress(self) -> list[Step]:
        """The bars now, outermost first."""
        return self._progress.steps()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._progress.cancelled.is_set()

    def cancel(self) -> None:
        """Ask the work to stop: at its next report of progress, or at once if it has not begun."""
        self._progress.cancelled.set()
        with self._turn:
            if self.state == "waiting":
                self.state, self._work = "cancelled", None
                self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it came."""
        return self._ended.wait(seconds)

    def run(self) -> None:
        """Do the work in this thread, in a folder that is empty."""
        state: State
        with self._turn:
            work, self._work = self._work, None  # what it holds is let go
            if work is None:
                return  # cancelled while it waited
            self.state = "running"
        try:
            folders.clear(self.key)
            folders.keep(self.key, True)
            self.result = work(self._progress)
            state = "done"
        except Cancelled:
            state = "cancelled"
        except BaseException as error:
            self.error, state = sentence(error, self.label), "failed"
        if state != "done":
            folders.clear(self.key)
        folders.keep(self.key, False)
        self.state = state
        self._ended.set()


_lock = threading.RLock()
_jobs: dict[str, Job] = {}  # from the oldest to the newest
_queue: SimpleQueue[Job] = SimpleQueue()
_worker: threading.Thread | None = None


def submit(key: str, label: str, work: Callable[[Progress], Any]) -> Job:
    """The job of ``key``: the one that is there, also if it failed, or a new one that waits its turn.

    A page may submit at each run of its script: nothing that failed is tried again by itself, see
    ``forget``. ``label`` is the subject of sentences about it ("The segmentation"). ``work`` writes
    into ``workspace(key)``, which is empty when it begins and emptied when it does not end well.
    """
    with _lock:
        job = _jobs.get(key)
        if job is None:
            job = _jobs[key] = Job(key, label, work)
            _queue.put(job)
            _start()
            ended = [name for name, one in _jobs.items() if one.ended]
            for old in ended[: max(0, len(_jobs) - KEPT)]:
                del _jobs[old]
    _touch(job)
    return job


def find(key: str) -> Job | None:
    """The job of ``key``, if there is one and its folder was not removed."""
    with _lock:
        job = _jobs.get(key)
    if job is not None:
        _touch(job)
    return job


def busy() -> bool:
    """Whether any job waits or runs."""
    with _lock:
        return any(not job.ended for job in _jobs.values())


def forget(key: str) -> None:
    """Forget the job of ``key``, so that it can be submitted anew; cancel it where it still runs."""
    with _lock:
        job = _jobs.pop(key, None)
    if job is not None and not job.ended:
        job.cancel()


def watch(job: Job) -> bool:
    """Draw how far ``job`` is, with a button that cancels it; True when it is done.

    The bars refresh themselves and run the page again when the job has ended. A failed or cancelled job
    is told in a sentence, with a button that tries again.
    """
    if not job.ended:
        slow = job.age > PATIENT_S
        with st.container(key=f"job-bars-{job.key}"):
            st.fragment(_bars, run_every=SLOW_S if slow else REFRESH_S)(job, slow)
        return False
    if job.state == "failed":
        st.error(escaped(job.error))
    elif job.state == "cancelled":
        st.info(f"{job.label} was cancelled; nothing was kept.")
    if job.state == "done":
        return True
    if st.button("Try again", key=f"again-{job.key}"):
        forget(job.key)
        st.rerun()
    return False


def _bars(job: Job, slow: bool) -> None:
    if job.ended or (job.age > PATIENT_S and not slow):
        st.rerun()
    steps = job.progress()
    if not steps:
        waiting = "waits for the work before it" if job.state == "waiting" else "begins"
        st.progress(0.0, text=f"{job.label} {waiting} ...")
    for step in steps:
        st.progress(_share(step), text=_text(step))
    label = "Stopping ..." if job.stopping else "Cancel"
    # A callback: the click may arrive with a run of the whole page, where no fragment may rerun itself.
    st.button(label, key=f"cancel-{job.key}", disabled=job.stopping, on_click=job.cancel)


def _share(step: Step) -> float:
    return min(1.0, max(0.0, step.done / step.total)) if step.total else 0.0


def _text(step: Step) -> str:
    if step.total is None:
        parts = [f"{step.label}: {step.done:g}" if step.done else step.label, step.note]
    else:
        parts = [f"{step.label}: {step.done:g} of {step.total:g}", step.note]
    if step.remaining is not None:
        parts.append(f"about {clock(step.remaining)} left")
    return ", ".join(part for part in parts if part)


def _touch(job: Job) -> None:
    """Count what a finished job left as used, so that what is looked at stays longest."""
    if job.state == "done":
        workspace(job.key)


def _start() -> None:
    global _worker
    if _worker is None or not _worker.is_alive():
        folders.root()  # before the next line: what is registered last at exit comes first
        atexit.register(_end)
        _worker = threading.Thread(target=_serve, name="demo-work", daemon=True)
        _worker.start()


def _end() -> None:
    """The server ends: stop the work, and wait for what it started (processes of a simulator)."""
    with _lock:
        left = [job for job in _jobs.values() if not job.ended]
    for job in left:
        job.cancel()
    for job in left:
        job.wait(END_S)


def _serve() -> None:
    while True:
        _queue.get().run()


folders.on_removal(forget)
