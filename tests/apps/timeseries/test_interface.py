"""The Python interface: what its manual says, its listing, the same for files and frames."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import apps.timeseries as timeseries
from core.errors import DataError


def test_the_examples_of_the_manual_run(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    manual = (root / "docs" / "python.md").read_text(encoding="utf-8")
    section = manual.partition("## apps.timeseries")[2].partition("\n## ")[0]
    code = section.partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert "80 % intervals held" in said
    assert "seasonal naive" in said


def test_the_names_are_all_there_is_to_list():
    names = timeseries.list_models()
    assert names["seasonal-naive"].startswith("baseline: ")
    assert names["itransformer"].startswith("to train: ")
    assert names["etth1-96"] == "shipped: olinear trained on ETTh1.csv, 96 rows to 96"


@pytest.mark.parametrize("card", [{"app": "timeseries"}, {"app": "timeseries", "network": 3}])
def test_a_card_that_is_broken_is_named(tmp_path, monkeypatch, card):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_text(json.dumps(card))
    monkeypatch.setenv("TRIPTYCH_WEIGHTS", str(tmp_path))
    with pytest.raises(DataError, match=r"mine.model\.json: is not a model description"):
        timeseries.list_models()


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * (np.arange(300)[:, None] / 24 + np.arange(2) / 7))
    frame = pd.DataFrame(10 + wave + 0.2 * rng.normal(size=(300, 2)), columns=["a", "b"])
    return frame.assign(ds=pd.date_range("2024-01-01", periods=300, freq="h"))[["ds", "a", "b"]]


def test_a_data_frame_is_as_good_as_its_file(table, tmp_path):
    table.to_csv(tmp_path / "table.csv", index=False)
    results = [
        timeseries.forecast(data, "seasonal-naive", horizon=5).frame
        for data in (table, str(tmp_path / "table.csv"))
    ]
    pd.testing.assert_frame_equal(*results)
    scores = [
        timeseries.backtest(data, "drift", horizon=6, windows=3, baselines=[]).report["scores"]
        for data in (table, str(tmp_path / "table.csv"))
    ]
    assert scores[0]["drift"]["mae"] == scores[1]["drift"]["mae"]


def test_a_torn_data_frame_is_checked_and_mended_like_a_file(table):
    assert timeseries.check_file(table)["ok"]
    torn = table.drop(index=[50, 51])
    found = timeseries.check_file(torn)
    assert not found["ok"]
    assert [(p["kind"], p["count"]) for p in found["problems"]] == [("gaps", 2)]
    panel = timeseries.read_panel(torn, fill="interpolate")
    assert len(panel.series[0]) == 300
    assert len(torn) == 298  # the frame that was given stays as it was


def test_a_model_fitted_on_a_frame_forecasts_a_frame(table, tmp_path):
    small = {"dim": 8, "ffn": 8, "heads": 2}
    timeseries.fit(table, lookback=24, horizon=6, out=tmp_path / "m", max_steps=2, options=small)
    frame = timeseries.forecast(table[["ds", "b", "a"]], tmp_path / "m", levels=()).frame
    assert set(frame["unique_id"]) == {"a", "b"}
    assert len(frame) == 12
