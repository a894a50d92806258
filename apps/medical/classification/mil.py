"""R2T-MIL: a bag of patch features is re-embedded region by region, then pooled by attention.

Paper: Tang et al., "Feature Re-Embedding: Towards Foundation Model-Level Performance in
Computational Pathology", CVPR 2024, arXiv:2402.17228; pooling: Ilse et al., "Attention-based deep
multiple instance learning" (AB-MIL), ICML 2018.  Code it corresponds to: DearCaat/RRT-MIL
(modules/rrt.py, rmsa.py, datten.py), whose README says that it cannot fully reproduce the paper.

Letters: B bags, N instances, D features of an instance, C width, r regions an axis, P positions of a
region, h heads, k representatives of a region, K classes.

    squaring     N instances in their order are the raster of a square of side ceil(sqrt(N)), padded
                 until r divides it: r x r regions of P positions.
    R-MSA        self-attention inside each region.  EPEG adds to the scores, before the softmax, their
                 own depthwise convolution along the queries: A + conv(A) (section 3.2).
    CR-MSA       scores L = x phi, (P, k).  Each region sends k representatives (x weighted by softmax
                 of L over positions) into attention among all regions; what comes back is spread over
                 the positions by the min-max of L over positions times softmax of L over k (section
                 3.3).
    both         pre-norm with residual, no feed-forward; then a LayerNorm.

Numerical parity with the authors' code (commit 7ecbdfb), their weights' names mapped by ``from_authors``,
padding "attended": largest difference of the logits 2e-7 (see ``tests``: checked against a fetched
copy, which is not part of this repository).

Deviates from the authors' code, by default: padding is masked (``padding="attended"`` gives theirs, in
which zeros take part in attention and min-max).  Bags of several lengths go one by one.

With r = 8 a bag of up to 64 instances has regions of one position, in which neither attention has
anything to do: re-embedding starts above.  Give such bags fewer ``regions``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError

Padding = Literal["masked", "attended"]
POOL_DIM = 128  # width of the pooling's hidden layer, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class R2TConfig:
    """The defaults are the authors'.  ``layers`` of R-MSA come before the one of CR-MSA.

    ``epeg``: length of the convolution over the scores, odd.  ``shortcut`` adds the embedding to
    what leaves the last layer; ``mlp`` makes phi two layers; ``gated``: the pooling of AB-MIL's
    equation 9 in place of 8.
    """

    in_dim: int = 1024
    classes: int = 2
    dim: int = 512
    layers: int = 1
    regions: int = 8
    heads: int = 8
    epeg: int = 15
    representatives: int = 3
    cross_heads: int = 8
    shortcut: bool = False
    mlp: bool = False
    gated: bool = False
    dropout: float = 0.25
    attention_dropout: float = 0.1
    padding: Padding = "masked"

    def __post_init__(self) -> None:
        sizes = (self.in_dim, self.dim, self.regions, self.representatives)
        if min(sizes) < 1 or self.classes < 2 or self.layers < 0:
            raise UsageError(
                f"R2T-MIL from {self.in_dim} to {self.classes} classes with {self.regions} regions and "
                f"{self.representatives} representatives: want at least 1 of each and 2 classes."
            )
        for heads in (self.heads, self.cross_heads):
            if heads < 1 or self.dim % heads:
                raise UsageError(f"R2T-MIL of width {self.dim}: {heads} heads do not divide it.")
        if self.epeg < 1 or self.epeg % 2 == 0:
            raise UsageError(f"epeg {self.epeg}: the convolution's length must be odd.")
        if self.padding not in ("masked", "attended"):
            raise UsageError(f"padding {self.padding!r}: choose masked or attended.")


class ScoreAttention(nn.Module):
    """Self-attention over (R, L, C) whose scores are convolved along the queries (EPEG).

    ``valid`` (R, L) marks what takes part; the others' scores are 0 for the convolution, as beyond
    its ends.
    """

    def __init__(self, dim: int, heads: int, epeg: int | None, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)
        self.conv: nn.Conv2d | None = None
        if epeg is not None:
            kernel, padding = (epeg, 1), (epeg // 2, 0)
            self.conv = nn.Conv2d(heads, heads, kernel, padding=padding, groups=heads)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        R, L, C = x.shape
        q, k, v = self.qkv(x).view(R, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        scores = q * (C // self.heads) ** -0.5 @ k.transpose(-2, -1)  # (R, h, L, L)
        if valid is not None:
            pairs = (valid[:, :, None] & valid[:, None, :])[:, None]
            scores = scores.masked_fill(~pairs, 0.0)
        if self.conv is not None:
            scores = scores + self.conv(scores)
        if valid is not None:  # a row without any key is padding: let it see all, it is dropped
            keys = valid | ~valid.any(1, keepdim=True)
            scores = scores.masked_fill(~keys[:, None, None, :], -math.inf)
        y = scores.softmax(-1) @ v
        return self.drop(self.proj(y.transpose(1, 2).reshape(R, L, C)))


class RegionAttention(nn.Module):
    """R-MSA on regions (B, R, P, C)."""

    def __init__(self, config: R2TConfig) -> None:
        super().__init__()
        self.attention = ScoreAttention(
            config.dim, config.heads, config.epeg, config.attention_dropout
        )

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        flat = None if valid is None else valid.flatten(0, 1)
        return self.attention(x.flatten(0, 1), flat).view(x.shape)


class CrossRegionAttention(nn.Module):
    """CR-MSA on regions (B, R, P, C)."""

    def __init__(self, config: R2TConfig) -> None:
        super().__init__()
        dim, k = config.dim, config.representatives
        self.phi: nn.Module = nn.Linear(dim, k, bias=False)
        if config.mlp:
            self.phi = nn.Sequential(
                nn.Linear(dim, dim // 4, bias=False), nn.Tanh(), nn.Linear(dim // 4, k, bias=False)
            )
        self.attention = ScoreAttention(dim, config.cross_heads, None, config.attention_dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        B, R, _, C = x.shape
        logits = self.phi(x).transpose(-2, -1)  # (B, R, k, P)
        k = logits.shape[2]
        low = high = weighed = logits
        alive = None
        if valid is not None:
            hidden = ~valid[:, :, None]
            alive = valid.any(-1)  # (B, R): regions with an instance
            empty = ~alive[..., None, None]
            weighed = logits.masked_fill(hidden & ~empty, -math.inf)
            low, high = logits.masked_fill(hidden, math.inf), logits.masked_fill(hidden, -math.inf)
            alive = alive[:, None].expand(B, k, R).flatten(0, 1)
        sent = weighed.softmax(-1) @ x  # (B, R, k, C)
        sent = sent.transpose(1, 2).flatten(0, 1)  # each representative among its like
        back = self.attention(sent, alive).view(B, k, R, C).transpose(1, 2)  # (B, R, k, C)
        low, high = low.amin(-1, keepdim=True), high.amax(-1, keepdim=True)
        if valid is not None:
            low, high = (t.masked_fill(~t.isfinite(), 0.0) for t in (low, high))
        spread = (logits - low) / (high - low + 1e-8) * logits.softmax(2)
        return spread.transpose(-2, -1) @ back


class RegionLayer(nn.Module):
    """x + mixer(norm(x)) for instances (B, N, C), squared into regions and back."""

    def __init__(self, mixer: nn.Module, config: R2TConfig) -> None:
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(config.dim), mixer
        self.regions, self.masked = config.regions, config.padding == "masked"

    def forward(self, x: Tensor) -> Tensor:
        N, side = x.shape[1], _side(x.shape[1], self.regions)
        squared = _regions(self.norm(x), side, self.regions)
        valid = None
        if self.masked and side**2 != N:
            ones = torch.ones(x.shape[0], N, 1, dtype=torch.bool, device=x.device)
            valid = _regions(ones, side, self.regions)[..., 0]
        return x + _instances(self.mixer(squared, valid), side, self.regions)[:, :N]


class AttentionPool(nn.Module):
    """AB-MIL: (B, N, C) -> the weighted mean (B, C) and the weights (B, N)."""

    def __init__(self, dim: int, gated: bool) -> None:
        super().__init__()
        self.value = nn.Linear(dim, POOL_DIM, bias=False)
        self.gate = nn.Linear(dim, POOL_DIM, bias=False) if gated else None
        self.score = nn.Linear(POOL_DIM, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The authors' code has ReLU where the paper of AB-MIL has tanh.
        hidden = self.value(x).relu()
        if self.gate is not None:
            hidden = hidden * self.gate(x).sigmoid()
        weights = self.score(hidden)[..., 0].softmax(-1)
        return (weights[:, None] @ x)[:, 0], weights


class R2TMIL(nn.Module):
    """Bags (B, N, D) -> logits (B, K).  ``regions=None`` in ``build`` leaves AB-MIL."""

    def __init__(self, config: R2TConfig, *, reembed: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.in_dim, config.dim)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList()
        self.norm: nn.Module = nn.Identity()
        if reembed:
            mixers = [RegionAttention(config) for _ in range(config.layers)]
            self.layers.extend(
                RegionLayer(m, config) for m in (*mixers, CrossRegionAttention(config))
            )
            self.norm = nn.LayerNorm(config.dim)
        self.pool = AttentionPool(config.dim, config.gated)
        self.head = nn.Linear(config.dim, config.classes)
        for module in self.modules():  # CLAM's way, which the authors follow
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def instances(self, x: Tensor) -> Tensor:
        """Embedded, and re-embedded, instances (B, N, C)."""
        if x.ndim != 3 or x.shape[-1] != self.config.in_dim or x.shape[1] < 1:
            raise UsageError(
                f"bag of shape {tuple(x.shape)}: this network wants (B, N, {self.config.in_dim})."
            )
        x = self.drop(F.relu(self.embed(x)))
        short = x
        for layer in self.layers:
            x = layer(x)
        return self.norm(x + short if self.config.shortcut and len(self.layers) else x)

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The bag's vector (B, C) and how much each instance weighs in it (B, N)."""
        return self.pool(self.instances(x))

    def features(self, x: Tensor) -> Tensor:
        """One vector a bag, (B, C)."""
        return self.attend(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the authors' ``RRTMIL`` under this module's names."""
    names = {
        "patch_to_emb.0": "embed",
        "online_encoder.norm": "norm",
        "predictor": "head",
        "pool_fn.attention.attention.0": "pool.value",
        "pool_fn.attention.attention.2": "pool.score",
        "pool_fn.attention.attention_a.0": "pool.value",
        "pool_fn.attention.attention_b.0": "pool.gate",
        "pool_fn.attention.attention_c": "pool.score",
    }
    depth = len({k.split(".")[2] for k in state if k.startswith("online_encoder.layers.")})
    for i in range(depth):
        names[f"online_encoder.layers.{i}"] = f"layers.{i}"
    names["online_encoder.cr_msa"] = f"layers.{depth}"
    inner = {
        "attn.attn.qkv": "mixer.attention.qkv",
        "attn.attn.proj": "mixer.attention.proj",
        "attn.attn.pe": "mixer.attention.conv",
        "attn.phi": "mixer.phi",
        "norm": "norm",
    }
    found = {}
    for key, value in state.items():
        start = max((n for n in names if key == n or key.startswith(n + ".")), key=len)
        rest = key[len(start) + 1 :]
        for theirs, ours in inner.items():
            if start.startswith(("online_encoder.layers", "online_encoder.cr_msa")) and (
                rest == theirs or rest.startswith(theirs + ".")
            ):
                rest = ours + rest[len(theirs) :]
                break
        if rest == "mixer.phi":  # a matrix (C, k) there
            rest, value = "mixer.phi.weight", value.T
        found[f"{names[start]}.{rest}"] = value
    return found


def _side(instances: int, regions: int) -> int:
    """Side of the padded square."""
    side = math.isqrt(instances - 1) + 1
    return -(-side // regions) * regions


def _regions(x: Tensor, side: int, regions: int) -> Tensor:
    """(B, N, C) -> (B, r * r, P, C), zeros or False beyond N."""
    B, N, C = x.shape
    size = side // regions
    if side * side > N:
        x = torch.cat((x, x.new_zeros(B, side * side - N, C)), 1)
    x = x.view(B, regions, size, regions, size, C).transpose(2, 3)
    return x.reshape(B, regions**2, size**2, C)


def _instances(x: Tensor, side: int, regions: int) -> Tensor:
    """The inverse of :func:`_regions`, padding included: (B, side * side, C)."""
    B, C, size = x.shape[0], x.shape[-1], side // regions
    x = x.view(B, regions, regions, size, size, C).transpose(2, 3)
    return x.reshape(B, side * side, C)
