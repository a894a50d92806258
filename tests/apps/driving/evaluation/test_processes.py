"""Workers that answer, refuse, die and hang."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from apps.driving.evaluation.processes import Crew, Lost, Stopped
from apps.driving.evaluation.worker import Job
from core.errors import DataError, ResourceError, UsageError

JOB = Job(town="procedural:0", routes=[], agent="expert")


def crew(program: str, silence: float = 20.0) -> Crew:
    return Crew(silence=silence, command=(sys.executable, "-c", program))


def test_an_answer_among_other_lines():
    program = """
import json, sys
job = json.load(sys.stdin)
print('WARNING: carla says something')
print('@not json')
print('@{"beat": 3}')
print('@' + json.dumps({"result": {"agent": job["agent"]}}))
"""
    beats: list[float] = []
    with crew(program) as found:
        assert found.do(JOB, beats.append) == {"agent": "expert"}
    assert beats == [3.0]


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [
        ("UsageError", 2, UsageError),
        ("DataError", 3, DataError),
        ("ResourceError", 4, ResourceError),
        ("SimulatorGone", 4, Lost),
        ("SensorMissing", 4, Lost),
        ("EgoGone", 4, Lost),
        ("ZeroDivisionError", 1, Lost),
    ],
)
def test_errors_of_the_input_are_raised_and_those_of_the_simulator_lose_the_route(
    error, code, wanted
):
    program = f"""
import json
print('@' + json.dumps({{"error": {{"type": {error!r}, "message": "why", "exit_code": {code}}}}}))
"""
    with crew(program) as found, pytest.raises(wanted, match="why"):
        found.do(JOB)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os.abort()", "sys.exit(3)"])
def test_a_process_that_dies_is_lost_and_its_last_words_are_kept(end):
    program = f"import os, sys; print('assertion failed', file=sys.stderr, flush=True); {end}"
    with crew(program) as found, pytest.raises(Lost, match="assertion failed"):
        found.do(JOB)


def test_a_silent_process_is_killed_and_a_slow_one_is_not():
    began = time.monotonic()
    with crew("import time; time.sleep(60)", 0.5) as found, pytest.raises(Lost, match="silent"):
        found.do(JOB)
    assert time.monotonic() - began < 20
    slow = """
import time
for i in range(4):
    time.sleep(0.4)
    print('@{"beat": 1}', flush=True)
print('@{"result": {}}')
"""
    with crew(slow, 2.0) as found:
        assert found.do(JOB) == {}


def test_the_end_of_the_crew_ends_its_workers():
    found = crew("import time; time.sleep(60)")
    ended = []

    def work() -> None:
        try:
            found.do(JOB)
        except Stopped as stopped:
            ended.append(stopped)

    with found:
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.5)
    thread.join(10)
    assert not thread.is_alive()
    assert len(ended) == 1
    with pytest.raises(Stopped):
        found.do(JOB)


def test_whoever_waits_is_asked_whether_to_go_on():
    asked = []

    def pulse() -> None:
        asked.append(time.monotonic())
        if len(asked) == 4:
            raise KeyboardInterrupt

    with crew("import time; time.sleep(60)") as found, pytest.raises(KeyboardInterrupt):
        found.do(JOB, pulse=pulse)
    assert len(asked) == 4
    assert not found._running
