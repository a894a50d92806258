"""Everything that can be said about a file before a model sees it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency, wording
from apps.timeseries.data.options import Options
from apps.timeseries.data.reading import read

_IDS = 20


def check_file(path: Path | str | pd.DataFrame | pd.Series, **options: Any) -> dict[str, Any]:
    """A report of the file or data frame, ready for JSON; ``options`` are those of ``read_panel``.

    ``ok`` is whether a model can be fitted on it as it is (with these options).  ``problems`` has a
    dictionary for each: kind, level (error or warning), series, column, count, first (the place),
    says and fix; at most twenty of a kind.  Raises what ``read_panel`` raises for a file that cannot
    be read at all.
    """
    options.pop("strict", None)
    reading = read(path, Options(**options), deep=True)
    panel, found = reading.panel, reading.found
    lengths = np.array([len(series) for series in panel])
    freqs = Counter(series.freq for series in panel)
    dated = hasattr(panel.series[0].times, "tz")
    return {
        "file": panel.source,
        "sha256": panel.sha256,
        "ok": not found.errors(),
        "rows": reading.rows,
        "layout": panel.layout,
        "mapping": reading.roles.mapping(),
        "targets": list(panel.targets),
        "series": len(panel),
        "ids": [series.id for series in panel.series[:_IDS]],
        "length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "freq": panel.freq,
        "frequencies": {str(freq): count for freq, count in freqs.most_common()},
        "season": frequency.season(panel.freq),
        "clock": "dates" if dated else "steps",
        "tz": panel.tz,
        "start": wording.stamp(min(series.times[0] for series in panel)),
        "end": wording.stamp(max(series.observed[-1] for series in panel)),
        "future": max(len(series.times) - len(series) for series in panel),
        "missing": int(sum(np.isnan(series.values).sum() for series in panel)),
        "notes": list(panel.notes),
        "problems": [problem.report() for problem in found.shown()],
    }


def print_report(report: dict[str, Any]) -> None:
    """The report for a person."""
    length = report["length"]
    rows = f"{length['min']:,}" if length["min"] == length["max"] else f"{length['min']:,} to {length['max']:,}"  # fmt: skip
    many = f"{report['series']:,} series" if report["layout"] == "long" else "1 series"
    clock = report["freq"] or ("no one frequency" if report["clock"] == "dates" else "steps")
    zone = f", {report['tz']}" if report["tz"] else ""
    print(f"{report['file']}: {report['rows']:,} rows, {many} of {rows} stamps")
    print(f"  {report['start']} to {report['end']}, {clock}{zone}, season {report['season']}")
    print(f"  targets: {len(report['targets'])}; covariates known ahead: {report['future']} stamps")
    for note in report["notes"]:
        print(f"  {note}")
    for problem in report["problems"]:
        where = ", ".join(
            f"{kind} '{problem[kind]}'"
            for kind in ("series", "column")
            if problem[kind] is not None
        )
        print(f"  {problem['level']}: {where}{': ' if where else ''}{problem['says']}; {problem['fix']}")  # fmt: skip
    print("  ready to fit" if report["ok"] else "  not ready to fit: see the errors above")
