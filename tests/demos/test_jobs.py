"""Work in the background: order, cancelling, failing, being found again, being forgotten."""

from __future__ import annotations

import threading
import time
from itertools import count

import pytest

pytest.importorskip("streamlit", reason="needs the extra 'demos'")

from core.errors import DataError
from demos.shared import jobs, workspace
from demos.shared.jobs import Job
from demos.shared.workspace import root

numbers = count()


@pytest.fixture
def key():
    """One that no other test has used: jobs live as long as the process."""
    return f"test-{next(numbers)}"


def ended(job: Job) -> Job:
    assert job.wait(20), "the job did not end"
    return job


class Gate:
    """Work that reports progress until it is let through."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, progress):
        with progress.task("wait", total=4) as task:
            task.advance(note="one")
            self.begun.set()
            while not self.open.wait(0.01):
                task.advance(0)
        return "through"


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def test_the_same_key_is_the_same_job_and_runs_once(key):
    runs = []
    first = jobs.submit(key, "The work", lambda progress: runs.append(1) or "result")
    assert ended(first).state == "done"
    assert first.result == "result"
    assert jobs.submit(key, "The work", lambda progress: runs.append(2)) is first
    assert jobs.find(key) is first
    assert runs == [1]


def test_one_runs_after_the_other(key, gate):
    order = []
    first = jobs.submit(key, "The first", gate)
    second = jobs.submit(key + "b", "The second", lambda progress: order.append(first.state))
    assert gate.begun.wait(20)
    assert (first.state, second.state) == ("running", "waiting")
    assert jobs.busy()
    gate.open.set()
    ended(second)
    assert order == ["done"]
    assert not jobs.busy()


def test_progress_and_messages_can_be_read_while_it_works(key, gate):
    def work(progress):
        progress.message("a line")
        return gate(progress)

    job = jobs.submit(key, "The work", work)
    assert gate.begun.wait(20)
    (step,) = job.progress()
    assert (step.label, step.done, step.total, step.note) == ("wait", 1, 4, "one")
    assert step.remaining is not None
    assert job.messages == ["a line"]
    gate.open.set()
    assert ended(job).progress() == []


def test_cancelling_stops_the_work_at_its_next_report_and_leaves_nothing(key, gate):
    def work(progress):
        (jobs.workspace(key) / "half.txt").write_text("half a result")
        return gate(progress)

    job = jobs.submit(key, "The work", work)
    assert gate.begun.wait(20)
    began = time.monotonic()
    job.cancel()
    assert ended(job).state == "cancelled"
    assert time.monotonic() - began < 5
    assert job.result is None
    assert not (root() / key).exists()


def test_no_handler_of_errors_swallows_cancelling(key):
    begun = threading.Event()

    def work(progress):
        while True:
            try:
                with progress.task("stubborn") as task:
                    begun.set()
                    task.advance()
            except Exception:
                continue

    job = jobs.submit(key, "The work", work)
    assert begun.wait(20)
    job.cancel()
    assert ended(job).state == "cancelled"


def test_what_waits_is_cancelled_at_once_and_never_begins(key, gate):
    ran = []
    first = jobs.submit(key, "The first", gate)
    second = jobs.submit(key + "b", "The second", lambda progress: ran.append(1))
    second.cancel()
    assert second.ended
    assert second.state == "cancelled"
    gate.open.set()
    ended(first)
    ended(jobs.submit(key + "c", "The third", lambda progress: None))
    assert ran == []


def test_an_expected_failure_is_its_own_sentence(key):
    def work(progress):
        (jobs.workspace(key) / "half.txt").write_text("half a result")
        raise DataError("scan.nii.gz: holds no image")

    job = ended(jobs.submit(key, "The work", work))
    assert job.state == "failed"
    assert job.error == "scan.nii.gz: holds no image"
    assert not (root() / key).exists()


@pytest.mark.parametrize("error", [ValueError("inner detail"), SystemExit(3)])
def test_a_defect_is_one_sentence_and_the_details_go_to_the_terminal(key, error, capfd):
    def work(progress):
        raise error

    job = ended(jobs.submit(key, "The work", work))
    assert job.state == "failed"
    assert job.error.startswith("The work failed in a way that this program did not expect")
    assert "inner detail" not in job.error
    assert type(error).__name__ in capfd.readouterr().err


def test_the_queue_goes_on_after_a_failure(key):
    ended(jobs.submit(key, "The first", lambda progress: 1 / 0))
    assert ended(jobs.submit(key + "b", "The second", lambda progress: 2)).result == 2


def test_what_failed_stays_failed_until_it_is_forgotten(key):
    outcomes = iter([DataError("not yet"), None])

    def work(progress):
        if error := next(outcomes):
            raise error
        return "now"

    job = ended(jobs.submit(key, "The work", work))
    assert jobs.submit(key, "The work", work) is job
    jobs.forget(key)
    assert ended(jobs.submit(key, "The work", work)).result == "now"


def test_forgetting_cancels_what_runs(key, gate):
    job = jobs.submit(key, "The work", gate)
    assert gate.begun.wait(20)
    jobs.forget(key)
    assert jobs.find(key) is None
    assert ended(job).state == "cancelled"


def test_a_job_begins_with_an_empty_folder(key):
    (jobs.workspace(key) / "old.txt").write_text("of another time")
    names = ended(
        jobs.submit(
            key, "The work", lambda progress: [p.name for p in jobs.workspace(key).iterdir()]
        )
    )
    assert names.result == []


def test_few_jobs_are_all_remembered_and_many_are_not(key, monkeypatch):
    made = [ended(jobs.submit(f"{key}-{n}", "The work", lambda progress: None)) for n in range(8)]
    assert all(jobs.find(job.key) is job for job in made)
    monkeypatch.setattr(jobs, "KEPT", 4)
    last = ended(jobs.submit(f"{key}-last", "The work", lambda progress: None))
    assert jobs.find(made[0].key) is None
    assert jobs.find(made[-1].key) is made[-1]
    assert jobs.find(last.key) is last


def test_a_removed_folder_takes_its_job_with_it(key, monkeypatch):
    job = ended(
        jobs.submit(
            key,
            "The work",
            lambda progress: (jobs.workspace(key) / "a.txt").write_text("a"),
        )
    )
    assert jobs.find(key) is job
    monkeypatch.setattr(workspace, "LIMIT_FOLDERS", 1)
    jobs.workspace(key + "b")
    assert jobs.find(key) is None
    assert not (root() / key).exists()


PAGE = """
import streamlit as st
from core.errors import DataError
from demos.shared import jobs
from tests_gate import GATE

def work(progress):
    with progress.task("Count", total=3) as task:
        for _ in range(3):
            task.advance(note="up")
            while not GATE["go"].wait(0.01):
                task.advance(0)
    if GATE["fail"]:
        raise DataError("three is enough")
    return 3


job = jobs.submit(GATE["key"], "The count", work)
if jobs.watch(job):
    st.write(f"counted to {job.result}")
"""


@pytest.fixture
def counting(key, monkeypatch):
    """A page that counts in the background, and what holds its work up."""
    import sys
    from types import ModuleType

    from streamlit.testing.v1 import AppTest

    module = ModuleType("tests_gate")
    module.GATE = {"key": key, "go": threading.Event(), "fail": False}
    monkeypatch.setitem(sys.modules, "tests_gate", module)
    yield AppTest.from_string(PAGE, default_timeout=60), module.GATE
    jobs.forget(key)
    module.GATE["go"].set()


def begun(gate) -> Job:
    job = jobs.find(gate["key"])
    deadline = time.monotonic() + 20
    while not job.progress():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return job


def test_the_page_shows_bars_then_the_result(counting, settle):
    app, gate = counting
    app.run()
    begun(gate)
    app.run()
    (bar,) = app.get("progress")
    assert bar.proto.value == 33
    assert "Count: 1 of 3, up" in bar.proto.text
    assert [button.label for button in app.button] == ["Cancel"]
    gate["go"].set()
    settle(app)
    assert not app.get("progress")
    assert app.markdown[0].value == "counted to 3"


def test_the_page_cancels_and_tries_again_when_asked(counting, settle):
    app, gate = counting
    app.run()
    begun(gate)
    app.run()
    app.button[0].click().run()
    settle(app)
    assert "cancelled" in app.info[0].value
    gate["go"].set()
    settle(app)
    assert "cancelled" in app.info[0].value  # nothing begins again by itself
    app.button[0].click().run()
    settle(app)
    assert app.markdown[0].value == "counted to 3"


def test_the_page_tells_a_failure_once_and_does_not_try_again(counting, settle):
    app, gate = counting
    gate["fail"] = True
    gate["go"].set()
    app.run()
    settle(app)
    assert [error.value for error in app.error] == ["Three is enough"]
    job = jobs.find(gate["key"])
    settle(app)
    assert jobs.find(gate["key"]) is job
