"""Map coordinates from GPS, against CARLA's own library and the Leaderboard's formula."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from apps.driving.agents.localizer import RADIUS_M, Localizer, Origin, find_origin
from core.errors import DataError

carla = pytest.importorskip("carla")
TOWN = Path(__file__).parents[4] / "samples" / "Town01.xodr"


def leaderboard_gps(origin: Origin, x: float, y: float) -> tuple[float, float]:
    """The Leaderboard's ``_location_to_gps`` in our words: Mercator, y to the south."""
    scale = math.cos(math.radians(origin.lat))
    north = scale * RADIUS_M * math.log(math.tan(math.radians(90 + origin.lat) / 2)) - y
    lat = math.degrees(2 * math.atan(math.exp(north / (RADIUS_M * scale)))) - 90
    return lat, origin.lon + math.degrees(x / (RADIUS_M * scale))


@pytest.mark.parametrize("origin", [Origin(0.0, 0.0), Origin(49.0, 8.0), Origin(-33.5, 151.0)])
def test_origin_and_places_by_the_leaderboards_formula(origin: Origin) -> None:
    xy = np.array([[0.0, 0.0], [300.0, -150.0], [-80.0, 900.0], [5.0, 5.0]])
    gps = [leaderboard_gps(origin, x, y) for x, y in xy]
    found = find_origin(gps, xy)
    assert found.lat == pytest.approx(origin.lat, abs=1e-9)
    assert found.lon == pytest.approx(origin.lon, abs=1e-9)
    for (lat, lon), place in zip(gps, xy):
        np.testing.assert_allclose(found.to_map(lat, lon, mirrored=False), place, atol=1e-4)


@pytest.mark.parametrize("origin", [Origin(0.0, 0.0), Origin(49.0, 8.0)])
def test_places_by_carlas_own_library(origin: Origin) -> None:
    text = TOWN.read_text()
    text = re.sub("lat_0=0 ", f"lat_0={origin.lat} ", text).replace(
        "lon_0=0 ", f"lon_0={origin.lon} "
    )
    town = carla.Map("Town01", text)
    for x, y in [(0.0, 0.0), (396.0, 329.0), (92.0, 2.0), (-10.0, 150.0)]:
        geo = town.transform_to_geolocation(carla.Location(x, y, 0.0))
        found = origin.to_map(geo.latitude, geo.longitude, mirrored=True)
        np.testing.assert_allclose(found, (x, y), atol=0.15)


@pytest.mark.parametrize(
    ("gps", "text"),
    [([], "0 GPS"), ([(np.nan, 0.0)], "between -85"), ([(90.0, 0.0)], "between -85")],
)
def test_routes_without_an_origin(gps: list[tuple[float, float]], text: str) -> None:
    with pytest.raises(DataError, match=text):
        find_origin(gps, np.zeros((len(gps), 2)))


def drive(
    localizer: Localizer, gps_noise: float, mirrored: bool, seconds: float = 30.0
) -> np.ndarray:
    """(n,) distances between where the car is and where it is said to be; it goes in a circle."""
    rng = np.random.default_rng(3)
    away, n = [], round(seconds / 0.05)
    for k in range(n):
        angle = 8.0 * 0.05 * k / 40
        x, y = 100 + 40 * math.sin(angle), 250 - 40 * math.cos(angle)
        seen = np.array([x, y]) + gps_noise * rng.standard_normal(2)
        if mirrored:
            seen /= 0.9996
        lat, lon = leaderboard_gps(localizer.origin, seen[0], -seen[1] if mirrored else seen[1])
        compass = math.nan if k % 7 == 3 else angle + math.pi / 2
        speed = None if k % 11 == 5 else 8.0
        position, heading, known = localizer.step(lat, lon, compass, speed, 0.05 * k)
        away.append(math.hypot(position[0] - x, position[1] - y))
        assert known == 8.0
        assert abs((heading - math.degrees(angle) + 180) % 360 - 180) < 1.0
    return np.array(away)


@pytest.mark.parametrize("mirrored", [False, True])
def test_noise_is_averaged_and_the_mirror_found(mirrored: bool) -> None:
    localizer = Localizer(Origin(49.0, 8.0), np.array([100.0, 210.0]), mirrored=not mirrored)
    away = drive(localizer, 0.55, mirrored)
    assert localizer.mirrored == mirrored
    assert away[100:].mean() < 0.25
    assert away[100:].max() < 0.7
    still = Localizer(Origin(49.0, 8.0), np.array([100.0, 210.0]))
    assert drive(still, 0.0, mirrored)[5:].max() < 0.15


def test_a_start_on_the_mirror_goes_by_the_version() -> None:
    for mirrored in (False, True):
        localizer = Localizer(Origin(0.0, 0.0), np.array([20.0, 0.3]), mirrored=mirrored)
        lat, lon = leaderboard_gps(localizer.origin, 20.0, 0.3)
        localizer.step(lat, lon, 0.0, 0.0, 0.0)
        assert localizer.mirrored == mirrored


def test_no_reading_is_dead_reckoning_and_a_jump_is_followed() -> None:
    localizer = Localizer(Origin(0.0, 0.0), np.array([10.0, 50.0]))
    assert localizer.step(math.nan, math.nan, math.pi / 2, 5.0, 0.0)[0].tolist() == [10.0, 50.0]
    lat, lon = leaderboard_gps(localizer.origin, 10.0, 50.0)
    localizer.step(lat, lon, math.pi / 2, 5.0, 0.05)
    for k in range(20):
        position, _, _ = localizer.step(math.nan, math.nan, math.pi / 2, 5.0, 0.1 + 0.05 * k)
    assert position == pytest.approx([15.0, 50.0], abs=0.3)
    lat, lon = leaderboard_gps(localizer.origin, 200.0, 80.0)
    for k in range(25):
        position, _, _ = localizer.step(lat, lon, math.pi / 2, 0.0, 2 + 0.05 * k)
    assert position == pytest.approx([200.0, 80.0], abs=0.3)
