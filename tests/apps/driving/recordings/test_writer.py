"""A recording appears whole or not at all."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apps.driving.recordings.layout import Measurement
from apps.driving.recordings.writer import Recorder
from apps.driving.rig import Rig
from core.errors import DataError, ResourceError, UsageError

Frame = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]
HERE = Measurement(np.zeros(2), 0.0, 0.0, np.ones(2), 4, 0.0, 0.0, 1.0)


def test_layout(tmp_path: Path, record: Callable[..., Path]) -> None:
    route = record(tmp_path / "S" / "Town01" / "r", 3, about={"town": "Town01", "seed": 5})
    names = sorted(p.relative_to(route).as_posix() for p in route.rglob("*.*"))
    assert names == [
        *(f"depth/000{i}.png" for i in range(3)),
        *(f"measurements/000{i}.json" for i in range(3)),
        *(f"rgb/000{i}.png" for i in range(3)),
        "route.json",
        *(f"semantics/000{i}.png" for i in range(3)),
    ]
    about = json.loads((route / "route.json").read_text())
    assert (about["frames"], about["tags"], about["seed"]) == (3, "new", 5)
    assert [p.name for p in route.parent.iterdir()] == ["r"]


def lost(recorder: Recorder, frame: Frame) -> None:
    with recorder as to:
        to.add(*frame(0), HERE)
        raise RuntimeError("gone")


def full(recorder: Recorder, frame: Frame, hard: int) -> None:
    with recorder as to:
        to.add(*frame(0), HERE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        to.add(*frame(1), HERE)


def test_an_error_leaves_nothing(tmp_path: Path, rig: Rig, frame: Frame) -> None:
    with pytest.raises(RuntimeError, match="gone"):
        lost(Recorder(tmp_path / "r", rig), frame)
    assert list(tmp_path.iterdir()) == []


def test_no_frame_leaves_nothing(tmp_path: Path, rig: Rig) -> None:
    with Recorder(tmp_path / "r", rig):
        pass
    assert list(tmp_path.iterdir()) == []


def test_half_a_route_is_not_seen(tmp_path: Path, rig: Rig, frame: Frame) -> None:
    with Recorder(tmp_path / "r", rig) as to:
        to.add(*frame(0), HERE)
        assert not (tmp_path / "r").exists()
    assert (tmp_path / "r" / "rgb" / "0000.png").exists()


def test_replaced_with_force_only(tmp_path: Path, rig: Rig, record: Callable[..., Path]) -> None:
    record(tmp_path / "r", 3)
    with pytest.raises(UsageError, match="--force"), Recorder(tmp_path / "r", rig):
        pass
    with Recorder(tmp_path / "r", rig, force=True):
        pass  # no frame: the old one stays
    assert len(list((tmp_path / "r" / "rgb").iterdir())) == 3


def test_force_replaces(
    tmp_path: Path, rig: Rig, frame: Frame, record: Callable[..., Path]
) -> None:
    record(tmp_path / "r", 3)
    with Recorder(tmp_path / "r", rig, force=True) as to:
        to.add(*frame(0), HERE)
    assert len(list((tmp_path / "r" / "rgb").iterdir())) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_disk_full(tmp_path: Path, rig: Rig, frame: Frame) -> None:
    """A limit on the size of files fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(ResourceError, match="no space left"):
            full(Recorder(tmp_path / "r", rig), frame, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_pictures_must_fit_the_rig(tmp_path: Path, rig: Rig, frame: Frame) -> None:
    rgb, depth, semantics = frame(0)
    with pytest.raises(DataError, match="depth pictures"), Recorder(tmp_path / "r", rig) as to:
        to.add(rgb, depth[:, :-1], semantics, HERE)
