"""Mamba-2's recurrence by state space duality: matrix products over chunks, any length.

Paper: Dao and Gu, "Transformers are SSMs", ICML 2024 (arXiv:2405.21060), section 6, algorithm 1.
Code it corresponds to: state-spaces/mamba, ``ssd_minimal.py`` and ``mamba_chunk_scan_combined``.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]'        y[t] = h[t] C[t] + D x[t]

Letters: b batch, l length, h heads, p head size, n state size, g groups of B and C (r = h / g heads
share one), k steps of a chunk, c chunks.  a = dt A is the log decay of a step; s its running sum
inside a chunk.  Within a chunk, with L[i, j] = exp(s[i] - s[j]) for j <= i and 0 above:

    y = (L * C B') (dt x)  +  exp(s) * C h'               the chunk itself, and the state before it
    h <- exp(s[last]) h + sum_j exp(s[last] - s[j]) dt[j] x[j] B[j]'                      (carry)

Three properties that a plain transcription lacks:

- No overflow and no lost digits.  Differences s[i] - s[j] above the diagonal are zeroed before the
  exponential.  Sums are float64 (float32 on MPS, which has none): in float32 one step with a = -1e4
  would leave the steps after it an error of 1e-3 in exp(s[i] - s[j]).
- Bounded memory.  The chunks are taken in segments whose k x k matrices fit a cache; the backward
  pass keeps the inputs alone and computes the rest again.
- Traceable.  The scan is an operator of its own, which ``torch.compile`` keeps whole.
  ``torch.export`` writes it out in plain tensor operations without a loop over the length: all
  chunks at once, and the carry as two levels of decay matrices, over 64 chunks and over groups of
  64 chunks (at a million steps: 244 x 244).  Batch and length may stay dynamic.

Measured at b = 2, l = 4096, h = 6, p = 64, one thread of a 2-core AVX-512 machine, float32, forward
and forward with backward: n = 16 17 and 54 ms, n = 64 23 and 84 ms, n = 128 34 and 130 ms; without
the segments (one for the whole length) n = 64 takes 33 and 107 ms.

Deviates from the authors' code: chunks of 64, not 256 (on a CPU 256 costs 3 to 7 times more); all
matrix products are float32 for half-precision input (theirs are in the input's type); z gates with
y * silu(z), without their optional norm; no second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UsageError
from core.grid import ceil_div

CHUNK = 64
# Bytes of a segment's k x k matrices.  On a CPU half of a core's second-level cache: 1 MiB takes 78
# ms forward and backward, 2 MiB 83, 4 MiB 97.  Elsewhere enough work for a launch (not measured).
SEGMENT_BYTES = {"cpu": 1 << 20}
SEGMENT_BYTES_DEVICE = 256 << 20
GROUP = 64  # chunks of one decay matrix in the traced carry

Parts = tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]  # chunks of x, weight, a, B, C


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
    autocast too.  Raises UsageError for shapes that do not fit together.
    """
    check(x, dt, A, B, C, D, z, dt_bias, initial_state)
    if chunk < 1:
        raise UsageError(f"ssd: chunk is {chunk}; give 1 or more, or leave it at {CHUNK}")
    with torch.autocast(autocast_device(x), enabled=False):
        acc = accumulator(x.dtype)
        step = step_size(dt, dt_bias, dt_softplus)
        a = step.to(wide(step)) * A
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

    Returns y (b, h, p) in x's dtype and the new state (the old one is left as it is).
    """
    with torch.autocast(autocast_device(x), enabled=False):
        acc = accumulator(x.dtype)
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
    check(x, dt, A, B, C, D, z, dt_bias, initial_state)
    acc = accumulator(x.dtype)
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


def autocast_device(x: Tensor) -> str:
    """The device type whose autocast ``x`` may meet.  ``meta`` has none, and torch refuses it."""
    return "cpu" if x.device.type == "meta" else x.device.type


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are made in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide(tensor: Tensor) -> torch.dtype:
    """The type that log decays are summed in."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


def step_size(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    dt = dt.to(accumulator(dt.dtype))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    return F.softplus(dt) if dt_softplus else dt


def skip_and_gate(
    y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None, acc: torch.dtype
) -> Tensor:
    if D is not None:
        y = torch.addcmul(y, x.to(acc), D.to(acc).unsqueeze(-1))
    return y if z is None else y * F.silu(z.to(acc))


def chunk_scan(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(a[t]) h[t-1] + weight[t] x[t] B[t]', y[t] = h[t] C[t]: the scan and nothing else.

    x, B, C as for ``ssd``; weight (b, l, h), or None for ones; a (b, l, h), or (h,) for a decay
    that all steps share.  Returns y and the final state in the accumulating dtype.
    """
    b, length, h, p = x.shape
    acc = accumulator(x.dtype)
    if initial_state is None:
        initial_state = x.new_zeros(b, h, p, B.shape[-1], dtype=acc)
    state = initial_state.to(acc)
    if not torch.compiler.is_exporting():
        return torch.ops.triptych.chunk_scan(x, weight, a, B, C, state, chunk)
    a = a.expand(1, length, h) if a.ndim == 1 else a
    count = _count(length, chunk)
    # Padded steps add nothing to the state (x = 0) and keep it (a = 0).
    parts = [None if t is None else _padded(t, count, chunk) for t in (x, weight, a, B, C)]
    carry = partial(_carry_traced, groups=_count(length, chunk * GROUP))
    y, final = _chunks(*_cast(parts, acc), state, carry)
    return _cropped(y, length), final


def _known(length: int) -> bool:
    """Whether a length is a plain number; Dynamo claims that of every one."""
    return isinstance(length, int) and not torch.compiler.is_dynamo_compiling()


def _count(length: int, size: int) -> int:
    """How many spans of ``size`` hold ``length`` steps.

    One too many for a symbolic length: the exporter can prove that there are two or more, and would
    fix the length otherwise.  It cannot for a count of counts, so each comes from the length.
    """
    return ceil_div(length if _known(length) else length + size, size)


def _padded(t: Tensor, count: int, size: int) -> Tensor:
    """(b, l, ...) -> (b, count, size, ...) with zeros at the end.

    ``unfold``: of a view the exporter fails to prove that ``count`` divides the length.
    """
    t = F.pad(t, [0, 0] * (t.ndim - 2) + [0, count * size - t.shape[1]])
    return t.unfold(1, size, size).movedim(-1, 2)


def _cropped(t: Tensor, length: int) -> Tensor:
    """(b, c, k, ...) -> (b, l, ...)."""
    if _known(length):
        return t.flatten(1, 2)[:, :length]
    steps = torch.arange(length, device=t.device)
    return t[:, steps // t.shape[2], steps % t.shape[2]]


def _cast(parts: list[Any], acc: torch.dtype) -> Parts:
    """x, weight, a, B, C in the accumulating dtype; a keeps its own, wider one."""
    x, weight, a, B, C = parts
    return x.to(acc), None if weight is None else weight.to(acc), a, B.to(acc), C.to(acc)


def _grouped(t: Tensor, g: int) -> Tensor:
    """(b, c, k, h, p) -> (b, c, g, k, r p): the heads of a group side by side."""
    return t.unflatten(3, (g, -1)).flatten(4).transpose(2, 3)


def _ungrouped(t: Tensor, h: int) -> Tensor:
    """(b, c, g, k, r p) -> (b, c, k, h, p), back again."""
    g = t.shape[2]
    return t.transpose(2, 3).unflatten(4, (h // g, -1)).flatten(3, 4)


def _by_head(t: Tensor, h: int) -> Tensor:
    """(b, c, g, r p, n) -> (b, c, h, p, n)."""
    return t.unflatten(3, (h // t.shape[2], -1)).flatten(2, 3)


def _by_group(t: Tensor, g: int) -> Tensor:
    """(b, c, h, p, n) -> (b, c, g, r p, n)."""
    return t.unflatten(2, (g, -1)).flatten(3, 4)


def _decays(a: Tensor, acc: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From log decays a (b, c, k, h): L (b, c, h, k, k); into, out (b, c, k, h); log total (b, c, h).

    L is 1 above the diagonal: what it is multiplied with is zero there.  ``into`` is the decay of
    the state before the chunk up to each step, ``out`` that of each step up to the chunk's end.
    """
    s = a.cumsum(2)
    rows = s.transpose(2, 3)
    L = (rows.unsqueeze(-1) - rows.unsqueeze(-2)).to(acc).tril().exp()
    return L, s.exp().to(acc), (s[:, :, -1:] - s).exp().to(acc), s[:, :, -1]


def _chunks(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    carry: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Chunks x (b, c, k, h, p), weight (b, c, k, h), a, B and C (b, c, k, g, n) from ``state``."""
    h, g = x.shape[3], B.shape[3]
    L, into, out, log_total = _decays(a, x.dtype)
    B, C = B.transpose(2, 3), C.transpose(2, 3)  # (b, c, g, k, n)
    CB = (C @ B.mT).tril()
    M = (L.unflatten(2, (g, -1)) * CB.unsqueeze(3)).flatten(2, 3)
    if weight is not None:
        x = x * weight.unsqueeze(-1)
    within = M @ x.transpose(2, 3)  # (b, c, h, k, p)
    added = _grouped(x * out.unsqueeze(-1), g).mT @ B
    before, final = carry(log_total, _by_head(added, h), state)
    across = C @ _by_group(before, g).mT  # (b, c, g, k, r p)
    y = torch.addcmul(within.transpose(2, 3), _ungrouped(across, h), into.unsqueeze(-1))
    return y, final


def _state_after(
    x: Tensor, weight: Tensor | None, a: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> Tensor:
    """The final state of ``_chunks``, without its output."""
    g = B.shape[3]
    s = a.expand(-1, x.shape[1], -1, -1).flatten(1, 2).cumsum(1)  # all chunks as one
    out = (s[:, -1:] - s).exp().to(x.dtype)
    if weight is not None:
        out = out * weight.flatten(1, 2)
    x_out = _grouped((x.flatten(1, 2) * out.unsqueeze(-1)).unsqueeze(1), g)
    added = x_out.mT @ B.flatten(1, 2).transpose(1, 2).unsqueeze(1)
    total = s[:, -1].exp().to(x.dtype)[..., None, None]
    return torch.addcmul(_by_head(added, x.shape[3]).squeeze(1), total, state)


def _carry(
    log_total: Tensor, added: Tensor, state: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """States before each chunk, (b, c, h, p, n), and after the last: one chunk after the other."""
    total = log_total.exp().to(added.dtype)[..., None, None]
    total = total.expand(-1, added.shape[1], -1, -1, -1)
    before = torch.empty_like(added)
    steps = range(added.shape[1])
    for i in reversed(steps) if reverse else steps:
        before[:, i] = state
        state = torch.addcmul(added[:, i], total[:, i], state)
    return before, state


def _carry_traced(
    log_total: Tensor, added: Tensor, state: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """The same without a loop: decay matrices over GROUP chunks, then over the groups."""
    chunks = added.shape[1]
    log_total = log_total.expand(added.shape[0], -1, -1)
    log_total = _padded(log_total, groups, GROUP)  # (b, groups, GROUP, h)
    added = _padded(added, groups, GROUP)
    nothing = torch.zeros_like(added[:, :, 0])
    before, after = _carry_matrix(log_total, added, nothing)
    entry, final = _carry_matrix(log_total.sum(2), after, state)
    since = (log_total.cumsum(2) - log_total).exp().to(added.dtype)  # group's start to chunk's
    before = torch.addcmul(before, since[..., None, None], entry.unsqueeze(2))
    return _cropped(before, chunks), final


def _carry_matrix(log_total: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The carry over axis -4 of added (..., c, h, p, n), by one c x c decay matrix a head."""
    s = F.pad(log_total.cumsum(-2), (0, 0, 1, 0)).mT  # (..., h, c + 1); 0 is the start
    # Row i is the state before chunk i, column j what chunk j - 1 added (column 0: the state).
    W = (s.unsqueeze(-1) - s.unsqueeze(-2)).to(added.dtype).tril().exp().tril()
    terms = torch.cat([state.unsqueeze(-4), added], -4).movedim(-4, -3)  # (..., h, c + 1, p, n)
    states = (W @ terms.flatten(-2)).unflatten(-1, terms.shape[-2:]).movedim(-3, -4)
    return states[..., :-1, :, :, :], states[..., -1, :, :, :]


def _segments(x: Tensor, chunk: int) -> Iterator[tuple[int, int, int]]:
    """(first step, last step + 1, chunk): whole chunks by the segment, then what is left over."""
    b, length, h, _ = x.shape
    size = b * h * chunk * chunk * (8 if x.dtype == torch.float64 else 4)
    most = SEGMENT_BYTES.get(x.device.type, SEGMENT_BYTES_DEVICE)
    stride = max(1, most // max(1, size)) * chunk
    whole = length // chunk * chunk
    for start in range(0, whole, stride):
        yield start, min(start + stride, whole), chunk
    if whole < length:
        yield whole, length, length - whole


@torch.library.custom_op("triptych::chunk_scan", mutates_args=())
def _scan(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """The scan by segments.  An operator of its own, so that ``torch.compile`` keeps it whole."""
    y = torch.empty(x.shape, dtype=state.dtype, device=x.device)
    state = state.clone(memory_format=torch.contiguous_format)
    for start, stop, k in _segments(x, chunk):
        parts = _cut((x, weight, a, B, C), start, stop, k, state.dtype)
        y_part, state = _chunks(*parts, state, _carry)
        y[:, start:stop] = y_part.flatten(1, 2)
    return y, state.contiguous()


@_scan.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    shape = x.shape
    return x.new_empty(shape, dtype=state.dtype), state.new_empty(state.shape)


@torch.library.custom_op("triptych::chunk_scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
    decays: bool,
) -> list[Tensor]:
    """Gradients of x, a, B, C, the initial state and, if there is one, of the weight.

    A first sweep finds the state at the start of each segment again, which takes a fifth of a
    forward pass; a second one goes back.  ``decays``: whether the gradient of a is wanted.
    """
    inputs = (x, weight, a, B, C)
    spans = list(_segments(x, chunk))
    states = [state]
    for start, stop, k in spans[:-1]:
        states.append(_state_after(*_cut(inputs, start, stop, k, state.dtype), states[-1]))
    grads = [None if t is None else torch.zeros_like(t) for t in inputs]
    dstate = dstate.clone()
    for (start, stop, k), entry in zip(reversed(spans), reversed(states)):
        dy_part = dy[:, start:stop].unflatten(1, (-1, k))
        parts = _cut(inputs, start, stop, k, state.dtype)
        found, dstate = _chunks_backward(dy_part, dstate, *parts, entry, decays)
        for grad, part in zip(grads, found):
            if grad is None or part is None:
                continue
            if grad.ndim == 1:  # one decay for all steps
                grad += part.sum((0, 1, 2))
            else:
                grad[:, start:stop] = part.flatten(1, 2)
    dx, dweight, da, dB, dC = grads
    return [t for t in (dx, da, dB, dC, dstate.contiguous(), dweight) if t is not None]


@_scan_backward.register_fake
def _(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
    decays: bool,
) -> list[Tensor]:
    like = (x, a, B, C, state.contiguous(), weight)
    return [torch.empty_like(t) for t in like if t is not None]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.chunk = inputs[-1]


def _backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, a, B, C, state = ctx.saved_tensors
    with torch.autocast(autocast_device(x), enabled=False):
        dx, da, dB, dC, dstate, *dweight = torch.ops.triptych.chunk_scan_backward(
            dy, dstate, x, weight, a, B, C, state, ctx.chunk, ctx.needs_input_grad[2]
        )
    return dx, dweight[0] if dweight else None, da, dB, dC, dstate, None


_scan.register_autograd(_backward, setup_context=_setup)


def _cut(
    inputs: tuple[Tensor | None, ...], start: int, stop: int, k: int, acc: torch.dtype
) -> Parts:
    """The chunks of a segment: (b, l, ...) -> (b, c, k, ...); one decay for all: (1, 1, k, h)."""

    def cut(t: Tensor | None) -> Tensor | None:
        if t is None or t.ndim == 1:
            return t if t is None else t.expand(1, 1, k, -1)
        return t[:, start:stop].unflatten(1, (-1, k))

    return _cast([cut(t) for t in inputs], acc)


def _chunks_backward(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    decays: bool,
) -> tuple[list[Tensor | None], Tensor]:
    """Gradients of x, weight, a, B, C and ``state``, from those of y and of the final state.

    The gradient of a[t] is the sum of E[i, j] = dL * L over j < t <= i.  Off the diagonal, that is
    a suffix sum of (row sums - column sums) of E.  It is float64, and the diagonal, which is on
    both sides, is left out: a gradient that decays have made tiny must not drown in rounding.
    """
    h, g = x.shape[3], B.shape[3]
    L, into, out, log_total = _decays(a, x.dtype)
    B, C = B.transpose(2, 3), C.transpose(2, 3)  # (b, c, g, k, n)
    xw = x if weight is None else x * weight.unsqueeze(-1)
    x_out = _grouped(xw * out.unsqueeze(-1), g)
    before, _ = _carry(log_total, _by_head(x_out.mT @ B, h), state)
    dy_into = _grouped(dy * into.unsqueeze(-1), g)
    after, dstate = _carry(log_total, _by_head(dy_into.mT @ C, h), dstate, reverse=True)
    before_g, after_g = _by_group(before, g), _by_group(after, g)
    dC = dy_into @ before_g
    dB = x_out @ after_g
    dxw = _ungrouped(B @ after_g.mT, h) * out.unsqueeze(-1)

    dy_h, xw_h = dy.transpose(2, 3), xw.transpose(2, 3)
    CB = (C @ B.mT).tril()
    dM_L = ((dy_h @ xw_h.mT) * L).unflatten(2, (g, -1))  # (b, c, g, r, k, k)
    dCB = dM_L.sum(3).tril()
    dC = dC + dCB @ B
    dB = dB + dCB.mT @ C
    da = None
    if decays:
        E = (dM_L * CB.tril(-1).unsqueeze(3)).flatten(2, 3).to(a.dtype)
        across = _ungrouped(dy_into * (C @ before_g.mT), h).sum(-1)
        later = (E.sum(-1) - E.sum(-2)).transpose(2, 3) + across
        earlier = (dxw * xw).sum(-1).to(a.dtype)
        whole = (after * before).sum((-2, -1)) * log_total.exp()
        da = later.flip(2).cumsum(2).flip(2) + earlier.cumsum(2) - earlier + whole.unsqueeze(2)
    M = (L.unflatten(2, (g, -1)) * CB.unsqueeze(3)).flatten(2, 3)
    dxw = dxw + (M.mT @ dy_h).transpose(2, 3)
    dweight = None
    if weight is not None:
        dweight = (dxw * x).sum(-1)
        dxw = dxw * weight.unsqueeze(-1)
    return [dxw, dweight, da, dB.transpose(2, 3), dC.transpose(2, 3)], dstate


def check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    """Raises UsageError for shapes that do not fit those of x (b, l, h, p) and B (b, l, g, n)."""
    if x.ndim != 4 or B.ndim != 4:
        raise UsageError(
            f"ssd: x is {tuple(x.shape)} and B is {tuple(B.shape)}; give (batch, length, heads, "
            "head size) and (batch, length, groups, state size)"
        )
    b, l, h, p = x.shape
    g, n = B.shape[2:]
    wanted: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("dt", dt, (b, l, h)),
        ("A", A, (h,)),
        ("B", B, (b, l, g, n)),
        ("C", C, (b, l, g, n)),
        ("D", D, (h,)),
        ("z", z, (b, l, h, p)),
        ("dt_bias", dt_bias, (h,)),
        ("initial_state", initial_state, (b, h, p, n)),
    ]
    for name, tensor, shape in wanted:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise UsageError(
                f"ssd: {name} is {tuple(tensor.shape)}, but x {tuple(x.shape)} and B "
                f"{tuple(B.shape)} need {shape}"
            )
    if g < 1 or h % g:
        raise UsageError(f"ssd: {h} heads do not divide into {g} groups of B and C")
