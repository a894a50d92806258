"""Gated causal convolution along a sequence: TimelyGPT's temporal convolution module.

Papers: Gulati et al., "Conformer", Interspeech 2020 (section 2.2, figure 2), whose module it is;
Song et al., "TimelyGPT", 2023 (section 3.3).
Code it corresponds to: li-lab-mcgill/TimelyGPT, ``TemporalConvModule`` without the norm before it
and the dropout after it, which belong to the block around.

Letters: B batch, S grid sizes, C channels.

    u, g = in(x);  y = out(silu(norm(conv(u * sigmoid(g)))))    conv: depthwise, ``size`` wide

Deviates from the papers and that code: the convolution is padded at its start only and sees the
past alone (theirs is centred, so half of its ``size`` is the future, which a model of the next
token must not see), and LayerNorm over the channels stands for BatchNorm, whose statistics mix
positions and examples.  At rank 2 and 3 the grid is read in raster order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.mixers.base import BlockContext, register_mixer
from core.mixers.scanned import Scanned, conv_state, conv_step, make_convs, wide
from core.nn import ChannelsLastConv
from core.ops.precision import without_autocast
from core.scan_paths import ScanPath


@dataclass(frozen=True, kw_only=True)
class TemporalConvConfig:
    """A filter of ``size`` positions a channel, 31 as published."""

    size: int = 31
    norm_eps: float = 1e-5


class TemporalConvState(NamedTuple):
    """The last ``size`` - 1 inputs of the convolution, (B, size - 1, C)."""

    before: Tensor


@register_mixer("temporal_conv", TemporalConvConfig)
class TemporalConv(Scanned):
    """(B, *S, C) -> (B, *S, C), any S."""

    def __init__(self, config: TemporalConvConfig, context: BlockContext) -> None:
        super().__init__(ScanPath("raster", context.rank))
        dim = context.dim
        self.enter = nn.Linear(dim, 2 * dim)
        self.conv = make_convs([dim], "causal", config.size, bias=False, rank=context.rank)
        self.norm = nn.LayerNorm(dim, config.norm_eps)
        self.leave = nn.Linear(dim, dim)

    def mix(self, x: Tensor, path: ScanPath) -> Tensor:
        u = path.sequence(F.glu(self.enter(x), -1), 0)
        return self.merge(path, [self.leave(F.silu(self.norm(self.convolved(u))))], x.shape[1:-1])

    def convolved(self, u: Tensor) -> Tensor:
        """The convolution of (B, L, C), padded at its start only: 12 tokens do not pay for 42.

        In float32 (or float64): in bfloat16 a CPU never returns from 31 taps over 13 positions that
        the convolution itself pads (PyTorch 2.13).
        """
        conv = self.conv[0]
        assert isinstance(conv, ChannelsLastConv)
        weight = conv.conv.weight  # (C, 1, size)
        with without_autocast(u):
            rows = F.pad(wide(u).transpose(1, 2).unsqueeze(2), (weight.shape[2] - 1, 0))
            y = F.conv2d(rows, wide(weight).unsqueeze(2), groups=weight.shape[0])
        return y.squeeze(2).transpose(1, 2).to(u.dtype)

    def place_of_extra(self, length: int) -> int:
        return length

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TemporalConvState:
        """The state before the first step; device and dtype are the parameters' unless given."""
        self.check_streams()
        return TemporalConvState(conv_state(self.conv[0], batch, device, dtype))

    def step(self, x: Tensor, state: TemporalConvState) -> tuple[Tensor, TemporalConvState]:
        """One position of a sequence: x and y are (B, C).  Steps equal ``forward`` to rounding."""
        y, before = conv_step(self.conv[0], F.glu(self.enter(x), -1), state.before)
        return self.leave(F.silu(self.norm(y))), TemporalConvState(before)
