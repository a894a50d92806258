from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import UsageError
from core.nn import (
    NORMS,
    BatchNormGrid,
    ChannelsLastConv,
    Conv3d,
    GridNorm,
    RMSNorm,
    make_norm,
    sound_convolutions,
)

CONV = (F.conv1d, F.conv2d, F.conv3d)
SIZES = [(7,), (7, 5), (5, 4, 6)]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2},
        {"groups": 4, "padding": 1},
        {"groups": 4, "padding": 2, "dilation": 2, "bias": False},
        {"groups": 4, "stride": 2},
    ],
    ids=str,
)
def test_convolution_equals_torch(rank: int, options: dict[str, Any]) -> None:
    conv = ChannelsLastConv(4, 8, 3, rank, **options)
    x = torch.randn(2, *SIZES[rank - 1], 4)
    known = {k: v for k, v in options.items() if k != "bias"}
    wanted = CONV[rank - 1](x.movedim(-1, 1), conv.conv.weight, conv.conv.bias, **known)
    torch.testing.assert_close(conv(x), wanted.movedim(1, -1), rtol=1e-5, atol=1e-6)
    p = options.get("padding", 0)
    padded = F.pad(x, [0, 0] + [p, p] * rank)
    torch.testing.assert_close(conv(padded, padded=True), conv(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_norm_has_the_statistics_of_an_example(rank: int) -> None:
    norm = GridNorm(4, 1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
        norm.bias.fill_(0.5)
    x = torch.randn(2, *SIZES[rank - 1], 4) * 3 + 1
    dims = tuple(range(1, rank + 2))
    mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
    wanted = (x - mean) / (var + 1e-5).sqrt() * torch.arange(1.0, 5.0) + 0.5
    torch.testing.assert_close(norm(x), wanted, rtol=1e-5, atol=1e-5)


def test_rms_norm_squares_in_float32() -> None:
    norm = RMSNorm(4, 0.0)
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    torch.testing.assert_close(norm(x), x / 2.5)
    big = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square is infinite there
    assert torch.equal(norm(big), torch.ones(1, 4))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batch_norm_has_the_statistics_of_a_channel(rank: int) -> None:
    norm = BatchNormGrid(4, rank)
    x = torch.randn(2, *SIZES[rank - 1], 4) * 3 + 1
    dims = tuple(range(rank + 1))
    wanted = (x - x.mean(dims)) / (x.var(dims, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), wanted, rtol=1e-5, atol=1e-5)


def test_norms_by_name() -> None:
    x = torch.randn(2, 5, 4)
    for name in NORMS:
        assert make_norm(name, 4)(x).shape == x.shape
    assert make_norm("none", 4)(x) is x
    with pytest.raises(UsageError, match="Did you mean 'layer'"):
        make_norm("layr", 4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_depthwise_convolution_trains_in_float32_under_autocast(rank: int) -> None:
    """On a CPU; what comes out is bfloat16 as ever, and gradients are float32's to its rounding."""
    conv = ChannelsLastConv(4, 4, 3, rank, padding=1, groups=4)
    x = torch.randn(2, *(5, 6, 7)[:rank], 4, requires_grad=True)
    (wanted,) = torch.autograd.grad(conv(x).sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], wanted)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize(("size", "kernel"), [((2, 2, 2), 3), ((2, 8, 8), 3), ((4, 4, 4), 7)])
def test_bfloat16_gradients_on_grids_smaller_than_the_kernel(
    size: tuple[int, ...], kernel: int, autocast: bool
) -> None:
    torch.manual_seed(0)
    conv = Conv3d(16, 16, kernel, padding=kernel // 2)
    wide = nn.Conv3d(16, 16, kernel, padding=kernel // 2)
    wide.load_state_dict(conv.state_dict())
    x = torch.randn(1, 16, *size)
    weight = torch.randn(1, 16, *size)
    (expected,) = torch.autograd.grad((wide(x) * weight).sum(), wide.weight)
    conv = conv if autocast else conv.bfloat16()
    for _ in range(10):
        spoiled = [torch.full((n,), float("nan")) for n in (64, 1024, 16384, 65536)]
        del spoiled  # what an allocation finds
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = conv(x if autocast else x.bfloat16())
        assert y.dtype == torch.bfloat16
        (found,) = torch.autograd.grad((y.float() * weight).sum(), conv.weight)
        assert (found.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_convolutions_of_other_networks_are_made_sound() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv2d(1, 2, 3), Conv3d(2, 2, 1))
    before = network.state_dict()
    assert sound_convolutions(network) is network
    assert [type(m) for m in network] == [Conv3d, nn.Conv2d, Conv3d]
    assert network.state_dict().keys() == before.keys()
