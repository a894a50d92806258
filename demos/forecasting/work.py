"""What a press of the button does: folds, forecasts, reports and files, in a folder of this run.

    forecast.csv, forecast.xlsx        every model's forecast, long: unique_id, model, ds, yhat, lo-80, ...
    forecasts/MODEL/                   what the verb ``forecast`` writes
    backtest/, backtest/report/        what ``backtest`` and ``report`` write
    models/MODEL/                      what was trained, for ``forecast --model``
    config.json                        the data's hash, how it was read, the settings, the versions

Everything is computed by ``apps.timeseries``; this only puts it in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from apps.timeseries import catalog
from apps.timeseries.data.panel import Panel
from core.errors import DataError, TriptychError, UsageError
from core.files import atomic_path, sha256, write_json
from core.progress import Progress
from core.reporting import environment
from demos.forecasting.settings import MOST_VALUES, Settings, chosen
from demos.forecasting.wording import in_page

if TYPE_CHECKING:
    from apps.timeseries.attention import Attention

CSV, XLSX, ZIP, CONFIG = "forecast.csv", "forecast.xlsx", "run.zip", "config.json"


@dataclass(frozen=True, eq=False)
class Result:
    """What a run found. Shared by all sessions: nobody may write into it.

    ``backtest`` is the report of ``apps.timeseries.backtest`` and ``folds`` its long frame; both are
    empty where the rows do not suffice, and ``lacking`` says why.
    """

    folder: Path
    settings: Settings
    panel: Panel
    forecast: pd.DataFrame  # long, all models
    reports: dict[str, dict[str, Any]]  # by model: what forecast.json holds
    backtest: dict[str, Any] = field(default_factory=dict)
    folds: pd.DataFrame = field(default_factory=pd.DataFrame)
    lacking: str = ""
    attention: dict[str, Attention] = field(default_factory=dict)  # by model that has some
    notes: tuple[str, ...] = ()


def run(
    path: Path,
    reading: Mapping[str, Any],
    whole: Panel,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> Result:
    """Do it all. ``whole`` is the panel of ``path`` as read by ``reading``.

    Raises what the application raises, in the words of the page.
    """
    try:
        return _run(path, reading, chosen(whole, settings), settings, folder, progress)
    except TriptychError as error:
        raise type(error)(in_page(str(error))) from error


def _run(
    path: Path,
    reading: Mapping[str, Any],
    panel: Panel,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> Result:
    _check_size(panel, settings)
    with progress.task("Forecasting", total=2 + len(_names(settings))) as task:
        task.advance(0, "past folds first")
        report, folds, lacking = _backtest(panel, settings, folder, progress)
        task.advance(1, "the future")
        frames: list[pd.DataFrame] = []
        reports: dict[str, dict[str, Any]] = {}
        weights: dict[str, Attention] = {}
        notes: list[str] = []
        for name in _names(settings):
            ref = _ref(name, settings, folder)
            try:
                frame, reports[name] = _forecast(panel, name, ref, settings, folder, progress)
                frames.append(frame)
                weights |= _attention(panel, name, ref)
            except TriptychError as error:  # one model that cannot need not stop the others
                notes.append(f"{name} gives no forecast: {in_page(str(error))}")
            task.advance(1, name)
        if not frames:
            raise DataError(f"{panel.source}: {notes[0]}")
        forecast = pd.concat(frames, ignore_index=True)
        task.advance(0, "files")
        _write(path, reading, settings, folder, forecast)
        task.advance(1)
    return Result(
        folder, settings, panel, forecast, reports, report, folds, lacking, weights, tuple(notes)
    )


def _names(settings: Settings) -> list[str]:
    return list(dict.fromkeys((*settings.all_models, catalog.REFERENCE)))


def _ref(name: str, settings: Settings, folder: Path) -> str | Path:
    return folder / "models" / name if name in settings.train else name


def _check_size(panel: Panel, settings: Settings) -> None:
    columns = len(panel) * len(panel.targets)
    values = columns * settings.windows * settings.horizon * len(_names(settings))
    if values > MOST_VALUES:
        raise UsageError(
            f"{columns:,} series and variates x {settings.windows} folds x {settings.horizon} steps x "
            f"{len(_names(settings))} models are {values:,} forecast values, more than the "
            f"{MOST_VALUES:,} that this page shows; choose fewer of any of them, or use the command line"
        )


def _backtest(
    panel: Panel, settings: Settings, folder: Path, progress: Progress
) -> tuple[dict[str, Any], pd.DataFrame, str]:
    """The report and frame of the folds, or why there are none; trained models in ``models/``."""
    from apps.timeseries.backtest import backtest
    from apps.timeseries.methods import TrainedMethod
    from apps.timeseries.report import report

    trained = [
        TrainedMethod(
            name,
            settings.lookback,
            {"epochs": settings.epochs},
            {"max_minutes": settings.minutes},
            keep=folder / "models" / name,
        )
        for name in settings.train
    ]
    try:
        done = backtest(
            panel,
            [*trained, *settings.models] or [catalog.REFERENCE],
            horizon=settings.horizon,
            windows=settings.windows,
            step=settings.step,
            levels=settings.levels,
            season=settings.season,
            lookback=settings.lookback,
            baselines=[],
            seed=settings.seed,
            out=folder / "backtest",
            progress=progress,
        )
    except DataError as error:
        if settings.train:  # what was to be trained is there no more
            raise
        return {}, pd.DataFrame(), in_page(str(error))
    report(folder / "backtest", progress=progress)
    return done.report, done.frame, ""


def _forecast(
    panel: Panel,
    name: str,
    ref: str | Path,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    from apps.timeseries.forecast import forecast

    done = forecast(
        panel,
        ref,
        horizon=settings.horizon,
        levels=settings.levels,
        season=settings.season if catalog.baseline(name) else None,
        out=folder / "forecasts" / name,
        progress=progress,
    )
    return done.frame.assign(model=name), done.report


def _attention(panel: Panel, name: str, ref: str | Path) -> dict[str, Attention]:
    """What the model looks at, on the first series, if it is one that shows it."""
    if catalog.baseline(name):
        return {}
    from apps.timeseries.attention import attention

    try:
        return {name: attention(panel, ref)}
    except UsageError:
        return {}


def _write(
    path: Path,
    reading: Mapping[str, Any],
    settings: Settings,
    folder: Path,
    forecast: pd.DataFrame,
) -> None:
    """The files of all models together, and a zip of everything."""
    from apps.timeseries.backtest import write_frame
    from apps.timeseries.spreadsheet import MAX_ROWS, write_xlsx

    with atomic_path(folder / CSV) as temporary:
        write_frame(temporary, forecast)
    if len(forecast) < MAX_ROWS:
        write_xlsx(folder / XLSX, {"forecast": forecast})
    for used_up in (folder / "models").glob("*/run"):
        shutil.rmtree(used_up)
    write_json(
        folder / CONFIG,
        {
            "data": {"file": path.name, "sha256": sha256(path)},
            "reading": dict(reading),
            "settings": asdict(settings),
            "environment": environment(settings.seed),
        },
    )
    with atomic_path(folder / ZIP) as temporary:
        _zip(temporary, folder)


def _zip(path: Path, folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.name.startswith(".tmp-"):
                archive.write(file, file.relative_to(folder).as_posix())
