from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apps.driving.models import build
from apps.driving.models.config import ModelConfig
from apps.driving.models.latency import example_inputs
from apps.driving.models.store import load_driver, save_model
from apps.driving.rig import LETFUSER, Rig
from core.errors import DataError, UsageError

Tiny = Callable[..., ModelConfig]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build(tiny("small"))
    save_model(
        tmp_path / "model", network, training={"seed": 0}, metrics={"miou": 0.5}, licence="MIT"
    )
    return tmp_path / "model"


def edit(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(values | changes))


def test_what_was_saved_drives_the_same(tiny: Tiny, folder: Path) -> None:
    torch.manual_seed(0)
    network = build(tiny("small")).eval()
    loaded = load_driver(folder)
    assert loaded.config == network.config
    assert loaded.config.rig.digest == network.config.rig.digest
    assert (loaded.spec.training, loaded.spec.metrics) == ({"seed": 0}, {"miou": 0.5})
    assert not loaded.network.training
    inputs = example_inputs(network.config)
    with torch.no_grad():
        for a, b in zip(network(inputs), loaded.network(inputs)):
            assert torch.equal(a, b)


def test_half_precision_halves_the_file(tiny: Tiny, tmp_path: Path) -> None:
    network = build(tiny("small"))
    sizes = []
    for name, dtype in (("full", None), ("half", torch.float16)):
        save_model(tmp_path / name, network, dtype=dtype)
        sizes.append((tmp_path / name / "model.safetensors").stat().st_size)
        load_driver(tmp_path / name)
    assert sizes[1] < 0.6 * sizes[0]


def test_nothing_is_replaced_without_force(tiny: Tiny, folder: Path) -> None:
    with pytest.raises(UsageError):
        save_model(folder, build(tiny("small")))
    save_model(folder, build(tiny("small", steps=3)), force=True)
    assert load_driver(folder).config.steps == 3


def test_other_cameras_are_refused_and_named(folder: Path) -> None:
    own = load_driver(folder).config.rig
    load_driver(folder, rig=own)
    turned = Rig((replace(own.cameras[0], yaw=-55.0), *own.cameras[1:]))
    with pytest.raises(DataError, match=r"camera 'left' with yaw -60.0, not -55.0"):
        load_driver(folder, rig=turned)
    with pytest.raises(DataError, match="3 cameras, not 1"):
        load_driver(folder, rig=Rig(own.cameras[1:2]))
    with pytest.raises(DataError, match="width 64, not 320"):
        load_driver(folder, rig=LETFUSER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"app": "medical"}, "is not a driver"),
        ({"format": 2}, "schema version 2"),
        ({"format": None}, "schema version None"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"network": {"name": "x", "width": 500}}, "multiples of 32"),
        ({"network": {"name": "x", "backbone": {"name": "cvt_14"}}}, "cvt_13"),
    ],
)
def test_a_description_that_is_wrong(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(DataError, match=message):
        load_driver(folder)


def test_weights_of_another_size(tiny: Tiny, folder: Path) -> None:
    network = tiny("small", hidden=128).model_dump(mode="json")
    edit(folder, network=network)
    with pytest.raises(DataError, match="another architecture"):
        load_driver(folder)


def test_weights_that_are_cut_off_or_missing(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_driver(folder)
    weights.unlink()
    with pytest.raises(DataError, match="weights are missing"):
        load_driver(folder)


def test_a_folder_without_a_model_and_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trained driver"):
        load_driver(tmp_path)
    with pytest.raises(UsageError):
        load_driver("no-such-driver")
