"""Masked autoencoder: hide most of an image and predict the hidden voxels.

Papers: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (arXiv:2111.06377);
for hierarchical encoders Xie et al., "SimMIM", CVPR 2022 (arXiv:2111.09886, section 3); the settings
are those of Xiao et al., "Delving into masked autoencoders for multi-label thorax disease
classification", WACV 2023 (arXiv:2210.12843).

He et al. give their isotropic encoder the visible patches alone.  A pyramid's windows, stripes,
convolutions and scans need the whole grid, so here, as in SimMIM, a learned token takes the place
of each hidden patch after the stem.  That holds for pyramids of one stage (Vim, ViR) too: their
mixers also run over a grid.  Masks live on the grid of the coarsest stage, so that no position of
any map mixes hidden with visible patches by down-sampling alone.

Deviates from SimMIM: hidden voxels are set to 0 before the stem as well, or a stem whose patches
overlap (CSWin's, PVT's) would read them; and the error is squared by default, He et al.'s.  As there
the mean error is taken over hidden voxels only.  Deviates from He et al.: a linear head in place of
a transformer decoder, which SimMIM found no worse; crops keep their aspect ratio.

An encoder with convolutions or instance norms (U-Mamba's, SegMamba's) reads tokens as if they were
tissue; sparse convolutions (Tian et al., "SparK", ICLR 2023) would be the remedy and are not here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core import grid
from core.backbones.pyramid import Pyramid, Stage
from core.errors import UsageError
from core.pretraining.config import MaeConfig
from core.pretraining.heads import PixelHead
from core.pretraining.masking import enlarge, random_mask, unit_grid
from core.pretraining.pretext import (
    ERRORS,
    Pretext,
    Scalars,
    floor,
    mean_where,
    scored,
    stem_stride,
)


class MaskedAutoencoder(Pretext):
    """See the module's docstring.  ``token`` (C_0,) stands for each hidden patch."""

    def __init__(self, config: MaeConfig, encoder: Pyramid, size: tuple[int, ...]) -> None:
        super().__init__(encoder)
        self.config = config
        rank = encoder.rank
        coarsest = grid.per_axis(encoder.strides[-1], rank)
        self.unit = coarsest if config.unit is None else grid.per_axis(config.unit, rank, "unit")
        self.patch = stem_stride(encoder)
        if any(u % p for u, p in zip(self.unit, self.patch, strict=True)):
            raise UsageError(
                f"mask unit {self.unit}: want a multiple of the encoder's patch {self.patch}"
            )
        random_mask(1, unit_grid(size, self.unit), config.ratio)  # refuses a single unit now
        self.token = nn.Parameter(torch.zeros(encoder.channels[0]))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.head = PixelHead(encoder)

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Scalars:
        sizes = self.check(image)
        mask = random_mask(len(image), unit_grid(sizes, self.unit), self.config.ratio)
        mask = mask.to(image.device)
        hidden = enlarge(mask, self.unit, sizes)
        target = self.targets(image)
        error = ERRORS[self.config.error]
        loss = mean_where(error(self.reconstruct(image, mask) - target), scored(inside, hidden))
        return {
            "loss": loss,
            "reconstruction": loss.detach(),
            "floor": floor(target, inside, hidden, error),
        }

    def reconstruct(self, image: Tensor, mask: Tensor) -> Tensor:
        """(B, C, *S) and a mask of units (B, *U) -> the image (B, C, *S) as predicted."""
        maps = masked_maps(self.encoder, image, mask, self.unit, self.token)
        return self.head(maps, image.shape[2:])

    def targets(self, image: Tensor) -> Tensor:
        """The image, or each of its units at mean 0 and variance 1 (He et al., section 4.1)."""
        if not self.config.normalise:
            return image
        sizes = image.shape[2:]
        x = image.movedim(1, -1)
        whole = [n * u for n, u in zip(unit_grid(sizes, self.unit), self.unit, strict=True)]
        units = grid.windows(grid.pad_to(x, whole), self.unit)  # (B, n, L, C)
        spread = (units.var(2, keepdim=True, unbiased=False) + 1e-6).sqrt()
        units = (units - units.mean(2, keepdim=True)) / spread
        return grid.crop_to(grid.unwindows(units, self.unit, whole), sizes).movedim(-1, 1)


def masked_maps(
    encoder: Pyramid, image: Tensor, mask: Tensor, unit: Sequence[int], token: Tensor
) -> list[Tensor]:
    """The encoder's maps, finest first, of an image whose units in ``mask`` (B, *U) are hidden.

    No output depends on a hidden voxel.  ``token`` (C_0,) takes the place of the hidden patches
    after the stem and before anything else of the first stage.
    """
    sizes = image.shape[2:]
    patch = stem_stride(encoder)
    image = image.masked_fill(enlarge(mask, unit, sizes)[:, None], 0.0)
    factor = [u // p for u, p in zip(unit, patch, strict=True)]

    def replace(stem: nn.Module, inputs: object, x: Tensor) -> Tensor:
        del stem, inputs
        hidden = enlarge(mask, factor, x.shape[1:-1])
        return torch.where(hidden[..., None], token.to(x.dtype), x)

    first = encoder.stages[0]
    assert isinstance(first, Stage)
    with first.down.register_forward_hook(replace):
        return encoder(image)
