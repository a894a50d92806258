"""A bidirectional Mamba over the patches of one variate, the same for every variate on its own.

A forecaster of this project: no paper's results stand behind it.  The mixer is Mamba (Gu and Dao,
2023) as in Vim (Zhu et al., ICML 2024), one way through the patches and back; that both ways help a
forecaster is the finding of Bi-Mamba+ (Liang et al., 2024), whose forget gate and choice
between mixing variates and not this does without; patches, and variates on their own, are PatchTST's
(Nie et al., ICLR 2023).

Letters: B windows, L lookback, H horizon, N variates, P = ceil(L / ``patch``) patches, d = ``dim``.

    x standardised per window, zeros after its end to fill the last patch
    z = Linear(patch -> d)                                               (B N, P, d)
    z = z + mamba(norm(z))                                               ``depth`` times
    forecast = Linear(P d -> H)(dropout(norm(z))), restored

Embedding, blocks and last norm are core's sequence trunk, the one that ``mamba_130m`` is.  Order is
in the recurrence, so patches get no position.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from apps.timeseries.models.base import (
    Forecaster,
    Shape,
    register,
    restore,
    split_outputs,
    standardise,
)
from core.backbones.sequence import mamba
from core.errors import UsageError
from core.mixers.mamba import MambaConfig
from core.ops.dropout import dropout


@dataclass(frozen=True, kw_only=True)
class BiMambaConfig:
    """``dropout`` acts on what the head reads; ``expand`` and ``d_state`` are the mixer's."""

    patch: int = 16
    dim: int = 64
    depth: int = 2
    d_state: int = 8
    expand: float = 1.0
    dropout: float = 0.2


@register("bimamba", BiMambaConfig)
class BiMamba(Forecaster):
    """(B, L, N) -> (B, H, N) or (B, H, N, Q)."""

    def __init__(self, config: BiMambaConfig, shape: Shape) -> None:
        super().__init__(shape)
        for name in ("patch", "dim", "depth"):
            if getattr(config, name) < 1:
                raise UsageError(f"{name} {getattr(config, name)}: must be 1 or more.")
        mixer = MambaConfig(d_state=config.d_state, expand=config.expand, path="bidirectional")
        size = min(config.patch, shape.lookback)
        self.dropout = config.dropout
        self.trunk = mamba(
            1, 1, dim=config.dim, depth=config.depth, patch=size, mixer=mixer
        ).build()
        patches = -(-shape.lookback // size)
        self.head = nn.Linear(patches * config.dim, shape.horizon * shape.outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        x, mean, std = standardise(x)
        series = x.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B N, 1, L)
        z = self.trunk(series)[-1].flatten(1)  # (B N, d P)
        if self.dropout and self.training:
            z = dropout(z, self.dropout)
        y = self.head(z).unflatten(0, (x.shape[0], -1))
        return restore(split_outputs(y, self.shape), mean, std)
