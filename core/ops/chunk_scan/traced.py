"""The chunked scan for ``torch.export``: plain operations without a loop over the length.

All chunks at once, and the carry as two levels of decay matrices, over 64 chunks and over groups of
64 chunks (at a million steps: 244 x 244).  Batch and length may stay dynamic.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from core.grid import ceil_div
from core.ops.chunk_scan import chunks

GROUP = 64  # chunks of one decay matrix


def scan(
    x: Tensor,
    weight: Tensor | None,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """``op.scan``, written out."""
    length, h = x.shape[1:3]
    a = a.expand(1, length, h) if a.ndim == 1 else a
    spans = span_count(length, chunk)
    # Padded steps add nothing to the state (x = 0) and keep it (a = 0).
    parts = [None if t is None else padded(t, spans, chunk) for t in (x, weight, a, B, C)]
    over_groups = partial(carry, groups=span_count(length, chunk * GROUP))
    y, final = chunks.forward(*chunks.cast(parts, state.dtype), state, over_groups)
    return cropped(y, length), final


def carry(log_total: Tensor, added: Tensor, state: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """``chunks.carry`` without a loop: decay matrices over GROUP chunks, then over the groups."""
    count = added.shape[1]
    log_total = log_total.expand(added.shape[0], -1, -1)
    log_total = padded(log_total, groups, GROUP)  # (b, groups, GROUP, h)
    added = padded(added, groups, GROUP)
    nothing = torch.zeros_like(added[:, :, 0])
    before, after = carry_matrix(log_total, added, nothing)
    entry, final = carry_matrix(log_total.sum(2), after, state)
    since = (log_total.cumsum(2) - log_total).exp().to(added.dtype)  # group's start to chunk's
    before = torch.addcmul(before, since[..., None, None], entry.unsqueeze(2))
    return cropped(before, count), final


def carry_matrix(log_total: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The carry over axis -4 of added (..., c, h, p, n), by one c x c decay matrix a head."""
    s = F.pad(log_total.cumsum(-2), (0, 0, 1, 0)).mT  # (..., h, c + 1); 0 is the start
    # Row i is the state before chunk i, column j what chunk j - 1 added (column 0: the state).
    W = (s.unsqueeze(-1) - s.unsqueeze(-2)).to(added.dtype).tril().exp().tril()
    terms = torch.cat([state.unsqueeze(-4), added], -4).movedim(-4, -3)  # (..., h, c + 1, p, n)
    states = (W @ terms.flatten(-2)).unflatten(-1, terms.shape[-2:]).movedim(-3, -4)
    return states[..., :-1, :, :, :], states[..., -1, :, :, :]


def known(length: int) -> bool:
    """Whether a length is a plain number; Dynamo claims that of every one."""
    return isinstance(length, int) and not torch.compiler.is_dynamo_compiling()


def span_count(length: int, size: int) -> int:
    """How many spans of ``size`` hold ``length`` steps.

    One too many for a symbolic length: the exporter can prove that there are two or more, and would
    fix the length otherwise.  It cannot for a count of counts, so each comes from the length.
    """
    return ceil_div(length if known(length) else length + size, size)


def padded(t: Tensor, count: int, size: int) -> Tensor:
    """(b, l, ...) -> (b, count, size, ...) with zeros at the end.

    ``unfold``: of a view the exporter fails to prove that ``count`` divides the length.
    """
    t = F.pad(t, [0, 0] * (t.ndim - 2) + [0, count * size - t.shape[1]])
    return t.unfold(1, size, size).movedim(-1, 2)


def cropped(t: Tensor, length: int) -> Tensor:
    """(b, c, k, ...) -> (b, l, ...)."""
    if known(length):
        return t.flatten(1, 2)[:, :length]
    steps = torch.arange(length, device=t.device)
    return t[:, steps // t.shape[2], steps % t.shape[2]]
