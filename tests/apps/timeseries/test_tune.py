"""A search that sees validation rows alone, is the same for a seed however often it is resumed, and
ends in settings that ``fit`` confirms."""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from apps.timeseries import catalog
from apps.timeseries.fit import fit
from apps.timeseries.methods import BaselinePredictor
from apps.timeseries.models.base import Shape, build
from apps.timeseries.spaces import Choices, Range, make_space
from apps.timeseries.tune import STUDY, print_report, tune
from core.errors import DataError, TriptychError, UsageError

pytest.importorskip("optuna")

WHOLE = {"lookback": 24, "horizon": 6, "options": {"epochs": 2}}


def rows(result) -> list[dict]:
    """Trials without their seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.report["trials"]]


def test_the_best_trial_is_what_fit_finds_again(make_panel, tmp_path: Path, capsys) -> None:
    panel = make_panel(rows=400)
    found = tune(panel, "dlinear", **WHOLE | {"lookback": (24, 36)}, trials=6, out=tmp_path)
    report = found.report
    assert json.loads((tmp_path / "report.json").read_text()) == report
    best = report["best"]
    assert best["metrics"]["mae"] == min(r["mae"] for r in rows(found) if r["state"] == "complete")
    assert report["own"]["trial"] == 0
    assert report["own"]["settings"]["options"] == {"epochs": 2, "rate": 5e-3, "kernel": 25}
    with open(tmp_path / "trials.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 6
    assert {row["lookback"] for row in table} == {"24", "36"}
    settings = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert settings == found.settings
    again = fit(
        panel, settings["model"], lookback=settings["lookback"], horizon=settings["horizon"],
        options=settings["options"], out=tmp_path / "model",
    )  # fmt: skip
    assert again.spec.metrics["validation"]["mae"] == best["metrics"]["mae"]
    words = shlex.split(report["fit"])
    assert words[2:4] == ["fit", "made.csv"]
    assert words[words.index("--seed") + 1] == "0"
    options = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert options == [f"{name}={value}" for name, value in settings["options"].items()]
    print_report(found)
    printed = capsys.readouterr().out
    assert report["fit"] in printed
    assert "seasonal-naive" in printed


def test_test_rows_are_never_looked_at(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=400, count=2, known=1)
    results = []
    for at, change in enumerate((0.0, 1e3)):
        found = []
        for series in panel:
            values, known = series.values.copy(), series.known.copy()
            border = len(values) - int(0.1 * len(values))
            values[border:] += change
            known[border:] += change
            found.append(dataclasses.replace(series, values=values, known=known))
        results.append(
            tune(
                panel.with_series(found),
                "itransformer",
                lookback=24,
                horizon=6,
                trials=2,
                options={"dim": 16, "depth": 1, "ffn": 16, "heads": 2, "epochs": 1, "marks": False},
                out=tmp_path / str(at),
            )
        )
    first, second = results
    assert first.report["borders"] == {"train": 327, "val": 367, "test": 407}
    assert rows(first) == rows(second)
    assert first.report["baselines"] == second.report["baselines"]


def test_a_killed_search_resumes_to_the_same_trials(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300)
    options = WHOLE | {"search": ["rate=1e-5:0.1:log"], "options": {"epochs": 4}}
    whole = tune(panel, "dlinear", **options, trials=10, out=tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.mkdir()
    # Killed within the seventh trial, whose number and suggestion are in the journal already.
    lines = (tmp_path / "whole" / STUDY).read_text().splitlines(keepends=True)
    asked = [i for i, line in enumerate(lines) if '"op_code":4' in line.replace(" ", "")]
    (cut / STUDY).write_text("".join(lines[: asked[6] + 3]))
    resumed = tune(panel, "dlinear", **options, trials=10, out=cut, resume=True)
    assert rows(resumed) == rows(whole)
    assert whole.report["counts"]["pruned"] > 0
    pruned = [row for row in rows(whole) if row["state"] == "pruned"]
    assert all(row["epochs"] < 4 for row in pruned)
    other = tune(panel, "dlinear", **options, trials=2, out=tmp_path / "other", seed=1)
    assert rows(other)[1] != rows(whole)[1]
    # Nothing is left to do: the same result, without a trial more.
    assert rows(tune(panel, "dlinear", **options, trials=4, out=cut, resume=True)) == rows(whole)


def test_baselines_are_judged_on_the_same_windows(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=300, count=3, variates=1)
    panel = panel.with_series([*panel.series[:2], panel.series[2].head(30)])
    found = tune(panel, "dlinear", **WHOLE, trials=1, out=tmp_path)
    errors = []
    for series, rows_ in zip(panel.series[:2], (300, 307)):
        part = rows_ // 10
        train, val = rows_ - 2 * part, rows_ - part
        scale = series.values[:train].std()
        for origin in range(train, val - 6 + 1):
            forecast = BaselinePredictor("seasonal-naive").predict(series, [origin], 6)[0]
            errors.append(np.abs(forecast - series.values[origin : origin + 6]) / scale)
    assert found.report["baselines"]["seasonal-naive"]["mae"] == pytest.approx(np.mean(errors))
    assert any("1 of 3 series are too short" in note for note in found.report["notes"])


def test_settings_that_cannot_be_built_are_failed_trials(make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=200)
    small = {"dim": 16, "depth": 1, "ffn": 16, "dropout": 0.0, "epochs": 1, "rate": 1e-3}
    found = tune(
        panel, "itransformer", lookback=24, horizon=6, options=small, search=["heads=2,3,4"],
        trials=8, out=tmp_path / "some",
    )  # fmt: skip
    failed = [row for row in rows(found) if row["state"] == "failed"]
    assert {row["heads"] for row in failed} == {3}
    assert "heads" in failed[0]["note"]
    with pytest.raises(TriptychError, match=r"none of 2 trials has a validation error.*heads"):
        tune(
            panel, "itransformer", lookback=24, horizon=6, options=small, search=["heads=3,5"],
            trials=2, out=tmp_path / "none",
        )  # fmt: skip


def test_a_limit_of_time_leaves_one_trial(make_panel, tmp_path: Path) -> None:
    options = WHOLE | {"options": {"epochs": 50, "patience": 50}}
    found = tune(
        make_panel(rows=300), "dlinear", **options, trials=9, max_minutes=1e-6, out=tmp_path
    )
    assert [row["epochs"] for row in rows(found)] == [1]
    assert any("time was over" in note for note in found.report["notes"])


@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_every_space_holds_the_models_own_settings_and_networks_that_exist(name: str) -> None:
    space, own = make_space(name, (96,), (), {})
    assert all(own[key] in part for key, part in space.items())
    rng = np.random.default_rng(0)
    shape = Shape(lookback=96, horizon=6, variates=2)
    fields = {f.name for f in dataclasses.fields(catalog.Recipe)}
    for _ in range(3):
        drawn = {}
        for key, part in space.items():
            if isinstance(part, Choices):
                drawn[key] = part.values[rng.integers(len(part.values))]
            else:
                value = rng.uniform(part.low, part.high)
                drawn[key] = round(value) if part.whole else value
        options = {key: value for key, value in drawn.items() if key not in fields}
        build(name, shape, **catalog.model(name).recipe.options | options)


def test_a_space_is_changed_in_words() -> None:
    space, _ = make_space(
        "itransformer", (96,), ["depth=2:3", "rate=1e-4:0.1:log", "dim=64, 128"], {"ffn": 64}
    )
    assert space == {
        "rate": Range(1e-4, 0.1, log=True),
        "dim": Choices((64, 128)),
        "depth": Range(2, 3, whole=True),
        "dropout": Range(0.0, 0.3),
    }
    space, own = make_space("dlinear", (96,), ["lookback=24:48", "batch=16,32"], {})
    assert space["lookback"] == Range(24, 48, whole=True)
    assert own["lookback"] == 96


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("dims=8,16", "Did you mean 'dim'"),
        ("dim", "want name=low:high"),
        ("dim=8:16:32", "want name=low:high"),
        ("dim=64:8", "the smaller one first"),
        ("dim=a,b", "'a' is no whole number"),
        ("depth=1.5,2", "'1.5' is no whole number"),
        ("dropout=0:0.5:log", "must begin above 0"),
        ("mixer=1:2", "name the choices"),
        ("heads=4", "heads is set to 8"),
    ],
)
def test_words_that_are_no_range(search: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_space("itransformer", (96,), [search], {"heads": 8})


def test_messages(make_panel, tmp_path: Path, monkeypatch) -> None:
    panel = make_panel(rows=200)
    tune(panel, "dlinear", **WHOLE, trials=1, out=tmp_path / "a")
    with pytest.raises(UsageError, match="--force"):
        tune(panel, "dlinear", **WHOLE, trials=1, out=tmp_path / "a")
    with pytest.raises(UsageError, match="differs in horizon, seed"):
        tune(panel, "dlinear", **WHOLE | {"horizon": 5}, out=tmp_path / "a", resume=True, seed=3)
    tune(panel, "dlinear", **WHOLE | {"horizon": 5}, trials=1, out=tmp_path / "a", force=True)
    with pytest.raises(UsageError, match="is a baseline"):
        tune(panel, "drift", **WHOLE, out=tmp_path / "b")
    with pytest.raises(UsageError, match="trials 0"):
        tune(panel, "dlinear", **WHOLE, trials=0, out=tmp_path / "b")
    with pytest.raises(DataError, match=r"made.csv: series s0: 200 rows: lookback 300"):
        tune(panel, "dlinear", **WHOLE | {"lookback": (24, 300)}, out=tmp_path / "b")
    options = {"rate": 1e-3, "kernel": 5}
    with pytest.raises(UsageError, match="nothing is left to search"):
        tune(panel, "dlinear", **WHOLE | {"options": options}, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()
    (tmp_path / "a" / STUDY).write_text("nonsense\nnonsense\n")
    with pytest.raises(DataError, match="is damaged"):
        tune(panel, "dlinear", **WHOLE, out=tmp_path / "a", resume=True)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[tune\]'"):
        tune(panel, "dlinear", **WHOLE, out=tmp_path / "b")
