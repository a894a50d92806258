"""Several models on the same windows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.compare import FILES, compare, comparison, markdown, print_report
from apps.timeseries.data.panel import Panel, Series
from core.errors import UsageError

T, H = 1200, 6


def panel() -> Panel:
    rng = np.random.default_rng(0)
    cycle = np.sin(2 * np.pi * np.arange(T) / 24)[:, None]
    values = 10 + 3 * cycle + 0.3 * rng.normal(size=(T, 3))
    none = np.empty((T, 0))
    one = Series(
        "s", pd.date_range("2024-01-01", periods=T, freq="h"), values, none, none, freq="h"
    )
    return Panel((one,), ("a", "b", "c"), source="data.csv")


@dataclass
class Shifted:
    """Forecasts the true cycle and a constant error."""

    name: str
    error: float
    trainable: bool = False
    lookback: int = 1
    horizon: int | None = None
    quantiles: tuple[float, ...] = ()
    season: int = 24
    trained_until: str | None = None

    def fit(self, panel: Panel, *, horizon: int, seed: int = 0, progress: Any = None) -> Any:
        return self

    def predict(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        rows = np.asarray(origins)[:, None] + np.arange(horizon)
        cycle = 10 + 3 * np.sin(2 * np.pi * rows / 24)[..., None]
        return np.repeat(cycle + self.error, series.values.shape[1], axis=2)


@pytest.fixture(scope="module")
def result() -> Any:
    models = [Shifted("worst", 2.0), Shifted("best", 0.0), Shifted("middle", 0.2)]
    return compare(panel(), models, horizon=H, windows=20)


def test_ranks_and_pairs(result: Any) -> None:
    ranks = result.report["ranks"]
    assert next(iter(ranks)) == "best"
    assert list(ranks)[-1] == "worst"
    assert set(ranks) == {"best", "middle", "worst", "seasonal-naive"}
    assert ranks["worst"] == {"windows": 4.0, "series": 4.0}
    assert sum(rank["windows"] for rank in ranks.values()) == pytest.approx(10)
    pairs = {(p["better"], p["worse"]): p for p in result.report["pairs"]}
    assert len(pairs) == 6
    scores = result.report["scores"]
    pair = pairs["best", "worst"]
    expected = 1 - scores["best"]["mae_scaled"] / scores["worst"]["mae_scaled"]
    assert pair["skill"] == pytest.approx(expected)
    assert pair["significant"]
    assert all(p["p_holm"] >= p["p"] for p in pairs.values())
    smallest = min(pairs.values(), key=lambda p: p["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, 6 * smallest["p"]))


def test_the_conclusion_names_the_best_and_who_is_worse(result: Any) -> None:
    assert result.report["conclusion"].startswith("best has the smallest error")
    assert "worst" in result.report["conclusion"] or "every other" in result.report["conclusion"]


def test_models_that_do_not_differ_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(1)
    losses = 1 + 0.1 * rng.normal(size=(2, 12))
    scores = {
        name: {
            "seen": None,
            "mae_scaled": float(row.mean()),
            "per_window": {"mae_scaled": row.tolist()},
            "per_series": {"s": {"mae_scaled": float(row.mean())}},
        }
        for name, row in zip("ab", losses)
    }
    report = {"loss": "mae", "horizon": 6, "step": 6, "seed": 0, "scores": scores}
    found = comparison(report)
    assert found["conclusion"].endswith("none of the others can be told apart from it")
    scores["b"]["seen"] = "2024-01-01"
    with pytest.raises(UsageError, match="fewer than two models can be compared: b has learnt"):
        comparison(report)


def test_a_model_that_saw_the_windows_is_named_as_left_out(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    late = str(pd.date_range("2024-01-01", periods=T, freq="h")[T - 30])
    leak = Shifted("leak", 0.0, trained_until=late)
    out = tmp_path / "out"
    done = compare(panel(), [leak, "drift"], horizon=H, windows=20, out=out)
    conclusion = done.report["conclusion"]
    assert min(done.report["scores"], key=lambda m: done.report["scores"][m]["mae"]) == "leak"
    assert conclusion.startswith("of the models compared, seasonal-naive has the smallest error")
    assert conclusion.endswith(
        f"left out: leak has learnt from data up to {late}, which reaches into the windows"
    )
    print_report(done)
    assert conclusion in capsys.readouterr().out
    assert conclusion in (out / "report.md").read_text()
    assert conclusion == json.loads((out / "report.json").read_text())["conclusion"]
    with pytest.raises(UsageError, match="two models can be compared: leak has learnt from data"):
        compare(panel(), [leak, "seasonal-naive"], horizon=H, windows=20)


def test_files(tmp_path: Any, result: Any) -> None:
    out = tmp_path / "out"
    done = compare(panel(), [Shifted("best", 0.0), "drift"], horizon=H, windows=4, out=out)
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    table = pd.read_csv(out / "compare.csv")
    assert list(table.model) == list(done.table.model)
    assert table.rank_windows.is_monotonic_increasing
    report = json.loads((out / "report.json").read_text())
    assert report["conclusion"] in (out / "report.md").read_text()
    assert (out / "report.md").read_text().startswith("# Comparison of models on data.csv\n")
    assert "those of each against each are" in report["rules"]["p"]
    with pytest.raises(UsageError, match="already exists"):
        compare(panel(), ["drift"], horizon=H, windows=4, out=out)


def test_for_a_person(result: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(result)
    text = capsys.readouterr().out
    assert result.report["conclusion"] in text
    assert "best against worst: error " in text
    lines = markdown(result.report).splitlines()
    header = next(line for line in lines if line.startswith("| model"))
    assert header.count("|") == 3 + 4 + 1
