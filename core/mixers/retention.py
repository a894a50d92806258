"""Retention: linear attention with an exponential decay a head, along scan paths, at rank 1 to 3.

Papers: Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models", 2023
(section 2, equations 3 to 8); Hatamizadeh et al., "ViR: Towards Efficient Vision Retention
Backbones", 2023 (``gate=False, norm=False, slowest=1 / 512``); Sun et al., "A Length-Extrapolatable
Transformer", ACL 2023 (``rotary=True, xpos=512``).
Code it corresponds to: torchscale's MultiScaleRetention; anom63931/ViR.

Letters: B batch, S grid sizes, L sequence length, C channels, E = expand * C channels of the values,
h heads, K = C / h and V = E / h channels of a head, d decay of a head.

    q, k, v, g = qkv(x);  k = k / sqrt(K);  rotary: q and k turn by an angle that grows along L
    y[i] = sum over j <= i of d^(i - j) (q[i] k[j]) v[j]      (d^|i - j| over all j if not causal)
    y = proj(y / rms(y) * silu(g)),  the rms over the V channels of a head;  d = 1 - 2^(-5 - head)
    xpos: channel pair n of K / 2 counts z^((i - j) / xpos) in q[i] k[j],  z = (2 n / K + 0.4) / 1.4

xPos as published multiplies q[i] by z^(i / xpos) and k[j] by z^(-j / xpos), and 3.5^(j / 512) leaves
half precision after 4,500 positions and float32 after 36,000.  Here a sequence is read in stretches
of ``STRETCH``, q and k count positions from a stretch's middle, and the state that goes from one to
the next is multiplied by z^(STRETCH / xpos): no factor is beyond 3.5 at xpos 512, at any length.

The three forms (parallel, recurrent, chunkwise) give one result; ``core.ops.retention`` chooses.
Directions of a path share the projections and are added before the norm: what differs between them
is the order.  Extra tokens go to the end of the sequence, where a causal one has seen all.

Deviates from the paper: the norm divides by the root mean square of a head, as the authors' code
does, and subtracts no mean (GroupNorm, equation 8), which would leave but a sign of two channels.
Deviates from that code: the scores are not divided by max(1, |their sum|), which the norm undoes
but for its epsilon; it guards half precision, and sums are float32 here.  Any rank.  The form of an
xPos retention is that of each stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError
from core.mixers.base import BlockContext, check_choice, check_heads, register_mixer
from core.mixers.scanned import Scanned, inner_width, is_empty, rms_scaled, wide
from core.ops import retention, retention_step
from core.ops.retention import Form
from core.scan_paths import Path, ScanPath

STRETCH = 1024
"""Positions whose xPos factors have one origin."""


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """``causal=False`` looks both ways at once, for paths without reversed directions.

    ``rotary`` (equation 4, xPos without its own decay) is for rank 1, where positions have one
    order.  ``xpos`` adds that decay, whose unit is so many positions (512 as published); it is for
    causal rotary retention along the raster.  ``expand`` is the width of the values; RetNet has 2.  ``skip``: step of "atrous".
    ``norm=False`` leaves the norm out.  ``slowest``: the heads' 1 - d go evenly in logarithm from
    1 / 32 to it, instead of being halved from head to head (ViR: 1 / 512).
    """

    heads: int
    path: Path = "raster"
    causal: bool = True
    expand: float = 1.0
    gate: bool = True
    rotary: bool = False
    xpos: float | None = None
    form: Form = "auto"
    bias: bool = False
    norm: bool = True
    norm_eps: float = 1e-6
    slowest: float | None = None
    skip: int = 2


class RetentionState(NamedTuple):
    """The sum over the past (B, h, K, V), and how many positions that is (an int64 scalar)."""

    memory: Tensor
    position: Tensor


@register_mixer("retention", RetentionConfig)
class Retention(Scanned):
    """(B, *S, C) -> (B, *S, C), any S."""

    def __init__(self, config: RetentionConfig, context: BlockContext) -> None:
        super().__init__(ScanPath(config.path, context.rank, config.skip))
        check_choice(config.form, Form, "form of retention")
        C, E = context.dim, inner_width(config.expand, context.dim)
        self.config, self.heads = config, check_heads(config.heads, context.dim)
        check_heads(config.heads, E)
        self.key_dim = C // self.heads
        if not config.causal and config.path not in ("raster", "atrous"):
            raise UsageError(
                f"retention with path {config.path!r} and causal=False: would see both ways twice; "
                "use causal=True, or path 'raster' or 'atrous'."
            )
        if config.rotary and (context.rank > 1 or self.key_dim % 2):
            raise UsageError(
                f"retention with rotary at rank {context.rank} and heads of {self.key_dim} "
                "channels: positions turn pairs of channels along one axis; use rank 1 and an even "
                "number, or rotary=False."
            )
        if config.xpos is not None and not (
            config.xpos > 0 and config.rotary and config.causal and config.path == "raster"
        ):
            raise UsageError(
                f"retention with xpos {config.xpos}: a positive number of positions, and only with "
                "rotary=True, causal=True and path 'raster'; give e.g. xpos=512, or None."
            )
        if config.slowest is not None and not 0 < config.slowest < 1:
            raise UsageError(
                f"retention with slowest {config.slowest}: a head keeps 1 - slowest of its past at "
                "each position; give a number between 0 and 1, e.g. 1 / 512."
            )
        self.splits = [C, C, E] + [E] * config.gate
        self.qkv = nn.Linear(C, sum(self.splits), bias=config.bias)
        self.proj = nn.Linear(E, C, bias=config.bias)

    def mix(self, x: Tensor, path: ScanPath) -> Tensor:
        """The mixer along ``path``, on a grid of that path's rank."""
        q, k, v, *g = self.qkv(x).split(self.splits, -1)
        sequences = [
            self.scan(*(path.sequence(t, i) for t in (q, k, v))) for i in range(path.directions)
        ]
        return self.leave(self.merge(path, sequences, x.shape[1:-1]), g)

    def leave(self, y: Tensor, g: list[Tensor]) -> Tensor:
        """Norm, gate and projection: (..., E) -> (..., C)."""
        if self.config.norm:
            y = rms_scaled(y, self.heads, self.config.norm_eps).to(y.dtype)
        return self.proj(y * F.silu(g[0]) if g else y)

    def scan(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Along one sequence: q, k (B, L, C) and v (B, L, E) -> (B, L, E)."""
        if is_empty(v):
            return v
        q, k, v = self.turn(q, k, v, torch.arange(q.shape[1], device=q.device)[:, None])
        if self.config.xpos is not None:
            return self.stretches(q, k, v).flatten(-2)
        y = retention(q, k, v, self.decay(q), causal=self.config.causal, form=self.config.form)
        assert isinstance(y, Tensor)
        return y.flatten(-2)

    def stretches(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Retention with xPos, q, k (B, L, h, K) and v (B, L, h, V), a stretch after the other."""
        q, k, ys, state = wide(q), wide(k), [], None
        for start in range(0, q.shape[1], STRETCH):
            part = slice(start, start + STRETCH)
            n = q[:, part].shape[1]
            middle = n // 2
            at = (torch.arange(n, device=q.device, dtype=q.dtype) - middle)[:, None, None]
            y, state = retention(
                q[:, part] * self.fade(at, q),
                k[:, part] * self.fade(-at, q),
                v[:, part],
                self.decay(q),
                form=self.config.form,
                # From the frame of the last position to that of the middle, and back.
                initial_state=None if state is None else state * self.fade(middle + 1, q)[:, None],
                return_final_state=True,
            )
            state = state * self.fade(n - 1 - middle, q)[:, None]
            ys.append(y)
        return torch.cat(ys, 1)

    def fade(self, positions: Tensor | int, like: Tensor) -> Tensor:
        """z^(positions / xpos) of each key channel: (..., 1) -> (..., K)."""
        assert self.config.xpos is not None
        n = torch.arange(self.key_dim // 2, device=like.device, dtype=wide(like).dtype)
        z = ((2 * n / self.key_dim + 0.4) / 1.4).log().repeat_interleave(2)
        return (z * (positions / self.config.xpos)).exp()

    def turn(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heads of q, k and v, (..., h, c) each: keys scaled, q and k turned to positions ``at``."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        k = k * self.key_dim**-0.5
        if self.config.rotary:
            angle = angles(at[..., None], self.key_dim)  # (..., 1, K / 2)
            q, k = rotate(q, angle), rotate(k, angle)
        return q, k, v

    def decay(self, like: Tensor) -> Tensor:
        """d of each head, (h,).  No buffer: in bfloat16, all but the first few would be 1."""
        slowest = self.config.slowest
        last = -4.0 - self.heads if slowest is None else math.log2(slowest)
        dtype = wide(like).dtype
        return 1 - 2.0 ** torch.linspace(-5.0, last, self.heads, device=like.device, dtype=dtype)

    def place_of_extra(self, length: int) -> int:
        return length

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RetentionState:
        """The state before the first step; device and dtype are the parameters' unless given."""
        self.check_streams()
        if not self.config.causal:
            raise UsageError("retention with causal=False: cannot be streamed; use causal=True.")
        like = self.qkv.weight
        zero = torch.zeros((), device=device or like.device, dtype=dtype or like.dtype)
        memory = wide(zero).new_zeros(batch, self.heads, self.key_dim, self.splits[2] // self.heads)
        return RetentionState(memory, torch.zeros((), dtype=torch.int64, device=zero.device))

    def step(self, x: Tensor, state: RetentionState) -> tuple[Tensor, RetentionState]:
        """One position of a sequence: x and y are (B, C).  Steps equal ``forward`` to rounding."""
        q, k, v, *g = self.qkv(x).split(self.splits, -1)
        q, k, v = self.turn(q, k, v, state.position[None])
        memory = state.memory
        if self.config.xpos is not None:  # what is remembered is one position further away
            memory = memory * self.fade(1, memory)[:, None]
        y, memory = retention_step(memory, q, k, v, self.decay(q))
        return self.leave(y.flatten(-2), g), RetentionState(memory, state.position + 1)


def angles(at: Tensor, dim: int) -> Tensor:
    """Angles of positions (..., 1) for ``dim`` / 2 pairs of channels, from 1 to 1e-4 a position.

    In float64: at position a million float32 knows an angle to 0.06 only.
    """
    dtype = torch.float32 if at.device.type == "mps" else torch.float64  # which MPS lacks
    return at.to(dtype) * 1e4 ** -torch.linspace(0, 1, dim // 2, dtype=dtype, device=at.device)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels (..., 2 n) by ``angle`` (..., n)."""
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
