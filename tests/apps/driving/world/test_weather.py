"""The fourteen numbers travel unchanged; what follows from them has the right direction."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from apps.driving.world.weather import Weather


def test_fields_are_carlas_in_wire_order() -> None:
    carla = pytest.importorskip("carla")
    theirs = {name for name in dir(carla.WeatherParameters()) if not name.startswith("_")}
    ours = [f.name for f in fields(Weather)]
    assert set(ours) == {n for n in theirs if not n[0].isupper()}
    numbers = [float(n) for n in range(14)]
    # the constructor takes them in the order of the struct
    sent = carla.WeatherParameters(*numbers)
    assert [getattr(sent, name) for name in ours] == numbers


def test_values_come_back() -> None:
    numbers = tuple(float(n) for n in range(1, 15))
    assert Weather.of(numbers).values() == numbers
    assert Weather.of(list(Weather().values())) == Weather()


def test_the_preset_that_leaves_it_to_the_level() -> None:
    assert Weather.of([-1.0] * 10 + [1.0, 0.03, 0.0331, 0.0]) == Weather()
    assert Weather.of([5.0, 0, 0, 0, 0, -1.0, *[0.0] * 8]).sun_altitude_angle == -1.0


@pytest.mark.parametrize("numbers", [[0.0] * 13, [0.0] * 15, [float("nan")] * 14, [1e400] * 14])
def test_nonsense_is_refused(numbers: list[float]) -> None:
    with pytest.raises(ValueError, match="weather"):
        Weather.of(numbers)


@pytest.mark.parametrize(
    ("azimuth", "altitude", "sun"),
    [(0, 0, (1, 0, 0)), (90, 0, (0, 1, 0)), (12, 90, (0, 0, 1)), (180, -30, (-0.866, 0, -0.5))],
)
def test_sun(azimuth: float, altitude: float, sun: tuple[float, ...]) -> None:
    found = Weather(sun_azimuth_angle=azimuth, sun_altitude_angle=altitude).sun
    np.testing.assert_allclose(found, sun, atol=1e-3)


def test_friction_falls_with_water_from_1_to_a_half() -> None:
    assert Weather().friction == 1.0
    steps = [Weather(wetness=w, precipitation_deposits=w).friction for w in range(0, 101, 10)]
    assert (np.diff(steps) < 0).all()
    assert steps[-1] == pytest.approx(0.5)
    assert Weather(wetness=900.0, precipitation_deposits=1e9).friction == pytest.approx(0.5)
    assert Weather(precipitation=50.0).friction < 1.0


def test_light_fades_at_dusk_and_under_clouds() -> None:
    heights = [Weather(sun_altitude_angle=a).ambient.sum() for a in (-20, -5, 0, 5, 30)]
    assert (np.diff(heights) > 0).all()
    assert not Weather(sun_altitude_angle=-10.0).direct.any()
    assert Weather(cloudiness=100.0).direct.sum() < 0.1 * Weather().direct.sum()
    low = Weather(sun_altitude_angle=6.0).direct
    assert low[0] / low[2] > 1.5  # red


def test_fog_thickens() -> None:
    assert Weather(fog_density=100.0).extinction > 10 * Weather(fog_density=0.0).extinction
    assert Weather(dust_storm=100.0).extinction > Weather().extinction
    assert 3 / replace(Weather(), fog_density=100.0).extinction == pytest.approx(75, abs=2)


@pytest.mark.parametrize("extreme", [-1e6, 1e6])
def test_out_of_range_stays_finite(extreme: float) -> None:
    weather = Weather(*[extreme] * 14)
    for name in ("ambient", "direct", "zenith", "horizon", "fog", "cloud"):
        values = getattr(weather, name)
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert (values <= 256).all()
    assert weather.extinction > 0
