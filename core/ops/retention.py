"""Retention in its parallel, recurrent and chunkwise forms, causal or bidirectional.

Paper: Sun et al., "Retentive Network", 2023 (arXiv:2307.08621): equation 5 (parallel), 6
(recurrent), 7 (chunkwise).  Code it corresponds to: microsoft/torchscale, ``MultiScaleRetention``.

    s[t] = decay s[t-1] + k[t] v[t]'      y[t] = q[t]' s[t] = sum_j decay^(t-j) (q[t] . k[j]) v[j]

Letters: b batch, l length, h heads, k key size, v value size; each head has one decay in (0, 1).
It is Mamba-2's recurrence with x = v, B = k, C = q, one group a head, and a log decay that does
not depend on the step, so the chunkwise form is ``core.ops.chunk_scan``.

Bidirectional retention weights a pair by decay^|i - j|.  Its chunkwise and recurrent forms are the
causal one, plus the causal one of the reversed sequence, less the diagonal, which both contain.

Deviates from the paper and its code: no rotation of q and k (xPos), no 1 / sqrt(k) scale, no
division by row sums, no group norm and no gate.  Those belong to the layer around it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from core.errors import UsageError, unknown
from core.ops.checks import check_tensors, numbers
from core.ops.chunk_scan import CHUNK, chunk_scan
from core.ops.precision import accumulate_dtype, log_decay_dtype, without_autocast

Form = Literal["auto", "parallel", "recurrent", "chunkwise"]
PARALLEL = 128  # steps up to which ``auto`` takes the parallel form


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    *,
    causal: bool = True,
    form: Form = "auto",
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    chunk: int = CHUNK,
) -> Tensor | tuple[Tensor, Tensor]:
    """Retention.  q, k: (b, l, h, k).  v: (b, l, h, v).  decay: (h,), each in (0, 1).

    initial_state: (b, h, k, v), zeros when None, only when ``causal``.  Returns y (b, l, h, v) in
    v's dtype, and with ``return_final_state`` also the state after the last step.  All forms give
    the same result; their cost is l^2 for ``parallel``, l * chunk for ``chunkwise``, l in l steps
    for ``recurrent``.  ``auto`` is parallel for up to 128 steps and chunkwise beyond (always
    chunkwise under torch.export, where the length is not known).  Everything accumulates in
    float32 (float64 for float64 input), under autocast too.  Raises UsageError for an unknown
    form, shapes, types or devices that do not fit together, or a state without ``causal``.
    """
    check("retention", q, k, v, decay, initial_state)
    if form not in get_args(Form):
        raise UsageError(unknown("form of retention", form, get_args(Form)))
    if chunk < 1:
        raise UsageError(f"retention: chunk is {chunk}; give 1 or more, or leave it at {CHUNK}")
    if not causal and (initial_state is not None or return_final_state):
        raise UsageError(
            "retention: a state belongs to one direction; drop initial_state and "
            "return_final_state, or set causal=True"
        )
    if form == "auto":
        short = not torch.compiler.is_compiling() and q.shape[1] <= PARALLEL
        form = "parallel" if short else "chunkwise"
    acc = accumulate_dtype(v.dtype)
    with without_autocast(v):
        q, k, wide_v = q.to(acc), k.to(acc), v.to(acc)
        if form == "parallel":
            y, final = parallel(q, k, wide_v, decay, causal, initial_state)
        else:
            y, final = one_way(q, k, wide_v, decay, form, initial_state, chunk)
            if not causal:
                back, _ = one_way(q.flip(1), k.flip(1), wide_v.flip(1), decay, form, None, chunk)
                y = y + back.flip(1) - (q * k).sum(-1, keepdim=True) * wide_v
    y = y.to(v.dtype)
    return (y, final) if return_final_state else y


def retention_step(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor]:
    """One step (equation 6): state (b, h, k, v); q, k (b, h, k); v (b, h, v); decay (h,).

    Returns y (b, h, v) in v's dtype and the new state (the old one is left as it is).  Raises
    UsageError for shapes that do not fit together.
    """
    check("retention_step", q, k, v, decay, state)
    with without_autocast(v):
        acc = accumulate_dtype(v.dtype)
        q, k, wide_v = q.to(acc), k.to(acc), v.to(acc)
        state = decay.to(acc)[:, None, None] * state.to(acc)
        state = state + k.unsqueeze(-1) * wide_v.unsqueeze(-2)
        return (q.unsqueeze(-2) @ state).squeeze(-2).to(v.dtype), state


def one_way(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    form: Form,
    initial_state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """The causal recurrent or chunkwise form, in the accumulating dtype."""
    if form == "chunkwise":
        state = None if initial_state is None else initial_state.mT
        y, final = chunk_scan(v, None, decay.to(log_decay_dtype(decay)).log(), k, q, state, chunk)
        return y, final.mT
    b, _, h, size = q.shape
    state = initial_state
    if state is None:
        state = q.new_zeros(b, h, size, v.shape[-1])
    ys = []
    for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1)):
        y, state = retention_step(state, q_t, k_t, v_t, decay)
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(v)), state.to(v.dtype)


def parallel(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, causal: bool, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(Q K' * D) V with D[i, j] = decay^|i - j| (equation 5), and the state that is left over."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (b, h, l, .)
    steps = torch.arange(q.shape[2], device=q.device)
    distance = (steps[:, None] - steps).abs()
    log_decay = decay.to(log_decay_dtype(decay)).log()[:, None, None]
    D = (log_decay * distance).exp().to(v.dtype)  # (h, l, l)
    y = (q @ k.mT * (D.tril() if causal else D)) @ v
    if not causal:
        return y.transpose(1, 2), y.new_zeros(0)
    rest = (log_decay * (len(steps) - 1 - steps)[:, None]).exp().to(v.dtype)  # (h, l, 1)
    final = (k * rest).mT @ v
    if initial_state is not None:
        state = initial_state.to(v.dtype)
        since = (log_decay * (steps + 1)[:, None]).exp().to(v.dtype)
        y = y + since * (q @ state)
        final = final + (log_decay * len(steps)).exp().to(v.dtype) * state
    return y.transpose(1, 2), final


def check(name: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor | None) -> None:
    """UsageError unless all fit to q (b, l, h, k) and v (b, l, h, v); for the step without l."""
    step = name == "retention_step"
    lead = "(batch, " if step else "(batch, length, "
    if q.ndim != 4 - step or v.ndim != 4 - step:
        raise UsageError(
            f"{name}: q is {numbers(q.shape)} and v is {numbers(v.shape)}; give "
            f"{lead}heads, key size) and {lead}heads, value size)"
        )
    *places, h, size = q.shape
    check_tensors(
        name,
        {"q": q, "v": v},
        {
            "v": (v, (*places, h, v.shape[-1])),
            "k": (k, q.shape),
            "decay": (decay, (h,)),
            "state" if step else "initial_state": (state, (places[0], h, size, v.shape[-1])),
        },
    )
