"""Files of time series, made where a test needs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def wide() -> Callable[..., pd.DataFrame]:
    """A wide table: `date` and targets a, b, ... of seeded noise."""

    def make(rows: int = 120, freq: str = "h", start: str = "2020-01-01", columns: int = 2):
        values = np.random.default_rng(0).normal(size=(rows, columns))
        table = pd.DataFrame(values, columns=[f"v{i}" for i in range(columns)])
        table.insert(0, "date", pd.date_range(start, periods=rows, freq=freq).astype(str))
        return table

    return make


@pytest.fixture
def long() -> Callable[..., pd.DataFrame]:
    """A long table: series s0, s1, ... of seeded noise."""

    def make(series: int = 3, rows: int = 50, freq: str = "D"):
        stamps = pd.date_range("2020-01-01", periods=rows, freq=freq).astype(str)
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "unique_id": f"s{i}",
                        "ds": stamps,
                        "y": np.random.default_rng(i).normal(size=rows),
                    }
                )
                for i in range(series)
            ],
            ignore_index=True,
        )

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a table, a text or bytes to a file."""

    def write(data: pd.DataFrame | str | bytes, name: str = "data.csv") -> Path:
        path = tmp_path / name
        if isinstance(data, pd.DataFrame):
            data.to_csv(path, index=False)
        else:
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


@pytest.fixture
def berlin() -> Callable[..., pd.DataFrame]:
    """A year of Berlin as a clock on the wall shows it: no zone, a day of 23 and one of 25 hours."""

    def make(freq: str = "h", zone: str = "Europe/Berlin", start: str = "2020-01-01", end: str = "2020-12-31"):  # fmt: skip
        times = pd.date_range(start, end, freq=freq, tz=zone)
        return pd.DataFrame(
            {"date": times.tz_localize(None).astype(str), "a": np.arange(len(times)) * 1.0}
        )

    return make
