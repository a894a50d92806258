"""Weights of tasks: the paper's gradient, its equilibrium, and a state that survives a restart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from apps.driving.training.balance import Balance, GradNorm, Uncertainty, make_balance
from apps.driving.training.config import GradNormConfig
from core.errors import UsageError


class Toy(nn.Module):
    """A shared layer and a head per task; task i's loss is ``scales[i]`` times as large."""

    def __init__(self, scales: list[float], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.shared = nn.Linear(6, 5)
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in scales)
        self.scales = scales

    def losses(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.shared(x))
        found = [s * head(hidden).square().mean() for s, head in zip(self.scales, self.heads)]
        return torch.stack(found)


def _norms(toy: Toy, x: Tensor) -> Tensor:
    """|grad_W L_i|, one task at a time."""
    found = []
    for i in range(len(toy.scales)):
        grads = torch.autograd.grad(toy.losses(x)[i], list(toy.shared.parameters()))
        found.append(torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros(()))))
    return torch.stack(found)


def test_the_step_is_the_papers_gradient() -> None:
    """Against autograd through the norms themselves, graph of second order and all."""
    toy, x = Toy([1.0, 3.0, 0.2]), torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    config = GradNormConfig(alpha=1.5, lr=0.02, warmup=1, smoothing=0.0)
    balance = GradNorm([1.0, 1.0, 1.0], config)
    first = toy.losses(x)
    balance(first, list(toy.shared.parameters()))  # sets the initial losses
    with torch.no_grad():
        for p in toy.parameters():
            p.mul_(0.9)
    v = torch.zeros(3, requires_grad=True)  # log w
    w = v.exp()
    losses = toy.losses(x)
    strength = []
    for i in range(3):
        grads = torch.autograd.grad(
            w[i] * losses[i], list(toy.shared.parameters()), create_graph=True
        )
        strength.append(torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros(()))))
    g = torch.stack(strength)
    ratio = losses.detach() / first.detach()
    target = (g.mean() * (ratio / ratio.mean()) ** 1.5).detach()
    (slope,) = torch.autograd.grad((g - target).abs().sum(), v)
    moved = torch.exp(-0.02 * slope / g.detach().mean())
    balance(toy.losses(x), list(toy.shared.parameters()))
    torch.testing.assert_close(balance.current(), moved * 3 / moved.sum())


def test_without_alpha_tasks_come_to_pull_equally_hard() -> None:
    toy, x = Toy([1.0, 20.0, 0.3]), torch.randn(32, 6, generator=torch.Generator().manual_seed(2))
    config = GradNormConfig(alpha=0.0, lr=0.01, warmup=1, span=1000.0)
    balance = GradNorm([1.0, 1.0, 1.0], config)
    before = _norms(toy, x)
    for _ in range(1000):  # the network stands still: only the weights move
        balance(toy.losses(x), list(toy.shared.parameters()))
    strength = before * balance.current()
    assert float(before.max() / before.min()) > 5
    assert float(strength.max() / strength.min()) < 1.2
    assert math.isclose(float(balance.current().sum()), 3.0, rel_tol=1e-5)


def test_a_task_that_learns_slowly_is_pushed() -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    toy = Toy([1.0, 1.0])
    with torch.no_grad():  # the same task twice
        toy.heads[1].load_state_dict(toy.heads[0].state_dict())
    balance = GradNorm([1.0, 1.0], GradNormConfig(alpha=1.0, lr=0.01, warmup=1, smoothing=0.0))
    shared = list(toy.shared.parameters())
    balance(toy.losses(x), shared)
    balance.initial[1] *= 4  # the second has come down to a quarter, the first has learnt nothing
    for _ in range(50):
        balance(toy.losses(x), shared)
    weights = balance.current()
    assert weights[0] > 1.1 > 0.9 > weights[1]


def test_a_task_out_of_reach_or_left_out_keeps_its_weight() -> None:
    toy, x = Toy([1.0, 10.0, 1.0]), torch.randn(8, 6)
    apart = nn.Parameter(torch.ones(()))
    balance = GradNorm([1.0, 2.0, 0.0, 0.7], GradNormConfig(lr=0.05, warmup=1))
    for _ in range(20):
        losses = torch.cat([toy.losses(x), (apart * 3).view(1)])
        total = balance(losses, list(toy.shared.parameters()))
    weights = balance.current()
    assert weights[2] == 0
    assert weights[3] == pytest.approx(0.7)
    assert float(weights[:2].sum()) == pytest.approx(3.0)
    assert weights[1] != 2.0
    total.backward()
    assert toy.heads[2].weight.grad is None or not toy.heads[2].weight.grad.any()


def test_the_total_uses_the_weights_before_the_step_and_one_backward() -> None:
    toy, x = Toy([1.0, 5.0]), torch.randn(8, 6)
    balance = GradNorm([1.0, 1.0], GradNormConfig(lr=0.1, warmup=1))
    for _ in range(5):
        before, losses = balance.current(), toy.losses(x)
        total = balance(losses, list(toy.shared.parameters()))
        assert float(total.detach()) == pytest.approx(float((before * losses).detach().sum()))
    assert all(p.grad is None for p in toy.parameters())  # the norms left nothing behind
    total.backward()
    expected = torch.autograd.grad((before * toy.losses(x)).sum(), toy.shared.weight)[0]
    torch.testing.assert_close(toy.shared.weight.grad, expected)


def test_its_state_goes_on_where_it_was() -> None:
    toy, x = Toy([1.0, 5.0]), torch.randn(8, 6)
    config, shared = GradNormConfig(warmup=3), list(toy.shared.parameters())
    one = GradNorm([1.0, 1.0], config)
    for step in range(10):
        if step in (2, 6):  # in the warm-up and after it
            other = GradNorm([1.0, 1.0], config)
            other.load_state_dict(one.state_dict())
            one = other
        one(toy.losses(x), shared)
    whole = GradNorm([1.0, 1.0], config)
    for _ in range(10):
        whole(toy.losses(x), shared)
    assert torch.equal(one.current(), whole.current())


def test_between_its_turns_the_weights_rest() -> None:
    toy, x = Toy([1.0, 5.0]), torch.randn(8, 6)
    balance, shared = (
        GradNorm([1.0, 1.0], GradNormConfig(warmup=3, every=4)),
        list(toy.parameters()),
    )
    seen = []
    for _ in range(10):
        balance(toy.losses(x), shared[:2])
        seen.append(balance.current().tolist())
    changes = [i for i in range(1, 10) if seen[i] != seen[i - 1]]
    assert changes == [4, 8]


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    toy, x = Toy([1.0, 5.0]), torch.randn(8, 6)
    balance, shared = GradNorm([1.0, 1.0], GradNormConfig(warmup=1)), list(toy.shared.parameters())
    for _ in range(4):
        balance(toy.losses(x), shared)
    before = {k: v.clone() for k, v in balance.state_dict().items()}
    balance(toy.losses(x * math.nan), shared)
    assert all(torch.equal(before[k], v) for k, v in balance.state_dict().items())


def test_in_evaluation_it_stands_still() -> None:
    toy, x = Toy([1.0, 5.0]), torch.randn(8, 6)
    balance = GradNorm([1.0, 1.0], GradNormConfig(warmup=1)).eval()
    with torch.no_grad():
        balance(toy.losses(x), list(toy.shared.parameters()))
    assert int(balance.seen) == 0


def test_uncertainty_finds_the_scale_of_each_loss() -> None:
    """exp(-s) L + s is least where the weight exp(-s) is 1 / L; exp(-s) L + s / 2 where 1 / 2 L."""
    losses = torch.tensor([0.2, 3.0, 0.5, 1.0])
    balance = Uncertainty([1.0, 1.0, 0.0, 2.0], [False, True, False, False])
    assert balance.current().tolist() == pytest.approx([1.0, 1.0, 0.0, 2.0])
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        balance(losses, ()).backward()
        optimizer.step()
    assert balance.current().tolist() == pytest.approx([5.0, 1 / 6, 0.0, 1.0], rel=0.02)


def test_fixed_weights_are_a_weighted_sum() -> None:
    balance = Balance([1.0, 0.5, 0.0])
    assert float(balance(torch.tensor([2.0, 4.0, 100.0]), ())) == 4.0
    assert not list(balance.parameters())


def test_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="gradnorm"):
        make_balance("gradnrm", [1.0], [False])  # type: ignore[arg-type]
