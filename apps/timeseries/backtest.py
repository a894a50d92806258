"""Rolling-origin evaluation: would this model have been better than seasonal naive, and how surely.

Letters: W windows, H steps ahead.  Each window hides the H rows from its origin on; models forecast
them from what lies before, the baselines always among them.  See ``rolling`` for who learns from
what, ``scoring`` for what is measured.

A folder of results holds ``backtest.csv`` (long: unique_id, model, cutoff, ds, y, yhat, lo-80,
hi-80, ...; the file's own units), ``report.json`` and ``report.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.timeseries import catalog
from apps.timeseries.backtest_report import markdown, report_of, show
from apps.timeseries.data import frequency
from apps.timeseries.data.panel import Panel
from apps.timeseries.data.wording import DIGITS
from apps.timeseries.fanout import fan_out
from apps.timeseries.rolling import MANY, Need, Outcome, Plan, Runner, plan_for
from apps.timeseries.scoring import REFERENCE, Tally
from core.errors import UsageError, unknown
from core.files import plain, require_writable, results_folder, write_json, write_text
from core.progress import Progress, SilentProgress
from core.reporting import Timer, peak_memory_mb

if TYPE_CHECKING:
    from apps.timeseries.methods import Method

CSV, JSON, MARKDOWN = FILES = ("backtest.csv", "report.json", "report.md")
SLOW = ("ets",)  # about 2 s for each series of 1,000 rows, where the other baselines take 10 ms
LOSSES = ("mae", "mse")


@dataclass(frozen=True)
class Backtest:
    """``report`` (JSON-ready, what report.json holds) and every forecast as a long ``frame``."""

    report: dict[str, Any]
    frame: pd.DataFrame
    folder: Path | None = None


def backtest(
    data: str | Path | pd.DataFrame | pd.Series | Panel,
    models: str | Path | Method | Sequence[str | Path | Method],
    *,
    horizon: int,
    windows: int = 5,
    step: int | None = None,
    refit: str | int = "never",
    levels: Sequence[float] = (80, 90),
    season: int | None = None,
    lookback: int = 96,
    baselines: Sequence[str] | None = None,
    calibration: int | None = None,
    align: str | None = None,
    loss: str = "mae",
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    ray: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    device: Any = "cpu",
    progress: Progress | None = None,
    **reading: Any,
) -> Backtest:
    """Forecast ``windows`` past horizons, ``step`` rows apart (the horizon unless given), and judge.

    ``data`` is a file or a data frame (``reading`` goes to ``read_panel``) or a panel.  ``models``: names of the
    catalog (trained here, with ``lookback``, ``options`` and ``training``), baselines, model folders
    or shipped names (used as they are), or ``Method`` objects.  Beside them run ``baselines``, all
    of the catalog unless named (ETS not for more than 100 series), seasonal naive in any case.

    ``refit`` "never", "always" or n: train anew on all rows before every n-th window.  ``levels``
    (percent) of the pointwise intervals, from up to ``calibration`` origins before each window;
    where too few fit there are none, and a note says so.  ``align`` "time" or "end": see
    ``rolling.Plan``.  ``loss`` "mae" or "mse", scaled, decides skill and verdict.

    ``ray`` spreads series over processes or machines, without GPUs (see ``fanout``); what is trained
    is trained here.

    Memory: the panel, the result's frame (about 100 bytes for each value forecast) and one series.
    Raises UsageError for settings that make no sense and results that exist, DataError for too few
    rows.
    """
    progress = progress or SilentProgress()
    wanted = _levels(levels)
    every = _refit(refit)
    if loss not in LOSSES:
        raise UsageError(unknown("loss", loss, LOSSES))
    if season is not None and season < 1:
        raise UsageError(f"--season {season}: must be 1 or more rows")
    if lookback < 1:
        raise UsageError(f"--lookback {lookback}: must be 1 or more rows")
    if out is not None:
        require_writable(Path(out), FILES, force)
    device = device if ray is None else "cpu"
    settings = {"lookback": lookback, "options": options, "training": training, "device": device}
    given = _as_list(models)
    panel = read(data, given, reading)
    cycle = season or max(1, frequency.season(panel.freq) if panel.freq else 1)
    if baselines is None:
        baselines = [b for b in catalog.BASELINES if b not in SLOW or len(panel) <= MANY]
    methods = _methods(given, baselines, cycle, settings)
    plan = plan_for(
        panel,
        [_need(method) for method, _ in methods.values()],
        horizon=horizon,
        windows=windows,
        step=step,
        season=cycle,
        calibration=calibration,
        align=align,
    )

    frame, tallies, runners = _Rows(panel, wanted), {}, {}
    with (
        fan_out(ray) as mapper,
        Timer() as timer,
        progress.task("backtest", total=len(methods)) as task,
    ):
        for label, (method, _) in methods.items():
            runner = Runner(method, label, panel, plan, wanted, every, seed)
            tally = Tally(len(plan.starts), horizon, wanted)
            for outcome in runner.run(progress, mapper):
                names = panel.names(outcome.series)
                tally.add(names, outcome, _training_rows(plan, outcome), cycle)
                frame.add(label, names, outcome)
            tallies[label], runners[label] = tally, runner
            task.advance(note=label)
    named = [label for label, (_, was_named) in methods.items() if was_named]
    report = report_of(panel, plan, tallies, runners, named, loss, seed)
    report |= {"refit": refit, "levels": list(wanted), "seconds": round(timer.seconds, 2)}
    if len(panel) > MANY and not set(SLOW) & set(tallies):
        report["notes"].append(
            f"{', '.join(SLOW)} is slow for {len(panel)} series and was left out; name it to run it"
        )
    report = plain(report | {"peak_memory_mb": round(peak_memory_mb())})
    result = Backtest(report, frame.frame(), None if out is None else Path(out))
    if out is not None:
        write(result, Path(out), force)
    return result


def read(
    data: str | Path | pd.DataFrame | pd.Series | Panel,
    models: Sequence[Any],
    reading: dict[str, Any],
) -> Panel:
    """A panel as it is, or a file or data frame read; with a model folder among ``models``, that model's columns."""
    from apps.timeseries import methods
    from apps.timeseries.matching import panel_for
    from apps.timeseries.store import load

    folders = [r for r in models if isinstance(r, str | Path) and kind_of(r) == "folder"]
    for ref in folders:
        methods.require_known(ref, catalog.MODELS)
    spec = next((load(ref).spec.data for ref in folders), None)
    return panel_for(data, spec, _given(reading) if spec else reading)


def kind_of(ref: str | Path) -> str:
    """What ``ref`` names: a "baseline", a "model" to be trained, or a "folder" (or shipped name)."""
    text = str(ref)
    if catalog.baseline(text) is not None:
        return "baseline"
    known = (catalog.canonical(name) for name in catalog.MODELS)
    # A shipped model has a name of its own; a folder called like a model is given as ./name.
    return "model" if catalog.canonical(text) in known and "/" not in text else "folder"


def write(result: Backtest, folder: Path, force: bool = False) -> None:
    """Write the three files, whole or not at all. UsageError where one exists."""
    with results_folder(folder, FILES, force=force) as temporary:
        write_frame(temporary / CSV, result.frame)
        write_json(temporary / JSON, result.report)
        write_text(temporary / MARKDOWN, markdown(result.report))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A long frame as CSV, stamps without a time of day where all are midnight."""
    frame.to_csv(
        path,
        index=False,
        float_format=DIGITS,
        date_format=_date_format(frame),
        lineterminator="\n",
    )


def print_report(result: Backtest) -> None:
    """What was measured, and the verdict, for a person, on standard output."""
    show(result.report)
    if result.folder is not None:
        print(f"{result.folder}: {', '.join(FILES)}")


class _Rows:
    """The long frame, gathered as arrays: names are codes until the end."""

    def __init__(self, panel: Panel, levels: Sequence[float]) -> None:
        self.levels = levels
        self.models: list[str] = []
        self.ids: dict[str, int] = {}
        self.parts: dict[str, list[Any]] = {}
        self.cutoffs: list[pd.Index] = []
        self.stamps: list[pd.Index] = []

    def add(self, label: str, names: Sequence[str], outcome: Outcome) -> None:
        if label not in self.models:
            self.models.append(label)
        K, H, N = outcome.yhat.shape
        rows = (outcome.origins[:, None] + np.arange(H)).ravel()
        codes = [self.ids.setdefault(name, len(self.ids)) for name in names]
        flat = {"y": outcome.truth, "yhat": outcome.yhat}
        for level in self.levels:
            lo, hi = outcome.bounds.get(level, (np.full((K, H, N), np.nan),) * 2)
            flat |= {f"lo-{level:g}": lo, f"hi-{level:g}": hi}
        columns = {name: values.transpose(2, 0, 1).ravel() for name, values in flat.items()}
        columns["id"] = np.repeat(np.array(codes, np.int32), K * H)
        columns["model"] = np.full(N * K * H, len(self.models) - 1, np.int16)
        for name, values in columns.items():
            self.parts.setdefault(name, []).append(values)
        times = outcome.series.observed
        self.stamps += [times[rows]] * N
        self.cutoffs += [times[np.repeat(outcome.origins - 1, H)]] * N

    def frame(self) -> pd.DataFrame:
        joined = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        self.parts.clear()
        ids, model = joined.pop("id"), joined.pop("model")
        return pd.DataFrame(
            {
                "unique_id": pd.Categorical.from_codes(ids, categories=pd.Index(list(self.ids))),
                "model": pd.Categorical.from_codes(model, categories=pd.Index(self.models)),
                "cutoff": self.cutoffs[0].append(self.cutoffs[1:]),
                "ds": self.stamps[0].append(self.stamps[1:]),
                **joined,
            }
        )


def _methods(
    models: Sequence[Any],
    beside: Sequence[str],
    season: int,
    settings: Mapping[str, Any],
) -> dict[str, tuple[Method, bool]]:
    """Label -> (method, whether it was asked for), the named ones first, seasonal naive always."""
    from apps.timeseries import methods

    for name in beside:
        if catalog.baseline(name) is None:
            raise UsageError(unknown("baseline", name, catalog.BASELINES))
    found: dict[str, tuple[Method, bool]] = {}
    done: set[str] = set()
    wanted = [(ref, True) for ref in models] + [(ref, False) for ref in (*beside, REFERENCE)]
    for ref, asked in wanted:
        if not isinstance(ref, str | Path):
            found[_label(ref.name, found)] = (ref, asked)
            continue
        kind = kind_of(ref)
        key = str(ref) if kind == "folder" else catalog.canonical(str(ref))
        if key in done:
            continue
        done.add(key)
        method = methods.method(str(ref), season=season, **settings)
        name = Path(ref).name if kind == "folder" else method.name
        found[_label(name, found)] = (method, asked)
    return found


def _label(name: str, taken: Iterable[str]) -> str:
    """``name``, or ``name-2`` where there is one of it already."""
    used, label, count = set(taken), name, 1
    while label in used:
        count += 1
        label = f"{name}-{count}"
    return label


def _need(method: Method) -> Need:
    """The history that ``method``, or the predictor that it stands for, looks at; and its training."""
    source = getattr(method, "predictor", method)
    return Need(getattr(source, "lookback", None) or 1, method.trainable)


def _training_rows(plan: Plan, outcome: Outcome) -> int:
    """Rows that set a series' scales: those every method learns from, or all before its first window."""
    held = int(plan.rows(outcome.series, np.array([plan.held]))[0])
    return held if held > plan.season + 1 else int(outcome.origins[0])


def _date_format(frame: pd.DataFrame) -> str | None:
    stamps = frame["ds"]
    if not isinstance(stamps.dtype, np.dtype) or stamps.dtype.kind != "M":
        return None  # numbers, or a time zone: pandas writes the offset
    if not (stamps == stamps.dt.floor("s")).all():
        return None
    midnight = (stamps == stamps.dt.normalize()).all()
    return "%Y-%m-%d" if midnight and len(stamps) else "%Y-%m-%d %H:%M:%S"


def _levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        if not 1 <= level < 100:
            raise UsageError(f"--level {level:g}: want a percentage of 1 or more below 100, as 80")
    return tuple(sorted({float(level) for level in levels}))


def _refit(refit: str | int) -> int:
    """0 for never, else at every how many windows."""
    words = {"never": 0, "always": 1}
    text = str(refit).lower()
    if text in words:
        return words[text]
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise UsageError(
        f"--refit {refit}: want never, always, or at every how many windows, such as 4"
    )


def _as_list(models: Any) -> list[Any]:
    if isinstance(models, str | Path) or hasattr(models, "fit"):
        models = [models]
    found = list(models)
    if not found:
        raise UsageError("name at least one --model; seasonal-naive is one")
    return found


def _given(reading: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something; an empty list of covariates leaves the model's own."""
    return {name: value for name, value in reading.items() if value not in (None, (), [])}
