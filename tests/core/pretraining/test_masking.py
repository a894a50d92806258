"""Masks: how much they hide, in which form, and that a seed decides."""

from __future__ import annotations

import math

import pytest
import torch

from core.errors import UsageError
from core.pretraining.masking import (
    box_mask,
    enlarge,
    noise_like,
    partners,
    random_mask,
    uniform,
    unit_grid,
)

GRIDS = [(37,), (7, 9), (5, 7, 5)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("units", GRIDS)
@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.9, 0.999])
def test_random_mask_hides_exactly_its_share(units, ratio) -> None:
    mask = random_mask(6, units, ratio, seeded())
    n = math.prod(units)
    assert mask.shape == (6, *units)
    wanted = min(max(round(ratio * n), 1), n - 1)
    assert mask.flatten(1).sum(1).tolist() == [wanted] * 6


def test_random_mask_hides_each_unit_equally_often() -> None:
    drawn = random_mask(4000, (3, 4), 0.75, seeded()).float().mean(0)
    # A mean of 4000 draws at 0.75 has a standard deviation of 0.007.
    assert (drawn - 0.75).abs().max() < 0.035
    one = random_mask(2, (3, 4), 0.5, seeded(1))
    assert torch.equal(one, random_mask(2, (3, 4), 0.5, seeded(1)))
    assert not torch.equal(one[0], one[1])


def test_a_single_unit_cannot_be_partly_hidden() -> None:
    with pytest.raises(UsageError, match="cannot be partly hidden"):
        random_mask(1, (1, 1), 0.9)


@pytest.mark.parametrize("units", [(60,), (20, 24), (12, 14, 12)])
@pytest.mark.parametrize("share", [0.3, 0.75])
def test_boxes_reach_their_share_and_little_more(units, share) -> None:
    largest = math.prod(max(1, int(0.3 * n)) for n in units) / math.prod(units)
    for seed in range(5):
        hidden = float(box_mask(units, share, 0.3, seeded(seed)).float().mean())
        assert share <= hidden <= share + largest


def test_boxes_are_groups_of_connected_patches() -> None:
    """A hidden patch has a hidden neighbour far more often than one hidden alone would."""
    group = box_mask((40, 40), 0.3, 0.3, seeded())
    alone = random_mask(1, (40, 40), float(group.float().mean()), seeded())[0]

    def shared(mask: torch.Tensor) -> float:
        return float((mask[1:] & mask[:-1]).sum() / mask[1:].sum())

    assert shared(group) > 0.75
    assert shared(alone) < 0.45


def test_boxes_never_hide_all_and_stop_at_nothing() -> None:
    for seed in range(20):
        assert not box_mask((3, 2), 1.0, 1.0, seeded(seed)).all()
    assert not box_mask((3, 2), 0.0, 1.0).any()
    assert not box_mask((1, 1), 0.9, 1.0).any()


def test_enlarge_repeats_units_and_crops() -> None:
    mask = torch.tensor([[[True, False], [False, True]]])
    voxels = enlarge(mask, (2, 3), (3, 5))
    assert voxels.int().tolist() == [[[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]]
    assert unit_grid((3, 5), (2, 3)) == [2, 2]


def test_partners_are_others() -> None:
    for seed in range(10):
        other = partners(5, seeded(seed))
        assert not (other == torch.arange(5)).any()
        assert set(other.tolist()) <= set(range(5))
    assert partners(1).tolist() == [0]


def test_noise_has_the_images_own_statistics() -> None:
    image = torch.randn(2, 3, 40, 40) * torch.tensor([1.0, 50.0, 0.1]).view(1, 3, 1, 1) + 7
    noise = noise_like(image, seeded())
    for axis in (0, 1):
        assert torch.allclose(noise[axis].std((1, 2)), image[axis].std((1, 2)), rtol=0.1)
    assert torch.allclose(noise.mean((2, 3)), image.mean((2, 3)), atol=0.2 * 50)
    assert noise_like(torch.full((1, 1, 4), 3.0)).tolist() == [[[3.0] * 4]]


def test_uniform_stays_in_its_range() -> None:
    drawn = uniform(0.5, 0.75, 200, seeded())
    assert 0.5 <= min(drawn) < 0.52
    assert 0.73 < max(drawn) < 0.75
