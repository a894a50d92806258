"""The other mixers against plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.mixers.base import BlockContext
from core.mixers.conv_attention import ConvAttention, ConvAttentionConfig
from core.mixers.depthwise import Depthwise, DepthwiseConfig
from core.mixers.pool import PoolConfig, Pooling
from core.mixers.reduced import ReducedAttention, ReducedConfig

CONV: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
SIZES = {1: [(9,), (2,)], 2: [(6, 8), (5, 7), (1, 3)], 3: [(4, 2, 6), (3, 5, 2)]}
CASES = [(rank, size) for rank, sizes in SIZES.items() for size in sizes]
DIM = 8


def randomise(module: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.5)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """(B, L, C) each."""
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
    weights = (torch.einsum("blhc,bmhc->bhlm", q, k) * scale).softmax(-1)
    return torch.einsum("bhlm,bmhc->blhc", weights, v).flatten(-2)


@pytest.mark.parametrize(("rank", "size"), CASES)
@pytest.mark.parametrize("reduction", [1, 2, 3])
@torch.no_grad()
def test_reduced_attention(rank: int, size: tuple[int, ...], reduction: int) -> None:
    mixer = ReducedAttention(
        ReducedConfig(heads=2, reduction=reduction), BlockContext(dim=DIM, rank=rank)
    )
    randomise(mixer)
    x = torch.randn(2, *size, DIM)
    source = x
    if reduction > 1:
        conv = mixer.reduce.conv
        pad = [q for s in reversed(size) for q in (0, -s % reduction)]
        source = F.pad(x.movedim(-1, 1), pad)
        source = CONV[rank - 1](source, conv.weight, conv.bias, stride=reduction).movedim(1, -1)
        source = F.layer_norm(source, (DIM,), mixer.norm.weight, mixer.norm.bias)
    k, v = mixer.kv(source).flatten(1, -2).chunk(2, -1)
    out = attention(mixer.q(x).flatten(1, -2), k, v, 2, 4**-0.5)
    wanted = mixer.proj(out).reshape(x.shape)
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "size"), CASES)
@pytest.mark.parametrize("window", [3, 5])
@torch.no_grad()
def test_pooling_is_the_mean_of_the_neighbours_minus_the_centre(
    rank: int, size: tuple[int, ...], window: int
) -> None:
    mixer = Pooling(PoolConfig(size=window), BlockContext(dim=DIM, rank=rank))
    x = torch.randn(2, *size, DIM)
    y = mixer(x)
    h = window // 2
    for at in itertools.product(*map(range, size)):
        near = tuple(slice(max(0, a - h), a + h + 1) for a in at)
        mean = x[(slice(None), *near)].flatten(1, -2).mean(1)
        wanted = mean - x[(slice(None), *at)]
        torch.testing.assert_close(y[(slice(None), *at)], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "size"), CASES)
@torch.no_grad()
def test_depthwise_convolution(rank: int, size: tuple[int, ...]) -> None:
    mixer = Depthwise(DepthwiseConfig(size=5), BlockContext(dim=DIM, rank=rank))
    conv = mixer.conv.conv
    x = torch.randn(2, *size, DIM)
    wanted = CONV[rank - 1](x.movedim(-1, 1), conv.weight, conv.bias, padding=2, groups=DIM)
    torch.testing.assert_close(mixer(x), wanted.movedim(1, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "size"), CASES)
@pytest.mark.parametrize("extra", [0, 2])
@torch.no_grad()
def test_convolutional_attention(rank: int, size: tuple[int, ...], extra: int) -> None:
    mixer = ConvAttention(ConvAttentionConfig(heads=2), BlockContext(dim=DIM, rank=rank))
    randomise(mixer)
    for part in (mixer.conv_q, mixer.conv_k, mixer.conv_v):
        part.norm.norm.running_mean.normal_()
        part.norm.norm.running_var.uniform_(0.5, 2)
    mixer.eval()
    x, tokens = torch.randn(2, *size, DIM), torch.randn(2, extra, DIM)

    def projected(name: str, stride: int) -> Tensor:
        part = getattr(mixer, f"conv_{name}")
        weight, norm = part.conv.conv.weight, part.norm.norm
        y = CONV[rank - 1](x.movedim(-1, 1), weight, stride=stride, padding=1, groups=DIM)
        y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return getattr(mixer, name)(torch.cat((tokens, y.flatten(2).mT), 1))

    # CvT scales by all the channels, not by a head's.
    out = attention(projected("q", 1), projected("k", 2), projected("v", 2), 2, DIM**-0.5)
    out = mixer.proj(out)
    got, got_tokens = mixer.forward_extra(x, tokens if extra else None)
    torch.testing.assert_close(got, out[:, extra:].reshape(x.shape), rtol=1e-5, atol=1e-5)
    if extra:
        torch.testing.assert_close(got_tokens, out[:, :extra], rtol=1e-5, atol=1e-5)
    else:
        assert got_tokens is None
        torch.testing.assert_close(mixer(x), got)
