"""Forecasters: ``build`` in `base` makes any of the catalog's by name."""
