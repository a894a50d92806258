"""Several models on the same windows: ranks, and which differences are more than chance.

Every pair is tested by Diebold-Mariano on the scaled loss of each window (see ``scoring``), and the
p values are corrected for the number of pairs (Holm 1979).  A folder of results holds what
``backtest`` writes and ``compare.csv``, one row for each model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apps.timeseries.backtest import (
    CSV,
    JSON,
    MARKDOWN,
    backtest,
    write_frame,
)
from apps.timeseries.backtest_report import learnt_too_late, markdown_table, show
from apps.timeseries.backtest_report import markdown as backtest_markdown
from apps.timeseries.data.panel import Panel
from apps.timeseries.scoring import ALPHA, REFERENCE, holm, overlap, p_text, percent, skill
from core.errors import UsageError
from core.files import plain, require_writable, results_folder, write_json, write_text

TABLE = "compare.csv"
FILES = (CSV, JSON, MARKDOWN, TABLE)
HEADING = "Each against each"
CAPTION = "p values of Diebold-Mariano, corrected for the number of pairs (Holm)"
_METRICS = ("mae", "mse", "rmse", "smape", "mase", "mae_scaled", "mse_scaled", "crps_scaled")


@dataclass(frozen=True)
class Comparison:
    """``report``: a backtest's, with "ranks", "pairs" and "conclusion"; ``frame`` all forecasts."""

    report: dict[str, Any]
    frame: pd.DataFrame
    folder: Path | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row for each model, best rank first."""
        return _table(self.report)


def compare(
    data: str | Path | pd.DataFrame | pd.Series | Panel,
    models: Sequence[Any],
    *,
    horizon: int,
    baselines: Sequence[str] | None = (REFERENCE,),
    loss: str = "mae",
    out: str | Path | None = None,
    force: bool = False,
    **options: Any,
) -> Comparison:
    """Backtest ``models`` on the same windows and compare each with each.

    ``options`` are those of ``backtest``; of the baselines only seasonal naive runs beside them
    unless others are named (None: all), because each more makes the correction for the number of
    pairs harsher.  A given model that has learnt from the windows is left out of ranks and pairs.

    Raises as ``backtest``, and UsageError where there are not two models to compare.
    """
    if out is not None:
        require_writable(Path(out), FILES, force)
    done = backtest(data, models, horizon=horizon, baselines=baselines, loss=loss, **options)
    rules = dict(done.report["rules"])
    rules["p"] += f"; those of {HEADING.lower()} are, for the number of pairs (Holm 1979)"
    report = plain(done.report | comparison(done.report) | {"rules": rules})
    result = Comparison(report, done.frame, None if out is None else Path(out))
    if out is not None:
        with results_folder(Path(out), FILES, force=force) as folder:
            write_frame(folder / CSV, done.frame)
            result.table.to_csv(folder / TABLE, index=False, float_format="%.6g")
            write_json(folder / JSON, report)
            text = backtest_markdown(report) + "\n" + markdown(report)
            write_text(folder / MARKDOWN, text)
    return result


def comparison(report: Mapping[str, Any]) -> dict[str, Any]:
    """ "ranks", "pairs" and "conclusion" from the report of a backtest.

    ranks: model -> mean rank over windows and over series (1 best; ties share).  pairs: a list of
    {"better", "worse", "skill", "interval", "p", "p_holm", "significant"}, skill being that of the
    one with the smaller loss against the other.
    """
    key = f"{report['loss']}_scaled"
    scores = {m: s for m, s in report["scores"].items() if not s["seen"]}
    left_out = [learnt_too_late(m, s["seen"]) for m, s in report["scores"].items() if s["seen"]]
    if len(scores) < 2:
        raise _too_few(left_out)
    losses = {m: np.array(s["per_window"][key], float) for m, s in scores.items()}
    shared = overlap(report["horizon"], report["step"])
    order = sorted(scores, key=lambda m: scores[m][key])
    pairs = []
    for better, worse in combinations(order, 2):
        found = skill(losses[better], losses[worse], shared, report["seed"])
        pairs.append({"better": better, "worse": worse, **found})
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs])):
        pair |= {"p_holm": p, "significant": p is not None and p < ALPHA}
    by_series = {
        m: np.array([row[key] for row in s["per_series"].values()], float)
        for m, s in scores.items()
    }
    ranks = {
        m: {"windows": w, "series": s}
        for m, w, s in zip(order, _ranks(losses, order), _ranks(by_series, order))
    }
    conclusion = _conclusion(order, pairs)
    if left_out:  # their errors stand in the table, perhaps the smallest
        conclusion = f"of the models compared, {conclusion}; left out: {'; '.join(left_out)}"
    return {"ranks": ranks, "pairs": pairs, "conclusion": conclusion}


def _too_few(left_out: Sequence[str]) -> UsageError:
    """The error where fewer than two models are left, with the sentences on those ``left_out``."""
    told = "fewer than two models can be compared"
    if not left_out:
        return UsageError(f"{told}; name more with --model")
    return UsageError(
        f"{told}: {'; '.join(left_out)}; name more with --model, or a model fitted on earlier rows"
    )


def print_report(result: Comparison) -> None:
    """Table, pairs and conclusion for a person, on standard output."""
    from rich.console import Console

    show(result.report)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print()
    for name, rank in result.report["ranks"].items():
        console.print(f"{name}: mean rank {rank['windows']:.1f} over windows")
    for line in pair_lines(result.report):
        console.print(line)
    console.print(result.report["conclusion"])
    if result.folder is not None:
        console.print(f"{result.folder}: {', '.join(FILES)}")


def markdown(report: Mapping[str, Any]) -> str:
    """The part of report.md that compares, for after the backtest's."""
    lines = [f"## {HEADING}", "", f"**{report['conclusion']}**", "", f"{CAPTION}:", ""]
    lines += [*markdown_table(*pair_table(report)), ""]
    lines += [f"- {line}" for line in pair_lines(report)]
    return "\n".join(lines) + "\n"


def pair_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean ranks of each model and its corrected p against every other."""
    names = list(report["ranks"])
    cells = {(p["better"], p["worse"]): p for p in report["pairs"]}
    rows = []
    for a in names:
        row = [a, f"{report['ranks'][a]['windows']:.2f}", f"{report['ranks'][a]['series']:.2f}"]
        for b in names:
            pair = cells.get((a, b)) or cells.get((b, a))
            p = None if pair is None else pair["p_holm"]
            row.append("-" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}")
        rows.append(row)
    return ["model", "rank over windows", "rank over series", *names], rows


def pair_lines(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each pair: how much smaller the error of the better one is, how surely."""
    lines = []
    for pair in report["pairs"]:
        text = f"{pair['better']} against {pair['worse']}: "
        if pair["skill"] is None:
            lines.append(text + "neither makes an error")
            continue
        text += f"error {percent(pair['skill'])} % smaller"
        if pair["interval"]:
            text += f" [{', '.join(percent(bound) for bound in pair['interval'])}]"
        p = pair["p_holm"]
        lines.append(text + (", not tested" if p is None else f", {p_text(p)} corrected"))
    return lines


def _ranks(losses: Mapping[str, np.ndarray], order: Sequence[str]) -> list[float]:
    """Mean rank of each model of ``order`` over windows or series; 1 is best, ties share."""
    from scipy.stats import rankdata

    table = np.stack([losses[m] for m in order], 1)  # (W, M)
    table = table[np.isfinite(table).all(1)]
    if not len(table):
        return [float("nan")] * len(order)
    return [float(rank) for rank in rankdata(table, axis=1).mean(0)]


def _conclusion(order: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> str:
    best = order[0]
    mine = [pair for pair in pairs if pair["better"] == best]
    equal = [pair["worse"] for pair in mine if not pair["significant"]]
    if not equal:
        return f"{best} has the smallest error, and every other model a larger one beyond chance"
    if len(equal) == len(mine):
        return f"{best} has the smallest error, but none of the others can be told apart from it"
    worse = [pair["worse"] for pair in mine if pair["significant"]]
    return (
        f"{best} has the smallest error; {', '.join(equal)} cannot be told apart from it; "
        f"{', '.join(worse)} {'is' if len(worse) == 1 else 'are'} worse beyond chance"
    )


def _table(report: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for name, rank in report["ranks"].items():
        s = report["scores"][name]
        row = {"model": name, "rank_windows": rank["windows"], "rank_series": rank["series"]}
        row |= {metric: s.get(metric) for metric in _METRICS}
        for level, found in s["intervals"].items():
            row |= {f"coverage-{level}": found["coverage"]}
            row |= {f"width_scaled-{level}": found["width_scaled"]}
        against = s["vs_seasonal_naive"] or {}
        row |= {"skill": against.get("skill"), "p": against.get("p")}
        rows.append(
            row | {"fit_seconds": s["fit_seconds"], "predict_seconds": s["predict_seconds"]}
        )
    return pd.DataFrame(rows).sort_values("rank_windows", kind="stable", ignore_index=True)
