"""What the pretext tasks share: their form, their errors, and the table that builds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from core import grid
from core.backbones.pyramid import Pyramid
from core.errors import UsageError
from core.pretraining.config import PretextConfig

Scalars = dict[str, Tensor]


class Pretext(nn.Module):
    """(B, C, *S), and (B, 1, *S) True inside the image where it was padded -> scalars.

    Everything random in ``forward`` is drawn from torch's global generator of the CPU, which
    ``core.training`` seeds before each step and each validation.
    """

    def __init__(self, encoder: Pyramid) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Scalars:
        raise NotImplementedError

    def check(self, image: Tensor) -> list[int]:
        """The image's sizes S.  Raises UsageError where it does not fit the encoder."""
        rank, channels = self.encoder.rank, self.encoder.config.in_channels
        if image.ndim != rank + 2 or image.shape[1] != channels:
            raise UsageError(
                f"images of shape {tuple(image.shape)}: this encoder wants (B, {channels}) and "
                f"{rank} sizes"
            )
        return list(image.shape[2:])


def stem_stride(encoder: Pyramid) -> tuple[int, ...]:
    """Voxels of a patch: the stride of the encoder's first map."""
    return grid.per_axis(encoder.strides[0], encoder.rank)


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of ``values`` (B, C, *S) where ``where`` (B, 1, *S) is True; 0 where it never is."""
    weight = where.to(values.dtype)
    return (values * weight).sum() / (weight.sum() * values.shape[1]).clamp(min=1)


def scored(inside: Tensor | None, hidden: Tensor) -> Tensor:
    """(B, 1, *S): the hidden voxels that belong to the image."""
    return hidden[:, None] if inside is None else hidden[:, None] & inside


def mean_fill(image: Tensor, seen: Tensor) -> Tensor:
    """(B, C, *1): the mean of each channel of each image over ``seen`` (B, 1, *S)."""
    axes = tuple(range(2, image.ndim))
    weight = seen.to(image.dtype)
    return (image * weight).sum(axes, keepdim=True) / weight.sum(axes, keepdim=True).clamp(min=1)


def floor(
    image: Tensor, inside: Tensor | None, hidden: Tensor, error: Callable[[Tensor], Tensor]
) -> Tensor:
    """The error over the hidden voxels when each is said to be the mean of the seen ones."""
    where = scored(inside, hidden)
    seen = ~hidden[:, None] if inside is None else ~hidden[:, None] & inside
    return mean_where(error(mean_fill(image, seen) - image), where)


ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}

_HOMES = {
    "mae": ("mae", "MaskedAutoencoder"),
    "gmml": ("gmml", "GroupMasking"),
    "multitask": ("multitask", "Multitask"),
}


def build(config: PretextConfig, encoder: Pyramid, size: Sequence[int]) -> Pretext:
    """The pretext task of ``config`` around ``encoder`` for images of ``size``.

    The encoder is not copied: what is learned is learned by it.  Raises UsageError where the task
    cannot be posed for such images.
    """
    if len(size) != encoder.rank:
        raise UsageError(f"size {tuple(size)}: this encoder has {encoder.rank} axes; give as many")
    module, name = _HOMES[config.task]
    made: Pretext = getattr(import_module(f"core.pretraining.{module}"), name)(
        config, encoder, tuple(size)
    )
    return made
