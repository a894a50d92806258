"""The first page, in a browser."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_the_first_paint(page, server, settle, shoot):
    began = time.monotonic()
    page.goto(server.url)
    page.get_by_role("heading", name="Triptych").wait_for()
    seconds = time.monotonic() - began
    print(f"first paint of the home page: {seconds:.2f} s")
    settle(page)
    assert page.title() == "Triptych"
    assert page.get_by_text("Not a medical device").first.is_visible()
    shoot(page, "whole")


def test_results_and_choices_are_read_from_the_files(page, visit, settle, shoot):
    visit(page)
    for subject, said in (
        ("Segmentation", "five-fold cross-validation"),
        ("Forecasting", "Long-horizon forecasting."),
        ("Driving", "The driving world"),
        ("Core", "Selective scan on a CPU."),
    ):
        page.get_by_role("tab", name=subject, exact=True).first.click()
        page.get_by_text(said).first.wait_for()
        assert page.get_by_text(said).first.is_visible()
    shoot(page, "core")
    picture = page.get_by_role("img", name="Time and memory against length")
    assert picture.evaluate("image => image.naturalWidth") > 300
    page.get_by_role("tab", name="Backbones of the core").click()
    page.get_by_text("named backbones. Each works at rank 1, 2 and 3").wait_for()
    shoot(page, "backbones")


def test_the_table_of_backbones_downloads_as_it_was_counted(page, visit, download):
    stored = json.loads((RESULTS / "backbones.json").read_text(encoding="utf-8"))["backbones"]
    pyramids = [row for row in stored if "2" in row["parameters"]]
    visit(page)
    page.get_by_role("tab", name="Backbones of the core").click()
    page.get_by_test_id("stDataFrame").nth(-2).hover()
    file = download(page, f"Download as CSV: {len(pyramids)} pyramids")
    with file.open(newline="", encoding="utf-8-sig") as text:
        rows = list(csv.DictReader(text))
    assert [row["name"] for row in rows] == [row["name"] for row in pyramids]
    for row, counted in zip(rows, pyramids, strict=True):
        assert float(row["2-D, million"]) == counted["parameters"]["2"] / 1e6


def test_pages_open_from_here_and_from_the_sidebar(page, visit, settle):
    visit(page)
    page.get_by_role("link", name="Open segmentation").click()
    for name, heading, following in (
        ("medical", "Segment a medical image", "Forecasting"),
        ("timeseries", "Forecast", "Driving"),
        ("driving", "Driving", "Home"),
    ):
        page.wait_for_url(f"**/{name}")
        page.get_by_role("heading", name=heading, level=1).first.wait_for()
        settle(page, 60)
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=following).click()
    page.get_by_role("heading", name="Triptych").wait_for()


def test_it_works_on_a_telephone(narrow, visit, shoot):
    visit(narrow)
    assert narrow.get_by_role("heading", name="Triptych").is_visible()
    shoot(narrow, "whole")
    main = narrow.get_by_test_id("stMain")
    # Wide tables scroll by themselves; the page does not scroll sideways.
    assert main.evaluate("part => part.scrollWidth - part.clientWidth") <= 1
    for element in narrow.get_by_test_id("stMarkdown").all():
        box = element.bounding_box()
        assert box is None or box["x"] + box["width"] <= 391


def test_it_can_be_used_with_the_keyboard_alone(page, visit):
    visit(page)
    page.get_by_role("tab", name="Segmentation", exact=True).first.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("Long-horizon forecasting.").wait_for()
    assert page.get_by_text("Long-horizon forecasting.").is_visible()
