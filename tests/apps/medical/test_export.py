"""Exported networks compute what the model computes, in the runtime they are for."""

from __future__ import annotations

import json
import logging
import sys
import warnings

import numpy as np
import pytest
import torch

from apps.medical import catalog, models
from apps.medical.export import export
from apps.medical.store import Model, ModelSpec, NetworkSpec, load_model
from core import exporting as module
from core.errors import DataError, UsageError
from core.exporting import TOLERANCE
from core.files import plain


@pytest.mark.parametrize("format", ["torchscript", "torch_export", "onnx"])
def test_equal_to_the_network(tmp_path, model_3d, format) -> None:
    report = export(model_3d, tmp_path, format)
    path = tmp_path / report["file"]
    assert path.exists()
    assert report["check"]["max_abs_difference"] <= TOLERANCE
    assert report["input"] == ["B", 1, 16, 16, 16]
    card = json.loads((tmp_path / "export.json").read_text())
    assert card["sha256"] == report["sha256"]
    assert card["labels"] == {"0": "background", "2": "front", "5": "back"}

    # Independently of the check: run the file on another input, in a batch of three if it may.
    x = torch.randn(3 if report["dynamic_batch"] else 1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = load_model(model_3d).network(x).numpy()
        if format == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path))
            got = session.run(None, {"image": x.numpy()})[0]
        elif format == "torchscript":
            got = torch.jit.load(str(path))(x).numpy()
        else:
            got = torch.export.load(path).module()(x).numpy()
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "format",
    [
        "torchscript",
        pytest.param("torch_export", marks=pytest.mark.slow),
        pytest.param("onnx", marks=pytest.mark.slow),
    ],
)
def test_mamba_leaves_in_ordinary_operators(tmp_path, make_plan, format) -> None:
    """No operator of ours is in the file: a program without this project must read it."""
    options = {"feature_size": 4, "depths": [1], "strides": [], "width": 4, "last": False}
    options = plain(catalog.resolve("segmamba", 2, **options))
    spec = ModelSpec(
        name="scans",
        network=NetworkSpec(
            name="segmamba", rank=2, in_channels=1, out_channels=3, options=options
        ),
        plan=make_plan(rank=2, patch=[24, 12]),
        labels={0: "background", 2: "front", 5: "back"},
    )
    torch.manual_seed(0)
    network = models.build("segmamba", 2, 1, 3, **options).eval()
    report = export(Model((network,), spec, tmp_path), tmp_path / "out", format)
    assert report["check"]["max_abs_difference"] <= TOLERANCE
    file = tmp_path / "out" / report["file"]
    if format == "torch_export":  # the file tells where each node came from, too
        written = str(torch.export.load(file).graph)
    elif format == "torchscript":
        written = str(torch.jit.load(str(file)).inlined_graph)
    else:
        written = str(file.read_bytes())
    assert "triptych" not in written


def test_exporters_keep_off_the_streams(tmp_path, model_3d, monkeypatch, capfd) -> None:
    said = logging.StreamHandler()  # holds the stream of now, as PyTorch's own does

    def talk(network, windows, path):
        print("exporting")
        warnings.warn("experimental", stacklevel=1)
        logging.getLogger("torch.onnx").warning("torchvision is not installed")
        return write(network, windows, path)

    write = module._torchscript
    monkeypatch.setattr(module, "_torchscript", talk)
    logging.getLogger("torch.onnx").addHandler(said)
    try:
        export(model_3d, tmp_path, "torchscript")
        assert capfd.readouterr() == ("", "")
        logging.getLogger("torch.onnx").warning("heard again")
        said.flush()
        assert "heard again" in capfd.readouterr().err
    finally:
        logging.getLogger("torch.onnx").removeHandler(said)


def test_a_wrong_export_is_an_error_and_leaves_nothing(tmp_path, model_3d, monkeypatch) -> None:
    monkeypatch.setattr(
        module, "_runner", lambda format, path: lambda batch: batch["image"].repeat(1, 3, 1, 1, 1)
    )
    with pytest.raises(DataError, match="differs from the original"):
        export(model_3d, tmp_path / "out", "torchscript")
    assert list((tmp_path / "out").iterdir()) == []


def test_network_that_cannot_be_exported(tmp_path, model_3d, monkeypatch) -> None:
    def fail(*args):
        raise RuntimeError("unsupported\noperator")

    monkeypatch.setattr(module, "_torchscript", fail)
    with pytest.raises(DataError, match=r"cannot be exported as torchscript \(unsupported\)"):
        export(model_3d, tmp_path, "torchscript")


def test_torchscript_of_code_that_computes_with_sizes(tmp_path, model_3d) -> None:
    """The older tracer fails on it; the detour through the newer one must not change results."""

    class Padding(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            short = torch.sym_max(0, 20 - x.shape[-1])
            return self.inner(torch.nn.functional.pad(x, (0, short)))[..., : x.shape[-1]]

    model = load_model(model_3d)
    padded = Model((Padding(model.network),), model.spec, model.folder)
    with pytest.raises(AssertionError):
        torch.jit.trace(padded.network, torch.randn(1, 1, 16, 16, 16))
    report = export(padded, tmp_path, "torchscript")
    assert report["check"]["max_abs_difference"] <= TOLERANCE


def test_existing_output_unknown_format_and_ensembles(
    tmp_path, model_3d, save_small, make_plan
) -> None:
    export(model_3d, tmp_path / "out", "torchscript", check=False)
    with pytest.raises(UsageError, match="--force"):
        export(model_3d, tmp_path / "out", "torchscript")
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        export(model_3d, tmp_path / "out", "onx")
    for fold in range(2):
        save_small(tmp_path / "m" / f"fold_{fold}", make_plan(), seed=fold)
    with pytest.raises(UsageError, match="--fold"):
        export(tmp_path / "m", tmp_path / "o", "torchscript")
    report = export(tmp_path / "m", tmp_path / "o", "torchscript", fold=1)
    assert report["file"] == "small_fold_1.ts"


def test_missing_extra_says_which(tmp_path, model_3d, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"\[export\]"):
        export(model_3d, tmp_path, "onnx")
