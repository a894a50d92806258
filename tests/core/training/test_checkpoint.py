from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.errors import DataError, UsageError
from core.training import checkpoint
from core.training.checkpoint import (
    State,
    load_checkpoint,
    load_weights,
    read_state,
    save_checkpoint,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {
        "network": {"w": torch.ones(2)},
        "ema": {"w": torch.zeros(2)},
        "optimizer": {"w:step": torch.tensor(3.0)},
    }
    save_checkpoint(tmp_path / "last", State(step=3, metrics={"error": None}), parts)
    return tmp_path / "last"


def test_round_trip(saved: Path) -> None:
    state, parts = load_checkpoint(saved)
    assert state.step == 3
    assert state.metrics == {"error": None}
    assert set(parts) == {"network", "ema", "optimizer"}
    assert parts["optimizer"]["w:step"] == 3
    assert torch.equal(load_weights(saved)["w"], torch.zeros(2))  # the average


def test_new_one_replaces_the_old(saved: Path) -> None:
    (saved / ".tmp-of-a-killed-process").write_text("half")
    save_checkpoint(saved, State(step=4), {"network": {"w": torch.full((2,), 4.0)}})
    assert load_checkpoint(saved)[0].step == 4
    assert torch.equal(load_weights(saved)["w"], torch.full((2,), 4.0))
    assert len(list(saved.iterdir())) == 2


def test_one_step_saved_twice_never_meets_its_own_name(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_state(saved).file
    drawn = iter([first.split("-")[2].partition(".")[0], "0123"])
    monkeypatch.setattr(checkpoint, "secrets", SimpleNamespace(token_hex=lambda n: next(drawn)))
    save_checkpoint(saved, State(step=3), {"network": {"w": torch.full((2,), 4.0)}})
    assert read_state(saved).file == "step-3-0123.safetensors"
    assert torch.equal(load_weights(saved)["w"], torch.full((2,), 4.0))
    assert not (saved / first).exists()


def test_nothing_is_pickled(saved: Path) -> None:
    for path in saved.iterdir():
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(path.read_bytes())
    assert {path.suffix for path in saved.iterdir()} == {".json", ".safetensors"}


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint to resume"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"step": "many"}, "'step'"),
        ({"surprise": 1}, "'surprise'"),
        ({"file": "../../elsewhere.safetensors"}, "are missing"),
        ({"file": "gone.safetensors"}, "are missing"),
        ({"sha256": "0"}, "is damaged"),
    ],
)
def test_foreign_state_is_refused(saved: Path, change: dict[str, object], message: str) -> None:
    path = saved / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (saved.parent / "elsewhere.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        load_checkpoint(saved)
