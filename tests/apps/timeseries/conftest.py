"""Small panels whose every number is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


SMALL = ("--set", "dim=16", "--set", "depth=1", "--set", "ffn=16", "--set", "heads=2")
"""Keeps an iTransformer's training step to a millisecond."""


def _table(rows: int = 200, variates: int = 2, freq: str = "h", start: str = "2024-01-01"):
    """A wide table: ``date`` and noisy cycles of 24 rows called v0, v1, ..."""
    rng = np.random.default_rng(0)
    waves = np.sin(2 * np.pi * (np.arange(rows)[:, None] / 24 + np.arange(variates) / 7))
    values = 10 + 3 * waves + 0.3 * rng.normal(size=(rows, variates))
    table = pd.DataFrame(values, columns=[f"v{i}" for i in range(variates)])
    table.insert(0, "date", pd.date_range(start, periods=rows, freq=freq).astype(str))
    return table


def _long(series: int = 3, rows: int = 120, freq: str = "h"):
    """A long table: series s0, s1, ... of one column y."""
    wide = _table(rows, series, freq).rename(columns={"date": "ds"})
    wide.columns = ["ds", *(f"s{i}" for i in range(series))]
    return wide.melt("ds", var_name="unique_id", value_name="y")[["unique_id", "ds", "y"]]


@pytest.fixture(scope="session")
def table() -> Callable[..., pd.DataFrame]:
    return _table


@pytest.fixture(scope="session")
def long_table() -> Callable[..., pd.DataFrame]:
    return _long


@pytest.fixture
def csv(tmp_path: Path) -> Callable[..., Path]:
    """Write a table, a text or bytes below tmp_path; returns the file."""

    def write(data: pd.DataFrame | str | bytes, name: str = "load.csv") -> Path:
        path = tmp_path / name
        text = data.to_csv(index=False) if isinstance(data, pd.DataFrame) else data
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: two training steps on the wide table, lookback 24, horizon 6."""
    from apps.timeseries import fit

    folder = tmp_path_factory.mktemp("models")
    _table().to_csv(folder / "load.csv", index=False)
    options = {"dim": 16, "depth": 1, "ffn": 16, "heads": 2}
    fit(
        folder / "load.csv",
        lookback=24,
        horizon=6,
        out=folder / "small",
        max_steps=2,
        options=options,
    )
    return folder / "small"


@pytest.fixture
def small() -> tuple[str, ...]:
    """Options of ``fit`` for a model of a few thousand parameters."""
    return SMALL


@pytest.fixture
def command(run_json: Callable[..., Any]) -> Callable[..., tuple[int, dict, str]]:
    """Run a verb with --json in this process: (exit code, the one JSON object, standard error)."""
    from apps.timeseries.run import app

    return run_json(app)


@pytest.fixture
def text(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a verb as a person does: (exit code, standard output, standard error)."""
    from apps.timeseries.run import app
    from core.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(app, [*map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return code, captured.out, captured.err

    return call
