"""Forecast multivariate time series, with intervals whose coverage was measured.

>>> from apps.timeseries import fit, forecast, backtest

Importing this package costs nothing: the first use of a name imports what is behind it.
"""
