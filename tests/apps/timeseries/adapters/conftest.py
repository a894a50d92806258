"""Importing pytorch-forecasting takes seconds, so it is imported by the first test that needs it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

LOOKBACK, HORIZON = 32, 8
ROWS, CUT = 70, 55
TARGETS = ["y0", "y1", "y2"]
SMALL = {
    "dim": 8,
    "depth": 1,
    "ffn": 8,
    "heads": 2,
    "d_state": 2,
    "dropout": 0.0,
    "encoders": 1,
    "label": 16,
    "token": 16,
}


@pytest.fixture(scope="session")
def ptf() -> ModuleType:
    return pytest.importorskip("pytorch_forecasting")


@pytest.fixture(scope="session")
def v1(ptf: ModuleType) -> ModuleType:
    return import_module("apps.timeseries.adapters.ptf_v1")


@pytest.fixture(scope="session")
def v2(ptf: ModuleType) -> ModuleType:
    return import_module("apps.timeseries.adapters.ptf_v2")


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two series "a" and "b" of ROWS stamps: three targets, a known and a past covariate."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"t": np.tile(np.arange(ROWS), 2), "g": np.repeat(["a", "b"], ROWS)})
    for i, name in enumerate(TARGETS):
        noise = rng.normal(0, 0.1, 2 * ROWS)
        frame[name] = (i + 1) * np.sin(frame.t / 3 + i) + noise + 10 * i
    return frame.assign(k=rng.normal(5, 2, 2 * ROWS), p=rng.normal(-3, 4, 2 * ROWS))


@pytest.fixture(scope="session")
def quiet() -> dict[str, Any]:
    """Arguments of a trainer that leaves nothing behind."""
    return {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


def small(name: str) -> dict[str, Any]:
    """Options that make the model ``name`` tiny."""
    from apps.timeseries.models.base import option_defaults

    return {key: SMALL[key] for key in option_defaults(name) if key in SMALL}
