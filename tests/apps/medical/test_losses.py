"""Losses: what they reduce to, and what their focal part is for."""

from __future__ import annotations

import pytest
import torch

from apps.medical.losses import LOSSES, DiceFocal, make_loss
from core.errors import UsageError


def example(rank: int = 3, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    grid = (7, 6, 5)[:rank]
    logits = torch.randn(2, classes, *grid, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (2, 1, *grid), generator=generator)


@pytest.mark.parametrize("rank", [2, 3])
def test_focal_with_gamma_zero_is_cross_entropy(rank):
    logits, classes = example(rank)
    torch.testing.assert_close(
        DiceFocal(gamma=0.0)(logits, classes), make_loss("dice_ce")(logits, classes)
    )


def test_focal_part_is_the_papers_equation():
    logits, classes = example()
    own = torch.log_softmax(logits, 1).gather(1, classes)
    wanted = (-((1 - own.exp()) ** 2) * own).mean()
    found = DiceFocal(2.0)
    torch.testing.assert_close(found(logits, classes) - found.dice(logits, classes), wanted)


def test_a_false_alarm_costs_though_there_is_no_lesion():
    """Dice alone cannot tell alarms apart where nothing is to be found: all of them score 1."""
    classes = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    quiet, alarm = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    quiet[:, 0] = alarm[:, 0] = 4
    alarm[:, 1, 2:5, 2:5] = 8
    loss = make_loss("dice_focal")
    assert isinstance(loss, DiceFocal)
    focal = [float(loss(x, classes) - loss.dice(x, classes)) for x in (quiet, alarm)]
    assert focal[1] > 10 * focal[0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_can_be_learnt_from(name):
    logits, classes = example()
    logits.requires_grad_()
    loss = make_loss(name)(logits, classes)
    assert loss.ndim == 0
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().amin(dim=(0, 2, 3, 4)).gt(0).all()


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'dice_focal'"):
        make_loss("dice_focul")  # type: ignore[arg-type]
