from __future__ import annotations

import errno
import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import core.weights.folder as module
from core.errors import DataError, ResourceError, UsageError
from core.files import sha256
from core.weights.folder import load_folder, load_state, read_tensors, save_folder

METADATA = {"format": 1, "name": "toy", "metrics": {"error": 0.5}, "labels": ["a", "b"]}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


@pytest.fixture
def saved(network: nn.Module, tmp_path: Path) -> Path:
    save_folder(tmp_path / "model", network.state_dict(), METADATA)
    return tmp_path / "model"


class Malicious:
    """Unpickling this creates a file; a real one would not stop there."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def write_pickle(path: Path, payload: Any, kind: str) -> None:
    if kind == "zip":
        torch.save(payload, path)
    elif kind == "legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=int(kind)))


def test_round_trip(network: nn.Module, saved: Path) -> None:
    tensors, metadata = load_folder(saved)
    assert metadata == METADATA
    assert tensors.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]
    described = json.loads((saved / "model.json").read_text())["tensors"]["sha256"]
    assert described == sha256(saved / "model.safetensors")
    mode = (saved / "model.safetensors").stat().st_mode
    assert mode == (saved / "model.json").stat().st_mode  # others may read the one as the other


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_on_disk_is_float32_in_memory(
    network: nn.Module, tmp_path: Path, dtype: torch.dtype, digits: float
) -> None:
    save_folder(tmp_path / "half", network.state_dict(), METADATA, dtype=dtype)
    assert read_tensors(tmp_path / "half" / "model.safetensors")["0.weight"].dtype == dtype
    tensors, _ = load_folder(tmp_path / "half")
    assert tensors["0.weight"].dtype == torch.float32
    assert tensors["1.num_batches_tracked"].dtype == torch.int64
    torch.testing.assert_close(
        tensors["0.weight"], network.state_dict()["0.weight"], rtol=digits, atol=1e-6
    )


def test_overflow_in_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'w' reach 7e\+04.*bfloat16"):
        save_folder(tmp_path / "m", {"w": torch.tensor([7e4])}, {}, dtype=torch.float16)
    assert not (tmp_path / "m").exists()


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": base, "again": base, "turned": base.T, "row": base[1]}
    save_folder(tmp_path / "m", tensors, {})
    loaded, _ = load_folder(tmp_path / "m")
    for name, value in tensors.items():
        assert torch.equal(loaded[name], value)
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 1000


def test_existing_model_is_kept_unless_forced(network: nn.Module, saved: Path) -> None:
    (saved / "card.md").write_text("mine")
    before = sha256(saved / "model.safetensors")
    changed = {name: value + 1 for name, value in network.state_dict().items()}
    with pytest.raises(UsageError, match="--force"):
        save_folder(saved, changed, METADATA)
    assert sha256(saved / "model.safetensors") == before
    save_folder(saved, changed, {"name": "new"}, force=True)
    tensors, metadata = load_folder(saved)
    assert metadata == {"name": "new"}
    assert torch.equal(tensors["0.bias"], changed["0.bias"])
    assert (saved / "card.md").read_text() == "mine"


def test_full_disk_leaves_nothing(
    network: nn.Module, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half a file")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    before = sha256(saved / "model.safetensors")
    for folder in (saved, tmp_path / "new"):
        with pytest.raises(ResourceError, match="no space left"):
            save_folder(folder, network.state_dict(), {}, force=True)
    assert sha256(saved / "model.safetensors") == before
    assert load_folder(saved)[1] == METADATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert errno.ENOSPC == 28


def test_reserved_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reserved"):
        save_folder(tmp_path / "m", {}, {"tensors": 1})


# ---- missing and damaged -------------------------------------------------------------------


def test_missing_weights(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        load_folder(tmp_path / "nothing")
    (saved / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors: the weights are missing"):
        load_folder(saved)


def test_missing_description(saved: Path) -> None:
    (saved / "model.json").unlink()
    with pytest.raises(DataError, match=r"model\.json: no such file"):
        load_folder(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not JSON"),
        (b"[1, 2]", "one JSON object, found list"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b" " * (module.MAX_JSON_BYTES + 1), "over 16 MB"),
    ],
)
def test_bad_description(saved: Path, text: bytes, message: str) -> None:
    (saved / "model.json").write_bytes(text)
    with pytest.raises(DataError, match=message):
        load_folder(saved)


def test_changed_weights_are_noticed(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="SHA-256 differs"):
        load_folder(saved)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"not a tensor in sight",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 70)
        + b'{"w":{"dtype":"F32","shape":[99999999],"data_offsets":[0,399999996]}}',
    ],
)
def test_not_safetensors(saved: Path, content: bytes) -> None:
    (saved / "model.json").write_text("{}")  # no checksum, as in a folder made by hand
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="not a safetensors file") as caught:
        load_folder(saved)
    assert "\n" not in str(caught.value)


# ---- poisoned ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "legacy", "2", "4", "5"])
@pytest.mark.parametrize("name", ["model.safetensors", "weights.pt", "weights.ckpt", "weights"])
def test_pickle_is_refused_and_not_run(tmp_path: Path, kind: str, name: str) -> None:
    target, path = tmp_path / "owned", tmp_path / name
    write_pickle(path, Malicious(target), kind)
    for read in (read_tensors, load_folder):
        with pytest.raises(DataError, match=r"pickled checkpoint.*safetensors") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not target.exists()
    # The trap is real: whoever does unpickle it is caught.
    if kind.isdigit():
        pickle.loads(path.read_bytes())
    else:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert target.exists()


def test_pickle_inside_a_model_folder(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    (saved / "model.json").write_text(json.dumps(METADATA))
    write_pickle(saved / "model.safetensors", Malicious(target), "zip")
    with pytest.raises(DataError, match=r"model\.safetensors: is a pickled checkpoint"):
        load_folder(saved)
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin: is a pickled checkpoint"):
        load_folder(saved)
    assert not target.exists()


def test_old_text_pickle_is_no_tensor_file(tmp_path: Path) -> None:
    """Protocol 0 has no signature; it is refused as what it is not."""
    target, path = tmp_path / "owned", tmp_path / "model.safetensors"
    write_pickle(path, Malicious(target), "0")
    with pytest.raises(DataError, match="not a safetensors file"):
        read_tensors(path)
    assert not target.exists()


# ---- another architecture ------------------------------------------------------------------


def test_load_state(network: nn.Module, saved: Path) -> None:
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    load_state(other, load_folder(saved)[0], "saved")
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_weights_of_another_architecture(network: nn.Module, saved: Path) -> None:
    tensors, _ = load_folder(saved)
    other = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_state(other, {**tensors, "head.weight": torch.zeros(1)}, "weights/toy")
    message = str(caught.value)
    assert message.startswith("weights/toy: weights of another architecture than Sequential")
    assert "2 missing: 2.weight, 2.bias" in message
    assert "1 unexpected: head.weight" in message
    assert "6 of another shape: 0.weight (5, 3) instead of (6, 3)" in message
    assert "and 3 more" in message
    assert "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
