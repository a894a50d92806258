"""Small synthetic files: an ellipsoid in noise, with any affine, in any format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"


@pytest.fixture
def nibabel_file() -> Callable[[str], Path]:
    """A file of nibabel's own test data, which some distributions leave out."""

    def find(name: str) -> Path:
        path = NIBABEL_DATA / name
        if not path.is_file():
            pytest.skip(f"this nibabel comes without {name}")
        return path

    return find


@pytest.fixture
def save_nifti(tmp_path: Path) -> Callable[..., Path]:
    def save(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return save


@pytest.fixture
def blob() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(image float32, label uint8 with nested classes 1 and 2) of a given shape."""

    def make(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
        radius = np.sqrt(sum((a - 0.1 * i) ** 2 for i, a in enumerate(axes)))
        label = ((radius < 0.7).astype(np.uint8) + (radius < 0.35)).astype(np.uint8)
        image = 100 + 50 * label + random.normal(0, 5, shape)
        return image.astype(np.float32), label

    return make


@pytest.fixture
def dataset_folder(
    save_nifti: Callable[..., Path],
    blob: Callable[..., tuple[np.ndarray, np.ndarray]],
    tmp_path: Path,
) -> Callable[..., Path]:
    """A folder of `cases` image and label pairs, images/ beside labels/."""

    def make(
        cases: int = 6, shape: tuple[int, ...] = (12, 14, 10), affine: np.ndarray | None = None
    ) -> Path:
        for number in range(cases):
            image, label = blob(shape, number)
            save_nifti(f"set/images/case{number}.nii.gz", image, affine)
            save_nifti(f"set/labels/case{number}.nii.gz", label, affine)
        return tmp_path / "set"

    return make
