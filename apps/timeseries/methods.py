"""Baselines, trainable models and trained ones behind two small interfaces.

A ``Method`` is fitted to a panel and becomes a ``Predictor``; a predictor forecasts a series from
any of its rows on.  What backtests, compares, calibrates intervals or looks for anomalies knows
these two alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from apps.timeseries import baselines, catalog
from apps.timeseries.data import frequency
from apps.timeseries.data.panel import Panel, Series
from core.errors import DataError, UsageError, unknown
from core.progress import Progress

_SEASONS = {
    "last-value": 1,
    "seasonal-naive": 1,
    "seasonal-mean": baselines.SEASONS,
    "drift": 0,
    "ets": 10,  # a fit to ten days of hours costs milliseconds
}
"""Seasons of history that a baseline is given at each origin; 0: all there are."""


class Predictor(Protocol):
    """Forecasts from origins. Origin o of a series: rows [0, o) are known, rows o .. o+H-1 forecast.

    ``lookback`` rows of history it needs, ``horizon`` the longest it forecasts at once (None: any),
    ``quantiles`` it gives beside the forecast, ``season`` rows of a season, ``trained_until`` the
    last stamp that it has learnt from (None: it learns from the history it is given alone).
    """

    name: str
    lookback: int
    horizon: int | None
    quantiles: tuple[float, ...]
    season: int
    trained_until: str | None

    def predict(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        """(O, H, N) in the series' own units. Never looks at ``series.values[o:]``."""
        ...

    def predict_quantiles(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        """(O, H, N, Q), increasing along Q; only where ``quantiles`` are given."""
        ...


class Method(Protocol):
    """Something that can be fitted. ``trainable``: fitting costs time and its result depends on data."""

    name: str
    trainable: bool

    def fit(
        self, panel: Panel, *, horizon: int, seed: int = 0, progress: Progress | None = None
    ) -> Predictor:
        """Learn from ``panel``, which holds only what may be seen."""
        ...


def method(
    ref: str,
    *,
    lookback: int | None = None,
    season: int | None = None,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Method:
    """The method that ``ref`` means: a baseline, a model of the catalog, a model folder or shipped name.

    ``options`` of the network and ``training`` settings (see ``fit.fit``) are for models that are
    trained.  Raises UsageError, naming the nearest, for none of these.
    """
    name = catalog.baseline(ref)
    if name is not None:
        return BaselineMethod(name, season)
    if any(catalog.canonical(ref) == catalog.canonical(known) for known in catalog.MODELS):
        settings = dict(training or {})
        return TrainedMethod(
            catalog.model(ref).name, lookback, dict(options or {}), settings, device
        )
    return FixedMethod(load_predictor(ref, device=device, others=catalog.MODELS))


def load_predictor(
    ref: str | Path,
    device: str = "cpu",
    season: int | None = None,
    others: Iterable[str] = (),
) -> Predictor:
    """A trained model, by folder or shipped name, or a baseline by name, ready to forecast.

    Raises as ``store.load``; UsageError for a name that is none of these, naming the nearest of
    them and of ``others``.
    """
    name = catalog.baseline(str(ref))
    if name is not None:
        return BaselinePredictor(name, season)
    require_known(ref, others)
    from apps.timeseries.predictor import ModelPredictor
    from apps.timeseries.store import load

    return ModelPredictor(load(ref, device))


def require_known(ref: str | Path, others: Iterable[str] = ()) -> None:
    """UsageError for a bare name that is no baseline, shipped model, folder here or one of ``others``."""
    from core.shipped import model_cards

    text, names = str(ref), [*others, *model_cards("timeseries"), *catalog.BASELINES]
    bare = "/" not in text and "\\" not in text
    if bare and text not in names and catalog.baseline(text) is None and not Path(text).exists():
        raise UsageError(f"{unknown('model', text, names)}; or give the path of a model folder")


@dataclass
class BaselinePredictor:
    """A baseline of the catalog; the season is the frequency's unless given."""

    name: str
    given_season: int | None = None
    lookback: int = 1
    horizon: int | None = None
    quantiles: tuple[float, ...] = ()
    trained_until: str | None = None
    season: int = 1

    def __post_init__(self) -> None:
        self.season = self.given_season or 1

    def season_of(self, series: Series) -> int:
        """Rows of a season: as given, or the frequency's usual one."""
        return self.given_season or frequency.season(series.freq)

    def predict(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        season = self.season_of(series)
        # Windows of equal length are forecast together; those near the start, with less, one by one,
        # and so is the drift, which knows all that was.
        wanted = _SEASONS[self.name] * season
        out = np.empty((len(origins), horizon, series.values.shape[1]))
        whole = [i for i, o in enumerate(origins) if 0 < wanted <= o]
        for at in range(0, len(whole), 256):
            chosen = whole[at : at + 256]
            rows = np.asarray([origins[i] for i in chosen])[:, None] + np.arange(-wanted, 0)
            found = baselines.predict_windows(self.name, series.values[rows], horizon, season)
            out[chosen] = found
        for i in sorted(set(range(len(origins))) - set(whole)):
            if origins[i] < 1:
                raise DataError(f"series {series.id}: no rows before origin {origins[i]}")
            history = series.values[: origins[i]]
            out[i] = baselines.predict(self.name, history, horizon, season)
        return out

    def predict_quantiles(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        raise UsageError(f"baseline {self.name}: has no quantiles of its own")


@dataclass
class BaselineMethod:
    """A baseline, which needs no fitting."""

    name: str
    season: int | None = None
    trainable: bool = False

    def fit(
        self, panel: Panel, *, horizon: int, seed: int = 0, progress: Progress | None = None
    ) -> Predictor:
        return BaselinePredictor(self.name, self.season)


@dataclass
class FixedMethod:
    """A model that is trained already and is used as it is."""

    predictor: Predictor
    trainable: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.predictor.name

    def fit(
        self, panel: Panel, *, horizon: int, seed: int = 0, progress: Progress | None = None
    ) -> Predictor:
        return self.predictor


@dataclass
class TrainedMethod:
    """A model of the catalog, trained anew at each fit; ``keep`` is left the last as a model folder."""

    name: str
    lookback: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    trainable: bool = True
    keep: Path | None = None

    def fit(
        self, panel: Panel, *, horizon: int, seed: int = 0, progress: Progress | None = None
    ) -> Predictor:
        from apps.timeseries.fit import train
        from apps.timeseries.predictor import ModelPredictor
        from apps.timeseries.store import load, save

        with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
            model = train(
                panel,
                self.name,
                lookback=self.lookback,
                horizon=horizon,
                run_dir=Path(folder) / "run",
                options=self.options,
                seed=seed,
                progress=progress,
                device=self.device,
                test=False,
                **self.training,
            ).model
        if self.keep is not None:
            ordered = [model.scalings[s.id] for s in panel]
            save(self.keep, model.network, model.spec, ordered, force=True)
            model = load(self.keep, self.device)
        return ModelPredictor(model)
