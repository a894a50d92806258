"""The forecasting page without a browser: one click, files of one's own, bad ones, changed settings."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

pytest.importorskip("streamlit", reason="needs the extra 'demos'")

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

PAGE = "timeseries"
OWN = "Your own file"


def table(rows: int = 400, variates: int = 2, freq: str = "h") -> pd.DataFrame:
    """Noisy waves of 24 rows called v0, v1, ..."""
    rng = np.random.default_rng(0)
    waves = np.sin(2 * np.pi * (np.arange(rows)[:, None] / 24 + np.arange(variates) / 7))
    frame = pd.DataFrame(10 + 3 * waves + 0.3 * rng.normal(size=(rows, variates)))
    frame.columns = [f"v{i}" for i in range(variates)]
    frame.insert(0, "date", pd.date_range("2024-01-01", periods=rows, freq=freq).astype(str))
    return frame


def csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def give(app: AppTest, content: bytes, name: str = "load.csv") -> AppTest:
    """Hand the page a file of one's own."""
    if app.selectbox(key="forecasting-data").value != OWN:
        app.selectbox(key="forecasting-data").select(OWN).run()
    app.file_uploader(key="forecasting-file").set_value((name, content, "text/csv"))
    app.run()
    assert not app.exception, [element.message for element in app.exception]
    return app


def press(app: AppTest) -> AppTest:
    return app.button(key="forecasting-run").click().run()


def field(app: AppTest, kind: str, label: str) -> Any:
    """The first widget of that label; those of the second tab and later have others before them."""
    return next(widget for widget in getattr(app, kind) if widget.label == label)


def charts(app: AppTest, part: str) -> dict[str, Any]:
    """The Plotly figure whose alternative text holds ``part``."""
    found = [chart.proto for chart in app.get("plotly_chart")]
    return next(json.loads(proto.spec) for proto in found if part in proto.alt)


def frame_with(app: AppTest, column: str) -> pd.DataFrame:
    """The table that has that column."""
    return next(one.value for one in app.dataframe if column in one.value.columns)


def told(app: AppTest) -> str:
    """Everything the page says in words."""
    kinds = (app.error, app.warning, app.info, app.success, app.markdown, app.caption)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def result() -> Any:
    """The result of the newest job."""
    from demos.shared import jobs

    return list(jobs._jobs.values())[-1].result


def ran(app: AppTest) -> bool:
    return bool(app.tabs)


@pytest.fixture(scope="module")
def opened() -> Callable[[], AppTest]:
    from streamlit.testing.v1 import AppTest

    script = Path(__file__).resolve().parents[2] / "demos" / f"{PAGE}.py"
    return lambda: AppTest.from_file(str(script), default_timeout=120).run()


def test_one_click_forecasts_the_sample(open_page, settle, samples) -> None:
    app = open_page(PAGE)
    preview = charts(app, "folds to be forecast")
    boxes = [shape for shape in preview["layout"]["shapes"] if shape["type"] == "rect"]
    assert len(boxes) == 11  # ten folds, and the rows that make the intervals
    assert "no gaps, no duplicates" in told(app)
    assert not ran(app)

    app = settle(press(app))
    assert ran(app)
    assert [round(float(m.value.split()[0]) / 5) * 5 for m in app.metric] == [50, 80, 95]
    names = [trace["name"] for trace in charts(app, "steps of forecast")["data"]]
    assert {"observed", "etth1-336", "seasonal-mean", "seasonal-naive"} < set(names)
    assert [name for name in names if name in ("95 %", "80 %", "50 %")] == ["95 %", "80 %", "50 %"]
    scores = frame_with(app, "Skill, %")
    assert set(scores["Model"]) == {"etth1-336", "seasonal-mean", "seasonal-naive"}
    assert {"MASE", "sMAPE, %", "RMSE", "MSE", "CRPS", "In 95 %"} < set(scores.columns)
    assert scores["MASE"].is_monotonic_increasing
    assert "seasonal naive" in told(app)
    weights = charts(app, "Weights of etth1-336")["data"][0]
    assert weights["y"] == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    assert len(charts(app, "taken apart into trend")["data"]) == 4

    done = result()
    frame = done.frame
    assert len(frame) == 3 * 7 * 96
    nested = [
        frame[f"{e}-{x}"] for e, xs in (("lo", (95, 80, 50)), ("hi", (50, 80, 95))) for x in xs
    ]
    assert (np.diff(np.stack(nested), axis=0) >= 0).all()


def test_results_are_those_of_the_application(open_page, settle, samples) -> None:
    from apps.timeseries import forecast

    settle(press(open_page(PAGE)))
    mine = result().frame
    mine = mine[mine["model"] == "etth1-336"]
    theirs = forecast(samples / "ETTh1.csv", "etth1-336", horizon=96, levels=(50, 80, 95)).frame
    assert np.array_equal(mine["yhat"], theirs["yhat"])
    assert np.array_equal(mine["lo-95"], theirs["lo-95"])


def test_changed_settings_show_no_old_result(open_page, settle) -> None:
    app = settle(press(give(open_page(PAGE), csv(table()))))
    assert ran(app)
    field(app, "number_input", "Steps ahead").set_value(12).run()
    assert not ran(app)
    assert "have changed" in told(app)
    field(app, "number_input", "Steps ahead").set_value(24).run()
    assert ran(app), "the same settings find their result again"
    give(app, csv(table(variates=3)))
    assert not ran(app), "another file"


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"\x00\x01\x02" * 400, "load.csv", "not text"),
        (b"date,y\n", "load.csv", "no data"),
        (b"", "load.csv", "empty"),
        (b"MZ", "load.exe", "does not read such files"),
        (b"PK\x03\x04 not a workbook", "load.xlsx", "not a readable Excel file"),
        (b"hello", "load.parquet", "load.parquet"),
        (b"date,a\nx,1\ny,2\nz,3\n", "load.csv", "date"),
        (b"date,a,a\n2024-01-01,1,2\n", "load.csv", "two columns are called 'a'"),
        (b"name,colour\nA,red\nB,blue\n", "load.csv", "load.csv"),
    ],
)
def test_nonsense_is_told_in_a_sentence(opened, content: bytes, name: str, says: str) -> None:
    app = give(opened(), content, name)
    errors = [element.value.replace("\\", "") for element in app.error]
    assert len(errors) == 1, errors
    assert says in errors[0]
    assert "Traceback" not in errors[0]
    assert "did not expect" not in errors[0]
    assert not any(button.key == "forecasting-run" for button in app.button)


def test_gaps_stop_the_run_until_they_are_filled(open_page, settle) -> None:
    app = give(open_page(PAGE), csv(table().drop(index=range(100, 106))))
    assert "6 stamps are missing" in told(app)
    assert "“Fill gaps” ffill" in told(app)
    assert frame_with(app, "v0")["date"].iloc[0] == "2024-01-01 00:00:00"
    assert not any(button.key == "forecasting-run" for button in app.button)
    assert charts(app, "over time")
    field(app, "selectbox", "Fill gaps").select("interpolate").run()
    assert not app.error
    assert "with the repairs that you asked for" in told(app)
    assert ran(settle(press(app)))


def test_columns_can_be_chosen_and_sentinels_named(open_page) -> None:
    frame = table(variates=3)
    frame.loc[50:52, "v1"] = -9999.0
    app = give(open_page(PAGE), csv(frame))
    assert "-9999 stands 3 times" in told(app)
    field(app, "multiselect", "Columns to forecast").set_value(["v0", "v2"]).run()
    assert not app.error
    assert "2 to forecast: v0, v2" in told(app)
    field(app, "text_input", "Numbers that mean missing").set_value("none").run()
    assert "is no number" in app.error[0].value


def test_a_long_excel_file(open_page, settle) -> None:
    wide = table(300, 3).rename(columns={"date": "ds"})
    long = wide.melt("ds", var_name="unique_id", value_name="y")
    stream = io.BytesIO()
    long.assign(ds=pd.to_datetime(long["ds"])).to_excel(stream, index=False)
    app = give(open_page(PAGE), stream.getvalue(), "shops.xlsx")
    assert "3 series of 300 rows" in told(app)
    field(app, "number_input", "Series at most").set_value(2).run()
    field(app, "multiselect", "Models to train on this data").set_value([]).run()
    app = settle(press(app))
    assert sorted(result().frame["unique_id"].unique()) == ["v0", "v1"]
    field(app, "selectbox", "Figures by").select("series").run()
    assert frame_with(app, "Series")["Series"].tolist() == ["v0", "v1"]
    field(app, "selectbox", "Figures by").select("step ahead").run()
    assert charts(app, "at each step ahead")["data"]


def test_a_trained_model_can_be_taken_home(open_page, settle) -> None:
    from apps.timeseries import forecast
    from demos.forecasting import files

    frame = table()
    app = give(open_page(PAGE), csv(frame))
    assert field(app, "multiselect", "Models to train on this data").value == ["dlinear"]
    field(app, "number_input", "Epochs at most").set_value(1).run()
    app = settle(press(app))
    assert "dlinear" in frame_with(app, "Skill, %")["Model"].tolist()
    done = result()

    archive = files.archive(done)
    with zipfile.ZipFile(archive) as found:
        names = set(found.namelist())
        config = json.loads(found.read("config.json"))
        found.extractall(archive.parent / "home")
    assert {"forecast.csv", "forecast.xlsx", "backtest/report/report.html"} < names
    assert {"models/dlinear/model.json", "forecasts/dlinear/forecast.html"} < names
    assert not [name for name in names if "/run/" in name or name == "run.zip"]
    assert config["settings"]["epochs"] == 1
    assert config["data"]["sha256"] == done.panel.sha256

    # The model that was taken home says what the page said.
    again = forecast(frame, archive.parent / "home" / "models" / "dlinear", levels=(80,)).frame
    mine = done.frame[done.frame["model"] == "dlinear"]
    assert np.allclose(again["yhat"], mine["yhat"])
    # And what it says is what the files say.
    back = pd.read_csv(files.csv(done))
    assert np.allclose(back["yhat"], done.frame["yhat"])
    sheet = load_workbook(files.xlsx(done))["forecast"]
    assert sheet.max_row == len(done.frame) + 1
    assert sheet["A2"].value == done.frame["unique_id"][0]


def test_too_few_rows_are_said_and_the_forecast_is_there(open_page, settle) -> None:
    app = give(open_page(PAGE), csv(table(30)))
    field(app, "number_input", "Folds").set_value(20).run()
    assert "are needed" in told(app)
    app = settle(press(app))
    assert "No fold could be forecast" in told(app)
    assert len(result().frame)


def test_work_without_bounds_is_refused(open_page, settle) -> None:
    app = give(open_page(PAGE), csv(table(3000, 60)))
    field(app, "multiselect", "Models to train on this data").set_value([]).run()
    field(app, "number_input", "Steps ahead").set_value(1000).run()
    field(app, "number_input", "Folds").set_value(60).run()
    app = settle(press(app))
    assert "more than the 1,000,000 that this page shows" in told(app)
    assert not ran(app)


def test_a_cancelled_run_leaves_nothing(open_page, settle) -> None:
    from demos.shared import jobs

    app = give(open_page(PAGE), csv(table(2000, 3)))
    field(app, "multiselect", "Models to train on this data").set_value(["itransformer"]).run()
    field(app, "number_input", "Epochs at most").set_value(20).run()
    app = press(app)
    list(jobs._jobs.values())[-1].cancel()
    app = settle(app)
    assert "was cancelled" in told(app)
    assert not ran(app)


def test_rows_without_stamps_are_counted(open_page, settle) -> None:
    app = give(open_page(PAGE), csv(table(200).drop(columns="date")))
    assert "no column of stamps" in told(app)
    field(app, "multiselect", "Models to train on this data").set_value([]).run()
    field(app, "number_input", "Rows of a season").set_value(24).run()
    app = settle(press(app))
    assert charts(app, "steps of forecast")["data"][0]["x"][-1] == 199
    assert charts(app, "taken apart into trend")
    assert charts(app, "past folds")
