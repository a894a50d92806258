"""The future that follows a file: its stamps, units, intervals, records and refusals."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from apps.timeseries import calibrate
from apps.timeseries.data.panel import Panel, Series
from apps.timeseries.forecast import FILES, forecast, print_report, read_frame
from core.errors import DataError, ResourceError, UsageError


@dataclass
class Naive:
    """The value one season ago; counts what it was asked."""

    season: int = 24
    lookback: int = 24
    horizon: int | None = None
    quantiles: tuple[float, ...] = ()
    trained_until: str | None = None
    name: str = "naive"
    origins: list[int] = field(default_factory=list)

    def predict(self, series, origins, horizon):
        self.origins += list(origins)
        m = self.season
        return np.stack([series.values[o - m : o][np.arange(horizon) % m] for o in origins])

    def predict_quantiles(self, series, origins, horizon):
        # Far too narrow on purpose: conformalisation has to widen it.
        middle = self.predict(series, origins, horizon)[..., None]
        return middle + 0.05 * (np.asarray(self.quantiles) - 0.5)


def hourly(T=1500, N=2, seed=0, tz=None, start="2024-01-01", freq="h", noise=1.0, id="s"):
    rng = np.random.default_rng(seed)
    t = np.arange(T)[:, None]
    values = 10 + 3 * np.sin(2 * np.pi * t / 24 + np.arange(N)) + noise * rng.normal(size=(T, N))
    times = pd.date_range(start, periods=T, freq=freq, tz=tz)
    return Series(
        id=id, times=times, values=values, past=np.empty((T, 0)), known=np.empty((T, 0)), freq=freq
    )


def wide(series, names=("a", "b")):
    N = series.values.shape[1]
    return Panel(series=(series,), targets=tuple(names[:N]), source="file.csv", sha256="0" * 64)


def long(*series):
    return Panel(series=series, targets=("y",), layout="long", source="long.csv", sha256="1" * 64)


def test_frame_is_long_and_in_the_files_units() -> None:
    series = hourly()
    result = forecast(wide(series), Naive(), horizon=5)
    frame = result.frame
    assert list(frame) == [
        "unique_id", "model", "cutoff", "ds", "yhat", "lo-80", "hi-80", "lo-90", "hi-90",
    ]  # fmt: skip
    assert list(frame.unique_id) == ["a"] * 5 + ["b"] * 5
    assert (frame.cutoff == series.times[-1]).all()
    assert list(frame.ds[:5]) == list(pd.date_range(series.times[-1], periods=6, freq="h")[1:])
    np.testing.assert_array_equal(frame.yhat[:5], series.values[-24:-19, 0])
    np.testing.assert_array_equal(frame.yhat[5:], series.values[-24:-19, 1])
    assert (frame["lo-90"] < frame["lo-80"]).all()
    assert (frame["hi-80"] < frame["hi-90"]).all()


def test_coverage_is_measured_and_near_what_was_promised() -> None:
    result = forecast(wide(hourly(T=6000)), Naive(), horizon=24, levels=(80, 95))
    by_level = {entry["level"]: entry for entry in result.report["coverage"]}
    for level, entry in by_level.items():
        assert entry["kind"] == "pointwise"
        assert abs(entry["measured"] - level) < 2
        assert entry["count"] > 5000
        assert len(entry["by_step"]) == 24
        assert set(entry["by_series"]["series"]) == {"a", "b"}
    # And against the truth of a future that was never in the panel.
    whole = hourly(T=6000)
    hits = []
    for o in range(5000, 5976, 24):
        frame = forecast(wide(whole.head(o)), Naive(), horizon=24, levels=(80,)).frame
        truth = whole.values[o : o + 24].T.ravel()
        hits.append((truth >= frame["lo-80"]) & (truth <= frame["hi-80"]))
    assert abs(np.mean(hits) - 0.8) < 0.03


def test_intervals_use_nothing_before_the_training_border() -> None:
    series, model = hourly(), Naive(trained_until="2024-02-20 00:00:00")
    border = int(series.times.get_loc(pd.Timestamp("2024-02-20"))) + 1
    forecast(wide(series), model, horizon=6)
    assert min(model.origins) >= border
    assert max(model.origins) == len(series)
    free = Naive()
    forecast(wide(series), free, horizon=6)
    assert min(free.origins) < border


def test_the_border_of_another_time_zone_and_of_row_numbers() -> None:
    there = hourly(tz="Europe/Berlin")
    assert calibrate.rows_until(there, "2023-12-31 23:30:00+00:00") == 1
    assert calibrate.rows_until(there, "2024-01-01 01:00:00") == 2
    numbered = Series(
        id="s", times=pd.RangeIndex(50), values=np.zeros((50, 1)), past=np.empty((50, 0)),
        known=np.empty((50, 0)),
    )  # fmt: skip
    assert calibrate.rows_until(numbered, "9") == 10
    with pytest.raises(DataError, match="row numbers"):
        calibrate.rows_until(numbered, "2024-01-01")
    with pytest.raises(DataError, match="without"):
        calibrate.rows_until(there, "row nine")


def test_too_little_history_gives_no_intervals_and_says_so() -> None:
    result = forecast(wide(hourly(T=40)), Naive(), horizon=12, levels=(80, 90))
    assert result.frame[["lo-80", "hi-90"]].isna().all().all()
    assert np.isfinite(result.frame.yhat).all()
    assert result.report["coverage"] == []
    assert any("no intervals" in note and "too few" in note for note in result.report["notes"])
    assert forecast(wide(hourly()), Naive(), horizon=2, calibration=0).report["coverage"] == []


def test_a_level_that_the_history_cannot_give_is_left_out_alone() -> None:
    frame = forecast(wide(hourly()), Naive(), horizon=6, levels=(80, 99.9)).frame
    assert frame["lo-80"].notna().all()
    assert frame["lo-99.9"].isna().all()


def test_quantile_heads_are_conformalised() -> None:
    model = Naive(quantiles=(0.1, 0.5, 0.9))
    result = forecast(wide(hourly(T=6000)), model, horizon=12, levels=(80,))
    assert "conformalised quantile" in result.report["intervals"]["method"]
    assert abs(result.report["coverage"][0]["measured"] - 80) < 2
    assert ((result.frame["hi-80"] - result.frame["lo-80"]) > 1).all()


def test_joint_bands_are_wider_and_hold_paths() -> None:
    panel = wide(hourly(T=6000))
    joint = forecast(panel, Naive(), horizon=12, levels=(80,), joint=True)
    entry = joint.report["coverage"][0]
    assert entry["kind"] == "joint path"
    assert abs(entry["measured"] - 80) < 8
    alone = forecast(panel, Naive(), horizon=12, levels=(80,)).frame
    width = (joint.frame["hi-80"] - joint.frame["lo-80"]).mean()
    assert width > 1.3 * (alone["hi-80"] - alone["lo-80"]).mean()


def test_bounds_know_only_what_was_realised() -> None:
    """An error that explodes at the last origin must not have widened what was promised before."""
    series = hourly(T=3000, N=1)
    spoilt = series.values.copy()
    spoilt[-24:-12] += 1e6
    loud = Series(**{**series.__dict__, "values": spoilt})
    budget = calibrate.Budget(200)
    calm, wild = (calibrate.calibrate(Naive(), s, 12, (80,), budget) for s in (series, loud))
    # Origins are a day apart: only the last can differ, by its 12 values.
    assert calm.asked[80].sum() == wild.asked[80].sum()
    assert 0 < (calm.inside[80] - wild.inside[80]).sum() <= 12


def test_bounds_follow_where_they_miss_too_much(monkeypatch) -> None:
    """Errors grow by the day: ranks of the past alone always come too late."""
    series = hourly(T=6000, N=1, noise=0)
    rng = np.random.default_rng(0)
    series.values[:] += rng.normal(size=(6000, 1)) * np.linspace(1, 12, 6000)[:, None] ** 2
    budget = calibrate.Budget(200)

    def held() -> float:
        bands = calibrate.calibrate(Naive(), series, 24, (80,), budget)
        return float(bands.inside[80].sum() / bands.asked[80].sum())

    followed = held()
    monkeypatch.setattr(calibrate, "RATE", 0.0)
    still = held()
    assert still < 0.77
    assert followed > still + 0.01


@pytest.mark.parametrize("quantiles", [(), (0.1, 0.5, 0.9)])
def test_higher_levels_contain_lower_ones(quantiles) -> None:
    levels = (70, 75, 80, 85, 90, 95)
    frame = forecast(wide(hourly()), Naive(quantiles=quantiles), horizon=6, levels=levels).frame
    for inner, outer in pairwise(levels):
        assert (frame[f"lo-{outer}"] <= frame[f"lo-{inner}"]).all()
        assert (frame[f"hi-{inner}"] <= frame[f"hi-{outer}"]).all()


def test_bounds_lie_around_the_forecast_as_around_zero() -> None:
    series, budget = hourly(), calibrate.Budget(60)
    ahead = calibrate.predict(Naive(), series, [len(series)], 6)
    bare, there = (
        calibrate.calibrate(Naive(), series, 6, (80,), budget, ahead=a) for a in (None, ahead)
    )
    for offset, bound in zip(bare.bounds[80], there.bounds[80]):
        np.testing.assert_allclose(ahead[0][0] + offset, bound)


def test_paths_of_a_model_with_quantiles_have_bands_around_its_median() -> None:
    panel = wide(hourly(T=3000))
    models = Naive(quantiles=(0.1, 0.5, 0.9)), Naive()
    heads, plain = (forecast(panel, m, horizon=6, levels=(80,), joint=True) for m in models)
    assert "split conformal" in heads.report["intervals"]["method"]
    pd.testing.assert_frame_equal(heads.frame, plain.frame)


@pytest.mark.parametrize("joint", [False, True])
def test_targets_in_pieces_are_the_same(monkeypatch, joint) -> None:
    series, budget = hourly(T=2000, N=5), calibrate.Budget(60)
    whole = calibrate.calibrate(Naive(), series, 6, (80, 90), budget, joint=joint)
    monkeypatch.setattr(calibrate, "BLOCK", 2 * 60 * 6)
    cut = calibrate.calibrate(Naive(), series, 6, (80, 90), budget, joint=joint)
    for level in (80, 90):
        np.testing.assert_array_equal(whole.bounds[level], cut.bounds[level])
        np.testing.assert_array_equal(whole.inside[level], cut.inside[level])


def test_a_target_with_too_few_truths_is_alone_without_intervals() -> None:
    series = hourly(T=1500)
    series.values[: -2 * 24, 1] = np.nan
    result = forecast(wide(series), Naive(), horizon=6, levels=(80,))
    by_id = result.frame.groupby("unique_id")["lo-80"]
    assert by_id.get_group("a").notna().all()
    assert by_id.get_group("b").isna().all()
    assert any(
        "1 of 2 series have no intervals" in n and n.endswith("b") for n in result.report["notes"]
    )
    assert set(result.report["coverage"][0]["by_series"]["series"]) == {"a"}


@pytest.mark.parametrize(
    ("start", "freq", "tz", "first", "second"),
    [
        ("2024-01-31", "ME", None, "2024-05-31", "2024-06-30"),
        ("2024-03-30 21:00", "h", "Europe/Berlin", "2024-03-31 01:00:00+01:00", "2024-03-31 03:00:00+02:00"),
        ("2024-10-26 22:00", "h", "Europe/Berlin", "2024-10-27 02:00:00+02:00", "2024-10-27 02:00:00+01:00"),
        ("2024-03-27", "D", "Europe/Berlin", "2024-03-31 00:00:00+01:00", "2024-04-01 00:00:00+02:00"),
        ("2024-01-02", "B", None, "2024-01-08", "2024-01-09"),
    ],
)  # fmt: skip
def test_stamps_across_month_ends_and_daylight_saving(
    tmp_path, start, freq, tz, first, second
) -> None:
    series = hourly(T=4, N=1, start=start, freq=freq, tz=tz)
    result = forecast(wide(series), Naive(season=1, lookback=1), horizon=2, out=tmp_path / "out")
    text = pd.read_csv(tmp_path / "out" / "forecast.csv", dtype=str)
    assert list(text.ds) == [first, second]
    assert str(result.frame.ds.dtype.tz if tz else None) == str(tz)
    assert list(result.frame.ds) == [pd.Timestamp(s).tz_convert(tz) if tz else pd.Timestamp(s) for s in (first, second)]  # fmt: skip


def test_row_numbers_go_on(tmp_path) -> None:
    series = Series(
        id="s", times=pd.RangeIndex(100), values=np.arange(100.0)[:, None],
        past=np.empty((100, 0)), known=np.empty((100, 0)),
    )  # fmt: skip
    frame = forecast(wide(series), Naive(season=1, lookback=1), horizon=3, out=tmp_path / "o").frame
    assert list(frame.ds) == [100, 101, 102]
    assert (frame.cutoff == 99).all()


def test_folder_holds_everything(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    result = forecast(wide(hourly()), Naive(), horizon=7, out=out)
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    record = json.loads((out / "forecast.json").read_text())
    assert record["model"]["name"] == "naive"
    assert record["horizon"] == 7
    assert record["data"]["sha256"] == "0" * 64
    assert record["cutoffs"] == {"all": "2024-03-03 11:00:00"}
    assert record["environment"]["packages"]["numpy"]
    assert {entry["kind"] for entry in record["coverage"]} == {"pointwise"}
    assert (out / "forecast.png").read_bytes()[:4] == b"\x89PNG"
    page = (out / "forecast.html").read_text(encoding="utf-8")
    assert "pointwise" in page
    memory = forecast(wide(hourly()), Naive(), horizon=7).frame
    pd.testing.assert_frame_equal(read_frame(out / "forecast.csv", record["data"]["clock"]), memory,
                                  check_dtype=False, rtol=1e-8)  # fmt: skip
    print_report(result)
    printed = capsys.readouterr().out
    assert "pointwise" in printed
    assert "held" in printed


def test_nothing_is_overwritten_without_force(tmp_path) -> None:
    out, model = tmp_path / "out", Naive()
    forecast(wide(hourly(T=300)), model, horizon=3, out=out)
    before, asked = (out / "forecast.csv").read_bytes(), len(model.origins)
    with pytest.raises(UsageError, match="--force"):
        forecast(wide(hourly(T=300, seed=1)), model, horizon=3, out=out)
    assert (out / "forecast.csv").read_bytes() == before
    assert len(model.origins) == asked, "refused before any work"
    (out / "mine.txt").write_text("keep")
    forecast(wide(hourly(T=300, seed=1)), model, horizon=3, out=out, force=True)
    assert (out / "forecast.csv").read_bytes() != before
    assert (out / "mine.txt").read_text() == "keep"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file|exists"):
        forecast(wide(hourly(T=300)), model, horizon=3, out=tmp_path / "file")


def test_an_empty_folder_is_no_obstacle(tmp_path) -> None:
    forecast(wide(hourly(T=300)), Naive(), horizon=3, out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)


def test_a_failure_leaves_nothing(tmp_path) -> None:
    class Broken(Naive):
        def predict(self, series, origins, horizon):
            if series.id == "t":
                raise ResourceError("no memory")
            return super().predict(series, origins, horizon)

    panel = long(hourly(N=1), hourly(N=1, id="t"))
    for out in (tmp_path / "new", tmp_path):
        with pytest.raises(ResourceError):
            forecast(panel, Broken(), horizon=3, out=out)
        assert list(tmp_path.iterdir()) == []


def test_many_series_and_only_some(tmp_path) -> None:
    panel = long(*(hourly(T=200 + i, N=1, seed=i, id=f"s{i}") for i in range(30)))
    result = forecast(panel, Naive(), horizon=4, out=tmp_path / "out", max_series_plotted=3)
    assert result.frame.unique_id.nunique() == 30
    assert len(result.report["cutoffs"]) == 30
    assert "first 3 of 30" in (tmp_path / "out" / "forecast.html").read_text(encoding="utf-8")
    some = forecast(panel, Naive(), horizon=4, series=["s7", "s2"])
    assert list(dict.fromkeys(some.frame.unique_id)) == ["s2", "s7"]
    alone = forecast(wide(hourly()), Naive(), horizon=4, series=["b"])
    assert set(alone.frame.unique_id) == {"b"}
    with pytest.raises(UsageError, match="Did you mean 's7'"):
        forecast(panel, Naive(), horizon=4, series=["s7x"])


def test_series_called_as_missing_values_are_read_back(tmp_path) -> None:
    """NA is Namibia; numbers that are missing stay so."""
    names = ["NA", "nan", "null", "007", "DE"]
    lengths = [30, 200, 200, 200, 200]  # the first is too short for intervals
    panel = long(*(hourly(T=n, N=1, id=name) for n, name in zip(lengths, names)))
    written = forecast(panel, Naive(), horizon=4, out=tmp_path / "out").frame
    kept = forecast(panel, Naive(), horizon=4).frame
    assert list(dict.fromkeys(written.unique_id)) == names
    numbers = [name for name in written if name not in ("unique_id", "model", "cutoff", "ds")]
    np.testing.assert_allclose(written[numbers], kept[numbers], rtol=1e-8)
    assert written["lo-80"].isna().sum() == 4
    assert list(written["ds"]) == list(kept["ds"])


def test_a_csv_in_chunks_is_the_same(tmp_path, monkeypatch) -> None:
    panel = long(*(hourly(T=200, N=1, seed=i, id=f"s{i}", tz="Europe/Berlin") for i in range(7)))
    forecast(panel, Naive(), horizon=5, out=tmp_path / "whole")
    monkeypatch.setattr(sys.modules[forecast.__module__], "CHUNK", 6)
    forecast(panel, Naive(), horizon=5, out=tmp_path / "cut")
    whole, cut = ((tmp_path / n / "forecast.csv").read_text() for n in ("whole", "cut"))
    assert whole == cut
    assert whole.count("unique_id") == 1


def test_the_future_changes_nothing() -> None:
    whole = hourly(T=900)
    cut = whole.head(800)  # its clock still runs to 900
    other = whole.values.copy()
    other[800:] = 1e9
    spoilt = Series(**{**whole.__dict__, "values": other}).head(800)
    frames = [forecast(wide(s), Naive(), horizon=5).frame for s in (cut, spoilt)]
    pd.testing.assert_frame_equal(*frames)
    assert frames[0].ds[0] == whole.times[800]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon 0"),
        ({"horizon": -3}, "horizon -3"),
        ({}, "--horizon"),
        ({"horizon": 3, "levels": (100,)}, "level 100"),
        ({"horizon": 3, "levels": (0,)}, "level 0"),
        ({"horizon": 3, "calibration": -1}, "calibration -1"),
        ({"horizon": 3, "freq": "h"}, "freq"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        forecast(wide(hourly(T=100)), Naive(), **options)


def test_horizon_longer_than_trained() -> None:
    panel = wide(hourly(T=400))
    with pytest.raises(UsageError, match="use --horizon 24 or fit with --horizon 30"):
        forecast(panel, Naive(horizon=24), horizon=30)
    assert forecast(panel, Naive(horizon=24)).report["horizon"] == 24

    rolling = Naive(horizon=24)
    rolling.rolled = lambda horizon: True
    assert "fed back" in " ".join(forecast(panel, rolling, horizon=30).report["notes"])
    generating = Naive()
    generating.trained_horizon = 24
    assert "step by step" in " ".join(forecast(panel, generating, horizon=30).report["notes"])


def test_short_history_names_the_count() -> None:
    with pytest.raises(DataError, match="needs 24 rows of history and series s has 23"):
        forecast(wide(hourly(T=23)), Naive(), horizon=3)
    panel = long(hourly(N=1), hourly(T=5, N=1, id="x"), hourly(T=6, N=1, id="z"))
    with pytest.raises(DataError, match=r"2 series have less: x \(5\), z \(6\)"):
        forecast(panel, Naive(), horizon=3)


def test_irregular_stamps_have_no_future() -> None:
    series = Series(**{**hourly(T=100).__dict__, "freq": None})
    with pytest.raises(DataError, match="--freq"):
        forecast(wide(series), Naive(), horizon=3)


def test_forecasts_that_are_no_numbers_are_refused() -> None:
    series = hourly(T=100)
    series.values[-3, 0] = np.nan
    with pytest.raises(DataError, match="--fill"):
        forecast(wide(series), Naive(), horizon=24)


def test_a_model_that_is_not_trained_says_how() -> None:
    with pytest.raises(UsageError, match="fit FILE --model itransformer"):
        forecast(wide(hourly(T=100)), "iTransformer", horizon=3)
    with pytest.raises(UsageError, match="Did you mean"):
        forecast(wide(hourly(T=100)), "seasonal-naiv", horizon=3)


@pytest.mark.parametrize("name", ["seasonal-naive", "last-value", "drift", "seasonal-mean"])
def test_baselines_by_name(name) -> None:
    result = forecast(wide(hourly(T=500)), name, horizon=6)
    assert set(result.frame.model) == {name}
    assert result.frame.notna().all().all()


def test_budget_is_bounded() -> None:
    assert calibrate.Budget.of(1, 7, 96, 200).origins == 200
    assert calibrate.Budget.of(1000, 1, 24, 200).origins == 40
    assert calibrate.Budget.of(1, 1000, 720, 200).origins == 40
    assert calibrate.Budget.of(1, 7, 96, 0).origins == 0


def test_origins_keep_the_phase_of_the_end() -> None:
    origins, stride = calibrate.past_origins(Naive(), hourly(T=17420), 96, 200)
    assert stride == 24
    assert len(origins) == 200
    assert ((17420 - origins) % 24 == 0).all()
    short, near = calibrate.past_origins(Naive(), hourly(T=300), 12, 200)
    assert near < 24
    assert short.max() < 300
    assert short.min() >= 48
