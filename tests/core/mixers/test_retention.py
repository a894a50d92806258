from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UsageError
from core.mixers import build_mixer, mixer_config
from core.mixers.base import BlockContext
from core.mixers.retention import angles, rotate


def make(rank: int = 1, dim: int = 8, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_mixer(mixer_config("retention", **options), BlockContext(dim=dim, rank=rank))


def by_hand(mixer: Any, x: Tensor, causal: bool) -> Tensor:
    """Equations 4 to 8 of RetNet with complex numbers for the rotation: (B, L, C) -> (B, L, C)."""
    h, rotary, slowest = mixer.heads, mixer.config.rotary, mixer.config.slowest
    assert slowest in (None, 1 / 512)
    q, k, v, *g = mixer.qkv(x).split(mixer.splits, -1)
    q, k, v = (t.unflatten(-1, (h, -1)).transpose(1, 2) for t in (q, k, v))  # (B, h, L, c)
    n = torch.arange(x.shape[1])
    if rotary:
        half = q.shape[-1] // 2
        theta = 1e4 ** -(torch.arange(half).double() / max(1, half - 1))
        turn = torch.exp(1j * n[:, None] * theta)
        q, k = (torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * turn for t in (q, k))
        scores = (q @ k.conj().transpose(-1, -2)).real
    else:
        scores = q @ k.transpose(-1, -2)
    if mixer.config.xpos is not None:  # xPos as published: q and k scaled by powers of positions
        z = ((2 * torch.arange(half).double() / q.shape[-1] / 2 + 0.4) / 1.4) ** (
            n[:, None].double() / 9
        )
        scores = ((q * z) @ (k / z).conj().transpose(-1, -2)).real
    scores = scores * mixer.key_dim**-0.5
    for head in range(h):
        keep = 1 - 2.0 ** (-5 - head) if slowest is None else 1 - 2.0 ** -(5 + 4 * head / (h - 1))
        decay = keep ** (n[:, None] - n).abs().double()
        scores[:, head] *= decay.tril() if causal else decay
    y = (scores @ v).transpose(1, 2)
    if mixer.config.norm:
        y = y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    y = y.flatten(2)
    return mixer.proj(y * F.silu(g[0]) if g else y)


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2},
        {"heads": 2, "causal": False, "expand": 2.0},
        {"heads": 2, "rotary": True},
        {"heads": 1, "rotary": True, "causal": False},
        {"heads": 2, "rotary": True, "xpos": 9.0},
        {"heads": 4, "gate": False, "norm": False, "slowest": 1 / 512, "bias": True},
    ],
)
@pytest.mark.parametrize("form", ["auto", "parallel", "recurrent", "chunkwise"])
@torch.no_grad()
def test_equals_the_formula_in_every_form(options: dict[str, Any], form: str) -> None:
    causal = options.get("causal", True)
    if form in ("recurrent", "chunkwise") and not causal:
        form = "parallel"
    mixer = make(**options, form=form).double()
    x = torch.randn(2, 131, 8, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x, causal), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", ["raster", "cross", "atrous"])
@torch.no_grad()
def test_forms_agree_on_grids(path: str) -> None:
    x = torch.randn(2, 9, 13, 8)
    one, *others = (
        make(rank=2, heads=2, path=path, form=form)(x)
        for form in ("parallel", "recurrent", "chunkwise")
    )
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rotation_depends_on_distance_alone() -> None:
    mixer = make(heads=2, rotary=True)
    q, k = torch.randn(2, 4, dtype=torch.float64)
    products = [
        rotate(q, angles(torch.tensor([a]), 4)) @ rotate(k, angles(torch.tensor([a - 3]), 4))
        for a in (3, 100, 1_000_003)
    ]
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(products[0], products[2], rtol=1e-6, atol=1e-6)
    # A late state goes on where it stopped: the position is part of it.
    x = torch.randn(1, 6, 8)
    state = mixer.initial_state(1)
    for t in range(5):
        _, state = mixer.step(x[:, t], state)
    assert state.position == 5
    y = mixer.step(x[:, 5], state)[0]
    torch.testing.assert_close(y, mixer(x)[:, 5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@torch.no_grad()
def test_xpos_in_stretches(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stretches begin changes nothing, in outputs and gradients' reach."""
    x = torch.randn(2, 131, 8, dtype=torch.float64)
    want = make(heads=2, rotary=True, xpos=9.0, form="parallel").double()(x)
    for stretch in (1, 7, 64, 131):
        monkeypatch.setattr("core.mixers.retention.STRETCH", stretch)
        mixer = make(heads=2, rotary=True, xpos=9.0, form=form).double()
        torch.testing.assert_close(mixer(x), want, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_xpos_is_safe_at_length() -> None:
    """6,000 positions in float32, where a published factor would reach 3.5^11.7 = 2e6."""
    x = torch.randn(1, 6000, 8)
    ys = [
        make(heads=2, rotary=True, xpos=512, form=form)(x)
        for form in ("parallel", "chunkwise", "recurrent")
    ]
    want = make(heads=2, rotary=True, xpos=512, form="chunkwise").double()(x.double()).float()
    for y in ys:
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    half = make(heads=2, rotary=True, xpos=512).bfloat16()(x.bfloat16()).float()
    assert half.isfinite().all()
    assert (half - want).abs().max() < 0.1 * want.abs().max()
    # As at 65,000 positions with xpos 512: a published factor of 3.5^128, which no float32 holds.
    mixer = make(heads=2, rotary=True, xpos=16, form="chunkwise")
    assert mixer(torch.randn(1, 2048, 8)).isfinite().all()


@torch.no_grad()
def test_half_precision_parameters_keep_the_decay() -> None:
    mixer = make(heads=8, dim=16).bfloat16()
    decay = mixer.decay(torch.zeros(1, dtype=torch.bfloat16))
    assert decay.dtype == torch.float32
    assert len(set(decay.tolist())) == 8
    assert (decay < 1).all()


@pytest.mark.parametrize(
    ("rank", "options", "message"),
    [
        (2, {"heads": 3}, "must divide"),
        (2, {"heads": 2, "causal": False, "path": "cross"}, "both ways twice"),
        (2, {"heads": 2, "causal": False, "path": "slices"}, "both ways twice"),
        (2, {"heads": 2, "rotary": True}, "use rank 1"),
        (1, {"heads": 8, "rotary": True}, "even number"),
        (1, {"heads": 2, "xpos": 512}, "only with rotary=True"),
        (1, {"heads": 2, "rotary": True, "xpos": 0}, "give e.g. xpos=512"),
        (1, {"heads": 2, "rotary": True, "xpos": 512, "causal": False}, "causal=True"),
        (1, {"heads": 2, "form": "chunk"}, "Did you mean 'chunkwise'"),
        (1, {"heads": 2, "slowest": 1.0}, "between 0 and 1"),
    ],
)
def test_mistakes_are_explained(rank: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make(rank, **options)
    assert "\n" not in str(error.value)
