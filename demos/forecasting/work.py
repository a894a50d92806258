"""What a press of the button does: past folds, forecasts of the future, what models look at.

Everything is computed by ``apps.timeseries``; this only puts it in order.  What is trained is left in
``FOLDER/models/MODEL``; files to download are made when somebody asks for them (``files``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from apps.timeseries import catalog
from apps.timeseries.data.panel import Panel
from core.errors import DataError, TriptychError, UsageError
from core.progress import Progress
from demos.forecasting.settings import MOST_VALUES, Settings, chosen
from demos.forecasting.wording import in_page

if TYPE_CHECKING:
    from apps.timeseries.attention import Attention
    from apps.timeseries.backtest import Backtest
    from apps.timeseries.forecast import Forecast


@dataclass(frozen=True, eq=False)
class Result:
    """What a run found. Shared by all sessions: nobody may write into it.

    ``backtest`` is None where the rows do not suffice for the folds, and ``lacking`` says why.
    """

    path: Path
    reading: dict[str, Any]
    settings: Settings
    panel: Panel
    folder: Path
    forecasts: dict[str, Forecast]  # by model
    backtest: Backtest | None
    lacking: str = ""
    attention: dict[str, Attention] = field(default_factory=dict)  # by model that has some
    notes: tuple[str, ...] = ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The forecasts of all models, long: unique_id, model, cutoff, ds, yhat, lo-80, hi-80, ..."""
        found = [done.frame.assign(model=name) for name, done in self.forecasts.items()]
        return pd.concat(found, ignore_index=True)


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
    names = _names(settings)
    forecasts: dict[str, Forecast] = {}
    weights: dict[str, Attention] = {}
    notes: list[str] = []
    with progress.task("Forecasting", total=1 + len(names)) as task:
        task.advance(0, "past folds first")
        done, lacking = _backtest(panel, settings, folder, progress)
        task.advance(1, "the future")
        for name in names:
            ref = _ref(name, settings, folder)
            try:
                forecasts[name] = _forecast(panel, name, ref, settings, progress)
                weights |= _attention(panel, name, ref)
            except TriptychError as error:  # one model that cannot need not stop the others
                notes.append(f"{name} gives no forecast: {in_page(str(error))}")
            task.advance(1, name)
    if not forecasts:
        raise DataError(notes[0])
    return Result(
        path,
        dict(reading),
        settings,
        panel,
        folder,
        forecasts,
        done,
        lacking,
        weights,
        tuple(notes),
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
) -> tuple[Backtest | None, str]:
    """The folds, or why there are none; trained models in ``models/``."""
    from apps.timeseries.backtest import backtest
    from apps.timeseries.methods import TrainedMethod

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
            progress=progress,
        )
    except DataError as error:
        if settings.train:  # what was to be trained is there no more
            raise
        return None, in_page(str(error))
    return done, ""


def _forecast(
    panel: Panel, name: str, ref: str | Path, settings: Settings, progress: Progress
) -> Forecast:
    from apps.timeseries.forecast import forecast

    return forecast(
        panel,
        ref,
        horizon=settings.horizon,
        levels=settings.levels,
        season=settings.season if catalog.baseline(name) else None,
        progress=progress,
    )


def _attention(panel: Panel, name: str, ref: str | Path) -> dict[str, Attention]:
    """What the model looks at, on the first series, if it is one that shows it."""
    if catalog.baseline(name):
        return {}
    from apps.timeseries.attention import attention

    try:
        return {name: attention(panel, ref)}
    except UsageError:
        return {}
