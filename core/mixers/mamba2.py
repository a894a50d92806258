"""Mamba-2: a state space with one scalar decay a head, along scan paths, at rank 1 to 3.

Paper: Dao and Gu, "Transformers are SSMs", ICML 2024 (section 7, the parallel-projection block of
figure 6).  Code it corresponds to: mamba_ssm's Mamba2, transformers' Mamba2Mixer.

Letters: B batch, S grid sizes, L sequence length, C channels, E = expand * C inner channels, H heads
of P = E / H channels, G groups of heads that share B and C, N state size, K directions of the path.

    z, u, (B, C) of each direction, dt of each direction = in_proj(x)
    for each direction:
        u, B, C = silu(conv((u, B, C)))    along its sequence, causal, or once over the grid
        delta = softplus(dt + dt_bias)
        h = exp(delta A) h + delta B u;  y = C h + D u,  with A = -exp(A_log)
    y = out_proj(rms_norm(merge(y) * silu(z)))         the mean square over E / G channels

A_log, D and dt_bias are (K, H) and not decayed; A starts uniform in -[1, 16], D at 1, delta
log-uniform in [1e-3, 1e-1], as in mamba_ssm (transformers starts at A = -(1, ..., H)).

It needs no kernel: matrix products over chunks.  Prefer it to ``mamba`` where no compiler is.

Deviates from the authors' code: one dimension and one direction there.  Directions beyond the first
bring their own B, C, dt, A, D and convolution, and share u, z and the norm.
"""

from __future__ import annotations

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
    rms_scaled,
    step_bias,
    wide,
)
from core.ops import ssd, ssd_step
from core.scan_paths import Path, ScanPath


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """Heads have the largest number of channels up to ``head_dim`` that divides the inner width.

    ``groups`` of heads share B and C; it divides the number of heads.  ``d_conv`` None is 4 for a
    causal convolution and 3 for one over the grid.  ``skip`` is the step of ``path="atrous"``.
    """

    d_state: int = 64
    expand: float = 2.0
    d_conv: int | None = None
    head_dim: int = 64
    groups: int = 1
    path: Path = "raster"
    conv: Conv = "causal"
    conv_bias: bool = True
    bias: bool = False
    merge: Merge = "sum"
    norm_eps: float = 1e-5
    skip: int = 2


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""x, dt, A, B, C and D of the scan."""


class Mamba2State(NamedTuple):
    """The last inputs of the convolution (B, d_conv - 1, E + 2 G N), and h (B, H, P, N)."""

    conv: Tensor
    ssm: Tensor


class GatedNorm(nn.Module):
    """rms_norm(y * silu(z)) * weight, with the mean square of each of ``groups`` of channels."""

    def __init__(self, dim: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.groups, self.eps = groups, eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = rms_scaled(wide(y) * F.silu(wide(z)), self.groups, self.eps)
        return (gated * self.weight).to(y.dtype)


@register_mixer("mamba2", Mamba2Config)
class Mamba2(Scanned):
    """(B, *S, C) -> (B, *S, C), any S."""

    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(self, config: Mamba2Config, context: BlockContext) -> None:
        path = ScanPath(config.path, context.rank, config.skip)
        super().__init__(path, conv=config.conv, merge=config.merge)
        self.config = config
        E, N, K = inner_width(config.expand, context.dim), config.d_state, path.directions
        P = largest_divisor(E, config.head_dim)
        H, G = E // P, config.groups
        if N < 1 or G < 1 or H % G:
            raise UsageError(
                f"mamba2 with d_state {N} and groups {G}: both must be at least 1, and groups "
                f"divide the {H} heads of {P} channels."
            )
        self.inner, self.heads, self.head_dim, self.shared = E, H, P, 2 * G * N
        self.splits = [E, E + K * self.shared, K * H]
        self.in_proj = nn.Linear(context.dim, sum(self.splits), bias=config.bias)
        widths = [E + self.shared] * K if config.conv == "causal" else [E + K * self.shared]
        self.conv = make_convs(widths, config.conv, config.d_conv, config.conv_bias, context.rank)
        self.dt_bias = nn.Parameter(step_bias(K, H))
        self.A_log = nn.Parameter(torch.empty(K, H).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(K, H))
        self.norm = GatedNorm(E, G, config.norm_eps)
        self.out_proj = nn.Linear(E, context.dim, bias=config.bias)

    def mix(self, x: Tensor, path: ScanPath) -> Tensor:
        """The mixer along ``path``, on a grid of that path's rank."""
        z, u, dt = self.in_proj(x).split(self.splits, -1)
        if self.config.conv == "grid":
            u = F.silu(self.conv[0](u))
        own = [self.own(k, u, dt) for k in range(path.directions)]
        sequences = [
            self.scan(k, path.sequence(u, k), path.sequence(dt, k)) for k, (u, dt) in enumerate(own)
        ]
        return self.out_proj(self.norm(self.merge(path, sequences, x.shape[1:-1]), z))

    def scan(self, k: int, u: Tensor, dt: Tensor) -> Tensor:
        """Direction ``k`` along its sequence: (B, L, E + 2 G N) and (B, L, H) -> (B, L, E)."""
        if is_empty(u):
            return u[..., : self.inner]
        if self.config.conv == "causal":
            u = causal_conv(self.conv[k], u)
        y = ssd(*self.select(k, u, dt), dt_bias=self.dt_bias[k], dt_softplus=True)
        assert isinstance(y, Tensor)
        return y.flatten(-2)

    def own(self, k: int, u: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Direction ``k``'s part: (..., E + 2 G N) and (..., H)."""
        if self.path.directions > 1:
            a = self.inner + k * self.shared
            u = torch.cat((u[..., : self.inner], u[..., a : a + self.shared]), -1)
        return u, dt[..., k * self.heads : (k + 1) * self.heads]

    def select(self, k: int, u: Tensor, dt: Tensor) -> Inputs:
        """What direction ``k``'s scan takes, from (..., E + 2 G N) and (..., H)."""
        x, B, C = u.split([self.inner, self.shared // 2, self.shared // 2], -1)
        B, C = (t.unflatten(-1, (self.config.groups, self.config.d_state)) for t in (B, C))
        A = -wide(self.A_log[k]).exp()
        return x.unflatten(-1, (self.heads, self.head_dim)), dt, A, B, C, self.D[k]

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mamba2State:
        """The state before the first step; device and dtype are the parameters' unless given."""
        self.check_streams()
        conv = conv_state(self.conv[0], batch, device, dtype)
        ssm = wide(conv).new_zeros(batch, self.heads, self.head_dim, self.config.d_state)
        return Mamba2State(conv, ssm)

    def step(self, x: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        """One position of a sequence: x and y are (B, C).  Steps equal ``forward`` to rounding."""
        z, u, dt = self.in_proj(x).split(self.splits, -1)
        u, conv = causal_step(self.conv[0], u, state.conv)
        inputs = self.select(0, u, dt)
        y, ssm = ssd_step(state.ssm, *inputs, dt_bias=self.dt_bias[0], dt_softplus=True)
        return self.out_proj(self.norm(y.flatten(-2), z)), Mamba2State(conv, ssm)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` that is at most ``limit``; UsageError below 1."""
    if limit < 1:
        raise UsageError(f"head_dim {limit}: must be at least 1; 64 is usual.")
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)
