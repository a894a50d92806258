"""Rolling-origin evaluation: who learns from what, what is measured, and what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apps.timeseries import metrics
from apps.timeseries.backtest import CSV, FILES, backtest, kind_of, print_report
from apps.timeseries.data.panel import Panel, Series, rows_until
from apps.timeseries.rolling import make_plan
from apps.timeseries.scoring import holm, outcome_of, skill, verdict_of
from core.errors import DataError, UsageError

H = 6


def series(
    values: np.ndarray, id: str = "s", start: str = "2024-01-01", tz: str | None = None
) -> Series:
    values = np.asarray(values, float).reshape(len(values), -1)
    times = pd.date_range(start, periods=len(values), freq="h", tz=tz)
    none = np.empty((len(values), 0))
    return Series(id, times, values, none, none, freq="h")


def wave(T: int, seed: int = 0, noise: float = 0.3, columns: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cycle = np.sin(2 * np.pi * np.arange(T) / 24)[:, None]
    return 10 + 3 * cycle + noise * rng.normal(size=(T, columns))


def wide(values: np.ndarray, **options: Any) -> Panel:
    one = series(values, **options)
    names = tuple("abcdefgh"[: one.values.shape[1]])
    return Panel((one,), names, source="data.csv", sha256="0" * 64)


def long(*many: Series) -> Panel:
    return Panel(many, ("y",), layout="long", source="data.csv")


@dataclass
class Seen:
    """What a method was shown: the last value of each fit, and of each prediction."""

    fits: list[np.ndarray] = field(default_factory=list)
    calls: list[tuple[np.ndarray, list[int]]] = field(default_factory=list)


@dataclass
class Climate:
    """Forecasts the mean of each hour of the day over what it was fitted on; ``trainable``."""

    name: str = "climate"
    trainable: bool = True
    lookback: int = 3
    seen: Seen = field(default_factory=Seen)
    until: str | None = None

    def fit(self, panel: Panel, *, horizon: int, seed: int = 0, progress: Any = None) -> Any:
        self.seen.fits += [s.values.copy() for s in panel]
        means = {}
        for s in panel:
            rows = len(s) // 24 * 24
            means[s.id] = s.values[:rows].reshape(-1, 24, s.values.shape[1]).mean(0)
        return Fitted(self.name, means, self.seen, self.lookback, self.until)


@dataclass
class Fitted:
    name: str
    means: dict[str, np.ndarray]
    seen: Seen
    lookback: int
    trained_until: str | None
    horizon: int | None = None
    quantiles: tuple[float, ...] = ()
    season: int = 24

    def predict(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        self.seen.calls.append((series.values.copy(), list(origins)))
        rows = np.asarray(origins)[:, None] + np.arange(horizon)
        return self.means[series.id][rows % 24]


class Quantiles(Climate):
    """The same with a normal distribution of the true spread around it."""

    def fit(self, panel: Panel, **options: Any) -> Any:
        fitted = super().fit(panel, **options)
        fitted.quantiles = (0.1, 0.5, 0.9)
        fitted.predict_quantiles = lambda s, o, h: (
            fitted.predict(s, o, h)[..., None] + 0.3 * 1.2816 * np.array([-1.0, 0.0, 1.0])
        )
        return fitted


def run(panel: Panel, models: Any = "seasonal-naive", **options: Any) -> Any:
    settings: dict[str, Any] = {"horizon": H, "windows": 4, "baselines": []}
    return backtest(panel, models, **{**settings, **options})


def test_windows_end_with_the_data_and_carry_the_truth() -> None:
    values = wave(400, columns=2)
    result = run(wide(values), windows=3, step=10)
    frame = result.frame
    assert list(frame.columns[:6]) == ["unique_id", "model", "cutoff", "ds", "y", "yhat"]
    assert len(frame) == 2 * 3 * H
    times = pd.date_range("2024-01-01", periods=400, freq="h")
    origins = [400 - H - 20, 400 - H - 10, 400 - H]
    assert sorted(frame.cutoff.unique()) == [times[o - 1] for o in origins]
    assert (frame.ds > frame.cutoff).all()
    assert frame.ds.max() == times[-1]
    for name, column in (("a", 0), ("b", 1)):
        mine = frame[frame.unique_id == name]
        rows = times.get_indexer(mine.ds)
        np.testing.assert_array_equal(mine.y, values[rows, column])
        np.testing.assert_array_equal(mine.yhat, values[rows - 24, column])  # seasonal naive


def test_metrics_are_those_of_the_frame() -> None:
    values = wave(500, columns=2) * [1.0, 50.0]
    result = run(wide(values), Climate(), windows=5)
    mine = result.frame[result.frame.model == "climate"]
    scores = result.report["scores"]["climate"]
    assert scores["mae"] == pytest.approx(metrics.mae(mine.y, mine.yhat))
    assert scores["mse"] == pytest.approx(metrics.mse(mine.y, mine.yhat))
    assert scores["rmse"] == pytest.approx(metrics.rmse(mine.y, mine.yhat))
    assert scores["smape"] == pytest.approx(metrics.smape(mine.y, mine.yhat))
    held = 500 - 5 * H - result.report["calibration"]["rows_held_back"]
    deviation = {"a": values[:held, 0].std(), "b": values[:held, 1].std()}
    scaled = (mine.y - mine.yhat).abs() / mine.unique_id.map(deviation).astype(float)
    assert scores["mae_scaled"] == pytest.approx(scaled.mean())
    by_step = scaled.groupby(mine.groupby(["unique_id", "cutoff"], observed=True).cumcount()).mean()
    np.testing.assert_allclose(scores["per_horizon"]["mae_scaled"], by_step)
    by_window = scaled.groupby(mine.cutoff).mean()
    np.testing.assert_allclose(scores["per_window"]["mae_scaled"], by_window)
    b = mine[mine.unique_id == "b"]
    history = values[:held, [1]]
    assert scores["per_series"]["b"]["mase"] == pytest.approx(
        metrics.mase(b.y.to_numpy()[:, None], b.yhat.to_numpy()[:, None], history, 24)
    )
    inside = b.y.between(b["lo-80"], b["hi-80"])
    assert scores["per_series"]["b"]["coverage-80"] == pytest.approx(inside.mean())


@pytest.mark.parametrize("refit", ["never", "always", 2])
def test_nothing_at_or_after_the_cutoff_is_seen(refit: str | int) -> None:
    values = np.arange(400.0)[:, None]  # a value is its row's number
    model = Climate()
    result = run(wide(values), model, windows=4, refit=refit)
    plan = result.report["calibration"]
    starts = [400 - H * k for k in (4, 3, 2, 1)]
    held = starts[0] - plan["rows_held_back"]
    fitted_before = {"never": [held], "always": [held, *starts], 2: [held, *starts[::2]]}[refit]
    assert [int(f.max()) + 1 for f in model.seen.fits] == fitted_before
    assert result.report["scores"]["climate"]["fits"] == len(fitted_before)
    for shown, origins in model.seen.calls:
        # Only the last origin of a call can be sure to see nothing by construction; windows are
        # asked for one by one, so that for them it always is.
        assert shown.max() < max(origins)
        assert min(origins) >= held
    alone = [origins[0] for _, origins in model.seen.calls if len(origins) == 1]
    assert set(starts) <= set(alone)


def test_perturbing_the_future_changes_nothing_before_it() -> None:
    values = wave(500)
    changed = values.copy()
    cutoff = 500 - 2 * H
    changed[cutoff:] = 1e6
    models = [Climate(), "seasonal-mean", "drift", "last-value"]
    frames = [
        run(wide(v), [Climate(), *models[1:]], windows=4, refit="always").frame
        for v in (values, changed)
    ]
    stamp = pd.date_range("2024-01-01", periods=500, freq="h")[cutoff - 1]
    before = [f[f.cutoff <= stamp].drop(columns="y") for f in frames]
    assert len(before[0]) == 5 * 3 * H
    pd.testing.assert_frame_equal(*before, check_exact=True)


def test_residuals_for_intervals_are_of_origins_after_training_and_before_the_window() -> None:
    # After the training rows the level jumps; were residuals of training rows, they would be 0.
    T, windows = 600, 3
    values = np.tile(np.arange(24.0), T // 24)[:, None]
    plan = run(wide(values), Climate(), windows=windows).report["calibration"]
    first = T - windows * H
    held = first - plan["rows_held_back"]
    values[held:] += 100
    result = run(wide(values), Climate(), windows=windows)
    mine = result.frame[result.frame.model == "climate"]
    np.testing.assert_allclose(mine["hi-80"] - mine.yhat, 100, atol=1e-9)
    np.testing.assert_allclose(mine.y - mine.yhat, 100, atol=1e-9)


def test_coverage_is_near_nominal_on_noise() -> None:
    values = np.random.default_rng(1).normal(size=(6000, 4))
    result = run(wide(values), "last-value", horizon=4, windows=60, step=20, levels=(80, 90))
    for level, found in result.report["scores"]["last-value"]["intervals"].items():
        assert found["kind"] == "pointwise"
        # 60 windows of 16 values: half a dozen correlated values each, so about 2 points of error.
        assert found["coverage"] == pytest.approx(int(level) / 100, abs=0.05)
    assert result.report["scores"]["last-value"]["crps_from"] == "intervals"
    crps = result.report["scores"]["last-value"]["crps"]
    # The difference of two normals has deviation sqrt 2; its CRPS at its own law is 0.798 = 2 / sqrt(2 pi).
    assert crps == pytest.approx(0.798, rel=0.08)


def test_a_models_own_quantiles_give_its_crps() -> None:
    result = run(wide(wave(500, columns=2)), Quantiles(name="quantiles"))
    scores = result.report["scores"]["quantiles"]
    assert scores["crps_from"] == "model"
    assert scores["crps_quantiles"] == [0.1, 0.5, 0.9]
    mine = result.frame[result.frame.model == "quantiles"]
    spread = 0.3 * 1.2816 * np.array([-1.0, 0.0, 1.0])
    expected = metrics.crps_from_quantiles(
        mine.y.to_numpy(), mine.yhat.to_numpy()[:, None] + spread, (0.1, 0.5, 0.9)
    )
    assert scores["crps"] == pytest.approx(expected)


def test_too_few_origins_give_no_intervals_and_say_so() -> None:
    result = run(wide(wave(40)), windows=4)
    assert result.frame["lo-80"].isna().all()
    assert result.report["scores"]["seasonal-naive"]["intervals"] == {}
    assert any("too few" in note and "no intervals" in note for note in result.report["notes"])
    assert result.report["scores"]["seasonal-naive"]["crps_from"] is None


def test_a_model_with_intervals_in_some_windows_says_how_many_values_they_cover(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    # It has learnt from rows up to the third of six windows: only before the last lie enough origins.
    late = Climate(name="late", trainable=False, until="2024-01-19 09:00:00")
    result = run(wide(wave(480)), late, windows=6, out=tmp_path / "b")
    values = result.frame[result.frame.model == "late"]
    some = int(values["lo-80"].notna().sum())
    assert 0 < some < len(values) == 36
    notes = [note for note in result.report["notes"] if note.startswith("late: ")]
    assert len(notes) == 1
    assert f"cover 80, cover 90, CRPS rest on {some} of 36 values; too few" in notes[0]
    assert "after its training" in notes[0]
    assert not any("seasonal-naive: " in note for note in result.report["notes"])
    print_report(result)
    assert f"note: {notes[0]}" in capsys.readouterr().out
    assert f"- {notes[0]}" in (tmp_path / "b" / "report.md").read_text()


def test_methods_that_lack_the_same_intervals_share_a_note() -> None:
    result = run(wide(wave(40)), "drift", windows=4)
    notes = [note for note in result.report["notes"] if "no intervals" in note]
    assert len(notes) == 1
    assert notes[0].startswith("drift, seasonal-naive: no intervals at some level or window: ")
    assert "cover 80, cover 90, CRPS rest on 0 of 24 values; 0 origins" in notes[0]


def test_a_level_that_needs_more_origins_is_left_out_alone() -> None:
    result = run(wide(wave(600)), levels=(80, 99.9))
    assert result.frame["lo-80"].notna().all()
    assert result.frame["lo-99.9"].isna().all()
    assert list(result.report["scores"]["seasonal-naive"]["intervals"]) == ["80"]


def test_a_better_model_beats_seasonal_naive_and_says_by_how_much() -> None:
    result = run(wide(wave(3000, columns=3)), Climate(), windows=30)
    found = result.report["scores"]["climate"]["vs_seasonal_naive"]
    # |e| of a mean against that of the difference of two equal normals: 1 - 1 / sqrt 2.
    assert found["skill"] == pytest.approx(0.29, abs=0.05)
    low, high = found["interval"]
    assert 0 < low < found["skill"] < high
    assert found["p"] < 0.001
    assert found["outcome"] == "beats"
    assert result.report["verdict"].startswith("climate beats seasonal naive: skill ")
    assert result.report["verdict"].endswith("p < 0.001")


def test_no_model_beats_seasonal_naive_on_noise_around_a_season_of_itself() -> None:
    values = np.tile(np.random.default_rng(0).normal(size=24), 40)[:, None]
    values = values + 1e-3 * np.random.default_rng(1).normal(size=values.shape)
    result = run(wide(values), "last-value", windows=12)
    assert result.report["verdict"] == "no model beats seasonal naive here"
    assert "last-value is worse than seasonal naive" in result.report["verdicts"]["last-value"]


def test_a_winning_baseline_is_named_as_one() -> None:
    result = run(wide(wave(2000, columns=3)), "last-value", baselines=["seasonal-mean"], windows=30)
    assert result.report["verdict"].startswith(
        "none of the models asked for does; seasonal-mean beats"
    )


def test_all_baselines_run_beside_a_model() -> None:
    from apps.timeseries.catalog import BASELINES

    result = backtest(wide(wave(300)), Climate(), horizon=H, windows=2, calibration=10)
    assert set(result.report["scores"]) == {"climate", *BASELINES}
    assert result.report["named"] == ["climate"]


def test_series_have_the_same_moments_as_windows() -> None:
    early, late = series(wave(300), "early"), series(wave(300, 1), "late", "2024-01-05 05:00")
    gone = series(wave(200, 2), "gone")
    panel = long(early, late, gone)
    result = run(panel, windows=3)
    frame = result.frame
    # Two of three still have values when "early" ends; "late" goes on alone for four days.
    assert set(frame.unique_id) == {"early", "late"}
    assert frame.groupby("unique_id", observed=True).ds.max().nunique() == 1
    assert frame.ds.max() == early.times[-1]
    assert any("1 of 3 series" in note for note in result.report["notes"])
    shifted = run(panel, windows=3, align="end")
    assert set(shifted.frame.unique_id) == {"early", "late", "gone"}
    last = shifted.frame.groupby("unique_id", observed=True).ds.max()
    assert last["gone"] == gone.times[-1]
    assert any("own end" in note for note in shifted.report["notes"])


def test_series_on_one_clock_learn_until_one_moment() -> None:
    a, b = series(np.arange(400.0), "a"), series(np.arange(300.0), "b", "2024-01-05 04:00")
    model = Climate()
    run(long(a, b), model, windows=2)
    ends = [f.max() for f in model.seen.fits]
    assert ends[0] - ends[1] == 100  # b starts 100 hours after a


def test_a_time_zone_with_daylight_saving_is_kept() -> None:
    panel = wide(wave(400), start="2024-03-20", tz="Europe/Berlin")
    result = run(panel, windows=3)
    assert str(result.frame.ds.dtype).endswith("Europe/Berlin]")
    assert (result.frame.ds > result.frame.cutoff).all()


def test_rows_without_dates() -> None:
    one = series(wave(300))
    numbers = Series("s", pd.RangeIndex(300), one.values, one.past, one.known)
    result = run(Panel((numbers,), ("a",), source="x.csv"), season=24)
    assert result.frame.ds.max() == 299
    assert result.report["align"] == "end"
    assert result.report["scores"]["seasonal-naive"]["mase"] < 2


def test_missing_truth_is_left_out() -> None:
    values = wave(400)
    values[395] = np.nan
    result = run(wide(values), "seasonal-naive", windows=2)
    mine = result.frame.dropna(subset="y")
    assert len(mine) == len(result.frame) - 1
    assert result.report["scores"]["seasonal-naive"]["mae"] == pytest.approx(
        metrics.mae(mine.y, mine.yhat)
    )


def test_constant_series_have_no_skill_to_state() -> None:
    result = run(wide(np.full((300, 1), 5.0)), Climate())
    assert result.report["scores"]["climate"]["mae"] == 0
    assert result.report["scores"]["climate"]["mase"] is None
    assert "makes no error" in result.report["verdicts"]["climate"]
    json.dumps(result.report, allow_nan=False)


def test_a_given_model_that_saw_the_windows_gets_no_verdict() -> None:
    seen = Climate(
        name="given", trainable=False, until="2024-01-20 00:00:00"
    )  # the data's 456 th hour
    result = run(wide(wave(480)), seen, windows=6)
    assert result.report["scores"]["given"]["seen"] == "2024-01-20 00:00:00"
    assert "reaches into the windows" in result.report["verdicts"]["given"]
    assert result.frame[result.frame.model == "given"]["lo-80"].isna().all()
    fine = Climate(name="given", trainable=False, until="2024-01-10 00:00:00")
    report = run(wide(wave(480)), fine, windows=6).report
    assert report["scores"]["given"]["seen"] is None
    assert min(min(o) for _, o in fine.seen.calls) > 216


def test_rows_until() -> None:
    one = series(wave(48), tz="Europe/Berlin")
    assert rows_until(one, None) == 0
    assert rows_until(one, str(one.times[9])) == 10
    assert rows_until(one, "2024-01-01 09:30") == 10
    assert rows_until(series(wave(48)), "2023-01-01") == 0


def test_files_are_written_once(tmp_path: Any) -> None:
    out = tmp_path / "results"
    panel = wide(wave(300))
    result = run(panel, out=out)
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    again = pd.read_csv(out / CSV, parse_dates=["cutoff", "ds"])
    np.testing.assert_allclose(again.yhat, result.frame.yhat)
    assert (again.ds.to_numpy() == result.frame.ds.to_numpy()).all()
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(result.report))
    text = (out / "report.md").read_text()
    assert result.report["verdict"] in text
    with pytest.raises(UsageError, match="already exists"):
        run(panel, out=out)
    run(panel, out=out, force=True)


def test_a_person_reads_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(wide(wave(400)), "seasonal-mean")
    print_report(result)
    text = capsys.readouterr().out
    assert result.report["verdict"] in text
    assert "seasonal-mean" in text
    assert "4 windows of 6 rows" in text


def test_results_repeat() -> None:
    first, second = (run(wide(wave(400)), Climate(), windows=8).report for _ in range(2))
    assert (
        first["scores"]["climate"]["vs_seasonal_naive"]
        == second["scores"]["climate"]["vs_seasonal_naive"]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizon": 0}, "--horizon 0"),
        ({"windows": 0}, "--windows 0"),
        ({"step": 0}, "--step 0"),
        ({"refit": "sometimes"}, "--refit sometimes"),
        ({"refit": 0}, "--refit 0"),
        ({"levels": (80, 100)}, "--level 100"),
        ({"season": 0}, "--season 0"),
        ({"loss": "mape"}, "unknown loss 'mape'"),
        ({"models": []}, "at least one --model"),
        ({"models": "seasonal-naiv"}, "seasonal-naiv"),
        ({"baselines": ["etz"]}, "Did you mean 'ets'"),
        ({"align": "start"}, "align"),
        ({"calibration": -1}, "calibration -1"),
    ],
)
def test_bad_settings(options: dict[str, Any], words: str) -> None:
    models = options.pop("models", "seasonal-naive")
    with pytest.raises(UsageError, match=words):
        run(wide(wave(300)), models, **options)


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match=r"data.csv: 40 rows; 5 windows of 12 rows"):
        run(wide(wave(40)), horizon=12, windows=5)
    with pytest.raises(DataError, match="are needed"):
        run(wide(wave(70)), Climate(lookback=40), windows=4)


def test_a_plan_keeps_the_phase_of_the_season() -> None:
    plan = make_plan(wide(wave(5000)), horizon=24, windows=5, step=24, season=24)
    assert plan.stride == 24
    assert ((plan.starts[0] - plan.grid) % 24 == 0).all()
    assert plan.wanted == len(plan.grid[plan.grid + 24 <= plan.starts[0]])
    assert plan.held == plan.grid[0]


def test_what_a_name_means() -> None:
    assert kind_of("Seasonal_Naive") == "baseline"
    assert kind_of("iTransformer") == "model"
    assert kind_of("./itransformer") == "folder"
    assert kind_of("etth1-96") == "folder"


def test_skill_of_few_windows_claims_nothing() -> None:
    rng = np.random.default_rng(0)
    reference = 1 + 0.1 * rng.random(5)
    found = skill(reference * 0.8, reference, 3, 0)  # five windows, three of which share rows
    assert found["skill"] == pytest.approx(0.2)
    assert found["p"] is None
    assert outcome_of(found) == "untested"
    assert "too few" in verdict_of("m", found)
    same = skill(reference, reference, 1, 0)
    assert "same errors" in verdict_of("m", same)


def test_skill_intervals_of_five_windows_hold() -> None:
    # Two equally good models: the interval must contain 0 in about 95 % of cases, not in the 75 %
    # that percentiles of five values give.
    rng = np.random.default_rng(3)
    held = rejected = 0
    for i in range(60):
        pair = 1 + 0.2 * rng.normal(size=(2, 5))
        found = skill(pair[0], pair[1], 1, i)
        held += found["interval"][0] <= 0 <= found["interval"][1]
        rejected += found["p"] < 0.05
    assert held >= 51
    assert rejected <= 9


def test_holm() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1, never below the one before.
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_model_of_the_catalog_is_trained_here() -> None:
    result = run(
        wide(wave(400, columns=2)),
        "dlinear",
        lookback=24,
        windows=2,
        refit="always",
        training={"max_steps": 5},
        calibration=10,
    )
    scores = result.report["scores"]["dlinear"]
    assert scores["fits"] == 3  # before calibration and before each window
    assert scores["fit_seconds"] > 0
    assert scores["intervals"]["80"]["calibration_origins"] == [10, 10]


def test_a_model_folder_finds_its_columns_by_name(tmp_path: Any) -> None:
    from apps.timeseries.fit import fit

    values = wave(500, columns=3) * [1.0, 10.0, 100.0]
    early = wide(values[:300, :2])
    fit(early, "dlinear", lookback=24, horizon=H, max_steps=40, out=tmp_path / "mine")
    one = series(values[:, [2, 1, 0]])  # another order, and a column too many
    panel = Panel((one,), ("c", "b", "a"), source="data.csv")
    result = run(panel, tmp_path / "mine", windows=3)
    assert set(result.frame.unique_id) == {"a", "b"}
    assert result.report["scores"]["mine"]["fits"] == 1
    direct = run(wide(values[:, :2]), str(tmp_path / "mine"), windows=3)
    for name in ("a", "b"):
        left, right = (
            r.frame[(r.frame.unique_id == name) & (r.frame.model == "mine")].reset_index(drop=True)
            for r in (result, direct)
        )
        np.testing.assert_allclose(left.yhat, right.yhat)
        assert (left.yhat - left.y).abs().mean() < 3 * left.y.std()
    with pytest.raises(DataError, match="lacks the target b"):
        run(wide(values[:, :1]), tmp_path / "mine")


def test_slow_baselines_are_asked_for_where_there_are_many_series(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By name the package hands out the function, not its module.
    monkeypatch.setattr(sys.modules["apps.timeseries.backtest"], "MANY", 2)
    panel = long(*(series(wave(200, i), f"s{i}") for i in range(3)))
    report = run(panel, baselines=None, windows=2).report
    assert "ets" not in report["scores"]
    assert any("ets is slow for 3 series and was left out" in note for note in report["notes"])
    assert "ets" in run(panel, "ets", baselines=[], windows=2, calibration=0).report["scores"]


def test_the_nearest_is_named_where_chance_may_explain_it() -> None:
    # Climate is truly better, but three windows of one noisy column cannot show it.
    result = run(wide(wave(600, noise=3.0, seed=3)), Climate(), windows=4)
    found = result.report["scores"]["climate"]["vs_seasonal_naive"]
    assert found["outcome"] == "undecided"
    assert found["skill"] > 0
    assert "beyond chance; the nearest is climate: skill" in result.report["verdict"]
