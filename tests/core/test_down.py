"""Down-sampling in series."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from core.down import ConvDownConfig, MergeDownConfig, SeriesDownConfig, conv_stem
from core.errors import UsageError

HALF = ConvDownConfig(kernel=3, stride=2, padding=1)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("patch", [1, 2, 3, 4, 5, 6, 8, 16])
@torch.no_grad()
def test_a_stem_reaches_any_stride_at_any_size(patch: int, rank: int) -> None:
    for steps in (2, 4):
        config = conv_stem(patch, rank, [3] * (steps - 1))
        assert len(config.steps) == steps
        assert config.stride == patch
        stem = config.build(2, 5, rank)
        size = (7, 1, 3)[:rank]
        y = stem(torch.randn(2, *size, 2))
        assert y.shape == (2, *(math.ceil(s / patch) for s in size), 5)


def test_strides_are_shared_out_evenly() -> None:
    strides = [s.stride for s in conv_stem(16, 1, [1, 1, 1]).steps]
    assert strides == [(2,), (2,), (2,), (2,)]
    assert [s.stride for s in conv_stem((4, 1), 2, [1]).steps] == [(2, 1), (2, 1)]
    assert conv_stem((4, 1), 2, [1]).stride == (4, 1)


@torch.no_grad()
def test_a_series_is_its_layers_with_the_activation_between() -> None:
    torch.manual_seed(0)
    series = SeriesDownConfig(steps=(HALF, HALF), dims=(4,), act="relu").build(2, 3, 2)
    x = torch.randn(1, 9, 6, 2)
    first, second = series.steps
    torch.testing.assert_close(series(x), second(first(x).relu()))
    torch.testing.assert_close(series(x, [3, 2]), series(x))


@torch.no_grad()
def test_a_batch_norm_after_the_convolution() -> None:
    config = ConvDownConfig(kernel=3, stride=2, padding=1, norm_after="batch", bias=False)
    down = config.build(2, 4, 2).train()
    assert isinstance(down.norm_after, nn.Module)
    y = down(torch.randn(8, 9, 9, 2) * 5 + 3)
    torch.testing.assert_close(y.mean((0, 1, 2)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 1, 2)), torch.ones(4), atol=1e-2, rtol=0)


def test_mistakes_are_explained() -> None:
    for dims in [(), (1, 2)]:
        with pytest.raises(UsageError, match="one fewer than layers"):
            SeriesDownConfig(steps=(HALF, HALF), dims=dims).build(1, 1, 1)
    with pytest.raises(UsageError, match="at least one layer"):
        SeriesDownConfig(steps=(), dims=())
    with pytest.raises(UsageError, match=r"padding .* one per axis of rank 2"):
        ConvDownConfig(kernel=3, stride=2, padding=(1,)).build(1, 1, 2)
    with pytest.raises(UsageError, match="Did you mean 'last'"):
        MergeDownConfig(order="lats").build(1, 2, 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Did you mean 'relu'"):
        SeriesDownConfig(steps=(HALF,), dims=(), act="rellu").build(1, 1, 1)
    with pytest.raises(UsageError, match="stride"):
        _ = SeriesDownConfig(
            steps=(conv_stem((2, 1), 2, []), conv_stem((2, 1, 2), 3, [])), dims=(1,)
        ).stride
