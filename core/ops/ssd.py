"""Mamba-2's state space recurrence: over a sequence in chunks, by the step, and as its definition.

Paper: Dao and Gu, "Transformers are SSMs", ICML 2024 (arXiv:2405.21060), equations 1 to 3.
Code it corresponds to: state-spaces/mamba, ``mamba_chunk_scan_combined`` and
``selective_state_update``.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]'        y[t] = (h[t] C[t] + D x[t]) silu(z[t])

Letters: b batch, l length, h heads, p head size, n state size, g groups of B and C (h / g heads
share one).  How the sequence is taken in chunks is in ``core/ops/chunk_scan``.

Deviates from the authors' code: z gates with y * silu(z), without their optional norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UsageError
from core.ops.checks import check_tensors, numbers
from core.ops.chunk_scan import CHUNK, chunk_scan
from core.ops.precision import accumulate_dtype, log_decay_dtype, without_autocast


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    chunk: int = CHUNK,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2's scan.

    x, z: (b, l, h, p).  dt: (b, l, h).  A, D, dt_bias: (h,).  B, C: (b, l, g, n), g divides h.
    initial_state: (b, h, p, n), zeros when None.  dt becomes softplus(dt + dt_bias).
    Returns y (b, l, h, p) in x's dtype, and with ``return_final_state`` also the state after the
    last step, (b, h, p, n).  Everything accumulates in float32 (float64 for float64 input), under
    autocast too.  Differentiable once, with respect to every tensor.  Raises UsageError for
    shapes, types or devices that do not fit together.
    """
    check("ssd", x, dt, A, B, C, D, z, dt_bias, initial_state)
    if chunk < 1:
        raise UsageError(f"ssd: chunk is {chunk}; give 1 or more, or leave it at {CHUNK}")
    with without_autocast(x):
        acc = accumulate_dtype(x.dtype)
        step = step_size(dt, dt_bias, dt_softplus)
        a = step.to(log_decay_dtype(step)) * A
        y, final = chunk_scan(x, step, a, B, C, initial_state, chunk)
        y = skip_and_gate(y, x, D, z, acc).to(x.dtype)
    return (y, final) if return_final_state else y


def ssd_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of ``ssd``: state (b, h, p, n); x, z (b, h, p); dt (b, h); B, C (b, g, n).

    Returns y (b, h, p) in x's dtype and the new state (the old one is left as it is).  Raises
    UsageError for shapes that do not fit together.
    """
    check("ssd_step", x, dt, A, B, C, D, z, dt_bias, state)
    with without_autocast(x):
        acc = accumulate_dtype(x.dtype)
        step = step_size(dt, dt_bias, dt_softplus)
        heads = x.shape[1] // B.shape[1]
        B_bh1n = B.to(acc).repeat_interleave(heads, 1).unsqueeze(2)
        C_bhn1 = C.to(acc).repeat_interleave(heads, 1).unsqueeze(3)
        decay = torch.exp(step * A.to(acc))[..., None, None]
        state = decay * state.to(acc) + (x.to(acc) * step.unsqueeze(-1)).unsqueeze(-1) * B_bh1n
        y = (state @ C_bhn1).squeeze(-1)
        return skip_and_gate(y, x, D, z, acc).to(x.dtype), state


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``ssd`` as a plain recurrence, one step after the other: the truth for tests, in any dtype."""
    check("ssd", x, dt, A, B, C, D, z, dt_bias, initial_state)
    acc = accumulate_dtype(x.dtype)
    b, _, h, p = x.shape
    state = x.new_zeros(b, h, p, B.shape[-1], dtype=acc)
    if initial_state is not None:
        state = initial_state.to(acc)
    ys = []
    gates = [None] * x.shape[1] if z is None else z.unbind(1)
    # unbind, not x[:, t]: a slice's gradient is a tensor of the full length, for every step.
    for x_t, dt_t, B_t, C_t, z_t in zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), gates):
        y, state = ssd_step(state, x_t, dt_t, A, B_t, C_t, D, z_t, dt_bias, dt_softplus)
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(x)), state


def step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    dt = dt.to(accumulate_dtype(dt.dtype))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    return F.softplus(dt) if dt_softplus else dt


def skip_and_gate(
    y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None, acc: torch.dtype
) -> Tensor:
    if D is not None:
        y = torch.addcmul(y, x.to(acc), D.to(acc).unsqueeze(-1))
    return y if z is None else y * F.silu(z.to(acc))


def check(
    name: str,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
) -> None:
    """UsageError unless all fit to x (b, l, h, p) and B (b, l, g, n); for the step without l."""
    step = name == "ssd_step"
    lead = "(batch, " if step else "(batch, length, "
    if x.ndim != 4 - step or B.ndim != 4 - step:
        raise UsageError(
            f"{name}: x is {numbers(x.shape)} and B is {numbers(B.shape)}; give "
            f"{lead}heads, head size) and {lead}groups, state size)"
        )
    *places, h, p = x.shape
    g, n = B.shape[-2:]
    check_tensors(
        name,
        {"x": x, "B": B},
        {
            "B": (B, (*places, g, n)),
            "dt": (dt, (*places, h)),
            "A": (A, (h,)),
            "C": (C, (*places, g, n)),
            "D": (D, (h,)),
            "z": (z, x.shape),
            "dt_bias": (dt_bias, (h,)),
            "state" if step else "initial_state": (state, (places[0], h, p, n)),
        },
    )
    if g < 1 or h % g:
        raise UsageError(f"{name}: {h} heads do not divide into {g} groups of B and C")
