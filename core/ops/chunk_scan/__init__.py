"""The recurrence of Mamba-2 and retention by matrix products over chunks, at any length.

Paper: Dao and Gu, "Transformers are SSMs", ICML 2024 (arXiv:2405.21060), section 6, algorithm 1.
Code it corresponds to: state-spaces/mamba, ``ssd_minimal.py`` and ``mamba_chunk_scan_combined``.

    h[t] = exp(a[t]) h[t-1] + weight[t] x[t] B[t]'        y[t] = h[t] C[t]

Letters: b batch, l length, h heads, p head size, n state size, g groups of B and C (r = h / g heads
share one), k steps of a chunk, c chunks.  a is the log decay of a step; s its running sum inside a
chunk.  Within a chunk, with L[i, j] = exp(s[i] - s[j]) for j <= i and 0 above:

    y = (L * C B') (weight x)  +  exp(s) * C h'           the chunk itself, and the state before it
    h <- exp(s[last]) h + sum_j exp(s[last] - s[j]) weight[j] x[j] B[j]'                  (carry)

Three properties that a plain transcription lacks:

- No overflow and no lost digits.  Differences s[i] - s[j] above the diagonal are zeroed before the
  exponential.  Sums are float64 (float32 on MPS, which has none): in float32 one step with a = -1e4
  would leave the steps after it an error of 1e-3 in exp(s[i] - s[j]).
- Bounded memory.  The chunks are taken in segments whose k x k matrices fit a cache; the backward
  pass keeps the inputs alone and computes the rest again (``op``).
- Traceable.  The scan is an operator of its own, which ``torch.compile`` keeps whole;
  ``torch.export`` writes it out in plain tensor operations (``traced``).

Measured at b = 2, l = 4096, h = 6, p = n = 64, float32: 34 ms of CPU time forward and 123 forward and
backward; the same formulas without these properties, under autograd and in the same run, 41 and 126
(``ssd``, one thread of a busy two-core AVX-512 machine, the best of ten).

Deviates from the authors' code: chunks of 64, not 256 (on a CPU 256 costs 3 to 7 times more); all
matrix products are float32 for half-precision input (theirs are in the input's type); no second
derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.ops.chunk_scan import op, traced
from core.ops.precision import accumulate_dtype

CHUNK = 64

__all__ = ["CHUNK", "chunk_scan"]


def chunk_scan(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The recurrence above and nothing else.

    x: (b, l, h, p).  weight: (b, l, h), or None for ones.  a: (b, l, h), or (h,) for a decay that
    all steps share; in the type that it is to be summed in (``log_decay_dtype``).  B, C: (b, l, g,
    n), g divides h.  initial_state: (b, h, p, n), zeros when None.  Returns y (b, l, h, p) and the
    final state (b, h, p, n), both in float32, or float64 for float64 input.
    """
    b, _, h, p = x.shape
    acc = accumulate_dtype(x.dtype)
    if initial_state is None:
        state = x.new_zeros(b, h, p, B.shape[-1], dtype=acc)
    else:
        state = initial_state.to(acc)
    scan = traced.scan if torch.compiler.is_exporting() else op.scan
    return scan(x, weight, a, B, C, state, chunk)
