"""An invented bi-parametric study: three oblique grids of their own over one smooth world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def turned(angle: float, spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    """An LPS-like grid (first axis to the left, second to the back), tilted about right-left."""
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.diag([-1, -1, 1]) * spacing
    affine[:3, 3] = origin
    return affine


def world(points: np.ndarray) -> np.ndarray:
    """A smooth scene over RAS+ mm (..., 3), positive, without symmetry."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 300 + 25 * np.sin(x / 17) + 20 * np.cos(y / 13 + 0.4) + 15 * np.sin((z + x) / 19)


def volume(shape: tuple[int, ...], affine: np.ndarray, path: str, scale: float = 1.0):
    from apps.medical.data.volume import Volume

    indices = np.moveaxis(np.indices(shape), 0, -1)
    values = world(indices @ affine[:3, :3].T + affine[:3, 3]) * scale
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(
        array=values.astype(np.float32), affine=affine, spacing=spacing, rank=3, path=Path(path)
    )


@pytest.fixture(scope="session")
def scene() -> Callable[[np.ndarray], np.ndarray]:
    return world


@pytest.fixture(scope="session")
def make_volume() -> Callable:
    return volume


@pytest.fixture(scope="session")
def study():
    """T2W 1 x 1 x 3 mm, ADC and HBV 2 x 2 x 3 mm on another tilt, all around (4, -6, 10) mm."""
    from apps.medical.detection.inputs import Biparametric

    def around(shape: tuple[int, ...], angle: float, spacing: tuple[float, ...]) -> np.ndarray:
        affine = turned(angle, spacing, (0, 0, 0))
        middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        affine[:3, 3] = np.array((4.0, -6.0, 10.0)) - middle
        return affine

    fine, coarse = (80, 76, 18), (44, 48, 22)
    return Biparametric(
        case="invented",
        t2w=volume(fine, around(fine, 0.32, (1, 1, 3)), "invented_t2w.mha"),
        adc=volume(coarse, around(coarse, 0.25, (2, 2, 3)), "invented_adc.mha", 4),
        hbv=volume(coarse, around(coarse, 0.25, (2, 2, 3)), "invented_hbv.mha", 0.2),
    )


@pytest.fixture
def write_study(study) -> Callable[..., Path]:
    """Write the study's volumes as CASE_t2w.mha, CASE_adc.mha, CASE_hbv.mha into a folder."""
    from apps.medical.detection.inputs import ROLES
    from apps.medical.detection.synthetic import write_image

    def write(folder: Path, case: str = "case", roles: tuple[str, ...] = ROLES) -> Path:
        for role in roles:
            write_image(getattr(study, role), folder / f"{case}_{role}.mha")
        return folder

    return write
