"""The figures of a backtest's report as tables: by model, by fold, by series, by step ahead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from demos.forecasting.settings import LEVELS

METRICS = {
    "MASE": "mase",
    "sMAPE, %": "smape",
    "RMSE": "rmse",
    "MSE": "mse",
    "MAE": "mae",
    "CRPS": "crps",
    **{f"Inside {level:g} %": f"coverage-{level:g}" for level in LEVELS},
}
"""What a table calls it -> its name in a report."""


def ranked(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Models and scores, the smallest scaled error first."""
    key = f"{report['loss']}_scaled"
    return sorted(
        report["scores"].items(),
        key=lambda item: math.inf if item[1][key] is None else item[1][key],
    )


def table(report: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each model, best first: skill against seasonal naive, errors, coverage in %."""
    rows = []
    for name, scores in ranked(report):
        found = scores["vs_seasonal_naive"] or {}
        row: dict[str, Any] = {
            "Model": name,
            "Verdict": _WORDS.get(found.get("outcome", ""), "the reference"),
            "Skill, %": _skill(found),
            "p": found.get("p"),
        }
        for title, metric in METRICS.items():
            level = metric.removeprefix("coverage-")
            if level != metric:
                inside = scores["intervals"].get(level, {}).get("coverage")
                row[f"In {level} %"] = None if inside is None else 100 * inside
            elif title != "MAE":  # the skill is that of the MAE
                row[title] = scores.get(metric)
        rows.append(row)
    return pd.DataFrame(rows)


def _skill(found: Mapping[str, Any]) -> str:
    """``7 (-2 to 15)``: what is saved of seasonal naive's error, and its 95 % interval."""
    if found.get("skill") is None:
        return "–"
    interval = found.get("interval")
    ends = f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})" if interval else ""
    return f"{100 * found['skill']:.0f}{ends}"


_WORDS = {
    "beats": "better",
    "worse": "worse",
    "undecided": "not told apart",
    "untested": "too few folds to tell",
    "undefined": "nothing to compare",
    "seen": "has learnt from the folds",
}


def by_fold(report: Mapping[str, Any], metric: str) -> pd.DataFrame:
    """A row for each fold, a column for each model."""
    frame = pd.DataFrame({"Fold": range(1, report["windows"] + 1), "After": report["cutoffs"]})
    for name, scores in ranked(report):
        frame[name] = _measured(scores["per_window"], metric) or None
    return frame


def by_series(report: Mapping[str, Any], metric: str) -> pd.DataFrame:
    """A row for each series or variate, a column for each model."""
    ids = list(next(iter(report["scores"].values()))["per_series"])
    frame = pd.DataFrame({"Series": ids})
    for name, scores in ranked(report):
        frame[name] = [scores["per_series"].get(one, {}).get(metric) for one in ids]
    return frame


def steps(scores: Mapping[str, Any], metric: str) -> list[float | None]:
    """The measure at each step ahead; empty where it was not measured."""
    return _measured(scores["per_horizon"], metric)


def _measured(found: Mapping[str, list[float | None]], metric: str) -> list[float | None]:
    if metric == "rmse":
        return [None if value is None else math.sqrt(value) for value in found["mse"]]
    return list(found.get(metric, []))
