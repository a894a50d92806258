"""A route's process: what becomes of the series when it dies, hangs or complains."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.driving.recordings import process
from apps.driving.recordings.job import Job
from apps.driving.recordings.process import RouteLost, in_process
from core.errors import DataError, ResourceError, UsageError

TOWN = "procedural:1"


def job(folder: Path, **changes: Any) -> Job:
    made = Job(town=TOWN, folder=str(folder), number=0, frames=6, traffic=4, walkers=2)
    return replace(made, **changes)


def program(folder: Path, text: str) -> str:
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_a_process_that_dies_costs_its_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "echo '{\"frames\": 2}'; echo 'bad things' >&2; kill -ABRT $$"
    monkeypatch.setattr(process.sys, "executable", program(tmp_path, text))
    told: list[int] = []
    with pytest.raises(RouteLost, match="code -6: bad things"):
        in_process(job(tmp_path / "r"), told.append)
    assert told == [2]


def test_a_silent_process_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "executable", program(tmp_path, "exec sleep 60"))
    monkeypatch.setattr(process, "SILENT_S", 0.3)
    with pytest.raises(RouteLost, match="code -9"):
        in_process(job(tmp_path / "r"), lambda frames: None)


def test_a_process_is_ended_when_the_series_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.sys, "executable", program(tmp_path, "exec sleep 60"))
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(RouteLost):
        in_process(job(tmp_path / "r"), lambda frames: None, stop)


def test_a_town_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises((UsageError, DataError), match=r"nowhere\.xodr"):
        in_process(job(tmp_path / "r", town="nowhere.xodr"), lambda frames: None)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('{"error": "the simulator does not answer", "code": 4, "hopeless": false}', RouteLost),
        ('{"error": "no space left", "code": 4, "hopeless": true}', ResourceError),
        ('{"error": "no such route", "code": 3}', DataError),
        ('{"error": "no such driver", "code": 2}', UsageError),
    ],
)
def test_what_it_complains_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    text = f"echo 'WARNING: not a line for us'; echo '{said}'; exit 4"
    monkeypatch.setattr(process.sys, "executable", program(tmp_path, text))
    with pytest.raises(kind) as caught:
        in_process(job(tmp_path / "r"), lambda frames: None)
    assert type(caught.value) is kind


def test_a_full_disk_is_hopeless(tmp_path: Path) -> None:
    """In the real process, under a limit on the size of files, which fails as a full disk does."""
    import subprocess
    import sys

    code = (
        "import resource, sys, runpy;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "sys.argv = ['drive']; runpy.run_module('apps.driving.recordings.drive', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(job(tmp_path / "r").as_json() + "\n")
        running.stdin.flush()
        told = [process._object(line) for line in running.stdout]
        running.stdin.close()
    assert told[-1]["hopeless"] is True
    assert "no space left" in told[-1]["error"]
    assert list(tmp_path.iterdir()) == []
