"""What is run: models, steps ahead, folds, and how long anything may be trained."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import streamlit as st

from apps.timeseries import catalog
from apps.timeseries.data import frequency
from apps.timeseries.data.panel import Panel
from apps.timeseries.listing import listing
from apps.timeseries.rolling import Need, Plan, plan_for
from demos.forecasting.wording import FIELDS

LEVELS = (50.0, 80.0, 95.0)
MOST_SERIES = 200
MOST_TRAINED = 3
"""Networks trained in one run: each takes its whole time."""
MOST_HORIZON, MOST_FOLDS, MOST_EPOCHS, MOST_MINUTES = 1000, 60, 20, 15.0
MOST_VALUES = 1_000_000
"""Forecast values of a backtest: at 100 bytes each 100 MB, for as long as the result is kept."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a result beside the data; part of its key."""

    models: tuple[str, ...]  # shipped models and baselines
    train: tuple[str, ...]  # models of the catalog, trained on the data
    horizon: int
    windows: int
    step: int
    season: int
    lookback: int = 96
    epochs: int = 3
    minutes: float = 1.0
    series: int = 50  # of a long file, at most
    levels: tuple[float, ...] = LEVELS
    seed: int = 0

    @property
    def all_models(self) -> tuple[str, ...]:
        """What is compared, the trained first, without what always runs beside it."""
        return (*self.train, *self.models)


def shipped(panel: Panel) -> dict[str, dict[str, object]]:
    """The cards of the shipped models that can forecast ``panel``: their columns, their frequency."""
    return {
        name: card
        for name, card in listing(())["weights"].items()
        if set(card["targets"]) <= set(panel.targets) and card["freq"] == panel.freq
    }


def fields(panel: Panel, key: str) -> Settings:
    """Draw the fields; their first values suit the data. ``key``: of the data, for a state of its own."""
    cards = shipped(panel)
    rows = int(median(len(series) for series in panel))
    usual = frequency.season(panel.freq)
    first = min(cards, key=lambda name: int(str(cards[name]["horizon"])), default=None)
    horizon, lookback = _sizes(rows, usual)
    if first is not None:
        horizon = min(int(str(cards[first]["horizon"])), max(1, rows // 4))

    def label(name: str) -> str:
        if name in cards:
            card = cards[name]
            return f"{name} (shipped {card['model']})"
        return name

    def about(name: str) -> str:
        return f"forecasting-{name}-{key}"

    left, right = st.columns(2)
    with left:
        ready = [*cards, *(name for name in catalog.BASELINES if name != catalog.REFERENCE)]
        models = st.multiselect(
            "Models that need no training",
            ready,
            default=[*([first] if first else []), "seasonal-mean"],
            format_func=label,
            key=about("models"),
            wrap=True,
            help="Seasonal naive always runs beside them. ETS takes a few seconds for each variate.",
        )
    enough = rows >= max(100, 2 * (lookback + 3 * horizon))
    with right:
        train = st.multiselect(
            "Models to train on this data",
            list(catalog.MODELS),
            default=["dlinear"] if enough and not first else [],
            key=about("train"),
            max_selections=MOST_TRAINED,
            wrap=True,
            help="Trained on the rows before the folds, never on what they are judged by.",
            placeholder="none",
        )
    one, two, three, four = st.columns(4)
    limit = max(1, min(MOST_HORIZON, rows // 3))
    steps = int(
        one.number_input(
            FIELDS["horizon"], 1, limit, min(horizon, limit), key=about("horizon"), help="Rows."
        )
    )
    folds = int(
        two.number_input(
            FIELDS["windows"], 1, MOST_FOLDS, _folds(rows, min(horizon, limit)), key=about("folds"),
            help="Past horizons that every model has to forecast from what was known then.",
        )
    )  # fmt: skip
    season = int(
        three.number_input(
            FIELDS["season"], 1, max(1, rows), min(max(1, usual), max(1, rows)),
            key=about("season"), help="24 for hours of a day, 7 for days of a week, 12 for months.",
        )
    )  # fmt: skip
    step = int(
        four.number_input(
            FIELDS["step"], 1, max(1, rows), steps, key=f"{about('step')}-{steps}",
            help="As many as steps ahead: the folds touch and do not overlap.",
        )
    )  # fmt: skip
    epochs, minutes, series = 3, 1.0, 50
    if train:
        one, two, three, _ = st.columns(4)
        lookback = int(
            one.number_input(
                FIELDS["lookback"], 1, max(1, min(1024, rows // 2)), lookback, key=about("lookback")
            )
        )
        epochs = int(
            two.number_input("Epochs at most", 1, MOST_EPOCHS, epochs, key=about("epochs"))
        )
        minutes = float(
            three.number_input(
                "Minutes at most, each", 0.1, MOST_MINUTES, minutes, 0.5, key=about("minutes")
            )
        )
    if len(panel) > 1:
        most = min(len(panel), MOST_SERIES)
        series = int(
            st.number_input(
                "Series at most", 1, most, min(series, most), key=about("series"),
                help=f"The file has {len(panel):,}; the first ones are used.",
            )
        )  # fmt: skip
    return Settings(
        models=tuple(models), train=tuple(train), horizon=steps, windows=folds, step=step,
        season=season, lookback=lookback, epochs=epochs, minutes=minutes, series=series,
    )  # fmt: skip


def chosen(panel: Panel, settings: Settings) -> Panel:
    """``panel`` with as many of its series as the settings want."""
    return panel.with_series(panel.series[: settings.series])


def plan(panel: Panel, settings: Settings) -> Plan:
    """Where the folds will lie. Raises DataError where the rows do not suffice."""
    cards = shipped(panel)
    known = [int(str(cards[name]["lookback"])) for name in settings.models if name in cards]
    needs = [Need(1, False), *(Need(rows, False) for rows in known)]
    needs += [Need(settings.lookback, True) for _ in settings.train]
    return plan_for(
        chosen(panel, settings),
        needs,
        horizon=settings.horizon,
        windows=settings.windows,
        step=settings.step,
        season=settings.season,
    )


def _sizes(rows: int, season: int) -> tuple[int, int]:
    """(steps ahead, lookback) that suit so many rows and such a season."""
    horizon = max(1, min(season if season > 3 else 12, rows // 10))
    return horizon, max(1, min(96, max(4 * horizon, 2 * season), rows // 6))


def _folds(rows: int, horizon: int) -> int:
    """Ten, or as many as a third of the rows has room for."""
    return max(1, min(10, rows // (3 * horizon)))
