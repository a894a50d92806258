"""Work in the background as a person sees it: bars that move, cancelling, failing, two tabs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

SCRIPT = "tests/browser/jobs_page.py"


@pytest.fixture
def begin(serve, settle):
    """Open the page, fill it in and press the button."""

    def begin_(page, name: str, steps: int, fails: bool = False) -> None:
        page.goto(serve(SCRIPT).url)
        settle(page)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Name").press("Enter")
        page.get_by_label("Steps").fill(str(steps))
        page.get_by_label("Steps").press("Enter")
        settle(page)
        if fails:
            page.get_by_text("Fail at the end").click()
            settle(page)
        page.get_by_role("button", name="Count", exact=True).click()

    return begin_


def test_bars_move_by_themselves_and_the_result_comes(page, begin, settle, shoot):
    begin(page, "moving", 25)
    page.get_by_text("of 25, moving").wait_for()
    shoot(page, "running")
    early = page.get_by_text("of 25, moving").inner_text()
    page.wait_for_timeout(1000)
    assert page.get_by_text("of 25, moving").inner_text() != early
    page.get_by_text("moving counted to 25").wait_for()
    settle(page)
    assert page.get_by_role("progressbar").count() == 0


def test_cancelling_is_a_click_and_nothing_begins_again_by_itself(page, begin, settle, shoot):
    begin(page, "cancelled", 1000)
    page.get_by_text("of 1000, cancelled").wait_for()
    began = time.monotonic()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("The count was cancelled; nothing was kept.").wait_for()
    assert time.monotonic() - began < 10
    shoot(page, "cancelled")
    page.wait_for_timeout(1200)
    assert page.get_by_text("The count was cancelled").is_visible()
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("of 1000, cancelled").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("The count was cancelled; nothing was kept.").wait_for()


def test_a_failure_is_a_sentence_without_the_servers_folders(page, begin, settle, shoot):
    begin(page, "failing", 3, fails=True)
    page.get_by_text("data.csv: one more than I can count").wait_for()
    alert = page.get_by_role("alert")
    assert alert.inner_text().strip() == "data.csv: one more than I can count"
    settle(page)


def test_a_second_window_finds_the_work_that_runs(open_window, begin):
    first, second = open_window(1280, 900), open_window(1280, 900)
    begin(first, "shared", 60)
    first.get_by_text("of 60, shared").wait_for()
    begin(second, "shared", 60)
    second.get_by_text("of 60, shared").wait_for()
    assert not second.get_by_text("waits for").is_visible()
    second.get_by_role("button", name="Cancel").click()
    first.get_by_text("The count was cancelled; nothing was kept.").wait_for()


def test_the_servers_end_stops_the_work_and_removes_its_folder(open_window, begin, serve):
    page = open_window(1280, 900)
    begin(page, "ending", 1000)
    page.get_by_text("of 1000, ending").wait_for()
    folder = Path(page.get_by_text("Folder: ").inner_text().removeprefix("Folder: "))
    assert list(folder.rglob("begun.txt"))
    server = serve(SCRIPT)
    page.context.close()
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 9, "it had to be killed"
    assert not folder.exists()
