"""What is wrong with series, found but not repaired: each problem with its place and its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency, wording

ORDER = ("not-a-number", "static-changes", "daylight-saving", "irregular", "off-grid",
         "mixed-frequencies", "duplicates", "gaps", "sentinel", "inf", "empty", "missing", "short",
         "ragged", "constant", "outliers", "identical", "leak")  # fmt: skip
"""Kinds, the one to look at first first."""

FILL = "fill it with --fill ffill, interpolate or seasonal"
SENTINELS = (-9999.0, -999.0, -99.0, 9999.0, 99999.0, -99999.0, -9999.9, 9999.9, 999.0, 99.0)
# Zones whose rules differ in what a naive clock shows of them; the first that explains it is named.
_ZONES = ("Europe/Berlin", "Europe/London", "Europe/Athens", "America/New_York", "America/Chicago",
          "America/Denver", "America/Los_Angeles", "Australia/Sydney", "America/Sao_Paulo",
          "Pacific/Auckland", "America/Santiago", "Asia/Jerusalem")  # fmt: skip
_LISTED = 20
_HOUR = 3_600_000_000_000


@dataclass(frozen=True)
class Problem:
    """One kind of problem of one series. A warning does not keep a model from being fitted."""

    kind: str
    says: str
    fix: str
    series: str | None = None
    column: str | None = None
    count: int = 1
    first: str | None = None  # the place: a stamp, or a row of the file
    level: Literal["error", "warning"] = "error"

    def report(self) -> dict[str, Any]:
        """For a machine."""
        return asdict(self)

    def text(self) -> str:
        """For a person: where, what, and what to do."""
        where = [f"series '{self.series}'"] if self.series is not None else []
        where += [f"column '{self.column}'"] if self.column is not None else []
        return ": ".join([", ".join(where)] * bool(where) + [f"{self.says}; {self.fix}"])


@dataclass
class Found:
    """Problems as they are found."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, says: str, fix: str, **about: Any) -> None:
        self.problems.append(Problem(kind, says, fix, **about))

    def errors(self) -> list[Problem]:
        """Those that keep a model from being fitted, the first to repair first."""
        found = [p for p in self.problems if p.level == "error"]
        return sorted(found, key=lambda p: ORDER.index(p.kind))

    def shown(self) -> list[Problem]:
        """All in order, at most twenty of a kind; one more says how many there are further."""
        shown: list[Problem] = []
        for kind in ORDER:
            same = [p for p in self.problems if p.kind == kind]
            shown += same[:_LISTED]
            if rest := same[_LISTED:]:
                more = len({(p.series, p.column) for p in rest})
                count = sum(p.count for p in rest)
                says = f"the same in {more} more"
                shown.append(Problem(kind, says, same[0].fix, count=count, level=same[0].level))
        return shown


def daylight_zone(times: pd.DatetimeIndex) -> str | None:
    """The zone whose daylight saving explains what sorted naive ``times`` lack or have twice.

    None where no zone makes them regular, and where nothing is lacking or there twice.
    """
    step = step_of(times)
    if step is None or step > _HOUR:
        return None
    jumps = np.diff(times.as_unit("ns").asi8)
    # No clock is put forward by more than an hour, nor more than twice a year.
    if (jumps == step).all() or jumps.max() > step + _HOUR:
        return None
    second = np.concatenate([[False], jumps == 0])
    earlier = np.ones(len(times), bool)
    for zone in _ZONES:
        summer = times.tz_localize(zone, ambiguous=earlier, nonexistent="NaT")
        if summer.isna().any():
            continue
        winter = times.tz_localize(zone, ambiguous=~earlier, nonexistent="NaT")
        found = np.where(second, winter.as_unit("ns").asi8, summer.as_unit("ns").asi8)
        if (np.diff(np.sort(found)) == step).all():
            return zone
    return None


def find_gaps(id: str | None, times: pd.Index, grid: pd.Index, found: Found) -> None:
    """Stamps of ``grid`` that ``times`` lack."""
    if len(grid) <= len(times):
        return
    absent = grid.difference(times)
    at = int(np.searchsorted(np.asarray(times), np.asarray(absent[:1]))[0])
    first, after = wording.stamp(absent[0]), times[min(at, len(times) - 1)]
    found.add(
        "gaps",
        f"{wording.some(len(absent), 'stamp is', 'stamps are')} missing, the first {first} "
        f"(the next there is: {wording.stamp(after)})",
        FILL,
        series=id,
        count=len(absent),
        first=first,
    )


def inspect_values(
    id: str | None,
    times: pd.Index,
    values: np.ndarray,
    names: list[str],
    found: Found,
    declared: Sequence[float],
    target: bool,
    deep: bool,
    remedy: str = FILL,
) -> None:
    """Problems of the cells of ``values`` (R, columns), whose rows are at ``times``.

    ``declared``: sentinels that were declared; a NaN among them means that there are none.
    ``remedy``: what helps against missing numbers.
    """
    finite = np.isfinite(values)
    search = target and not any(np.isnan(declared)) if len(declared) else target
    suspect = np.isin(values, SENTINELS) if search else np.zeros_like(finite)
    for i in map(int, np.flatnonzero(suspect.any(0))):
        _sentinels(id, times, values[:, i], names[i], suspect[:, i], found)
    if not finite.all():
        for i in map(int, np.flatnonzero(~finite.all(0))):
            _absent(id, times, values[:, i], names[i], found, remedy)
    if target and len(values) > 1:
        low = np.where(finite, values, np.inf).min(0)
        high = np.where(finite, values, -np.inf).max(0)
        for i in map(int, np.flatnonzero(low == high)):
            found.add(
                "constant",
                f"always {low[i]:g}",
                "leave it out, or expect nothing of its errors",
                series=id,
                column=names[i],
                count=len(values),
                level="warning",
            )
    if deep and target:
        _outliers(id, times, np.where(finite & ~suspect, values, np.nan), names, found)


def _absent(id: str | None, times: pd.Index, column: np.ndarray, name: str, found: Found, remedy: str) -> None:  # fmt: skip
    about: dict[str, Any] = {"series": id, "column": name}
    infinite, missing = np.isinf(column), np.isnan(column)
    if infinite.any():
        first = wording.stamp(times[int(infinite.argmax())])
        found.add(
            "inf",
            f"{wording.some(int(infinite.sum()), 'infinite number', 'infinite numbers')}, the first at {first}",
            "read them as missing with --sentinel inf --sentinel=-inf and a --fill",
            count=int(infinite.sum()),
            first=first,
            **about,
        )
    if missing.all():
        found.add("empty", "holds no number", "leave it out", count=len(column), **about)
    elif missing.any():
        first = wording.stamp(times[int(missing.argmax())])
        # Nothing comes before a leading gap that it could be filled with.
        fix = "leave it out, or cut the file's beginning" if missing[0] else remedy
        found.add(
            "missing",
            f"{wording.some(int(missing.sum()), 'missing number', 'missing numbers')}, the first at {first}",
            fix,
            count=int(missing.sum()),
            first=first,
            **about,
        )


def _sentinels(id: str | None, times: pd.Index, column: np.ndarray, name: str, suspect: np.ndarray, found: Found) -> None:  # fmt: skip
    """-9999 and its like, where they lie further from all other numbers than those from each other."""
    rest = column[np.isfinite(column) & ~suspect]
    if len(rest) < 10:
        return
    low, high = rest.min(), rest.max()
    reach = high - low
    for value in np.unique(column[suspect]):
        if low - reach <= value <= high + reach:
            continue
        at = column == value
        first = wording.stamp(times[int(at.argmax())])
        found.add(
            "sentinel",
            f"{value:g} stands {wording.some(int(at.sum()), 'time', 'times')}, first at {first}, far from all other numbers",
            f"read it as missing with --sentinel={value:g} and a --fill, or keep it with --sentinel nan",
            series=id,
            column=name,
            count=int(at.sum()),
            first=first,
        )


def _outliers(id: str | None, times: pd.Index, values: np.ndarray, names: list[str], found: Found) -> None:  # fmt: skip
    """Numbers more than 20 interquartile ranges from the median."""
    for i, name in enumerate(names):
        column = values[:, i]
        seen = column[~np.isnan(column)]
        if len(seen) < 10:
            continue
        low, middle, high = np.percentile(seen, (25, 50, 75))
        with np.errstate(invalid="ignore"):
            far = np.abs(column - middle) > 20 * (high - low)
        if high > low and far.any():
            first = wording.stamp(times[int(far.argmax())])
            found.add(
                "outliers",
                f"{wording.some(int(far.sum()), 'number lies', 'numbers lie')} more than 20 interquartile ranges from the median, "
                f"the first at {first}",
                "look at them",
                series=id,
                column=name,
                count=int(far.sum()),
                first=first,
                level="warning",
            )


def find_copies(
    id: str | None,
    values: np.ndarray,
    targets: Sequence[str],
    covariates: np.ndarray,
    names: list[str],
    found: Found,
) -> None:
    """Targets that are the same, and known covariates that are a target: a forecast from the answer."""
    if len(values) < 10 or len(targets) > 2000:
        return
    clean = np.nan_to_num(values, posinf=0, neginf=0)
    seen: dict[bytes, str] = {}
    for i, name in enumerate(targets):
        key = clean[:, i].tobytes()
        if key in seen and np.ptp(clean[:, i]) > 0:
            found.add(
                "identical",
                f"holds the same numbers as '{seen[key]}'",
                "leave one of them out",
                series=id,
                column=name,
                level="warning",
            )
        seen.setdefault(key, name)
    for j, name in enumerate(names):
        other = np.nan_to_num(covariates[: len(values), j], posinf=0, neginf=0)
        for i, target in enumerate(targets):
            if np.ptp(other) == 0 or np.ptp(clean[:, i]) == 0:
                continue
            if abs(np.corrcoef(other, clean[:, i])[0, 1]) > 0.9999:
                found.add(
                    "leak",
                    f"known covariate '{name}' is the target '{target}' in other units",
                    "make sure that it is really known ahead",
                    series=id,
                    column=name,
                    level="warning",
                )


def step_of(times: pd.Index) -> int | None:
    """The usual step of sorted stamps, in nanoseconds (of an integer clock in its own unit)."""
    if len(times) < 2:
        return None
    numbers = times.as_unit("ns").asi8 if isinstance(times, pd.DatetimeIndex) else np.asarray(times)
    steps = np.diff(numbers)
    steps = steps[steps > 0]
    if len(steps) == 0:
        return None
    found, counts = np.unique(steps, return_counts=True)
    return int(found[counts.argmax()])


def off_grid(times: pd.DatetimeIndex, freq: str) -> np.ndarray:
    """Which of ``times`` do not lie on the grid of ``freq`` that the first of them starts."""
    step = frequency.absolute_step(freq)
    if step is not None:
        ns = times.as_unit("ns").asi8
        return ns % step != ns[0] % step  # a difference of 300 years overflows
    if len(times) == 0:
        return np.zeros(0, bool)
    return ~times.isin(frequency.grid(times[0], times[-1], freq, times))
