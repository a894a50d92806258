"""The rows against the layout that the client's own debug information gives."""

from __future__ import annotations

import struct

from apps.driving.world.simulation import snapshot


def test_a_vehicle_row_is_packed_as_the_client_reads_it() -> None:
    row = snapshot.blank([7])
    row["transform"] = (1, 2, 3, 4, 5, 6)
    row["velocity"], row["angular_velocity"], row["acceleration"] = (7, 8, 9), (1, 1, 2), (3, 3, 4)
    row["throttle"], row["steer"], row["brake"] = 0.25, -0.5, 0.75
    row["reverse"], row["gear"], row["speed_limit"] = True, -1, 30.0
    row["traffic_light_state"], row["has_traffic_light"], row["traffic_light_id"] = 1, True, 9
    expected = struct.pack("<IB6f", 7, 1, 1, 2, 3, 4, 5, 6)
    expected += struct.pack("<9f", 7, 8, 9, 1, 1, 2, 3, 3, 4)
    expected += struct.pack(
        "<fff???ifB?IB", 0.25, -0.5, 0.75, False, True, False, -1, 30, 1, True, 9, 0
    )
    assert row.tobytes() == expected.ljust(119, b"\0")


def test_a_light_row_is_packed_as_the_client_reads_it() -> None:
    row = snapshot.blank([3])
    row["sign_id"] = b"940"
    row["green_time"], row["yellow_time"], row["red_time"], row["elapsed_time"] = 10, 3, 2, 1.5
    row["pole_index"], row["time_is_frozen"], row["light_state"] = 4, True, 2
    union = struct.pack("<32sffffI?B", b"940", 10, 3, 2, 1.5, 4, True, 2)
    assert row.tobytes()[65:] == union


def test_a_walker_row_is_packed_as_the_client_reads_it() -> None:
    row = snapshot.blank([3])
    row["walker_direction"], row["walker_speed"], row["walker_jump"] = (1, 0, 0), 1.5, True
    assert row.tobytes()[65:] == struct.pack("<4f?", 1, 0, 0, 1.5, True).ljust(54, b"\0")


def test_rows_lie_one_after_the_other() -> None:
    rows = snapshot.blank([1, 2, 300])
    assert rows.itemsize == 119
    assert len(rows.tobytes()) == 3 * 119
    assert rows["id"].tolist() == [1, 2, 300]
