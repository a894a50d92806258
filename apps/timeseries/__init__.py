"""Forecast multivariate time series, with intervals whose coverage was measured.

>>> from apps.timeseries import backtest, fit, forecast
>>> fit("data.csv", "itransformer", lookback=96, horizon=24, out="model")
>>> forecast("data.csv", "model", out="result").frame

Importing this package costs nothing: the first use of a name imports what is behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.timeseries.backtest import backtest
    from apps.timeseries.fit import fit
    from apps.timeseries.forecast import forecast

__all__ = ["backtest", "fit", "forecast"]

lazy_functions(
    __name__, {name: f"apps.timeseries.{name}" for name in ("backtest", "fit", "forecast")}
)
