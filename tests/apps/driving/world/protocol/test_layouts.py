"""The bytes that go out, against the offsets in the wheel's debugging information."""

from __future__ import annotations

import struct

import msgpack
import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.protocol import layouts
from apps.driving.world.protocol.layouts import SensorType, SimulationState
from apps.driving.world.sensors.payloads import SEMANTIC_POINT
from apps.driving.world.simulation.snapshot import ROW, blank

PLACE = Transform(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def test_token_names_stream_and_port_and_leaves_the_address_to_the_client():
    raw = layouts.token(0x01020304, 0xABCD)
    assert raw.hex() == "04030201" + "cdab" + "01" + "00" + "00" * 16
    assert len(raw) == layouts.TOKEN_BYTES


def test_measurement_header_is_48_bytes():
    raw = layouts.measurement(SensorType.GNSS, 7, 0.25, PLACE, b"data")
    assert struct.unpack_from("<QQd", raw) == (4, 7, 0.25)
    assert struct.unpack_from("<6f", raw, 24) == tuple(PLACE)
    assert raw[48:] == b"data"


def test_episode_state_holds_one_row_of_119_bytes_per_actor():
    rows = blank([3, 9])
    rows["transform"][1] = PLACE
    rows["velocity"][1] = 7, 8, 9
    rows["gear"][1] = -1
    raw = layouts.episode_state(
        rows,
        episode=2,
        platform_timestamp=1.5,
        delta_seconds=0.05,
        state=SimulationState.MAP_CHANGE | SimulationState.PENDING_LIGHT_UPDATE,
    )
    assert len(raw) == 36 + 2 * 119
    assert struct.unpack_from("<Qd", raw) == (2, 1.5)
    assert struct.unpack_from("<I", raw, 32) == (3,)
    second = raw[36 + 119 :]
    assert struct.unpack_from("<IB6f3f", second) == (9, 1, *PLACE, 7, 8, 9)
    assert struct.unpack_from("<i", second, 80) == (-1,)


def test_episode_state_refuses_another_layout():
    with pytest.raises(TypeError, match=r"snapshot\.ROW"):
        layouts.episode_state(
            np.zeros(1, [("id", "<u4")]), episode=1, platform_timestamp=0.0, delta_seconds=0.1
        )


def test_row_has_the_wheels_size():
    assert ROW.itemsize == 119


def test_image_knows_its_size():
    raw = layouts.image(3, 2, 90.0, bytes(range(24)))
    assert struct.unpack_from("<IIf", raw) == (3, 2, 90.0)
    assert raw[12:] == bytes(range(24))
    with pytest.raises(ValueError, match="3 x 2"):
        layouts.image(3, 2, 90.0, b"short")


def test_lidar_header_counts_points_of_each_channel():
    points = np.arange(12, dtype=np.float32).reshape(3, 4)
    raw = layouts.lidar(-30.5, np.array([1, 2]), points)
    assert struct.unpack_from("<fIII", raw) == (-30.5, 2, 1, 2)
    assert np.frombuffer(raw, "<f4", offset=16).tolist() == points.ravel().tolist()
    with pytest.raises(ValueError, match="channels hold 4 points, the sweep 3"):
        layouts.lidar(0.0, np.array([2, 2]), points)


def test_lidar_may_be_empty():
    raw = layouts.lidar(0.0, np.zeros(2, int), np.zeros((0, 4), np.float32))
    assert struct.unpack("<fIII", raw) == (0.0, 2, 0, 0)


def test_semantic_lidar_points_are_24_bytes():
    points = np.zeros(1, SEMANTIC_POINT)
    points["xyz"], points["cosine"], points["instance"], points["tag"] = (1, 2, 3), 0.5, 77, 14
    raw = layouts.semantic_lidar(1.0, np.array([1]), points)
    assert struct.unpack_from("<4fII", raw, 12) == (1, 2, 3, 0.5, 77, 14)
    with pytest.raises(TypeError, match="24 bytes"):
        layouts.semantic_lidar(1.0, np.array([1]), np.zeros((1, 4)))


def test_radar_is_four_floats_a_detection():
    raw = layouts.radar(np.array([[1.0, 2.0, 3.0, 4.0]]))
    assert struct.unpack("<4f", raw) == (1, 2, 3, 4)


def test_numbers_in_messagepack_are_floating_point():
    # 0.9.16 reads these into floats; an integer of MessagePack would be another type.
    raw = layouts.imu(np.array([0, 0, 9]), (1, 2, 3), 0)
    assert msgpack.unpackb(raw) == [[0.0, 0.0, 9.0], [1.0, 2.0, 3.0], 0.0]
    assert all(isinstance(v, float) for part in msgpack.unpackb(raw)[:2] for v in part)
    assert msgpack.unpackb(layouts.gnss(49, 8, 1)) == [49.0, 8.0, 1.0]


def test_empty_message_is_refused():
    with pytest.raises(ValueError, match="empty"):
        layouts.framed(b"")
    assert layouts.framed(b"abc") == b"\x03\x00\x00\x00abc"
