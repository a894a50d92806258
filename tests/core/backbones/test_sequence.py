"""Sequence trunks: sizes, causality, streaming, the hybrid's pattern."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import core
from core.backbones.pyramid import StageConfig
from core.backbones.sequence import (
    MAMBA2_HYBRID_8B,
    SequenceConfig,
    SequenceTrunk,
    hybrid_pattern,
    stem,
)
from core.blocks import BlockConfig
from core.errors import UsageError
from core.mixers.attention import AttentionConfig
from core.mixers.mamba import MambaConfig
from core.mixers.retention import RetentionConfig

SMALL: dict[str, dict[str, Any]] = {
    "mamba_130m": {"dim": 16, "depth": 3, "d_state": 4},
    "mamba2_130m": {"dim": 16, "depth": 3, "d_state": 8, "head_dim": 8},
    "retnet_1.3b": {"dim": 16, "depth": 3, "heads": 2},
    "mamba2_hybrid_8b": {
        "dim": 16, "pattern": "M-M*-", "heads": 4, "kv_heads": 2, "d_state": 8, "head_dim": 8,
        "groups": 2,
    },
}  # fmt: skip
TRUNKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba_130m", {}),
    "mamba2": ("mamba2_130m", {}),
    "hybrid": ("mamba2_hybrid_8b", {}),
    "retnet": ("retnet_1.3b", {}),
    "attention": ("mamba_130m", {"mixer": AttentionConfig(heads=4, causal=True)}),
}
every_trunk = pytest.mark.parametrize("kind", TRUNKS)


def make(kind: str, rank: int = 1, **more: Any) -> SequenceTrunk:
    torch.manual_seed(0)
    name, options = TRUNKS[kind]
    trunk = core.create(name, rank=rank, in_channels=3, **{**SMALL[name], **options, **more})
    assert isinstance(trunk, SequenceTrunk)
    with torch.no_grad():
        for p in trunk.parameters():  # nothing stays at zero or one
            p.add_(torch.randn_like(p) * 0.1)
    return trunk.eval()


@every_trunk
@pytest.mark.parametrize("rank", [1, 2, 3])
@torch.no_grad()
def test_any_size_at_every_rank(kind: str, rank: int) -> None:
    trunk = make(kind, rank)
    assert trunk.channels == [16]
    assert trunk.strides == [1]
    for size in [(1, 1, 1), (5, 3, 2), (17, 1, 4)]:
        (out,) = trunk(torch.randn(2, 3, *size[:rank]))
        assert out.shape == (2, 16, *size[:rank])
        assert out.isfinite().all()


@pytest.mark.parametrize(("rank", "patch"), [(1, 4), (2, (2, 4)), (3, 2)])
@torch.no_grad()
def test_patches(rank: int, patch: Any) -> None:
    trunk = make("mamba", rank, patch=patch)
    assert trunk.strides == [patch]
    (out,) = trunk(torch.randn(1, 3, *(9, 6, 5)[:rank]))
    p = (patch,) * rank if isinstance(patch, int) else patch
    assert out.shape[2:] == tuple(math.ceil(s / t) for s, t in zip((9, 6, 5), p, strict=False))


@every_trunk
@torch.no_grad()
def test_encode_is_the_trunk_behind_its_stem(kind: str) -> None:
    trunk = make(kind)
    x = torch.randn(2, 3, 11)
    tokens = trunk.trunk.down(x.movedim(1, -1))
    torch.testing.assert_close(trunk.encode(tokens).movedim(-1, 1), trunk(x)[0], rtol=0, atol=0)


@every_trunk
@torch.no_grad()
def test_the_future_does_not_change_the_past(kind: str) -> None:
    trunk = make(kind)
    for length in (2, 65, 130):  # within a chunk of the scans, across one, across two
        x = torch.randn(2, 3, length)
        (before,) = trunk(x)
        for t in {1, length // 2, length - 1}:
            other = x.clone()
            other[..., t:] = torch.randn(2, 3, length - t)
            (after,) = trunk(other)
            assert torch.equal(after[..., :t], before[..., :t])
            assert not torch.equal(after[..., t:], before[..., t:])


@torch.no_grad()
def test_the_next_patch_does_not_change_the_past() -> None:
    trunk = make("mamba2", patch=4)
    x = torch.randn(1, 3, 16)
    other = x.clone()
    other[..., 8:] += 1
    assert torch.equal(trunk(x)[0][..., :2], trunk(other)[0][..., :2])


def stream(trunk: SequenceTrunk, x: Tensor) -> Tensor:
    patch = trunk.strides[0]
    assert isinstance(patch, int)
    state, outputs = trunk.initial_state(len(x)), []
    for part in x.split(patch, -1):
        y, state = trunk.step(part if patch > 1 else part[..., 0], state)
        outputs.append(y)
    return torch.stack(outputs, -1)


@every_trunk
@pytest.mark.parametrize("length", [1, 2, 37, 500])
@torch.no_grad()
def test_steps_equal_forward(kind: str, length: int) -> None:
    trunk = make(kind)
    x = torch.randn(2, 3, length)
    if kind == "retnet":
        # Its norm divides a head by a deviation that may be next to nothing, as at the first
        # position, (q k) v: what is 1e-8 before it can be 1e-4 behind.
        trunk, x = trunk.double(), x.double()
    got, want = stream(trunk, x), trunk(x)[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_steps_of_patches_and_of_tokens() -> None:
    trunk = make("hybrid", patch=3)
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(stream(trunk, x), trunk(x)[0], rtol=1e-5, atol=1e-5)
    tokens, state = torch.randn(2, 5, 16), trunk.initial_state(2)
    for t, want in enumerate(trunk.encode(tokens).unbind(1)):
        y, state = trunk.encode_step(tokens[:, t], state)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_state_can_be_taken_up_twice() -> None:
    trunk = make("hybrid")
    x = torch.randn(1, 3, 9)
    state = trunk.initial_state(1)
    for t in range(8):
        _, state = trunk.step(x[..., t], state)
    first, _ = trunk.step(x[..., 8], state)
    trunk.step(torch.randn(1, 3), state)
    again, _ = trunk.step(x[..., 8], state)
    assert torch.equal(first, again)


def one_line(call: Any) -> str:
    with pytest.raises(UsageError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_streamed_says_why() -> None:
    assert "rank=1" in one_line(lambda: make("mamba", 2).initial_state(1))
    for mixer, name in [
        (MambaConfig(path="bidirectional"), "Mamba: "),
        (AttentionConfig(heads=2), "Attention: "),
        (RetentionConfig(heads=2, causal=False), "Retention: "),
        ("pool", "Pooling"),
    ]:
        trunk = make("mamba", mixer=mixer)
        message = one_line(lambda t=trunk: t.initial_state(1))
        assert "block 0" in message
        assert name in message
        assert "cannot be streamed" in message
    for options in [
        {"form": "fused"},
        {"norm": "grid"},
        {"ffn_depthwise": True},
    ]:
        block = BlockConfig(**{"mixer": MambaConfig(), "ffn_ratio": 2.0, **options})
        trunk = single(block).build()
        assert "block 0" in one_line(lambda t=trunk: t.initial_state(1))
    plain = single(BlockConfig(mixer=MambaConfig(), ffn_ratio=None))
    for option in [{"end_norm": "grid"}, {"position": (4,)}, {"extra_tokens": 1}]:
        stage = dataclasses.replace(plain.stages[0], **option)
        trunk = dataclasses.replace(plain, stages=(stage,)).build()
        assert "cannot be streamed" in one_line(lambda t=trunk: t.initial_state(1))


def single(*blocks: BlockConfig, **more: Any) -> SequenceConfig:
    stage = StageConfig(dim=8, depth=len(blocks), block=blocks, down=stem(1, 1))
    return SequenceConfig(**{"rank": 1, "in_channels": 2, "stages": (stage,), **more})


@torch.no_grad()
def test_steps_through_gains_and_feed_forwards() -> None:
    block = BlockConfig(mixer=MambaConfig(), ffn_ratio=2.0, layer_scale=0.3)
    trunk = single(block, block).build().eval()
    x = torch.randn(2, 2, 7)
    torch.testing.assert_close(stream(trunk, x), trunk(x)[0], rtol=1e-5, atol=1e-5)


def test_mistakes_are_explained() -> None:
    trunk = make("mamba")
    assert "(B, L, 16)" in one_line(lambda: trunk.encode(torch.zeros(1, 5, 3)))
    assert "takes (B, 3)" in one_line(lambda: trunk.step(torch.zeros(1, 4), ()))
    patched = make("mamba", patch=2)
    assert "takes (B, 3, 2)" in one_line(lambda: patched.step(torch.zeros(1, 3), ()))
    config = single(BlockConfig(mixer=MambaConfig()))
    two = dataclasses.replace(config, stages=config.stages * 2)
    assert "2 stages" in one_line(two.build)
    assert "block configs" in one_line(
        lambda: dataclasses.replace(
            config, stages=(dataclasses.replace(config.stages[0], depth=2),)
        ).build()
    )


@every_trunk
def test_gradient_checkpointing_changes_no_gradient(kind: str) -> None:
    trunk = make(kind, drop_path=0.2).train()
    x = torch.randn(2, 3, 13)
    found: list[list[Tensor]] = []
    for recompute in (False, True):
        trunk.gradient_checkpointing = recompute
        torch.manual_seed(1)  # the same paths are dropped
        image = x.clone().requires_grad_()
        trunk.zero_grad()
        ((trunk(image)[0] - 0.3) ** 2).mean().backward()
        assert [k for k, p in trunk.named_parameters() if p.grad is None] == []
        assert image.grad is not None
        found.append(
            [image.grad, *(p.grad.clone() for p in trunk.parameters() if p.grad is not None)]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every_trunk
def test_export_with_dynamic_batch_and_length(kind: str) -> None:
    trunk = make(kind, **({"pattern": "M*-"} if kind == "hybrid" else {"depth": 1}))
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        trunk, (torch.randn(2, 3, 80),), dynamic_shapes={"x": {0: dynamic, 2: dynamic}}
    )
    run = program.module()
    for batch, length in [(1, 80), (3, 37), (2, 200)]:
        x = torch.randn(batch, 3, length)
        with torch.no_grad():
            torch.testing.assert_close(run(x)[0], trunk(x)[0], rtol=1e-5, atol=1e-5)


@every_trunk
def test_bfloat16_autocast_keeps_the_residual_in_float32(kind: str) -> None:
    trunk = make(kind)
    x = torch.randn(2, 3, 70)
    with torch.no_grad():
        (want,) = trunk(x)
    seen = []
    for block in trunk.trunk.blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        (got,) = trunk(x)
        got.float().square().mean().backward()
    assert seen == [torch.float32] * len(trunk.trunk.blocks)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())
    # bfloat16 has 8 bits: 0.4 % a rounding, a handful of them one after another.
    assert (got.float() - want).norm() < 0.03 * want.norm()


@every_trunk
@torch.no_grad()
def test_examples_are_independent(kind: str) -> None:
    trunk = make(kind)
    x = torch.randn(3, 3, 21)
    torch.testing.assert_close(trunk(x)[0][1:2], trunk(x[1:2])[0], rtol=1e-5, atol=1e-5)


def parameters(name: str, **options: Any) -> int:
    """Of the blocks and the last norm: all but the stem."""
    with torch.device("meta"):
        trunk = core.create(name, rank=1, in_channels=1, **options)
    assert isinstance(trunk, SequenceTrunk)
    stem = sum(p.numel() for p in trunk.trunk.down.parameters())
    return sum(p.numel() for p in trunk.parameters()) - stem


# With a table of 50280 tokens that is the head as well (50277, padded to a multiple of 8), or of
# 50288 in Mamba-2 (to one of 16): millions that the names round.
NAMED = {
    "mamba_130m": "129",
    "mamba_370m": "372",
    "mamba_790m": "793",
    "mamba_1.4b": "1372",
    "mamba_2.8b": "2768",
    "mamba2_130m": "129",
    "mamba2_370m": "368",
    "mamba2_780m": "780",
    "mamba2_1.3b": "1344",
    "mamba2_2.7b": "2703",
}


@pytest.mark.parametrize("name", NAMED)
def test_sizes_of_published_language_models(name: str) -> None:
    with torch.device("meta"):
        dim = core.create(name, rank=1, in_channels=1).channels[0]
    tokens = 50288 if name.startswith("mamba2") else 50280
    assert f"{(parameters(name) + tokens * dim) / 1e6:.0f}" == NAMED[name]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", [*NAMED, "mamba2_hybrid_8b", "retnet_2.7b"])
def test_every_entry_at_every_rank(name: str, rank: int) -> None:
    with torch.device("meta"):
        trunk = core.create(name, rank=rank, in_channels=2)
        (out,) = trunk(torch.empty(1, 2, *(5, 2, 3)[:rank]))
    assert isinstance(trunk, SequenceTrunk)
    assert trunk.strides == [1]
    assert out.shape == (1, trunk.channels[0], *(5, 2, 3)[:rank])


def test_the_hybrids_size() -> None:
    """8.65 billion with two tables of 256000 tokens; the paper calls it 8B."""
    blocks = parameters("mamba2_hybrid_8b")
    assert blocks == 6_557_365_248
    assert f"{(blocks + 2 * 256_000 * 4096) / 1e9:.2f}" == "8.65"


def test_the_hybrids_pattern() -> None:
    counts = {c: MAMBA2_HYBRID_8B.count(c) for c in "M*-"}
    assert counts == {"M": 24, "*": 4, "-": 28}
    assert hybrid_pattern(56) == MAMBA2_HYBRID_8B
    assert hybrid_pattern(14) == "M-M-M--*M-M-M-"
    for depth in range(14, 120):
        pattern = hybrid_pattern(depth)
        assert len(pattern) == depth
        assert pattern.count("-") == depth // 2
        assert abs(pattern.count("*") - depth / 14) <= 0.5
        assert pattern[0] == "M"
    assert "13 layers" in one_line(lambda: hybrid_pattern(13))


def test_patterns_become_blocks() -> None:
    trunk = make("hybrid", pattern="*M-")
    kinds = [type(b.mixer).__name__ for b in trunk.trunk.blocks]
    assert kinds == ["Attention", "Mamba2", "NoneType"]
    assert [b.ffn is not None for b in trunk.trunk.blocks] == [False, False, True]
    assert not [k for k, _ in trunk.named_parameters() if k.endswith("bias") and "qkv" in k]
    assert "not of ?, x" in one_line(lambda: make("hybrid", pattern="M?x-"))
    assert "made of M" in one_line(lambda: make("hybrid", pattern=""))
    assert "Did you mean 'pattern'" in one_line(lambda: make("hybrid", patern="M"))
    assert "heads" in one_line(lambda: make("hybrid", heads=3))


@torch.no_grad()
def test_published_proportions_at_a_small_size() -> None:
    torch.manual_seed(0)
    options = {"dim": 96, "pattern": hybrid_pattern(14), "d_state": 8}
    trunk = core.create("mamba2_hybrid_8b", rank=1, in_channels=3, **options).eval()
    assert isinstance(trunk, SequenceTrunk)
    x = torch.randn(1, 3, 40)
    torch.testing.assert_close(stream(trunk, x), trunk(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dim", "wanted"), [(4096, (32, 8, 8)), (1024, (8, 2, 8)), (96, (1, 1, 3)), (400, (2, 1, 8))]
)
def test_heads_follow_the_width(dim: int, wanted: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        trunk = core.create("mamba2_hybrid_8b", rank=1, in_channels=1, dim=dim, pattern="M*")
    mixing, attending = (b.mixer for b in trunk.config.stages[0].blocks)
    assert (attending.heads, attending.kv_heads, mixing.groups) == wanted
