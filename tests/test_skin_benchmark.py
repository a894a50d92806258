"""The skin benchmark's own part: shrunk copies that are a data set, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import DataError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def skin():
    spec = importlib.util.spec_from_file_location("skin", ROOT / "benchmarks" / "skin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two pictures, lying and standing; the lesion is the left half."""
    for name, (high, wide) in {"a": (300, 512), "b": (640, 400)}.items():
        mask = np.zeros((high, wide), np.uint8)
        mask[:, : wide // 2] = 255
        for folder, array, suffix in (("images", mask // 2, "jpg"), ("masks", mask, "png")):
            path = tmp_path / "skin" / folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.repeat(array[..., None], 3, 2) if suffix == "jpg" else array).save(
                path
            )
    return tmp_path / "skin"


def test_copies_are_a_data_set_that_fits_the_plan(skin, source: Path, tmp_path: Path) -> None:
    from apps.medical.data.datasets import open_dataset
    from apps.medical.data.plan import read_plan

    assert skin.shrink(source, tmp_path / "small") == 2
    data = open_dataset(tmp_path / "small")
    plan = read_plan(skin.PLAN)
    assert (data.rank, list(data.channels), data.labels) == (2, plan.channels, plan.labels)
    for case, shape in zip(data.cases, [(150, 256), (256, 160)]):
        label = data.read_label(case).array
        assert label.shape == shape
        assert data.read_images(case)[0].shape == shape
        assert label.mean() == pytest.approx(0.5, abs=0.01)
        assert set(np.unique(label)) == {0, 1}


def test_all_the_networks_exist(skin) -> None:
    from apps.medical import catalog

    assert set(skin.MODELS) <= set(catalog.MODELS)
    assert "dynunet" in skin.MODELS  # the baseline


def test_another_source_is_told_apart(skin, source: Path) -> None:
    before = skin.digest(source)
    assert skin.digest(source) == before
    (source / "images" / "a.jpg").write_bytes((source / "images" / "b.jpg").read_bytes())
    assert skin.digest(source) != before


def test_what_is_refused(skin, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images/\*\.jpg"):
        skin.shrink(tmp_path / "none", tmp_path / "out")
    mask = source / "masks" / "a.png"
    Image.fromarray(np.full((300, 512), 128, np.uint8)).save(mask)
    with pytest.raises(DataError, match="want 0 and 255"):
        skin.shrink(source, tmp_path / "out")
    mask.unlink()
    with pytest.raises(DataError, match="is missing"):
        skin.shrink(source, tmp_path / "out")
