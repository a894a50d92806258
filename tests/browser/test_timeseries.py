"""The forecasting page, in a browser: the sample, files of one's own, a telephone, cancelling."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

playwright = pytest.importorskip("playwright.sync_api")

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

expect = playwright.expect
PATIENCE_S = 300  # for a run on a busy machine
LINE, BAND, FOLD = (0, 114, 178), (214, 232, 243), (230, 241, 247)


def near(shown: np.ndarray, colour: tuple[int, int, int], within: int = 6) -> int:
    """How many pixels have about that colour."""
    away = np.abs(shown.astype(int) - np.array(colour)).max(axis=-1)
    return int((away <= within).sum())


def chart(page: Page, alt: str) -> Locator:
    """The chart with that alternative text, once it is drawn."""
    found = page.get_by_label(re.compile(re.escape(alt))).last
    expect(found).to_be_visible(timeout=PATIENCE_S * 1000)
    found.locator(".main-svg").first.wait_for(timeout=PATIENCE_S * 1000)
    return found


def traces(found: Locator) -> list[str]:
    plot = found.locator(".js-plotly-plot")
    return plot.evaluate("plot => plot.data.map(trace => trace.name)")


def forecast(page: Page) -> None:
    """Press the button and wait for what comes of it."""
    page.get_by_role("button", name="Forecast", exact=True).click()
    expect(tab(page, "Past folds")).to_be_visible(timeout=PATIENCE_S * 1000)


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("tab", name=name)


def choose(page: Page, label: str, option: str) -> None:
    """In a selectbox, by keyboard."""
    named = page.get_by_role("combobox", name=label, exact=True)
    field = named.locator("visible=true").first  # of each tab there may be one
    field.click()
    field.fill(option)
    page.get_by_role("option", name=option).first.click()


def number(page: Page, label: str, value: str) -> None:
    field = page.get_by_role("spinbutton", name=label)
    field.fill(value)
    field.press("Enter")


def table(rows: int = 300) -> pd.DataFrame:
    wave = np.sin(2 * np.pi * np.arange(rows) / 24)
    noise = np.random.default_rng(0).normal(size=(rows, 2))
    frame = pd.DataFrame({"load": 50 + 9 * wave, "temp": 20 - 4 * wave}) + noise
    frame.insert(0, "date", pd.date_range("2024-01-01", periods=rows, freq="h").astype(str))
    return frame


def test_one_click_on_the_sample(page, visit, settle, pixels, download, shoot) -> None:
    visit(page, "timeseries")
    preview = chart(page, "OT over time, with 10 folds to be forecast")
    assert near(pixels(preview), FOLD) > 300, "the folds are drawn"
    shoot(page, "before")
    forecast(page)
    settle(page, PATIENCE_S)

    found = chart(page, "OT: the observed past and 96 steps of forecast by etth1-336")
    assert {"observed", "etth1-336", "seasonal-naive", "95 %"} <= set(traces(found))
    shown = pixels(found)
    assert near(shown, LINE, 12) > 60, "the forecast is drawn"
    assert near(shown, BAND) > 1000, "its widest band is drawn"
    assert found.locator(".rangeslider-container").count() == 1
    expect(page.get_by_text("How often such intervals held before")).to_be_visible()
    shoot(page, "forecast")
    choose(page, "Variate", "HUFL")
    chart(page, "HUFL: the observed past")

    tab(page, "Past folds").click()
    found = chart(page, "what each model forecast in 10 past folds")
    assert near(pixels(found), LINE, 12) > 100
    verdict = page.get_by_test_id("stAlert").locator("visible=true")
    expect(verdict.filter(has_text="seasonal naive")).to_be_visible()
    choose(page, "Figures by", "step ahead")
    assert "etth1-336" in traces(chart(page, "MASE of each model at each step ahead"))
    shoot(page, "folds")

    tab(page, "Variates and seasons").click()
    assert len(traces(chart(page, "OT taken apart into trend"))) == 4
    heat = pixels(chart(page, "Weights of etth1-336 among the variates"))
    blue = heat[..., 2].astype(int) - heat[..., 0] > 60
    assert blue.sum() > 5000, "the heat map is drawn"
    shoot(page, "inside")

    tab(page, "Downloads").click()
    shoot(page, "downloads")
    text = download(page, "Forecast (CSV)", PATIENCE_S).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3 * 7 * 96
    assert rows[0]["ds"] == "2018-06-26 20:00:00"
    for row in rows:
        ends = [float(row[f"{end}-{level}"]) for end, level in (("lo", 95), ("lo", 50), ("hi", 50))]
        assert ends == sorted(ends)

    book = load_workbook(download(page, "Forecast (Excel)", PATIENCE_S), read_only=True)
    header, first, *_ = book["forecast"].iter_rows(values_only=True)
    assert header[:5] == ("unique_id", "model", "cutoff", "ds", "yhat")
    assert first[4] == pytest.approx(float(rows[0]["yhat"]), rel=1e-8)

    with zipfile.ZipFile(download(page, "Everything of this run (zip)", PATIENCE_S)) as archive:
        assert archive.testzip() is None
        config: dict[str, Any] = json.loads(archive.read("config.json"))
        report = archive.read("backtest/report/report.html").decode()
    assert config["data"]["file"] == "ETTh1.csv"
    assert config["settings"]["horizon"] == 96
    assert "<img" in report
    assert "http" not in re.sub(r"data:image/[^\"]+", "", report), "the report asks nobody"


def test_a_file_of_ones_own_from_nonsense_to_forecast(
    page, visit, upload, settle, shoot, tmp_path: Path
) -> None:
    visit(page, "timeseries")
    choose(page, "Data", "Your own file")
    expect(page.get_by_text("Choose a file")).to_be_visible()

    nonsense = tmp_path / "nonsense.csv"
    nonsense.write_bytes(bytes(range(256)) * 40)
    upload(page, nonsense)
    expect(page.get_by_role("alert")).to_contain_text("nonsense.csv is not text")
    assert "Traceback" not in page.content()
    shoot(page, "nonsense")

    gaps = tmp_path / "gaps.csv"
    table().drop(index=range(100, 106)).to_csv(gaps, index=False)
    upload(page, gaps)
    expect(page.get_by_text("6 stamps are missing")).to_be_visible()
    assert page.get_by_role("button", name="Forecast", exact=True).count() == 0
    page.get_by_test_id("stExpander").get_by_text("How the file is read").click()
    choose(page, "Fill gaps", "interpolate")
    expect(page.get_by_role("button", name="Forecast", exact=True)).to_be_visible()
    shoot(page, "filled")

    training = page.get_by_role("combobox", name="Models to train on this data")
    training.press("Backspace")  # what is trained is another test's business
    settle(page)
    forecast(page)
    settle(page, PATIENCE_S)
    assert "seasonal-mean" in traces(chart(page, "temp: the observed past and 24 steps"))
    choose(page, "Variate", "load")
    chart(page, "load: the observed past and 24 steps")
    tab(page, "Variates and seasons").click()
    expect(page.get_by_text("No model of this run mixes variates")).to_be_visible()
    shoot(page, "own")

    # Nothing of it stays when the data change.
    other = tmp_path / "other.csv"
    table(280).to_csv(other, index=False)
    upload(page, other)
    expect(page.get_by_text("have changed")).to_be_visible()
    expect(tab(page, "Past folds")).to_have_count(0)
    chart(page, "temp over time")


def test_on_a_telephone(narrow, visit, settle, pixels, shoot) -> None:
    visit(narrow, "timeseries")
    choose(narrow, "Data", "mean of each day")
    expect(narrow.get_by_text("frequency D")).to_be_visible()
    number(narrow, "Epochs at most", "1")
    settle(narrow)
    narrow.get_by_role("button", name="Forecast", exact=True).focus()
    narrow.keyboard.press("Enter")  # as good as a finger
    expect(tab(narrow, "Past folds")).to_be_visible(timeout=PATIENCE_S * 1000)
    settle(narrow, PATIENCE_S)
    found = chart(narrow, "OT: the observed past and 7 steps of forecast")
    assert near(pixels(found), LINE, 12) > 20
    shoot(narrow, "forecast")
    tab(narrow, "Past folds").click()
    chart(narrow, "what each model forecast in 10 past folds")
    wide = narrow.evaluate("() => document.querySelector('[data-testid=stMain]').scrollWidth")
    assert wide <= 390, "nothing hangs over the edge"
    shoot(narrow, "folds")


def test_a_training_can_be_cancelled(page, visit, settle, shoot) -> None:
    visit(page, "timeseries")
    field = page.get_by_role("combobox", name="Models to train on this data")
    field.fill("itransformer")
    page.get_by_role("option", name="itransformer").click()
    field.press("Escape")
    number(page, "Epochs at most", "20")
    settle(page)
    page.get_by_role("button", name="Forecast", exact=True).click()
    bars = page.get_by_role("progressbar")
    expect(bars.first).to_be_visible(timeout=PATIENCE_S * 1000)
    shoot(page, "training")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("was cancelled")).to_be_visible(timeout=PATIENCE_S * 1000)
    expect(tab(page, "Past folds")).to_have_count(0)
    shoot(page, "cancelled")
