"""Videos are read back; what is drawn stands where it should."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apps.driving.agents.base import Command, Decision, Observation
from apps.driving.evaluation.palette import PALETTE
from apps.driving.evaluation.video import (
    BACK,
    BRAKE,
    GAS,
    HEIGHT,
    PATH,
    STRIP,
    WIDTH,
    VideoWriter,
    draw,
)
from apps.driving.rig import LETFUSER, Camera, Rig
from core.errors import ResourceError, UsageError

av = pytest.importorskip("av")

BARE = Observation(1, 0.1, 5.0, np.zeros(2), 0.0, np.array([30.0, 0.0]), Command.LEFT)
SEEN = replace(
    BARE,
    rgb=np.full((3, 160, 320, 3), 200, np.uint8),
    depth=np.full((3, 160, 320), 20.0, np.float32),
)
GO = Decision(1.0, 0.0, 0.0)


def read(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_pictures_come_back(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    with VideoWriter(path, fps=10) as video:
        for level in (40, 120, 220):
            rgb = np.full((3, 160, 320, 3), level, np.uint8)
            video.write(replace(SEEN, rgb=rgb), GO, title="route 1")
    found = read(path)
    assert found.shape == (3, HEIGHT, WIDTH, 3)
    assert [abs(float(f[20:140].mean()) - v) < 4 for f, v in zip(found, (40, 120, 220))] == [
        True
    ] * 3
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 10
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert [p.name for p in tmp_path.iterdir()] == ["drive.mp4"]


def test_same_drive_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name) as video:
            for _ in range(4):
                video.write(SEEN, GO)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_no_picture_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "none.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def drive() -> None:
        with VideoWriter(tmp_path / "half.mp4") as video:
            video.write(SEEN, GO)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drive()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists"), VideoWriter(path) as video:
        video.write(SEEN, GO)
    assert path.read_text() == "mine"
    with VideoWriter(path, force=True) as video:
        video.write(SEEN, GO)
    assert len(read(path)) == 1


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> io.BytesIO:
        raise OSError(28, "No space left on device")

    with VideoWriter(tmp_path / "drive.mp4") as probe:
        monkeypatch.setattr(probe._av, "open", full)
        with (
            pytest.raises(ResourceError, match="no space left"),
            VideoWriter(tmp_path / "x.mp4") as v,
        ):
            v.write(SEEN, GO)


@pytest.mark.parametrize("fps", [0.0, -1.0, 1000.0])
def test_a_rate_that_is_none(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UsageError, match="pictures a second"):
        VideoWriter(tmp_path / "x.mp4", fps)


def test_waypoints_are_drawn_where_the_camera_sees_them() -> None:
    waypoints = np.array([[12.0, 0.0], [5.0, 9.0]])
    picture = draw(SEEN, replace(GO, waypoints=waypoints))
    (front,), _ = LETFUSER.cameras[1].project(np.array([[12.0, 0.0, 0.0]]))
    (right,), _ = LETFUSER.cameras[2].project(np.array([[5.0, 9.0, 0.0]]))
    for view, (u, v) in ((1, front), (2, right)):
        assert tuple(picture[int(v), int(320 * view + u)]) == PATH
    strip = picture[:STRIP]
    assert np.all(strip[:, :320] == 200)  # the left camera sees neither


def test_semantics_have_their_colours_in_their_places() -> None:
    semantics = np.ones((1, 40, 240), np.uint8)
    semantics[0, 20:, 120:] = 14
    picture = draw(SEEN, replace(GO, semantics=semantics))
    assert tuple(picture[STRIP + 40, 700]) == tuple(PALETTE[1])
    assert tuple(picture[STRIP + 120, 700]) == tuple(PALETTE[14])
    cut = draw(SEEN, replace(GO, semantics=semantics[:, :, 24:216]))  # 768 of 960 columns
    assert tuple(cut[STRIP + 120, 50]) == BACK
    assert tuple(cut[STRIP + 120, 700]) == tuple(PALETTE[14])


def test_pedals_are_as_long_as_they_are_down() -> None:
    def reds(decision: Decision, colour: tuple[int, int, int]) -> int:
        lower = draw(BARE, decision)[2 * STRIP + 120 :]
        return int(np.all(lower == colour, axis=-1).sum())

    assert reds(Decision(0.8, 0.0, 0.0), GAS) > 1.8 * reds(Decision(0.4, 0.0, 0.0), GAS) > 0
    assert reds(Decision(0.0, 0.0, 1.0), BRAKE) > reds(Decision(0.0, 0.0, 0.2), BRAKE) > 0


@pytest.mark.parametrize(
    "decision",
    [
        Decision(np.nan, np.nan, np.nan, waypoints=np.full((4, 2), np.nan)),
        Decision(9.0, -9.0, 9.0, waypoints=np.zeros((0, 2))),
        Decision(0, 0, 0, birdseye=np.zeros((80, 128), np.uint8), hazards={"light": True}),
    ],
)
def test_whatever_the_driver_says_can_be_drawn(decision: Decision) -> None:
    broken = replace(SEEN, depth=np.full((3, 160, 320), np.nan, np.float32), speed=np.nan)
    for seen in (BARE, SEEN, broken, replace(BARE, target=np.full(2, np.nan))):
        picture = draw(seen, decision, lines=["x"] * 20, warnings=["y" * 500] * 20)
        assert picture.shape == (HEIGHT, WIDTH, 3)


def test_one_large_camera_is_made_to_fit() -> None:
    rig = Rig((Camera("front", width=640, height=320),))
    rgb = np.full((1, 320, 640, 3), 90, np.uint8)
    assert draw(replace(SEEN, rgb=rgb, depth=None), GO, rig).shape == (HEIGHT, WIDTH, 3)
