"""What this processor does fast and exactly, found out at start-up instead of assumed.

Measured on 2 AVX-512 cores without AMX: float32 matrix products through oneDNN run at 215-245
GFLOP/s against 90-99 through MKL, with the same rounding (a Swin-T training step takes 889 ms
instead of 1400). On a processor with AMX the same switch computes in bfloat16, so it is set only
after a probe.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch
import torch.nn.functional as F

# Rows x inputs x outputs of a Swin stage's feed-forward layer: 10 ms at worst.
_PROBE_SHAPE = (784, 192, 768)
_REPEATS = 5
# The dot product of 192 terms; bfloat16 inputs are off by 1e-3, float32 by 1e-7.
_EXACT = 4e-6
_FASTER = 0.9


def fast_matmul() -> bool:
    """Use oneDNN for float32 matrix products on the CPU where that is exact and faster.

    Sets ``torch.set_float32_matmul_precision`` for the whole process and returns whether the fast
    path is on. Nothing is changed where a CUDA device is present: there the same switch would
    trade accuracy for speed.
    """
    if torch.cuda.is_available():
        return False
    exact, faster = probe_matmul()
    if exact and faster:
        torch.set_float32_matmul_precision("medium")
    return torch.get_float32_matmul_precision() == "medium"


@lru_cache(maxsize=1)
def probe_matmul() -> tuple[bool, bool]:
    """(exact to float32 rounding, faster) of the fast path, measured once; leaves no setting."""
    rows, inputs, outputs = _PROBE_SHAPE
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    truth = F.linear(x.double(), weight.double())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        slow, _ = _timed(x, weight)
        torch.set_float32_matmul_precision("medium")
        fast, product = _timed(x, weight)
    finally:
        torch.set_float32_matmul_precision(before)
    error = (product - truth).abs().max() / truth.abs().max()
    return bool(error < _EXACT), fast < _FASTER * slow


def autocast_dtype(device: torch.device | str) -> torch.dtype | None:
    """bfloat16 where automatic mixed precision pays on ``device``, else None (stay in float32).

    CPU: only with AVX512_BF16 or AMX instructions (1400 -> 517 ms a Swin-T step); without them
    bfloat16 is emulated and several times slower. CUDA: from compute capability 8.0.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    if device.type == "cpu" and any(_has(feature) for feature in ("avx512_bf16", "amx_tile")):
        return torch.bfloat16
    return None


def _has(feature: str) -> bool:
    # PyTorch asks the processor itself, on every system; the functions have no public name.
    supported = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return supported is not None and bool(supported())


def _timed(x: torch.Tensor, weight: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Best of a few runs: other processes only ever make a run slower."""
    product = F.linear(x, weight)  # builds the kernel
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        product = F.linear(x, weight)
        best = min(best, time.perf_counter() - start)
    return best, product
