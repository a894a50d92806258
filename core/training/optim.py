"""Optimisers, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.errors import DataError
from core.training.config import TrainConfig

SHARE = "share"
"""Of the learning rate, in a group of parameters."""


def build_optimizer(
    network: nn.Module, config: TrainConfig, rates: Mapping[str, float] | None = None
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with Nesterov momentum, as ``config`` says.

    Parameters with two axes or more decay, the others (norms, biases, scales) do not, nor do those
    that a module names in a tuple ``no_weight_decay`` (a state space's A_log).  ``rates`` gives
    parameters, by name, a share of the learning rate (discriminative fine-tuning, Howard & Ruder
    2018); all others have the whole of it.  Frozen parameters are left out. PyTorch's fused kernels
    are used: one pass over memory.
    """
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    if not trained:
        raise DataError(f"{type(network).__name__} has no parameter to train; unfreeze some")
    kept = {
        getattr(module, name)
        for module in network.modules()
        for name in getattr(module, "no_weight_decay", ())
    }
    shares = {name: (rates or {}).get(name, 1.0) for name in trained}
    groups: list[dict[str, Any]] = [
        {
            "params": [
                p
                for name, p in trained.items()
                if shares[name] == share and (p.ndim > 1 and p not in kept) == decays
            ],
            "weight_decay": config.weight_decay if decays else 0.0,
            SHARE: share,
        }
        for share in sorted(set(shares.values()), reverse=True)
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(
        p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained.values()
    )
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    nesterov = config.momentum > 0
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused
    )


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate; each group has its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[SHARE]


def optimizer_tensors(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """``<parameter name>:<state name>`` -> tensor. Learning rates and decays follow from the config."""
    return {
        f"{name}:{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # SGD keeps momentum_buffer=None until its first step
    }


def restore_optimizer(
    network: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], source: str
) -> None:
    """The inverse of ``optimizer_tensors``. DataError when ``tensors`` name other parameters."""
    parameters = dict(network.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    order = {p: i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    for key, value in tensors.items():
        name, _, kind = key.rpartition(":")
        if name not in parameters or parameters[name] not in order:
            raise DataError(f"{source}: holds optimizer state for unknown parameter '{name}'")
        state.setdefault(order[parameters[name]], {})[kind] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
