"""Att-SwinU-Net: a Swin-Unet whose decoder attends with the encoder's maps as well.

Paper: Aghdam et al., "Attention Swin U-Net", ISBI 2023, arXiv:2210.16898 (sections 2.1 and 2.2).

Letters: A attention map of a window block (B, n, h, L, L); v values; e, d tokens of the encoder's
and the decoder's map at one level; c summary token, their mean.

Two ideas.  Spatial attention: the block j of the decoder's level i weighs its values with
A_decoder + A_encoder, the map of the encoder's block j at the same level and on the same windows.
Cross-attention skip: as in CrossViT (Chen et al., ICCV 2021, equation 3) the summary token of each
map attends to the other map's tokens; then the two are concatenated and projected.

This is what the paper says.  The reference code, NITR098/AttSwinUNet, computes something else: it
adds the encoder's map after the values have been weighed and drops the sum, so that the output with
and without it is the same to the bit; and its skip takes a mean as class token but then removes
token 0 of the sequence, which is the top left patch.  Here the sum weighs the values and no token
is dropped: the change of the summary token is added to every token of its map.  Where the paper
leaves open which blocks match, equal positions do, so the decoder has the encoder's depths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from apps.medical.models import make_heads
from core import grid
from core.backbones import zoo
from core.backbones.pyramid import Pyramid
from core.blocks import Block, BlockConfig
from core.decoders import ExpandingDecoder
from core.decoders.conv import channels_last
from core.mixers.base import attend, check_heads, join_heads, register_mixer, split_heads
from core.mixers.window import WindowAttention, WindowConfig
from core.nn import recomputed


@dataclass(frozen=True, kw_only=True)
class GuidedWindowConfig(WindowConfig):
    """Window attention that can show its map and be guided by another."""


@register_mixer("guided_window", GuidedWindowConfig)
class GuidedWindowAttention(WindowAttention):
    """Window attention; ``guided`` also takes and gives attention maps."""

    def guided(self, x: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, *S, C), map or None -> (B, *S, C), this block's own map (B, n, h, L, L)."""
        S = grid.grid_of(x, self.rank)
        w, shift, padded = self.layout(S)
        x = grid.pad_after(x, [p - s for p, s in zip(padded, S, strict=True)])
        x = torch.roll(x, [-s for s in shift], grid.axes(self.rank))
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(grid.windows(x, w)).chunk(3, -1))
        regions = [
            grid.axis_regions(s, p, t, self.policy == "masked", x.device)
            for s, p, t in zip(S, padded, shift, strict=True)
        ]
        scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float() + self.bias(w)
        if any(shift) or padded != S:
            scores = scores + grid.region_mask(regions, w)[:, None]
        own = scores.softmax(-1).to(v.dtype)
        out = (own if guide is None else own + guide) @ v
        x = grid.unwindows(self.proj(join_heads(out)), w, padded)
        x = torch.roll(x, list(shift), grid.axes(self.rank))
        return grid.crop_to(x, S), own


def run_guided(block: Block, x: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor]:
    """A block with a guided mixer: its output and its attention map."""
    assert isinstance(block.mixer, GuidedWindowAttention)
    mixed, own = block.mixer.guided(block.norm1(x), guide)
    return block.feed_forward(x + block.drop_path(mixed)), own


class SummaryCrossAttention(nn.Module):
    """The mean of one map attends to itself and all tokens of another (CrossViT, equation 3).

    x, other: (B, *S, C) -> x with the summary's change added to every token.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = check_heads(heads, dim)
        self.norm = nn.LayerNorm(dim)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        summary = x.flatten(1, -2).mean(1, keepdim=True)  # (B, 1, C)
        tokens = self.norm(torch.cat((summary, other.flatten(1, -2)), 1))
        q = self.q(tokens[:, :1])
        k, v = self.kv(tokens).chunk(2, -1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        change = join_heads(attend(q, k, v))
        change = self.proj(change)[:, 0]  # (B, C)
        return x + change[(slice(None), *([None] * (x.ndim - 2)))]


class CrossSkip(nn.Module):
    """``depth`` rounds in which each map's summary looks at the other map."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(
            nn.ModuleList((SummaryCrossAttention(dim, heads), SummaryCrossAttention(dim, heads)))
            for _ in range(depth)
        )

    def forward(self, d: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        for pair in self.rounds:
            first, second = cast("Iterable[nn.Module]", pair)
            d, e = first(d, e), second(e, d)
        return d, e


class AttSwinUNet(nn.Module):
    """(B, C, *S) -> logits (B, K, *S), any S."""

    def __init__(
        self,
        encoder: Pyramid,
        decoder: ExpandingDecoder,
        out_channels: int,
        *,
        skip_heads: int,
        skip_depth: int,
        deep_supervision: int,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.gradient_checkpointing = encoder.gradient_checkpointing
        self.skips = nn.ModuleList(
            CrossSkip(c, skip_heads, skip_depth) for c in encoder.channels[:-1]
        )
        self.heads = make_heads(decoder, out_channels, deep_supervision, bias=False)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        maps, attention = self.encode(channels_last(x))
        decoder, size = self.decoder, x.shape[2:]
        y = decoder.norm_in(maps[-1])
        out: list[Tensor] = []
        for i in reversed(range(len(maps) - 1)):
            y = grid.crop_to(decoder.expands[i](y), maps[i].shape[1:-1])
            y = decoder.join(i, *self.skips[i](y, maps[i]))
            blocks = cast("Iterable[nn.Module]", decoder.levels[i])
            for block, guide in zip(blocks, attention[i], strict=True):
                y, _ = self.run(block, y, guide)
            out.insert(0, y)
        if out:
            out[0] = y = decoder.norm_out(y)
        out.insert(0, grid.crop_to(decoder.final(y), size))
        if self.training and len(self.heads) > 1:
            pairs = zip(self.heads, out, strict=False)
            return [head(m.movedim(-1, 1)) for head, m in pairs]
        return self.heads[0](out[0].movedim(-1, 1))

    def encode(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Maps (B, *S_i, C_i), and the attention maps of every block, per level."""
        x = x.movedim(1, -1)
        maps, attention = [], []
        for stage in self.encoder.stages:
            x = stage.down(x)  # type: ignore[operator]
            shown = []
            for block in stage.blocks:  # type: ignore[union-attr]
                x, own = self.run(block, x, None)
                shown.append(own)
            maps.append(x)
            attention.append(shown)
        return maps, attention

    def run(self, block: Any, x: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor]:
        """A guided block, recomputed in the backward pass when asked to."""
        recompute = self.gradient_checkpointing and self.training
        return recomputed(recompute, run_guided, block, x, guide)


def build(
    rank: int,
    in_channels: int,
    out_channels: int,
    *,
    feature_size: int,
    patch: grid.PerAxis,
    depths: Sequence[int],
    heads: Sequence[int],
    window: grid.PerAxis,
    policy: Any,
    strides: Sequence[grid.PerAxis] | None,
    skip_depth: int,
    skip_heads: int,
    width: int | None,
    drop_path: float,
    deep_supervision: int,
    gradient_checkpointing: bool,
) -> nn.Module:
    """The network; the options are those of ``catalog.MODELS["att_swin_unet"]``."""
    config = zoo.swin(
        rank,
        in_channels,
        dims=zoo.doubling(feature_size, len(depths)),
        depths=depths,
        heads=heads,
        window=window,
        patch=patch,
        merge_strides=strides,
        drop_path=drop_path,
        gradient_checkpointing=gradient_checkpointing,
    )
    w = window if isinstance(window, int) else tuple(window)
    guided = [GuidedWindowConfig(heads=h, window=w, policy=policy) for h in heads]
    blocks = [
        replace(cast("BlockConfig", stage.block), mixer=mixer)
        for stage, mixer in zip(config.stages, guided, strict=True)
    ]
    stages = tuple(
        replace(stage, block=block) for stage, block in zip(config.stages, blocks, strict=True)
    )
    encoder = Pyramid(replace(config, stages=stages))
    decoder = ExpandingDecoder(
        rank,
        encoder.channels,
        encoder.strides,
        blocks,
        (*depths[:-1], 0),
        width=width,
    )
    return AttSwinUNet(
        encoder,
        decoder,
        out_channels,
        skip_heads=skip_heads,
        skip_depth=skip_depth,
        deep_supervision=deep_supervision,
    )
