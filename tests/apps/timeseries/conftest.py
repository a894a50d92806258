"""Small panels whose every number is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.data.panel import Panel, Series


def series(
    name: str, rows: int, variates: int = 2, *, known: int = 0, past: int = 0, seed: int = 0
) -> Series:
    """Noisy daily cycles on an hourly clock; the known covariates reach 48 stamps further."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2024-01-01", periods=rows + 48 * bool(known), freq="h")
    t = np.arange(len(times))[:, None]
    wave = np.sin(2 * np.pi * (t / 24 + np.arange(variates) / 7)) * (1 + np.arange(variates))
    values = 10.0 + 3.0 * wave[:rows] + 0.3 * rng.normal(size=(rows, variates))
    ahead = np.cos(2 * np.pi * t / 24 + np.arange(known))
    before = rng.normal(size=(rows, past))
    return Series(name, times, values, before, ahead, {"size": float(seed)}, "h")


@pytest.fixture
def make_panel() -> Callable[..., Panel]:
    """A panel of ``count`` series of ``rows`` stamps."""

    def make(rows: int = 400, count: int = 1, variates: int = 2, known: int = 0, past: int = 0):
        found = [
            series(f"s{i}", rows + 7 * i, variates, known=known, past=past, seed=i)
            for i in range(count)
        ]
        return Panel(
            tuple(found),
            tuple(f"y{i}" for i in range(variates)),
            tuple(f"p{i}" for i in range(past)),
            tuple(f"k{i}" for i in range(known)),
            layout="wide" if count == 1 else "long",
            source="made.csv",
            sha256="0" * 64,
        )

    return make
