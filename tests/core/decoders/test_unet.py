"""Decoders: shapes at any size, gradients, export, checkpointing, and hand-computed pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.blocks import BlockConfig
from core.decoders import (
    CarafeExpand,
    ExpandingDecoder,
    InstanceNorm,
    JoinDecoder,
    NearestUp,
    PatchExpand,
    ResidualConv,
    ResidualDecoder,
    ResidualDownConfig,
    UpJoin,
)
from core.decoders.expand import neighbourhoods, unfold_factors
from core.errors import UsageError
from core.mixers import mixer_config

CHANNELS = (4, 8, 12)


def residual(rank: int, strides: Any, **options: Any) -> nn.Module:
    return ResidualDecoder(rank, 2, CHANNELS, strides, **options)


def expanding(rank: int, strides: Any, **options: Any) -> nn.Module:
    block = BlockConfig(mixer=mixer_config("window", heads=2, window=3), ffn_ratio=2.0)
    return ExpandingDecoder(rank, CHANNELS, strides, [block] * 3, (1, 2, 1), **options)


def carafe(rank: int, strides: Any, **options: Any) -> nn.Module:
    return expanding(rank, strides, expand="carafe", **options)


def adding(rank: int, strides: Any, **options: Any) -> nn.Module:
    return expanding(rank, strides, skips="add", **options)


DECODERS = [residual, expanding, carafe, adding]
SIZES: dict[int, list[tuple[int, ...]]] = {
    1: [(13,), (1,), (40,)],
    2: [(7, 13), (1, 5), (16, 24)],
    3: [(7, 5, 11), (2, 1, 3), (8, 8, 16)],
}


def maps(size: tuple[int, ...], strides: Any, rank: int, grad: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    out = []
    for c, s in zip(CHANNELS, strides, strict=True):
        per_axis = (s,) * rank if isinstance(s, int) else s
        grid = [-(-n // v) for n, v in zip(size, per_axis, strict=True)]
        out.append(torch.randn(2, c, *grid, requires_grad=grad))
    return out


@pytest.mark.parametrize("make", DECODERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_size(make: Any, rank: int) -> None:
    strides = (2, 4, 8)
    net = make(rank, strides, width=6)
    assert net.channels == [6, 4, 8]
    for size in SIZES[rank]:
        features = maps(size, strides, rank)
        out = net(torch.randn(2, 2, *size), features)
        assert [tuple(o.shape) for o in out] == [
            (2, 6, *size),
            *((2, c, *f.shape[2:]) for c, f in zip((4, 8), features, strict=False)),
        ]


@pytest.mark.parametrize("make", DECODERS)
def test_strides_per_axis_and_of_one(make: Any) -> None:
    strides = ((1, 2, 2), (1, 4, 4), (2, 8, 8))
    out = make(3, strides)(torch.randn(2, 2, 5, 9, 7), maps((5, 9, 7), strides, 3))
    assert out[0].shape == (2, 4, 5, 9, 7)
    strides_one = (1, 2, 4)
    out = make(2, strides_one)(torch.randn(2, 2, 9, 7), maps((9, 7), strides_one, 2))
    assert out[0].shape[2:] == (9, 7)


@pytest.mark.parametrize("make", DECODERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradients_reach_everything(make: Any, rank: int) -> None:
    size = {1: (40,), 2: (24, 31), 3: (16, 17, 19)}[rank]
    net = make(rank, (2, 4, 8)).train()
    features = maps(size, (2, 4, 8), rank, grad=True)
    out = net(torch.randn(2, 2, *size), features)[0]
    (out * torch.randn_like(out)).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in features)


@pytest.mark.parametrize("make", DECODERS)
def test_checkpointing_changes_nothing(make: Any) -> None:
    grads = []
    for recompute in (False, True):
        torch.manual_seed(3)
        net = make(2, (2, 4, 8), gradient_checkpointing=recompute).train()
        features = maps((20, 17), (2, 4, 8), 2)
        torch.manual_seed(4)
        net(torch.randn(2, 2, 20, 17), features)[0].square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", DECODERS)
def test_export(make: Any) -> None:
    net = make(3, (2, 4, 8)).eval()
    image, features = torch.randn(2, 2, 9, 8, 11), maps((9, 8, 11), (2, 4, 8), 3)
    program = torch.export.export(net, (image, features))
    for a, b in zip(program.module()(image, features), net(image, features), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", DECODERS)
def test_autocast_is_close(make: Any) -> None:
    net = make(2, (2, 4, 8)).eval()
    image, features = torch.randn(2, 2, 32, 32), maps((32, 32), (2, 4, 8), 2)
    exact = net(image, features)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(image, features)[0].float()
    assert (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_instance_norm_is_torchs(training: bool, rank: int) -> None:
    norm = InstanceNorm(3).train(training)
    with torch.no_grad():
        norm.weight.normal_()  # type: ignore[union-attr]
        norm.bias.normal_()  # type: ignore[union-attr]
    x = torch.randn(2, *(5, 4, 6)[:rank], 3).movedim(-1, 1).requires_grad_()
    y = x.detach().clone().requires_grad_()
    expected = F.instance_norm(y, weight=norm.weight, bias=norm.bias)
    got = norm(x)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    single = InstanceNorm(3).train(training)(torch.randn(2, 3, *(1,) * rank))
    torch.testing.assert_close(single, torch.zeros_like(single), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_without_gradients_is_accurate(dtype: torch.dtype) -> None:
    """A large mean and many positions: torch's batch norm is off by 1e-2 here."""
    torch.manual_seed(0)
    x = (torch.randn(2, 5, 64, 64, 64) + 30).to(memory_format=torch.channels_last_3d).to(dtype)
    expected = F.instance_norm(x.double())
    with torch.inference_mode():
        got = InstanceNorm(5)(x)
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


def test_residual_conv_shortcut() -> None:
    """With the second norm's gain at zero only the shortcut is left."""
    block = ResidualConv(3, 3, 2)
    with torch.no_grad():
        block.norm2.weight.zero_()  # type: ignore[union-attr]
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(block(x), F.leaky_relu(x, 0.01))


def test_unfold_factors_order() -> None:
    """Position (2, 3) with factors (2, 2) fills rows 4..5 and columns 6..7, in raster order."""
    x = torch.zeros(1, 3, 4, 4, 1)
    x[0, 2, 3, :, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = unfold_factors(x, (2, 2))[0, :, :, 0]
    assert y[4:6, 6:8].tolist() == [[1, 2], [3, 4]]
    assert y.sum() == 10


def test_patch_expand_by_hand() -> None:
    """An identity projection moves channel 2 f + c of a position to its offset f, channel c."""
    expand = PatchExpand(4, 2, 2, rank=1)
    with torch.no_grad():
        expand.proj.weight.copy_(torch.eye(4))
    expand.norm = nn.Identity()
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    assert expand(x).tolist() == [[[1, 2], [3, 4], [5, 6], [7, 8]]]


def test_carafe_by_hand() -> None:
    """Constant logits weigh the 3 neighbours equally; one large logit picks its neighbour."""
    expand = CarafeExpand(1, 1, 2, rank=1)
    x = torch.tensor([[[3.0], [6.0], [12.0]]])
    with torch.no_grad():
        expand.proj.weight.fill_(1.0)
        expand.encode.conv.weight.zero_()
        expand.encode.conv.bias.zero_()  # type: ignore[union-attr]
        assert expand(x).flatten().tolist() == pytest.approx([3, 3, 7, 7, 6, 6])
        expand.encode.conv.bias[2] = 50.0  # type: ignore[index]  # offset 0 looks to the right
        assert expand(x).flatten().tolist() == pytest.approx([6, 3, 12, 7, 0, 6])


@pytest.mark.parametrize("rank", [2, 3])
def test_carafe_is_unfold_and_softmax(rank: int) -> None:
    """Against a loop over positions, weights from the module's own prediction."""
    torch.manual_seed(0)
    expand = CarafeExpand(8, 3, 2, rank).double()
    x = torch.randn(1, *(4, 3, 5)[:rank], 8, dtype=torch.float64)
    weights = expand.encode(expand.compress(x)).unflatten(-1, (2**rank, 3**rank)).softmax(-1)
    values = F.pad(expand.proj(x), [0, 0] + [1, 1] * rank)
    out = expand(x)
    for p in torch.cartesian_prod(*(torch.arange(2 * n) for n in x.shape[1:-1])).tolist():
        low = [v // 2 for v in p]
        offset = sum((v % 2) * 2 ** (rank - 1 - a) for a, v in enumerate(p))
        around = values[(0, *(slice(v, v + 3) for v in low))].reshape(-1, 3)
        expected = (weights[(0, *low, offset)][:, None] * around).sum(0)
        # The softmax is in float32 whatever the input.
        torch.testing.assert_close(out[(0, *p)], expected, atol=1e-6, rtol=1e-6)


def test_neighbourhoods_are_raster_ordered() -> None:
    x = torch.arange(6.0).view(1, 2, 3, 1) + 1
    got = neighbourhoods(x, 3)[0, 0, 1, :, 0]
    assert got.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]


def test_errors_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="multiple"):
        ResidualDecoder(2, 1, (4, 8), (2, 3))
    with pytest.raises(UsageError, match="at least 2"):
        ResidualDecoder(2, 1, (4,), (2,))
    with pytest.raises(UsageError, match="one of each"):
        ExpandingDecoder(2, (4, 8), (2, 4), [], (1, 1))


@pytest.mark.parametrize(("rank", "stride"), [(1, 2), (2, (1, 2)), (3, 2), (3, (1, 2, 3))])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_strided_residual_convolution_rounds_up(rank: int, stride: Any, kernel: int) -> None:
    """Its shortcut reads every stride-th position, as a strided 1-wide convolution would."""
    down = ResidualDownConfig(stride=stride, kernel=kernel).build(3, 5, rank)
    per_axis = (stride,) * rank if isinstance(stride, int) else stride
    for size in ((7, 5, 4), (1, 2, 3), (8, 6, 9)):
        x = torch.randn(2, *size[:rank], 3)
        wanted = [-(-s // v) for s, v in zip(size, per_axis, strict=False)]
        assert down(x).shape == (2, *wanted, 5)
    nn.init.zeros_(down.norm2.weight)
    picked = x[(slice(None), *(slice(None, None, v) for v in per_axis))].movedim(-1, 1)
    torch.testing.assert_close(down(x), down.act(down.shortcut(picked)).movedim(1, -1))


def test_nearest_up_repeats_what_a_convolution_after_it_would_give() -> None:
    up = NearestUp(3, 4, (2, 1, 3))
    x = torch.randn(2, 3, 2, 5, 1)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(3, 4)
    torch.testing.assert_close(up(x), up.conv(repeated))


def test_added_skips_have_no_weights() -> None:
    plain, added = expanding(2, (2, 4, 8)), adding(2, (2, 4, 8))
    gone = {k for k in plain.state_dict() if k not in added.state_dict()}
    assert gone == {k for k in plain.state_dict() if k.startswith("joins.")} != set()
    x, level = torch.randn(1, 4, 5, CHANNELS[0]), torch.randn(1, 4, 5, CHANNELS[0])
    assert torch.equal(added.join(0, x, level), x + level)  # type: ignore[operator]


@pytest.mark.parametrize("image", [False, True])
def test_levels_given_as_modules(image: bool) -> None:
    """One join for each map makes the image the finest level; one less leaves it out."""
    dims, first = [2, *CHANNELS], 0 if image else 1
    joins = [
        UpJoin(
            NearestUp(dims[i + 1], dims[i + 1], (2, 2)),
            nn.Identity(),
            ResidualConv(dims[i] + dims[i + 1], dims[i], 2),
        )
        for i in range(first, 3)
    ]
    last = ResidualConv(dims[first], dims[first], 2)
    decoder = JoinDecoder(nn.Identity(), joins, dims[first:-1], last=last)
    out = decoder(torch.randn(2, 2, 7, 13), maps((7, 13), (2, 4, 8), 2))
    sizes = [(7, 13), (4, 7), (2, 4)][first:]
    assert [m.shape for m in out] == [
        (2, c, *s) for c, s in zip(decoder.channels, sizes, strict=True)
    ]
