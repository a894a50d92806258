"""What mixers along scan paths share: the way from a grid to sequences and back, and streaming.

Letters: B batch, S grid sizes, C channels, E inner channels, L sequence length, K directions of the
path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.errors import UsageError
from core.mixers.base import check_choice, check_odd
from core.nn import ChannelsLastConv
from core.ops.precision import accumulate_dtype
from core.scan_paths import ScanPath

Conv = Literal["causal", "grid"]
Merge = Literal["sum", "mean"]


class Scanned(nn.Module):
    """Base of a mixer (B, *S, C) -> (B, *S, C) that runs along the sequences of ``path``.

    A mixer implements ``mix`` for a path over a grid of any rank.  ``conv`` is the kind of its
    convolution, ``merge`` how the directions that visit a position join there.
    """

    def __init__(self, path: ScanPath, *, conv: Conv = "causal", merge: Merge = "sum") -> None:
        super().__init__()
        self.path = path
        self.conv_kind = check_choice(conv, Conv, "conv")
        self.merge_kind = check_choice(merge, Merge, "merge")

    def mix(self, x: Tensor, path: ScanPath) -> Tensor:
        """The mixer on (B, *S, C) along ``path``."""
        raise NotImplementedError

    def merge(self, path: ScanPath, sequences: Sequence[Tensor], S: Sequence[int]) -> Tensor:
        """The K sequences (B, L, E) of ``path`` as one grid (B, *S, E)."""
        y = path.merge(sequences, S)
        return y / path.visits if self.merge_kind == "mean" else y

    def forward(self, x: Tensor) -> Tensor:
        grid.grid_of(x, self.path.rank)
        return self.mix(x, self.path)

    def place_of_extra(self, length: int) -> int:
        """How many of ``length`` positions come before extra tokens: half of them, as in Vim."""
        return length // 2

    def forward_extra(self, x: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """The mixer on a grid and on ``extra`` tokens (B, E, C), which join its sequence.

        Raises UsageError for a path or convolution that only a grid has.
        """
        if self.conv_kind == "grid" or self.path.name not in ("raster", "bidirectional"):
            raise UsageError(
                f"path {self.path.name!r} with conv {self.conv_kind!r}: extra tokens have no place "
                "on a grid; use path 'raster' or 'bidirectional', and conv 'causal'."
            )
        grid.grid_of(x, self.path.rank)
        tokens, n = x.flatten(1, -2), extra.shape[1]
        at = self.place_of_extra(tokens.shape[1])
        tokens = torch.cat((tokens[:, :at], extra, tokens[:, at:]), 1)
        out = self.mix(tokens, ScanPath(self.path.name, 1))
        mixed = torch.cat((out[:, :at], out[:, at + n :]), 1)
        return mixed.reshape(x.shape), out[:, at : at + n]

    def check_streams(self, norm: str = "none") -> None:
        """UsageError where there is no step: a mixer must see the past alone, along one axis."""
        wanted = {
            f"rank {self.path.rank}": "rank 1" * (self.path.rank != 1),
            f"path {self.path.name!r}": "path 'raster'" * (self.path.name != "raster"),
            f"conv {self.conv_kind!r}": "conv 'causal'" * (self.conv_kind != "causal"),
            f"norm {norm!r}": "norm 'rms'" * (norm == "grid"),
        }
        wrong = {given: use for given, use in wanted.items() if use}
        if wrong:
            raise UsageError(
                f"a mixer with {' and '.join(wrong)} cannot be streamed; use "
                f"{' and '.join(wrong.values())}."
            )


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is."""
    return x.to(accumulate_dtype(x.dtype))


def inner_width(expand: float, dim: int) -> int:
    """expand * dim channels; UsageError when that is none."""
    inner = int(expand * dim)
    if inner < 1:
        raise UsageError(f"expand {expand}: leaves none of {dim} channels; give e.g. 2.")
    return inner


def make_convs(
    widths: list[int], kind: Conv, size: int | None, bias: bool, rank: int
) -> nn.ModuleList:
    """Depthwise convolutions of ``widths`` channels: one a sequence (causal), or over the grid.

    ``size`` None is 4 for a causal one and 3 for one over the grid.  A causal one is padded at both
    ends and its user cuts the tail off, which is cheaper than to pad the input: the convolution
    itself pads for free.
    """
    if kind == "grid":
        half = check_odd(3 if size is None else size, "d_conv over the grid") // 2
        return nn.ModuleList(
            ChannelsLastConv(d, d, 2 * half + 1, rank, padding=half, groups=d, bias=bias)
            for d in widths
        )
    size = 4 if size is None else size
    if size < 1:
        raise UsageError(f"d_conv {size}: must be at least 1.")
    return nn.ModuleList(
        ChannelsLastConv(d, d, size, 1, padding=size - 1, groups=d, bias=bias) for d in widths
    )


def is_empty(sequence: Tensor) -> bool:
    """Whether (B, L, E) has L = 0: a sub-grid beyond the end of a short axis."""
    return grid.is_static(sequence.shape[1:2]) and sequence.shape[1] == 0


def causal_conv(conv: nn.Module, u: Tensor) -> Tensor:
    """silu(conv) along a sequence (B, L, E)."""
    return F.silu(conv(u)[:, : u.shape[1]])


def causal_step(conv: nn.Module, u: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """silu(conv) at one position u (B, E), and the inputs (B, d_conv - 1, E) for the next one."""
    y, window = conv_step(conv, u, before)
    return F.silu(y), window


def conv_step(conv: nn.Module, u: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """As ``causal_step``, without its silu."""
    assert isinstance(conv, ChannelsLastConv)
    window = torch.cat((before, u[:, None].to(before.dtype)), 1)  # (B, d_conv, E)
    y = (window * conv.conv.weight[:, 0].T).sum(1)
    if conv.conv.bias is not None:
        y = y + conv.conv.bias
    return y, window[:, 1:]


def conv_state(
    conv: nn.Module, batch: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    """What ``causal_step`` carries before the first step, (B, d_conv - 1, E): zeros.

    ``device`` and ``dtype`` None are those of the convolution's weight.
    """
    assert isinstance(conv, ChannelsLastConv)
    weight = conv.conv.weight  # (E, 1, d_conv)
    device, dtype = device or weight.device, dtype or weight.dtype
    return torch.zeros(batch, weight.shape[2] - 1, weight.shape[0], device=device, dtype=dtype)


def rms_scaled(x: Tensor, groups: int, eps: float) -> Tensor:
    """``x`` with each of ``groups`` of channels divided by its root mean square, in ``wide``."""
    parts = wide(x).unflatten(-1, (groups, -1))
    return (parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + eps)).flatten(-2)


def step_bias(*shape: int, low: float = 1e-3, high: float = 1e-1, floor: float = 1e-4) -> Tensor:
    """Biases whose softplus is log-uniform in [low, high] (Mamba, section 3.6)."""
    dt = torch.exp(torch.rand(shape) * math.log(high / low) + math.log(low)).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
