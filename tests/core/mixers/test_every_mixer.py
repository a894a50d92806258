"""What every mixer owes, over every registered mixer and rank."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.mixers import build_mixer, mixer_config, mixer_names
from core.mixers.base import _CONFIGS, _MODULES, BlockContext, attend

DIM = 8
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "window": [
        {"heads": 2, "window": 3},
        {"heads": 2, "window": 3, "policy": "swin"},
        {"heads": 2, "window": 3, "policy": "monai"},
    ],
    "cross_window": [{"heads": 4, "stripe": 2}, {"heads": 2, "stripe": None}],
    "reduced": [{"heads": 2, "reduction": 2}, {"heads": 2}],
    "pool": [{"size": 3}],
    "depthwise": [{"size": 5}],
    "conv_attention": [{"heads": 2}],
    "mamba": [
        {"d_state": 4},
        {"d_state": 3, "path": "bidirectional", "merge": "mean", "dt_rank": 2, "bias": True},
        {"d_state": 2, "path": "cross"},
        {"d_state": 1, "path": "cross", "conv": "grid", "gate": False, "norm": "layer"},
        {"d_state": 2, "path": "atrous", "conv": "grid", "norm": "layer", "expand": 1.5},
        {"d_state": 2, "path": "atrous", "d_conv": 2, "conv_bias": False, "norm": "rms"},
    ],
    "mamba2": [
        {"d_state": 4, "head_dim": 4},
        {"d_state": 3, "head_dim": 4, "groups": 2, "path": "bidirectional", "bias": True},
        {"d_state": 2, "path": "cross", "merge": "mean"},
        {"d_state": 2, "head_dim": 8, "path": "cross", "conv": "grid", "conv_bias": False},
        {"d_state": 2, "head_dim": 8, "path": "atrous", "expand": 1.0},
    ],
    "retention": [
        {"heads": 2},
        {"heads": 1, "causal": False, "expand": 2.0},
        {"heads": 2, "path": "bidirectional", "gate": False, "norm": False, "slowest": 0.1},
        {"heads": 4, "path": "cross", "form": "chunkwise"},
        {"heads": 2, "path": "atrous", "causal": False},
    ],
    "autocorrelation": [{"factor": 3.0}, {"factor": 1.5, "delays": "sample"}],
    "attention": [{"heads": 2}, {"heads": 4, "kv_heads": 2, "causal": True}],
    "temporal_conv": [{"size": 3}, {"size": 31}],
    "inverted_residual": [{"expand": 2.0, "squeeze": 0.25}],
    "local_global": [{"squeeze": 0.5}],
    "mobile_mamba": [{"far": 0.5, "near": 0.25, "kernel": 3, "unit": 2}],
}
# Mixers that this table cannot try: they serve one number of positions, not any size.
FIXED = {"normlin"}
# A constant added to every key changes no softmax, and a batch norm takes one away: what adds it
# can learn nothing.
DEAD = {
    "conv_attention": {"k.bias", "conv_k.norm.norm.bias"},
    "local_global": {"local.conv.conv.bias"},
}
SIZES = {
    1: [(1,), (2,), (7,), (13,)],
    2: [(1, 1), (5, 7), (13, 2), (2, 17)],
    3: [(1, 1, 1), (5, 3, 7), (2, 9, 4)],
}
CASES = [
    pytest.param(name, options, rank, id=f"{name}-{i}-rank{rank}")
    for name, variants in OPTIONS.items()
    for i, options in enumerate(variants)
    for rank in (1, 2, 3)
]
every_mixer = pytest.mark.parametrize(("name", "options", "rank"), CASES)


def make(name: str, options: dict[str, Any], rank: int) -> nn.Module:
    """Block 1 of its stage, which shifts windows, with weights that leave nothing at zero."""
    torch.manual_seed(0)
    mixer = build_mixer(mixer_config(name, **options), BlockContext(dim=DIM, rank=rank, index=1))
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return mixer.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_table_is_complete() -> None:
    # An application may register mixers of its own when its tests have run before.
    ours = {n for n in mixer_names() if _MODULES[_CONFIGS[n]].__module__.startswith("core.")}
    assert ours == set(OPTIONS) | FIXED


@every_mixer
@torch.no_grad()
def test_any_size(name: str, options: dict[str, Any], rank: int) -> None:
    mixer = make(name, options, rank)
    for size in SIZES[rank]:
        x = noise(2, *size, DIM)
        y = mixer(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert torch.equal(y, mixer(x)), "twice the same"
        # One example's result is its own.
        torch.testing.assert_close(mixer(x[1:]), y[1:], rtol=1e-5, atol=1e-5)


@every_mixer
def test_gradients_are_finite_and_no_parameter_is_dead(
    name: str, options: dict[str, Any], rank: int
) -> None:
    mixer = make(name, options, rank).train()
    x = noise(2, *SIZES[rank][-1], DIM).requires_grad_()
    y = mixer(x)
    (y * noise(*y.shape)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any(-1).all(), "every position matters"
    for key, p in mixer.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        if key in DEAD.get(name, set()):
            assert p.grad.abs().max() < 1e-4, f"{key} has come alive"
        else:
            assert p.grad.abs().max() > 1e-4, f"{key} is dead"


@every_mixer
@torch.no_grad()
def test_float64_and_bfloat16(name: str, options: dict[str, Any], rank: int) -> None:
    mixer = make(name, options, rank)
    x = noise(2, *SIZES[rank][-1], DIM)
    y = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = mixer(x)
    assert (half.float() - y).abs().max() < 0.05 * y.abs().max()
    wide = mixer.double()(x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), y, rtol=1e-4, atol=1e-4)
    tiny = 1e-12 * noise(*x.shape).double()  # seen in float64, lost in float32
    assert not torch.equal(mixer(x.double() + tiny), wide)


@every_mixer
@torch.no_grad()
def test_half_precision_parameters_and_no_data(
    name: str, options: dict[str, Any], rank: int
) -> None:
    mixer = make(name, options, rank)
    x = noise(2, *SIZES[rank][-1], DIM)
    y = mixer(x)
    if name != "pool":  # torch has no average of bfloat16 on a CPU
        half = mixer.bfloat16()(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert (half.float() - y).abs().max() < 0.1 * y.abs().max()
    with torch.device("meta"):
        assert make(name, options, rank)(torch.empty_like(x, device="meta")).shape == x.shape


@every_mixer
def test_wrong_input_is_explained(name: str, options: dict[str, Any], rank: int) -> None:
    with pytest.raises(UsageError, match="flatten too early"):
        make(name, options, rank)(torch.zeros(2, DIM))


def test_mistakes_in_a_config() -> None:
    context = BlockContext(dim=DIM, rank=2)
    for name, options, message in [
        ("window", {"heads": 3}, "must divide the 8 channels"),
        ("window", {"heads": 0}, "must divide"),
        ("window", {"heads": 2, "window": (7, 7, 7)}, "one per axis of rank 2"),
        ("window", {"heads": 2, "policy": "maskd"}, "Did you mean 'masked'"),
        ("cross_window", {"heads": 3}, "must divide"),
        ("cross_window", {"heads": 2, "stripe": 0}, "stripe"),
        ("reduced", {"heads": 2, "reduction": 0}, "reduction"),
        ("pool", {"size": 4}, "must be odd"),
        ("depthwise", {"size": 2}, "must be odd"),
        ("conv_attention", {"heads": 2, "kernel": 2}, "must be odd"),
        ("window", {"heds": 2}, "Did you mean 'heads'"),
        ("window", {}, "needs heads"),
        ("windw", {}, "Did you mean 'window'"),
    ]:
        with pytest.raises(UsageError, match=message):
            build_mixer(mixer_config(name, **options), context)
    with pytest.raises(UsageError, match="not a registered mixer"):
        build_mixer({"heads": 2}, context)


@pytest.mark.parametrize("name", OPTIONS)
def test_configs_are_frozen(name: str) -> None:
    config = mixer_config(name, **OPTIONS[name][0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.heads = 1


@pytest.mark.parametrize("keys", [10, 100])  # below and above where SDPA takes over
@pytest.mark.parametrize("bias", [None, "fixed", "trained"])
def test_attention_equals_its_formula(keys: int, bias: str | None) -> None:
    q, k, v = noise(2, 3, 7, 4), noise(2, 3, keys, 4) * 2, noise(2, 3, keys, 4) * 3
    b = None if bias is None else noise(3, 7, keys).requires_grad_(bias == "trained")
    scores = torch.einsum("bhic,bhjc->bhij", q, k).double() / 2
    weights = (scores if b is None else scores + b.double()).softmax(-1)
    wanted = torch.einsum("bhij,bhjc->bhic", weights, v.double()).float()
    torch.testing.assert_close(attend(q, k, v, b), wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, b), wanted, rtol=1e-5, atol=1e-5)
    twice = attend(q, k, v, b, scale=1.0)
    torch.testing.assert_close(twice, attend(2 * q, k, v, b), rtol=1e-5, atol=1e-5)


def test_a_row_masked_whole_is_finite() -> None:
    q, k, v = noise(1, 1, 2, 4), noise(1, 1, 3, 4), noise(1, 1, 3, 4)
    assert attend(q, k, v, torch.full((2, 3), -1e9)).isfinite().all()
