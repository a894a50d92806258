"""The worker processes of a run: started, listened to, ended.

What a worker says is bounded in size and only read as JSON. One that says nothing for ``SILENCE_S``
hangs and is killed.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from apps.driving.evaluation.worker import MARK, Job
from core.errors import DataError, ResourceError, TriptychError, UsageError
from core.reporting import ROOT

PULSE_S = 0.5  # between two looks whether whoever waits still wants the answer
SILENCE_S = 180.0  # the longest a good worker is silent: CARLA may take a minute to load a town
WORKER = (sys.executable, "-m", "apps.driving.evaluation.worker")
LAST_WORDS_S = 2.0  # from a worker's end until what it said last has been read
LINE = 2**24  # bytes
SIMULATOR = {"SimulatorGone", "SensorMissing", "EgoGone"}  # errors that are no fault of the input


class Lost(Exception):
    """A worker that died, hung, or lost its simulator."""


class Stopped(Exception):
    """A worker that was ended because nobody wants its answer any more."""


class Crew:
    """Starts workers and ends those that still run when the block does."""

    def __init__(self, silence: float = SILENCE_S, command: Sequence[str] = WORKER) -> None:
        self._silence, self._command = silence, list(command)
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill every worker."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def do(
        self,
        job: Job,
        beat: Callable[[float], None] | None = None,
        pulse: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """What a worker answers; ``beat`` is told now and then how much of its route is driven.

        ``pulse`` is called every half second at the latest: when it raises (or ``beat`` does), the
        worker is killed. Raises the UsageError, DataError or ResourceError that it ended with,
        ``Lost``, or ``Stopped`` after ``stop``.
        """
        with self._lock:
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=_environment(job.threads),
            )
            self._running.add(process)
        try:
            return self._listen(process, job, beat or _deaf, pulse or _deaf)
        except Lost:
            if self._stopped:
                raise Stopped from None
            raise
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)

    def _listen(
        self,
        process: subprocess.Popen[str],
        job: Job,
        beat: Callable[[float], None],
        pulse: Callable[[], None],
    ) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said: queue.Queue[str | None] = queue.Queue()
        complaints: deque[str] = deque(maxlen=40)
        threads = [
            threading.Thread(target=_pump, args=(process.stdout, said.put, said), daemon=True),
            threading.Thread(target=_pump, args=(process.stderr, complaints.append), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            process.stdin.write(job.as_json())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; how is seen below
        heard = time.monotonic()
        while True:
            pulse()
            try:
                line = said.get(timeout=PULSE_S)
            except queue.Empty:
                if time.monotonic() - heard >= self._silence:
                    raise Lost(f"silent for {self._silence:g} s: killed") from None
                continue
            heard = time.monotonic()
            if line is None:
                break
            answer = _parsed(line)
            if isinstance(answer.get("result"), dict):
                return dict(answer["result"])
            if "error" in answer:
                _fail(answer["error"])
            if "beat" in answer:
                beat(float(answer["beat"]))
        code = process.wait()
        threads[1].join(LAST_WORDS_S)  # a child of its own may hold the pipe open
        last = complaints[-1].strip() if complaints else "without a word"
        raise Lost(f"process ended with code {code}: {last}")


def _deaf(*_: float) -> None:
    """For whoever does not want to know."""


def _pump(stream: Any, put: Any, ended: queue.Queue[str | None] | None = None) -> None:
    """Lines from a pipe, until it is closed."""
    try:
        for line in iter(lambda: stream.readline(LINE), ""):
            put(line)
    except ValueError:
        pass  # closed under our hands: the process was killed
    finally:
        if ended is not None:
            ended.put(None)


def _parsed(line: str) -> dict[str, Any]:
    """A line with the mark as JSON; {} for any other."""
    if not line.startswith(MARK):
        return {}
    try:
        found = json.loads(line[len(MARK) :])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _fail(error: dict[str, Any]) -> None:
    kind, message = str(error.get("type")), str(error.get("message"))
    kinds: dict[Any, type[TriptychError]] = {
        known.exit_code: known for known in (UsageError, DataError, ResourceError)
    }
    known = kinds.get(error.get("exit_code"))
    if known is None or kind in SIMULATOR:
        raise Lost(f"{message}" if kind in message else f"{kind}: {message}")
    raise known(message)


def _environment(threads: int | None) -> dict[str, str]:
    """Ours, with the clone on Python's path and a bound on threads."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = {**os.environ, "PYTHONPATH": path}
    if threads is not None:
        found["OMP_NUM_THREADS"] = str(threads)
    return found
