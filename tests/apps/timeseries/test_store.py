"""Model folders of forecasters: what must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.timeseries.fit import train
from apps.timeseries.store import load, save
from core.errors import DataError, UsageError


@pytest.fixture
def folder(make_panel, tmp_path: Path) -> Path:
    panel = make_panel(rows=120)
    trained = train(panel, "dlinear", lookback=24, horizon=6, run_dir=tmp_path / "r", max_steps=1)
    save(tmp_path / "m", trained.model.network, trained.model.spec,
         [trained.model.scalings[s.id] for s in panel])  # fmt: skip
    return tmp_path / "m"


def edit(folder: Path, change) -> None:
    path = folder / "model.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_round_trip(folder: Path) -> None:
    first, second = load(folder), load(str(folder))
    x = torch.randn(2, 24, 2)
    assert torch.equal(first.network(x), second.network(x))
    np.testing.assert_array_equal(
        first.scalings["s0"].values.mean, second.scalings["s0"].values.mean
    )
    assert not first.network.training


def test_another_schema_version(folder: Path) -> None:
    edit(folder, lambda v: v.update(format=2))
    with pytest.raises(DataError, match=r"model.json: has schema version 2, this program reads 1"):
        load(folder)


def test_a_folder_of_another_application(folder: Path) -> None:
    edit(folder, lambda v: v.update(app="medical"))
    with pytest.raises(DataError, match="is not a forecaster"):
        load(folder)


def test_unknown_keys_options_and_scalings_of_another_width(folder: Path) -> None:
    edit(folder, lambda v: v.update(extra=1))
    with pytest.raises(DataError, match="unknown key 'extra'"):
        load(folder)
    edit(folder, lambda v: v.pop("extra"))
    edit(folder, lambda v: v["data"]["targets"].append("third"))
    with pytest.raises(DataError, match="the scaling of values is"):
        load(folder)
    edit(folder, lambda v: v["data"]["targets"].pop())
    edit(folder, lambda v: v["network"]["options"].update(kernels=5))
    with pytest.raises(DataError, match="unknown option of model 'dlinear'"):
        load(folder)


def test_a_damaged_file_an_empty_folder_and_an_unknown_name(folder: Path, tmp_path: Path) -> None:
    tensors = folder / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="SHA-256 differs"):
        load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no trained model here"):
        load(tmp_path / "empty")
    with pytest.raises(UsageError, match="unknown model"):
        load("no-such-model")
