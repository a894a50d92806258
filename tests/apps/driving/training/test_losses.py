"""Losses against numbers computed by hand or by another formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from apps.driving.training.config import TASKS
from apps.driving.training.losses import (
    CLASSIFICATION,
    IGNORED,
    Losses,
    class_weights,
    waypoint_loss,
    yes_loss,
    yes_weight,
)


def _case(batch: int = 2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    outputs = {
        "semantics": torch.randn(batch, 3, 4, 6),
        "waypoints": torch.randn(batch, 4, 2),
        "control": torch.tensor([[0.5, 0.2, 0.0]]).repeat(batch, 1),
        "red_light": torch.zeros(batch),
        "stop_sign": torch.zeros(batch),
        "speed": torch.full((batch,), 3.0),
    }
    truth = {
        "semantics": torch.randint(0, 3, (batch, 4, 6)),
        "waypoints": torch.randn(batch, 4, 2),
        "control": torch.tensor([[0.1, 0.7, 1.0]]).repeat(batch, 1),
        "red_light": torch.tensor([1.0, 0.0]).repeat(batch // 2),
        "stop_sign": torch.zeros(batch),
        "speed": torch.full((batch,), 5.0),
    }
    return outputs, truth


def test_each_task_has_its_place() -> None:
    outputs, truth = _case()
    found = dict(zip(TASKS, Losses([1.0] * 3)(outputs, truth).tolist(), strict=True))
    assert found["steer"] == pytest.approx(0.4)
    assert found["throttle"] == pytest.approx(0.5)
    assert found["brake"] == pytest.approx(1.0)
    assert found["speed"] == pytest.approx(2.0)
    assert found["red_light"] == pytest.approx(math.log(2))
    assert found["stop_sign"] == pytest.approx(math.log(2))
    difference = (outputs["waypoints"] - truth["waypoints"]).abs().mean()
    assert found["waypoints"] == pytest.approx(float(difference))
    assert len(CLASSIFICATION) == len(TASKS)


def test_semantics_without_dice_are_weighted_cross_entropy() -> None:
    outputs, truth = _case()
    weights = [0.5, 2.0, 1.0]
    found = Losses(weights, dice=0.0).semantics(outputs["semantics"], truth["semantics"])
    wanted = F.cross_entropy(outputs["semantics"], truth["semantics"], torch.tensor(weights))
    torch.testing.assert_close(found, wanted)


def test_dice_by_hand() -> None:
    """Two classes, four pixels: p(1) is 0.5 everywhere and one pixel is of class 1."""
    labels = torch.tensor([[[1, 0], [0, 0]]])
    losses = Losses([1.0, 1.0], dice=1.0)
    found = losses.semantics(torch.zeros(1, 2, 2, 2), labels) - math.log(2)
    zero, one = 2 * 1.5 / (2 + 3), 2 * 0.5 / (2 + 1)
    assert float(found) == pytest.approx(1 - (zero + one) / 2, abs=1e-4)


def test_a_perfect_answer_costs_nothing() -> None:
    labels = torch.randint(0, 3, (2, 8, 8))
    logits = 50.0 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert float(Losses([1.0] * 3).semantics(logits, labels)) == pytest.approx(0, abs=1e-4)


def test_unknown_pixels_do_not_matter() -> None:
    outputs, truth = _case()
    labels = truth["semantics"].clone()
    labels[:, :, :2] = IGNORED
    losses = Losses([1.0, 2.0, 0.5])
    one = losses.semantics(outputs["semantics"], labels)
    changed = outputs["semantics"].clone()
    changed[..., :2] += 7 * torch.randn(2, 3, 4, 2)
    torch.testing.assert_close(losses.semantics(changed, labels), one)
    nothing = losses.semantics(outputs["semantics"].requires_grad_(), torch.full_like(labels, 255))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not outputs["semantics"].grad.any()  # type: ignore[union-attr]


def test_waypoints_after_the_end_do_not_matter() -> None:
    truth = torch.tensor([[[1.0, 0.0], [math.nan, math.nan]]])
    found = torch.tensor([[[2.0, 0.5], [9.0, 9.0]]], requires_grad=True)
    loss = waypoint_loss(found, truth)
    assert float(loss.detach()) == pytest.approx(0.75)
    loss.backward()
    assert found.grad is not None
    assert torch.isfinite(found.grad).all()
    assert not found.grad[0, 1].any()
    assert float(waypoint_loss(found, torch.full_like(truth, math.nan)).detach()) == 0


def test_a_rare_yes_counts_as_often_as_told() -> None:
    logits, truth = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    thrice = torch.tensor([0.3, 0.3, 0.3, -1.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    wanted = F.binary_cross_entropy_with_logits(*thrice)
    torch.testing.assert_close(yes_loss(logits, truth, 3.0), wanted)


@pytest.mark.parametrize(("share", "weight"), [(0.0, 1.0), (0.5, 1.0), (0.25, 3.0), (0.01, 5.0)])
def test_weight_of_a_yes(share: float, weight: float) -> None:
    assert yes_weight(share, most=5.0) == pytest.approx(weight)


def test_rare_classes_weigh_more_and_pixels_one_on_average() -> None:
    shares = [0.7, 0.25, 0.04, 0.01, 0.0]
    weights = class_weights(shares)
    assert weights == sorted(weights)
    assert weights[0] == pytest.approx(weights[3] * math.log(1.03) / math.log(1.72), rel=1e-3)
    assert sum(w * p for w, p in zip(weights, shares)) == pytest.approx(1.0, rel=1e-3)
