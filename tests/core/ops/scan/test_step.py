"""The scan one position at a time."""

from __future__ import annotations

import pytest
import torch

from core.errors import UsageError
from core.ops import selective_scan, selective_scan_step

OPTIONAL = ("D", "z", "delta_bias")


def at(inputs, position):
    return {name: t[:, position] if t.ndim == 3 else t for name, t in inputs.items()}


def stream(inputs, state, softplus):
    ys = []
    for position in range(inputs["u"].shape[1]):
        y, state = selective_scan_step(state, **at(inputs, position), delta_softplus=softplus)
        ys.append(y)
    return torch.stack(ys, 1), state


@pytest.mark.parametrize("optional", [(), *((name,) for name in OPTIONAL), OPTIONAL], ids=",".join)
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize(("channels", "states"), [(3, 16), (17, 1), (17, 5)])
def test_steps_are_the_scan(make, deviation, optional, softplus, channels, states):
    inputs = make(2, 130, channels, states, (*optional, "initial_state"))
    whole, last = selective_scan(**inputs, delta_softplus=softplus, return_final_state=True)
    y, state = stream(inputs, inputs.pop("initial_state"), softplus)
    assert deviation(y, whole) < 1e-5
    assert deviation(state, last) < 1e-5


def test_a_scan_hands_over_to_steps(make, deviation):
    inputs = make(2, 100, 3, 5)
    whole = selective_scan(**inputs)
    start = {n: t[:, :70] if t.ndim == 3 and n != "initial_state" else t for n, t in inputs.items()}
    _, state = selective_scan(**start, return_final_state=True)
    del inputs["initial_state"]
    rest = {name: t[:, 70:] if t.ndim == 3 else t for name, t in inputs.items()}
    assert deviation(stream(rest, state, False)[0], whole[:, 70:]) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_state_is_kept_wide(make, dtype, wide):
    inputs = make(2, 2, 3, 5, OPTIONAL, dtype)
    state = torch.zeros(2, 3, 5, dtype=wide)
    with torch.autocast("cpu", torch.bfloat16):
        for position in range(2):
            y, state = selective_scan_step(state, **at(inputs, position), delta_softplus=True)
        whole, last = selective_scan(**inputs, delta_softplus=True, return_final_state=True)
    assert (y.dtype, state.dtype) == (dtype, wide)
    torch.testing.assert_close(y, whole[:, -1])
    torch.testing.assert_close(state, last)


def test_gradients_flow_through_steps(make):
    inputs = make(1, 5, 2, 3, (*OPTIONAL, "initial_state"), torch.float64)
    leaves = {name: t.requires_grad_() for name, t in inputs.items()}
    whole = torch.autograd.grad(selective_scan(**leaves).square().sum(), list(leaves.values()))
    rest = {name: t for name, t in leaves.items() if name != "initial_state"}
    y, _ = stream(rest, leaves["initial_state"], False)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), list(leaves.values())), whole)


def test_the_given_state_is_not_changed(make):
    inputs = make(2, 1, 3, 5)
    state = inputs.pop("initial_state")
    before = state.clone()
    _, after = selective_scan_step(state, **at(inputs, 0))
    assert torch.equal(state, before)
    assert not torch.equal(after, before)


def test_a_step_compiles_as_one_graph(make):
    inputs = at(make(2, 1, 3, 5, OPTIONAL), 0)
    step = torch.compile(selective_scan_step, fullgraph=True, backend="eager")
    state = torch.ones(2, 3, 5)
    torch.testing.assert_close(step(state, **inputs), selective_scan_step(state, **inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": (2, 1, 3)}, r"selective_scan_step: u must be \(B, D\), .* \(2, 1, 3\)"),
        ({"B": (2, 1, 5)}, r"B must have the shape \(2, 5\), got \(2, 1, 5\)"),
        ({"z": (3,)}, r"z must have the shape \(2, 3\), got \(3,\)"),
    ],
    ids=["u", "B", "z"],
)
def test_shapes_that_do_not_fit_are_named(make, change, message):
    inputs = at(make(2, 1, 3, 5, OPTIONAL), 0)
    inputs |= {name: torch.zeros(shape) for name, shape in change.items()}
    with pytest.raises(UsageError, match=message):
        selective_scan_step(torch.zeros(2, 3, 5), **inputs)
    with pytest.raises(UsageError, match=r"state must have the shape \(2, 3, 5\), got \(2, 5, 3\)"):
        selective_scan_step(torch.zeros(2, 5, 3), **at(make(2, 1, 3, 5, OPTIONAL), 0))


def test_without_data(make):
    inputs = at(make(2, 1, 3, 5, OPTIONAL), 0)
    inputs = {name: t.to("meta") for name, t in inputs.items()}
    y, state = selective_scan_step(torch.zeros(2, 3, 5, device="meta"), **inputs)
    assert (y.shape, state.shape) == ((2, 3), (2, 3, 5))
