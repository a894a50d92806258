"""Inputs of a scan, the float64 truth, and every backend that runs here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from core.errors import ResourceError
from core.ops.scan import backend_for, reference

OPTIONAL = ("D", "z", "delta_bias", "initial_state")
Inputs = dict[str, Tensor]


@pytest.fixture(params=["blocked", "native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """A backend that runs on this machine's CPU, other than the truth itself."""
    try:
        return backend_for("cpu", torch.float32, request.param)
    except ResourceError as error:
        pytest.skip(str(error))


@pytest.fixture
def make() -> Callable[..., Inputs]:
    """Inputs of the sizes (B, L, D, N), with the optional ones named; the same at every call."""

    def make(
        B: int,
        L: int,
        D: int,
        N: int,
        optional: Sequence[str] = OPTIONAL,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Inputs:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        inputs = {
            "u": normal(B, L, D),
            # Steps are positive without a softplus, too; states last from one position to hundreds.
            "delta": (normal(B, L, D) - 2).exp(),
            "A": -(2 * normal(D, N) - 2).exp(),
            "B": normal(B, L, N),
            "C": normal(B, L, N),
            "D": normal(D),
            "z": normal(B, L, D),
            "delta_bias": normal(D).abs() / 20,
            "initial_state": normal(B, D, N),
        }
        return {
            name: tensor.to(dtype)
            for name, tensor in inputs.items()
            if name not in OPTIONAL or name in optional
        }

    return make


@pytest.fixture
def truth() -> Callable[..., tuple[Tensor, Tensor, Inputs]]:
    """Output, last state and gradients of the reference in float64."""

    def truth(
        inputs: Inputs, dy: Tensor, dstate: Tensor, softplus: bool
    ) -> tuple[Tensor, Tensor, Inputs]:
        leaves = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
        y, state = reference.scan(**leaves, delta_softplus=softplus)
        grads = torch.autograd.grad(
            (y, state), list(leaves.values()), (dy.double(), dstate.double())
        )
        return y.detach(), state.detach(), dict(zip(leaves, grads))

    return truth


@pytest.fixture
def deviation() -> Callable[[Tensor, Tensor], float]:
    """The largest difference from the truth, relative to the truth's largest value."""

    def deviation(got: Tensor, true: Tensor) -> float:
        assert got.shape == true.shape
        if not true.numel():
            return 0.0
        scale = max(float(true.abs().max()), 1e-30)
        return float((got.detach().double() - true.double()).abs().max()) / scale

    return deviation
