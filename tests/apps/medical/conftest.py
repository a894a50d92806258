"""Small models and images for the tests of this application. Heavy imports wait for their use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OPTIONS = {"channels": [4, 8], "strides": [2], "residual_units": 0}
OBLIQUE = np.array(
    [[0.9, 0.1, 0.0, -12.0], [-0.1, 0.9, 0.1, 30.5], [0.0, -0.1, 1.2, 7.25], [0, 0, 0, 1.0]]
)


def _plan(rank: int = 3, channels: int = 1, target: str = "labels", **changes):
    """A plan by hand; its two foreground labels have ids that are not 1 and 2."""
    from apps.medical.data.plan import Plan

    objects = target == "instances"
    values = {
        "dataset": "synthetic",
        "fingerprint": "0" * 64,
        "rank": rank,
        "channels": [f"channel {i}" for i in range(channels)],
        "labels": {0: "background", 1: "object"}
        if objects
        else {0: "background", 2: "front", 5: "back"},
        "target": target,
        "orientation": "RAS" if rank == 3 else "stored",
        "crop": "nonzero" if rank == 3 else "none",
        "spacing": [1.0] * 3 if rank == 3 else None,
        "normalisation": ["zscore"] * channels,
        "intensity": [None] * channels,
        "median_shape": [20] * rank,
        "patch": [16] * rank,
        "batch": 2,
        "strides": [[1] * rank, [2] * rank],
        "flip": [True] * rank,
    }
    return Plan.model_validate(values | changes)


def _save(folder: Path, plan, seed: int = 0, name: str = "small") -> Path:
    """A random U-Net with the plan's input and output, saved as a model folder."""
    import torch

    from apps.medical import models
    from apps.medical.store import ModelSpec, NetworkSpec, save_model

    torch.manual_seed(seed)
    about = NetworkSpec(
        name="unet",
        rank=plan.rank,
        in_channels=len(plan.channels),
        out_channels=plan.out_channels,
        options=OPTIONS,
    )
    network = models.build("unet", plan.rank, about.in_channels, about.out_channels, **OPTIONS)
    spec = ModelSpec(name=name, network=about, plan=plan, labels=plan.labels)
    save_model(folder, network, spec)
    return folder


@pytest.fixture(scope="session")
def make_plan() -> Callable:
    return _plan


@pytest.fixture(scope="session")
def save_small() -> Callable[..., Path]:
    return _save


@pytest.fixture(scope="session")
def model_3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("models") / "small", _plan())


@pytest.fixture
def write_volume(tmp_path: Path) -> Callable[..., Path]:
    """Write a NIfTI volume of waves and noise below tmp_path / "in"; returns its path."""
    import nibabel as nib

    def write(
        name: str = "case.nii.gz",
        shape: tuple[int, ...] = (18, 21, 19),
        affine: np.ndarray = OBLIQUE,
        seed: int = 0,
        dtype: type = np.int16,
    ) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        waves = np.sin(np.indices(shape).sum(0) / 4)
        noise = np.random.default_rng(seed).normal(0, 20, shape)
        array = (100 + 60 * waves + noise).clip(1)
        nib.save(nib.Nifti1Image(array.astype(dtype), affine), path)
        return path

    return write


@pytest.fixture
def command(run_json: Callable[..., Any]) -> Callable[..., tuple[int, dict, str]]:
    """Run a verb with --json in this process: (exit code, the one JSON object, standard error)."""
    from apps.medical.run import app

    return run_json(app)


@pytest.fixture(scope="session")
def calibration() -> Callable[..., Any]:
    """A calibration by hand, of the labels "front" and "back" of ``make_plan``'s models."""
    from apps.medical.uncertainty import LEVELS, Bin, Calibration, Figure, LabelCalibration, Seen

    def make(**changes: Any) -> Calibration:
        figure = Figure(mean=0.876, ci95=(0.851, 0.912), n=20)
        label = LabelCalibration(
            dice=figure, confidence=figure, precision=figure, dice_shift=0.1,
            expected_dice_error=Figure(mean=0.03, ci95=None, n=20),
            dice_constant_error=Figure(mean=0.05, ci95=None, n=20),
            dice_margin=0.2, dice_coverage=figure, miss_rate=figure, threshold=0.25,
            extent_miss_rate=figure, volume_factor=1.5, volume_coverage=figure,
        )  # fmt: skip
        values: dict[str, Any] = {
            "temperature": 2.0, "ece_before": figure, "ece_after": figure, "nll_before": figure,
            "nll_after": figure, "alpha": 0.1, "labels": {"front": label, "back": label},
            "reliability": [Bin(confidence=0.9, accuracy=0.8, share=1.0)],
            "seen": Seen(
                extent=[(10, 40)] * 3, volumes={"front": (0.001, 100.0), "back": (0.001, 100.0)},
                uncertainty=(0.0, 1.0), quantiles=[[0.0] * len(LEVELS)], quantile_distance=[9.0],
            ),
            "cases": 20, "patients": 19, "dataset": "synthetic", "cases_sha256": "", "how": "by hand",
            "overlap": 0.5, "tta": False, "seed": 0, "tensors_sha256": None,
        }  # fmt: skip
        return Calibration.model_validate(values | changes)

    return make


@pytest.fixture
def dicom_series(tmp_path: Path, write_dicom_series: Callable) -> Path:
    """A folder with a synthetic MR series of 12 slices; the patient is nobody."""
    return write_dicom_series(tmp_path / "series", (20, 18, 12)).folder
