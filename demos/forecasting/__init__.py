"""The parts of the forecasting page: what it asks, what it runs through ``apps.timeseries``, what it draws."""
