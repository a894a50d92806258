"""Route files of both versions, and files that are none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from apps.driving.routes import files
from apps.driving.routes.files import RouteSpec, read_routes, write_routes
from core.errors import DataError, UsageError

NEW = """<?xml version='1.0' encoding='UTF-8'?>
<routes>
  <route id="7" town="Town12">
    <weathers>
      <weather route_percentage="100" cloudiness="90"/>
      <weather route_percentage="0" cloudiness="5.5" sun_altitude_angle="-3" colour="red"/>
    </weathers>
    <waypoints>
      <position x="983.5" y="-5382.2" z="371.0"/>
      <position x="824.2" y="5575.3" z="371.0"/>
    </waypoints>
    <scenarios>
      <scenario name="ParkingExit_1" type="ParkingExit"><trigger_point x="1" y="2" z="3"/></scenario>
      <scenario name="Crossing_1" type="Crossing"/>
    </scenarios>
  </route>
</routes>
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "routes.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def route(inside: str = "", **attributes: str) -> str:
    named = {"id": "1", "town": "Town01"} | attributes
    points = inside or '<waypoint x="1" y="2"/><waypoint x="3" y="4" z="5" yaw="-90"/>'
    said = " ".join(f'{key}="{value}"' for key, value in named.items())
    return f"<routes><route {said}>{points}</route></routes>"


def test_sample_is_of_version_one(samples):
    routes = read_routes(samples / "routes.xml")
    assert [spec.id for spec in routes] == [str(i) for i in range(23)]
    assert {spec.town for spec in routes} == {"Town01"}
    assert routes[0].waypoints == (
        (-5.010025, 70.409996, 0.0, 180.000099),
        (94.989975, 170.409996, 0.0, 180.000099),
    )
    assert all(spec.weather is None and spec.scenarios == () for spec in routes)


def test_version_one_in_short(tmp_path):
    weather = '<weather id="x" wetness="30"/><waypoint x="1" y="2"/><waypoint x="3" y="4"/>'
    (spec,) = read_routes(write(tmp_path, route(weather)))
    assert spec == RouteSpec("1", "Town01", ((1, 2), (3, 4)), {"wetness": 30.0})
    (spec,) = read_routes(write(tmp_path, route()))
    assert spec.waypoints == ((1, 2), (3, 4, 5, -90))


def test_version_two(tmp_path):
    (spec,) = read_routes(write(tmp_path, NEW))
    assert spec == RouteSpec(
        "7",
        "Town12",
        ((983.5, -5382.2, 371.0), (824.2, 5575.3, 371.0)),
        {"cloudiness": 5.5, "sun_altitude_angle": -3.0},  # of the start, not of the end
        ("ParkingExit", "Crossing"),
    )


def test_what_is_written_is_read_back(tmp_path, samples):
    specs = [
        *read_routes(samples / "routes.xml"),
        *read_routes(write(tmp_path, NEW.replace('id="7"', 'id="seven"'))),
        RouteSpec("a-b_c.0", "Town/x", ((0.1, -2e-7), (1 / 3, 4, 5, 6.5))),
    ]
    out = tmp_path / "out.xml"
    write_routes(out, specs)
    assert read_routes(out) == specs
    with pytest.raises(UsageError, match="already exists"):
        write_routes(out, specs)
    write_routes(out, specs[:1], force=True)
    assert read_routes(out) == specs[:1]


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    spec = RouteSpec("1", "T", ((0, 0), (1, 1)))
    with pytest.raises(UsageError, match="no routes"):
        write_routes(tmp_path / "x.xml", [])
    with pytest.raises(DataError, match="two routes have the id 1"):
        write_routes(tmp_path / "x.xml", [spec, spec])
    assert not (tmp_path / "x.xml").exists()


LAUGHS = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><routes>&b;</routes>'

BAD = {
    "empty": (b" \n", "empty"),
    "text": ("routes: none", "is not XML"),
    "unclosed": ("<routes><route>", "is not XML"),
    "binary": (bytes(range(256)), "is not XML"),
    "doctype": (LAUGHS, "document type definition"),
    "doctype in utf-16": (LAUGHS.encode("utf-16"), "document type definition"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><routes/>', "is not XML"),
    "no routes": ("<routes/>", "no <route>"),
    "no id": ('<routes><route town="T"/></routes>', "route 1 of the file has no id"),
    "no town": (route(town=""), "route 1: names no town"),
    "town of a path": (route(town="Town 01;rm"), "is not the name of a town"),
    "id of a path": (route(id="../../etc/x"), "route id '../../etc/x'"),
    "id of a hidden file": (route(id=".x"), "route id '.x'"),
    "no waypoints": (route("<scenarios/>"), "route 1: 0 waypoints"),
    "one waypoint": (route('<waypoint x="1" y="2"/>'), "route 1: 1 waypoints"),
    "no y": (route('<waypoint x="1"/><waypoint x="1" y="1"/>'), "y of a <waypoint> is missing"),
    "word": (route('<waypoint x="east" y="1"/>'), "x of a <waypoint> is 'east'"),
    "nan": (route('<waypoint x="nan" y="1"/><waypoint x="1" y="1"/>'), "finite"),
    "far": (route('<waypoint x="1e9" y="1"/><waypoint x="1" y="1"/>'), "finite"),
    "weather": (
        route('<waypoint x="1" y="1"/><waypoint x="1" y="9"/><weather wetness="inf"/>'),
        "weather wetness is inf",
    ),
    "twice": (
        f"<routes>{route()[8:-9]}{route()[8:-9]}</routes>",
        "two routes have the id 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_named_with_what_is_wrong(tmp_path, name):
    text, message = BAD[name]
    path = write(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_routes(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            read_routes(path)


def test_bounds(tmp_path, monkeypatch):
    path = write(tmp_path, NEW)
    monkeypatch.setattr(files, "MAX_BYTES", len(NEW) - 1)
    with pytest.raises(DataError, match="over 0 MB; give a route file"):
        read_routes(path)
    monkeypatch.setattr(files, "MAX_BYTES", len(NEW))
    monkeypatch.setattr(files, "MAX_ROUTES", 0)
    with pytest.raises(DataError, match="over 0 routes"):
        read_routes(path)
    point = '<waypoint x="1" y="2"/>'
    monkeypatch.undo()
    path = write(tmp_path, route(point * 3000))
    with pytest.raises(DataError, match="route 1: 2001 waypoints"):
        read_routes(path)


@pytest.mark.parametrize("weather", [{"snow": 1.0}, {"wetness": math.nan}])
def test_weather_of_a_route_is_checked(weather):
    with pytest.raises(DataError, match="route 1"):
        RouteSpec("1", "T", ((0, 0), (1, 1)), weather)


def test_weather_fields_are_carlas():
    carla = pytest.importorskip("carla")
    parameters = carla.WeatherParameters()
    assert all(hasattr(parameters, name) for name in files.WEATHER)


def test_reading_routes_needs_neither_numpy_nor_carla(python):
    code = "import sys, apps.driving.routes.files; print(sorted({'numpy', 'carla'} & set(sys.modules)))"
    assert python("-c", code).stdout.strip() == "[]"
    code = (
        "import sys, apps.driving.routes.plan; print(sorted({'torch', 'carla'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.strip() == "[]"
