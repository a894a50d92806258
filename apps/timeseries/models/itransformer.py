"""iTransformer and S-Mamba: every variate is one token, made of its whole window.

Papers: Liu et al., "iTransformer: inverted transformers are effective for time series forecasting",
ICLR 2024 (section 3, figure 2); Wang et al., "Is Mamba effective for time series forecasting?",
2024 (S-Mamba).  Codes they correspond to: thuml/iTransformer, model/iTransformer.py;
wzhwzhwzh0921/S-D-Mamba, model/S_Mamba.py.

Letters: B windows, L lookback, H horizon, N targets, P past and K known covariates, M = N + P + K
tokens, d = ``dim``.

    tokens = dropout(Linear(L -> d)(window of each series))          (B, M, d)
    tokens = norm(tokens + mixer(tokens)); norm(tokens + ffn(tokens))      ``depth`` times
    forecast = Linear(d -> H)(norm(tokens of the targets))           (B, N, H)

around which the targets of each window are standardised and restored.  iTransformer's mixer is
attention; any of core's mixers may stand there.  S-Mamba's are two Mambas of their own weights, one
over the variates in their order and one in the reverse, added up: its forecasts depend on that
order, iTransformer's do not.

Covariates are tokens that nothing is forecast of.  ``known="lookback"`` is what was published: the L
stamps of the window of a known covariate (the authors' calendar marks) go through the targets'
Linear(L -> d), its future is not looked at.  ``known="full"`` gives them a Linear(L + H -> d) of
their own and so the future as well.

Weights are drawn as in the authors' codes, PyTorch's own way, not as core's backbones are.

Deviates from the authors' codes: past covariates, which they do not have, are tokens by the
targets' layer, standardised per window like them; several outputs for a stamp; S-Mamba's layers
hold there two more Mambas and an attention that nothing is computed with, left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apps.timeseries.models.base import (
    Forecaster,
    Shape,
    register,
    restore,
    split_outputs,
    standardise,
)
from core.blocks import BlockConfig, BlockContext, PostBlock
from core.errors import UsageError
from core.mixers import mixer_config
from core.mixers.base import build_mixer, check_choice, takes
from core.mixers.mamba import MambaConfig
from core.ops.dropout import dropout

Known = Literal["full", "lookback"]


@dataclass(frozen=True, kw_only=True)
class ITransformerConfig:
    """Sizes of the authors' scripts for ETTh1.

    ``mixer`` is the name of one of core's mixers, ``mixer_options`` what it takes besides ``heads``,
    ``dropout`` and the number of positions, which it is given where it has such options.
    ``dropout`` acts on tokens, in the mixer, in the feed-forward and on what both add.
    ``instance_norm`` False leaves the windows as they are (the authors' PEMS scripts).
    """

    dim: int = 256
    depth: int = 2
    ffn: int = 256
    heads: int = 8
    dropout: float = 0.1
    mixer: str = "attention"
    mixer_options: Mapping[str, Any] | None = None
    known: Known = "full"
    instance_norm: bool = True


@dataclass(frozen=True, kw_only=True)
class SMambaConfig:
    """Sizes of the authors' scripts for ETTh1; ``d_conv`` 2 and ``expand`` 1 are the paper's.

    ``dropout`` acts on tokens, in the feed-forward and on what that adds.
    """

    dim: int = 256
    depth: int = 2
    ffn: int = 256
    d_state: int = 2
    d_conv: int = 2
    expand: float = 1.0
    dropout: float = 0.1
    known: Known = "full"
    instance_norm: bool = True


class Inverted(Forecaster):
    """(B, L, N), past (B, L, P), known (B, L + H, K) -> (B, H, N) or (B, H, N, Q)."""

    def __init__(
        self,
        config: ITransformerConfig | SMambaConfig,
        shape: Shape,
        block: Callable[[BlockContext], nn.Module],
    ) -> None:
        super().__init__(shape)
        d, depth = config.dim, config.depth
        if d < 1 or depth < 1 or config.ffn < 1:
            raise UsageError(f"dim {d}, depth {depth}, ffn {config.ffn}: must be 1 or more.")
        self.known = check_choice(config.known, Known, "known")
        self.dropout, self.instance_norm = config.dropout, config.instance_norm
        self.embed = nn.Linear(shape.lookback, d)
        self.embed_known: nn.Linear | None = None
        if shape.known and self.known == "full":
            self.embed_known = nn.Linear(shape.lookback + shape.horizon, d)
        self.blocks = nn.Sequential(
            *(block(BlockContext(dim=d, rank=1, index=i, depth=depth)) for i in range(depth))
        )
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, shape.horizon * shape.outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        if self.instance_norm:
            x, mean, std = standardise(x)
        tokens = self.tokens(x, past, known)
        if self.dropout and self.training:
            tokens = dropout(tokens, self.dropout)
        tokens = self.blocks(tokens)[:, : self.shape.variates]
        y = split_outputs(self.head(self.norm(tokens)), self.shape)
        return restore(y, mean, std) if self.instance_norm else y

    def tokens(self, x: Tensor, past: Tensor | None, known: Tensor | None) -> Tensor:
        """The targets', then past and known covariates' tokens: (B, M, d)."""
        rows = [x]
        if past is not None:
            rows.append(standardise(past)[0] if self.instance_norm else past)
        if known is not None and self.embed_known is None:
            rows.append(known[:, : self.shape.lookback])
        tokens = self.embed((x if len(rows) == 1 else torch.cat(rows, 2)).transpose(1, 2))
        if known is not None and self.embed_known is not None:
            tokens = torch.cat((tokens, self.embed_known(known.transpose(1, 2))), 1)
        return tokens


@register("itransformer", ITransformerConfig)
class ITransformer(Inverted):
    """iTransformer, or its skeleton with another mixer among the variates."""

    def __init__(self, config: ITransformerConfig, shape: Shape) -> None:
        given = {
            "heads": config.heads,
            "dropout": config.dropout,
            "positions": shape.variates + shape.past + shape.known,
        }
        own = {key: value for key, value in given.items() if takes(config.mixer, key)}
        block = BlockConfig(
            mixer=mixer_config(config.mixer, **{**own, **(config.mixer_options or {})}),
            ffn_ratio=(config.ffn + 0.5) / config.dim,  # a half against rounding down
            form="post",
            dropout=config.dropout,
        )
        super().__init__(config, shape, block.build)


@register("s-mamba", SMambaConfig)
class SMamba(Inverted):
    """S-Mamba: a Mamba in each direction over the variates."""

    def __init__(self, config: SMambaConfig, shape: Shape) -> None:
        block = BlockConfig(
            mixer=MambaConfig(d_state=config.d_state, d_conv=config.d_conv, expand=config.expand),
            ffn_ratio=(config.ffn + 0.5) / config.dim,  # a half against rounding down
            form="post",
            dropout=config.dropout,
        )
        super().__init__(config, shape, lambda context: BothWays(block, context))


class BothWays(PostBlock):
    """norm1(x + mixer(x) + back(x reversed) reversed), then norm2(x + ffn(x)): (B, M, d) -> same.

    ``back`` is a second mixer, of the same config and its own weights.  As in S-Mamba's code, what
    the two add is not thinned out by dropout.
    """

    def __init__(self, config: BlockConfig, context: BlockContext) -> None:
        super().__init__(config, context)
        self.back = build_mixer(config.mixer, context)

    def forward(self, x: Tensor) -> Tensor:
        assert self.mixer is not None
        x = self.norm1(x + self.mixer(x) + self.back(x.flip(1)).flip(1))
        return self.feed_forward(x)
