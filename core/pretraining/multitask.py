"""Restoration, rotation and contrast at once, their weights learned.

Papers: Tang et al., "Self-supervised pre-training of Swin transformers for 3D medical image
analysis", CVPR 2022 (arXiv:2111.14791), code Project-MONAI/research-contributions,
SwinUNETR/Pretrain; Li et al. 2023 (arXiv:2305.00385) for prostate MR, who join the three by an
automatic weighted loss (AWL).  Each image gives two views, each turned and corrupted by itself:

    L_restore    mean |restored - turned|  over the whole view
    L_rotation   cross-entropy of the turn, 0, 90, 180 or 270 degrees
    L_contrast   normalised temperature-scaled cross-entropy between the views of one image and of
                 the others (Chen et al. 2020, "SimCLR", equation 1)

    L = sum_i  L_i / (2 s_i^2) + log(1 + s_i^2),   s_i learned, 1 at first

The weighting is Kendall et al.'s (CVPR 2018, arXiv:1705.07115) with the positive regulariser of
Liebel and Koerner (2018, arXiv:1805.06334).  Li et al. have published no code: which of the two
forms they used we do not know, nor their share of masked voxels, which is Tang's here.

Deviates from Tang's code: embedding and turn are read from the mean over the deepest map, there from
its first two tokens; a linear head restores, there five convolutions with up-sampling; boxes are
cut on the grid of patches; noise has the image's own mean and spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.pyramid import Pyramid
from core.errors import UsageError
from core.pretraining.config import MultitaskConfig
from core.pretraining.heads import PixelHead
from core.pretraining.masking import box_masks, enlarge, noise_like, partners, uniform, unit_grid
from core.pretraining.pretext import (
    ERRORS,
    Pretext,
    Scalars,
    floor,
    mean_where,
    scored,
    stem_stride,
)

Turn = Callable[[Tensor], Tensor]
PARTS = ("restoration", "rotation", "contrast")


def turns(size: Sequence[int]) -> list[Turn]:
    """The turns (B, C, *S) -> the same that images of ``size`` allow; the first is none at all.

    In the plane of the first two axes, axial in a volume whose axes are right-left,
    posterior-anterior and inferior-superior; else in another plane with equal sides.  Without one
    there is half a turn alone, and at rank 1 the sequence backwards.
    """
    rank = len(size)
    if rank == 1:
        return [_same, partial(torch.flip, dims=(2,))]
    planes = [(a, b) for a in range(rank) for b in range(a + 1, rank)]
    square = next(((a, b) for a, b in planes if size[a] == size[b]), None)
    a, b = square or (0, 1)
    quarters = (1, 2, 3) if square else (2,)
    return [_same, *(partial(torch.rot90, k=k, dims=(2 + a, 2 + b)) for k in quarters)]


def _same(x: Tensor) -> Tensor:
    return x


class LearnedWeights(nn.Module):
    """(n,) losses -> their weighted sum: see the module's docstring for the formula."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.ones(count))  # one axis: core.training does not decay it

    def forward(self, losses: Tensor) -> Tensor:
        variance = self.sigma.square()
        return (losses / (2 * variance.clamp(min=1e-6)) + torch.log1p(variance)).sum()

    def weights(self) -> Tensor:
        """1 / (2 s_i^2), (n,)."""
        return 0.5 / self.sigma.detach().square().clamp(min=1e-6)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean NT-Xent of two views' embeddings (B, D) each; 0 for a single image, without others."""
    z = F.normalize(torch.cat([first, second]).float(), dim=1)  # (2B, D)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    batch = len(first)
    target = torch.arange(2 * batch, device=z.device).roll(batch)
    return F.cross_entropy(logits, target)


class Multitask(Pretext):
    """See the module's docstring."""

    def __init__(self, config: MultitaskConfig, encoder: Pyramid, size: tuple[int, ...]) -> None:
        super().__init__(encoder)
        self.config = config
        self.size = size
        self.patch = stem_stride(encoder)
        if max(unit_grid(size, self.patch)) < 2:
            raise UsageError(
                f"images of {size} are one patch of {self.patch}; use larger ones to corrupt a part"
            )
        self.turns = turns(size)
        dim = encoder.channels[-1]
        self.head = PixelHead(encoder)
        self.rotation = nn.Linear(dim, len(self.turns))
        self.embedding = nn.Linear(dim, config.embedding)
        self.weighting = LearnedWeights(len(PARTS)) if config.weights == "learned" else None

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Scalars:
        if self.check(image) != list(self.size):
            raise UsageError(
                f"images of {tuple(image.shape[2:])}: this pretext task was made for {self.size}"
            )
        batch = len(image)
        if batch < 2:
            raise UsageError("a batch of 1 has no other image to contrast with; use 2 or more")
        turn = torch.randint(len(self.turns), (2 * batch,))
        views = self.turned(torch.cat([image, image]), turn)
        within = None if inside is None else self.turned(torch.cat([inside, inside]), turn)
        corrupted, hidden = self.corrupt(views)
        maps = self.encoder(corrupted)
        restored = self.head(maps, self.size)
        pooled = maps[-1].flatten(2).mean(2)  # (2B, C)
        everywhere = torch.ones_like(views[:, :1], dtype=torch.bool) if within is None else within
        embedded = self.embedding(pooled)
        said = self.rotation(pooled).float()
        turn = turn.to(image.device)
        error = ERRORS["l1"](restored - views)
        losses = torch.stack(
            [
                mean_where(error, everywhere),
                F.cross_entropy(said, turn),
                contrast(embedded[:batch], embedded[batch:], self.config.temperature),
            ]
        )
        total = losses.sum() if self.weighting is None else self.weighting(losses)
        with torch.no_grad():
            found = {
                "reconstruction": mean_where(error, scored(within, hidden)),
                "floor": floor(views, within, hidden, ERRORS["l1"]),
                "turns_right": (said.argmax(1) == turn).float().mean(),
                **{f"loss_{part}": loss for part, loss in zip(PARTS, losses, strict=True)},
            }
            if self.weighting is not None:
                weights = self.weighting.weights()
                found |= {f"weight_{p}": w for p, w in zip(PARTS, weights, strict=True)}
        return {"loss": total, **{name: value.detach() for name, value in found.items()}}

    def turned(self, views: Tensor, turn: Tensor) -> Tensor:
        """Each view (C, *S) turned by its number in ``turns``."""
        pairs = zip(views.split(1), turn.tolist(), strict=True)
        return torch.cat([self.turns[k](view) for view, k in pairs])

    def corrupt(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """The views (V, C, *S) with boxes of noise and of another view, and where, (V, *S)."""
        config, count, sizes = self.config, len(views), list(views.shape[2:])
        units = unit_grid(sizes, self.patch)
        hidden = torch.zeros(count, *sizes, dtype=torch.bool, device=views.device)
        others = views[partners(count).to(views.device)]
        for filling in (noise_like(views), others):
            shares = uniform(0.0, config.max_share, count, None)
            mask = box_masks(units, shares, config.max_box).to(views.device)
            here = enlarge(mask, self.patch, sizes)
            views = torch.where(here[:, None], filling, views)
            hidden = hidden | here
        return views, hidden
