"""Image classifiers: a backbone of core's, learned tokens that read it, a linear head for each.

Papers: Touvron et al., "Training data-efficient image transformers and distillation through
attention" (DeiT), ICML 2021, arXiv:2012.12877, section 4: beside the class token a distillation
token, which the teacher's verdict is the target of; Touvron et al., "Going deeper with image
transformers" (CaiT), ICCV 2021, arXiv:2103.17239, section 3: class attention, in which only the
tokens ask.

Letters: B batch, S grid, C channels of the coarsest map, K classes, T tokens: 1, or 2 with the
distillation token.

Three ways from a backbone to T vectors:
    own     tokens join the grid in the last stage of a backbone that is published with a class
            token (DeiT, CvT, Vim, ViR): DeiT's own way.
    class   two layers of class attention read the last map (Swin, CSwin, PVTv2, ConvNeXt, VMamba and
            every other pyramid), at rank 1 to 3.
    pool    the mean of the last map, as Swin and ConvNeXt classify; without distillation only.

The test-time answer is the mean of both heads' logits.
Deviates from DeiT's paper, as its code does: there the softmax outputs are added.  Deviates from
CaiT: no LayerScale (two layers need none), biases everywhere.  ``deit_*`` start from core's
initialisation; with transformers' DeiT weights mapped both agree to float32 rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

import core
from apps.medical.classification.catalog import CLASSIFIERS, DEIT
from core import grid
from core.backbones import zoo
from core.backbones.family import patchify, plain_heads
from core.backbones.pyramid import PyramidConfig, StageConfig
from core.blocks import BlockConfig, Mlp, init_weights
from core.config import StrictModel
from core.errors import UsageError, unknown
from core.mixers.attention import AttentionConfig
from core.mixers.base import attend, check_heads, join_heads, split_heads

Reading = Literal["own", "class", "pool"]
TOKEN_DEPTH = 2
"""Layers of class attention: CaiT's number for every size (section 3.2)."""


class ClassifierNetwork(StrictModel):
    """The arguments of :func:`build_classifier`.

    ``options`` override those of the backbone (``core.create``, or ``deit``); ``size`` is the input
    grid, which a learned position embedding is made for.
    """

    name: str
    rank: Literal[1, 2, 3]
    in_channels: int
    classes: int
    size: tuple[int, ...]
    distilled: bool = False
    options: dict[str, Any] = {}


def deit(
    rank: int,
    in_channels: int,
    *,
    dim: int,
    depth: int,
    heads: int,
    size: tuple[int, ...],
    patch: grid.PerAxis = 16,
    drop_path: float = 0.0,
) -> PyramidConfig:
    """DeiT's trunk: patches, learned positions, ``depth`` blocks of global attention, a norm.

    Sizes are those of its table 1.  The tokens' own position vectors are part of the tokens here.
    """
    block = BlockConfig(mixer=AttentionConfig(heads=heads), norm_eps=1e-6)
    strides = grid.per_axis(patch, rank, "patch")
    stage = StageConfig(
        dim=dim,
        depth=depth,
        block=block,
        down=patchify(patch, rank),
        position=tuple(grid.ceil_div(s, p) for s, p in zip(size, strides, strict=True)),
        end_norm="layer",
        end_norm_eps=1e-6,
        extra_tokens=1,
    )
    return PyramidConfig(rank=rank, in_channels=in_channels, stages=(stage,), drop_path=drop_path)


def backbone_config(network: ClassifierNetwork) -> PyramidConfig:
    """The backbone that ``network`` names.

    Raises UsageError for an unknown name or option, naming the nearest.
    """
    if len(network.size) != network.rank or min(network.size) < 1:
        raise UsageError(
            f"size {list(network.size)} for a {network.rank}-D classifier: give one positive number "
            "an axis."
        )
    name, own = CLASSIFIERS.get(network.name, (network.name, {}))
    given = {**own, **network.options}
    if name in DEIT:
        known = ("dim", "depth", "heads", "patch", "drop_path")
        for option in given:
            if option not in known:
                raise UsageError(unknown(f"option of backbone {name!r}", option, known))
        sizes = {**DEIT[name], **given}
        return deit(network.rank, network.in_channels, size=tuple(network.size), **sizes)
    if name not in zoo.ZOO:
        raise UsageError(unknown("classifier", name, [*CLASSIFIERS, *DEIT, *zoo.list()]))
    with torch.device("meta"):  # the checked config without the weights
        return core.create(name, network.rank, network.in_channels, **given).config


class ClassAttention(nn.Module):
    """t + attention(t; t and x), then t + mlp(t): tokens (B, T, C) read positions (B, L, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = check_heads(heads, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, 4.0, rank=1)

    def forward(self, tokens: Tensor, x: Tensor) -> Tensor:
        seen = self.norm1(torch.cat((tokens, x), 1))  # (B, T + L, C)
        q = split_heads(self.q(seen[:, : tokens.shape[1]]), self.heads)
        k, v = (split_heads(t, self.heads) for t in self.kv(seen).chunk(2, -1))
        tokens = tokens + self.proj(join_heads(attend(q, k, v)))
        return tokens + self.mlp(self.norm2(tokens))


class TokenReader(nn.Module):
    """Learned tokens that read a map: (B, *S, C) -> (B, T, C)."""

    def __init__(self, dim: int, tokens: int, depth: int = TOKEN_DEPTH) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, tokens, dim))
        nn.init.trunc_normal_(self.tokens, std=0.02)
        self.layers = nn.ModuleList(ClassAttention(dim, plain_heads(dim)) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(1, -2)
        tokens = self.tokens.expand(x.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return self.norm(tokens)


class Classifier(nn.Module):
    """(B, C, *S) -> logits (B, K); in training with distillation (B, 2, K), class token first."""

    def __init__(self, network: ClassifierNetwork) -> None:
        super().__init__()
        if network.classes < 2:
            raise UsageError(f"classifier of {network.classes} classes: it needs two or more.")
        config = backbone_config(network)
        self.reading = _reading(config, network.distilled)
        tokens = 2 if network.distilled else 1
        last = replace(config.stages[-1], extra_tokens=tokens if self.reading == "own" else 0)
        self.backbone = replace(config, stages=(*config.stages[:-1], last)).build()
        dim = self.backbone.channels[-1]
        self.reader = TokenReader(dim, tokens) if self.reading == "class" else None
        normed = self.reading == "class" or (self.reading == "own" and last.end_norm != "none")
        self.norm = nn.Identity() if normed else nn.LayerNorm(dim)
        self.head = nn.Linear(dim, network.classes)
        self.head_distilled = nn.Linear(dim, network.classes) if network.distilled else None
        for head in (self.head, self.head_distilled):
            if head is not None:  # as published: nearly equal odds before the first step
                nn.init.trunc_normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)

    def tokens(self, x: Tensor) -> Tensor:
        """What the heads read, (B, T, C)."""
        maps, extra = self.backbone.forward_extra(x)
        if self.reading == "own":
            assert extra is not None
            return self.norm(extra)
        coarsest = maps[-1].movedim(1, -1)
        if self.reader is not None:
            return self.norm(self.reader(coarsest))
        return self.norm(coarsest.flatten(1, -2).mean(1, keepdim=True))

    def features(self, x: Tensor) -> Tensor:
        """One vector an image, (B, C): the mean of the tokens."""
        return self.tokens(x).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x)
        logits = self.head(tokens[:, 0])
        if self.head_distilled is None:
            return logits
        distilled = self.head_distilled(tokens[:, 1])
        if self.training:
            return torch.stack((logits, distilled), 1)
        return (logits + distilled) / 2


def build_classifier(network: ClassifierNetwork) -> Classifier:
    """The classifier with fresh weights.  Raises UsageError as :func:`backbone_config` does."""
    return Classifier(network)


def _reading(config: PyramidConfig, distilled: bool) -> Reading:
    """How this backbone is read: see the module."""
    if config.stages[-1].extra_tokens:
        return "own"
    return "class" if distilled else "pool"
