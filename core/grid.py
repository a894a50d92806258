"""Grids: the only place that knows the axis order of ``(B, *S, C)``, with ``core/scan_paths.py``.

Letters: B batch, S grid sizes, R = len(S) rank (1 to 3), C channels, w window sizes,
n = number of windows, L = prod(w) tokens of a window.

Every function also works on the symbolic sizes of ``torch.export``.  So that the exporter has
nothing to solve, batch is carried explicitly, never as -1; padding brings a grid *to* n * w, written
as such, instead of *by* (-S) % w; and no size decides a branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UsageError

MASKED = -1e9
"""Added to a logit that must not be attended.  Finite, so that a row masked whole is no NaN."""

PerAxis = int | Sequence[int]


def check_rank(rank: int) -> int:
    """Return ``rank`` if it is 1, 2 or 3; raise UsageError otherwise."""
    if rank not in (1, 2, 3):
        raise UsageError(f"rank {rank}: a grid has 1, 2 or 3 axes; give rank=1, 2 or 3.")
    return rank


def per_axis(value: PerAxis, rank: int, what: str = "size") -> tuple[int, ...]:
    """``7`` or ``(7, 7, 7)`` as a tuple of ``rank`` positive ints.  Raises UsageError otherwise."""
    sizes = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(sizes) != rank or any(s < 1 for s in sizes):
        raise UsageError(
            f"{what} {value!r}: want one positive int, or one per axis of rank {rank}."
        )
    return sizes


def grid_of(x: Tensor, rank: int) -> list[int]:
    """Grid sizes of ``(B, *S, C)``.  Raises UsageError when the rank is another."""
    if x.ndim != rank + 2:
        raise UsageError(
            f"expected (B, *S, C) with a grid of rank {rank}, got a tensor of shape "
            f"{tuple(x.shape)}; did you flatten too early, or forget the batch axis?"
        )
    return list(x.shape[1:-1])


def is_static(*sizes: Sequence[int]) -> bool:
    """Whether all sizes are plain ints: nothing is symbolic, so one may branch on them."""
    return all(isinstance(s, int) for group in sizes for s in group)


def pad_after(x: Tensor, amounts: Sequence[int]) -> Tensor:
    """Zero-pad the end of every grid axis of ``(B, *S, C)`` by ``amounts``."""
    return F.pad(x, [0, 0] + [q for p in reversed(amounts) for q in (0, p)])


def pad_to(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Zero-pad the end of every grid axis of ``(B, *S, C)`` to ``sizes``, none smaller than S."""
    have = x.shape[1:-1]
    if is_static(have, sizes) and list(have) == list(sizes):
        return x
    return pad_after(x, [n - s for n, s in zip(sizes, have, strict=True)])


def crop_to(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The leading ``sizes`` of every grid axis of ``(B, *S, C)``."""
    have = x.shape[1:-1]
    if is_static(have, sizes) and list(have) == list(sizes):
        return x
    return x[(slice(None), *(slice(0, s) for s in sizes))]


def take_to(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """:func:`crop_to` by a copy where a size is symbolic.

    A cut is a view, whose strides become guards of an export, such as one that an even size stays
    even.
    """
    if is_static(x.shape[1:-1], sizes):
        return crop_to(x, sizes)
    for axis, size in enumerate(sizes, 1):
        x = x.index_select(axis, torch.arange(size, device=x.device))
    return x


def ceil_div(size: int, by: int) -> int:
    """ceil(size / by), of a symbolic size too."""
    return (size + by - 1) // by


def axes(rank: int) -> list[int]:
    """Positions of the grid axes in ``(B, *S, C)``."""
    return list(range(1, rank + 1))


def windows(x: Tensor, w: Sequence[int]) -> Tensor:
    """(B, *S, C) -> (B, n, L, C); every S must be a multiple of its w."""
    B, *S, C = x.shape
    R = len(S)
    n = [s // v for s, v in zip(S, w, strict=True)]
    x = x.reshape(B, *(v for pair in zip(n, w, strict=True) for v in pair), C)
    x = x.permute(0, *range(1, 2 * R, 2), *range(2, 2 * R + 1, 2), 2 * R + 1)
    return x.reshape(B, math.prod(n), math.prod(w), C)


def unwindows(x: Tensor, w: Sequence[int], S: Sequence[int]) -> Tensor:
    """(B, n, L, C) -> (B, *S, C): the inverse of :func:`windows`."""
    B, C, R = x.shape[0], x.shape[-1], len(S)
    x = x.reshape(B, *(s // v for s, v in zip(S, w, strict=True)), *w, C)
    x = x.permute(0, *(i for r in range(R) for i in (1 + r, 1 + R + r)), 2 * R + 1)
    return x.reshape(B, *S, C)


def coordinates(w: Sequence[int]) -> Tensor:
    """Integer coordinates of the tokens of a window in raster order: (R, L)."""
    ranges = [torch.arange(v) for v in w]
    return torch.stack(torch.meshgrid(*ranges, indexing="ij")).flatten(1)


def relative_index(w: Sequence[int], table: Sequence[int]) -> Tensor:
    """Row of a relative-position table for every (query, key) of a window: (L, L), int64.

    ``table`` is the window the table was built for; it has ``prod(2 * table - 1)`` rows in raster
    order of the offset query - key.  ``w`` may be smaller on any axis: the offsets stay the same.
    """
    c = coordinates(w)
    index = torch.zeros(c.shape[1], c.shape[1], dtype=torch.long)
    for r, t in enumerate(table):
        index = index * (2 * t - 1) + (c[r][:, None] - c[r][None, :] + t - 1)
    return index


def axis_regions(
    size: int, padded: int, shift: int | Tensor, hide_padding: bool | Tensor, device: torch.device
) -> Tensor:
    """Region of every position on an axis of a padded grid that was rolled by -shift: (padded,).

    Two tokens of a window may attend to each other only where their regions agree on every axis.
    Rolling wraps the first ``shift`` positions into the last window, next to strangers; padding
    is a region of its own when ``hide_padding``.  ``shift`` and ``hide_padding`` may be 0-d
    tensors, where they depend on a symbolic size.
    """
    i = torch.arange(padded, device=device)
    wrapped = (i >= padded - shift).int()
    hidden = ((i + shift) % padded >= size) & hide_padding
    return wrapped.masked_fill(hidden, 2)


def window_classes(
    size: int, padded: int, w: int, shift: int, hide_padding: bool
) -> list[tuple[int, int, list[int]]]:
    """Runs [a, b) of consecutive windows of one axis with equal regions, and those regions."""
    classes: list[tuple[int, int, list[int]]] = []
    for n in range(padded // w):
        regions = []
        for i in range(n * w, (n + 1) * w):
            hidden = hide_padding and (i + shift) % padded >= size
            regions.append(2 if hidden else int(i >= padded - shift))
        if len(set(regions)) == 1:
            regions = [0] * w  # all agree: which region it is does not matter
        if classes and classes[-1][2] == regions:
            classes[-1] = (classes[-1][0], n + 1, regions)
        else:
            classes.append((n, n + 1, regions))
    return classes


def region_mask(regions: Sequence[Tensor], w: Sequence[int]) -> Tensor:
    """Additive mask (n, L, L) of a grid cut into windows: 0 where attended, MASKED elsewhere."""
    R = len(regions)
    labels = torch.zeros((), dtype=torch.int32, device=regions[0].device)
    for r, region in enumerate(regions):
        labels = labels * 3 + region.view([-1 if a == r else 1 for a in range(R)])
    cut = windows(labels[None, ..., None], w)[0, :, :, 0]  # (n, L)
    return (cut[:, :, None] != cut[:, None, :]).float() * MASKED


def join(pieces: dict[tuple[int, ...], Tensor], rank: int) -> Tensor:
    """Put together blocks of (B, *S, ...), keyed by their place along each grid axis."""
    for axis in reversed(range(rank)):
        rows: dict[tuple[int, ...], list[Tensor]] = {}
        for key in sorted(pieces):
            rows.setdefault(key[:-1], []).append(pieces[key])
        pieces = {
            key: torch.cat(row, axis + 1) if len(row) > 1 else row[0] for key, row in rows.items()
        }
    return pieces[()]
