"""Two linear layers with GELU and dropout between them, a few rows at a time.

    y = dropout(gelu(x W1^T)) W2^T

x (..., C), W1 (D, C), W2 (C', D) -> (..., C').  The hidden layer of a chunk of rows stays in the
cache and on pages already there: 32 x 144 rows of 512 channels and 2,048 hidden ones take 38 MB,
which written and read six times cost more than the products do in bfloat16.  Kept for the gradient
are x and the hidden layer before the GELU; a value to be dropped is set there to a number at which
GELU and its slope are 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.dropout import dropout, dropped
from core.ops.precision import product_dtype

NOTHING = -1e4
"""gelu(NOTHING) = gelu'(NOTHING) = 0 in every precision."""

BYTES = 4 << 20
"""Of hidden layer at once: 512 rows of 2,048 values in float32, 1,024 in bfloat16."""


def feed_forward(x: Tensor, w1: Tensor, w2: Tensor, rate: float = 0.0) -> Tensor:
    """The formula above, dropping with probability ``rate``; under autocast in its precision."""
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w1, w2))
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return reference(x, w1, w2, rate)
    dtype = product_dtype(x)
    rows, w1, w2 = x.reshape(-1, x.shape[-1]).to(dtype), w1.to(dtype), w2.to(dtype)
    with torch.autocast("cpu", enabled=False):
        if learns:
            y = _FeedForward.apply(rows, w1, w2, rate)
        else:
            y = torch.cat([reference(r, w1, w2, rate) for r in rows.split(_rows(w1))])
    return y.view(*x.shape[:-1], y.shape[-1])


def reference(x: Tensor, w1: Tensor, w2: Tensor, rate: float = 0.0) -> Tensor:
    """The formula, all rows at once."""
    hidden = F.gelu(F.linear(x, w1))
    return F.linear(dropout(hidden, rate) if rate else hidden, w2)


def _rows(w1: Tensor) -> int:
    return max(BYTES // (len(w1) * w1.element_size()), 1)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor, rate: float) -> Tensor:
        hidden, y = x.new_empty(len(x), len(w1)), x.new_empty(len(x), len(w2))
        rows = _rows(w1)
        for at in range(0, len(x), rows):
            part = slice(at, at + rows)
            h = torch.mm(x[part], w1.T, out=hidden[part])
            if rate:
                h.view(-1).index_fill_(0, dropped(h.numel(), rate), NOTHING)
            torch.mm(F.gelu(h), w2.T, out=y[part])
        ctx.save_for_backward(x, w1, w2, hidden)
        ctx.scale = 1.0 / (1.0 - rate)
        return y.mul_(ctx.scale) if rate else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, w1, w2, hidden = ctx.saved_tensors
        g, dx = grads[0] * ctx.scale, torch.empty_like(x)
        # Summed over the chunks in float32: 8 bits of mantissa would lose the later ones.
        dtype = torch.promote_types(x.dtype, torch.float32)
        dw1, dw2 = torch.zeros_like(w1, dtype=dtype), torch.zeros_like(w2, dtype=dtype)
        rows = _rows(w1)
        for at in range(0, len(x), rows):
            part = slice(at, at + rows)
            h = hidden[part]
            dw2 += g[part].T @ F.gelu(h)
            dh = torch.ops.aten.gelu_backward(g[part] @ w2, h)
            dw1 += dh.T @ x[part]
            torch.mm(dh, w1, out=dx[part])
        return dx, dw1.to(w1.dtype), dw2.to(w2.dtype), None
