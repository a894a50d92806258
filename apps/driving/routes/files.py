"""Route files of the CARLA Leaderboard, 1.0 and 2.x.

1.0 (leaderboard/utils/route_parser.py of that version; TransFuser's and LeTFuser's files) puts
``<waypoint x y z yaw/>`` and at most one ``<weather/>`` straight into ``<route id town>``. 2.x has
``<waypoints><position x y z/></waypoints>``, ``<weathers><weather route_percentage .../></weathers>``
and ``<scenarios><scenario type .../></scenarios>``. Of several weathers the one at the start is read,
of scenarios their types: neither changing weather nor scripted scenarios are driven here.

A file comes from outside: its size, the numbers of routes and of waypoints are bounded, document type
definitions are refused, and an identifier must be fit to be a file's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from core.errors import DataError, UsageError
from core.files import read_bounded, write_text

MAX_BYTES = 16 * 2**20  # routes_training.xml of Leaderboard 2.0 has 1.1 MB
MAX_ROUTES = 10_000
MAX_WAYPOINTS = 2_000  # of a route
MAX_COORDINATE_M = 1e6
MAX_WEATHER = 1e6
WEATHER = (
    "cloudiness",
    "precipitation",
    "precipitation_deposits",
    "wind_intensity",
    "sun_azimuth_angle",
    "sun_altitude_angle",
    "fog_density",
    "fog_distance",
    "fog_falloff",
    "wetness",
    "scattering_intensity",
    "mie_scattering_scale",
    "rayleigh_scattering_scale",
    "dust_storm",
)
"""The fields of ``carla.WeatherParameters``."""

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,79}")
_TOWN = re.compile(r"[A-Za-z0-9_./:-]{1,120}")


@dataclass(frozen=True)
class RouteSpec:
    """A route as a file has it: where to drive, not yet how.

    ``waypoints``: (x, y), (x, y, z) or (x, y, z, yaw), metres and degrees in CARLA's frame.
    ``weather``: fields of ``WEATHER``, or None where the file says nothing.

    Raises DataError for an identifier or a town that cannot be a file's name, fewer than two
    waypoints, or numbers that are not finite or absurdly large.
    """

    id: str
    town: str
    waypoints: tuple[tuple[float, ...], ...]
    weather: dict[str, float] | None = None
    scenarios: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise DataError(
                f"route id {self.id[:80]!r}: want letters, digits, '_', '.', '+' and '-', at most 80"
            )
        name = f"route {self.id}"
        if not _TOWN.fullmatch(self.town):
            raise DataError(f"{name}: town {self.town[:80]!r} is not the name of a town")
        if not 2 <= len(self.waypoints) <= MAX_WAYPOINTS:
            raise DataError(
                f"{name}: {len(self.waypoints)} waypoints; want two (start and goal) to "
                f"{MAX_WAYPOINTS}"
            )
        for point in self.waypoints:
            if not 2 <= len(point) <= 4 or not all(
                math.isfinite(v) and abs(v) <= MAX_COORDINATE_M for v in point
            ):
                raise DataError(f"{name}: waypoint {point}; want x, y, z, yaw as finite numbers")
        for field, value in (self.weather or {}).items():
            if field not in WEATHER:
                raise DataError(f"{name}: unknown weather field {field!r}")
            if not math.isfinite(value) or abs(value) > MAX_WEATHER:
                raise DataError(f"{name}: weather {field} is {value}; want a finite number")


def read_routes(path: str | Path) -> list[RouteSpec]:
    """The routes of a file in its order, of either version (even mixed).

    Raises DataError naming the file, and the route where there is one: unreadable, too large, no
    XML, a document type definition, no routes, an id missing or given twice, waypoints that are
    missing or no numbers.
    """
    path = Path(path)
    routes = []
    seen = set()
    for number, element in enumerate(_parse(path).iter("route")):
        if number >= MAX_ROUTES:
            raise DataError(f"{path}: over {MAX_ROUTES} routes; split the file")
        name = element.get("id")
        if not name:
            raise DataError(f"{path}: route {number + 1} of the file has no id; give it one")
        try:
            spec = _route(name, element)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if spec.id in seen:
            raise DataError(f"{path}: two routes have the id {spec.id}; give each its own")
        seen.add(spec.id)
        routes.append(spec)
    if not routes:
        raise DataError(f"{path}: no <route> in it; want a CARLA Leaderboard file of routes")
    return routes


def write_routes(path: str | Path, specs: Iterable[RouteSpec], force: bool = False) -> None:
    """Write a 2.x file that ``read_routes`` reads back as the same routes.

    A waypoint's yaw is written beside x, y, z, where the leaderboard does not look.
    Raises UsageError where the file exists and ``force`` is false or no route is given, DataError
    for two routes of one id.
    """
    specs = list(specs)
    if not specs:
        raise UsageError(f"{path}: no routes to write")
    root = ElementTree.Element("routes")
    seen = set()
    for spec in specs:
        if spec.id in seen:
            raise DataError(f"{path}: two routes have the id {spec.id}; give each its own")
        seen.add(spec.id)
        route = ElementTree.SubElement(root, "route", id=spec.id, town=spec.town)
        if spec.weather is not None:
            weathers = ElementTree.SubElement(route, "weathers")
            values = {name: repr(float(value)) for name, value in spec.weather.items()}
            ElementTree.SubElement(weathers, "weather", {"route_percentage": "0", **values})
        points = ElementTree.SubElement(route, "waypoints")
        for point in spec.waypoints:
            named = zip(("x", "y", "z", "yaw"), point)
            ElementTree.SubElement(points, "position", {k: repr(float(v)) for k, v in named})
        scenarios = ElementTree.SubElement(route, "scenarios")
        for i, kind in enumerate(spec.scenarios):
            ElementTree.SubElement(scenarios, "scenario", name=f"{kind}_{i + 1}", type=kind)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(Path(path), f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n', force)


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities are what makes XML dangerous, and only a document type definition declares them."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("has a document type definition; remove it")


def parse_xml(text: str | bytes) -> ElementTree.Element:
    """The root of a document. DataError where it is no XML or has a document type definition."""
    try:
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # an encoding nobody knows
        raise DataError(f"is not XML ({error})") from None


def _parse(path: Path) -> ElementTree.Element:
    raw = read_bounded(path, MAX_BYTES, "give a route file (.xml), a long one in parts")
    if not raw.strip():
        raise DataError(f"{path}: empty; give a route file (.xml)")
    try:
        return parse_xml(raw)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _route(name: str, element: ElementTree.Element) -> RouteSpec:
    new = element.find("waypoints")
    points = element.findall("waypoint") if new is None else new.findall("position")
    waypoints = tuple(_point(name, point) for point in points[: MAX_WAYPOINTS + 1])
    scenarios = tuple(
        scenario.get("type") or scenario.get("name") or "unnamed"
        for scenario in element.findall("scenarios/scenario")
    )
    town = element.get("town")
    if not town:
        raise DataError(f"route {name}: names no town")
    return RouteSpec(name, town, waypoints, _weather(name, element), scenarios)


def _point(name: str, element: ElementTree.Element) -> tuple[float, ...]:
    x, y = (_number(name, element, key) for key in ("x", "y"))
    if element.get("yaw") is not None:
        return (x, y, _number(name, element, "z", "0"), _number(name, element, "yaw"))
    return (x, y, _number(name, element, "z")) if element.get("z") is not None else (x, y)


def _weather(name: str, element: ElementTree.Element) -> dict[str, float] | None:
    """Of the place nearest to the start; attributes that are no weather are left out."""
    found: Sequence[ElementTree.Element] = [
        *element.findall("weathers/weather"),
        *element.findall("weather"),
    ]
    if not found:
        return None
    first = min(found, key=lambda weather: _number(name, weather, "route_percentage", "0"))
    known = {key: _number(name, first, key) for key in WEATHER if first.get(key) is not None}
    return known or None


def _number(name: str, element: ElementTree.Element, key: str, default: str | None = None) -> float:
    text = element.get(key, default)
    try:
        return float(text if text is not None else "")
    except ValueError:
        said = "is missing" if text is None else f"is {text[:40]!r}"
        raise DataError(f"route {name}: {key} of a <{element.tag}> {said}; want a number") from None
