from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.scan_paths import ScanPath

GRIDS = [(1,), (2,), (7,), (1, 1), (2, 3), (5, 4), (1, 6), (1, 1, 1), (2, 3, 4), (3, 1, 5)]
PATHS = ["raster", "bidirectional", "cross", "slices", "atrous"]


def numbered(*S: int) -> Tensor:
    """(1, *S, 1) holding 0, 1, 2, ... in raster order."""
    return torch.arange(float(math.prod(S))).view(1, *S, 1)


def orders(path: ScanPath, *S: int) -> list[list[int]]:
    return [s.flatten().int().tolist() for s in path.sequences(numbered(*S))]


@pytest.mark.parametrize("S", GRIDS)
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("skip", [1, 2, 3])
def test_merge_is_the_inverse_of_sequences(name: str, S: tuple[int, ...], skip: int) -> None:
    path = ScanPath(name, len(S), skip)
    x = torch.randn(2, *S, 3)
    sequences = path.sequences(x)
    assert len(sequences) == path.directions
    held = torch.zeros_like(x)
    for k, sequence in enumerate(sequences):
        # This direction alone: each of its positions comes back to where it was.
        alone = [s if i == k else torch.zeros_like(s) for i, s in enumerate(sequences)]
        back = path.merge(alone, S)
        assert back.shape == x.shape
        assert torch.equal(back, torch.where(back != 0, x, back))
        assert (back != 0).sum() == sequence.numel()
        held += back != 0
    assert (held == path.visits).all()
    total = path.merge(sequences, S)
    torch.testing.assert_close(total, path.visits * x)


@pytest.mark.parametrize("S", GRIDS)
@pytest.mark.parametrize("name", PATHS)
def test_every_direction_is_what_its_table_says(name: str, S: tuple[int, ...]) -> None:
    R = len(S)
    positions = [*itertools.product(*map(range, S))]
    rank_of = {p: i for i, p in enumerate(positions)}

    def sweep(kept: list[tuple[int, ...]], fastest: int) -> list[int]:
        # Sorted by the other axes in their order, then by the fastest one.
        def key(p: tuple[int, ...]) -> tuple[int, ...]:
            return (*(v for a, v in enumerate(p) if a != fastest), p[fastest])

        return [rank_of[p] for p in sorted(kept, key=key)]

    if name == "atrous":
        wanted = []
        for k in range(2**R):
            offset = [k >> a & 1 for a in range(R)]
            kept = [p for p in positions if [v % 2 for v in p] == offset]
            wanted.append(sweep(kept, (R - 1 - k) % R))
    else:
        axes = range(R - 1, -1, -1) if name == "cross" else [R - 1]
        wanted = [sweep(positions, a) for a in axes]
        if name != "raster":
            wanted += [order[::-1] for order in wanted]
        if name == "slices":
            wanted.append(sweep(positions, 0))
    assert orders(ScanPath(name, R), *S) == wanted


def test_cross_is_vmambas_four_at_rank_2() -> None:
    assert orders(ScanPath("cross", 2), 2, 3) == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


def test_atrous_is_efficientvmambas_four_at_rank_2() -> None:
    # Rows 0 1 2 3 / 4 5 6 7 / 8 9 10 11 / 12 13 14 15.
    assert orders(ScanPath("atrous", 2), 4, 4) == [
        [0, 2, 8, 10],  # offset (0, 0) by rows
        [4, 12, 6, 14],  # offset (1, 0) by columns
        [1, 3, 9, 11],  # offset (0, 1) by rows
        [5, 13, 7, 15],  # offset (1, 1) by columns
    ]
    # An odd grid: the sub-grids differ in length, and nothing is padded.
    assert orders(ScanPath("atrous", 2), 3, 3) == [[0, 2, 6, 8], [3, 5], [1, 7], [4]]
    assert orders(ScanPath("atrous", 2), 1, 2) == [[0], [], [1], []]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_export_with_dynamic_sizes(name: str, rank: int) -> None:
    class There(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            path = ScanPath(name, rank)
            return path.merge([s.cumsum(1) for s in path.sequences(x)], x.shape[1:-1])

    dynamic = {i: torch.export.Dim.DYNAMIC for i in range(rank + 1)}
    traced = torch.randn(2, *(6, 9, 7)[:rank], 3)
    program = torch.export.export(There(), (traced,), dynamic_shapes=(dynamic,)).module()
    for S in [(5, 4, 7), (8, 11, 4), (6, 6, 6)]:
        x = torch.randn(3, *S[:rank], 3)
        torch.testing.assert_close(program(x), There()(x))


def test_mistakes_are_explained() -> None:
    with pytest.raises(UsageError, match="Did you mean 'raster'"):
        ScanPath("rastr", 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="skip 0"):
        ScanPath("atrous", 2, 0)
    with pytest.raises(UsageError, match="1, 2 or 3"):
        ScanPath("cross", 4)
