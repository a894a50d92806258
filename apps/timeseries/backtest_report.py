"""The report of a backtest: one dictionary, its verdict in words, its tables for a person.

``report_of`` builds what report.json holds; the rest reads that dictionary alone, so that a report
can be shown again from its file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps.timeseries.data.panel import Panel
from apps.timeseries.rolling import Plan, Runner
from apps.timeseries.scoring import (
    FEW,
    REFERENCE,
    RULES,
    Tally,
    figures,
    outcome_of,
    overlap,
    p_text,
    percent,
    skill,
    verdict_of,
)
from core.reporting import environment

# Columns of report.md that a terminal of 100 characters has no room for.
_LEFT_OUT = ("RMSE", "sMAPE", "MSE", "width", "predict")


def report_of(
    panel: Panel,
    plan: Plan,
    tallies: Mapping[str, Tally],
    runners: Mapping[str, Runner],
    named: Sequence[str],
    loss: str,
    seed: int,
) -> dict[str, Any]:
    """JSON-ready but for NaN; ``tallies`` and ``runners`` by label, ``named`` those asked for."""
    scores: dict[str, dict[str, Any]] = {}
    verdicts: dict[str, str] = {}
    reference = tallies[REFERENCE].losses(loss)
    shared = overlap(plan.horizon, plan.step)
    for label, tally in tallies.items():
        runner = runners[label]
        scores[label] = tally.report() | {
            "fit_seconds": round(runner.fit_seconds, 3),
            "predict_seconds": round(runner.predict_seconds, 3),
            "fits": runner.fits,
            "seen": runner.seen,
            "vs_seasonal_naive": None,
        }
        if label == REFERENCE:
            continue
        found = skill(tally.losses(loss), reference, shared, seed)
        found["outcome"] = "seen" if runner.seen else outcome_of(found)
        found["series_better"] = _share_better(tally, tallies[REFERENCE], loss)
        scores[label]["vs_seasonal_naive"] = found
        verdicts[label] = (
            f"{learnt_too_late(label, runner.seen)}: no verdict; backtest rows that follow, or a "
            "model fitted on earlier ones"
            if runner.seen
            else verdict_of(label, found)
        )
    # What has learnt from the windows is judged nowhere; the sentence that people read says so.
    seen = [verdicts[label] for label in named if label in verdicts and runners[label].seen]
    clock = plan.reference.observed
    evaluated = len(tallies[REFERENCE].series)
    return {
        "file": panel.source or None,
        "sha256": panel.sha256 or None,
        "targets": list(panel.targets),
        "freq": panel.freq,
        "season": plan.season,
        "rows": len(plan.reference),
        "series": len(panel),
        "evaluated": evaluated,
        "horizon": plan.horizon,
        "windows": len(plan.starts),
        "step": plan.step,
        "align": plan.align,
        "cutoffs": [str(clock[row - 1]) for row in plan.starts],
        "trained_until": str(clock[plan.held - 1]),
        "calibration": {
            "origins": plan.wanted,
            "stride": plan.stride,
            "rows_held_back": int(plan.starts[0]) - plan.held,
        },
        "models": list(tallies),
        "named": list(named),
        "loss": loss,
        "seed": seed,
        "verdict": "; ".join([_verdict(scores, verdicts, named, loss), *seen]),
        "verdicts": verdicts,
        "scores": scores,
        "notes": _notes(panel, plan, tallies, evaluated),
        "rules": RULES,
        "environment": environment(seed),
    }


def _share_better(tally: Tally, reference: Tally, loss: str) -> float | None:
    """Share of series on which the scaled loss is below seasonal naive's."""
    pairs = [
        (row[f"{loss}_scaled"], reference.series[name][f"{loss}_scaled"])
        for name, row in tally.series.items()
    ]
    known = [a < b for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
    return float(np.mean(known)) if known else None


def _verdict(
    scores: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, str],
    named: Sequence[str],
    loss: str,
) -> str:
    """The best of those that beat seasonal naive, a named one before a baseline; or that none does."""
    winners = sorted(
        (name for name in verdicts if scores[name]["vs_seasonal_naive"]["outcome"] == "beats"),
        key=lambda name: scores[name][f"{loss}_scaled"],
    )
    asked = [name for name in winners if name in named]
    if asked:
        better = [
            n for n in winners if n not in named and winners.index(n) < winners.index(asked[0])
        ]
        also = f"; so does the baseline {better[0]}, with a smaller error" if better else ""
        return verdicts[asked[0]] + also
    if winners:
        judged = [
            n
            for n in named
            if n in verdicts and scores[n]["vs_seasonal_naive"]["outcome"] != "seen"
        ]
        rest = "none of the models asked for does; " if judged else ""
        return f"{rest}{verdicts[winners[0]]}"
    if all(scores[name]["vs_seasonal_naive"]["outcome"] == "untested" for name in verdicts):
        return "too few windows to tell whether any model beats seasonal naive; use more --windows"
    against = {name: scores[name]["vs_seasonal_naive"] for name in verdicts}
    near = [n for n, found in against.items() if found["outcome"] == "undecided"]
    near = [name for name in near if against[name]["skill"] > 0]
    text = "no model beats seasonal naive here"
    if near:
        nearest = max(near, key=lambda name: against[name]["skill"])
        text += f" beyond chance; the nearest is {figures(nearest, against[nearest])}"
    return text


def _notes(panel: Panel, plan: Plan, tallies: Mapping[str, Tally], evaluated: int) -> list[str]:
    notes = list(panel.notes)
    W, total = len(plan.starts), len(panel) * len(panel.targets)
    tally = tallies[REFERENCE]
    if W < FEW:
        notes.append(f"{W} windows tell little; --windows {4 * FEW} would narrow the intervals")
    if plan.step < plan.horizon:
        notes.append(
            f"windows {plan.step} rows apart share rows: {W} of them count as about "
            f"{max(1, W // overlap(plan.horizon, plan.step))}"
        )
    if evaluated < total:
        why = (
            "they end before the windows or start too late; --align end counts windows from each "
            "series' own end"
            if plan.align == "time"
            else "they are too short"
        )
        notes.append(f"{total - evaluated} of {total} series are in no window: {why}")
    if plan.align == "end" and len({str(s.observed[-1]) for s in panel if len(s)}) > 1:
        notes.append(
            "windows are counted from each series' own end: a model trained on all may have learnt "
            "from later moments of other series"
        )
    if tally.levels and not _rests_on(tally):
        held = int(plan.starts[0]) - plan.held
        notes.append(
            f"intervals are pointwise, from up to {plan.wanted} origins before each window, "
            f"{plan.stride} rows apart; {held} rows before the first window are held back for them"
        )
    return [*notes, *_without_intervals(plan, tallies, evaluated)]


def _without_intervals(plan: Plan, tallies: Mapping[str, Tally], evaluated: int) -> list[str]:
    """A note for each method that has not all intervals; those that lack the same share one."""
    alike: dict[str, list[str]] = {}
    for label, tally in tallies.items():
        found = _rests_on(tally)
        if not found:
            continue
        lacking = len(set(tally.uncovered))
        if evaluated > 1 and lacking:
            found += f", {lacking} of {evaluated} series lack some"
        # The plan gives all the same origins; a given model may use those after its training alone.
        why = (
            f"{plan.wanted} origins between training and the windows are too few; use more rows, a "
            "smaller --horizon or fewer --windows"
            if tally.origins == tallies[REFERENCE].origins
            else "too few of the origins before the windows lie after its training; use more rows, "
            "or a model fitted on earlier ones"
        )
        alike.setdefault(f"{found}; {why}", []).append(label)
    return [
        f"{', '.join(labels)}: no intervals at some level or window: {text}"
        for text, labels in alike.items()
    ]


def _rests_on(tally: Tally) -> str:
    """ "cover 80, CRPS rest on 14 of 56 values": those with fewer than the errors; "" for none."""
    if not tally.levels:
        return ""
    columns = {f"cover {level:g}": f"coverage-{level:g}" for level in tally.levels}
    every = int(tally.sums["mae"][1].sum())
    short: dict[int, list[str]] = {}
    for column, name in (columns | {"CRPS": "crps"}).items():
        count = int(tally.sums[name][1].sum()) if name in tally.sums else 0
        if count < every:
            short.setdefault(count, []).append(column)
    parts = [f"{', '.join(titles)} rest on {count}" for count, titles in short.items()]
    return f"{' and '.join(parts)} of {every} values" if parts else ""


def learnt_too_late(label: str, until: str) -> str:
    """Why a model is judged nowhere, on data up to the stamp ``until``."""
    return f"{label} has learnt from data up to {until}, which reaches into the windows"


def title(report: Mapping[str, Any]) -> str:
    """What the page of a backtest, or of a comparison, is called."""
    what = "Comparison of models on" if "ranks" in report else "Backtest of"
    return f"{what} {report['file'] or 'a panel'}"


def headline(report: Mapping[str, Any]) -> str:
    """What was done, on one line."""
    return (
        f"{report['windows']} windows of {report['horizon']} rows, {report['step']} apart, of "
        f"{report['evaluated']} series; the first after {report['cutoffs'][0]}, training until "
        f"{report['trained_until']}, season {report['season']}"
    )


def show(report: Mapping[str, Any]) -> None:
    """The table, a sentence for each model, the notes and the verdict, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    header, rows = table(report)
    shown = [i for i, title in enumerate(header) if not title.startswith(_LEFT_OUT)]
    for i in shown:
        grid.add_column(header[i], justify="right" if i else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(row[i] for i in shown))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 110)  # a pipe has 80: figures would be cut
    console.print(headline(report))
    console.print(grid)
    for line in [*report["verdicts"].values(), *(f"note: {note}" for note in report["notes"])]:
        console.print(line)
    console.print(f"verdict: {report['verdict']}")


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, best first by the deciding loss."""
    levels = [f"{level:g}" for level in report["levels"]]
    header = ["model", "MAE", "RMSE", "sMAPE", "MASE", "MAE sc.", "MSE sc.", "CRPS sc."]
    header += [f"cover {level}" for level in levels] + [f"width {level}" for level in levels]
    header += ["skill %", "p", "fit s", "predict s"]
    key = f"{report['loss']}_scaled"
    order = sorted(report["scores"].items(), key=lambda item: _or_inf(item[1][key]))
    rows = []
    for name, s in order:
        found = s["vs_seasonal_naive"]
        row = [name, *(_number(s[k]) for k in ("mae", "rmse", "smape", "mase"))]
        row += [_number(s.get(k)) for k in ("mae_scaled", "mse_scaled", "crps_scaled")]
        intervals = [s["intervals"].get(level) for level in levels]
        row += ["-" if i is None else f"{100 * i['coverage']:.1f} %" for i in intervals]
        row += ["-" if i is None else _number(i["width_scaled"]) for i in intervals]
        size = p = "-"
        if found is not None and found["skill"] is not None:
            size = percent(found["skill"])
            if found["interval"]:
                size += f" [{', '.join(map(percent, found['interval']))}]"
            p = "-" if found["p"] is None else p_text(found["p"]).removeprefix("p ").removeprefix("= ")  # fmt: skip
        rows.append([*row, size, p, _number(s["fit_seconds"]), _number(s["predict_seconds"])])
    return header, rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, every column but the first set right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def _number(value: float | None) -> str:
    """Three digits or more; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _or_inf(value: float | None) -> float:
    return np.inf if value is None else value


def markdown(report: Mapping[str, Any]) -> str:
    """report.md: the same for reading later, with errors by step ahead."""
    header, rows = table(report)
    lines = [f"# {title(report)}", "", f"**{report['verdict']}**", ""]
    lines += [headline(report), "", *markdown_table(header, rows), ""]
    lines += [f"- {text}" for text in report["verdicts"].values()]
    lines += ["", f"## {report['loss'].upper()} (scaled) by steps ahead", ""]
    steps = sorted({1, *np.linspace(1, report["horizon"], min(8, report["horizon"])).astype(int)})
    by_step = [
        [name, *(_number(s["per_horizon"][f"{report['loss']}_scaled"][h - 1]) for h in steps)]
        for name, s in report["scores"].items()
    ]
    lines += markdown_table(["model", *map(str, steps)], by_step)
    lines += ["", "## How it was done", ""]
    lines += [f"- {note}" for note in report["notes"]]
    lines += [f"- {name}: {text}" for name, text in report["rules"].items()]
    return "\n".join(lines) + "\n"
