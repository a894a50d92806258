"""Scan paths: a grid (B, *S, C) as sequences (B, L, C), and back.  A part of ``core/grid.py``.

Letters: B batch, S grid sizes, R = len(S) rank (1 to 3), C channels, K directions of a path,
L length of a sequence, p step of the skip sampling.

``raster``          K = 1   the last axis fastest, as memory lies
``bidirectional``   K = 2   raster, and raster reversed (Vim)
``cross``           K = 2R  raster with each axis fastest, the last axis first, then all reversed.
                            At rank 2 VMamba's four in its order: rows, columns, both reversed.
``slices``          K = 3   raster, raster reversed, and raster with the first axis fastest, from
                            slice to slice (SegMamba; at rank 1 the third repeats the first)
``atrous``          K = p^R every p-th position on every axis, one sub-grid for each offset, the
                            first axis' offset fastest; the sub-grids take turns in which axis runs
                            fastest.  At rank 2 and p = 2 the four of EfficientVMamba's ES2D in its
                            order: (0, 0) by rows, (1, 0) by columns, (0, 1) by rows, (1, 1) by
                            columns.  Every position is in one sequence; L is a p^R-th of the grid.

Papers: Zhu et al., "Vision Mamba", ICML 2024; Liu et al., "VMamba", NeurIPS 2024 (figure 3); Pei et
al., "EfficientVMamba", AAAI 2025 (equations 5 and 6); Xing et al., "SegMamba", MICCAI 2024.
Deviates from the authors' codes: any rank.  ES2D pads a grid that p does not divide, and a state
decays in the padding; here the sub-grids have their own lengths, 0 where an axis is that short.
With p > 2 its code visits only the first two offsets of an axis; here all.

Everything is a permutation of axes, a strided slice or a flip, no gather (but under ``torch.export``
with dynamic sizes, in ``atrous``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from core import grid
from core.errors import UsageError, unknown

Path = Literal["raster", "bidirectional", "cross", "slices", "atrous"]


@dataclass(frozen=True)
class ScanPath:
    """The sequences of a path over a grid of ``rank`` axes; ``skip`` is the step of ``atrous``."""

    name: Path
    rank: int
    skip: int = 2

    def __post_init__(self) -> None:
        if self.name not in get_args(Path):
            raise UsageError(unknown("scan path", self.name, get_args(Path)))
        grid.check_rank(self.rank)
        if self.skip < 1:
            raise UsageError(f"skip {self.skip}: the step of an atrous path is 1 or more.")

    @property
    def directions(self) -> int:
        """K, the number of sequences."""
        return self.skip**self.rank if self.name == "atrous" else len(self._passes())

    @property
    def visits(self) -> int:
        """How many of the sequences hold a position."""
        return 1 if self.name == "atrous" else self.directions

    def sequence(self, x: Tensor, k: int) -> Tensor:
        """Sequence ``k`` of the table above: (B, *S, C) -> (B, L, C)."""
        if self.name == "atrous":
            offset, axis = self._subgrids()[k]
            return _flatten(self._subgrid(x, offset), axis)
        axis, backward = self._passes()[k]
        ahead = _flatten(x, axis)
        return ahead.flip(1) if backward else ahead

    def sequences(self, x: Tensor) -> list[Tensor]:
        """All K of them."""
        return [self.sequence(x, k) for k in range(self.directions)]

    def merge(self, sequences: Sequence[Tensor], S: Sequence[int]) -> Tensor:
        """K sequences (B, L, C') -> (B, *S, C'): the sum at every position of what holds it."""
        if self.name == "atrous":
            return self._interleave(sequences, S)
        summed: dict[int, Tensor] = {}  # by the axis that runs fastest
        for sequence, (axis, backward) in zip(sequences, self._passes(), strict=True):
            ahead = sequence.flip(1) if backward else sequence
            summed[axis] = summed[axis] + ahead if axis in summed else ahead
        parts = [_unflatten(sequence, S, axis) for axis, sequence in summed.items()]
        return sum(parts[1:], parts[0])

    def _passes(self) -> list[tuple[int, bool]]:
        """Fastest axis of each sequence over the whole grid, and whether it is reversed."""
        last = self.rank - 1
        if self.name == "slices":
            return [(last, False), (last, True), (0, False)]
        axes = range(last, -1, -1) if self.name == "cross" else (last,)
        ways = (False,) if self.name == "raster" else (False, True)
        return [(axis, backward) for backward in ways for axis in axes]

    def _subgrids(self) -> list[tuple[tuple[int, ...], int]]:
        """Offsets and fastest axis of each sub-grid."""
        offsets = itertools.product(range(self.skip), repeat=self.rank)
        return [(o[::-1], (self.rank - 1 - k) % self.rank) for k, o in enumerate(offsets)]

    def _subgrid(self, x: Tensor, offset: Sequence[int]) -> Tensor:
        if grid.is_static(x.shape[1:-1]):
            return x[(slice(None), *(slice(o, None, self.skip) for o in offset))]
        # The same by index: a strided view makes the exporter guess at strides, and guard them.
        for axis, o in zip(grid.axes(self.rank), offset, strict=True):
            count = self._count(x.shape[axis], o)
            x = x.index_select(axis, torch.arange(count, device=x.device) * self.skip + o)
        return x

    def _count(self, size: int, offset: int) -> int:
        """How many of ``size`` positions are at ``offset``, ``offset + p``, ..."""
        return (size - offset + self.skip - 1) // self.skip

    def _interleave(self, sequences: Sequence[Tensor], S: Sequence[int]) -> Tensor:
        p, R = self.skip, self.rank
        cells = [grid.ceil_div(s, p) for s in S]
        parts = []
        for sequence, (offset, axis) in zip(sequences, self._subgrids(), strict=True):
            sizes = [self._count(s, o) for s, o in zip(S, offset, strict=True)]
            parts.append(grid.pad_to(_unflatten(sequence, sizes, axis), cells))
        x = torch.stack(parts, 1)  # (B, K, *cells, C)
        B, C = x.shape[0], x.shape[-1]
        x = x.reshape(B, *([p] * R), *cells, C)  # offsets of the last axis first
        x = x.permute(0, *(i for r in range(R) for i in (R + 1 + r, R - r)), 2 * R + 1)
        return grid.take_to(x.reshape(B, *(n * p for n in cells), C), S)


def _flatten(x: Tensor, axis: int) -> Tensor:
    """(B, *S, C) -> (B, prod(S), C) with grid axis ``axis`` fastest, the others in their order."""
    x = x.movedim(axis + 1, -2)
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def _unflatten(sequence: Tensor, S: Sequence[int], axis: int) -> Tensor:
    """The inverse of :func:`_flatten`."""
    sizes = [s for a, s in enumerate(S) if a != axis] + [S[axis]]
    x = sequence.reshape(sequence.shape[0], *sizes, sequence.shape[-1])
    return x.movedim(-2, axis + 1)
