from __future__ import annotations

import itertools
import math

import pytest
import torch

from core import grid
from core.errors import UsageError

# Padded grid, window; every rank, anisotropic.
CUTS = [((6,), (3,)), ((4, 6), (2, 3)), ((4, 2, 6), (2, 1, 3)), ((2, 2, 2), (2, 2, 2))]


@pytest.mark.parametrize(("S", "w"), CUTS)
def test_windows_hold_their_own_positions(S: tuple[int, ...], w: tuple[int, ...]) -> None:
    x = torch.randn(2, *S, 5)
    cut = grid.windows(x, w)
    n = [s // v for s, v in zip(S, w, strict=True)]
    assert cut.shape == (2, math.prod(n), math.prod(w), 5)
    for i, window in enumerate(itertools.product(*map(range, n))):
        for j, token in enumerate(itertools.product(*map(range, w))):
            at = tuple(a * v + b for a, v, b in zip(window, w, token, strict=True))
            assert torch.equal(cut[:, i, j], x[(slice(None), *at)])
    assert torch.equal(grid.unwindows(cut, w, S), x)


@pytest.mark.parametrize(
    ("w", "table"), [((3,), (3,)), ((2, 3), (2, 3)), ((2, 3), (4, 3)), ((2, 1, 2), (3, 3, 2))]
)
def test_relative_index_is_the_row_of_the_offset(
    w: tuple[int, ...], table: tuple[int, ...]
) -> None:
    index = grid.relative_index(w, table)
    tokens = [*itertools.product(*map(range, w))]
    offsets = [*itertools.product(*(range(-t + 1, t) for t in table))]  # rows in raster order
    for i, query in enumerate(tokens):
        for j, key in enumerate(tokens):
            offset = tuple(a - b for a, b in zip(query, key, strict=True))
            assert offsets[index[i, j]] == offset


@pytest.mark.parametrize(
    ("size", "w", "shift"), [(7, 3, 0), (7, 3, 1), (9, 3, 1), (5, 5, 0), (13, 4, 2), (4, 4, 2)]
)
@pytest.mark.parametrize("hide", [True, False])
def test_regions_of_an_axis(size: int, w: int, shift: int, hide: bool) -> None:
    padded = grid.ceil_div(size, w) * w
    regions = grid.axis_regions(size, padded, shift, hide, torch.device("cpu"))
    rolled = [(i + shift) % padded for i in range(padded)]  # the original position of each
    for i, j in itertools.product(range(padded), repeat=2):
        if i // w != j // w:
            continue
        a, b = rolled[i], rolled[j]
        wanted = (a < shift) == (b < shift)
        if hide and max(a, b) >= size:
            wanted = min(a, b) >= size  # padding sees padding only
        assert (regions[i] == regions[j]).item() == wanted, (i, j)
    as_tensors = grid.axis_regions(
        size, padded, torch.tensor(shift), torch.tensor(hide), torch.device("cpu")
    )
    assert torch.equal(regions, as_tensors)
    by_class = grid.window_classes(size, padded, w, shift, hide)
    assert [n for a, b, _ in by_class for n in range(a, b)] == [*range(padded // w)]
    for a, b, own in by_class:
        for n in range(a, b):
            here = regions[n * w : (n + 1) * w]
            same = here[:, None] == here[None]
            mine = torch.tensor(own)
            assert torch.equal(same, mine[:, None] == mine[None])


def test_region_mask_hides_where_any_axis_differs() -> None:
    regions = [torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2])]
    mask = grid.region_mask(regions, (2, 2))
    zero, no = 0.0, grid.MASKED
    first = [[zero, no, zero, no], [no, zero, no, zero]] * 2
    second = [[zero if i == j else no for j in range(4)] for i in range(4)]
    assert torch.equal(mask, torch.tensor([first, second]))


@pytest.mark.parametrize("S", [(3,), (3, 4), (3, 4, 2)])
def test_padding_and_cropping_are_inverse(S: tuple[int, ...]) -> None:
    x = torch.randn(2, *S, 3)
    to = [s + i for i, s in enumerate(S)]
    padded = grid.pad_to(x, to)
    assert padded.shape == (2, *to, 3)
    assert torch.equal(grid.crop_to(padded, S), x)
    assert padded.sum().item() == pytest.approx(x.sum().item(), abs=1e-5)
    assert grid.pad_to(x, list(S)) is x
    assert grid.crop_to(x, list(S)) is x
    assert torch.equal(grid.pad_after(x, [t - s for s, t in zip(S, to, strict=True)]), padded)


def test_join_puts_pieces_where_their_keys_say() -> None:
    x = torch.randn(2, 5, 4, 3, 2)
    spans = [(slice(0, 2), slice(2, 5)), (slice(0, 4),), (slice(0, 1), slice(1, 3))]
    pieces = {
        key: x[(slice(None), *(spans[a][j] for a, j in enumerate(key)))]
        for key in itertools.product(*(range(len(s)) for s in spans))
    }
    assert torch.equal(grid.join(pieces, 3), x)


def test_sizes_are_checked() -> None:
    assert grid.per_axis(7, 2) == (7, 7)
    assert grid.per_axis([1, 2, 3], 3) == (1, 2, 3)
    assert [grid.ceil_div(s, 4) for s in (1, 4, 5, 8)] == [1, 1, 2, 2]
    assert grid.grid_of(torch.zeros(1, 2, 3, 4), 2) == [2, 3]
    for wrong in [(1, 2), 0, (3, -1, 2)]:
        with pytest.raises(UsageError, match="want one positive int, or one per axis of rank 3"):
            grid.per_axis(wrong, 3)
    with pytest.raises(UsageError, match="flatten too early"):
        grid.grid_of(torch.zeros(2, 96), 2)
    with pytest.raises(UsageError, match="1, 2 or 3"):
        grid.check_rank(4)
