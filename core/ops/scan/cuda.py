"""The selective scan on a GPU: our own Triton kernels, and an adapter for the mamba_ssm package.

The recurrence is that of ``reference``; the kernels are in ``kernels``, which is imported on first
use, so that this module needs no triton.  Forward: two launches find the state before each chunk of
64 positions, a third one the output.  Backward: the same from the end, with the states recomputed
from those before the chunks.  All chunks of all channels run in parallel, so that one long sequence
fills a GPU; the price is that inputs are read twice.

These kernels have been run in Triton's interpreter only, where the tests compare them with the
float64 reference, and they compile for compute capability 9.0 (Triton 3.9, float32, bfloat16 and
float64 inputs).  They have never run on a GPU: their speed there is not known.

``mamba_ssm`` calls that package's ``selective_scan_fn`` (state-spaces/mamba), when it is installed.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from core.grid import ceil_div
from core.ops.precision import accumulate_dtype
from core.ops.scan.reference import CHUNK

WIDTH = 32  # channels of a program at most: 64 x 32 values are 16 a thread at 4 warps
CARRY = 128  # (state, channel) pairs of a program of the carry


def triton_missing(device: torch.device | str = "cuda") -> str:
    """Why the Triton kernels cannot run for tensors on ``device``, or an empty string."""
    device = torch.device(device)
    if not _importable("triton"):
        return "the package triton cannot be imported"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type != "cuda":
        return f"it runs on CUDA devices, and the tensors are on {device}"
    return "" if torch.cuda.is_available() else "there is no CUDA device"


def triton_available() -> bool:
    """Whether triton can be imported and there is a CUDA device, or Triton's interpreter is on."""
    return not triton_missing()


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # in sys.modules, but disabled or without a spec
        return False


def _kernels() -> ModuleType:
    return import_module("core.ops.scan.kernels")


class _Call:
    """The inputs of the kernels, contiguous, and how they are launched."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        softplus: bool,
    ) -> None:
        import triton
        import triton.language as tl

        self.wide = accumulate_dtype(u.dtype)
        self.batch, self.length, self.dim = u.shape
        self.states = A.shape[1]
        self.chunks = ceil_div(self.length, CHUNK)
        self.u, self.delta, self.B, self.C = (t.contiguous() for t in (u, delta, B, C))
        self.A = A.to(self.wide).t().contiguous()  # (N, D)
        # Where an argument is None the kernels are compiled without it and get any pointer.
        self.skip, self.z, self.bias = (
            self.u if t is None else t.contiguous() for t in (D, z, delta_bias)
        )
        acc = tl.float64 if self.wide == torch.float64 else tl.float32
        width = min(WIDTH, triton.next_power_of_2(self.dim))
        self.grid = (self.chunks, triton.cdiv(self.dim, width), self.batch)
        self.carry_grid = (triton.cdiv(self.states * self.dim, CARRY), self.batch)
        self.sizes = (self.length, self.dim, self.states, self.chunks)
        self.tile: dict[str, Any] = {
            "T": CHUNK,
            "W": width,
            "BIAS": delta_bias is not None,
            "SOFTPLUS": softplus,
            "ACC": acc,
        }
        self.skips, self.gates = D is not None, z is not None

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.wide, device=self.u.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.wide, device=self.u.device)

    def start(self, state: Tensor | None) -> Tensor:
        """(B, D, N), or zeros -> a copy (B, N, D)."""
        if state is None:
            return self.zeros(self.batch, self.states, self.dim)
        moved = torch.empty_like(state.mT, dtype=self.wide, memory_format=torch.contiguous_format)
        return moved.copy_(state.mT)

    def carry(self, added: Tensor, total: Tensor, state: Tensor, reverse: bool) -> None:
        options = {"E": CARRY, "REVERSE": reverse, "ACC": self.tile["ACC"]}
        _kernels().carry[self.carry_grid](added, total, self.A, state, *self.sizes[1:], **options)


@torch.no_grad()
def forward(
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
    """Output (B, L, D) in u's dtype, last state (B, D, N), and the state before each chunk of 64.

    Arguments and results are those of ``blocked.forward``: the states before the chunks are
    (B, ceil(L / 64), N, D), or (B, 0, N, D) without ``save``.
    """
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    state = call.start(initial_state)
    before = call.new(call.batch, call.chunks, call.states, call.dim)
    y = torch.empty_like(call.u)
    if y.numel():
        with torch.cuda.device_of(u):
            kernels = _kernels()
            total = call.new(call.batch, call.chunks, call.dim)
            kernels.ends[call.grid](
                call.u,
                call.delta,
                call.bias,
                call.A,
                call.B,
                before,
                total,
                *call.sizes,
                **call.tile,
            )
            call.carry(before, total, state, reverse=False)
            kernels.outputs[call.grid](
                call.u,
                call.delta,
                call.bias,
                call.A,
                call.B,
                call.C,
                call.skip,
                call.z,
                before,
                y,
                *call.sizes,
                **call.tile,
                SKIP=call.skips,
                GATE=call.gates,
            )
    if not save:
        before = call.new(call.batch, 0, call.states, call.dim)
    return y, state.mT, before


@torch.no_grad()
def backward(
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
    delta_softplus: bool,
    checkpoints: Tensor,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor
]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and of the initial state.

    Arguments and results are those of ``blocked.backward``.  On a GPU the last bits of B's and C's
    gradients vary from run to run: programs add to them in any order.
    """
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    batch, chunks, states, dim = call.batch, call.chunks, call.states, call.dim
    dstate = call.start(dfinal)
    du, ddelta = call.new(*u.shape), call.new(*u.shape)
    dz = call.new(*u.shape) if call.gates else None
    dA = call.zeros(batch, chunks, states, dim)
    dB, dC = call.zeros(*B.shape), call.zeros(*C.shape)
    dD = call.zeros(batch, chunks, dim) if call.skips else None
    if u.numel():
        with torch.cuda.device_of(u):
            kernels = _kernels()
            dy = dy.contiguous()
            after = call.new(batch, chunks, states, dim)
            total = call.new(batch, chunks, dim)
            kernels.ends_back[call.grid](
                call.delta,
                call.bias,
                call.A,
                call.C,
                call.z,
                dy,
                after,
                total,
                *call.sizes,
                **call.tile,
                GATE=call.gates,
            )
            call.carry(after, total, dstate, reverse=True)
            kernels.gradients[call.grid](
                call.u,
                call.delta,
                call.bias,
                call.A,
                call.B,
                call.C,
                call.skip,
                call.z,
                dy,
                checkpoints.contiguous(),
                after,
                du,
                ddelta,
                dA,
                dB,
                dC,
                du if dD is None else dD,
                du if dz is None else dz,
                *call.sizes,
                **call.tile,
                SKIP=call.skips,
                GATE=call.gates,
            )
    return (
        du,
        ddelta,
        dA.sum((0, 1)).t(),
        dB,
        dC,
        None if dD is None else dD.sum((0, 1)),
        dz,
        None if delta_bias is None else ddelta.sum((0, 1)),
        dstate.mT,
    )


@cache
def mamba_ssm_available() -> bool:
    """Whether ``selective_scan_fn`` of the package mamba_ssm can be imported; never raises."""
    try:
        return callable(_selective_scan_fn())
    except Exception:  # a build against another PyTorch fails in as many ways as there are
        return False


def _selective_scan_fn() -> Any:
    return import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn


def mamba_ssm(
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
) -> Any:
    """The scan by mamba_ssm's ``selective_scan_fn``, which has its own backward pass.

    Shapes are those of ``core.ops.selective_scan``; that function's are (B, D, L) and (B, N, L), and
    A, D and delta_bias must be float32.  It takes no initial state, and its last state has no
    gradient: where either is asked for, our Triton kernels run instead.
    """
    if initial_state is not None or return_final_state:
        from core.ops.scan.api import selective_scan

        return selective_scan(
            u,
            delta,
            A,
            B,
            C,
            D,
            z,
            delta_bias,
            delta_softplus,
            initial_state,
            return_final_state,
            backend="triton",
        )
    rows = [None if t is None else t.to(u.dtype).mT.contiguous() for t in (u, delta, B, C, z)]
    x, steps, inputs, outputs, gate = rows
    A, skip, bias = (None if t is None else t.float().contiguous() for t in (A, D, delta_bias))  # type: ignore[assignment]
    y = _selective_scan_fn()(
        x, steps, A, inputs, outputs, D=skip, z=gate, delta_bias=bias, delta_softplus=delta_softplus
    )
    return y.mT
