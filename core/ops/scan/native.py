"""Selective scan in C++ with SIMD lanes over channels and OpenMP threads: the fast path on a CPU.

``forward`` and ``backward`` share their signatures and the layout of checkpoints with ``blocked``:

    u, delta, z, y   (B, L, D)                   B, C   (B, L, N)          A   (D, N)
    D, delta_bias    (D,)                        initial_state, final_state    (B, D, N)
    checkpoints      (B, ceil(L / CHUNK), N, D)  the state before each chunk; (B, 0, N, D) unsaved

The computation is that of ``native.cpp`` (Gu and Dao 2023, equations 2 and 4, and its analytic
backward pass). float64 stays float64; every other dtype is computed in float32 and y, and each
gradient, return in the dtype of what they belong to. Rows may be strided (halves of a projection
need no copy) as long as the last axis is contiguous. Results are the same bits for any number of
threads. Deviates from mamba_ssm's CUDA kernel: a state before the first step may be given, and no
limit is put on N.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import torch
from torch import Tensor

from core.errors import ResourceError
from core.grid import ceil_div
from core.ops.precision import accumulate_dtype
from core.ops.scan import build
from core.ops.scan.reference import CHUNK

SOURCE = Path(__file__).with_name("native.cpp")


class _Rows(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("length", ctypes.c_int64)]


_COUNTS = ("batch", "length", "channels", "states", "threads", "softplus")
_ROWS = ("u", "delta", "z", "B", "C", "dy")
_PARAMETERS = ("A", "D", "bias", "initial")
_RESULTS = ("y", "final_state", "checkpoints")
_GRADIENTS = ("dfinal", "du", "ddelta", "dz", "dA", "dB", "dC", "dD", "dbias", "dinitial")


class _Arguments(ctypes.Structure):
    """The ``Arguments`` of native.cpp, field for field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _COUNTS),
        *((name, _Rows) for name in _ROWS),
        *((name, ctypes.c_void_p) for name in (*_PARAMETERS, *_RESULTS, *_GRADIENTS)),
    ]


_library: ctypes.CDLL | None = None
_reason: str | None = None  # None: not tried yet


def available() -> bool:
    """Whether the C++ scan can be used here; builds it at the first call. Never raises."""
    global _library, _reason
    if _reason is None:
        try:
            _library, _reason = build.load(SOURCE, _computes), ""
        except build.Unavailable as error:
            _reason = str(error)
        except Exception as error:  # an unforeseen failure may cost speed, but no run
            _reason = f"the C++ scan could not be built: {error}"
        _reason = " ".join(_reason.splitlines())
    return _library is not None


def unavailable_reason() -> str:
    """One line that says why ``available()`` is False and what to do; empty when it is True."""
    available()
    return _reason or ""


def isa() -> str:
    """Instruction set of the library in use: avx512, avx2, neon or portable."""
    function = _loaded().triptych_scan_isa
    function.restype = ctypes.c_char_p
    return str(function().decode())


def threaded() -> bool:
    """Whether the library was built with OpenMP."""
    return bool(_loaded().triptych_scan_threaded())


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
    """y in u's dtype, the final state, and checkpoints (empty unless ``save``).

    Raises ResourceError when the library is unavailable or memory runs out.
    """
    dtype = accumulate_dtype(u.dtype)
    batch, length, channels = u.shape
    states = A.shape[1]
    chunks = ceil_div(length, CHUNK) if save else 0
    y = u.new_empty((batch, length, channels), dtype=dtype)
    final = u.new_empty((batch, channels, states), dtype=dtype)
    checkpoints = u.new_empty((batch, chunks, states, channels), dtype=dtype)
    call = _Call(dtype)
    call.inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus)
    call.results(y=y, final_state=final, checkpoints=checkpoints if save else None)
    call.run("forward")
    return y.to(u.dtype), final, checkpoints


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
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state (the last always).

    ``checkpoints`` come from ``forward(..., save=True)`` with the same inputs.
    Raises ResourceError when the library is unavailable or memory runs out.
    """
    dtype = accumulate_dtype(u.dtype)
    batch, length, channels = u.shape
    states = A.shape[1]

    def empty(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=dtype)

    du, ddelta = empty(batch, length, channels), empty(batch, length, channels)
    dA, dinitial = empty(channels, states), empty(batch, channels, states)
    dB, dC = empty(batch, length, states), empty(batch, length, states)
    dD = None if D is None else empty(channels)
    dz = None if z is None else empty(batch, length, channels)
    dbias = None if delta_bias is None else empty(channels)
    call = _Call(dtype)
    call.inputs(u, delta, A, B, C, D, z, delta_bias, None, delta_softplus)
    call.rows(dy=dy)
    call.contiguous(dfinal=dfinal, checkpoints=checkpoints)
    call.results(
        du=du, ddelta=ddelta, dz=dz, dA=dA, dB=dB, dC=dC, dD=dD, dbias=dbias, dinitial=dinitial
    )
    call.run("backward")
    return (
        du.to(u.dtype),
        ddelta.to(delta.dtype),
        dA.to(A.dtype),
        dB.to(B.dtype),
        dC.to(C.dtype),
        None if dD is None or D is None else dD.to(D.dtype),
        None if dz is None or z is None else dz.to(z.dtype),
        None if dbias is None or delta_bias is None else dbias.to(delta_bias.dtype),
        dinitial,
    )


def _loaded() -> ctypes.CDLL:
    if not available() or _library is None:
        raise ResourceError(f"the C++ scan is not available: {unavailable_reason()}")
    return _library


class _Call:
    """One call's arguments; keeps the tensors behind them alive until it has run."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.arguments = _Arguments(threads=max(1, torch.get_num_threads()))
        self.kept: list[Tensor] = []

    def inputs(
        self,
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
    ) -> None:
        to = self.arguments
        to.batch, to.length, to.channels = u.shape
        to.states, to.softplus = A.shape[1], int(delta_softplus)
        self.rows(u=u, delta=delta, z=z, B=B, C=C)
        self.contiguous(A=A, D=D, bias=delta_bias, initial=initial_state)

    def rows(self, **tensors: Tensor | None) -> None:
        """(B, L, X) inputs, whose last axis alone must be contiguous."""
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            tensor = tensor.detach().to(self.dtype)
            if tensor.stride(2) != 1:
                tensor = tensor.contiguous()
            self.kept.append(tensor)
            setattr(
                self.arguments, name, _Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))
            )

    def contiguous(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            if tensor is not None:
                tensor = tensor.detach().to(self.dtype).contiguous()
                self.kept.append(tensor)
                setattr(self.arguments, name, tensor.data_ptr())

    def results(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            if tensor is not None:
                self.kept.append(tensor)
                setattr(self.arguments, name, tensor.data_ptr())

    def run(self, direction: str) -> None:
        _invoke(_loaded(), direction, self.dtype, self.arguments)


def _invoke(
    library: ctypes.CDLL, direction: str, dtype: torch.dtype, arguments: _Arguments
) -> None:
    suffix = "f64" if dtype == torch.float64 else "f32"
    function = getattr(library, f"triptych_scan_{direction}_{suffix}")
    if function(ctypes.byref(arguments)):
        raise ResourceError(
            f"not enough memory for the {direction} selective scan of batch {arguments.batch}, "
            f"length {arguments.length}, {arguments.channels} channels; use a smaller batch"
        )


def _computes(library: ctypes.CDLL) -> bool:
    """A freshly loaded library agrees with a closed form, in the layout this module assumes.

    With constant inputs and one state, h[l] = x (1 - a^(l+1)) / (1 - a) with a = exp(delta A) and
    x = delta u B, so that 70 steps (two chunks) of 17 channels (two blocks) check every part.
    """
    size = library.triptych_scan_arguments
    size.restype = ctypes.c_int64
    if size() != ctypes.sizeof(_Arguments):
        return False
    length, channels, delta, decay = 70, 17, 0.25, -0.5
    a = math.exp(delta * decay)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        ones = torch.ones(1, length, channels, dtype=dtype)
        y, final = torch.zeros_like(ones), torch.zeros(1, channels, 1, dtype=dtype)
        call = _Call(dtype)
        call.inputs(
            ones,
            ones * delta,
            torch.full((channels, 1), decay),
            ones[..., :1],
            ones[..., :1],
            torch.ones(channels),
            None,
            None,
            None,
            False,
        )
        call.results(y=y, final_state=final)
        _invoke(library, "forward", dtype, call.arguments)
        steps = torch.arange(1, length + 1, dtype=torch.float64)
        expected = 1 + delta * (1 - a**steps) / (1 - a)
        if not (y.double() - expected[None, :, None]).abs().max() < tolerance * 4:
            return False
        if not (final.double() - (expected[-1] - 1)).abs().max() < tolerance * 4:
            return False
    return True
