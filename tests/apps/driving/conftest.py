"""The server that the client programs talk to: CARLA_HOST's, or the embedded world."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

HERE = importlib.util.find_spec("carla") is not None
if not HERE:
    # CARLA's client is there for Linux, and for Python up to 3.12.
    collect_ignore_glob = ["*"]


def pytest_report_header() -> str:
    return "driving: carla is installed" if HERE else "driving: not tested, for want of carla"


class Embedded:
    """``run.py world`` in a process of its own on a free port; starts again when it has died."""

    embedded = True

    def __init__(self, *options: str) -> None:
        self.options = options
        self.process: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self.port = 0

    def environment(self) -> dict[str, str]:
        """For a client program; starts the server if it does not run."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        return {"CARLA_HOST": "127.0.0.1", "CARLA_PORT": str(self.port), "CARLA_EMBEDDED": "1"}

    def start(self) -> None:
        command = [sys.executable, str(ROOT / "apps/driving/run.py"), "world", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *self.options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        deadline = time.monotonic() + 60
        for line in self.process.stdout:
            self.log.append(line.rstrip())
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                break
            if time.monotonic() > deadline:
                break
        else:
            self.process.wait(10)
            pytest.fail("the world did not start: " + "\n".join(self.log[-20:]))
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.rstrip())

    def problem(self) -> str:
        """What a check must not leave behind: a dead server, or a traceback in its log."""
        if self.process is None or self.process.poll() is not None:
            return "the server died: " + "\n".join(self.log[-30:])
        trace = [i for i, line in enumerate(self.log) if "Traceback" in line]
        if trace:
            said = "\n".join(self.log[trace[0] : trace[0] + 40])
            self.log.clear()
            return f"the server printed a traceback:\n{said}"
        return ""

    def stop(self) -> int:
        """End it as a person does; its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail("the world did not end within 15 s of SIGINT")


class External:
    """A server that somebody else runs."""

    embedded = False

    def environment(self) -> dict[str, str]:
        return {}

    def problem(self) -> str:
        return ""


@pytest.fixture(scope="session")
def server() -> Iterator[Embedded | External]:
    if "CARLA_HOST" in os.environ:
        yield External()
        return
    town = ROOT / "samples" / "Town01.xodr"
    if not town.exists():
        pytest.skip("samples/ is not part of this copy")
    running = Embedded("--town", str(town), "--seed", "0")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def embedded() -> type[Embedded]:
    """For tests that need servers of their own."""
    if "CARLA_HOST" in os.environ:
        pytest.skip("only for the embedded world: it starts servers of its own")
    return Embedded
