"""The two losses against the paper's formulas, written out."""

from __future__ import annotations

import pytest
import torch

from apps.medical.classification.distillation import Distillation, distillation_loss

LOGITS = torch.tensor([[[1.0, -0.5, 0.2], [0.3, 0.1, -1.0]], [[0.0, 2.0, 0.5], [-1.0, 0.4, 0.9]]])
LABELS = torch.tensor([2, 1])
TEACHER = torch.tensor([[0.1, 0.9, 0.0], [3.0, -1.0, 0.5]])


def entropy_of(rows: torch.Tensor, at: list[int]) -> torch.Tensor:
    """Mean cross-entropy, by its definition."""
    p = rows.exp() / rows.exp().sum(1, keepdim=True)
    return -torch.stack([p[i, k].log() for i, k in enumerate(at)]).mean()


def test_hard_distillation_is_half_of_each() -> None:
    loss, parts = distillation_loss(LOGITS, LABELS, TEACHER, Distillation(kind="hard"), 0.0)
    own, taught = entropy_of(LOGITS[:, 0], [2, 1]), entropy_of(LOGITS[:, 1], [1, 0])
    torch.testing.assert_close(loss, 0.5 * own + 0.5 * taught)
    assert parts == pytest.approx({"label_loss": float(own), "teacher_loss": float(taught)})


@pytest.mark.parametrize(("alpha", "tau"), [(None, 3.0), (0.7, 1.0)])
def test_soft_distillation_is_the_divergence_at_a_temperature(alpha, tau) -> None:
    settings = Distillation(kind="soft", alpha=alpha, tau=tau)
    loss, _ = distillation_loss(LOGITS, LABELS, TEACHER, settings, 0.0)
    t = (TEACHER / tau).softmax(1)
    s = (LOGITS[:, 1] / tau).softmax(1)
    taught = tau**2 * (t * (t / s).log()).sum(1).mean()
    weight = 0.1 if alpha is None else alpha
    own = entropy_of(LOGITS[:, 0], [2, 1])
    torch.testing.assert_close(loss, (1 - weight) * own + weight * taught)


def test_a_teacher_that_agrees_costs_nothing() -> None:
    settings = Distillation(kind="soft", alpha=1.0)
    loss, _ = distillation_loss(LOGITS, LABELS, LOGITS[:, 1], settings)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_without_a_token_one_head_hears_both() -> None:
    loss, _ = distillation_loss(LOGITS[:, 0], LABELS, TEACHER, Distillation(), 0.0)
    wanted = (entropy_of(LOGITS[:, 0], [2, 1]) + entropy_of(LOGITS[:, 0], [1, 0])) / 2
    torch.testing.assert_close(loss, wanted)


def test_each_head_learns_from_its_own_source_and_the_teacher_from_none() -> None:
    logits, teacher = LOGITS.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    settings = Distillation(kind="soft", alpha=1.0)
    distillation_loss(logits, LABELS, teacher, settings)[0].backward()
    assert teacher.grad is None
    assert logits.grad is not None
    assert not logits.grad[:, 0].any()
    assert logits.grad[:, 1].any()


def test_labels_are_smoothed_and_verdicts_are_not() -> None:
    sharp, parts = distillation_loss(LOGITS, LABELS, TEACHER, Distillation(), 0.0)
    smooth, smoothed = distillation_loss(LOGITS, LABELS, TEACHER, Distillation(), 0.1)
    assert smoothed["label_loss"] != parts["label_loss"]
    assert smoothed["teacher_loss"] == parts["teacher_loss"]
    assert float(sharp) != float(smooth)
