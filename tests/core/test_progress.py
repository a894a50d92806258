from __future__ import annotations

import io
import sys

import pytest

from core.progress import (
    PlainProgress,
    Progress,
    RichProgress,
    SilentProgress,
    Task,
    clock,
    describe,
    get_progress,
)


class Recorder(Progress):
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def show(self, task: Task, event: str) -> None:
        self.events.append((event, task.label, task.done, task.total, task.note))


def test_a_subclass_sees_every_event_in_order():
    progress = Recorder()
    with progress.task("work", total=3) as task:
        task.advance(note="one")
        task.advance(2)
    assert progress.events == [
        ("start", "work", 0, 3, ""),
        ("advance", "work", 1, 3, "one"),
        ("advance", "work", 3, 3, "one"),
        ("done", "work", 3, 3, "one"),
    ]


def test_a_failure_is_shown_and_raised():
    progress = Recorder()

    def fails():
        with progress.task("work"):
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    assert progress.events[-1][0] == "failed"


def test_time_left_follows_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("core.progress.time.monotonic", lambda: now[0])
    task = Task(SilentProgress(), "work", 10)
    assert task.remaining is None
    now[0] += 30
    task.advance(4, note="case 4")
    assert task.elapsed == 30
    assert task.remaining == 45
    assert describe(task) == "work: 4/10, 0:30 elapsed, 0:45 left, case 4"
    task.advance(8)  # more than was announced
    assert task.remaining == 0
    task.total = None
    assert task.remaining is None


def test_plain_lines_are_sparse(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("core.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = PlainProgress(stream, interval=10)
    with progress.task("outer", total=30) as outer:
        for _ in range(30):
            now[0] += 1
            with progress.task("inner", total=1) as inner:
                inner.advance()
            outer.advance()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "outer: 10/30, 0:10 elapsed, 0:20 left",
        "outer: 20/30, 0:20 elapsed, 0:10 left",
        "outer: 30/30, 0:30 elapsed, 0:00 left",
        "outer: done in 0:30",
    ]


def test_bars_go_to_standard_error_and_prints_stay_on_standard_output(capsys):
    progress = RichProgress()
    with progress.task("outer", total=2) as outer:
        for case in ("a", "b"):
            with progress.task("inner", total=None) as inner:
                inner.advance(note="[not markup]")
            print("result", case)
            outer.advance(note=case)
    with progress.task("again", total=1) as again:  # the display restarts
        again.advance()
    out, err = capsys.readouterr()
    assert out == "result a\nresult b\n"
    assert "outer" in err
    assert "again" in err


def test_which_progress(monkeypatch):
    assert isinstance(get_progress(quiet=True), SilentProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(get_progress(), PlainProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(get_progress(), RichProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(get_progress(), PlainProgress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (75, "1:15"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
