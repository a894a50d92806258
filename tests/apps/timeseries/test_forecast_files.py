"""Files against a model that was fitted on another one: the same columns, the same clock, or an error."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.fit import fit
from apps.timeseries.forecast import forecast, html
from core.errors import DataError, UsageError

T = 600


def table(rows: int = T, tz: str | None = None, start: str = "2024-01-01") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    t = np.arange(rows)[:, None]
    values = 10 + 3 * np.sin(2 * np.pi * (t / 24 + [0, 0.3])) + 0.3 * rng.normal(size=(rows, 2))
    frame = pd.DataFrame(values, columns=["load", "temp"])
    frame.insert(0, "date", pd.date_range(start, periods=rows, freq="h", tz=tz))
    return frame


def long(frame: pd.DataFrame, names: str, scale: float = 1.0) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"unique_id": name, "ds": frame.date, "y": scale * frame.load})
        for name in names
    ]
    return pd.concat(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder):
    table().to_csv(folder / "train.csv", index=False)
    fit(folder / "train.csv", "dlinear", horizon=6, lookback=24, out=folder / "m", max_steps=30)
    return folder / "m"


@pytest.fixture(scope="module")
def long_model(folder):
    long(table(), "ab").to_csv(folder / "long.csv", index=False)
    fit(folder / "long.csv", "dlinear", horizon=6, lookback=24, out=folder / "l", max_steps=30)
    return folder / "l"


def save(tmp_path, frame: pd.DataFrame, **options):
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False, **options)
    return path


def test_reordered_and_added_columns_change_nothing(model, tmp_path) -> None:
    expected = forecast(save(tmp_path, table()), model).frame
    turned = forecast(save(tmp_path, table()[["temp", "date", "load"]]), model)
    pd.testing.assert_frame_equal(turned.frame, expected)
    more = forecast(save(tmp_path, table().assign(price=1.0 + np.arange(T))), model)
    pd.testing.assert_frame_equal(more.frame, expected)
    assert any("not used by the model: price" in note for note in more.report["notes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(columns={"temp": "t2m"}), r"lacks the target temp .*it has t2m"),
        (lambda f: f.drop(columns="temp"), "lacks the target temp"),
        (lambda f: f.iloc[::2], "frequency 2h, the model was trained on frequency h"),
        (lambda f: f.head(23), "needs 24 rows of history"),
        (lambda f: f.drop(index=300), "--fill"),
    ],
)
def test_files_that_do_not_fit(model, tmp_path, change, message) -> None:
    with pytest.raises(DataError, match=message):
        forecast(save(tmp_path, change(table())), model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_history_of_exactly_the_lookback(model, tmp_path) -> None:
    result = forecast(save(tmp_path, table(24)), model)
    assert np.isfinite(result.frame.yhat).all()
    assert result.frame["lo-80"].isna().all()
    assert any("no intervals" in note for note in result.report["notes"])


def test_the_intervals_of_a_model_come_from_rows_it_has_not_seen(model, tmp_path) -> None:
    """On the file of training, from its test rows; on one that ends before, there are none."""
    until = pd.Timestamp(json.loads((model / "model.json").read_text())["data"]["trained_until"])
    frame = table()
    seen = frame[frame.date <= until]
    assert len(seen) > 400
    result = forecast(save(tmp_path, seen), model)
    assert result.frame["lo-80"].isna().all()
    assert result.report["coverage"] == []
    assert forecast(save(tmp_path, frame), model).frame["lo-80"].notna().all()


def test_horizons(model, tmp_path) -> None:
    path = save(tmp_path, table())
    six, three = forecast(path, model).frame, forecast(path, model, horizon=3).frame
    first = six.groupby("unique_id").head(3).reset_index(drop=True)
    np.testing.assert_allclose(three.yhat, first.yhat, rtol=1e-6)
    rolled = forecast(path, model, horizon=20)
    assert rolled.report["horizon"] == 20
    assert any("fed back" in note for note in rolled.report["notes"])
    with pytest.raises(UsageError, match="horizon 0"):
        forecast(path, model, horizon=0)


def test_a_new_series_is_scaled_by_its_own_history(long_model, tmp_path) -> None:
    frame = pd.concat([long(table(), "ab"), long(table(), "n", 1000.0)])
    result = forecast(save(tmp_path, frame), long_model)
    assert any("1 of 3 series are new" in note for note in result.report["notes"])
    old, new = (result.frame[result.frame.unique_id == name] for name in "an")
    np.testing.assert_allclose(new.yhat.to_numpy() / 1000, old.yhat.to_numpy(), rtol=0.02)


def test_series_of_numbers_as_ids_keep_their_names(long_model, tmp_path) -> None:
    frame = long(table(), "ab").replace({"unique_id": {"a": "007", "b": "8"}})
    result = forecast(save(tmp_path, frame), long_model, out=tmp_path / "out")
    assert sorted(set(result.frame.unique_id)) == ["007", "8"]


def test_large_numbers_keep_their_digits(tmp_path) -> None:
    frame = table()[["date"]].assign(count=123_456_789_000.0 + np.arange(T))
    forecast(save(tmp_path, frame), "drift", horizon=3, out=tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "forecast.csv").yhat) == pytest.approx(
        123_456_789_000 + T + np.arange(3), abs=1e-3, rel=0
    )


def test_stamps_in_an_index_are_stamps(tmp_path) -> None:
    """Of a frame and of a series; in whatever order."""
    frame = table()
    whole = forecast(save(tmp_path, frame), "seasonal-naive", horizon=3).frame
    shuffled = frame.set_index("date").sample(frac=1, random_state=0)
    found = forecast(shuffled, "seasonal-naive", horizon=3).frame
    assert list(found.ds) == list(whole.ds)
    np.testing.assert_array_equal(found.yhat, whole.yhat)
    one = forecast(shuffled["load"], "seasonal-naive", horizon=3).frame
    np.testing.assert_array_equal(one.yhat, whole[whole.unique_id == "load"].yhat)
    with pytest.raises(UsageError, match="data of type dict is not read"):
        forecast({"load": [1.0, 2.0]}, "seasonal-naive", horizon=3)


def test_time_zones_come_back(model, tmp_path) -> None:
    path = save(tmp_path, table(tz="UTC", start="2024-01-01"))
    result = forecast(path, "seasonal-naive", horizon=2, tz="Europe/Berlin", out=tmp_path / "out")
    stamps = pd.read_csv(tmp_path / "out" / "forecast.csv").ds
    assert result.frame.ds.dt.tz is not None
    assert pd.Timestamp(stamps[0]) == pd.Timestamp("2024-01-26 00:00", tz="UTC")


def test_one_model_on_another_layout(model, long_model, tmp_path) -> None:
    with pytest.raises(DataError, match="lacks the targets load, temp"):
        forecast(save(tmp_path, long(table(), "ab")), model)
    with pytest.raises(DataError, match=r"no column 'y'.* the model was trained on it"):
        forecast(save(tmp_path, table()), long_model)
    with pytest.raises(UsageError, match="no column 'z'"):
        forecast(save(tmp_path, table()), long_model, targets=("z",))


def test_the_page_can_be_made_without_a_folder(tmp_path) -> None:
    path = save(tmp_path, table())
    here = forecast(path, "seasonal-naive", horizon=3)
    there = forecast(path, "seasonal-naive", horizon=3, out=tmp_path / "out")
    assert [fan.name for fan in here.fans] == [fan.name for fan in there.fans]
    assert "Forecast: seasonal-naive, 3 steps" in html(here)
    assert "interval (pointwise): held" in html(here)
