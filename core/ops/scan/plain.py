"""The selective scan in ordinary operators, for formats that know no other: ONNX, TorchScript.

An exported graph holds ``triptych::selective_scan`` as one node, which runs where this project is
installed.  :func:`decomposed` replaces it by products and sums that run anywhere.

A scan composes steps h -> a h + b; two of them in a row are the step (a2 a1, a2 b1 + b2) (Blelloch,
1990).  Doubling composes every position with the one 1, 2, 4, ... before it: first within blocks of
``BLOCK`` positions, then over the ends of the blocks.  No quotient is taken and 0 <= a <= 1, so
nothing overflows.  It costs log2(BLOCK) = 6 passes over arrays of (B, L, D, N), 16 times what the
native kernel holds and much slower: for exports only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from core.grid import ceil_div
from core.ops.precision import accumulate_dtype

if TYPE_CHECKING:
    from torch.export import ExportedProgram

BLOCK = 64


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """``program`` with its selective scans in ordinary operators; itself where it has none.

    Their lengths must be fixed; the batch may be dynamic.
    """
    op = torch.ops.triptych.selective_scan.default
    if all(node.target is not op for node in program.graph.nodes):
        return program
    return program.run_decompositions({op: scan})


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator gives without ``save``: y (B, L, D), the last state (B, D, N), (B, 0, N, D)."""
    wide = accumulate_dtype(u.dtype)
    x, d = u.to(wide), delta.to(wide)
    d = d if delta_bias is None else d + delta_bias.to(wide)
    d = F.softplus(d) if delta_softplus else d
    a = torch.exp(d.unsqueeze(-1) * A.to(wide))  # (B, L, D, N)
    b = (d * x).unsqueeze(-1) * B.to(wide).unsqueeze(2)
    state = torch.zeros_like(a[:, 0]) if initial_state is None else initial_state.to(wide)
    h = _states(a, b, state)
    y = (h @ C.to(wide).unsqueeze(-1)).squeeze(-1)
    y = y if D is None else y + x * D.to(wide)
    y = y if z is None else y * F.silu(z.to(wide))
    empty = state.transpose(1, 2).unsqueeze(1)[:, :0]
    return y.to(u.dtype).contiguous(), h[:, -1].contiguous(), empty.contiguous()


def _states(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """h[l] = a[l] h[l-1] + b[l] for all l: (B, L, D, N) each, after ``state`` (B, D, N)."""
    batch, length = a.shape[:2]
    blocks = ceil_div(length, BLOCK)
    short = blocks * BLOCK - length
    a, b = (F.pad(t, (0, 0, 0, 0, 0, short)) for t in (a, b))
    a, b = (t.reshape(batch, blocks, BLOCK, *t.shape[2:]) for t in (a, b))
    a, b = _doubled(a, b, 2)
    # The state before each block: the ends of the blocks before it, composed, on the first state.
    through, ends = _doubled(a[:, :, -1], b[:, :, -1], 1)
    ends = ends + through * state.unsqueeze(1)
    before = torch.cat((state.unsqueeze(1), ends[:, :-1]), 1)
    h = b + a * before.unsqueeze(2)
    return h.reshape(batch, blocks * BLOCK, *h.shape[3:])[:, :length]


def _doubled(a: Tensor, b: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Every position composed with all before it along ``axis``."""
    length, shift = a.shape[axis], 1
    while shift < length:
        n = length - shift
        early_a, late_a = a.narrow(axis, 0, n), a.narrow(axis, shift, n)
        b = torch.cat(
            (b.narrow(axis, 0, shift), b.narrow(axis, shift, n) + late_a * b.narrow(axis, 0, n)),
            axis,
        )
        a = torch.cat((a.narrow(axis, 0, shift), late_a * early_a), axis)
        shift *= 2
    return a, b
