"""Forecast the future that follows a file: numbers, intervals, pictures and a record of how.

Letters: T observed rows of a series, H steps ahead, N targets.  A folder of results holds
``forecast.csv`` (long: unique_id, model, cutoff, ds, yhat, lo-80, hi-80, ...; the file's own units
and time zone), ``forecast.json``, ``forecast.png`` and ``forecast.html``.

Series are forecast and written one after another, so that memory grows with the file that was read
and with nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.timeseries import calibrate, catalog
from apps.timeseries.data import frequency
from apps.timeseries.data.panel import Panel, Series
from apps.timeseries.data.wording import DIGITS
from apps.timeseries.fanout import Mapper, fan_out
from apps.timeseries.matching import listed, panel_for
from core.errors import DataError, UsageError, unknown
from core.files import require_writable, results_folder, sha256, write_json, write_text
from core.progress import Progress, SilentProgress
from core.reporting import Timer, environment, peak_memory_mb

if TYPE_CHECKING:
    from apps.timeseries.methods import Predictor
    from apps.timeseries.plots import Fan
    from apps.timeseries.store import LoadedModel

CSV, JSON, PNG, HTML = FILES = ("forecast.csv", "forecast.json", "forecast.png", "forecast.html")
CHUNK = 50_000
"""Rows of the CSV that are held at once."""


@dataclass(frozen=True)
class Forecast:
    """What was forecast: ``frame`` in long format, and the ``report`` that forecast.json holds."""

    report: dict[str, Any]
    folder: Path | None = None
    parts: list[pd.DataFrame] = field(default_factory=list, repr=False)
    fans: list[Fan] = field(default_factory=list, repr=False)  # the series that are drawn

    @cached_property
    def frame(self) -> pd.DataFrame:
        """unique_id, model, cutoff, ds, yhat, lo-80, hi-80, ...; read back from the folder if any."""
        if self.folder is None:
            return pd.concat(self.parts, ignore_index=True)
        return read_frame(self.folder / CSV, self.report["data"]["clock"])


def forecast(
    data: str | Path | pd.DataFrame | pd.Series | Panel,
    model: str | Path | Predictor,
    *,
    horizon: int | None = None,
    levels: Sequence[float] = (80, 90),
    joint: bool = False,
    out: str | Path | None = None,
    series: Sequence[str] | None = None,
    season: int | None = None,
    calibration: int = 200,
    max_series_plotted: int = 50,
    ray: str | None = None,
    force: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    **reading: Any,
) -> Forecast:
    """Forecast ``horizon`` steps after the last stamp of ``data`` with a trained model or a baseline.

    ``data`` is a file or a data frame (``reading`` goes to ``read_panel``) or a panel; ``model`` a model folder, a
    shipped name, a baseline or a predictor.  ``horizon`` is the trained one unless given.

    ``levels`` (percent) of the intervals, pointwise, or of the whole path at once with ``joint``.
    They come from the model's own errors at up to ``calibration`` past origins of each series, all
    of them after what the model was trained on (see ``calibrate``); a series with too few gets
    none, and a note says so.  ``series`` keeps the named ones alone.  ``ray`` spreads them over
    processes or machines, without GPUs (see ``fanout``).

    Raises UsageError for a horizon or level that cannot be, an untrained model and results that
    exist; DataError where the file lacks the model's columns, has another frequency or too little
    history.
    """
    progress = progress or SilentProgress()
    wanted = _levels(levels)
    if calibration < 0:
        raise UsageError(f"calibration {calibration}: must be 0 (no intervals) or more")
    if out is not None:
        require_writable(Path(out), FILES, force)
    predictor = _predictor(model, season, device if ray is None else "cpu")
    notes: list[str] = []
    steps = _steps(predictor, horizon, notes)
    loaded = _loaded(predictor)
    panel = panel_for(data, loaded.spec.data if loaded else None, reading)
    kept = _kept(panel, series)
    _check_history(panel, [s for s in panel if s.id in kept], predictor)
    budget = calibrate.Budget.of(len(kept), len(panel.targets), steps, calibration)
    notes += _short_of_season(predictor, [s for s in panel if s.id in kept])
    record = calibrate.Record(wanted, steps, joint)
    clock = _clock(panel)
    run = _Run(panel, predictor, steps, wanted, joint, budget, record, clock, kept)

    with fan_out(ray) as mapper, Timer() as timer:
        if out is None:
            parts = list(run.parts(progress, max_series_plotted, mapper))
            report = _report(run, model, notes, timer)
            return Forecast(report, None, parts, run.fans)
        with results_folder(Path(out), FILES, force=force) as folder:
            _write_csv(folder / CSV, run.parts(progress, max_series_plotted, mapper), clock)
            report = _report(run, model, notes, timer)
            _write_pictures(folder, run.fans, report)
            report["outputs"] = {name: sha256(folder / name) for name in (CSV, PNG, HTML)}
            write_json(folder / JSON, report)
    return Forecast(report, Path(out), [], run.fans)


@dataclass
class _Run:
    """One forecast under way."""

    panel: Panel
    predictor: Predictor
    steps: int
    levels: tuple[float, ...]
    joint: bool
    budget: calibrate.Budget
    record: calibrate.Record
    clock: dict[str, Any]
    kept: Mapping[str, Sequence[int]]
    fans: list[Fan] = field(default_factory=list)
    cutoffs: dict[str, str] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)  # series that got no intervals
    rows: int = 0

    def parts(
        self, progress: Progress, plotted: int, mapper: Mapper = map
    ) -> Iterator[pd.DataFrame]:
        """The rows of one series after another; what is reported and drawn gathers on the way."""
        chosen = [series for series in self.panel if series.id in self.kept]
        work = partial(
            _ahead, self.predictor, self.steps, self.levels, self.budget, self.joint,
            self.panel.source,
        )  # fmt: skip
        with progress.task("forecast", total=len(chosen)) as task:
            for series, (yhat, bands) in zip(chosen, mapper(work, chosen)):
                yield self._one(series, yhat, bands, plotted)
                task.advance(note=series.id)

    def _one(
        self, series: Series, yhat: np.ndarray, bands: calibrate.Bands, plotted: int
    ) -> pd.DataFrame:
        chosen = list(self.kept[series.id])
        names = [self.panel.names(series)[n] for n in chosen]
        self.record.add(self.panel.names(series), bands, chosen)
        for name, n in zip(names, chosen):
            given = [bool(np.isfinite(lo[:, n]).all()) for lo, _ in bands.bounds.values()]
            if sum(given) < len(self.levels):
                self.without.append(name)
        times = future_times(series, self.steps, self.panel.source)
        columns: dict[str, np.ndarray] = {"yhat": yhat[:, chosen].T.ravel()}
        bounds = {level: (lo[:, chosen], hi[:, chosen]) for level, (lo, hi) in bands.bounds.items()}
        for level in self.levels:
            lo, hi = bounds.get(level, (np.full((self.steps, len(chosen)), np.nan),) * 2)
            columns |= {f"lo-{level:g}": lo.T.ravel(), f"hi-{level:g}": hi.T.ravel()}
        self._draw(series, times, names, chosen, yhat, bounds, plotted)
        cutoff = series.observed[-1]
        self.cutoffs[series.id] = stamp_text(cutoff, self.clock)
        self.rows += len(names) * self.steps
        return pd.DataFrame(
            {
                "unique_id": np.repeat(np.asarray(names, object), self.steps),
                "model": self.predictor.name,
                "cutoff": cutoff,
                "ds": times.append([times] * (len(names) - 1)),
                **columns,
            }
        )

    def _draw(
        self,
        series: Series,
        times: pd.Index,
        names: Sequence[str],
        chosen: Sequence[int],
        yhat: np.ndarray,
        bounds: Mapping[float, tuple[np.ndarray, np.ndarray]],
        plotted: int,
    ) -> None:
        from apps.timeseries.plots import POINTS, Fan

        shown = min(POINTS, max(48, self.predictor.lookback, 2 * self.steps))
        past_times, past = series.observed[-shown:], series.values[-shown:]
        for at, (name, n) in enumerate(zip(names, chosen)):
            if len(self.fans) >= plotted:
                return
            edges = {level: (lo[:, at], hi[:, at]) for level, (lo, hi) in bounds.items()}
            # Copies: a view would keep the whole series alive.
            self.fans.append(
                Fan(name, past_times.copy(), past[:, n].copy(), times, yhat[:, n], edges)
            )


def _ahead(
    predictor: Predictor,
    steps: int,
    levels: Sequence[float],
    budget: calibrate.Budget,
    joint: bool,
    source: str,
    series: Series,
) -> tuple[np.ndarray, calibrate.Bands]:
    """The forecast (H, N) of what follows a series, and its intervals."""
    try:
        ahead = calibrate.predict(predictor, series, [len(series)], steps)
    except DataError as error:  # which knows the series alone
        raise DataError(f"{source}: {error}") from error
    if not np.isfinite(ahead[0]).all():
        raise DataError(
            f"{source}: series {series.id}: the forecast is no number; the history "
            "has missing or extreme values, see check and repair them with --fill"
        )
    bands = calibrate.calibrate(predictor, series, steps, levels, budget, joint=joint, ahead=ahead)
    return ahead[0][0], bands


def future_times(series: Series, steps: int, source: str = "") -> pd.Index:
    """The ``steps`` stamps after the last observed one. DataError where the clock is irregular."""
    try:
        return frequency.future_index(series.observed, series.freq, steps)
    except UsageError as error:
        raise DataError(f"{source}: series {series.id}: {error}") from error


def stamp_text(stamp: Any, clock: Mapping[str, Any]) -> str:
    """A stamp in ISO 8601 with a space, without a time of day where the clock has none."""
    if clock["kind"] == "numbers":
        return str(int(stamp))
    return str(stamp.date()) if clock["kind"] == "dates" else str(stamp)


def read_frame(path: Path, clock: Mapping[str, Any]) -> pd.DataFrame:
    """A forecast.csv with its stamps as stamps, in the time zone that ``clock`` names."""
    # Converters and not dtype: a series may be called NA, nan or null.
    frame = pd.read_csv(path, converters={"unique_id": str, "model": str})
    if clock["kind"] != "numbers":
        for name in ("cutoff", "ds"):
            zone = clock["tz"]
            # Offsets differ within a column where daylight saving begins: through UTC, then.
            stamps = pd.to_datetime(frame[name], utc=zone is not None)
            frame[name] = stamps if zone is None else stamps.dt.tz_convert(zone)
    return frame


def print_report(result: Forecast) -> None:
    """What was forecast, how far its intervals held before, and where it lies; for a person."""
    report = result.report
    count = report["series"]
    print(
        f"{report['model']['name']}: {report['horizon']} steps after "
        f"{_span(report['cutoffs'])} of {count} series from {report['data']['file']}"
    )
    for entry in report["coverage"]:
        print(calibrate.sentence(entry))
    for note in report["notes"]:
        print(f"note: {note}")
    if result.folder is None:
        print(result.frame.to_string(max_rows=20, index=False))
    else:
        print(f"{result.folder / CSV} ({report['rows']:,} rows), {PNG}, {HTML}, {JSON}")


def _levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        if not 1 <= level < 100:
            raise UsageError(f"level {level:g}: must be 1 or more and below 100, such as 80 or 90")
    return tuple(sorted({float(level) for level in levels}))


def _predictor(model: str | Path | Predictor, season: int | None, device: str) -> Predictor:
    from apps.timeseries.methods import load_predictor
    from core.shipped import model_cards

    if not isinstance(model, str | Path):
        return model
    if season is not None and season < 1:
        raise UsageError(f"season {season}: must be 1 or more rows")
    text = str(model)
    if not Path(text).exists() and text not in model_cards("timeseries"):
        for name in catalog.MODELS:
            if catalog.canonical(name) == catalog.canonical(text):
                raise UsageError(
                    f"model {name} is not trained yet: run fit FILE --model {name} --out MODELDIR, "
                    "then forecast FILE --model MODELDIR"
                )
    return load_predictor(model, device=device, season=season)


def _steps(predictor: Predictor, horizon: int | None, notes: list[str]) -> int:
    """How many steps to forecast, and a note where the model was not trained for so many."""
    trained = getattr(predictor, "trained_horizon", predictor.horizon)
    if horizon is None:
        if trained is None:
            raise UsageError(f"{predictor.name} forecasts any horizon; say which with --horizon")
        return trained
    if horizon < 1:
        raise UsageError(f"horizon {horizon}: must be 1 or more steps")
    rolled = getattr(predictor, "rolled", None)
    if trained is None or horizon <= trained:
        return horizon
    if predictor.horizon is None:
        notes.append(
            f"horizon {horizon} is longer than the {trained} steps of training; {predictor.name} "
            "generates the rest step by step"
        )
    elif rolled is not None and rolled(horizon):
        notes.append(
            f"horizon {horizon} is longer than the {trained} steps of training: the model's own "
            f"forecasts are fed back to it as history; a model fitted with --horizon {horizon} is "
            "usually better"
        )
    else:
        raise UsageError(
            f"horizon {horizon}: {predictor.name} was fitted for {trained}; use --horizon {trained} "
            f"or fit with --horizon {horizon}"
        )
    return horizon


def _short_of_season(predictor: Predictor, chosen: Sequence[Series]) -> list[str]:
    """A note where a seasonal baseline has no whole season of history and repeats the last value."""
    season_of = getattr(predictor, "season_of", None)
    if season_of is None or "season" not in predictor.name:
        return []
    short = [s for s in chosen if season_of(s) > len(s)]
    if not short:
        return []
    what = "the last value" if predictor.name == "seasonal-naive" else "the mean of the last values"
    return [
        f"{len(short)} of {len(chosen)} series have less than a season of {season_of(short[0])} rows, "
        f"and {what} is forecast: {listed([s.id for s in short])}"
    ]


def _loaded(predictor: Predictor) -> LoadedModel | None:
    """The trained model behind a predictor; None for a baseline."""
    return getattr(predictor, "model", None)


def _kept(panel: Panel, wanted: Sequence[str] | None) -> dict[str, list[int]]:
    """Series id -> the targets to report of it."""
    if wanted is None:
        return {s.id: list(range(len(panel.targets))) for s in panel}
    kept: dict[str, list[int]] = {}
    found: set[str] = set()
    every: list[str] = []
    for s in panel:
        names = panel.names(s)
        every += names
        chosen = [n for n, name in enumerate(names) if name in wanted or s.id in wanted]
        found |= {s.id, *(names[n] for n in chosen)}
        if chosen:
            kept[s.id] = chosen
    for name in wanted:
        if name not in found:
            raise UsageError(unknown("series", name, every))
    return kept


def _check_history(panel: Panel, series: Sequence[Series], predictor: Predictor) -> None:
    """DataError before any work: the count that is needed, and who has less."""
    need = max(1, predictor.lookback)
    short = [s for s in series if len(s) < need]
    if short:
        raise DataError(
            f"{panel.source}: {predictor.name} needs {need} rows of history and "
            + (
                f"series {short[0].id} has {len(short[0])}"
                if len(short) == 1
                else f"{len(short)} series have less: "
                + listed([f"{s.id} ({len(s)})" for s in short])
            )
            + "; give more history, leave short series out, or use a model with a smaller --lookback"
        )


def _clock(panel: Panel) -> dict[str, Any]:
    """How stamps are written: as dates, as stamps with a zone or without, or as row numbers."""
    times = [s.observed for s in panel if len(s)]
    if not times or not isinstance(times[0], pd.DatetimeIndex):
        return {"kind": "numbers", "tz": None}
    zone = str(times[0].tz) if times[0].tz is not None else None
    daily = zone is None and all(bool((t == t.normalize()).all()) for t in times)
    return {"kind": "dates" if daily else "stamps", "tz": zone}


def _write_csv(path: Path, parts: Iterator[pd.DataFrame], clock: Mapping[str, Any]) -> None:
    """Append ``parts`` to ``path``, some ``CHUNK`` rows at a time."""
    waiting: list[pd.DataFrame] = []
    count, first = 0, True

    def write() -> None:
        nonlocal first, count
        rows = pd.concat(waiting, ignore_index=True)
        for name in ("cutoff", "ds"):
            if clock["kind"] != "numbers":
                # As text here: to_csv chooses the form by what a chunk happens to hold.
                unique = {stamp: stamp_text(stamp, clock) for stamp in rows[name].unique()}
                rows[name] = rows[name].map(unique)
        rows.to_csv(
            path, mode="w" if first else "a", header=first, index=False, float_format=DIGITS,
            lineterminator="\n",
        )  # fmt: skip
        waiting.clear()
        count, first = 0, False

    for part in parts:
        waiting.append(part)
        count += len(part)
        if count >= CHUNK:
            write()
    if waiting:
        write()


def html(result: Forecast) -> str:
    """The page forecast.html: a chart of each series that is drawn, with its script in it."""
    from apps.timeseries.plots import forecast_html

    report = result.report
    lines = [calibrate.sentence(entry) for entry in report["coverage"]] + list(report["notes"])
    if len(result.fans) < report["series"]:
        lines.append(f"shown: the first {len(result.fans)} of {report['series']:,} series")
    return forecast_html(result.fans, f"Forecast: {_title(report)}", lines)


def _title(report: Mapping[str, Any]) -> str:
    return f"{report['model']['name']}, {report['horizon']} steps, {report['data']['file']}"


def _write_pictures(folder: Path, fans: list[Fan], report: dict[str, Any]) -> None:
    from apps.timeseries.plots import draw_forecast, png

    (folder / PNG).write_bytes(png(draw_forecast(fans, _title(report))))
    write_text(folder / HTML, html(Forecast(report, fans=fans)))


def _report(
    run: _Run, model: str | Path | Predictor, notes: list[str], timer: Timer
) -> dict[str, Any]:
    panel, loaded = run.panel, _loaded(run.predictor)
    count = sum(len(chosen) for chosen in run.kept.values())
    notes = [*notes, *panel.notes, *run.record.notes()]
    if run.without:
        notes.append(
            f"{len(run.without)} of {count} series have no intervals, or not at every level, for "
            f"there are too few past forecasts to take them from: {listed(run.without)}"
        )
    about: dict[str, Any] = {"name": run.predictor.name, "lookback": run.predictor.lookback}
    if loaded is not None:
        about |= {
            "folder": str(loaded.folder),
            "weights": sha256(loaded.folder / "model.safetensors"),
            "trained_on": {"file": loaded.spec.data.file, "sha256": loaded.spec.data.sha256},
            "trained_until": run.predictor.trained_until,
            "licence": loaded.spec.licence,
            "intended_use": loaded.spec.intended_use,
        }
    same = set(run.cutoffs.values())
    return {
        "format": 1,
        "model": about,
        "horizon": run.steps,
        "levels": list(run.levels),
        "series": count,
        "rows": run.rows,
        "cutoffs": (
            {"first": min(same), "last": max(same)}
            if len(run.cutoffs) > 1000
            else {"all": same.pop()}
            if len(same) == 1
            else run.cutoffs
        ),
        "data": {
            "file": panel.source,
            "sha256": panel.sha256,
            "layout": panel.layout,
            "freq": panel.freq,
            "clock": run.clock,
            "targets": list(panel.targets),
        },
        "intervals": run.record.method(run.budget),
        "coverage": run.record.report(),
        "notes": list(dict.fromkeys(notes)),
        "seconds": round(timer.seconds, 3),
        "cpu_seconds": round(timer.cpu_seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "environment": environment(),
    }


def _span(cutoffs: Mapping[str, str]) -> str:
    found = sorted(set(cutoffs.values()))
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
