from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from core.errors import UsageError
from core.mixers import build_mixer, mixer_config
from core.mixers.base import EXPLICIT_KEYS, EXPLICIT_KEYS_BF16, BlockContext, attend


def make(rank: int = 1, dim: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    mixer = build_mixer(mixer_config("attention", **options), BlockContext(dim=dim, rank=rank))
    return mixer.eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("S", [(7,), (90,), (3, 5), (9, 13), (2, 3, 4)])
@torch.no_grad()
def test_parity_with_pytorchs_multihead_attention(S: tuple[int, ...], causal: bool) -> None:
    mixer = make(len(S), heads=4, causal=causal)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    mixer.qkv.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    mixer.proj.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(2, *S, 16)
    flat = x.flatten(1, -2)
    mask = nn.Transformer.generate_square_subsequent_mask(flat.shape[1]) if causal else None
    want = theirs(flat, flat, flat, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(mixer(x).flatten(1, -2), want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_grouped_queries_share_keys_and_values() -> None:
    """As plain attention whose key and value weights repeat: heads 0, 1 and heads 2, 3."""
    shared, plain = make(heads=4, kv_heads=2), make(heads=4)
    q, k, v = shared.qkv.weight.split([16, 8, 8])
    repeated = [w.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for w in (k, v)]
    nn.init.zeros_(shared.qkv.bias)
    nn.init.zeros_(plain.qkv.bias)
    plain.qkv.weight.copy_(torch.cat((q, *repeated)))
    plain.proj.load_state_dict(shared.proj.state_dict())
    x = torch.randn(2, 11, 16)
    torch.testing.assert_close(shared(x), plain(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_only_keys_and_values_of_the_shared_heads_are_kept() -> None:
    mixer = make(heads=4, kv_heads=1, causal=True)
    state = mixer.initial_state(2)
    assert state.k.shape == (2, 1, 0, 4)
    _, state = mixer.step(torch.randn(2, 16), state)
    assert state.v.shape == (2, 1, 1, 4)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_no_extra_tokens_change_nothing(causal: bool) -> None:
    mixer = make(2, heads=4, causal=causal)
    x = torch.randn(2, 3, 5, 16)
    y, none = mixer.forward_extra(x, torch.zeros(2, 0, 16))
    assert torch.equal(y, mixer(x))
    assert none.shape == (2, 0, 16)


@torch.no_grad()
def test_keys_and_values_may_be_kept_in_half_precision() -> None:
    mixer = make(heads=4, causal=True)
    x = torch.randn(2, 9, 16)
    state = mixer.initial_state(2, dtype=torch.bfloat16)
    for t in range(9):
        y, state = mixer.step(x[:, t], state)
    assert (y.dtype, state.k.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(y, mixer(x)[:, -1], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("keys", [7, EXPLICIT_KEYS + 9])  # explicit and fused
def test_causal_attention_equals_a_mask(keys: int) -> None:
    q, k, v = torch.randn(3, 2, 3, keys, 4)
    mask = torch.full((keys, keys), -1e9).triu(1)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            got = attend(q, k, v, causal=True)
            torch.testing.assert_close(got, attend(q, k, v, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("keys", [7, EXPLICIT_KEYS + 9, EXPLICIT_KEYS_BF16 + 9])
def test_bfloat16_loses_no_more_than_its_mantissa(keys: int, autocast: bool) -> None:
    """Forward and backward, whichever form computes it; softmax rounds only its result."""
    q, k, v = torch.randn(3, 2, 3, keys, 4, dtype=torch.bfloat16)
    grad = torch.randn(2, 3, keys, 4, dtype=torch.bfloat16)
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (q, k, v)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype != torch.float64):
            out = attend(*inputs)
        assert out.dtype == dtype
        out.backward(grad.to(dtype))
        results.append([out, *(t.grad for t in inputs)])
    for got, wanted in zip(*results, strict=True):
        error = (got.double() - wanted).norm() / wanted.norm()
        assert error < 2**-6  # 8 bits of mantissa, a few roundings


def test_mistakes_are_explained() -> None:
    for options, message in [
        ({"heads": 3}, "must divide the 16 channels"),
        ({"heads": 4, "kv_heads": 3}, "must divide the 4 heads"),
        ({"heads": 4, "kv_heads": 0}, "must divide the 4 heads"),
    ]:
        with pytest.raises(UsageError, match=message):
            make(**options)
