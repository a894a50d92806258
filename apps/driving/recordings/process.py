"""One recorded route in a process of its own, watched from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from apps.driving.recordings.job import Job
from core.errors import DataError, ResourceError, TriptychError, UsageError

SILENT_S = 300.0  # without a sign of life a route's process is ended
ROOT = Path(__file__).resolve().parents[3]


class RouteLost(ResourceError):
    """A route's process died, or its simulator did; other routes may go well."""


def in_process(
    job: Job, told: Callable[[int], None], stop: threading.Event | None = None
) -> dict[str, Any]:
    """``record_route`` in a process of its own, which ends when ``stop`` is set.

    Raises RouteLost where that died, fell silent, or lost its simulator; otherwise what it raised.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    )
    environment.setdefault("OMP_NUM_THREADS", "1")  # several at a time, and small arrays
    process = subprocess.Popen(
        [sys.executable, "-m", "apps.driving.recordings.drive"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    heard = [time.monotonic()]
    watchers = [
        threading.Thread(target=_listen, args=(process.stderr, said), daemon=True),
        threading.Thread(target=_watch, args=(process, heard, stop), daemon=True),
    ]
    for watcher in watchers:
        watcher.start()
    answer: dict[str, Any] = {}
    try:
        with suppress(BrokenPipeError):  # it died at once: told below
            process.stdin.write(job.as_json() + "\n")
            process.stdin.flush()
        for line in process.stdout:
            heard[0] = time.monotonic()
            facts = _object(line)
            if "frames" in facts:
                told(int(facts["frames"]))
            answer.update(facts)
    finally:
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()
        for watcher in watchers:
            watcher.join(5)
        process.stdout.close()
        process.stderr.close()
    if "done" in answer:
        done: dict[str, Any] = answer["done"]
        return done
    raise _why(answer, process.returncode, said)


def _why(answer: dict[str, Any], code: int, said: list[str]) -> TriptychError:
    message = str(answer.get("error", ""))
    kinds: dict[int, type[TriptychError]] = {2: UsageError, 3: DataError}
    kind = kinds.get(int(answer.get("code", 0)))
    if kind is not None:
        return kind(message)
    if answer.get("hopeless"):
        return ResourceError(message)
    last = message or (said[-1] if said else "no word")
    return RouteLost(f"the route's process ended with code {code}: {last}")


def _listen(stream: Any, said: list[str]) -> None:
    with suppress(ValueError):  # closed under us
        for line in stream:
            if line.strip():
                said.append(line.strip()[:400])
                del said[:-20]


def _watch(
    process: subprocess.Popen[str], heard: list[float], stop: threading.Event | None
) -> None:
    while process.poll() is None:
        if (stop is not None and stop.is_set()) or time.monotonic() - heard[0] > SILENT_S:
            process.kill()
            return
        time.sleep(0.5)


def _object(line: str) -> dict[str, Any]:
    """A line of the route's process; CARLA's library prints there, too."""
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return {}
