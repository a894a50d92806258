"""Group masked model learning: restore groups of connected patches that were corrupted.

Paper: Atito et al., "GMML is all you need", 2022 (arXiv:2205.14986).  Code it corresponds to:
Sara-Ahmed/GMML (main.py, datasets/datasets_utils.py, vision_transformer.py's RECHead).

The encoder sees the corrupted image as it is, with no token that says where: that it must find out.
The mean absolute error is taken over corrupted voxels.

Deviates from the authors' code: any rank; one view of an image in a step, theirs takes two; boxes
are aligned to the encoder's patches (their default aligns to voxels, their paper speaks of groups
of tokens); noise has the image's own mean and spread; an alien image is never the image itself; a
head for each level of the pyramid, summed, where theirs averages the outputs of four blocks and has
one head; no colour jitter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.backbones.pyramid import Pyramid
from core.errors import UsageError
from core.pretraining.config import GmmlConfig
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

HIDDEN_LAYERS = 3


class GroupMasking(Pretext):
    """See the module's docstring."""

    def __init__(self, config: GmmlConfig, encoder: Pyramid, size: tuple[int, ...]) -> None:
        super().__init__(encoder)
        self.config = config
        self.patch = stem_stride(encoder)
        if max(unit_grid(size, self.patch)) < 2:
            raise UsageError(
                f"images of {size} are one patch of {self.patch}; use larger ones to corrupt a part"
            )
        self.head = PixelHead(encoder, levels=config.levels, hidden=HIDDEN_LAYERS)

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Scalars:
        sizes = self.check(image)
        corrupted, hidden = self.corrupt(image)
        error = ERRORS["l1"]
        restored = self.head(self.encoder(corrupted), sizes)
        loss = mean_where(error(restored - image), scored(inside, hidden))
        return {
            "loss": loss,
            "reconstruction": loss.detach(),
            "floor": floor(image, inside, hidden, error),
        }

    def corrupt(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image (B, C, *S) with groups of patches replaced, and where, (B, *S)."""
        config, batch, sizes = self.config, len(image), list(image.shape[2:])
        shares = uniform(*config.noise, batch, None)
        alien = torch.zeros(batch, dtype=torch.bool)
        if batch > 1 and config.alien > 0:
            alien = torch.rand(batch) < 0.5
            shares = [config.alien if a else s for a, s in zip(alien.tolist(), shares, strict=True)]
        mask = box_masks(unit_grid(sizes, self.patch), shares, config.max_box)
        hidden = enlarge(mask.to(image.device), self.patch, sizes)
        other = image[partners(batch).to(image.device)]
        chosen = alien.to(image.device).view(-1, *(1,) * (image.ndim - 1))
        filling = torch.where(chosen, other, noise_like(image))
        return torch.where(hidden[:, None], filling, image), hidden
