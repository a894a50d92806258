"""Where the car is on the map, from GNSS, compass and speedometer.

The CARLA Leaderboard's sensors have no map coordinates. Its route comes both as latitudes and
longitudes (``leaderboard/utils/route_manipulation.py``, ``_location_to_gps``) and in map coordinates;
pairs of these give the map's geographic origin. The formula is a Mercator projection at the origin's
latitude, on a sphere:

    x = R cos(lat0) (lon - lon0),    y = -R cos(lat0) (m(lat) - m(lat0)),    m = ln tan(pi/4 + lat/2)

CARLA 0.9.16's sensors have other signs and scales than that: latitude grows with y, and a metre is
1/0.9996 metres (measured with ``carla.Map.transform_to_geolocation`` of the 0.9.16 wheel, a
transverse Mercator georeference; 0.1 m are left at 300 m). So a route's latitudes and a sensor's may
be mirror images. Which it is, the start of the route tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import DataError

RADIUS_M = 6378137.0
SCALE_0916 = 0.9996
GAIN = 0.05  # of a reading against dead reckoning: the Leaderboard's GNSS is 0.55 m off at a time
LOST_M = 5.0  # readings so far off for ``LOST`` times on end: the car is elsewhere, start anew
LOST = 20


@dataclass(frozen=True)
class Origin:
    """Latitude and longitude, in degrees, of the map's (0, 0)."""

    lat: float
    lon: float

    def to_map(self, lat: float, lon: float, *, mirrored: bool) -> np.ndarray:
        """(2,) metres. ``mirrored``: by CARLA 0.9.16's sensor, else by the Leaderboard's formula."""
        scale = RADIUS_M * np.cos(np.radians(self.lat))
        x = scale * np.radians(lon - self.lon)
        y = -scale * (_mercator(lat) - _mercator(self.lat))
        return np.array([x, -y]) * SCALE_0916 if mirrored else np.array([x, y])


def find_origin(gps: Sequence[tuple[float, float]], xy: np.ndarray) -> Origin:
    """The origin from points whose (latitude, longitude) and map coordinates (n, 2) are known.

    Raises DataError where there is none, or a latitude is no number or at a pole.
    """
    places = np.asarray(gps, np.float64).reshape(-1, 2)
    if len(places) == 0 or len(places) != len(xy):
        raise DataError(
            f"route of {len(places)} GPS points and {len(xy)} places; want the same, 1 up"
        )
    if not np.isfinite(places).all() or np.abs(places[:, 0]).max() > 85:
        raise DataError("route: GPS latitudes must be numbers between -85 and 85 degrees")
    lat = places[:, 0] + np.degrees(xy[:, 1] / RADIUS_M)
    for _ in range(5):  # Newton; the first guess is metres off, each step squares that over R
        c, s = np.cos(np.radians(lat)), np.sin(np.radians(lat))
        away = _mercator(places[:, 0]) - _mercator(lat)
        value = RADIUS_M * c * away + xy[:, 1]
        lat = lat - np.degrees(value / (RADIUS_M * (-s * away - 1)))
    origin = float(np.median(lat))
    lon = places[:, 1] - np.degrees(xy[:, 0] / (RADIUS_M * np.cos(np.radians(origin))))
    return Origin(origin, float(np.median(lon)))


class Localizer:
    """Dead reckoning by compass and speed, pulled to GNSS a little with every reading.

    ``start`` (2,) is where the route begins, where the car stands at the first reading.
    """

    def __init__(self, origin: Origin, start: np.ndarray, *, mirrored: bool = True) -> None:
        self.origin, self.start, self.mirrored = origin, np.asarray(start, np.float64), mirrored
        self.position: np.ndarray | None = None
        self.heading = 0.0
        self.speed = 0.0
        self._time: float | None = None
        self._off = 0

    def step(
        self, lat: float, lon: float, compass: float, speed: float | None, time: float
    ) -> tuple[np.ndarray, float, float]:
        """Position (2,), heading in degrees, speed in m/s.

        ``compass`` in radians, 0 north (-y) and clockwise, as CARLA's IMU has it; it is NaN at times,
        and a speed may be missing: then the last one holds.
        """
        if np.isfinite(compass):
            self.heading = float((np.degrees(compass) - 90.0 + 180.0) % 360.0 - 180.0)
        if speed is not None and np.isfinite(speed):
            self.speed = float(speed)
        if self.position is None:
            self._choose(lat, lon)
        seen = self.origin.to_map(lat, lon, mirrored=self.mirrored)
        if self.position is None:
            if not np.isfinite(seen).all():
                return self.start, self.heading, self.speed
            self.position = seen
        angle = np.radians(self.heading)
        way = 0.0 if self._time is None else self.speed * max(0.0, time - self._time)
        self._time = time
        self.position = self.position + way * np.array([np.cos(angle), np.sin(angle)])
        if np.isfinite(seen).all():
            away = seen - self.position
            self._off = self._off + 1 if np.hypot(*away) > LOST_M else 0
            self.position = seen if self._off >= LOST else self.position + GAIN * away
        return self.position, self.heading, self.speed

    def _choose(self, lat: float, lon: float) -> None:
        """Mirrored or not: whichever is at the start; ``mirrored`` as given where both are."""
        away = {
            mirrored: float(
                np.hypot(*(self.origin.to_map(lat, lon, mirrored=mirrored) - self.start))
            )
            for mirrored in (False, True)
        }
        if abs(away[True] - away[False]) > 3.0:
            self.mirrored = away[True] < away[False]


def _mercator(lat: float | np.ndarray) -> float | np.ndarray:
    return np.log(np.tan(np.pi / 4 + np.radians(lat) / 2))
