"""The scan in ordinary operators: equal to the definition, and nothing of ours left in a graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.ops import selective_scan
from core.ops.scan import plain, reference


def drawn(length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(length)
    B, D, N = 2, 5, 4
    a = {k: torch.randn(B, length, D, dtype=dtype) for k in ("u", "delta", "z")}
    b = {k: torch.randn(B, length, N, dtype=dtype) for k in ("B", "C")}
    c = {k: torch.randn(D, dtype=dtype) for k in ("D", "delta_bias")}
    state = torch.randn(B, D, N, dtype=dtype)
    return {**a, **b, **c, "A": -5 * torch.rand(D, N, dtype=dtype), "initial_state": state}


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200, 1000])
@pytest.mark.parametrize("bare", [False, True])
def test_equal_to_the_definition(length: int, bare: bool) -> None:
    given: dict[str, Tensor | None] = {**drawn(length)}
    if bare:
        given.update(dict.fromkeys(("D", "z", "delta_bias", "initial_state")))
    wanted = reference.scan(**given, delta_softplus=True)  # type: ignore[arg-type]
    y, state, kept = plain.scan(**given, delta_softplus=True, backend="auto", save=False)  # type: ignore[arg-type]
    torch.testing.assert_close((y, state), wanted, atol=1e-10, rtol=1e-10)
    assert kept.shape == (2, 0, 4, 5)


def test_long_and_extreme_steps_stay_finite() -> None:
    given = drawn(5000, torch.float32)
    given["delta"] = given["delta"] * 40
    y, state, _ = plain.scan(**given, delta_softplus=True, backend="auto", save=False)
    wanted, last = reference.scan(**given, delta_softplus=True)
    torch.testing.assert_close(y, wanted, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(state, last, atol=1e-3, rtol=1e-4)


class Scans(nn.Module):
    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y = selective_scan(u, delta, A, B, C, delta_softplus=True)
        assert isinstance(y, Tensor)
        return y + selective_scan(y, delta.abs(), A, B, C)  # type: ignore[operator]


def test_an_exported_graph_holds_ordinary_operators_alone() -> None:
    given = drawn(70, torch.float32)
    inputs = tuple(given[k] for k in ("u", "delta", "A", "B", "C"))
    batch = torch.export.Dim("batch", min=1, max=8)
    dynamic = tuple({0: batch} if i != 2 else {} for i in range(5))
    program = torch.export.export(Scans(), inputs, dynamic_shapes=dynamic)
    assert "triptych" in str(program.graph)
    ordinary = plain.decomposed(program)
    assert "triptych" not in str(ordinary.graph)
    for n in (1, 2):
        some = tuple(t if i == 2 else t[:n] for i, t in enumerate(inputs))
        torch.testing.assert_close(ordinary.module()(*some), Scans()(*some), atol=1e-5, rtol=1e-5)


def test_a_graph_without_a_scan_is_left_alone() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.randn(4, 3),))
    assert plain.decomposed(program) is program
