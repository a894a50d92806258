"""The state of all actors as one structured array, laid out as it travels to the clients.

A row is CARLA 0.9.16's ``ActorDynamicState``: 119 bytes, packed, little endian, of which the last 54
are a union that depends on what the actor is (traffic light, traffic sign, vehicle or walker). The
layout is that of the debug information in the 0.9.16 wheel's library. The fields of the union lie
over each other here as there, so that ``rows.tobytes()`` is what is sent; only those of the actor's
own kind may be written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ITEM = 119
UNION = 65

_LAYOUT: tuple[tuple[str, object, int], ...] = (
    ("id", "<u4", 0),
    ("state", "u1", 4),  # 1: active
    ("transform", ("<f4", 6), 5),  # x, y, z (m), pitch, yaw, roll (degrees)
    ("velocity", ("<f4", 3), 29),  # m/s, world frame
    ("angular_velocity", ("<f4", 3), 41),  # degrees/s, world frame
    ("acceleration", ("<f4", 3), 53),  # m/s^2, world frame
    # a vehicle
    ("throttle", "<f4", UNION),
    ("steer", "<f4", UNION + 4),
    ("brake", "<f4", UNION + 8),
    ("hand_brake", "?", UNION + 12),
    ("reverse", "?", UNION + 13),
    ("manual_gear_shift", "?", UNION + 14),
    ("gear", "<i4", UNION + 15),
    ("speed_limit", "<f4", UNION + 19),  # km/h
    ("traffic_light_state", "u1", UNION + 23),  # of the light that holds for it
    ("has_traffic_light", "?", UNION + 24),
    ("traffic_light_id", "<u4", UNION + 25),
    ("failure_state", "u1", UNION + 29),
    # a traffic light or sign
    ("sign_id", "S32", UNION),
    ("green_time", "<f4", UNION + 32),  # s
    ("yellow_time", "<f4", UNION + 36),
    ("red_time", "<f4", UNION + 40),
    ("elapsed_time", "<f4", UNION + 44),
    ("pole_index", "<u4", UNION + 48),
    ("time_is_frozen", "?", UNION + 52),
    ("light_state", "u1", UNION + 53),
    # a walker
    ("walker_direction", ("<f4", 3), UNION),
    ("walker_speed", "<f4", UNION + 12),  # m/s
    ("walker_jump", "?", UNION + 16),
)

ROW = np.dtype(
    {
        "names": [name for name, _, _ in _LAYOUT],
        "formats": [kind for _, kind, _ in _LAYOUT],
        "offsets": [offset for _, _, offset in _LAYOUT],
        "itemsize": ITEM,
    }
)

ACTIVE = 1


def blank(ids: Sequence[int]) -> np.ndarray:
    """(N) rows of active actors at the origin, in the order of ``ids``."""
    rows = np.zeros(len(ids), ROW)
    rows["id"] = ids
    rows["state"] = ACTIVE
    return rows
