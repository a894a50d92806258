"""U-shaped decoders: a pyramid's maps, coarsest first, up-sampled and joined level by level.

``forward(image, maps)`` takes the image (B, C, *S) and the maps of a pyramid, finest first, each
(B, C_i, *ceil(S / stride_i)).  It returns maps of its own, finest first: one on the grid of the
image and one on the grid of every map but the coarsest.  ``channels`` are their widths.

Since every level is rounded up, an up-sampled map may be larger than the one it joins; it is
cropped at its end.

JoinDecoder: any of them whose levels are given as modules.
ResidualDecoder: Hatamizadeh et al., "Swin UNETR", 2022 (section 3.2), and "UNETR", WACV 2022.
ExpandingDecoder: Cao et al., "Swin-Unet", 2021 (section 3.4), and, with CARAFE, Liu et al.,
"CSWin-UNet", 2024; with additive skips Ruan and Xiang, "VM-UNet", 2024.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import grid
from core.blocks import BlockConfig, BlockContext, init_weights
from core.decoders.conv import PointConv, ResidualConv, channels_last, he_init
from core.decoders.expand import ExpandKind, make_expand
from core.errors import UsageError
from core.nn import CONV_TRANSPOSE, recomputed


def factors(strides: Sequence[grid.PerAxis], rank: int) -> list[tuple[int, ...]]:
    """Factor per axis from each level of a pyramid to the next finer one; the image is the finest.

    Raises UsageError where a stride is no multiple of the one before.
    """
    levels = [(1,) * rank, *(grid.per_axis(s, rank, "stride") for s in strides)]
    result = []
    for fine, coarse in itertools.pairwise(levels):
        if any(c % f for f, c in zip(fine, coarse, strict=True)):
            raise UsageError(
                f"strides {fine} and {coarse}: each must be a multiple of the one before."
            )
        result.append(tuple(c // f for f, c in zip(fine, coarse, strict=True)))
    return result


def _crop(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The leading ``sizes`` of (B, C, *S)."""
    return grid.crop_to(x.movedim(1, -1), sizes).movedim(-1, 1)


class UpJoin(nn.Module):
    """Up-sample x, crop it to the level, concatenate the level, convolve.

    ``conv`` takes the channels of ``up`` and ``skip`` together.  The level passes ``skip`` first,
    inside here and not before, so that its result is not held while the convolution runs: at the
    image's grid that is a tenth of the peak memory.
    """

    def __init__(self, up: nn.Module, skip: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.up, self.skip, self.conv = up, skip, conv

    @classmethod
    def transposed(
        cls,
        dim: int,
        dim_out: int,
        factor: tuple[int, ...],
        rank: int,
        *,
        skip: nn.Module,
        affine: bool = True,
    ) -> UpJoin:
        """A transposed convolution, and a residual convolution of both halves: UNETR's."""
        up = CONV_TRANSPOSE[rank - 1](dim, dim_out, factor, stride=factor, bias=False)  # type: ignore[arg-type]
        he_init(up)
        return cls(up, skip, ResidualConv(2 * dim_out, dim_out, rank, affine=affine))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.conv(torch.cat((_crop(self.up(x), level.shape[2:]), self.skip(level)), 1))


class NearestUp(nn.Module):
    """(B, C, *S) -> (B, C', *(S * factor)): a 1-wide convolution, then every position repeated.

    The two commute, and in this order the convolution runs on prod(factor) times fewer positions.
    """

    def __init__(self, dim: int, dim_out: int, factor: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = factor
        self.conv = PointConv(dim, dim_out)
        he_init(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        sizes = [s * f for s, f in zip(x.shape[2:], self.factor, strict=True)]
        return F.interpolate(x, sizes, mode="nearest")


class JoinDecoder(nn.Module):
    """A decoder from its modules: ``bottom`` for the coarsest map, one join for each finer level.

    ``joins``, finest first, map (x, level) to the level's new map; ``last`` changes the finest.
    ``channels`` are the widths of what they return.  With one join for each map the image is the
    finest level, with one less it is left out.
    """

    def __init__(
        self,
        bottom: nn.Module,
        joins: Sequence[nn.Module],
        channels: Sequence[int],
        *,
        last: nn.Module | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.bottom = bottom
        self.ups = nn.ModuleList(joins)
        self.last = last or nn.Identity()
        self.channels = list(channels)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, image: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        recompute = self.gradient_checkpointing and self.training
        levels = [image, *maps] if len(self.ups) == len(maps) else [*maps]
        out: list[Tensor] = []
        x = recomputed(recompute, self.bottom, self.prepare(levels, len(levels) - 1))
        for i in reversed(range(len(self.ups))):
            x = recomputed(recompute, self.ups[i], x, self.prepare(levels, i))
            if i == 0:
                x = recomputed(recompute, self.last, x)
            out.insert(0, x)
        return out

    def prepare(self, levels: list[Tensor], i: int) -> Tensor:
        """Level i as the convolutions want it."""
        return channels_last(levels[i])


class ResidualDecoder(JoinDecoder):
    """Residual convolutions on the skips and after every join.

    As in the authors' code every map passes a residual convolution first, but the one before the
    coarsest does not, and the image itself is the finest skip.  ``norm_maps`` layer-normalises each
    map over its channels, without gain, as it comes in.  ``width`` is that of the finest level
    (default: that of the finest map).  ``affine``: gains in the instance norms; MONAI has none.
    """

    def __init__(
        self,
        rank: int,
        in_channels: int,
        channels: Sequence[int],
        strides: Sequence[grid.PerAxis],
        *,
        width: int | None = None,
        norm_maps: bool = True,
        affine: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        if len(channels) < 2:
            raise UsageError(
                f"decoder of {len(channels)} levels: a pyramid of at least 2 is needed."
            )
        steps = factors(strides, rank)
        top = [in_channels]
        if max(steps[0]) == 1:  # the finest map lies on the image's grid: no level of its own
            steps, top = steps[1:], []
        widths = [width or channels[0], *channels[:-1]] if top else [*channels[:-1]]
        dims_in = [*top, *channels]
        dims = [*widths, channels[-1]]
        bare = len(dims) - 2 if len(dims) > 2 else -1
        skips = [
            nn.Identity()
            if i == bare and dims_in[i] == dims[i]
            else ResidualConv(dims_in[i], dims[i], rank, affine=affine)
            for i in range(len(dims))
        ]
        bottom = skips.pop()
        joins = [
            UpJoin.transposed(dims[i + 1], dims[i], steps[i], rank, skip=skip, affine=affine)
            for i, skip in enumerate(skips)
        ]
        super().__init__(bottom, joins, widths, gradient_checkpointing=gradient_checkpointing)
        self.norm_maps, self.uses_image = norm_maps, bool(top)

    def prepare(self, levels: list[Tensor], i: int) -> Tensor:
        level = super().prepare(levels, i)
        if not self.norm_maps or (self.uses_image and i == 0):
            return level
        return F.layer_norm(level.movedim(1, -1), (level.shape[1],)).movedim(-1, 1)


class ExpandingDecoder(nn.Module):
    """Expand, join the skip, mixer blocks; channels-last inside.

    ``blocks[i]`` and ``depths[i]`` describe the blocks at the pyramid's level i, the coarsest
    included (depth 0 leaves them out).  After the finest level a last expansion to the image's grid
    gives ``width`` channels.  ``skips="concatenate"`` joins by concatenation and a linear map,
    ``"add"`` by addition.
    """

    def __init__(
        self,
        rank: int,
        channels: Sequence[int],
        strides: Sequence[grid.PerAxis],
        blocks: Sequence[BlockConfig],
        depths: Sequence[int],
        *,
        expand: ExpandKind = "linear",
        skips: Literal["concatenate", "add"] = "concatenate",
        width: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        n = len(channels)
        if not len(blocks) == len(depths) == len(strides) == n:
            raise UsageError(
                f"decoder of {n} levels with {len(depths)} depths and {len(blocks)} kinds of block: "
                "give one of each per level."
            )
        self.rank = rank
        self.gradient_checkpointing = gradient_checkpointing
        self.channels = [width or channels[0], *channels[:-1]]
        steps = factors(strides, rank)
        self.norm_in = nn.LayerNorm(channels[-1])
        self.expands = nn.ModuleList(
            make_expand(expand, channels[i + 1], channels[i], steps[i + 1], rank)
            for i in range(n - 1)
        )
        concatenated = channels[:-1] if skips == "concatenate" else []
        self.joins = nn.ModuleList(nn.Linear(2 * c, c) for c in concatenated)
        self.levels = nn.ModuleList(
            nn.ModuleList(
                blocks[i].build(
                    BlockContext(dim=channels[i], rank=rank, stage=i, index=j, depth=depths[i])
                )
                for j in range(depths[i])
            )
            for i in range(n)
        )
        init_weights(self.levels)
        self.norm_out = nn.LayerNorm(channels[0])
        self.final = make_expand(expand, channels[0], self.channels[0], steps[0], rank)

    def forward(self, image: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        skips = [m.movedim(1, -1) for m in maps]
        x = self.run(len(skips) - 1, self.norm_in(skips[-1]))
        out: list[Tensor] = []
        for i in reversed(range(len(skips) - 1)):
            x = grid.crop_to(self.expands[i](x), skips[i].shape[1:-1])
            x = self.run(i, self.join(i, x, skips[i]))
            out.insert(0, x)
        if out:
            out[0] = x = self.norm_out(out[0])
        x = recomputed(self.gradient_checkpointing and self.training, self.final, x)
        out.insert(0, grid.crop_to(x, image.shape[2:]))
        return [y.movedim(-1, 1) for y in out]

    def join(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """The up-sampled map and the encoder's at level i: (B, *S, C_i) each -> (B, *S, C_i)."""
        return self.joins[i](torch.cat((x, skip), -1)) if len(self.joins) else x + skip

    def run(self, i: int, x: Tensor) -> Tensor:
        """The blocks of level i."""
        for block in cast("Iterable[nn.Module]", self.levels[i]):
            x = recomputed(self.gradient_checkpointing and self.training, block, x)
        return x
