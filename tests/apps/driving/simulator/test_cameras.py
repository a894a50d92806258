"""Pictures of one frame, from sensors that are well and from such as are not."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.rig import LETFUSER, Camera, Rig
from apps.driving.simulator.cameras import (
    DEPTH_STEPS,
    Cameras,
    SensorMissing,
    decode_depth,
    encode_depth,
)
from core.errors import UsageError

carla = pytest.importorskip("carla")


class Sensor:
    """One that sends what the test tells it to."""

    def __init__(self, kind: str, attributes: dict[str, Any]) -> None:
        self.type_id, self.attributes = kind, attributes
        self.is_listening = self.gone = False

    def listen(self, callback: Any) -> None:
        self.callback, self.is_listening = callback, True

    def send(self, frame: int, fill: int = 0, size: tuple[int, int] | None = None) -> None:
        width, height = size or (self.attributes["image_size_x"], self.attributes["image_size_y"])
        raw = np.full((height, width, 4), fill, np.uint8)
        raw[..., 1] = raw[..., 0] + 1
        raw[..., 2] = raw[..., 0] + 2
        self.callback(
            SimpleNamespace(frame=frame, width=width, height=height, raw_data=raw.tobytes())
        )


class Session:
    """What cameras ask of a session."""

    embedded, step, timeout = True, 0.05, 0.05

    def __init__(self) -> None:
        self.frame = 10
        self.sensors: list[Sensor] = []
        self.world = SimpleNamespace(get_snapshot=lambda: SimpleNamespace(frame=self.frame))

    def ask(self, call: Any, *arguments: Any) -> Any:
        return call(*arguments)

    def spawn(self, kind: str, transform: Any, parent: Any, **attributes: Any) -> Sensor:
        sensor = Sensor(kind, attributes | {"yaw": transform.rotation.yaw})
        self.sensors.append(sensor)
        return sensor

    def tick(self) -> Any:
        self.frame += 1
        return SimpleNamespace(frame=self.frame)

    def destroy(self, sensors: list[Sensor]) -> None:
        for sensor in sensors:
            sensor.gone = True


@pytest.fixture
def session() -> Any:
    return Session()


def test_pictures_come_in_the_order_of_the_rig(session):
    cameras = Cameras(session, None, LETFUSER, kinds={"semantic", "rgb", "depth"})
    assert [(s.type_id.rpartition(".")[2], s.attributes["yaw"]) for s in session.sensors] == [
        (kind, yaw) for kind in ("rgb", "depth", "semantic_segmentation") for yaw in (-60, 0, 60)
    ]
    for i, sensor in reversed(list(enumerate(session.sensors))):
        sensor.send(11, 20 * i)
    frames = cameras.read(11)
    assert frames.frame == 11
    assert frames.rgb.shape == (3, 160, 320, 3)
    assert frames.rgb[:, 5, 5].tolist() == [[2, 1, 0], [22, 21, 20], [42, 41, 40]]  # red first
    assert frames.semantics[:, 5, 5].tolist() == [122, 142, 162]
    assert (frames.rgb.dtype, frames.depth.dtype, frames.semantics.dtype) == (
        np.uint8,
        np.float32,
        np.uint8,
    )
    steps = 62 + 61 * 256 + 60 * 65536
    assert frames.depth[0, 0, 0] == pytest.approx(1000 * steps / (2**24 - 1), rel=1e-6)


def test_kinds_that_were_not_asked_for_are_none(session):
    cameras = Cameras(session, None, LETFUSER, kinds=["depth"])
    for sensor in session.sensors:
        sensor.send(11)
    frames = cameras.read(11)
    assert len(session.sensors) == 3
    assert frames.rgb is None
    assert frames.semantics is None
    nothing = Cameras(session, None, LETFUSER, kinds=())
    assert nothing.read(11).depth is None


def test_due_frames(session):
    cameras = Cameras(session, None, LETFUSER, ["rgb"], every=0.1)
    assert [cameras.due(frame) for frame in range(9, 16)] == [0, 0, 1, 0, 1, 0, 1]
    assert session.sensors[0].attributes["sensor_tick"] == 0.1
    every = Cameras(session, None, LETFUSER, ["rgb"], every=0.05)
    assert all(every.due(frame) for frame in range(11, 15))
    assert every.period == 1
    with pytest.raises(UsageError, match="multiple of the step"):
        Cameras(session, None, LETFUSER, ["rgb"], every=0.12)
    assert Cameras(session, None, LETFUSER, ["rgb"], every=0.5).period == 10


def test_unknown_kind(session):
    with pytest.raises(UsageError, match="Did you mean 'depth'"):
        Cameras(session, None, LETFUSER, ["dept"])
    assert session.sensors == []


def test_waits_for_the_last_picture(session):
    session.timeout = 5.0
    cameras = Cameras(session, None, LETFUSER, ["rgb"])
    for sensor in session.sensors[:2]:
        sensor.send(11)
    threading.Timer(0.1, session.sensors[2].send, (11, 7)).start()
    assert cameras.read(11).rgb[2, 0, 0].tolist() == [9, 8, 7]


def test_missing_picture_names_the_camera(session):
    cameras = Cameras(session, None, LETFUSER, ["rgb", "depth"])
    for sensor in session.sensors:
        sensor.send(11)
    cameras.read(11)
    for i, sensor in enumerate(session.sensors):
        if i != 4:
            sensor.send(13)
    with pytest.raises(
        SensorMissing, match=r"camera 'front' \(depth\) .* for frame 13; it has none"
    ):
        cameras.read(13, timeout=0.01)
    session.sensors[4].send(12)
    with pytest.raises(SensorMissing, match="its last is of frame 12"):
        cameras.read(13, timeout=0.01)
    session.sensors[4].send(13)
    assert cameras.read(13).frame == 13, "a late picture heals it"


def test_dropped_frame_does_not_shift_the_pictures(session):
    """Frame 13 never comes whole; 15 must be made of pictures of 15 alone."""
    cameras = Cameras(session, None, LETFUSER, ["rgb"])
    for frame in (11, 13, 15):
        for i, sensor in enumerate(session.sensors):
            if (frame, i) != (13, 1):
                sensor.send(frame, frame)
    with pytest.raises(SensorMissing, match="'front'"):
        cameras.read(13, timeout=0.01)
    assert cameras.read(15).rgb[:, 0, 0, 2].tolist() == [15, 15, 15]


def test_pictures_that_nobody_reads_do_not_pile_up(session):
    cameras = Cameras(session, None, LETFUSER, ["rgb"])
    for frame in range(11, 500):
        session.sensors[0].send(frame)
    assert sum(len(kept) for kept in cameras._pictures.values()) < 20


def test_wrong_resolution_names_the_camera(session):
    cameras = Cameras(session, None, Rig((Camera("left"), Camera("right"))), ["rgb"])
    session.sensors[0].send(11)
    session.sensors[1].send(11, size=(160, 320))
    with pytest.raises(SensorMissing, match=r"'right' \(rgb\) sent 160 x 320 .* want 320 x 160"):
        cameras.read(11)


def test_cameras_of_a_real_carla_are_waited_for(session):
    """There listening is not acknowledged: ticks pass until every camera sends."""
    session.embedded = False
    ticks: list[int] = []

    def tick() -> Any:
        session.frame += 1
        ticks.append(session.frame)
        if len(ticks) >= 3:
            for sensor in session.sensors:
                sensor.send(session.frame)
        return SimpleNamespace(frame=session.frame)

    session.tick = tick
    rig = Rig((Camera("one"), Camera("two")))
    original = Cameras._all
    Cameras._all = lambda self, frame, timeout: original(self, frame, 0.01)  # type: ignore[method-assign]
    try:
        cameras = Cameras(session, None, rig, ["rgb"])
    finally:
        Cameras._all = original  # type: ignore[method-assign]
    assert ticks == [11, 12, 13]
    assert [cameras.due(frame) for frame in (13, 14, 15, 16)] == [False, True, False, True]
    assert session.sensors[0].attributes["sensor_tick"] == 0.0, "frames not due are dropped here"


def test_sensors_go_with_the_cameras(session):
    cameras = Cameras(session, None, LETFUSER, ["rgb"])
    cameras.destroy()
    assert all(sensor.gone for sensor in session.sensors)
    cameras.destroy()

    def refuse(*_: Any) -> None:
        raise RuntimeError("no more")

    broken = Session()
    spawned = broken.spawn
    broken.spawn = lambda *a, **b: refuse() if len(broken.sensors) == 2 else spawned(*a, **b)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        Cameras(broken, None, LETFUSER, ["rgb"])  # type: ignore[arg-type]
    assert [sensor.gone for sensor in broken.sensors] == [True, True]


def test_depth_survives_its_encoding():
    rng = np.random.default_rng(0)
    metres = np.concatenate([[0.0, 1000.0], 10 ** rng.uniform(-3, 3, 5000)])
    rgb = encode_depth(metres)
    assert rgb.shape == (5002, 3)
    assert rgb.dtype == np.uint8
    back = decode_depth(rgb[..., ::-1])
    assert np.abs(back - metres).max() <= 0.5 * 1000 / DEPTH_STEPS + 4e-5
    near = back < 250  # farther away float32 is no finer than the encoding itself
    assert np.array_equal(encode_depth(back)[near], rgb[near])


def test_depth_that_is_no_number_is_far():
    rgb = encode_depth(np.array([[np.nan, np.inf, -np.inf, 5000.0, -1.0]]))
    assert decode_depth(rgb[..., ::-1]).tolist() == [[1000.0, 1000.0, 0.0, 1000.0, 0.0]]


def test_depth_is_carlas():
    """``carla.ColorConverter.Depth``'s formula: R + 256 G + 65536 B."""
    assert decode_depth(np.array([3, 2, 1, 255], np.uint8)) == pytest.approx(
        1000 * (1 + 2 * 256 + 3 * 65536) / (256**3 - 1)
    )
    assert encode_depth(np.array(1000 * 513 / (256**3 - 1))).tolist() == [1, 2, 0]
