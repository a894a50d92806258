"""Small pictures of two classes that a small network tells apart in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested by themselves; elsewhere their 2000 resamples cost most of the time."""
    from apps.medical.classification import metrics

    monkeypatch.setattr(metrics, "RESAMPLES", 40)


def _picture(label: int, seed: int, shape: tuple[int, int] = (40, 48)) -> np.ndarray:
    """Stripes (1) or a chequered board (0), with noise: uint8 (H, W, 3)."""
    y, x = np.indices(shape)
    board = np.sin(x / 1.5) if label else np.sin(x / 2) * np.sin(y / 2)
    grey = 128 + 80 * board + np.random.default_rng(seed).normal(0, 10, shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def _pictures(root: Path, cases: int = 24, per_patient: int = 2) -> Path:
    """A folder for each class and patients.csv."""
    lines = ["case,patient"]
    for n in range(cases):
        label = n % 2
        folder = root / ("stripes" if label else "board")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_picture(label, n)).save(folder / f"im{n:02d}.png")
        lines.append(f"{folder.name}/im{n:02d},p{n // (2 * per_patient)}{label}")
    (root / "patients.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of 12 patients; do not write in it."""
    return _pictures(tmp_path_factory.mktemp("labelled") / "pictures")


@pytest.fixture(scope="session")
def make_pictures() -> Callable[..., Path]:
    return _pictures


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 bags of 30 to 49 vectors; the positive ones hold three that are unlike the others."""
    root = tmp_path_factory.mktemp("labelled") / "bags"
    root.mkdir()
    rows = ["image,label"]
    for n in range(20):
        found = np.random.default_rng(n).normal(0, 1, (30 + n, 8)).astype(np.float32)
        if n % 2:
            found[:3, 0] += 6
        np.save(root / f"bag{n:02d}.npy", found)
        rows.append(f"bag{n:02d}.npy,{'positive' if n % 2 else 'negative'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root
