"""Exported forecasters compute what the network computes, in the runtime they are for."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from apps.timeseries.data.windows import Scaling, SeriesScaling
from apps.timeseries.export import export, print_report
from apps.timeseries.models.base import Shape, build
from apps.timeseries.store import DataSpec, ModelSpec, NetworkSpec, ShapeSpec, load, save
from core import exporting
from core.errors import DataError, UsageError
from core.exporting import TOLERANCE

L, H, N = 24, 8, 3


def folder_of(path, name, *, past=0, known=0, marks=False, quantiles=(), **options):
    """A model folder with fresh weights and a scaling of its own for each of two series."""
    torch.manual_seed(0)
    spec = ShapeSpec(
        lookback=L, horizon=H, variates=N, past=past, known=known + 4 * marks,
        outputs=max(1, len(quantiles)),
    )  # fmt: skip
    network = build(name, Shape(**spec.model_dump()), **options)
    network.fit_statistics(torch.randn(200, N))
    data = DataSpec(
        file="f.csv", sha256="0" * 64, layout="long", freq="h", season=24,
        targets=[f"y{i}" for i in range(N)], past=[f"p{i}" for i in range(past)],
        known=[f"k{i}" for i in range(known)], marks=marks, series=["a", "b"], rows=400,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    scalings = [
        SeriesScaling(*(Scaling(rng.normal(size=n), 1 + rng.random(n)) for n in (N, past, known)))
        for _ in "ab"
    ]
    about = ModelSpec(
        name=name, network=NetworkSpec(name=name, shape=spec, options=options), data=data,
        quantiles=list(quantiles), licence="Apache-2.0",
    )  # fmt: skip
    save(path, network.eval(), about, scalings)
    return path


SMALL = {"dim": 8, "depth": 1, "ffn": 16, "heads": 2}
CASES = {
    "itransformer": SMALL,
    "s-mamba": {"dim": 8, "depth": 1, "ffn": 16, "d_state": 2},
    "dlinear": {},
    "olinear": {"dim": 8, "depth": 1, "ffn": 16},
}


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
@pytest.mark.parametrize(
    "name",
    [
        "dlinear",
        "itransformer",
        pytest.param("olinear", marks=pytest.mark.slow),
        pytest.param("s-mamba", marks=pytest.mark.slow),
    ],
)
def test_equal_to_the_network(tmp_path, name, format) -> None:
    source = folder_of(tmp_path / "m", name, **CASES[name])
    report = export(source, tmp_path / "out", format)
    assert report["check"]["max_abs_difference"] <= TOLERANCE
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    assert card["inputs"] == [{"name": "x", "shape": ["B", L, N], "columns": ["y0", "y1", "y2"]}]
    assert card["output"]["shape"] == ["B", H, N]

    # Independently of the check: another batch, of five if it may.
    x = torch.randn(5 if report["dynamic_batch"] else 1, L, N)
    with torch.no_grad():
        expected = load(source).network(x).numpy()
        np.testing.assert_allclose(run(tmp_path / "out", report, x=x), expected, atol=TOLERANCE)


def run(folder, report, **inputs):
    path = folder / report["file"]
    if report["format"] == "torch_export":
        return torch.export.load(path).module()(*inputs.values()).numpy()
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path))
    assert [i.name for i in session.get_inputs()] == list(inputs)
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


@pytest.mark.parametrize(
    ("past", "known", "marks"),
    [
        (0, 2, False),
        pytest.param(1, 0, False, marks=pytest.mark.slow),
        pytest.param(1, 1, True, marks=pytest.mark.slow),
    ],
)
def test_covariates_by_name_and_order(tmp_path, past, known, marks) -> None:
    source = folder_of(tmp_path / "m", "itransformer", past=past, known=known, marks=marks, **SMALL)
    report = export(source, tmp_path / "out")
    K = known + 4 * marks
    inputs = {"x": torch.randn(2, L, N)}
    if past:
        inputs["past"] = torch.randn(2, L, past)
    if K:
        inputs["known"] = torch.randn(2, L + H, K)
    assert [entry["name"] for entry in report["inputs"]] == list(inputs)
    if marks:
        assert report["inputs"][-1]["columns"] == ["k0", *report["scaling"]["calendar"]]
    with torch.no_grad():
        expected = load(source).network(**inputs).numpy()
    found = run(tmp_path / "out", report, **inputs)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_card_is_enough_to_forecast_in_the_files_units(tmp_path) -> None:
    """From the two files alone: scale, run, scale back; the predictor says the same."""
    import pandas as pd

    from apps.timeseries.data.panel import Series
    from apps.timeseries.predictor import ModelPredictor

    source = folder_of(tmp_path / "m", "dlinear", quantiles=(0.1, 0.5, 0.9))
    export(source, tmp_path / "out")
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    values = 5 + np.random.default_rng(1).normal(size=(40, N))
    mean, std = (np.asarray(card["scaling"]["series"]["b"]["values"][k]) for k in ("mean", "std"))
    x = torch.from_numpy((values[-card["lookback"] :] - mean) / std).float()[None]
    y = run(tmp_path / "out", card, x=x)[0]
    assert card["output"]["shape"] == ["B", H, N, 3]
    times = pd.date_range("2024-01-01", periods=40, freq="h")
    none = np.empty((40, 0))
    series = Series(id="b", times=times, values=values, past=none, known=none, freq="h")
    expected = ModelPredictor(load(source)).predict_quantiles(series, [40], H)[0]
    np.testing.assert_allclose(np.sort(y * std[:, None] + mean[:, None], -1), expected, atol=1e-4)


def test_a_wrong_export_is_an_error_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    source = folder_of(tmp_path / "m", "dlinear")
    monkeypatch.setattr(
        exporting, "_runner", lambda format, path: lambda batch: batch["x"][:, :H] + 9
    )
    with pytest.raises(DataError, match="differs from the original"):
        export(source, tmp_path / "out", "torch_export")
    assert not (tmp_path / "out").exists()


def test_refusals(tmp_path, monkeypatch, capsys) -> None:
    source, out = folder_of(tmp_path / "m", "dlinear"), tmp_path / "out"
    report = export(source, out, "torch_export", check=False)
    assert "check" not in report
    with pytest.raises(UsageError, match="--force"):
        export(source, out, "torch_export")
    print_report(export(source, out, "pt2", force=True), out)
    assert "any batch size" in capsys.readouterr().out
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        export(source, out, "onx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"\[export\]"):
        export(source, tmp_path / "o")
