from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from core.errors import DataError
from core.training.config import TrainConfig
from core.training.optim import (
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Conv2d(3, 1, 1, bias=False))


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    network(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_norms_and_biases_do_not_decay() -> None:
    network = make()
    groups = build_optimizer(network, TrainConfig(max_steps=1, weight_decay=0.3)).param_groups
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [[names[p] for p in group["params"]] for group in groups] == [
        ["0.weight", "2.weight"],
        ["0.bias", "1.weight", "1.bias"],
    ]


def test_parameters_learn_at_their_share_of_the_rate() -> None:
    """A first step of Adam is as long as the rate, whatever the gradient; a share of 0 is none."""
    network = make()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    config = TrainConfig(max_steps=1, lr=0.1, weight_decay=0.0)
    rates = {"0.weight": 0.25, "0.bias": 0.25, "2.weight": 0.0, "no.parameter": 3.0}
    optimizer = build_optimizer(network, config, rates)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)
    set_learning_rate(optimizer, 0.1)
    step(network, optimizer, 1)
    moved = {n: (p - before[n]).abs().max().item() for n, p in network.named_parameters()}
    assert moved == pytest.approx(
        {"0.weight": 0.025, "0.bias": 0.025, "1.weight": 0.1, "1.bias": 0.1, "2.weight": 0.0},
        rel=0.01,
    )


def test_frozen_parameters_stay() -> None:
    network = make()
    network[0].requires_grad_(False)
    optimizer = build_optimizer(network, TrainConfig(max_steps=1))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
    with pytest.raises(DataError, match="no parameter to train"):
        build_optimizer(network.requires_grad_(False), TrainConfig(max_steps=1))


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adamw"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.0}],
)
def test_state_survives_as_named_tensors(settings: dict[str, object]) -> None:
    config = TrainConfig(max_steps=1, lr=0.1, **settings)
    network = make()
    optimizer = build_optimizer(network, config)
    step(network, optimizer, 1)
    step(network, optimizer, 2)
    saved = {name: value.clone() for name, value in optimizer_tensors(network, optimizer).items()}
    if settings["optimizer"] == "adamw":
        assert {"0.weight:exp_avg", "0.weight:exp_avg_sq", "0.weight:step"} <= saved.keys()
        assert len(saved) == 15
    other = copy.deepcopy(network)
    restored = build_optimizer(other, config)
    restore_optimizer(other, restored, saved, "here")
    step(network, optimizer, 3)
    step(other, restored, 3)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_state_of_another_network_is_refused() -> None:
    network = make()
    optimizer = build_optimizer(network, TrainConfig(max_steps=1))
    with pytest.raises(DataError, match=r"here: .*'9\.weight'"):
        restore_optimizer(network, optimizer, {"9.weight:exp_avg": torch.zeros(1)}, "here")
