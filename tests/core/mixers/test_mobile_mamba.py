"""The Haar transform, and which channels go where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.mixers import BlockContext, build_mixer, mixer_config
from core.mixers.local_global import LocalGlobal
from core.mixers.mobile_mamba import Far, MobileMamba, Near, haar, unhaar

SIZES = [(6,), (7,), (1,), (4, 6), (5, 3), (1, 8), (2, 4, 6), (3, 1, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_haar_keeps_lengths_and_is_undone(size: tuple[int, ...]) -> None:
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    bands = haar(x)
    assert bands.shape == (2, *(-(-s // 2) for s in size), 3 * 2 ** len(size))
    torch.testing.assert_close(bands.square().sum(), x.square().sum())  # padding adds none
    torch.testing.assert_close(unhaar(bands, torch.Size(size)), x)


def test_bands_of_an_image() -> None:
    """At rank 2: mean, change along rows, change along columns, both; each twice the mean."""
    cell = torch.tensor([[1.0, 2.0], [5.0, 10.0]])
    wanted = torch.tensor([18.0, -12.0, -6.0, 4.0]) / 2  # down the rows first, as in the code
    torch.testing.assert_close(haar(cell[None, ..., None])[0, 0, 0], wanted)
    flat = haar(torch.ones(1, 4, 4, 1))
    torch.testing.assert_close(flat[..., 0], torch.full((1, 2, 2), 2.0))
    assert (flat[..., 1:] == 0).all()


def make(dim: int, rank: int = 2, **options: Any) -> MobileMamba:
    mixer = build_mixer(mixer_config("mobile_mamba", **options), BlockContext(dim=dim, rank=rank))
    assert isinstance(mixer, MobileMamba)
    return mixer.eval()


@pytest.mark.parametrize(
    ("dim", "options", "splits"),
    [
        (144, {}, [112, 28, 4]),  # T2's first stage: int(115.2) is nearest to 7 * 16
        (272, {"far": 0.7}, [192, 54, 26]),
        (368, {"far": 0.6, "near": 0.3}, [224, 110, 34]),
        (200, {}, [160, 40, 0]),
        (8, {}, [0, 1, 7]),  # too narrow for one unit
        (8, {"far": 1.0, "unit": 3}, [8, 0, 0]),
    ],
    ids=str,
)
def test_channels_far_near_and_passing(
    dim: int, options: dict[str, Any], splits: list[int]
) -> None:
    with torch.device("meta"):
        mixer = make(dim, **options)
    assert mixer.splits == splits
    assert isinstance(mixer.far, Far) == (splits[0] > 0)


def test_near_channels_see_a_kernel_and_far_ones_all() -> None:
    torch.manual_seed(0)
    mixer = make(12, rank=1, far=0.33, near=0.34, kernel=3, unit=1)
    assert mixer.splits == [3, 4, 5]
    assert isinstance(mixer.near, Near)
    with torch.no_grad():
        mixer.near.conv.conv.conv.weight.abs_()  # nothing that a ReLU would hide
    x = torch.rand(1, 40, 12)
    moved = x.clone()
    moved[:, 20] += 1.0

    def reach(module: nn.Module, part: slice) -> list[int]:
        with torch.no_grad():
            change: Tensor = module(moved[..., part]) - module(x[..., part])
        return change.abs().amax((0, 2)).nonzero().flatten().tolist()

    assert reach(mixer.near, slice(3, 7)) == [19, 20, 21]
    seen = reach(mixer.far, slice(0, 3))
    assert seen[0] < 10
    assert seen[-1] > 30


@torch.no_grad()
def test_it_starts_as_nothing() -> None:
    """The last norm's gain is 0, so that a residual block begins as an identity."""
    assert (make(8, unit=4)(torch.randn(1, 5, 6, 8)) == 0).all()


@torch.no_grad()
def test_one_gate_weighs_the_local_and_the_global_branch() -> None:
    torch.manual_seed(0)
    mixer = build_mixer(mixer_config("local_global"), BlockContext(dim=8, rank=2)).eval()
    assert isinstance(mixer, LocalGlobal)
    x = torch.randn(2, 5, 6, 8)
    far, near = mixer.mixer(x), mixer.local(x)
    torch.testing.assert_close(mixer(x), mixer.gate(far) + mixer.gate(near))
    weight = mixer.gate(near) / near  # one for each example and channel
    torch.testing.assert_close(weight, weight[:, :1, :1].expand_as(weight), rtol=1e-4, atol=1e-5)
    assert 0 < weight.min() < weight.max() < 1


def test_mistakes_are_explained() -> None:
    for name, options, message in [
        ("mobile_mamba", {"kernel": 4}, "must be odd"),
        ("mobile_mamba", {"unit": 0}, "unit at least 1"),
        ("mobile_mamba", {"near": -0.1}, "at least 0"),
        ("local_global", {"squeeze": 0.0}, "squeeze"),
        ("local_global", {"mixer": "mamba"}, "not a registered mixer"),
        ("inverted_residual", {"expand": 0.0}, "above 0"),
    ]:
        with pytest.raises(UsageError, match=message):
            build_mixer(mixer_config(name, **options), BlockContext(dim=8, rank=2))
