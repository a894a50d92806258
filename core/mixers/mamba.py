"""Mamba: a selective state space along scan paths, at rank 1 to 3.

Paper: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023
(algorithm 2, section 3.6).  Code it corresponds to: mamba_ssm's Mamba, transformers' MambaMixer,
mamba-minimal.  With other options it is the mixer of

- Vim (Zhu et al., ICML 2024): ``path="bidirectional", merge="mean"``, its "v2" with convolution,
  projections, A and D for each direction; a class token sits in the middle of the sequence;
- VMamba (Liu et al., NeurIPS 2024), SS2D: ``path="cross", conv="grid", norm="layer"``, and in its
  second version ``gate=False, d_state=1, conv_bias=False``;
- EfficientVMamba (Pei et al., AAAI 2025), ES2D: ``path="atrous", conv="grid", norm="layer"``.

Letters: B batch, S grid sizes, L sequence length, C channels, E = expand * C inner channels, N state
size, r rank of the step size's projection, K directions of the path (see ``core/scan_paths.py``).

    u, z = in_proj(x)                      z is the gate
    u = silu(conv(u))                      along each sequence, causal, or once over the grid
    for each direction:
        d, B, C = x_proj u;  delta = softplus(dt_weight d + dt_bias)
        h = exp(delta A) h + delta B u;  y = C h + D u,  with A = -exp(A_log)
    y = out_proj(norm(merge(y)) * silu(z))

Parameters of the directions are stacked: x_proj (K, r + 2 N, E), dt_weight (K, E, r), dt_bias (K,
E), A_log (K, E, N), D (K, E).  They are not ``nn.Linear``, so that a network's initialisation leaves
them as the paper has them: A = -(1, ..., N) (S4D-real), D = 1, dt_bias such that delta is
log-uniform in [1e-3, 1e-1], dt_weight uniform within r^-0.5.  A_log, D and dt_bias are not decayed.

Deviates from the authors' codes: any rank and size.  The gate of Vim is applied once, after the
directions are added, which is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError
from core.mixers.base import BlockContext, register_mixer
from core.mixers.scanned import (
    Conv,
    Merge,
    Scanned,
    causal_conv,
    causal_step,
    conv_state,
    inner_width,
    is_empty,
    make_convs,
    step_bias,
    wide,
)
from core.nn import make_norm
from core.ops import selective_scan, selective_scan_step
from core.scan_paths import Path, ScanPath


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """See the module's table for which options make which paper's mixer.

    ``d_conv`` None is 4 for a causal convolution and 3 for one over the grid, ``dt_rank`` None is
    ceil(dim / 16).  ``norm`` (of ``core.nn.NORMS``) acts on the merged directions.  ``skip`` is the
    step of ``path="atrous"``.
    """

    d_state: int = 16
    expand: float = 2.0
    d_conv: int | None = None
    dt_rank: int | None = None
    path: Path = "raster"
    conv: Conv = "causal"
    conv_bias: bool = True
    bias: bool = False
    gate: bool = True
    norm: str = "none"
    merge: Merge = "sum"
    skip: int = 2


class MambaState(NamedTuple):
    """What streaming carries: the last d_conv - 1 inputs (B, d_conv - 1, E), and h (B, E, N)."""

    conv: Tensor
    ssm: Tensor


@register_mixer("mamba", MambaConfig)
class Mamba(Scanned):
    """(B, *S, C) -> (B, *S, C), any S."""

    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(self, config: MambaConfig, context: BlockContext) -> None:
        path = ScanPath(config.path, context.rank, config.skip)
        super().__init__(path, conv=config.conv, merge=config.merge)
        self.config = config
        self.inner = inner_width(config.expand, context.dim)
        r = math.ceil(context.dim / 16) if config.dt_rank is None else config.dt_rank
        K, E, N = path.directions, self.inner, config.d_state
        if N < 1 or r < 1:
            raise UsageError(f"mamba with d_state {N} and dt_rank {r}: both must be at least 1.")
        self.splits = [r, N, N]
        self.in_proj = nn.Linear(context.dim, E * (1 + config.gate), bias=config.bias)
        convs = 1 if config.conv == "grid" else K
        self.conv = make_convs(
            [E] * convs, config.conv, config.d_conv, config.conv_bias, context.rank
        )
        self.x_proj = nn.Parameter(torch.empty(K, sum(self.splits), E).uniform_(-1, 1) * E**-0.5)
        self.dt_weight = nn.Parameter(torch.empty(K, E, r).uniform_(-1, 1) * r**-0.5)
        self.dt_bias = nn.Parameter(step_bias(K, E))
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().expand(K, E, N).clone())
        self.D = nn.Parameter(torch.ones(K, E))
        self.norm = make_norm(config.norm, E)
        self.out_proj = nn.Linear(E, context.dim, bias=config.bias)

    def mix(self, x: Tensor, path: ScanPath) -> Tensor:
        """The mixer along ``path``, on a grid of that path's rank."""
        u, z = self.project(x)
        if self.config.conv == "grid":
            u = F.silu(self.conv[0](u))
        # A gate that comes right after the scan is left to it: one pass over memory less.
        inside = z is not None and path.directions == 1 and self.config.norm == "none"
        gate = z.flatten(1, -2) if z is not None and inside else None
        sequences = [self.scan(k, s, gate) for k, s in enumerate(path.sequences(u))]
        return self.leave(self.merge(path, sequences, x.shape[1:-1]), None if inside else z)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(..., C) -> what is scanned and its gate, (..., E) each."""
        if not self.config.gate:
            return self.in_proj(x), None
        u, z = self.in_proj(x).chunk(2, -1)
        return u, z

    def leave(self, y: Tensor, z: Tensor | None) -> Tensor:
        """Norm, gate and projection: (..., E) -> (..., C)."""
        y = self.norm(y)
        return self.out_proj(y if z is None else y * F.silu(z))

    def scan(self, k: int, u: Tensor, z: Tensor | None) -> Tensor:
        """Direction ``k`` of the path: (B, L, E) -> (B, L, E)."""
        if is_empty(u):
            return u
        if self.config.conv == "causal":
            u = causal_conv(self.conv[k], u)
        delta, A, B, C = self.select(k, u)
        y = selective_scan(u, delta, A, B, C, self.D[k], z, self.dt_bias[k], delta_softplus=True)
        assert isinstance(y, Tensor)
        return y

    def select(self, k: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """delta (before softplus and bias), A, B and C of direction ``k`` for inputs (..., E)."""
        d, B, C = F.linear(u, self.x_proj[k]).split(self.splits, -1)
        return F.linear(d, self.dt_weight[k]), -wide(self.A_log[k]).exp(), B, C

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MambaState:
        """The state before the first step; device and dtype are the parameters' unless given."""
        self.check_streams(self.config.norm)
        conv = conv_state(self.conv[0], batch, device, dtype)
        ssm = wide(conv).new_zeros(batch, self.inner, self.config.d_state)
        return MambaState(conv, ssm)

    def step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One position of a sequence: x and y are (B, C).  Steps equal ``forward`` to rounding."""
        u, z = self.project(x)
        u, conv = causal_step(self.conv[0], u, state.conv)
        delta, A, B, C = self.select(0, u)
        options = {"D": self.D[0], "delta_bias": self.dt_bias[0]}
        y, ssm = selective_scan_step(state.ssm, u, delta, A, B, C, **options, delta_softplus=True)
        return self.leave(y, z), MambaState(conv, ssm)
