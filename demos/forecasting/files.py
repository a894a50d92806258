"""Files of a run, made when somebody asks for one, once.

forecast.csv, forecast.xlsx       every model's forecast, long: unique_id, model, ds, yhat, lo-80, ...
forecasts/MODEL/                  forecast.csv, forecast.json, forecast.html of each
backtest/, backtest/report/       what the verbs ``backtest`` and ``report`` write
models/MODEL/                     what was trained, for ``forecast --model``
config.json                       the data's hash, how it was read, the settings, the versions
run.zip                           all of these
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import RLock
from typing import Any

from core.files import atomic_path, sha256, write_json, write_text
from core.reporting import environment
from demos.forecasting.work import Result

EXCEL_ROWS = 1_000_000
"""Above these there is no Excel file: a sheet holds a few more, and nobody reads them."""

_lock = RLock()


def csv(result: Result) -> Path:
    """Every model's forecast as CSV."""
    from apps.timeseries.backtest import write_frame

    def make(path: Path) -> None:
        with atomic_path(path) as temporary:
            write_frame(temporary, result.frame)

    return _once(result, "forecast.csv", make)


def xlsx(result: Result) -> Path:
    """Every model's forecast as an Excel file."""
    from apps.timeseries.spreadsheet import write_xlsx

    return _once(result, "forecast.xlsx", lambda path: write_xlsx(path, {"forecast": result.frame}))


def page(result: Result, model: str) -> Path:
    """The interactive page of one model's forecast."""
    from apps.timeseries.forecast import html

    name = f"forecasts/{model}/forecast.html"
    return _once(result, name, lambda path: write_text(path, html(result.forecasts[model])))


def report(result: Result) -> Path:
    """The report of the past folds, where there are some."""
    from apps.timeseries.backtest import write
    from apps.timeseries.report import report as write_report

    def make(path: Path) -> None:
        assert result.backtest is not None
        folder = path.parents[1]
        write(result.backtest, folder, force=True)
        write_report(folder, force=True)

    return _once(result, "backtest/report/report.html", make)


def archive(result: Result) -> Path:
    """A zip of everything."""
    from apps.timeseries.backtest import write_frame

    def make(path: Path) -> None:
        folder = path.parent
        csv(result)
        if len(result.frame) < EXCEL_ROWS:
            xlsx(result)
        for model, done in result.forecasts.items():
            own = page(result, model).parent
            write_frame(own / "forecast.csv", done.frame)
            write_json(own / "forecast.json", done.report, force=True)
        if result.backtest is not None:
            report(result)
        for used_up in folder.glob("models/*/run"):
            shutil.rmtree(used_up)
        write_json(folder / "config.json", config(result), force=True)
        with (
            atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as found,
        ):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and not file.name.startswith(".tmp-"):
                    found.write(file, file.relative_to(folder).as_posix())

    return _once(result, "run.zip", make)


def config(result: Result) -> dict[str, Any]:
    """What would give the same results again."""
    return {
        "data": {"file": result.path.name, "sha256": result.panel.sha256},
        "reading": result.reading,
        "settings": asdict(result.settings),
        "trained": {
            name: sha256(result.folder / "models" / name / "model.safetensors")
            for name in result.settings.train
        },
        "environment": environment(result.settings.seed),
    }


def _once(result: Result, name: str, make: Callable[[Path], Any]) -> Path:
    """The file ``name`` in the run's folder, made if it is not there."""
    path = result.folder / name
    with _lock:  # of one server: two who ask at once wait for each other
        if not path.exists():
            make(path)
    return path
