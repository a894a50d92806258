"""What every forecaster shares: its shape, its registry, and the normalisation of a window.

Letters: B windows, L = ``lookback`` stamps, H = ``horizon`` stamps to come, N targets ("variates"),
P covariates known up to the present, K covariates known ahead (calendar features come last), Q
numbers forecast for each target and stamp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from apps.timeseries import catalog
from core.errors import UsageError, unknown

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What goes in and out: see the module's letters."""

    lookback: int
    horizon: int
    variates: int
    past: int = 0
    known: int = 0
    outputs: int = 1

    def __post_init__(self) -> None:
        for name in ("lookback", "horizon", "variates", "outputs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: must be 1 or more.")
        for name in ("past", "known"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} {getattr(self, name)}: must be 0 or more.")


class Forecaster(nn.Module):
    """x (B, L, N), past (B, L, P), known (B, L + H, K) -> (B, H, N), or (B, H, N, Q) where Q > 1.

    ``past`` and ``known`` are None where the shape has none of them.  A window's forecast depends
    on that window alone, never on the others of its batch, and on nothing after its L stamps but
    ``known``.  Values come scaled per target by statistics of the training rows; what else a model
    normalises it undoes.
    """

    forward_methods = ("training_loss",)  # core.training calls it as it calls forward

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def training_loss(
        self, x: Tensor, y: Tensor, past: Tensor | None, known: Tensor | None, loss: Loss
    ) -> Tensor:
        """What training minimises, by ``loss`` (forecast, truth) -> scalar: that of the forecast of y.

        Models that learn from more of a window than its end say so in theirs.
        """
        return loss(self(x, past, known), y)

    def fit_statistics(self, train: Tensor) -> None:
        """Set buffers from scaled training rows (T, N), before training. Most models have none."""


F = TypeVar("F", bound=type[Forecaster])

_MODELS: dict[str, tuple[type, type[Forecaster]]] = {}


def register(name: str, config: type) -> Callable[[F], F]:
    """Class decorator: ``name`` (an entry of the catalog) and its frozen config dataclass."""

    def add(model: F) -> F:
        _MODELS[name] = (config, model)
        return model

    return add


def build(name: str, shape: Shape, **options: Any) -> Forecaster:
    """The model ``name`` with fresh weights.

    Raises UsageError for an unknown model or option, naming the nearest, for covariates that the
    model cannot use, and for a shape that it cannot have.
    """
    entry = catalog.model(name)
    config, module = _load(entry.name)
    known = [f.name for f in dataclasses.fields(config)]
    for option in options:
        if option not in known:
            raise UsageError(unknown(f"option of model {entry.name!r}", option, known))
    for kind in ("past", "known"):
        if getattr(shape, kind) and kind not in entry.covariates:
            able = [m.name for m in catalog.MODELS.values() if kind in m.covariates]
            raise UsageError(
                f"model {entry.name}: cannot use {kind} covariates; leave them out or use one of "
                f"{', '.join(able)}."
            )
    for option, value in options.items():
        _check_kind(entry.name, option, value, option_defaults(entry.name)[option])
    try:
        return module(config(**options), shape)  # type: ignore[call-arg]
    except _WRONG_VALUE as error:
        defaults = option_defaults(entry.name)
        changed = [f"{k} {v}" for k, v in options.items() if v != defaults[k]]
        text = str(error).splitlines()[0]
        if not changed or (isinstance(error, RuntimeError) and "negative dim" not in text):
            raise
        raise UsageError(
            f"model {entry.name}: cannot be built with {', '.join(changed)} ({text}); correct what "
            "--set gave it"
        ) from error


_WRONG_VALUE = (TypeError, ValueError, ZeroDivisionError, RuntimeError)
"""What PyTorch and Python raise for a size or share that cannot be."""


def _check_kind(model: str, option: str, value: Any, default: Any) -> None:
    """UsageError where an option is of another kind than its default, or of a size that none has."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right, want = True, ""
    if isinstance(default, bool):
        right, want = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        least = 1 if option in ("dim", "ffn", "embed") else 0
        right, want = type(value) is int and value >= least, f"a whole number, {least} or more"
    elif option == "dropout":
        right, want = number and 0 <= value < 1, "a number from 0 to below 1"
    elif isinstance(default, float):
        right, want = number, "a number"
    elif isinstance(default, str):
        right, want = isinstance(value, str), "a word"
    if not right:
        raise UsageError(f"model {model}: {option} {value}: must be {want}")


def option_defaults(name: str) -> dict[str, Any]:
    """Every option of the model ``name`` and its default."""
    config, _ = _load(catalog.model(name).name)
    return {f.name: f.default for f in dataclasses.fields(config)}


def _load(name: str) -> tuple[type, type[Forecaster]]:
    from importlib import import_module

    if name not in _MODELS:
        import_module(f"apps.timeseries.models.{catalog.MODELS[name].module}")
    return _MODELS[name]


def standardise(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Each window's targets with mean 0 and variance 1, and how to undo it.

    (B, L, N) -> (x - mean) / std, mean and std (B, 1, N); std = sqrt(population variance + eps).
    No gradient flows through mean and std (Liu et al., "Non-stationary Transformers", NeurIPS 2022;
    as in iTransformer's code).  A constant window becomes zeros and a std of sqrt(eps).
    """
    mean = x.mean(1, keepdim=True).detach()
    x = x - mean
    # The mean of squares, not var: 0.008 against 0.115 ms for 32 windows of 96 x 7.
    std = torch.sqrt(x.square().mean(1, keepdim=True) + eps).detach()
    return x / std, mean, std


def restore(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of ``standardise`` for forecasts (B, H, N) or (B, H, N, Q)."""
    if y.ndim == 4:
        mean, std = mean.unsqueeze(-1), std.unsqueeze(-1)
    return y * std + mean


def split_outputs(y: Tensor, shape: Shape) -> Tensor:
    """A head's (B, N, H * Q) -> (B, H, N) or (B, H, N, Q)."""
    if shape.outputs == 1:
        return y.transpose(1, 2)
    return y.unflatten(-1, (shape.horizon, shape.outputs)).transpose(1, 2)
