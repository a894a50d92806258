"""Work in the background, one piece after the other, that a page can watch and cancel.

    key = key_of(path, options)
    job = jobs.submit(key, "Segment", lambda progress: predict(path, out=workspace(key), progress=progress))
    if jobs.watch(job):
        show(job.result)

A job belongs to the server: a page that is loaded again, or another tab, finds it by its key. Whatever
reports its progress through ``core.progress`` can be cancelled: the report raises ``Cancelled`` in it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

import streamlit as st

from core.progress import Event, Progress, Task, clock
from demos.shared import workspace as folders
from demos.shared.words import sentence
from demos.shared.workspace import workspace

__all__ = ["Cancelled", "Job", "Step", "busy", "find", "forget", "submit", "watch", "workspace"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT = 64  # jobs that a server remembers
REFRESH_S = 0.5


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

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen: done, failed or cancelled."""
        return self._ended.is_set()

    @property
    def messages(self) -> list[str]:
        """What the work said, line by line."""
        return self._progress.lines()

    def progress(self) -> list[Step]:
        """The bars now, outermost first."""
        return self._progress.steps()

    def cancel(self) -> None:
        """Ask the work to stop; it does at its next report of progress."""
        self._progress.cancelled.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it came."""
        return self._ended.wait(seconds)

    def run(self) -> None:
        """Do the work in this thread, in a folder that is empty."""
        work, self._work = self._work, None  # what it holds is let go
        assert work is not None
        try:
            self._progress._stop_if_cancelled()
            self.state = "running"
            folders.clear(self.key)
            folders.keep(self.key, True)
            self.result = work(self._progress)
            self.state = "done"
        except Cancelled:
            self.state = "cancelled"
        except BaseException as error:
            self.error, self.state = sentence(error, self.label), "failed"
        finally:
            folders.keep(self.key, False)
            self._ended.set()


_lock = threading.RLock()
_jobs: dict[str, Job] = {}  # from the oldest to the newest
_queue: SimpleQueue[Job] = SimpleQueue()
_worker: threading.Thread | None = None


def submit(key: str, label: str, work: Callable[[Progress], Any]) -> Job:
    """The job of ``key``: the one that is there, also if it failed, or a new one that waits its turn.

    A page submits at each run of its script, so that nothing that failed is tried again by itself: see
    ``forget``. ``label`` is the subject of sentences about it
    ("The segmentation"). ``work`` writes into ``workspace(key)``, which is empty when it begins.
    """
    with _lock:
        job = _jobs.get(key)
        if job is None:
            job = _jobs[key] = Job(key, label, work)
            _queue.put(job)
            _start()
            for old in [name for name, one in _jobs.items() if one.ended][: len(_jobs) - KEPT]:
                del _jobs[old]
        return job


def find(key: str) -> Job | None:
    """The job of ``key``, if there is one and its folder was not removed."""
    with _lock:
        return _jobs.get(key)


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
        with st.container(key=f"job-bars-{job.key}"):
            _bars(job)
        return False
    if job.state == "failed":
        st.error(job.error)
    elif job.state == "cancelled":
        st.info(f"{job.label} was cancelled; nothing was kept.")
    if job.state == "done":
        return True
    if st.button("Try again", key=f"again-{job.key}"):
        forget(job.key)
        st.rerun()
    return False


@st.fragment(run_every=REFRESH_S)
def _bars(job: Job) -> None:
    if job.ended:
        st.rerun()
    steps = job.progress()
    if not steps:
        waiting = "waits for the work before it" if job.state == "waiting" else "begins"
        st.progress(0.0, text=f"{job.label} {waiting} ...")
    for step in steps:
        st.progress(_share(step), text=_text(step))
    stopping = job._progress.cancelled.is_set()
    if st.button(
        "Stopping ..." if stopping else "Cancel", key=f"cancel-{job.key}", disabled=stopping
    ):
        job.cancel()
        st.rerun(scope="fragment")


def _share(step: Step) -> float:
    return min(1.0, max(0.0, step.done / step.total)) if step.total else 0.0


def _text(step: Step) -> str:
    count = f"{step.done:g}" if step.total is None else f"{step.done:g} of {step.total:g}"
    parts = [f"{step.label}: {count}", step.note]
    if step.remaining is not None:
        parts.append(f"about {clock(step.remaining)} left")
    return ", ".join(part for part in parts if part)


def _start() -> None:
    global _worker
    if _worker is None or not _worker.is_alive():
        _worker = threading.Thread(target=_serve, name="demo-work", daemon=True)
        _worker.start()


def _serve() -> None:
    while True:
        _queue.get().run()


folders.on_removal(forget)
