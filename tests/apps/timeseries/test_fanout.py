"""Series forecast on Ray: the same bytes as here, in the same order, with the same errors."""

from __future__ import annotations

import math
import operator
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from apps.timeseries import fanout
from apps.timeseries.backtest import backtest
from apps.timeseries.fanout import fan_out
from apps.timeseries.fit import fit
from apps.timeseries.forecast import forecast
from core.errors import DataError, ResourceError, UsageError, need

SMALL = {"dim": 16, "depth": 1, "ffn": 16, "heads": 2, "rate": 1e-3, "epochs": 1}


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory):
    """A local Ray of two processors, started in another folder than the code's."""
    pytest.importorskip("ray")
    threads, folder = torch.get_num_threads(), Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fanout, "_processors", lambda: 2)
        with fan_out("local") as mapper:
            yield mapper
    import ray

    assert not ray.is_initialized()
    os.chdir(folder)
    torch.set_num_threads(threads)


def without_seconds(value):
    """A report without what differs from run to run."""
    changing = ("seconds", "memory", "environment", "outputs")
    if isinstance(value, dict):
        return {
            key: without_seconds(entry)
            for key, entry in value.items()
            if not any(word in key for word in changing)
        }
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


def test_without_an_address_it_is_map() -> None:
    with fan_out(None) as mapper:
        assert mapper is map


def test_nothing_answers(monkeypatch) -> None:
    pytest.importorskip("ray")
    before = dict(os.environ)
    with (
        pytest.raises(ResourceError, match=r"--ray 127.0.0.1:1: no Ray answers there.*--ray local"),
        fan_out("127.0.0.1:1"),
    ):
        pass
    assert dict(os.environ) == before
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[scale\]'"), fan_out("local"):
        pass


@pytest.mark.slow
def test_results_come_in_order_and_errors_as_they_are(ray_here) -> None:
    import ray

    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    assert list(ray_here(math.sqrt, range(23))) == [math.sqrt(n) for n in range(23)]
    assert list(ray_here(math.sqrt, [])) == []
    results = ray_here(partial(need, extra="scale"), ["no_such_package"])
    with pytest.raises(UsageError, match=r"this needs the package 'no_such_package'.*scale"):
        list(results)
    with pytest.raises(TypeError, match="truediv"):
        list(ray_here(operator.truediv, [1]))
    with pytest.raises(ResourceError, match="Ray lost a worker"):
        list(ray_here(os._exit, [1]))
    assert list(ray_here(math.sqrt, [4.0])) == [2.0]  # and it goes on


@pytest.mark.slow
def test_forecasts_are_the_same_to_the_bit(ray_here, make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=200, count=6, variates=2)
    fit(
        panel, "itransformer", lookback=24, horizon=6, options=SMALL, quantiles=(0.1, 0.5, 0.9),
        out=tmp_path / "model",
    )  # fmt: skip
    for name, model in {"model": tmp_path / "model", "baseline": "seasonal-mean"}.items():
        options = {"horizon": 6, "series": ["s1/y0", "s3", "s0", "s5", "s4", "s2"]}
        options["max_series_plotted"] = 1
        here = forecast(panel, model, **options, out=tmp_path / f"{name}-here")
        there = forecast(panel, model, **options, out=tmp_path / f"{name}-there", ray="local")
        first, second = (result.folder / "forecast.csv" for result in (here, there))
        assert first.read_bytes() == second.read_bytes()
        assert without_seconds(here.report) == without_seconds(there.report)
    short = panel.with_series([*panel.series[:5], panel.series[5].head(10)])
    with pytest.raises(DataError, match="needs 24 rows of history and series s5 has 10"):
        forecast(short, tmp_path / "model", ray="local")
    values = panel.series[4].values.copy()
    values[-3] = math.nan
    holed = panel.with_series([*panel.series[:4], replace(panel.series[4], values=values)])
    said = []
    for address in (None, "local"):
        with pytest.raises(DataError) as caught:
            forecast(holed, tmp_path / "model", ray=address)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "series s4: missing values" in said[0]


@pytest.mark.slow
def test_backtests_are_the_same_to_the_bit(ray_here, make_panel, tmp_path: Path) -> None:
    panel = make_panel(rows=260, count=6, variates=1)
    results = [
        backtest(
            panel,
            ["dlinear", "ets"],
            horizon=6,
            windows=3,
            lookback=24,
            refit=2,
            options={"epochs": 1},
            calibration=20,
            baselines=["seasonal-naive", "drift"],
            out=tmp_path / str(address),
            ray=address,
        )
        for address in (None, "local")
    ]
    first, second = (result.folder / "backtest.csv" for result in results)
    assert first.read_bytes() == second.read_bytes()
    reports = [without_seconds(result.report) for result in results]
    assert reports[0] == reports[1]
    assert all(entry["predict_seconds"] >= 0 for entry in results[1].report["scores"].values())
