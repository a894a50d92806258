"""The driving page, in a browser. The drives are real ones, in the embedded world."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

for needed in ("carla", "msgpack", "av", "playwright"):
    pytest.importorskip(needed)

PATIENCE_S = 400  # for a drive on a busy machine
AIM = (40, 220, 120)  # the colour of the points that a driver aims for


def picture(page: Page, alt: str) -> Locator:
    return page.get_by_role("img", name=alt).last


def near(shown: np.ndarray, colour: tuple[int, int, int], within: int = 60) -> int:
    """How many pixels have about that colour."""
    away = np.abs(shown.astype(int) - np.array(colour)).max(axis=-1)
    return int((away < within).sum())


def choose(page: Page, label: str, option: str) -> None:
    """In a selectbox, by keyboard."""
    field = page.get_by_role("combobox", name=label, exact=True)
    field.click()
    field.fill(option)
    page.get_by_role("option", name=option).first.click()


def drivers(page: Page, *names: str) -> None:
    """Instead of those that are chosen."""
    field = page.get_by_role("combobox", name=re.compile("Drivers"))
    for _ in range(3):
        field.press("Backspace")
    for name in names:
        field.fill(name)
        page.get_by_role("option", name=name, exact=True).click()
    field.press("Escape")


def moment(page: Page) -> float:
    """Seconds at which the replay stands."""
    return float(page.get_by_role("slider", name=re.compile("Moment")).input_value())


def arrive(page: Page, low: float, high: float) -> None:
    """Wait until the replay stands between these seconds; a busy machine takes its time."""
    for _ in range(80):
        if low <= moment(page) <= high:
            break
        page.wait_for_timeout(250)
    assert low <= moment(page) <= high


def drive(page: Page, settle: Any, *names: str) -> None:
    """Drive with these drivers, in the default choice if none is named. What a test before this one
    has driven on the same server is there at once."""
    if names:
        drivers(page, *names)
    page.get_by_role("button", name="Drive", exact=True).click()
    heading = "Comparison" if len(names) > 1 else "Replay"
    page.get_by_role("heading", name=heading).wait_for(timeout=1000 * PATIENCE_S)
    settle(page, PATIENCE_S)


def test_one_click_drives_the_shipped_driver(page, visit, settle, shoot, pixels, download):
    from playwright.sync_api import expect

    visit(page, "driving")
    shoot(page, "first")
    page.get_by_role("button", name="Drive", exact=True).click()
    expect(picture(page, "What the cameras see now")).to_be_visible(timeout=1000 * PATIENCE_S)
    shoot(page, "live")
    page.get_by_role("heading", name="Replay").wait_for(timeout=1000 * PATIENCE_S)
    settle(page, PATIENCE_S)

    cameras, semantics = picture(page, "Camera pictures"), picture(page, "Semantic classes as")
    expect(cameras).to_be_visible()
    page.wait_for_timeout(500)
    before = pixels(cameras)
    assert before.std() > 10
    assert near(pixels(semantics), (128, 64, 128), 12) > 500  # the road is found
    assert near(pixels(picture(page, "True semantic")), (128, 64, 128), 12) > 500

    slider = page.get_by_role("slider", name=re.compile("Moment"))
    slider.focus()
    for _ in range(12):
        slider.press("ArrowRight")
    arrive(page, 1.15, 1.25)
    settle(page)
    for after in range(1, 4):
        page.get_by_role("button", name="1 s on").click()
        arrive(page, 1.15 + after, 1.25 + after)
    settle(page)
    page.wait_for_timeout(500)
    assert near(pixels(cameras), AIM) > 20  # at speed it aims at points that the picture shows
    page.get_by_role("button", name="End").click()
    arrive(page, 5.5, 60)
    settle(page)
    page.wait_for_timeout(500)
    after = pixels(picture(page, "Camera pictures"))
    assert after.shape != before.shape or (after != before).mean() > 0.1
    shoot(page, "end")

    film = download(page, "Film (MP4)")
    import av

    with av.open(str(film)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    decisions = list(csv.DictReader(io.StringIO(download(page, "Decisions (CSV)").read_text())))
    assert frames == len(decisions) > 50
    assert float(decisions[-1]["time"]) > 5
    row = json.loads(download(page, "Result (JSON)").read_text())["routes"][0]
    assert row["decisions"] == len(decisions)
    assert row["agent"] == "small"
    replayed = download(page, "Replay (HTML)").read_text(encoding="utf-8")
    assert "small on route 1 in Town01" in replayed
    shown = page.get_by_test_id("stMetric").filter(has_text="Driving score 2.1").inner_text()
    assert f"{row['driving_score_2_1']:.1f}" in shown


def test_two_drivers_are_compared_and_infractions_jump(
    page, visit, settle, shoot, pixels, download
):
    from playwright.sync_api import expect

    visit(page, "driving")
    drive(page, settle, "small", "constant")
    shoot(page, "compared")
    table = list(csv.DictReader(io.StringIO(download(page, "Comparison (CSV)").read_text())))
    assert [row["driver"] for row in table] == ["small", "constant"]
    assert table[0]["where"] == table[1]["where"]

    choose(page, "Drive", "constant")
    settle(page)
    jumps = page.get_by_role("button", name=re.compile(r"^\d+\.\d s: "))
    expect(jumps.first).to_be_visible()
    at = float(jumps.first.inner_text().split(" s:")[0])
    jumps.first.click()
    arrive(page, at - 0.11, at + 0.11)
    settle(page)
    shoot(page, "infraction")

    # a click into the plot goes there, too
    plot = page.locator(".js-plotly-plot").filter(has_text="steering").first
    page.wait_for_timeout(1000)  # the screenshot changed the window's size
    plot.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    area = plot.locator(".nsewdrag").nth(1).bounding_box()  # of the speeds
    assert area is not None
    x, y = area["x"] + 0.25 * area["width"], area["y"] + 0.5 * area["height"]
    page.mouse.move(x - 5, y)
    page.mouse.move(x, y)
    expect(plot.locator(".hovertext").first).to_be_attached()
    page.wait_for_timeout(
        400
    )  # Plotly looks where the mouse is 20 times a second, not while it is down
    page.mouse.click(x, y, delay=60)
    arrive(page, 3, 6)  # a quarter of 18 s, about
    settle(page)

    packed = zipfile.ZipFile(download(page, "Everything (ZIP)"))
    assert packed.testzip() is None
    names = packed.namelist()
    assert "summary.json" in names
    assert any(name.endswith(".mp4") for name in names)
    assert any(name.endswith("-rgb.jpg") for name in names)


def test_it_plays_on_a_telephone(narrow, visit, settle, shoot):
    visit(narrow, "driving")
    drive(narrow, settle)
    wide = narrow.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= 390
    start = moment(narrow)
    narrow.get_by_text("Play", exact=True).click()
    arrive(narrow, start + 0.4, 60)
    narrow.get_by_text("Play", exact=True).click()
    settle(narrow)
    shoot(narrow, "played")


def test_own_files_and_nonsense(page, visit, settle, upload, shoot, tmp_path):
    from playwright.sync_api import expect

    visit(page, "driving")
    choose(page, "Town", "My own OpenDRIVE file")
    settle(page)
    drive = page.get_by_role("button", name="Drive", exact=True)
    expect(drive).to_be_disabled()
    nonsense = tmp_path / "nonsense.xodr"
    nonsense.write_bytes(bytes(range(256)) * 40)
    upload(page, nonsense)
    settle(page)
    expect(page.get_by_test_id("stAlert").filter(has_text="nonsense.xodr")).to_be_visible()
    expect(drive).to_be_disabled()
    shoot(page, "nonsense")
    page.get_by_role("button", name="Remove nonsense.xodr").click()
    own = tmp_path / "mine.xodr"
    own.write_bytes(Path("samples/Town01.xodr").read_bytes())
    upload(page, own)
    settle(page)
    expect(drive).to_be_enabled()
    expect(page.locator(".st-key-drives-map .main-svg").first).to_be_visible()
    page.get_by_text("From my own route file").click()
    settle(page)
    wrong = tmp_path / "routes.xml"
    wrong.write_text("<routes><route id='1' town='mine'><waypoint x='a' y='2'/></route></routes>")
    upload(page, wrong, nth=1)
    settle(page)
    expect(page.get_by_test_id("stAlert").filter(has_text="routes.xml")).to_be_visible()
    expect(drive).to_be_disabled()


def test_a_drive_can_be_cancelled(page, visit, settle):
    from playwright.sync_api import expect

    visit(page, "driving")
    drivers(page, "expert")
    page.get_by_role("button", name="Drive", exact=True).click()
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    expect(page.get_by_text(re.compile(r"drive expert|draw a route")).first).to_be_visible()
    cancel.click()
    expect(page.get_by_text("was cancelled; nothing was kept")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
