"""The chunked scan as PyTorch operators, segment by segment, which ``torch.compile`` keeps whole.

``triptych::chunk_scan`` and ``triptych::chunk_scan_backward`` take any strides and float types;
``chunk_scan`` calls them.  The backward pass keeps the inputs alone and computes the rest again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from core.errors import UsageError
from core.ops.chunk_scan import chunks
from core.ops.precision import without_autocast

# Bytes of a segment's k x k matrices.  On a CPU half of a core's second-level cache, elsewhere enough
# work for a launch (not measured).
SEGMENT_BYTES = {"cpu": 1 << 20}
SEGMENT_BYTES_DEVICE = 256 << 20


@torch.library.custom_op("triptych::chunk_scan", mutates_args=())
def scan(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """``chunk_scan``: y and the final state, in the type of ``state``."""
    y = torch.empty(x.shape, dtype=state.dtype, device=x.device)
    state = state.clone(memory_format=torch.contiguous_format)
    for start, stop, k in _segments(x, chunk):
        parts = _cut((x, weight, a, B, C), start, stop, k, state.dtype)
        y_part, state = chunks.forward(*parts, state, chunks.carry)
        y[:, start:stop] = y_part.flatten(1, 2)
    return y, state.contiguous()


@scan.register_fake
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
def scan_backward(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
    of_decays: bool,
) -> list[Tensor]:
    """Gradients of x, a, B, C, the initial state and, if there is one, of the weight.

    A first sweep finds the state at the start of each segment again, without the k x k matrices; a
    second one goes back.  ``of_decays``: whether the gradient of a is wanted.
    """
    inputs = (x, weight, a, B, C)
    spans = list(_segments(x, chunk))
    states = [state]
    for start, stop, k in spans[:-1]:
        states.append(chunks.state_after(*_cut(inputs, start, stop, k, state.dtype), states[-1]))
    grads = [None if t is None else torch.zeros_like(t) for t in inputs]
    dstate = dstate.clone()
    for (start, stop, k), entry in zip(reversed(spans), reversed(states)):
        dy_part = dy[:, start:stop].unflatten(1, (-1, k))
        parts = _cut(inputs, start, stop, k, state.dtype)
        found, dstate = chunks.backward(dy_part, dstate, *parts, entry, of_decays)
        for grad, part in zip(grads, found):
            if grad is None or part is None:
                continue
            if grad.ndim == 1:  # one decay for all steps
                grad += part.sum((0, 1, 2))
            else:
                grad[:, start:stop] = part.flatten(1, 2)
    dx, dweight, da, dB, dC = grads
    return [t for t in (dx, da, dB, dC, dstate.contiguous(), dweight) if t is not None]


@scan_backward.register_fake
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
    of_decays: bool,
) -> list[Tensor]:
    like = (x, a, B, C, state.contiguous(), weight)
    return [torch.empty_like(t) for t in like if t is not None]


def _refuse(ctx: Any, *grads: Any) -> None:
    raise UsageError(
        "the chunked scan of ssd and retention has no second derivative; retention has one with "
        "form='parallel' or 'recurrent'"
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.chunk = inputs[-1]


def _backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, a, B, C, state = ctx.saved_tensors
    with without_autocast(x):
        dx, da, dB, dC, dstate, *dweight = scan_backward(
            dy, dstate, x, weight, a, B, C, state, ctx.chunk, ctx.needs_input_grad[2]
        )
    return dx, dweight[0] if dweight else None, da, dB, dC, dstate, None


scan.register_autograd(_backward, setup_context=_setup)
scan_backward.register_autograd(_refuse)


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


def _cut(
    inputs: tuple[Tensor | None, ...], start: int, stop: int, k: int, acc: torch.dtype
) -> chunks.Parts:
    """The chunks of a segment: (b, l, ...) -> (b, c, k, ...); one decay for all: (1, 1, k, h)."""

    def cut(t: Tensor | None) -> Tensor | None:
        if t is None or t.ndim == 1:
            return t if t is None else t.expand(1, 1, k, -1)
        return t[:, start:stop].unflatten(1, (-1, k))

    return chunks.cast([cut(t) for t in inputs], acc)
