"""An invented bi-parametric study: three oblique grids of their own over one smooth world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

GRID = {"spacing": [1.0, 1.0, 3.0], "shape": [72, 72, 18], "patch": [40, 40, 18]}


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


class Painted(torch.nn.Module):
    """Finds what is dark on ADC and bright at high b, by arithmetic: a network without weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        evidence = torch.minimum(x[:, 2], -x[:, 1])
        return torch.stack([torch.zeros_like(evidence), 3 * (evidence - 1.5)], 1)


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    from apps.medical.detection.picai import make_plan
    from apps.medical.store import Model, ModelSpec, NetworkSpec

    plan = make_plan(["a"], **GRID)
    about = NetworkSpec(name="unet", rank=3, in_channels=3, out_channels=2)
    spec = ModelSpec(name="painted", network=about, plan=plan, labels=plan.labels)
    return Model((Painted(),), spec, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def centres() -> tuple[tuple[float, ...], ...]:
    """Of the painted lesions, the stronger first, in RAS+ mm: right front up, and left back down, of
    the scene's middle (4, -6, 10), so that no mirroring swaps them."""
    return (19.0, 2.0, 19.0), (-8.0, -14.0, 2.0)


@pytest.fixture(scope="session")
def painted(study, centres):
    """The study with two lesions of different strength, and the truth on the T2W grid."""
    from dataclasses import replace

    from apps.medical.detection.inputs import ROLES, Biparametric
    from apps.medical.detection.synthetic import Lesion, level_of, paint, truth

    lesions = [
        Lesion(centre=np.array(centre), radii=np.full(3, 8.0), axes=np.eye(3), strength=strength)
        for centre, strength in zip(centres, (1.0, 0.8), strict=True)
    ]
    volumes = {
        role: replace(
            getattr(study, role),
            array=paint(getattr(study, role), role, lesions, level_of(study, role)),
        )
        for role in ROLES
    }
    return Biparametric(case="painted", **volumes), truth(study.t2w, lesions)


@pytest.fixture
def dicom_study(tmp_path, painted, write_dicom_series) -> Path:
    """The painted study as three DICOM series; the patient is nobody."""
    study, _ = painted
    names = {"t2w": "t2_tse_tra", "adc": "ep2d_ADC", "hbv": "ep2dCALC_BVAL"}
    for number, (role, description) in enumerate(names.items()):
        volume = getattr(study, role)
        lps = np.diag([-1, -1, 1, 1]) @ volume.affine
        cosines = (lps[:3, :2] / volume.spacing[:2]).T
        centre = lps[:3, :3] @ ((np.array(volume.shape) - 1) / 2) + lps[:3, 3]
        write_dicom_series(
            tmp_path / "study" / role, volume.shape, plane=cosines.ravel(), number=number + 1,
            spacing=volume.spacing, centre=centre, array=volume.array.round().astype(np.uint16),
            description=description,
        )  # fmt: skip
    return tmp_path / "study"
