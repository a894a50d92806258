"""The selective scan of Mamba: one function over a sequence, one for a single step of a stream.

Paper: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023.
Code they correspond to: ``selective_scan_fn`` and ``selective_state_update`` of state-spaces/mamba,
with channels last instead of in the middle.

Letters: B batch, L length, D channels, N states of a channel (as sizes); the arguments A, B, C, D
and delta are the paper's A, B, C, D and Δ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UsageError
from core.ops.checks import check_tensors, numbers
from core.ops.precision import accumulate_dtype, without_autocast
from core.ops.scan import op, reference
from core.ops.scan.choice import backend_for, named


def selective_scan(
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
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective state space model over a sequence.

    With ``delta`` replaced by ``delta + delta_bias`` and then, if asked, by its softplus::

        h[l] = exp(delta[l] A) h[l-1] + delta[l] u[l] B[l]      for each channel, N states
        y[l] = (<C[l], h[l]> + D u[l]) silu(z[l])               D and z are left out where None

    Arguments
        u                input, (B, L, D); any L, also 0
        delta            step size, (B, L, D)
        A                (D, N); negative, or the state grows
        B, C             input and output weights of the states, (B, L, N)
        D                weight of the input in the output, (D,)
        z                gate, (B, L, D)
        delta_bias       (D,)
        initial_state    the state before the first position, (B, D, N); zero where None
        backend          auto, reference, blocked, native, triton or mamba_ssm; with ``auto`` the
                         environment variable TRIPTYCH_SCAN may name it (see ``backend_for``)

    Returns ``y`` (B, L, D), or ``(y, state)`` with the state after the last position, (B, D, N).
    Both are differentiable once, with respect to every tensor (any number of times with the
    backend ``reference``).  Inputs may have any strides and any floating-point types: y has that
    of u, sums and states are float32, or float64 where u is.  This holds under autocast, too, which
    changes nothing.  A compiled or exported graph records one operator, ``triptych::selective_scan``,
    which chooses its backend where it runs.

    Raises UsageError for shapes, types or devices that do not fit together, and for an unknown
    backend; ResourceError for one that cannot run here.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if not torch.compiler.is_compiling():
        stateful = initial_state is not None or return_final_state
        backend = named(backend)
        if backend == "reference":
            with without_autocast(u):
                y, state = reference.scan(*inputs[:8], delta_softplus, initial_state)
            return (y, state) if return_final_state else y
        if u.is_cuda and backend_for(u.device, u.dtype, backend, stateful=stateful) == "mamba_ssm":
            from core.ops.scan import cuda

            return cuda.mamba_ssm(*inputs[:8], delta_softplus)
    # An exported graph keeps no checkpoints: it seldom learns, and can compute them when it does.
    save = (
        torch.is_grad_enabled()
        and not torch.compiler.is_exporting()
        and any(t is not None and t.requires_grad for t in inputs)
    )
    # The operator chooses the backend when it runs: a tensor without data must not build a kernel.
    y, state, _ = op.scan(*inputs, delta_softplus, backend, save)
    return (y, state) if return_final_state else y


def selective_scan_step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One position of ``selective_scan``: its output (B, D), and the state after it (B, D, N).

    ``state`` is (B, D, N), at the start zeros or what ``selective_scan`` returned; ``u``, ``delta``,
    ``z``: (B, D); ``B``, ``C``: (B, N); ``A``, ``D``, ``delta_bias`` as there.  Step after step
    this is the scan to rounding.  ``state`` itself is not changed.  Raises UsageError for shapes
    that do not fit together.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, state, sequence=False)
    wide = accumulate_dtype(u.dtype)
    with without_autocast(u):
        x, d = u.to(wide), delta.to(wide)
        d = d if delta_bias is None else d + delta_bias.to(wide)
        d = F.softplus(d) if delta_softplus else d
        kept = torch.exp(d.unsqueeze(-1) * A.to(wide)) * state.to(wide)
        state = kept + (d * x).unsqueeze(-1) * B.to(wide).unsqueeze(1)
        y = (state @ C.to(wide).unsqueeze(-1)).squeeze(-1)
        y = y if D is None else y + x * D.to(wide)
        y = y if z is None else y * F.silu(z.to(wide))
    return y.to(u.dtype), state


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
    sequence: bool = True,
) -> None:
    """Raise UsageError, naming the argument and both shapes, unless all of them fit together."""
    name, wanted = (
        ("selective_scan", "(B, L, D)") if sequence else ("selective_scan_step", "(B, D)")
    )
    if u.ndim != 2 + sequence:
        raise UsageError(f"{name}: u must be {wanted}, got a tensor of shape {numbers(u.shape)}")
    if A.ndim != 2 or A.shape[0] != u.shape[-1]:
        raise UsageError(
            f"{name}: A must be (D, N) with the D = {u.shape[-1]} of u {numbers(u.shape)}, got {numbers(A.shape)}"
        )
    lead, dim, states = u.shape[:-1], u.shape[-1], A.shape[1]
    check_tensors(
        name,
        {"u": u, "A": A},
        {
            "delta": (delta, (*lead, dim)),
            "B": (B, (*lead, states)),
            "C": (C, (*lead, states)),
            "D": (D, (dim,)),
            "z": (z, (*lead, dim)),
            "delta_bias": (delta_bias, (dim,)),
            "initial_state" if sequence else "state": (state, (lead[0], dim, states)),
        },
    )
