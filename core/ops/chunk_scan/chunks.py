"""The arithmetic of a run of chunks, forward and backward, in plain torch.

Letters as in the package's docstring.  Tensors are cut into chunks, (b, c, k, ...); log decays that
all steps share have b = c = 1.  Everything is in the accumulating dtype, log decays in a wider one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]
"""Chunks of x (b, c, k, h, p), weight and a (b, c, k, h), B and C (b, c, k, g, n)."""
Carry = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From log totals (b, c, h), what chunks add (b, c, h, p, n) and a state (b, h, p, n): the states
before each chunk and after the last."""


def cast(parts: Sequence[Any], acc: torch.dtype) -> Parts:
    """x, weight, a, B and C with all but a, which keeps its own wider type, in ``acc``."""
    x, weight, a, B, C = parts
    return x.to(acc), None if weight is None else weight.to(acc), a, B.to(acc), C.to(acc)


def decays(a: Tensor, acc: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From log decays a (b, c, k, h): L (b, c, h, k, k); into, out (b, c, k, h); log total (b, c, h).

    L is 1 above the diagonal: what it is multiplied with is zero there.  ``into`` is the decay of
    the state before the chunk up to each step, ``out`` that of each step up to the chunk's end.
    """
    s = a.cumsum(2)
    rows = s.transpose(2, 3)
    L = (rows.unsqueeze(-1) - rows.unsqueeze(-2)).to(acc).tril().exp()
    return L, s.exp().to(acc), (s[:, :, -1:] - s).exp().to(acc), s[:, :, -1]


def forward(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    carry: Carry,
) -> tuple[Tensor, Tensor]:
    """y (b, c, k, h, p) and the final state, from ``state`` (b, h, p, n) and ``Parts``."""
    h, g = x.shape[3], B.shape[3]
    L, into, out, log_total = decays(a, x.dtype)
    B, C = B.transpose(2, 3), C.transpose(2, 3)  # (b, c, g, k, n)
    CB = (C @ B.mT).tril()
    M = (L.unflatten(2, (g, -1)) * CB.unsqueeze(3)).flatten(2, 3)
    if weight is not None:
        x = x * weight.unsqueeze(-1)
    within = M @ x.transpose(2, 3)  # (b, c, h, k, p)
    added = grouped(x * out.unsqueeze(-1), g).mT @ B
    before, final = carry(log_total, by_head(added, h), state)
    across = C @ by_group(before, g).mT  # (b, c, g, k, r p)
    y = torch.addcmul(within.transpose(2, 3), ungrouped(across, h), into.unsqueeze(-1))
    return y, final


def state_after(
    x: Tensor, weight: Tensor | None, a: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> Tensor:
    """The final state of ``forward``, without its output."""
    g = B.shape[3]
    s = a.expand(-1, x.shape[1], -1, -1).flatten(1, 2).cumsum(1)  # all chunks as one
    out = (s[:, -1:] - s).exp().to(x.dtype)
    if weight is not None:
        out = out * weight.flatten(1, 2)
    x_out = grouped((x.flatten(1, 2) * out.unsqueeze(-1)).unsqueeze(1), g)
    added = x_out.mT @ B.flatten(1, 2).transpose(1, 2).unsqueeze(1)
    total = s[:, -1].exp().to(x.dtype)[..., None, None]
    return torch.addcmul(by_head(added, x.shape[3]).squeeze(1), total, state)


def carry(
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


def backward(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    of_decays: bool,
) -> tuple[list[Tensor | None], Tensor]:
    """Gradients of x, weight, a, B, C and ``state``, from those of y and of the final state.

    That of a[t], None unless ``of_decays``, is the sum of E[i, j] = dL * L over j < t <= i.  Off
    the diagonal, that is a suffix sum of (row sums - column sums) of E.  It is float64, and the
    diagonal, which is on both sides, is left out: a gradient that decays have made tiny must not
    drown in rounding.
    """
    h, g = x.shape[3], B.shape[3]
    L, into, out, log_total = decays(a, x.dtype)
    B, C = B.transpose(2, 3), C.transpose(2, 3)  # (b, c, g, k, n)
    xw = x if weight is None else x * weight.unsqueeze(-1)
    x_out = grouped(xw * out.unsqueeze(-1), g)
    before, _ = carry(log_total, by_head(x_out.mT @ B, h), state)
    dy_into = grouped(dy * into.unsqueeze(-1), g)
    after, dstate = carry(log_total, by_head(dy_into.mT @ C, h), dstate, reverse=True)
    before_g, after_g = by_group(before, g), by_group(after, g)
    dC = dy_into @ before_g
    dB = x_out @ after_g
    dxw = ungrouped(B @ after_g.mT, h) * out.unsqueeze(-1)

    dy_h, xw_h = dy.transpose(2, 3), xw.transpose(2, 3)
    CB = (C @ B.mT).tril()
    dM_L = ((dy_h @ xw_h.mT) * L).unflatten(2, (g, -1))  # (b, c, g, r, k, k)
    dCB = dM_L.sum(3).tril()
    dC = dC + dCB @ B
    dB = dB + dCB.mT @ C
    da = None
    if of_decays:
        E = (dM_L * CB.tril(-1).unsqueeze(3)).flatten(2, 3).to(a.dtype)
        across = ungrouped(dy_into * (C @ before_g.mT), h).sum(-1)
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


def grouped(t: Tensor, g: int) -> Tensor:
    """(b, c, k, h, p) -> (b, c, g, k, r p): the heads of a group side by side."""
    return t.unflatten(3, (g, -1)).flatten(4).transpose(2, 3)


def ungrouped(t: Tensor, h: int) -> Tensor:
    """(b, c, g, k, r p) -> (b, c, k, h, p), back again."""
    g = t.shape[2]
    return t.transpose(2, 3).unflatten(4, (h // g, -1)).flatten(3, 4)


def by_head(t: Tensor, h: int) -> Tensor:
    """(b, c, g, r p, n) -> (b, c, h, p, n)."""
    return t.unflatten(3, (h // t.shape[2], -1)).flatten(2, 3)


def by_group(t: Tensor, g: int) -> Tensor:
    """(b, c, h, p, n) -> (b, c, g, r p, n)."""
    return t.unflatten(2, (g, -1)).flatten(3, 4)
