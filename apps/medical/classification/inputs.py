"""From files to what a classifier takes: an image of fixed size, or a bag of feature vectors.

An image is turned to RAS (volumes), cropped to what is not zero (volumes), resized to the network's
grid and normalised: pictures by the mean and deviation of each channel over the training images,
volumes by their own (what a scanner's numbers mean changes from scan to scan).  Resizing is linear
with smoothing where it shrinks, one axis after the other; proportions are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from apps.medical.classification.data import LabelledCase
from apps.medical.data.preprocess import nonzero_box, to_canonical
from apps.medical.data.volume import read_image
from core.config import StrictModel
from core.errors import DataError
from core.progress import Progress, SilentProgress
from core.weights.folder import read_tensors

MAX_INSTANCES = 1_000_000
STATISTICS_CASES = 256
CACHE_BYTES = 2**30


class ImagePreparation(StrictModel):
    """How a file becomes (channels, *size).  ``mean`` and ``std`` None: each image's own."""

    kind: Literal["images"] = "images"
    rank: Literal[2, 3]
    channels: int = Field(ge=1)
    size: tuple[int, ...]
    mean: list[float] | None = None
    std: list[float] | None = None

    def read(self, file: Path) -> Tensor:
        """Float32 (channels, *size).  Raises DataError, also for NaN or infinite values."""
        return self.fitted(torch.from_numpy(canonical(file, self.rank, self.channels)))

    def fitted(self, image: Tensor) -> Tensor:
        """An image (channels, *S) of stored values as (channels, *size)."""
        image = _resized(image, self.size)
        dims = tuple(range(1, self.rank + 1))
        if self.mean is None or self.std is None:
            mean, std = image.mean(dims, keepdim=True), image.std(dims, keepdim=True)
        else:
            shape = (-1, *[1] * self.rank)
            mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return (image - mean) / std.clamp_min(1e-6)


class BagPreparation(StrictModel):
    """How a file becomes (N, dim)."""

    kind: Literal["bags"] = "bags"
    dim: int = Field(ge=1)

    def read(self, file: Path) -> Tensor:
        """Float32 (N, dim).  Raises DataError for a file of another form or width."""
        bag = read_bag(file)
        if bag.shape[1] != self.dim:
            raise DataError(
                f"{file}: features of width {bag.shape[1]}, the model wants {self.dim}; make them with "
                "the same extractor"
            )
        return bag


Preparation = Annotated[ImagePreparation | BagPreparation, Field(discriminator="kind")]


def fit_images(
    cases: Sequence[LabelledCase],
    rank: Literal[2, 3],
    channels: int,
    size: Sequence[int],
    progress: Progress | None = None,
) -> ImagePreparation:
    """The preparation of images whose statistics are those of ``cases`` (256 of them at most)."""
    plain = ImagePreparation(rank=rank, channels=channels, size=tuple(size))
    if rank == 3:
        return plain
    chosen = cases[:: max(1, len(cases) // STATISTICS_CASES)][:STATISTICS_CASES]
    sums = torch.zeros(2, channels, dtype=torch.float64)
    with (progress or SilentProgress()).task("intensities", total=len(chosen)) as task:
        for case in chosen:
            image = torch.from_numpy(canonical(case.file, rank, channels))
            image = _resized(image, size).double().flatten(1)
            sums += torch.stack((image.mean(1), image.square().mean(1)))
            task.advance(1)
    mean, square = sums / len(chosen)
    std = (square - mean.square()).clamp_min(0).sqrt().clamp_min(1e-6)
    return plain.model_copy(update={"mean": mean.tolist(), "std": std.tolist()})


def fit_bags(cases: Sequence[LabelledCase]) -> BagPreparation:
    """The preparation of bags as wide as the first."""
    return BagPreparation(dim=read_bag(cases[0].file).shape[1])


def read_bag(file: Path) -> Tensor:
    """Features (N, D), float32.  Raises DataError; never runs what the file holds."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if file.suffix.lower() == ".safetensors":
        tensors = read_tensors(file)
        if "features" not in tensors:
            raise DataError(
                f"{file}: holds no tensor 'features', only {', '.join(tensors) or 'none'}"
            )
        bag = tensors["features"]
    else:
        try:
            bag = torch.from_numpy(np.load(file, allow_pickle=False, mmap_mode="r").copy())
        except (ValueError, OSError, TypeError, EOFError) as error:
            raise DataError(f"{file}: is not a plain NumPy array ({error})") from error
    if bag.ndim != 2 or not 1 <= bag.shape[0] <= MAX_INSTANCES or bag.shape[1] < 1:
        raise DataError(
            f"{file}: features of shape {tuple(bag.shape)}; a bag is (N, D) with 1 <= N <= "
            f"{MAX_INSTANCES}"
        )
    if not bag.is_floating_point():
        raise DataError(f"{file}: features are {bag.dtype}, want floating point")
    if not torch.isfinite(bag).all():
        raise DataError(f"{file}: features contain NaN or infinity; extract them again")
    return bag.float()


class PreparedInputs:
    """Inputs by case id; kept in memory until they take 1 GiB, read again beyond."""

    def __init__(self, cases: Sequence[LabelledCase], preparation: Preparation) -> None:
        self.cases = {case.id: case for case in cases}
        self.preparation = preparation
        self._kept: dict[str, Tensor] = {}
        self._bytes = 0

    def __getitem__(self, case_id: str) -> Tensor:
        if case_id in self._kept:
            return self._kept[case_id]
        value = self.preparation.read(self.cases[case_id].file)
        size = value.numel() * value.element_size()
        if self._bytes + size <= CACHE_BYTES:
            self._kept[case_id] = value
            self._bytes += size
        return value


def canonical(file: Path, rank: int, channels: int) -> np.ndarray:
    """Float32 (channels, *S) of a file, in RAS and cropped to what is not zero if it is a volume.

    Raises DataError for other channels, NaN or infinite values, and what ``read_image`` refuses.
    """
    volume = read_image(file)
    array = to_canonical([volume], rank, str(file)).array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: contains NaN or infinite values; clean the image")
    if array.shape[0] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=0)  # grey shown in colour
    if array.shape[0] != channels:
        raise DataError(f"{file}: {array.shape[0]} channel(s), the model wants {channels}")
    if rank == 3:
        box = nonzero_box(array)
        array = array if box is None else array[(slice(None), *box)]
    return np.ascontiguousarray(array)


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """(C, *S) -> (C, *size): linear, smoothed where it shrinks, one axis after the other."""
    for axis, wanted in enumerate(size, 1):
        if image.shape[axis] == wanted:
            continue
        moved = image.movedim(axis, -1)
        # Unlike the linear mode the bilinear one can smooth; the other axis is one row.
        line = moved.reshape(1, -1, 1, moved.shape[-1])
        line = F.interpolate(line, (1, wanted), mode="bilinear", antialias=True)
        image = line.reshape(*moved.shape[:-1], wanted).movedim(-1, axis)
    return image.contiguous()
