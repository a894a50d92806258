"""Pictures cut into bags: every pixel is seen, order is kept, and no leak goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from apps.medical.classification.bags import make_bags, tile_corners
from apps.medical.classification.data import open_labelled
from apps.medical.classification.store import load_classifier
from apps.medical.classification.train import ClassSettings, class_config, train_classifier
from core.errors import UsageError

BAG = {"dim": 16, "regions": 2, "heads": 4, "cross_heads": 4, "epeg": 3}


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fold 0, of two steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"dims": (8, 16), "depths": (1, 1), "kernel": 3, "patch": 2}
    train_classifier(
        pictures, "convnext_t", out, options=options, settings=ClassSettings(size=16, batch=4),
        config=class_config(max_steps=2, precision="float32", threads=1),
    )  # fmt: skip
    return out


@pytest.mark.parametrize(("height", "width", "tile"), [(40, 48, 16), (17, 16, 16), (9, 30, 16)])
def test_tiles_cover_the_picture(height: int, width: int, tile: int) -> None:
    seen = np.zeros((height, width), int)
    corners = tile_corners(height, width, tile)
    for row, column in corners:
        assert row + tile <= max(height, tile)
        assert column + tile <= max(width, tile)
        seen[row : row + tile, column : column + tile] += 1
    assert (seen > 0).all()
    assert corners == sorted(set(corners))
    assert len(corners) == -(-height // tile) * -(-width // tile)


def test_a_bag_holds_what_the_model_says_of_each_tile(
    pictures: Path, run: Path, tmp_path: Path
) -> None:
    report = make_bags([pictures], run / "fold_0", tmp_path / "bags", tile=16)
    assert set(report["bags"].values()) == {9}  # 40 x 48
    bag = load_file(tmp_path / "bags" / "board" / "im00.safetensors")
    assert bag["features"].shape == (9, 16)
    row, column = bag["coords"][5].tolist()
    assert (row, column) == (16, 32)
    picture = np.asarray(Image.open(pictures / "board" / "im00.png")).copy()
    model = load_classifier(run / "fold_0")
    part = torch.from_numpy(picture[row : row + 16, column : column + 16]).movedim(-1, 0).float()
    with torch.no_grad():
        wanted = model.networks[0].features(model.spec.preparation.fitted(part)[None])[0]  # type: ignore[union-attr,operator]
    torch.testing.assert_close(bag["features"][5], wanted)


def test_bags_keep_labels_patients_and_folds(pictures: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    make_bags([pictures], run / "fold_0", out, tile=16)
    before, after = open_labelled(pictures), open_labelled(out)
    assert after.kind == "bags"
    assert {(c.id, c.label, c.patient) for c in after.cases} == {
        (c.id, c.label, c.patient) for c in before.cases
    }
    settings = class_config(bags=True, max_steps=2, precision="float32", threads=1)
    (fold,) = train_classifier(out, "r2t_mil", tmp_path / "mil", options=BAG, config=settings)
    assert fold.results["images"]["n"] == len(load_cases(run))
    with pytest.raises(UsageError, match=r"trained on .* a validation case of this fold"):
        train_classifier(out, "r2t_mil", tmp_path / "1", fold="1", options=BAG, config=settings)


def load_cases(run: Path) -> dict:
    import json

    found: dict = json.loads((run / "fold_0" / "validation.json").read_text())["cases"]
    return found


def test_pictures_without_labels(pictures: Path, run: Path, tmp_path: Path) -> None:
    files = sorted((pictures / "board").iterdir())[:2]
    report = make_bags(files, run / "fold_0", tmp_path / "bags", tile=20)
    assert report["bags"] == {"im00": 6, "im02": 6}
    assert not (tmp_path / "bags" / "labels.csv").exists()
    with pytest.raises(UsageError, match="already exists"):
        make_bags(files, run / "fold_0", tmp_path / "bags", tile=20)


def test_bags_are_not_cut_again(bags: Path, run: Path, tmp_path: Path) -> None:
    assert (bags / "labels.csv").is_file()
    with pytest.raises(UsageError, match="bags already"):
        make_bags([bags], run / "fold_0", tmp_path / "out")
