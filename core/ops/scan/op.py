"""The selective scan as PyTorch operators, so that compilers and exporters record one node.

``triptych::selective_scan`` and ``triptych::selective_scan_backward`` have kernels without data
(shapes only), an autograd formula, and no autocast rule on purpose: under autocast, as without it,
inputs are taken in whatever types they have, sums and states are float32, and the output has u's
type.  They are called through ``core.ops.selective_scan``, which checks the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import UsageError
from core.grid import ceil_div
from core.ops.precision import accumulate_dtype, without_autocast
from core.ops.scan import blocked, reference
from core.ops.scan.choice import backend_for
from core.ops.scan.reference import CHUNK

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? delta_bias, Tensor? initial_state"
)
_OPTIONS = "bool delta_softplus, str backend"
_NO_DIFFERENTIATION_TWICE = (
    "the selective scan's operator has no second derivative; "
    "call selective_scan(..., backend='reference'), which has any"
)


@torch.library.custom_op(
    "triptych::selective_scan",
    mutates_args=(),
    schema=f"({_INPUTS}, {_OPTIONS}, bool save) -> (Tensor, Tensor, Tensor)",
)
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
    """Output (B, L, D) in u's dtype; last state (B, D, N) and, with ``save``, the states before
    each chunk, (B, ceil(L / 64), N, D), both in the accumulating dtype; else (B, 0, N, D)."""
    with without_autocast(u):  # it would round the matrix products inside
        y, final, kept = _kernels(u, backend).forward(
            u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, save
        )
    return y.to(u.dtype).contiguous(), final.contiguous(), kept.contiguous()


@scan.register_fake
def _(
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
    wide = accumulate_dtype(u.dtype)
    batch, length, dim = u.shape
    chunks = ceil_div(length, CHUNK) if save else 0
    y = u.new_empty(batch, length, dim)
    final = u.new_empty(batch, dim, A.shape[1], dtype=wide)
    return y, final, u.new_empty(batch, chunks, A.shape[1], dim, dtype=wide)


@torch.library.custom_op(
    "triptych::selective_scan_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? dfinal, {_INPUTS}, Tensor checkpoints, {_OPTIONS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def scan_backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    """Gradients of ``scan``'s tensors, each in its shape and dtype; of those that are None, empty.

    Without ``checkpoints`` (a graph exported for inference saves none) they are computed first.
    """
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    kernels = _kernels(u, backend)
    with without_autocast(u):
        if checkpoints.shape[1] == 0:
            checkpoints = kernels.forward(*inputs, initial_state, delta_softplus, True)[2]
        grads = kernels.backward(dy, dfinal, *inputs, delta_softplus, checkpoints)
    return tuple(
        u.new_empty(0) if t is None or g is None else g.to(t.dtype).contiguous()
        for t, g in zip((*inputs, initial_state), grads, strict=True)
    )


@scan_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return tuple(u.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.delta_softplus, ctx.backend, _ = inputs
    ctx.given = [t is not None for t in tensors]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(
    ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, checkpoints = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(tensors[0])
    grads = scan_backward(dy, dfinal, *tensors, checkpoints, ctx.delta_softplus, ctx.backend)
    wanted = zip(grads, ctx.given, ctx.needs_input_grad)
    return (*(g if given and needed else None for g, given, needed in wanted), None, None, None)


def _refuse(ctx: Any, *grads: Tensor | None) -> None:
    raise UsageError(_NO_DIFFERENTIATION_TWICE)


scan.register_autograd(_differentiate, setup_context=_setup)
scan_backward.register_autograd(_refuse)


class _Kernels(NamedTuple):
    """A backend: ``forward`` and ``backward`` with the arguments and results of ``blocked``'s."""

    forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor | None, ...]]


def _kernels(u: Tensor, backend: str) -> _Kernels:
    name = backend_for(u.device, u.dtype, backend, recorded=True)
    if name == "reference":  # autograd cannot run inside an operator
        return _Kernels(_reference_forward, blocked.backward)
    module = import_module(f"core.ops.scan.{'cuda' if name == 'triton' else name}")
    return _Kernels(module.forward, module.backward)


def _reference_forward(
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
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.scan``, chunk by chunk for the states before each."""
    ys, kept = [u[:, :0]], []
    _, state = reference.scan(
        u[:, :0], delta[:, :0], A, B[:, :0], C[:, :0], initial_state=initial_state
    )
    for start in range(0, u.shape[1], CHUNK):
        kept.append(state.transpose(1, 2))
        u_c, delta_c, B_c, C_c = (t[:, start : start + CHUNK] for t in (u, delta, B, C))
        z_c = None if z is None else z[:, start : start + CHUNK]
        y, state = reference.scan(
            u_c, delta_c, A, B_c, C_c, D, z_c, delta_bias, delta_softplus, state
        )
        ys.append(y)
    states = [t[:, None] for t in kept] if save else []
    empty = state.new_empty(u.shape[0], 0, A.shape[1], u.shape[2])
    return torch.cat(ys, 1), state, torch.cat([empty, *states], 1)
