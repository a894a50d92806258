"""Cross-shaped windows: a case by hand, and every stripe against brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from core.mixers.base import BlockContext
from core.mixers.cross_window import CrossWindowAttention, CrossWindowConfig, share_heads

GRIDS = [
    ((5,), 2), ((1,), 2), ((4, 6), 2), ((5, 7), 2), ((5, 7), 3), ((2, 9), 4), ((3, 5), None),
    ((4, 4, 2), 2), ((3, 5, 4), 2), ((2, 3, 2), None),
]  # fmt: skip


def make(
    rank: int, heads: int, stripe: int | None, index: int = 0, channels: int = 2
) -> CrossWindowAttention:
    torch.manual_seed(0)
    mixer = CrossWindowAttention(
        CrossWindowConfig(heads=heads, stripe=stripe),
        BlockContext(dim=heads * channels, rank=rank, index=index),
    )
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
    return mixer.eval()


def transparent(mixer: CrossWindowAttention) -> None:
    """Queries, keys and values are the input; the output is not projected."""
    with torch.no_grad():
        dim = mixer.proj.in_features
        mixer.qkv.weight.copy_(torch.eye(dim).repeat(3, 1))
        mixer.qkv.bias.zero_()
        mixer.proj.weight.copy_(torch.eye(dim))
        mixer.proj.bias.zero_()


def oracle(mixer: CrossWindowAttention, x: Tensor) -> Tensor:
    """Position by position: attention and LePE over those of the same stripe."""
    B, *S, C = x.shape
    places = [*itertools.product(*map(range, S))]
    q, k, v = mixer.qkv(x.reshape(B, len(places), C)).chunk(3, -1)
    c = C // sum(h for h, _ in mixer.groups)
    out = torch.zeros(B, len(places), C)
    first = 0
    for (heads, axis), lepe in zip(mixer.groups, mixer.lepe, strict=True):

        def stripe(place: Sequence[int], axis: int = axis) -> tuple[int, ...]:
            return tuple(
                0 if mixer.stripe is None or a == axis else p // mixer.stripe
                for a, p in enumerate(place)
            )

        for i, here in enumerate(places):
            same = [j for j, there in enumerate(places) if stripe(there) == stripe(here)]
            for h in range(heads):
                cut = slice(first + h * c, first + (h + 1) * c)
                scores = torch.einsum("bc,bjc->bj", q[:, i, cut], k[:, same, cut]) * c**-0.5
                out[:, i, cut] = torch.einsum("bj,bjc->bc", scores.softmax(-1), v[:, same, cut])
            group = slice(first, first + heads * c)
            local = lepe.conv.bias.expand(B, -1).clone()
            for tap in itertools.product(range(3), repeat=len(S)):
                there = tuple(p + t - 1 for p, t in zip(here, tap, strict=True))
                if there in places and stripe(there) == stripe(here):
                    value = v[:, places.index(there), group]
                    local += lepe.conv.weight[(slice(None), 0, *tap)] * value
            out[:, i, group] += local
        first += heads * c
    return mixer.proj(out).reshape(B, *S, C)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("S", "stripe"), GRIDS, ids=str)
@torch.no_grad()
def test_equals_brute_force(S: tuple[int, ...], stripe: int | None, index: int) -> None:
    mixer = make(len(S), 4, stripe, index)
    x = torch.randn(2, *S, 8)
    wanted = oracle(mixer, x)
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-5, atol=1e-5)
    # What an exported program of dynamic size computes.
    monkey = pytest.MonkeyPatch()
    monkey.setattr("core.grid.is_static", lambda *_: False)
    padded = mixer(x)
    monkey.undo()
    torch.testing.assert_close(padded, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_by_hand() -> None:
    """Two heads of one channel on a 2 x 2 grid, stripes 1 wide: one column, one row.

    The first head sees its column, the second its row; LePE sees what the stripe leaves of its
    3 x 3 kernel: the middle column for the first, the middle row for the second.
    """
    mixer = make(2, 2, 1, channels=1)
    transparent(mixer)
    kernel = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]
    for lepe, bias in zip(mixer.lepe, (0.0, 10.0), strict=True):
        lepe.conv.weight.copy_(torch.tensor(kernel))
        lepe.conv.bias.fill_(bias)
    a = [[0.0, 1.0], [2.0, -1.0]]  # the first head's values
    b = [[1.0, 3.0], [0.5, 2.0]]  # the second's

    def attention(query: float, values: list[float]) -> float:
        weights = [math.exp(query * value) for value in values]
        return sum(w * u for w, u in zip(weights, values, strict=True)) / sum(weights)

    first = [
        [attention(a[0][c], [a[0][c], a[1][c]]) + 0.5 * a[0][c] + 0.8 * a[1][c] for c in (0, 1)],
        [attention(a[1][c], [a[0][c], a[1][c]]) + 0.2 * a[0][c] + 0.5 * a[1][c] for c in (0, 1)],
    ]
    second = [
        [
            attention(b[r][0], b[r]) + 0.5 * b[r][0] + 0.6 * b[r][1] + 10,
            attention(b[r][1], b[r]) + 0.4 * b[r][0] + 0.5 * b[r][1] + 10,
        ]
        for r in (0, 1)
    ]
    # One entry in full: query 2 of the column (0, 2) weighs exp(0) : exp(4).
    assert first[1][0] == pytest.approx(2 * math.exp(4) / (1 + math.exp(4)) + 0 + 1)
    x = torch.tensor([a, b]).permute(1, 2, 0)[None]
    wanted = torch.tensor([first, second]).permute(1, 2, 0)[None]
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("S", "at"), [((6, 7), (3, 2)), ((6, 7), (5, 6)), ((4, 5, 6), (1, 2, 5))])
def test_a_group_cannot_see_outside_its_stripe(S: tuple[int, ...], at: tuple[int, ...]) -> None:
    stripe, rank = 2, len(S)
    mixer = make(rank, rank, stripe)
    transparent(mixer)
    for g in range(rank):
        x = torch.randn(1, *S, 2 * rank, requires_grad=True)
        mixer(x)[(0, *at)][2 * g : 2 * g + 2].sum().backward()
        assert x.grad is not None
        seen = (x.grad[0] != 0).any(-1)
        wanted = torch.ones(S, dtype=torch.bool)
        for axis in range(rank):
            if axis != g:
                same = torch.arange(S[axis]) // stripe == at[axis] // stripe
                wanted &= same.view([-1 if a == axis else 1 for a in range(rank)])
        assert torch.equal(seen, wanted)


def test_heads_are_shared_among_axes() -> None:
    for heads in (2, 4, 16):
        half = heads // 2
        assert share_heads(heads, 2, index=0) == [(half, 0), (half, 1)]
        assert share_heads(heads, 2, index=1) == [(half, 0), (half, 1)]
    for heads, index in itertools.product((3, 4, 6, 8, 24), (0, 1, 2)):
        groups = share_heads(heads, 3, index)
        assert sorted(axis for _, axis in groups) == [0, 1, 2]
        counts = [h for h, _ in groups]
        assert sum(counts) == heads
        assert max(counts) - min(counts) <= 1
    assert share_heads(5, 1, 3) == [(5, 0)]
    # Fewer heads than axes take turns: three blocks see every axis equally often.
    for heads in (1, 2):
        turns = [axis for index in range(3) for _, axis in share_heads(heads, 3, index)]
        assert sorted(turns) == sorted([0, 1, 2] * heads)


def test_the_last_stage_has_one_group_over_the_whole_grid() -> None:
    mixer = make(2, 4, None)
    assert isinstance(mixer.lepe, nn.ModuleList)
    assert len(mixer.lepe) == 1
    assert mixer.lepe[0].conv.weight.shape == (8, 1, 3, 3)
