"""The chunked scan alone: its operator's contract, its segments, and decays that all steps share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UsageError
from core.ops.chunk_scan import CHUNK, chunk_scan
from core.ops.chunk_scan.op import SEGMENT_BYTES

NAMES = ("x", "weight", "a", "B", "C", "initial_state")


def make(
    length: int,
    weighted: bool = True,
    shared: bool = False,
    dtype: torch.dtype = torch.float64,
    groups: int = 2,
) -> dict[str, Any]:
    """Two sequences, 4 heads of 3 channels, 5 states; log decays are always float64."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a = -normal(4).abs() if shared else -normal(2, length, 4).abs()
    return {
        "x": normal(2, length, 4, 3).to(dtype),
        "weight": normal(2, length, 4).to(dtype) if weighted else None,
        "a": a,
        "B": normal(2, length, groups, 5).to(dtype),
        "C": normal(2, length, groups, 5).to(dtype),
        "initial_state": normal(2, 4, 3, 5).to(dtype),
    }


def definition(
    x: Tensor, weight: Tensor | None, a: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence of the package's docstring, one step after the other."""
    h, ys = initial_state, []
    share = x.shape[2] // B.shape[2]
    for t in range(x.shape[1]):
        decay = (a if a.ndim == 1 else a[:, t]).exp()[..., None, None]
        x_t = x[:, t] if weight is None else weight[:, t, :, None] * x[:, t]
        h = decay * h + x_t[..., None] * B[:, t].repeat_interleave(share, 1)[:, :, None]
        ys.append((h * C[:, t].repeat_interleave(share, 1)[:, :, None]).sum(-1))
    return torch.stack(ys, 1), h


def with_gradients(call: Any, inputs: dict[str, Any]) -> list[Tensor]:
    leaves = {k: None if v is None else v.clone().requires_grad_() for k, v in inputs.items()}
    y, state = call(**leaves)
    loss = y.sin().sum() + state.cos().sum()
    return [y, state, *torch.autograd.grad(loss, [v for v in leaves.values() if v is not None])]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("segment", [1, 1 << 20])  # bytes: a chunk each, and all at once
@pytest.mark.parametrize("length", [1, 64, 150])
def test_values_and_gradients(
    length: int, segment: int, weighted: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEGMENT_BYTES, "cpu", segment)
    inputs = make(length, weighted, shared)
    wanted = with_gradients(definition, inputs)
    for found, exact in zip(with_gradients(chunk_scan, inputs), wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_operator_contract(weighted: bool) -> None:
    inputs = [
        v.requires_grad_() if isinstance(v, Tensor) else v
        for v in make(70, weighted, not weighted, torch.float32).values()
    ]
    torch.library.opcheck(torch.ops.triptych.chunk_scan.default, (*inputs, CHUNK))


def test_backward_keeps_the_inputs_alone() -> None:
    inputs = {k: v.requires_grad_() for k, v in make(640, dtype=torch.float32).items()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunk_scan(**inputs)
    assert sum(kept.values()) == sum(v.untyped_storage().nbytes() for v in inputs.values())


def test_a_second_derivative_is_refused_by_name() -> None:
    inputs = make(5)
    x = inputs["x"].requires_grad_()
    (grad,) = torch.autograd.grad(chunk_scan(**inputs)[0].square().sum(), x, create_graph=True)
    with pytest.raises(UsageError, match="no second derivative"):
        torch.autograd.grad(grad.sum(), x)
