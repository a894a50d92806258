"""Reports say what the folders hold, and nothing that was not measured."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.fit import fit
from apps.timeseries.forecast import forecast
from apps.timeseries.report import (
    Document,
    Picture,
    Points,
    Table,
    print_report,
    report,
    to_html,
    to_markdown,
)
from core.errors import DataError, UsageError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A CSV of two daily cycles on an hourly clock."""
    rng = np.random.default_rng(0)
    t = np.arange(600)[:, None]
    values = 10 + 3 * np.sin(2 * np.pi * (t / 24 + [0, 0.3])) + 0.3 * rng.normal(size=(600, 2))
    frame = pd.DataFrame(values, columns=["load", "temp"])
    frame.insert(0, "date", pd.date_range("2024-01-01", periods=600, freq="h"))
    path = tmp_path_factory.mktemp("data") / "two.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "m"
    fit(file, "dlinear", horizon=6, lookback=24, out=out, max_steps=40)
    return out


def clean(page: str) -> None:
    """A page that carries all it shows."""
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=\"(?!data:)", page)
    assert not re.search(r"<img[^>]*src=\"(?!data:image/png;base64,)", page)


def test_a_models_card(model, file, tmp_path, capsys) -> None:
    written = report(model, tmp_path / "out", data=file)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    clean(page)
    card = json.loads((model / "model.json").read_text())
    for needed in (
        card["data"]["sha256"], card["data"]["trained_until"], card["tensors"]["sha256"],
        "seasonal-naive", "(pointwise)", "licence", "standard deviation", "seed",
    ):  # fmt: skip
        assert needed in page
        assert needed.replace("_", "\\_") in text
    test = card["metrics"]["test"]
    assert f"| dlinear | {test['mse']:.4g} | {test['mae']:.4g} |" in text
    assert {"error_by_horizon.png", "residuals.png", "coverage.png"} <= set(written["files"])
    for name in written["files"]:
        assert (tmp_path / "out" / name).is_file()
        assert name in text or name.startswith("report.")
    print_report(written)
    assert "Test errors" in capsys.readouterr().out


def test_a_model_that_loses_against_a_naive_forecast_is_told_so(model, tmp_path) -> None:
    card = json.loads((model / "model.json").read_text())
    card["metrics"]["test"] |= {"mse": 9.0, "naive": {"drift": {"mse": 4.5, "mae": 1.0}}}
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    report(folder)
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "100.0 % above that of the best naive forecast (drift)" in text
    assert "Use the naive forecast" in text


def test_nothing_measured_is_said_as_such(model, file, tmp_path) -> None:
    card = json.loads((model / "model.json").read_text())
    card["metrics"], card["coverage"] = {}, {}
    card["data"]["trained_until"] = "2024-01-25 21:00:00"  # two rows before the end
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    report(folder, data=file)
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "No test error was measured" in text
    assert "No coverage was measured" in text
    assert "2 rows after those that the model was trained on; 6 are needed" in text


def test_a_forecast(model, file, tmp_path) -> None:
    forecast(file, model, out=tmp_path / "f")
    written = report(tmp_path / "f")
    assert written["kind"] == "forecast"
    place = tmp_path / "f" / "report"
    text = (place / "report.md").read_text(encoding="utf-8")
    assert (place / "forecast.png").read_bytes() == (tmp_path / "f" / "forecast.png").read_bytes()
    assert "2024-01-25 23:00:00" in text
    assert "80 % (pointwise)" in text
    clean((place / "report.html").read_text(encoding="utf-8"))


def test_a_backtest(file, tmp_path) -> None:
    from apps.timeseries.backtest import backtest

    found = backtest(file, "last-value", horizon=6, windows=8, out=tmp_path / "b").report
    written = report(tmp_path / "b")
    assert written["kind"] == "backtest"
    text = (tmp_path / "b" / "report" / "report.md").read_text(encoding="utf-8")
    assert f"{found['scores']['last-value']['mae_scaled']:.4g}" in text
    assert "seasonal-naive" in text
    assert "48 residuals" in text
    assert {"error_by_horizon.png", "residuals.png"} <= set(written["files"])
    clean((tmp_path / "b" / "report" / "report.html").read_text(encoding="utf-8"))


def test_a_backtest_of_a_series_called_na(file, tmp_path) -> None:
    from apps.timeseries.backtest import backtest

    table = pd.read_csv(file).rename(columns={"load": "y"}).assign(unique_id="NA")
    options = {"horizon": 6, "windows": 8, "targets": ["y"]}
    backtest(table, "last-value", **options, out=tmp_path / "b")
    report(tmp_path / "b")
    assert "48 residuals (last-value, series NA)" in (
        tmp_path / "b" / "report" / "report.md"
    ).read_text("utf-8")


def test_a_comparison(file, tmp_path) -> None:
    from apps.timeseries.compare import compare, markdown

    frame = pd.read_csv(file).rename(columns={"load": "load <i>"})
    models = ["last-value", "drift"]
    done = compare(frame, models, horizon=6, windows=12, out=tmp_path / "c").report
    written = report(tmp_path / "c")
    assert written["kind"] == "comparison"
    place = tmp_path / "c" / "report"
    text = (place / "report.md").read_text(encoding="utf-8").replace("\\", "")
    page = (place / "report.html").read_text(encoding="utf-8")
    assert text.startswith("# Comparison of models on ")
    assert "<h1>Comparison of models on " in page
    assert done["conclusion"] in text
    assert html.escape(done["conclusion"]) in page
    for line in markdown(done).splitlines():  # ranks, p values and pairs, as compare's own
        if line.startswith(("- ", "| ")) and "---" not in line:
            assert line in text
    assert f'<td class="number">{done["ranks"]["drift"]["windows"]:.2f}</td>' in page
    assert "those of each against each are" in text
    clean(page)
    print_report(written)
    broken = json.loads((tmp_path / "c" / "report.json").read_text()) | {"ranks": {"<b>": {}}}
    (tmp_path / "c" / "report.json").write_text(json.dumps(broken))
    with pytest.raises(DataError, match=r"report.json: lacks 'windows'; compare again"):
        report(tmp_path / "c", force=True)


def test_names_of_compared_models_are_escaped(file, tmp_path) -> None:
    from apps.timeseries.compare import compare

    compare(file, ["last-value", "drift"], horizon=6, windows=4, out=tmp_path / "c")
    source = tmp_path / "c" / "report.json"
    source.write_text(
        source.read_text().replace('"drift"', '"<script>"').replace("drift ", "<script> ")
    )
    table = tmp_path / "c" / "backtest.csv"
    table.write_text(table.read_text().replace("drift", "<script>"))
    report(tmp_path / "c")
    page = (tmp_path / "c" / "report" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt; against" in page or "against &lt;script&gt;" in page
    assert "<script>" not in page


def test_refusals(model, file, tmp_path) -> None:
    report(model, tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        report(model, tmp_path / "out")
    report(model, tmp_path / "out", force=True)
    with pytest.raises(UsageError, match="holds no model, forecast or backtest"):
        report(file.parent)
    with pytest.raises(UsageError, match="unknown model"):
        report("nothing")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "forecast.json").write_text('{"model": {"name": "x"}}')
    with pytest.raises(DataError, match=r"forecast.json: lacks 'data'; forecast again"):
        report(broken)
    with pytest.raises(UsageError, match="--data is for model folders"):
        report(broken, data=file)


def test_text_that_looks_like_markup_stays_text() -> None:
    document = Document("T <b>")
    document.add("S", "a | b *c*", Table(("", "x", "y"), [["<i>", "1", "2"]]), Points(["<u>"]))
    document.add("empty")
    page = to_html(document, {})
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert "&lt;u&gt;" in page
    text = to_markdown(document)
    assert r"a \| b \*c\*" in text
    assert "| --- | ---: | ---: |" in text
    assert "empty" not in text
    assert Picture("x.png", "t", data=b"1").png() == b"1"
