"""Weights of the tasks: one total from a vector of losses, in three ways.

n tasks with losses L (n,) and weights w (n,); total = sum_i w_i L_i. A ``Balance`` is part of the
module that is trained, so its state is in every checkpoint and a resumed run goes on exactly.

Sources: Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm", ICML 2018, algorithm 1; Kendall, Gal,
Cipolla, "Multi-task learning using uncertainty", CVPR 2018, equations 7 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apps.driving.training.config import BalanceName, GradNormConfig
from core.errors import UsageError, unknown


class Balance(nn.Module):
    """Fixed weights, and the interface of the others. A task of weight 0 stays out."""

    start: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor(weights, dtype=torch.float32))

    def current(self) -> Tensor:
        """w (n,), detached."""
        return self.start.clone()

    def forward(self, losses: Tensor, shared: Sequence[Tensor]) -> Tensor:
        """losses (n,) -> total (). ``shared``: the parameters of the last layer all tasks use."""
        del shared
        return (self.start * losses).sum()


class Uncertainty(Balance):
    """Each task's noise is learnt: s_i = log of its scale, from -log of the weights given.

    L1 is the likelihood of a Laplace distribution, L / b + log b with s = log b; for a
    classification it is L / sigma^2 + log sigma with s = log sigma^2 (Kendall's equation 10).
    """

    def __init__(self, weights: Sequence[float], classification: Sequence[bool]) -> None:
        super().__init__(weights)
        active = self.start > 0
        self.s = nn.Parameter(torch.where(active, -self.start.clamp_min(1e-6).log(), 0.0))
        slope = torch.where(torch.tensor(list(classification)), 0.5, 1.0)
        self.register_buffer("slope", slope * active)
        self.register_buffer("active", active.float())

    slope: Tensor
    active: Tensor

    def current(self) -> Tensor:
        return self.active * torch.exp(-self.s.detach())

    def forward(self, losses: Tensor, shared: Sequence[Tensor]) -> Tensor:
        del shared
        return (self.active * torch.exp(-self.s) * losses + self.slope * self.s).sum()


class GradNorm(Balance):
    """Weights that let every task pull equally hard on the shared layer W, slow learners harder.

        G_i = w_i |grad_W L_i|,   r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)),
        minimise sum_i |G_i - mean(G) r_i^alpha| over w, the second term held constant.

    Its gradient is sign(G_i - mean(G) r_i^alpha) |grad_W L_i|: the norms are all it needs, and no
    graph of second order. Then the weights are scaled to their initial sum.

    Deviates from the paper: the step is taken in log w, where the gradient is sign(...) G_i, and is
    divided by mean(G). So ``lr`` is a relative change and means the same on every network; in w itself
    a task of a hundredth of the others' norm would move a hundred times slower than they do. L(0) is
    the mean of the first ``warmup`` steps and L a moving average, for one batch may hold no red light
    at all. A weight stays within ``span`` times its start, up and down. A task whose loss does not
    reach W keeps its weight.
    With ``every`` above 1 the weights rest in between: each norm is a backward pass through what lies
    behind W, eight of them, for ``small`` 1.8 times the rest of a step.
    Deviates from LeTFuser's code: that steps once per epoch, on the last batch, and takes W by an
    index into the list of parameters.
    """

    weights: Tensor
    initial: Tensor
    smooth: Tensor
    seen: Tensor

    def __init__(self, weights: Sequence[float], config: GradNormConfig | None = None) -> None:
        super().__init__(weights)
        self.config = config or GradNormConfig()
        self.register_buffer("weights", self.start.clone())
        self.register_buffer("initial", torch.zeros_like(self.start))
        self.register_buffer("smooth", torch.zeros_like(self.start))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def current(self) -> Tensor:
        return self.weights.clone()

    def forward(self, losses: Tensor, shared: Sequence[Tensor]) -> Tensor:
        # The weights of this step are those before it: a copy, for they change in place below.
        total = (self.weights.clone() * losses).sum()
        if self.training and torch.is_grad_enabled():
            due = int(self.seen) >= self.config.warmup and int(self.seen) % self.config.every == 0
            norms, reached = self._norms(losses, shared) if due else (None, None)
            self._update(losses.detach().float(), norms, reached)
        return total

    def _norms(self, losses: Tensor, shared: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """|grad_W L_i| (n,), and which tasks reach W. Only the layers behind W are walked through."""
        norms = torch.zeros_like(self.start)
        reached = torch.zeros_like(self.start, dtype=torch.bool)
        parameters = [p for p in shared if p.requires_grad]
        for i in torch.nonzero(self.start > 0).flatten().tolist():
            found = torch.autograd.grad(losses[i], parameters, retain_graph=True, allow_unused=True)
            gradients = [g for g in found if g is not None]
            if gradients:
                norms[i] = torch.linalg.vector_norm(
                    torch.stack([g.float().norm() for g in gradients])
                )
                reached[i] = True
        return norms, reached

    @torch.no_grad()
    def _update(self, losses: Tensor, norms: Tensor | None, reached: Tensor | None) -> None:
        config = self.config
        both = _over_processes(torch.stack([losses, losses * 0 if norms is None else norms]))
        if not bool(torch.isfinite(both).all()):
            return  # a step that the loop is going to skip
        losses = both[0]
        self.seen += 1
        count = int(self.seen)
        if count <= config.warmup:
            self.initial += (losses - self.initial) / count
            self.smooth.copy_(self.initial)
            return
        self.smooth.lerp_(losses, 1 - config.smoothing)
        if norms is None or reached is None:
            return
        norms = both[1]
        which = reached & (norms > 0) & (self.initial > 0)
        if int(which.sum()) < 2:
            return
        w, norm = self.weights[which], norms[which]
        ratio = self.smooth[which] / self.initial[which]
        ratio = ratio / ratio.mean()
        strength = w * norm
        target = strength.mean() * ratio**config.alpha
        moved = w * torch.exp(
            -config.lr * torch.sign(strength - target) * strength / strength.mean()
        )
        start = self.start[which]
        moved = torch.minimum(torch.maximum(moved, start / config.span), start * config.span)
        self.weights[which] = moved * (start.sum() / moved.sum())


def _over_processes(values: Tensor) -> Tensor:
    """The mean over the processes of a distributed run, so that all have the same weights."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values


def make_balance(
    name: BalanceName,
    weights: Sequence[float],
    classification: Sequence[bool],
    config: GradNormConfig | None = None,
) -> Balance:
    """``classification``: which losses are cross-entropies. UsageError for another name."""
    if name == "fixed":
        return Balance(weights)
    if name == "uncertainty":
        return Uncertainty(weights, classification)
    if name == "gradnorm":
        return GradNorm(weights, config)
    raise UsageError(unknown("balance", name, ["gradnorm", "fixed", "uncertainty"]))
