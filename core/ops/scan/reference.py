"""The selective scan written as its definition: the truth every other backend is tested against.

Paper: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023,
equations (2a), (2b) and section 3.3.2, with the simplified discretisation of the authors' code
(``exp(Δ A)`` for A, ``Δ B`` for B).
Code it corresponds to: ``selective_scan_ref`` of state-spaces/mamba.

Letters: b batch, l position, d channel, n state.  ``h`` is the state, ``delta`` the step Δ:

    h[b, l, d, n] = exp(delta[b, l, d] A[d, n]) h[b, l-1, d, n] + delta[b, l, d] u[b, l, d] B[b, l, n]
    y[b, l, d]    = (sum over n of C[b, l, n] h[b, l, d, n] + D[d] u[b, l, d]) silu(z[b, l, d])

Deviates from the authors' code: positions before channels, (B, L, D) instead of (B, D, L); B and C
always depend on the position and never come in groups; real numbers only; an initial state.
Written for clarity and never optimised.  Differentiable any number of times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.precision import accumulate_dtype

CHUNK = 64
"""Positions between the states that every backend keeps for its backward pass."""


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output (B, L, D) in u's dtype, and the last state (B, D, N) in the accumulating dtype.

    ``u``, ``delta``, ``z``: (B, L, D); ``A``: (D, N); ``B``, ``C``: (B, L, N); ``D``,
    ``delta_bias``: (D,); ``initial_state``: (B, D, N).
    """
    wide = accumulate_dtype(u.dtype)
    x, delta, A, B, C = (t.to(wide) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(wide)
    if delta_softplus:
        delta = F.softplus(delta)
    if initial_state is None:
        h = x.new_zeros(x.shape[0], *A.shape)  # (B, D, N)
    else:
        h = initial_state.to(wide, copy=True)  # an output of its own, also for no position at all
    ys = []
    # unbind, not [:, l]: the backward of an index writes a whole zero tensor at every position,
    # which makes it quadratic in L (325 times slower at 1024 positions).
    for d, x_l, B_l, C_l in zip(delta.unbind(1), x.unbind(1), B.unbind(1), C.unbind(1)):
        h = torch.exp(d[..., None] * A) * h + (d * x_l)[..., None] * B_l[:, None]
        ys.append((h * C_l[:, None]).sum(-1))
    y = torch.stack(ys, 1) if ys else torch.zeros_like(x)
    if D is not None:
        y = y + x * D.to(wide)
    if z is not None:
        y = y * F.silu(z.to(wide))
    return y.to(u.dtype), h
