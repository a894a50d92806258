"""How CARLA 0.9.16 lays out what it streams: headers, actor states, measurements and tokens.

Everything is little-endian and packed. Sizes and offsets were read from the debugging information
of the ``carla`` 0.9.16 wheel (``ptype /o`` of the ``carla::sensor::s11n`` serializers' headers and of
``carla::streaming::detail::token_data``); the order of sensor types is that of
``carla::sensor::SensorRegistry`` in the same file. They hold for that version only: a wrong sensor
type makes the client allocate at random and abort. ``snapshot.ROW`` is the row of an actor.

A message on a stream is ``u32 size`` and then the payload: a sensor header of 48 bytes, then the
data of that sensor's kind.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

import msgpack
import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.snapshot import ROW

CARLA_VERSION = "0.9.16"
WORLD_OBSERVER_STREAM = 1
TOKEN_BYTES = 24


class SensorType(IntEnum):
    """Index of a serializer in 0.9.16's registry; other versions number them differently."""

    COLLISION = 0
    DEPTH_CAMERA = 1
    NORMALS_CAMERA = 2
    DVS_CAMERA = 3
    GNSS = 4
    IMU = 5
    LANE_INVASION = 6
    OBSTACLE = 7
    OPTICAL_FLOW_CAMERA = 8
    RADAR = 9
    SEMANTIC_LIDAR = 10
    LIDAR = 11
    RSS = 12
    RGB_CAMERA = 13
    SEMANTIC_CAMERA = 14
    INSTANCE_CAMERA = 15
    COSMOS_CONTROL = 16
    WORLD_OBSERVER = 17
    GBUFFER_UINT8 = 18
    GBUFFER_FLOAT = 19
    V2X = 20
    CUSTOM_V2X = 21


class SimulationState(IntFlag):
    """What a client should fetch again after an episode state."""

    NONE = 0
    MAP_CHANGE = 1
    PENDING_LIGHT_UPDATE = 2


#: A semantic lidar's point: place (3 f32), cosine of incidence (f32), actor id (u32), tag (u32).
SEMANTIC_POINT_BYTES = 24

_SENSOR_HEADER = struct.Struct("<QQd6f")
_EPISODE_HEADER = struct.Struct("<Qdf3iI")
_IMAGE_HEADER = struct.Struct("<IIf")
_TOKEN = struct.Struct("<IHBB16s")
_SIZE = struct.Struct("<I")
_TCP, _ADDRESS_OF_HOST = 1, 0


def token(stream: int, port: int) -> bytes:
    """24 bytes by which a client finds a stream: its id and its TCP port on the host it called."""
    return _TOKEN.pack(stream, port, _TCP, _ADDRESS_OF_HOST, b"")


def framed(payload: bytes) -> bytes:
    """``payload`` after its size. An empty one would make the client reconnect for ever."""
    if not payload:
        raise ValueError("a stream's message may not be empty")
    return _SIZE.pack(len(payload)) + payload


def measurement(
    kind: SensorType, frame: int, timestamp: float, transform: Transform, data: bytes
) -> bytes:
    """One sensor's message, without its size: ``timestamp`` in simulated s, the sensor's place."""
    return _SENSOR_HEADER.pack(kind, frame, timestamp, *transform) + data


def episode_state(
    rows: np.ndarray,
    *,
    episode: int,
    platform_timestamp: float,
    delta_seconds: float,
    state: SimulationState = SimulationState.NONE,
) -> bytes:
    """What every client knows of the world after a tick: (n) rows of ``snapshot.ROW``.

    Raises TypeError when the rows have another layout: the client would read garbage.
    """
    if rows.dtype != ROW:
        raise TypeError(f"actor states need the dtype snapshot.ROW, got {rows.dtype}")
    header = _EPISODE_HEADER.pack(episode, platform_timestamp, delta_seconds, 0, 0, 0, state)
    return header + rows.tobytes()


def image(width: int, height: int, fov: float, bgra: bytes) -> bytes:
    """A camera's picture: ``bgra`` is (height, width, 4) uint8; raises ValueError otherwise."""
    if len(bgra) != width * height * 4:
        raise ValueError(f"a picture of {width} x {height} is not {len(bgra)} bytes long")
    return _IMAGE_HEADER.pack(width, height, fov) + bgra


def _point_cloud(angle: float, counts: np.ndarray, points: bytes) -> bytes:
    # The header is an array of u32, whose first word holds the bits of a float.
    return struct.pack("<fI", angle, len(counts)) + counts.astype("<u4").tobytes() + points


def lidar(angle: float, counts: np.ndarray, points: np.ndarray) -> bytes:
    """A sweep that ended at ``angle`` (radians): points (n, 4) float32 x, y, z, intensity.

    They are ordered by channel; ``counts`` (channels) says how many each has. ValueError when they
    do not add up: the client would read past the end.
    """
    points = np.ascontiguousarray(points, "<f4").reshape(-1, 4)
    _check_counts(counts, len(points))
    return _point_cloud(angle, counts, points.tobytes())


def semantic_lidar(angle: float, counts: np.ndarray, points: np.ndarray) -> bytes:
    """As ``lidar``, with (n) rows of ``SEMANTIC_POINT_BYTES``."""
    if points.dtype.itemsize != SEMANTIC_POINT_BYTES:
        raise TypeError(f"points need {SEMANTIC_POINT_BYTES} bytes each, got {points.dtype}")
    _check_counts(counts, len(points))
    return _point_cloud(angle, counts, points.tobytes())


def _check_counts(counts: np.ndarray, points: int) -> None:
    if int(np.sum(counts)) != points:
        raise ValueError(f"channels hold {int(np.sum(counts))} points, the sweep {points}")


def radar(detections: np.ndarray) -> bytes:
    """(n, 4) float32: velocity m/s, azimuth, altitude in radians, depth m."""
    return np.ascontiguousarray(detections, "<f4").reshape(-1, 4).tobytes()


def gnss(latitude: float, longitude: float, altitude: float) -> bytes:
    """Degrees, degrees, m."""
    return packed([float(latitude), float(longitude), float(altitude)])


def imu(accelerometer: object, gyroscope: object, compass: float) -> bytes:
    """(3) m/s2, (3) radians/s, radians clockwise from north."""
    return packed([floats(accelerometer), floats(gyroscope), float(compass)])


def collision(actor: list[object], other: list[object], impulse: object) -> bytes:
    """Two ``rpc::Actor`` values and the impulse (3), N s, on the first."""
    return packed([actor, other, floats(impulse)])


def obstacle(actor: list[object], other: list[object], distance: float) -> bytes:
    """Two ``rpc::Actor`` values and the distance between them, m."""
    return packed([actor, other, float(distance)])


def floats(values: object) -> list[float]:
    """Any sequence of numbers as a list that MessagePack writes as floating point."""
    return [float(value) for value in np.asarray(values, np.float64).ravel()]


def packed(value: object) -> bytes:
    """MessagePack, as the client's library reads it: bytes as ``bin``, text as ``str``."""
    data: bytes = msgpack.packb(value, use_bin_type=True)
    return data
