"""Networks of several inputs leave whole, and the comparison finds what differs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core import exporting
from core.errors import DataError


class Two(nn.Module):
    """Two inputs whose order matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a) - 2 * b


INPUTS = {"a": torch.randn(2, 5, 4), "b": torch.randn(2, 5, 3)}


@pytest.mark.parametrize("format", ["torchscript", "torch_export", "onnx"])
def test_inputs_keep_their_order_and_names(tmp_path, format) -> None:
    network, path = Two().eval(), tmp_path / ("n" + exporting.SUFFIX[format])
    dynamic = exporting.write_network(network, INPUTS, ["y"], format, path)
    assert dynamic
    check = exporting.compare(network, INPUTS, format, path, dynamic)
    assert check["max_abs_difference"] < 1e-6
    exporting.require_equal(check, path)
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path))
        assert [i.name for i in session.get_inputs()] == ["a", "b"]
        assert [o.name for o in session.get_outputs()] == ["y"]


def test_the_comparison_finds_other_weights_shapes_and_nan(tmp_path) -> None:
    network, other, path = Two().eval(), Two().eval(), tmp_path / "n.pt2"
    exporting.write_network(network, INPUTS, ["y"], "torch_export", path)
    with torch.no_grad():
        other.linear.bias += 0.01
    check = exporting.compare(other, INPUTS, "torch_export", path, True)
    assert check["max_abs_difference"] == pytest.approx(0.01, abs=1e-5)
    with pytest.raises(DataError, match=r"differs from the original by 0.01"):
        exporting.require_equal(check, path)
    with torch.no_grad():
        other.linear.bias += torch.nan
    check = exporting.compare(other, INPUTS, "torch_export", path, True)
    with pytest.raises(DataError, match="by inf"):
        exporting.require_equal(check, path)
    wide = nn.Sequential(nn.Flatten())
    with pytest.raises(DataError, match="instead of"):
        exporting.compare(_First(wide), INPUTS, "torch_export", path, True)


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.inner(a)
