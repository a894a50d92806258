"""What is hidden from an encoder: units of a coarse grid at random, or groups of connected ones.

Masks are boolean, True where hidden: (B, *U) on a grid of units, (B, *S) on the voxels.  They are
drawn on the CPU, from ``generator`` or from torch's global one, so that a seed means the same mask
on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core import grid
from core.errors import UsageError

_DRAWN_AT_ONCE = 64


def unit_grid(sizes: Sequence[int], unit: Sequence[int]) -> list[int]:
    """Units that cover an image: ceil(S / u) on each axis."""
    return [grid.ceil_div(s, u) for s, u in zip(sizes, unit, strict=True)]


def random_mask(
    batch: int, units: Sequence[int], ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """(B, *U) with exactly round(ratio * prod(U)) units hidden in each image (He et al. 2021).

    At least one unit is hidden and one is seen.  Raises UsageError where there is only one unit.
    """
    n = math.prod(units)
    if n < 2:
        raise UsageError(
            f"an image of {n} mask unit cannot be partly hidden; use larger patches or a smaller "
            "unit"
        )
    hidden = min(max(round(ratio * n), 1), n - 1)
    order = torch.rand(batch, n, generator=generator).argsort(1)
    return (order.argsort(1) < hidden).view(batch, *units)


def box_mask(
    units: Sequence[int], share: float, max_box: float, generator: torch.Generator | None = None
) -> Tensor:
    """(*U): boxes at random places until ``share`` of the units is hidden (Atito et al. 2022).

    A box's edges are drawn between one unit and ``max_box`` of the grid's; it is cut at the border.
    Never hides all: a ``share`` that asks for it leaves the last box out.
    """
    mask = torch.zeros(*units, dtype=torch.bool)
    total, hidden = mask.numel(), 0
    longest = torch.tensor([max(1, int(max_box * n)) for n in units])
    while total > 1:
        shape = (_DRAWN_AT_ONCE, len(units))
        edges = (torch.rand(shape, generator=generator) * longest).long() + 1
        starts = (torch.rand(shape, generator=generator) * torch.tensor([*units])).long()
        for start, edge in zip(starts.tolist(), edges.tolist(), strict=True):
            if hidden >= share * total:
                return mask
            box = mask[tuple(slice(s, s + e) for s, e in zip(start, edge, strict=True))]
            added = box.numel() - int(box.sum())
            if hidden + added == total:
                return mask
            box.fill_(True)
            hidden += added
    return mask


def box_masks(
    units: Sequence[int],
    shares: Sequence[float],
    max_box: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, *U): one :func:`box_mask` for each of ``shares``."""
    return torch.stack([box_mask(units, share, max_box, generator) for share in shares])


def enlarge(mask: Tensor, factor: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """(B, *U) -> (B, *S): each unit repeated ``factor`` times on each axis, cropped to ``sizes``."""
    for axis, times in enumerate(factor, 1):
        mask = mask.repeat_interleave(times, axis)
    return mask[(slice(None), *(slice(0, s) for s in sizes))]


def uniform(low: float, high: float, count: int, generator: torch.Generator | None) -> list[float]:
    """``count`` numbers from [low, high)."""
    drawn: list[float] = (low + (high - low) * torch.rand(count, generator=generator)).tolist()
    return drawn


def partners(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """(B,) index of another image of the batch for each; its own where it is the only one."""
    if batch == 1:
        return torch.zeros(1, dtype=torch.long)
    step = torch.randint(1, batch, (batch,), generator=generator)
    return (torch.arange(batch) + step) % batch


def noise_like(image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Normal noise with each image's own mean and spread in each channel, (B, C, *S).

    The authors' codes draw mean 0 and variance 1 (GMML) or 0 to 1 (MONAI), which suits images
    normalised so and gives away the corrupted voxels in any other.
    """
    noise = torch.randn(image.shape, generator=generator).to(image)
    axes = tuple(range(2, image.ndim))
    spread = image.std(axes, keepdim=True, unbiased=False)
    return image.mean(axes, keepdim=True) + spread * noise
