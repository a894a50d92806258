"""Sequence trunks: one stage of equal blocks at full length, read whole or a position at a time.

``core.create("mamba_130m", rank=1, in_channels=7)`` maps (B, 7, L) to [(B, 768, L)], like any
backbone.  A trunk has two more doors: ``encode`` takes vectors that are embedded already, (B, L,
dim), as a language model's are; ``initial_state`` and ``step`` take one position after another, in
time and memory that do not grow with what has passed, attention's cache apart.

Mamba's block is x + mixer(norm(x)), without feed-forward, and the trunk ends with a norm, both
RMSNorm: Gu and Dao, "Mamba", 2023, section 3.4, figure 3; mamba_ssm's MixerModel, transformers'
MambaModel and Mamba2Model without their embedding.  RetNet (Sun et al., 2023) has feed-forwards and
LayerNorm; its sizes are those of torchscale's ``retnet_xl``, ``retnet_3b`` and ``retnet_7b`` with
values twice as wide as keys.

The hybrid is Waleffe et al., "An Empirical Study of Mamba-based Language Models", 2024: Mamba-2,
attention and feed-forward layers in a pattern, "M", "*" and "-".  The paper gives 56 layers in
proportions of 43, 7 and 50 %; order and sizes are those of the authors' Megatron-LM
(``examples/mamba``) and of NeMo's ``NVIDIAMambaHybridConfig8B``: width 4096, 8 groups in Mamba-2,
32 heads of attention over 8 keys and values, feed-forwards of 16384, RMSNorm, no biases, no position
encoding.  State 128, heads of 64, convolution over 4 and GELU are the defaults of Megatron-LM that
its scripts leave alone.

Deviates from the papers: a linear map of ``patch`` positions stands where they look tokens up; at
rank 2 and 3 the grid is read in raster order, at the input's resolution unless ``patch`` says less.
Like the authors' codes (``residual_in_fp32``) what is carried from block to block keeps the weights'
precision under autocast.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core import grid
from core.backbones.family import Mixer, enter, family, mixer_or, plain_heads
from core.backbones.pyramid import Pyramid, PyramidConfig, Stage, StageConfig
from core.blocks import Block, BlockConfig
from core.down import ConvDown, ConvDownConfig
from core.errors import UsageError
from core.mixers.attention import AttentionConfig
from core.mixers.mamba import MambaConfig
from core.mixers.mamba2 import Mamba2Config, largest_divisor
from core.mixers.retention import RetentionConfig
from core.mixers.scanned import inner_width
from core.nn import GridNorm

State = tuple[Any, ...]
"""What a trunk carries from one position to the next: each block's own, None where it has none."""

MAMBA2_HYBRID_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"
"""24 Mamba-2, 4 attention and 28 feed-forward layers, as in the authors' scripts."""


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(PyramidConfig):
    """A pyramid of one stage that is built as a :class:`SequenceTrunk`."""

    def build(self) -> SequenceTrunk:
        """The trunk, with fresh weights.  Raises UsageError unless there is one stage."""
        if len(self.stages) != 1 or self.outputs != "end":
            raise UsageError(
                f"sequence trunk with {len(self.stages)} stages and outputs={self.outputs!r}: it "
                "has one stage and outputs='end'."
            )
        return SequenceTrunk(self)


class SequenceTrunk(Pyramid):
    """(B, C, *S) -> [(B, dim, *ceil(S / patch))], and see the module for ``encode`` and ``step``."""

    @property
    def trunk(self) -> Stage:
        """The one stage."""
        stage = self.stages[0]
        assert isinstance(stage, Stage)
        return stage

    def encode(self, tokens: Tensor) -> Tensor:
        """Blocks and last norm on embedded positions: (B, *S, dim) -> (B, *S, dim)."""
        dim = self.channels[0]
        if tokens.ndim != self.rank + 2 or tokens.shape[-1] != dim:
            axes = ", ".join("DHW"[3 - self.rank :]) if self.rank > 1 else "L"
            raise UsageError(
                f"tokens of shape {tuple(tokens.shape)}: this trunk encodes (B, {axes}, {dim}); "
                "embed them first, or call the trunk on (B, C, *S)."
            )
        return self.trunk(tokens, self.gradient_checkpointing and self.training)[0]

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before the first step; device and dtype are the parameters' unless given.

        Raises UsageError, naming the mixer, where the trunk cannot be read step by step.
        """
        stage = self.trunk
        if self.rank != 1:
            raise UsageError(
                f"trunk of rank {self.rank}: only a sequence is streamed; create it with rank=1."
            )
        around = [m for m in (stage.position, stage.extra, stage.lead) if m is not None]
        if around or isinstance(stage.norm, GridNorm):
            raise UsageError(
                "trunk whose stage has a position embedding, extra tokens, a leading block or a "
                "norm over the grid: cannot be streamed; leave them out."
            )
        return tuple(
            _initial_state(i, block, batch, device, dtype) for i, block in enumerate(stage.blocks)
        )

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The next position x (B, C), or patch of positions (B, C, patch): y (B, dim), new state.

        Steps equal ``forward`` to rounding.  Call it in ``eval`` mode.
        """
        patch = self.strides[0]
        wide = x.unsqueeze(-1) if x.ndim == 2 else x
        if wide.ndim != 3 or wide.shape[1:] != (self.config.in_channels, patch):
            more = "" if patch == 1 else f", {patch}"
            raise UsageError(
                f"step of shape {tuple(x.shape)}: this trunk takes (B, {self.config.in_channels}"
                f"{more}) at a time."
            )
        return self.encode_step(self.trunk.down(wide.movedim(1, -1)).squeeze(1), state)

    def encode_step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """As ``step``, from a position that is embedded already: (B, dim) -> (B, dim)."""
        x, states = token, []
        for block, before in zip(self.trunk.blocks, state, strict=True):
            assert isinstance(block, Block)
            x, after = block.step(x, before)
            states.append(after)
        return self.trunk.norm(x), tuple(states)


def _initial_state(
    index: int,
    block: nn.Module,
    batch: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Any:
    around = [m for m in block.modules() if isinstance(m, GridNorm)]
    if not isinstance(block, Block) or around or (block.ffn and block.ffn.depthwise):
        raise UsageError(
            f"block {index}: a block of another form, a norm over the grid or a depthwise "
            "feed-forward cannot be streamed; use form='residual', norm='rms' and "
            "ffn_depthwise=False."
        )
    mixer: Any = block.mixer
    if mixer is None:
        return None
    kind = type(mixer).__name__
    if not hasattr(mixer, "initial_state"):
        raise UsageError(
            f"block {index}: mixer {kind} sees what is still to come and cannot be streamed; use "
            "mamba, mamba2, retention or causal attention."
        )
    try:
        return mixer.initial_state(batch, device, dtype)
    except UsageError as error:
        raise UsageError(f"block {index}, mixer {kind}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class StemConfig(ConvDownConfig):
    """A linear map of patches, whose result keeps the weights' dtype under autocast."""

    def build(self, dim_in: int, dim_out: int, rank: int) -> nn.Module:
        return Stem(self, dim_in, dim_out, rank)


class Stem(ConvDown):
    """(B, *S, C) -> (B, *ceil(S / stride), C')."""

    def forward(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        return super().forward(x, sizes).to(self.conv.conv.weight.dtype)


def stem(patch: grid.PerAxis, rank: int) -> StemConfig:
    """Patches without overlap, so that none sees the next one's positions."""
    size = grid.per_axis(patch, rank, "patch")
    return StemConfig(kernel=size, stride=size)


def trunk(stages: Callable[..., tuple[StageConfig, ...]]) -> Callable[..., SequenceConfig]:
    """As :func:`core.backbones.family.family`, for sequence trunks."""
    build = family(stages)

    @functools.wraps(build)
    def built(rank: int, in_channels: int, **options: Any) -> SequenceConfig:
        config = build(rank, in_channels, **options)
        return SequenceConfig(
            **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        )

    return built


@trunk
def mamba(
    rank: int,
    *,
    dim: int,
    depth: int,
    d_state: int = 16,
    expand: float = 2.0,
    d_conv: int = 4,
    patch: grid.PerAxis = 1,
    norm_eps: float = 1e-5,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """Mamba (Gu and Dao, 2023, appendix E.2; widths and depths of GPT-3, twice as many blocks)."""
    own = MambaConfig(d_state=d_state, expand=expand, d_conv=d_conv)
    block = _pure(mixer_or(mixer, own, plain_heads(dim)), norm_eps)
    return _stage(rank, dim, (block,) * depth, patch)


@trunk
def mamba2(
    rank: int,
    *,
    dim: int,
    depth: int,
    d_state: int = 128,
    expand: float = 2.0,
    d_conv: int = 4,
    head_dim: int = 64,
    groups: int = 1,
    patch: grid.PerAxis = 1,
    norm_eps: float = 1e-5,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """Mamba-2 (Dao and Gu, ICML 2024, section 9.4; state-spaces' mamba2-* configurations)."""
    own = Mamba2Config(
        d_state=d_state, expand=expand, d_conv=d_conv, head_dim=head_dim, groups=groups
    )
    block = _pure(mixer_or(mixer, own, plain_heads(dim)), norm_eps)
    return _stage(rank, dim, (block,) * depth, patch)


@trunk
def retnet(
    rank: int,
    *,
    dim: int,
    depth: int,
    heads: int,
    expand: float = 2.0,
    ffn_ratio: float = 2.0,
    patch: grid.PerAxis = 1,
    norm_eps: float = 1e-5,
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """RetNet (Sun et al., 2023, section 2.3), with feed-forwards; no rotation beyond rank 1."""
    own = RetentionConfig(heads=heads, expand=expand, rotary=rank == 1)
    block = BlockConfig(mixer=mixer_or(mixer, own, heads), ffn_ratio=ffn_ratio, norm_eps=norm_eps)
    return _stage(rank, dim, (block,) * depth, patch)


def _pure(mixer: Any, norm_eps: float) -> BlockConfig:
    """x + mixer(norm(x))."""
    return BlockConfig(mixer=mixer, ffn_ratio=None, norm="rms", norm_eps=norm_eps)


def _stage(
    rank: int, dim: int, blocks: tuple[BlockConfig, ...], patch: grid.PerAxis
) -> tuple[StageConfig]:
    """The trunk's one stage; its last norm is of the blocks' kind."""
    stage = StageConfig(
        dim=dim,
        depth=len(blocks),
        block=blocks,
        down=stem(patch, rank),
        end_norm=blocks[0].norm if blocks else "none",
        end_norm_eps=blocks[0].norm_eps if blocks else 1e-5,
    )
    return (stage,)


@trunk
def mamba2_hybrid(
    rank: int,
    *,
    dim: int,
    pattern: str,
    heads: int | None = None,
    kv_heads: int | None = None,
    d_state: int = 128,
    expand: float = 2.0,
    d_conv: int = 4,
    head_dim: int = 64,
    groups: int | None = None,
    ffn_ratio: float = 4.0,
    ffn_act: str = "gelu",
    patch: grid.PerAxis = 1,
    norm_eps: float = 1e-5,
) -> tuple[StageConfig, ...]:
    """Mamba-2-Hybrid (Waleffe et al., 2024, section 4); ``pattern``: see :func:`hybrid_pattern`.

    What is None follows ``dim`` as published, to the next divisor: heads of 128 channels, four of
    them to a pair of key and value, 8 groups of Mamba-2's heads.
    """
    heads = largest_divisor(dim, max(1, dim // 128)) if heads is None else heads
    kv_heads = largest_divisor(heads, max(1, heads // 4)) if kv_heads is None else kv_heads
    if groups is None:
        inner = inner_width(expand, dim)
        groups = largest_divisor(inner // largest_divisor(inner, head_dim), 8)
    mixing = Mamba2Config(
        d_state=d_state, expand=expand, d_conv=d_conv, head_dim=head_dim, groups=groups
    )
    attending = AttentionConfig(heads=heads, kv_heads=kv_heads, causal=True, bias=False)
    kinds = {
        "M": _pure(mixing, norm_eps),
        "*": _pure(attending, norm_eps),
        "-": BlockConfig(
            mixer=None,
            ffn_ratio=ffn_ratio,
            ffn_act=ffn_act,
            ffn_bias=False,
            norm="rms",
            norm_eps=norm_eps,
        ),
    }
    strange = sorted(set(pattern) - set(kinds))
    if not pattern or strange:
        raise UsageError(
            f"pattern {pattern!r}: must be made of M (Mamba-2), * (attention) and - (feed-forward)"
            + (f", not of {', '.join(strange)}." if strange else ", one a layer.")
        )
    return _stage(rank, dim, tuple(kinds[c] for c in pattern), patch)


def hybrid_pattern(depth: int) -> str:
    """The pattern of ``depth`` layers with the published proportions, spread as evenly.

    One layer in 14 is attention and every other one a feed-forward: ``hybrid_pattern(56)`` is
    ``MAMBA2_HYBRID_8B``, ``hybrid_pattern(14)`` a quarter of it.  Raises UsageError below 14.
    """
    if depth < 14:
        raise UsageError(f"hybrid of {depth} layers: fewer than 14 hold no attention; give more.")
    attention, feeding = (depth + 7) // 14, depth // 2
    mixing = depth - attention - feeding
    layers = ["M"] * mixing
    # j-th of n to come after the share j / n of the others, rounded; from the last to the first,
    # so that what is put in does not move the places still to be filled.
    for j in range(feeding, 0, -1):
        layers.insert((2 * j * mixing + feeding) // (2 * feeding), "-")
    for j in range(attention, 0, -1):
        share = (2 * j * (mixing + feeding) + attention + 1) // (2 * (attention + 1))
        layers.insert(share, "*")
    return "".join(layers)


enter(
    mamba,
    {
        "mamba_130m": {"dim": 768, "depth": 24},
        "mamba_370m": {"dim": 1024, "depth": 48},
        "mamba_790m": {"dim": 1536, "depth": 48},
        "mamba_1.4b": {"dim": 2048, "depth": 48},
        "mamba_2.8b": {"dim": 2560, "depth": 64},
    },
)
enter(
    mamba2,
    {
        "mamba2_130m": {"dim": 768, "depth": 24},
        "mamba2_370m": {"dim": 1024, "depth": 48},
        "mamba2_780m": {"dim": 1536, "depth": 48},
        "mamba2_1.3b": {"dim": 2048, "depth": 48},
        "mamba2_2.7b": {"dim": 2560, "depth": 64},
    },
)
enter(
    retnet,
    {
        "retnet_1.3b": {"dim": 2048, "depth": 24, "heads": 8},
        "retnet_2.7b": {"dim": 2560, "depth": 32, "heads": 10},
        "retnet_6.7b": {"dim": 4096, "depth": 32, "heads": 16},
    },
)
enter(mamba2_hybrid, {"mamba2_hybrid_8b": {"dim": 4096, "pattern": MAMBA2_HYBRID_8B}})
