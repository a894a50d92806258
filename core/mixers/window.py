"""Shifted-window attention with a relative position bias, at rank 1 to 3.

Paper: Liu et al., "Swin Transformer", ICCV 2021 (sections 3.2 and 3.3); in three dimensions Liu et
al., "Video Swin Transformer", CVPR 2022, and Hatamizadeh et al., "Swin UNETR", 2022.
Code it corresponds to: microsoft/Swin-Transformer, transformers' SwinModel, MONAI's SwinUNETR.

Letters: w window sizes, s shift (half a window in every second block), h heads, n windows,
L = prod(w) tokens of a window.

Deviates from the authors' code, under the default policy: padding is masked, so that it has no
influence; it is attended there.  A grid axis no longer than the window is one window of just that
length, not shifted; its offsets use their own rows of the bias table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from core import grid
from core.errors import UsageError, unknown
from core.mixers.base import (
    BlockContext,
    attend,
    check_heads,
    join_heads,
    register_mixer,
    split_heads,
)

Policy = Literal["masked", "swin", "monai"]


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Shifted-window attention.

    ``policy`` says what happens at the grid's edges: ``masked`` hides padding (our default);
    ``swin`` lets it be attended, as the published 2-D models do; ``monai`` does so too and, where a
    window is clipped to a short axis, reads the bias table from its start, which belongs to other
    offsets but is what MONAI's published 3-D weights were trained with.
    """

    heads: int
    window: int | tuple[int, ...] = 7
    shift: bool = True
    qkv_bias: bool = True
    policy: Policy = "masked"


@register_mixer("window", WindowConfig)
class WindowAttention(nn.Module):
    """(B, *S, C) -> (B, *S, C), any S.  Odd blocks of a stage shift by half a window."""

    def __init__(self, config: WindowConfig, context: BlockContext) -> None:
        super().__init__()
        if config.policy not in get_args(Policy):
            raise UsageError(unknown("window policy", config.policy, get_args(Policy)))
        self.rank = context.rank
        self.heads = check_heads(config.heads, context.dim)
        self.window = grid.per_axis(config.window, context.rank, "window")
        self.policy = config.policy
        self.shifted = config.shift and context.index % 2 == 1
        self.qkv = nn.Linear(context.dim, 3 * context.dim, bias=config.qkv_bias)
        self.proj = nn.Linear(context.dim, context.dim)
        rows = math.prod(2 * w - 1 for w in self.window)
        self.bias_table = nn.Parameter(torch.zeros(rows, self.heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        index = grid.relative_index(self.window, self.window)
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        S = grid.grid_of(x, self.rank)
        if not grid.is_static(S):
            return self.forward_symbolic(x, S)
        w, shift, padded = self.layout(S)
        x = grid.pad_to(x, padded)
        if any(shift):
            x = torch.roll(x, [-s for s in shift], grid.axes(self.rank))
        q, k, v = self.project(grid.windows(x, w))
        out = self.attend_windows(q, k, v, S, padded, w, shift)
        x = grid.unwindows(self.proj(join_heads(out)), w, padded)
        if any(shift):
            x = torch.roll(x, shift, grid.axes(self.rank))
        return grid.crop_to(x, S)

    def project(self, windows: Tensor) -> tuple[Tensor, ...]:
        """(B, n, L, C) -> queries, keys and values, (B, n, h, L, c) each."""
        return tuple(split_heads(t, self.heads) for t in self.qkv(windows).chunk(3, -1))

    def layout(self, S: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Window, shift and padded size for each axis of a grid of sizes ``S``."""
        w = [min(full, size) for full, size in zip(self.window, S, strict=True)]
        large = [size > full for full, size in zip(self.window, S, strict=True)]
        if self.policy == "swin":  # the published code shifts all axes or none
            large = [all(large)] * self.rank
        shift = [
            full // 2 if self.shifted and far else 0
            for full, far in zip(self.window, large, strict=True)
        ]
        return w, shift, [grid.ceil_div(s, v) * v for s, v in zip(S, w, strict=True)]

    def forward_symbolic(self, x: Tensor, S: Sequence[int]) -> Tensor:
        """The same for sizes that are not known yet, for export: no size decides a branch.

        Windows are never clipped; where the grid is shorter, the rest of the window is masked.
        What depends on a size (whether to shift, what to mask) is computed in tensors: symbolic
        expressions for it take the exporter minutes.
        """
        if self.policy == "monai":
            raise UsageError(
                "window policy 'monai' reads its bias table by the grid's size: export it at a "
                "fixed size, or use policy 'masked'."
            )
        w, dev = self.window, x.device
        padded = [grid.ceil_div(s, v) * v for s, v in zip(S, w, strict=True)]
        large = [torch.full((), s, device=dev) > full for s, full in zip(S, w, strict=True)]
        if self.policy == "swin":
            large = [torch.stack(large).all()] * self.rank
        shift = [far * (v // 2 if self.shifted else 0) for far, v in zip(large, w, strict=True)]
        hide = [
            torch.full((), s, device=dev) < (v if self.policy == "swin" else p + 1)
            for s, v, p in zip(S, w, padded, strict=True)
        ]
        x = grid.pad_to(x, padded)
        if self.shifted:
            for axis, p, t in zip(grid.axes(self.rank), padded, shift, strict=True):
                x = x.index_select(axis, (torch.arange(p, device=dev) + t) % p)
        regions = [
            grid.axis_regions(s, p, t, h, dev)
            for s, p, t, h in zip(S, padded, shift, hide, strict=True)
        ]
        q, k, v = self.project(grid.windows(x, w))
        out = attend(q, k, v, self.bias(w) + grid.region_mask(regions, w)[:, None])
        x = grid.unwindows(self.proj(join_heads(out)), w, padded)
        for axis, s, p, t in zip(grid.axes(self.rank), S, padded, shift, strict=True):
            x = x.index_select(axis, (torch.arange(s, device=dev) - t) % p)  # roll back and crop
        return x

    def bias(self, w: Sequence[int]) -> Tensor:
        """Relative position bias of a window of sizes ``w``: (h, L, L)."""
        if tuple(w) == self.window:
            index = self.index
        elif self.policy == "monai":
            L = math.prod(w)
            index = self.index[:L, :L]
        else:
            index = grid.relative_index(w, self.window).to(self.index.device)
        return self.bias_table[index].permute(2, 0, 1).contiguous()

    def attend_windows(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        S: Sequence[int],
        padded: Sequence[int],
        w: Sequence[int],
        shift: Sequence[int],
    ) -> Tensor:
        """Attention inside windows: q, k, v and the result are (B, n, h, L, c)."""
        bias = self.bias(w)
        hide = self.policy == "masked"
        if not any(shift) and (not hide or list(S) == list(padded)):
            return attend(q, k, v, bias)
        if self.rank == 3:
            classes = [
                grid.window_classes(s, p, v_, t, hide)
                for s, p, v_, t in zip(S, padded, w, shift, strict=True)
            ]
            return attend_by_class(q, k, v, bias, classes)
        regions = [
            grid.axis_regions(s, p, t, hide, q.device)
            for s, p, t in zip(S, padded, shift, strict=True)
        ]
        return attend(q, k, v, bias + grid.region_mask(regions, w)[:, None])


def attend_by_class(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    classes: Sequence[list[tuple[int, int, list[int]]]],
) -> Tensor:
    """Masked attention with one mask for all windows that look alike; shapes as in the method.

    Along an axis only the last windows contain a wrap or padding, so a grid has a handful of kinds
    of windows.  A mask a window is 484 MB at 48^3 with windows of 7^3; grouping them gives the same
    result in 227 instead of 1110 ms.
    """
    n = [runs[-1][1] for runs in classes]
    q, k, v = (t.unflatten(1, n) for t in (q, k, v))
    pieces: dict[tuple[int, ...], Tensor] = {}
    for choice in itertools.product(*(range(len(runs)) for runs in classes)):
        here = [runs[j] for runs, j in zip(classes, choice, strict=True)]
        cut = (slice(None), *(slice(a, b) for a, b, _ in here))
        regions = [torch.tensor(r, dtype=torch.int32, device=q.device) for _, _, r in here]
        masked = bias
        if any(any(r) for _, _, r in here):
            masked = bias + grid.region_mask(regions, [r.numel() for r in regions])
        qc, kc, vc = (t[cut].flatten(0, len(n)) for t in (q, k, v))
        pieces[choice] = attend(qc, kc, vc, masked).unflatten(0, q[cut].shape[: len(n) + 1])
    return grid.join(pieces, len(n)).flatten(1, len(n))
