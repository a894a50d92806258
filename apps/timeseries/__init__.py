"""Forecast multivariate time series, with intervals whose coverage was measured.

>>> from apps.timeseries import backtest, fit, forecast
>>> fit("data.csv", "itransformer", lookback=96, horizon=24, out="model")
>>> forecast("data.csv", "model", out="result").frame

Importing this package costs nothing: the first use of a name imports what is behind it. The names
below are the public interface; docs/python.md describes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.timeseries.attention import attention
    from apps.timeseries.backtest import backtest
    from apps.timeseries.compare import compare
    from apps.timeseries.data.check import check_file
    from apps.timeseries.data.reading import read_panel
    from apps.timeseries.fit import fit
    from apps.timeseries.forecast import forecast
    from apps.timeseries.listing import list_models

__all__ = [
    "attention",
    "backtest",
    "check_file",
    "compare",
    "fit",
    "forecast",
    "list_models",
    "read_panel",
]

lazy_functions(
    __name__,
    {
        "attention": "apps.timeseries.attention",
        "backtest": "apps.timeseries.backtest",
        "check_file": "apps.timeseries.data.check",
        "compare": "apps.timeseries.compare",
        "fit": "apps.timeseries.fit",
        "forecast": "apps.timeseries.forecast",
        "list_models": "apps.timeseries.listing",
        "read_panel": "apps.timeseries.data.reading",
    },
)
