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
