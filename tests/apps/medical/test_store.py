"""Model folders: round trip, shipped names, folds, and everything that can be wrong with one."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from apps.medical.store import find_model, load_model, shipped
from core.errors import DataError, UsageError


def copy(model: Path, to: Path) -> Path:
    return Path(shutil.copytree(model, to))


def edit(folder: Path, change) -> None:
    file = folder / "model.json"
    card = json.loads(file.read_text())
    change(card)
    file.write_text(json.dumps(card))


@pytest.fixture
def weights(tmp_path: Path, model_3d: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights root with one shipped model, "organ"."""
    root = tmp_path / "weights"
    copy(model_3d, root / "organ")
    monkeypatch.setenv("TRIPTYCH_WEIGHTS", str(root))
    return root


def test_round_trip_gives_the_same_outputs(model_3d: Path) -> None:
    first, second = load_model(model_3d), load_model(str(model_3d))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        y = first.network(x)
        assert torch.equal(y, second.network(x))
    assert y.shape == (1, 3, 16, 16, 16)
    assert not first.network.training
    assert first.spec.labels == {0: "background", 2: "front", 5: "back"}
    assert len(first.weights["model.safetensors"]) == 64


def test_shipped_name_nearest_name_and_path(weights: Path, model_3d: Path) -> None:
    assert shipped() == ["organ"]
    assert load_model("organ").folder == weights / "organ"
    assert find_model(model_3d) == model_3d
    with pytest.raises(UsageError, match="Did you mean 'organ'"):
        load_model("orgam")
    with pytest.raises(UsageError, match="no such model folder"):
        load_model("nowhere/at/all")


def test_a_shipped_name_wins_over_a_folder_of_that_name(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "organ").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("organ") == weights / "organ"
    assert find_model("./organ") == Path("organ")


def test_folds(tmp_path: Path, save_small, make_plan) -> None:
    for fold in (0, 2, 10):
        save_small(tmp_path / "ensemble" / f"fold_{fold}", make_plan(), seed=fold)
    every = load_model(tmp_path / "ensemble")
    assert every.folds == ("fold_0", "fold_2", "fold_10")
    assert len(every.networks) == 3
    assert sorted(every.weights) == [f"fold_{n}/model.safetensors" for n in (0, 10, 2)]
    assert load_model(tmp_path / "ensemble", folds=[10, 0]).folds == ("fold_10", "fold_0")
    assert load_model(tmp_path / "ensemble", folds="2").folds == ("fold_2",)
    assert load_model(tmp_path / "ensemble", folds="first").folds == ("fold_0",)
    with pytest.raises(UsageError, match="no fold 1; it has 0, 2, 10"):
        load_model(tmp_path / "ensemble", folds=[1])
    with pytest.raises(UsageError, match="numbers such as"):
        load_model(tmp_path / "ensemble", folds="best")


def test_folds_of_a_single_model(model_3d: Path) -> None:
    assert load_model(model_3d, folds="first").folds == ()
    with pytest.raises(UsageError, match="single model"):
        load_model(model_3d, folds=[3])


def test_folds_that_do_not_belong_together(tmp_path: Path, save_small, make_plan) -> None:
    save_small(tmp_path / "fold_0", make_plan())
    save_small(tmp_path / "fold_1", make_plan(patch=[8, 8, 8]))
    with pytest.raises(DataError, match=r"fold_1: its plan differs from fold_0"):
        load_model(tmp_path)


def test_missing_weights(tmp_path: Path, model_3d: Path) -> None:
    folder = copy(model_3d, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors.*missing"):
        load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(DataError, match="no trained model here"):
        load_model(folder)


def test_weights_of_another_architecture(tmp_path: Path, model_3d: Path) -> None:
    folder = copy(model_3d, tmp_path / "m")
    edit(folder, lambda card: card["network"]["options"].update(channels=[4, 16]))
    with pytest.raises(DataError, match="another architecture") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_poisoned_checkpoint_is_refused_unopened(tmp_path: Path, model_3d: Path, name) -> None:
    class Poison:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    folder = copy(model_3d, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Poison()))
    # Even with a checksum that fits it.
    edit(folder, lambda card: card.pop("tensors"))
    with pytest.raises(DataError, match="pickle"):
        load_model(folder)
    with pytest.raises(DataError, match="pickle"):
        load_model(folder / name)
    assert not (tmp_path / "owned").exists()


def test_damaged_weights(tmp_path: Path, model_3d: Path) -> None:
    folder = copy(model_3d, tmp_path / "m")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match="SHA-256"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(format=2), "newer"),
        (lambda card: card.update(licens="MIT"), "licens"),
        (lambda card: card.pop("plan"), "'plan' is missing"),
        (lambda card: card["network"].update(name="unett"), "unett"),
        (lambda card: card["network"].update(options={"chanels": 3}), "chanels"),
    ],
)
def test_wrong_description_is_a_data_error(tmp_path, model_3d, change, message) -> None:
    folder = copy(model_3d, tmp_path / "m")
    edit(folder, change)
    with pytest.raises(DataError, match=message):
        load_model(folder)


def test_a_description_is_read_without_the_weights(model_3d, tmp_path) -> None:
    from apps.medical.store import read_spec

    assert read_spec("hippocampus").labels[1] == "anterior"
    (tmp_path / "ensemble").mkdir()
    for fold in (0, 1):
        shutil.copytree(model_3d, tmp_path / "ensemble" / f"fold_{fold}")
        (tmp_path / "ensemble" / f"fold_{fold}" / "model.safetensors").unlink()
    assert read_spec(tmp_path / "ensemble").name == "small"
    with pytest.raises(DataError, match="no trained model here"):
        read_spec(tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'hippocampus'"):
        read_spec("hipocampus")
    for text in ("{", "[]", '{"app": "driving"}'):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(DataError, match=r"model\.json"):
            read_spec(tmp_path)
