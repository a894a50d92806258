"""Measurements in TransFuser's frame and in CARLA's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.driving.recordings import layout
from apps.driving.recordings.layout import Measurement
from apps.driving.routes.plan import to_ego
from core.errors import DataError, UsageError

metres = st.floats(-1e4, 1e4)


def measurement(**changes: object) -> Measurement:
    values: dict[str, object] = {
        "position": np.array([10.0, -4.0]),
        "heading": 30.0,
        "speed": 3.0,
        "target": np.array([50.0, 7.0]),
        "command": 2,
        "steer": 0.25,
        "throttle": 0.5,
        "brake": 0.0,
    }
    return Measurement(**(values | changes))  # type: ignore[arg-type]


@given(metres, metres, st.floats(-180, 180), metres, metres)
def test_read_back_as_written(x: float, y: float, heading: float, tx: float, ty: float) -> None:
    written = measurement(
        position=np.array([x, y]),
        heading=heading,
        target=np.array([tx, ty]),
        red_light=True,
        tick=3,
    )
    values = json.loads(json.dumps(written.as_dict()))
    for keep_matrix in (True, False):
        if not keep_matrix:
            del values["ego_matrix"]
        read = Measurement.from_dict(values, "here")
        np.testing.assert_allclose(read.position, written.position, atol=1e-9)
        np.testing.assert_allclose(read.target, written.target, atol=1e-9)
        turn = (read.heading - heading + 180) % 360 - 180
        assert abs(turn) < 1e-6
        assert (read.red_light, read.tick, read.command) == (True, 3, 2)


def test_their_frame_is_theirs() -> None:
    """CARLA's compass is 90 degrees to the east; their x is north (-y), their y is east (x)."""
    east = measurement(heading=0.0).as_dict()
    assert (east["x"], east["y"]) == (4.0, 10.0)
    assert east["theta"] == pytest.approx(math.pi / 2)
    assert measurement(heading=-90.0).as_dict()["theta"] == pytest.approx(0.0)  # north
    assert 0 <= measurement(heading=-170.0).as_dict()["theta"] < math.tau


@given(st.floats(-180, 180), metres, metres)
def test_their_loader_finds_the_target_where_ours_does(
    heading: float, tx: float, ty: float
) -> None:
    """LeTFuser's data.py turns by theta + 90 degrees; what comes out is (right, backwards)."""
    written = measurement(heading=heading, target=np.array([tx, ty]))
    values = written.as_dict()
    c, s = math.cos(math.pi / 2 + values["theta"]), math.sin(math.pi / 2 + values["theta"])
    away = np.array([values["x_command"] - values["x"], values["y_command"] - values["y"]])
    right, back = np.array([[c, s], [-s, c]]) @ away
    np.testing.assert_allclose(
        [-back, right], to_ego(written.target, written.position, heading), atol=1e-6
    )


def test_what_a_driver_foresees_is_written_in_their_frame() -> None:
    # heading south (+y): a metre ahead is a metre of y, a metre to the right is one less of x
    values = measurement(
        position=np.array([10.0, 20.0]),
        heading=90.0,
        waypoints=np.array([[2.0, 0.0], [4.0, 1.0], [4.0, 1.0]]),
    ).as_dict()
    points = np.array(values["waypoints"])
    np.testing.assert_allclose(points[:, 1], [10.0, 9.0, 9.0], atol=1e-9)  # world x
    np.testing.assert_allclose(points[:, 0], [-22.0, -24.0, -24.0], atol=1e-9)  # world -y
    south = math.pi
    turned = south + math.atan2(1, 2)
    np.testing.assert_allclose(points[:, 2], [south, turned, turned], atol=1e-9)
    assert values["angle"] == pytest.approx(0.0)


def test_nan_theta_is_north_as_their_loader_has_it() -> None:
    values = measurement().as_dict()
    del values["ego_matrix"]
    values["theta"] = float("nan")
    assert Measurement.from_dict(values, "here").heading == pytest.approx(-90.0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("speed", None, "speed"),
        ("x_command", float("nan"), "x_command"),
        ("command", 9, "command"),
        ("steer", "left", "left"),
        ("ego_matrix", [[1.0]], "ego_matrix"),
    ],
)
def test_what_cannot_be_used_names_file_and_key(key: str, value: object, said: str) -> None:
    values = measurement().as_dict() | {key: value}
    with pytest.raises(DataError, match=f"0003.json.*{said}"):
        Measurement.from_dict(values, "a/0003.json")


def test_a_missing_key_is_named() -> None:
    values = measurement().as_dict()
    del values["brake"]
    with pytest.raises(DataError, match="no 'brake'"):
        Measurement.from_dict(values, "here")


@pytest.mark.parametrize(
    ("route", "town"),
    [
        ("Scenario1/Town03/route_0000", "Town03"),
        ("s1/Town10HD_Scenario1/routes_x", "Town10HD"),
        ("routes_town05_long/r_00", "Town05"),
        ("Scenario0/procedural_7/route_0000", "procedural_7"),
    ],
)
def test_the_town_is_in_the_folders_names(tmp_path: Path, route: str, town: str) -> None:
    assert layout.town_of(tmp_path / "data" / route, tmp_path / "data") == town


def test_routes_are_found_at_any_depth_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("s/Town01/r1", "s/Town01/r0", "Town02/r", "s/Town01/.tmp-1-r2"):
        (tmp_path / name / "measurements").mkdir(parents=True)
    found = [path.relative_to(tmp_path).as_posix() for path in layout.find_routes(tmp_path)]
    assert found == ["Town02/r", "s/Town01/r0", "s/Town01/r1"]
    with pytest.raises(UsageError, match="no such folder"):
        layout.find_routes(tmp_path / "gone")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, "x" * (1 << 21)])
def test_json_from_outside_is_bounded_and_must_be_an_object(tmp_path: Path, text: str) -> None:
    file = tmp_path / "0000.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"0000\.json"):
        layout.read_object(file)
