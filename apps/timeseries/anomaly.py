"""Anomalies: values that a forecast from what lay before them did not expect, at a known alarm rate.

Letters: T rows, N targets, h rows ahead.  The residual of a row is its value minus the forecast made
h rows before; the score is its distance from the residuals' median in robust deviations (1.4826
times the median absolute deviation).  Both come from a calibration part of each series, and so does
the threshold: of n calibration scores the ceil((n + 1) (1 - rate))-th smallest.  Where a later row is
exchangeable with those of the calibration part, an alarm there has a probability of at most
``rate`` (Laxhammar and Falkman 2015).  Anomalies inside the calibration part raise the threshold.

Errors of real series grow and shrink over months, and a threshold that was right once is wrong then
(asked for 1 % by seasonal mean, ETTh1 gave 2.4 %; renewed, 1.3 %).  So it is renewed at each row
from the latest scores before it unless ``rolling`` is off; a lasting change of the errors then
alarms at first and not for ever.

A series with too few rows for the rate takes the threshold of the calibration scores of all such
series together, which stays.

    rows the model learnt from, or needs | calibration | monitored

A folder of results holds ``alarms.csv`` (unique_id, ds, y, expected, lo, hi, score, threshold) and
``report.json``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.timeseries import catalog
from apps.timeseries.backtest import kind_of, read, write_frame
from apps.timeseries.data import frequency
from apps.timeseries.data.panel import Panel, Series, rows_until
from apps.timeseries.rolling import columns
from core.errors import DataError, UsageError
from core.files import plain, require_writable, results_folder, write_json
from core.progress import Progress, SilentProgress
from core.reporting import Timer, environment

if TYPE_CHECKING:
    from apps.timeseries.methods import Predictor

CSV, JSON = FILES = ("alarms.csv", "report.json")
CHUNK = 512
"""Origins forecast at once."""
PASSES = 10
"""At most, of forecasting again with alarmed values mended."""
LATEST, BEYOND = 2000, 20
"""Scores that make a rolling threshold at most, or as many that this many of them lie beyond it."""


@dataclass(frozen=True)
class Anomalies:
    """``frame``: the alarms, or with ``keep_all`` every monitored row and whether it is one."""

    report: dict[str, Any]
    frame: pd.DataFrame
    folder: Path | None = None


def detect(
    data: str | Path | Panel,
    model: str | Path | Predictor,
    *,
    rate: float = 0.01,
    ahead: int = 1,
    calibration: float = 0.5,
    since: str | None = None,
    rolling: bool = True,
    mend: bool = False,
    keep_all: bool = False,
    season: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    device: Any = "cpu",
    progress: Progress | None = None,
    **reading: Any,
) -> Anomalies:
    """Alarms among the later rows of each series, at most a share ``rate`` of them where all is well.

    ``data`` is a file (``reading`` goes to ``read_panel``) or a panel; ``model`` a baseline, model
    folder, shipped name or predictor, which forecasts ``ahead`` rows.  The first ``calibration``
    share of the rows that the model has not learnt from sets the threshold, or all before the stamp
    ``since``; the rest is monitored.

    ``rolling`` renews the threshold from the latest scores; without it, that of the calibration part
    stays.  ``mend`` replaces alarmed values by what was expected in the history of later forecasts, so that
    a spike is not reported again a season later; a lasting shift then alarms until its end, and on
    clean data slightly fewer alarms are raised than ``rate``.

    Memory: the panel and one series, two more numbers a value for series too short for the rate.
    Raises UsageError for settings that make no sense, a model that is not trained and results that
    exist; DataError where no series has rows to monitor, or all together too few for the rate.
    """
    progress = progress or SilentProgress()
    if not 0 < rate < 1:
        raise UsageError(f"--rate {rate:g}: want a share between 0 and 1, such as 0.01 for 1 %")
    if ahead < 1:
        raise UsageError(f"--ahead {ahead}: must be 1 or more rows")
    if not 0 < calibration < 1:
        raise UsageError(
            f"--calibration {calibration:g}: want a share between 0 and 1, such as 0.5"
        )
    if out is not None:
        require_writable(Path(out), FILES, force)
    panel = read(data, [model], reading)
    predictor = _predictor(model, season, device)
    limit = getattr(predictor, "horizon", None)
    if limit is not None and ahead > limit:
        raise UsageError(f"--ahead {ahead}: {predictor.name} forecasts {limit} rows at most")
    watch = _Watch(panel, predictor, rate, ahead, calibration, since, rolling, mend)
    with Timer() as timer:
        parts = list(watch.run(progress, keep_all))
    if not watch.rows:
        raise DataError(
            f"{panel.source}: no series has rows to monitor after what {predictor.name} needs, has "
            "learnt from, or is calibrated on; give more rows or "
            + ("a smaller --calibration" if since is None else f"another --since than {since}")
        )
    frame = pd.concat(parts, ignore_index=True)
    report = plain(watch.report() | {"seed": seed, "seconds": round(timer.seconds, 2)})
    result = Anomalies(report, frame, None if out is None else Path(out))
    if out is not None:
        with results_folder(Path(out), FILES, force=force) as folder:
            write_frame(folder / CSV, frame)
            write_json(folder / JSON, report)
    return result


def print_report(result: Anomalies, shown: int = 20) -> None:
    """How many alarms, at which rate, and the largest, for a person, on standard output."""
    report, frame = result.report, result.frame
    check = report["calibration_check"]
    print(
        f"{report['alarms']} alarms in {report['monitored']} values of {report['series']} series by "
        f"{report['model']}: {_percent(report['alarm_rate'])}, asked for at most "
        f"{_percent(report['rate'])}"
    )
    if check is not None:
        print(
            f"alarm rate measured inside the calibration part (second half by the first): "
            f"{_percent(check['alarm_rate'])} of {check['values']} values"
        )
    for note in report["notes"]:
        print(f"note: {note}")
    alarms = frame[frame["alarm"]] if "alarm" in frame else frame
    if len(alarms):
        largest = alarms.sort_values("score", ascending=False).head(shown)
        print(f"the {len(largest)} largest of {len(alarms)}:")
        print(largest.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    if result.folder is not None:
        print(f"{result.folder}: {', '.join(FILES)}")


def threshold_of(scores: np.ndarray, rate: float) -> float | None:
    """The score that a row exchangeable with ``scores`` exceeds with probability ``rate`` at most.

    None where there are fewer than 1 / rate - 1 of them.
    """
    scores = scores[~np.isnan(scores)]
    rank = _rank(len(scores), rate)
    if rank > len(scores) or rank < 1:
        return None
    return float(np.partition(scores, rank - 1)[rank - 1])


def rolling_thresholds(scores: np.ndarray, start: int, rate: float, most: int) -> np.ndarray:
    """``threshold_of`` the up to ``most`` scores before each row from ``start`` on: (rows,).

    NaN scores are skipped.  Raises ValueError where those before ``start`` are too few.
    """
    latest = deque(scores[:start][~np.isnan(scores[:start])].tolist()[-most:])
    ordered = sorted(latest)
    out = np.empty(len(scores) - start)
    for i, score in enumerate(scores[start:].tolist()):
        rank = _rank(len(ordered), rate)
        if not 1 <= rank <= len(ordered):
            raise ValueError(f"{len(ordered)} scores are too few for a rate of {rate}")
        out[i] = ordered[rank - 1]
        if score != score:
            continue
        if len(latest) == most:
            del ordered[bisect_left(ordered, latest.popleft())]
        latest.append(score)
        insort(ordered, score)
    return out


def _rank(count: int, rate: float) -> int:
    # 1e-9: (n + 1) (1 - rate) of 99 and 0.01 is 99.0, not a little more.
    return ceil((count + 1) * (1 - rate) - 1e-9)


@dataclass
class _Scaled:
    """Residuals of one series' rows ``first`` .. T-1 and their standardisation."""

    series: Series
    first: int
    start: int  # first monitored row
    expected: np.ndarray  # (T - first, N), the residuals' median added
    scale: np.ndarray  # (N,)
    centre: np.ndarray  # (N,)

    @property
    def scores(self) -> np.ndarray:
        """(T - first, N), NaN where there is no value."""
        return np.abs(self.series.values[self.first :] - self.expected) / self.scale

    @property
    def calibration(self) -> np.ndarray:
        """Scores of the rows before the monitored ones."""
        return self.scores[: self.start - self.first]


@dataclass
class _Watch:
    """One run over a panel."""

    panel: Panel
    predictor: Predictor
    rate: float
    ahead: int
    share: float
    since: str | None
    rolling: bool
    mend: bool
    rows: int = 0
    alarms: int = 0
    used: int = 0  # series with monitored rows
    pooled: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    check: list[int] = field(default_factory=lambda: [0, 0])  # alarms, values
    per_series: dict[str, Any] = field(default_factory=dict)

    def run(self, progress: Progress, keep_all: bool) -> Iterator[pd.DataFrame]:
        """Alarms of every series; those too short for the rate come last, with one threshold."""
        waiting: list[tuple[_Scaled, list[float | None]]] = []
        with progress.task("anomalies", total=len(self.panel)) as task:
            for series in self.panel:
                found = self._scaled(series)
                if found is None:
                    self.left_out.append(series.id)
                else:
                    own = [threshold_of(column, self.rate) for column in found.calibration.T]
                    self._check(found.calibration)
                    if None in own:
                        waiting.append((found, own))
                    else:
                        yield self._judge(found, None, keep_all)
                task.advance(note=series.id)
        if not waiting:
            return
        pool = np.concatenate([
            column for found, own in waiting
            for column, threshold in zip(found.calibration.T, own) if threshold is None
        ])  # fmt: skip
        shared = threshold_of(pool, self.rate)
        if shared is None:
            raise DataError(
                f"{self.panel.source}: {int((~np.isnan(pool)).sum())} values to calibrate on, an "
                f"alarm rate of {_percent(self.rate)} needs {ceil(1 / self.rate) - 1}; use a larger "
                "--rate, a larger --calibration or more rows"
            )
        for found, own in waiting:
            names = self.panel.names(found.series)
            self.pooled += [name for name, t in zip(names, own) if t is None]
            yield self._judge(found, shared, keep_all)

    def report(self) -> dict[str, Any]:
        """For a machine."""
        alarms, values = self.check
        notes = list(self.panel.notes)
        if self.left_out:
            notes.append(
                f"{len(self.left_out)} of {len(self.panel)} series have too few rows to monitor: "
                f"{', '.join(self.left_out[:5])}{', ...' if len(self.left_out) > 5 else ''}"
            )
        rate = alarms / values if values else 0.0
        if rate > 1.5 * self.rate and alarms - values * self.rate > 3 * (values * self.rate) ** 0.5:
            notes.append(
                f"inside the calibration part {_percent(rate)} would have alarmed, not "
                f"{_percent(self.rate)}: the errors change over time or hold anomalies; expect more "
                "alarms than asked for"
            )
        if self.pooled:
            notes.append(
                f"{len(self.pooled)} columns are too short for a threshold of their own at this rate "
                "and share one"
            )
        if self.unsettled:
            notes.append(
                f"mending had not settled after {PASSES} passes in {', '.join(self.unsettled[:5])}"
            )
        return {
            "file": self.panel.source or None,
            "sha256": self.panel.sha256 or None,
            "model": self.predictor.name,
            "rate": self.rate,
            "ahead": self.ahead,
            "rolling": self.rolling,
            "mend": self.mend,
            "series": self.used,
            "monitored": self.rows,
            "alarms": self.alarms,
            "alarm_rate": self.alarms / self.rows if self.rows else None,
            "calibration_check": {"alarm_rate": alarms / values, "values": values}
            if values
            else None,
            "per_series": self.per_series,
            "notes": notes,
            "environment": environment(),
        }

    def _scaled(self, series: Series) -> _Scaled | None:
        """None where no row is left to calibrate on, or to monitor."""
        predictor, T = self.predictor, len(series)
        need = max(1, predictor.lookback, _season(predictor, series))
        first = max(need + self.ahead - 1, rows_until(series, predictor.trained_until))
        start = first + int((T - first) * self.share)
        if self.since is not None:
            start = _row(series, self.since)
        if start <= first or start >= T:
            return None
        residuals = series.values[first:] - self._forecast(series, first)
        known = residuals[: start - first]
        if np.isnan(known).all(0).any():
            return None
        centre = np.nanmedian(known, 0)
        scale = 1.4826 * np.nanmedian(np.abs(known - centre), 0)
        # More than half of the residuals equal, as of counts: their deviation; if all are, rounding.
        scale = np.where(scale > 0, scale, np.nanstd(known, 0))
        least = 1e-9 * np.maximum(1.0, np.nanmax(np.abs(series.values[:start]), 0))
        scale = np.maximum(scale, least)
        expected = series.values[first:] - residuals + centre
        return _Scaled(series, first, start, expected, scale, centre)

    def _forecast(self, series: Series, first: int) -> np.ndarray:
        """The forecast of each row from ``first`` on, made ``ahead`` rows before it: (T - first, N)."""
        parts = []
        for at in range(first, len(series), CHUNK):
            rows = np.arange(at, min(at + CHUNK, len(series)))
            origins = (rows - self.ahead + 1).tolist()
            known = series.head(origins[-1])
            found = columns(
                self.predictor, self.panel, self.predictor.predict, known, origins, self.ahead
            )
            parts.append(found[:, -1])
        return np.concatenate(parts)

    def _check(self, scores: np.ndarray) -> None:
        """What would have been raised in the second half by the scores of the first."""
        half = len(scores) // 2
        limit, later = self._limits(scores, half, None), scores[half:]
        known = ~(np.isnan(limit) | np.isnan(later))
        self.check[0] += int((later[known] > limit[known]).sum())
        self.check[1] += int(known.sum())

    def _judge(self, found: _Scaled, shared: float | None, keep_all: bool) -> pd.DataFrame:
        """Rows of alarms, or of everything monitored, and the counts of one series."""
        if self.mend:
            found = self._mended(found, shared)
        series, start = found.series, found.start
        limit = self._limits(found.scores, start - found.first, shared)
        expected = found.expected[start - found.first :]
        scores = found.scores[start - found.first :]
        values = series.values[start:]
        alarm = scores > limit
        reach = limit * found.scale
        self.rows += int((~np.isnan(scores)).sum())
        self.alarms += int(alarm.sum())
        self.used += 1
        names = self.panel.names(series)
        for n, name in enumerate(names):
            seen = int((~np.isnan(scores[:, n])).sum())
            self.per_series[name] = {
                "monitored": seen,
                "calibrated_on": int((~np.isnan(found.calibration[:, n])).sum()),
                "monitored_from": str(series.observed[start]),
                "alarms": int(alarm[:, n].sum()),
                "alarm_rate": float(alarm[:, n].sum() / seen) if seen else None,
                "threshold": float(limit[-1, n]),
                "scale": float(found.scale[n]),
            }
        parts = []
        for n, name in enumerate(names):
            rows = np.flatnonzero(~np.isnan(scores[:, n]) if keep_all else alarm[:, n])
            columns_ = {
                "unique_id": np.full(len(rows), name, object),
                "ds": series.observed[start + rows],
                "y": values[rows, n],
                "expected": expected[rows, n],
                "lo": expected[rows, n] - reach[rows, n],
                "hi": expected[rows, n] + reach[rows, n],
                "score": scores[rows, n],
                "threshold": limit[rows, n],
            }
            if keep_all:
                columns_["alarm"] = alarm[rows, n]
            parts.append(pd.DataFrame(columns_))
        return pd.concat(parts, ignore_index=True)

    def _limits(self, scores: np.ndarray, start: int, shared: float | None) -> np.ndarray:
        """Thresholds (rows, N) of the rows of ``scores`` from ``start`` on, by those before them.

        ``shared`` stands in for a column whose own scores are too few; NaN, no alarm, without it.
        """
        out = np.full((len(scores) - start, scores.shape[1]), np.nan)
        for n, column in enumerate(scores.T):
            own = threshold_of(column[:start], self.rate)
            if own is not None and self.rolling:
                most = max(LATEST, ceil(BEYOND / self.rate))
                out[:, n] = rolling_thresholds(column, start, self.rate, most)
            elif own is not None or shared is not None:
                out[:, n] = shared if own is None else own
        return out

    def _mended(self, found: _Scaled, shared: float | None) -> _Scaled:
        """Forecasts of the monitored rows from a history in which alarmed values are the expected.

        The k-th alarm is right after k passes, since it depends on earlier rows alone.
        """
        series, start = found.series, found.start
        before = np.zeros((len(series) - start, len(found.scale)), bool)
        for _ in range(PASSES):
            scores = found.scores
            limit = self._limits(scores, start - found.first, shared)
            alarm = scores[start - found.first :] > limit
            if np.array_equal(alarm, before):
                return found
            before = alarm
            values = series.values.copy()
            values[start:] = np.where(alarm, found.expected[start - found.first :], values[start:])
            later = self._forecast(replace(series, values=values), start) + found.centre
            expected = np.concatenate([found.expected[: start - found.first], later])
            found = replace(found, expected=expected)
        self.unsettled.append(series.id)
        return found


def _predictor(model: str | Path | Predictor, season: int | None, device: Any) -> Predictor:
    if not isinstance(model, str | Path):
        return model
    from apps.timeseries.methods import load_predictor

    if season is not None and season < 1:
        raise UsageError(f"--season {season}: must be 1 or more rows")
    if kind_of(model) == "model" and not Path(model).exists():
        name = catalog.model(str(model)).name
        raise UsageError(
            f"model {name} is not trained yet: run fit FILE --model {name} --out MODELDIR on rows "
            "before those to monitor, then give MODELDIR"
        )
    return load_predictor(model, device=device, season=season)


def _season(predictor: Predictor, series: Series) -> int:
    """Rows of history without which a baseline is another one; 1 of a model, which has a lookback."""
    if catalog.baseline(predictor.name) is None:
        return 1
    given = getattr(predictor, "given_season", None)
    return given or (frequency.season(series.freq) if series.freq else 1)


def _row(series: Series, since: str) -> int:
    """The first row at or after the stamp ``since``."""
    clock = series.observed
    try:
        if not isinstance(clock, pd.DatetimeIndex):
            return int(np.searchsorted(clock, float(since)))
        stamp = pd.Timestamp(since)
    except ValueError as error:
        raise UsageError(f"--since {since}: is no stamp; write it as 2024-05-31 14:00") from error
    if stamp.tz is None and clock.tz is not None:
        stamp = stamp.tz_localize(clock.tz, ambiguous=True, nonexistent="shift_forward")
    elif stamp.tz is not None and clock.tz is None:
        stamp = stamp.tz_localize(None)
    return int(clock.searchsorted(stamp))


def _percent(share: float | None) -> str:
    return "no rate" if share is None else f"{100 * share:.3g} %"
