"""Window attention against full attention with a mask made from window numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core import grid
from core.mixers.base import BlockContext
from core.mixers.window import WindowAttention, WindowConfig, attend_by_class

GRIDS = {
    1: [((7,), 3), ((12,), 3), ((3,), 3), ((2,), 5), ((13,), 4)],
    2: [((7, 5), 3), ((6, 9), 3), ((3, 8), 3), ((2, 7), 4), ((11, 1), (4, 3))],
    3: [((5, 4, 7), 3), ((6, 3, 3), 3), ((2, 7, 5), (2, 3, 4)), ((4, 4, 4), 2)],
}
CASES = [
    pytest.param(S, w, index, policy, id=f"{S}-{w}-{'shift' if index else 'plain'}-{policy}")
    for rank, grids in GRIDS.items()
    for S, w in grids
    for index in (0, 1)
    for policy in ("masked", "swin")
]


def make(rank: int, window: Any, index: int = 0, policy: Any = "masked") -> WindowAttention:
    torch.manual_seed(0)
    mixer = WindowAttention(
        WindowConfig(heads=2, window=window, policy=policy),
        BlockContext(dim=4, rank=rank, index=index),
    )
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
    return mixer.eval()


def oracle(mixer: WindowAttention, x: Tensor) -> Tensor:
    """One attention over the whole grid, pair by pair.

    A shift by t moves the windows' borders to t + k w, so the window of position c is
    floor((c - t) / w): no rolling, no wrapping.  Under ``swin`` padding is part of the grid.
    """
    B, *S, C = x.shape
    rank, full = len(S), mixer.window
    w = [min(s, v) for s, v in zip(S, full, strict=True)]
    moved = [mixer.shifted and s > v for s, v in zip(S, full, strict=True)]
    if mixer.policy == "swin":
        moved = [all(moved)] * rank
        padded = [math.ceil(s / v) * v for s, v in zip(S, w, strict=True)]
        x = F.pad(x, [0, 0] + [q for s, p in zip(S[::-1], padded[::-1]) for q in (0, p - s)])
    else:
        padded = S
    t = [v // 2 if m else 0 for v, m in zip(full, moved, strict=True)]
    places = [*itertools.product(*map(range, padded))]
    number = [tuple((c - s) // v for c, s, v in zip(place, t, w, strict=True)) for place in places]
    tokens = x.reshape(B, len(places), C)
    q, k, v = (u.unflatten(-1, (2, C // 2)) for u in mixer.qkv(tokens).chunk(3, -1))
    scores = torch.einsum("bihc,bjhc->bhij", q, k) * (C // 2) ** -0.5
    bias = torch.full((2, len(places), len(places)), -torch.inf)
    offsets = {o: i for i, o in enumerate(itertools.product(*(range(-f + 1, f) for f in full)))}
    for i, j in itertools.product(range(len(places)), repeat=2):
        if number[i] == number[j]:
            offset = tuple(a - b for a, b in zip(places[i], places[j], strict=True))
            bias[:, i, j] = mixer.bias_table[offsets[offset]]
    out = torch.einsum("bhij,bjhc->bihc", (scores + bias).softmax(-1), v).flatten(-2)
    out = mixer.proj(out).reshape(B, *padded, C)
    return out[(slice(None), *(slice(0, s) for s in S))]


@pytest.mark.parametrize(("S", "w", "index", "policy"), CASES)
@torch.no_grad()
def test_equals_full_attention_with_a_mask(
    S: tuple[int, ...], w: Any, index: int, policy: str
) -> None:
    mixer = make(len(S), w, index, policy)
    x = torch.randn(2, *S, 4)
    wanted = oracle(mixer, x)
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-5, atol=1e-5)
    # What an exported program of dynamic size computes.
    torch.testing.assert_close(mixer.forward_symbolic(x, S), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "S"), [(1, (8,)), (2, (7, 5)), (3, (5, 4, 7))])
@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_padding_has_no_influence(
    rank: int, S: tuple[int, ...], index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, *S, 4)
    mixers = {policy: make(rank, 3, index, policy) for policy in ("masked", "swin")}
    before = {policy: mixer(x) for policy, mixer in mixers.items()}
    pad_to = grid.pad_to

    def pad_with_noise(x: Tensor, sizes: Any) -> Tensor:
        inside = pad_to(torch.ones_like(x), sizes)
        return pad_to(x, sizes) + (1 - inside) * 100 * torch.randn_like(inside)

    monkeypatch.setattr(grid, "pad_to", pad_with_noise)
    torch.testing.assert_close(mixers["masked"](x), before["masked"], rtol=1e-6, atol=1e-6)
    assert (mixers["swin"](x) - before["swin"]).abs().max() > 0.1  # the noise did get in


@pytest.mark.parametrize("S", [(6, 6, 6), (7, 5, 4), (13, 3, 8)])
@pytest.mark.parametrize("hide", [True, False])
@torch.no_grad()
def test_windows_grouped_by_class_equal_a_mask_each(S: tuple[int, ...], hide: bool) -> None:
    w, shift = (3, 3, 3), [1 if s > 3 else 0 for s in S]
    padded = [grid.ceil_div(s, 3) * 3 for s in S]
    n = math.prod(p // 3 for p in padded)
    q, k, v = (torch.randn(2, n, 2, 27, 2) for _ in range(3))
    bias = torch.randn(2, 27, 27)
    sizes = [*zip(S, padded, shift, strict=True)]
    regions = [grid.axis_regions(s, p, t, hide, q.device) for s, p, t in sizes]
    scores = q @ k.transpose(-1, -2) * 2**-0.5 + bias + grid.region_mask(regions, w)[:, None]
    classes = [grid.window_classes(s, p, 3, t, hide) for s, p, t in sizes]
    wanted = scores.softmax(-1) @ v
    got = attend_by_class(q, k, v, bias, classes)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_shift_alternates_and_can_be_switched_off() -> None:
    assert [make(2, 3, index).shifted for index in range(4)] == [False, True, False, True]
    config = WindowConfig(heads=2, window=3, shift=False)
    assert not WindowAttention(config, BlockContext(dim=4, rank=2, index=1)).shifted


def test_a_window_sees_itself_only() -> None:
    mixer = make(2, 3, 1)
    x = torch.randn(1, 9, 9, 4, requires_grad=True)
    mixer(x)[0, 4, 4].sum().backward()  # shifted by 1: its window is 4..6 by 4..6
    assert x.grad is not None
    seen = (x.grad[0] != 0).any(-1)
    wanted = torch.zeros(9, 9, dtype=torch.bool)
    wanted[4:7, 4:7] = True
    assert torch.equal(seen, wanted)
