"""The weather: ``carla.WeatherParameters``' fourteen numbers, and what light, air and road make of them.

The fields and their ranges are those of CARLA 0.9.16's Python API reference (python_api,
``carla.WeatherParameters``). CARLA's preset ``Default`` is all -1 but for the scattering: it leaves
the choice to the level, and ``Weather.of`` then takes this class's defaults, CARLA's ``ClearNoon``.

Deviates from CARLA: light is one direct and one ambient colour, scattering does not change the sky,
and the wind moves nothing. CARLA's weather leaves the tyres' grip alone; ours does not (``friction``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Weather:
    """Percentages 0..100 unless said; in the order in which they travel."""

    cloudiness: float = 5.0
    precipitation: float = 0.0
    precipitation_deposits: float = 0.0  # puddles
    wind_intensity: float = 10.0
    sun_azimuth_angle: float = -1.0  # degrees, from x towards y
    sun_altitude_angle: float = 45.0  # degrees, -90..90; below 0 is night
    fog_density: float = 2.0
    fog_distance: float = 0.75  # m from the camera, where fog begins
    fog_falloff: float = 0.1
    wetness: float = 0.0
    scattering_intensity: float = 1.0
    mie_scattering_scale: float = 0.03
    rayleigh_scattering_scale: float = 0.0331
    dust_storm: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Weather:
        """From the fourteen numbers. ValueError unless they are fourteen and finite."""
        if len(values) != len(fields(cls)):
            raise ValueError(f"weather has {len(fields(cls))} numbers, got {len(values)}")
        numbers = [float(v) for v in values]
        if not all(math.isfinite(v) for v in numbers):
            raise ValueError("weather must be finite numbers")
        if all(v == -1.0 for v in numbers[:10]):
            return cls()
        return cls(*numbers)

    def values(self) -> tuple[float, ...]:
        """The fourteen numbers."""
        return astuple(self)

    @cached_property
    def sun(self) -> np.ndarray:
        """(3) float64 unit vector towards the sun."""
        azimuth, altitude = np.radians((self.sun_azimuth_angle, self.sun_altitude_angle))
        return np.array(
            [
                math.cos(altitude) * math.cos(azimuth),
                math.cos(altitude) * math.sin(azimuth),
                math.sin(altitude),
            ]
        )

    @cached_property
    def day(self) -> float:
        """0 at night, 1 by day, between while the sun is from 6 degrees below to 8 above."""
        return _smooth((self.sun_altitude_angle + 6.0) / 14.0)

    @cached_property
    def lamplight(self) -> float:
        """0 by day .. 1 at night: how much the light of lamps shows."""
        return max(0.0, 1.0 - 2.0 * self.day)

    @property
    def dark(self) -> bool:
        """Whether lamps and windows are lit."""
        return self.lamplight > 0.0

    @cached_property
    def overcast(self) -> float:
        """0 clear .. 1 no direct light: clouds, rain and dust."""
        hidden = max(
            _share(self.cloudiness) ** 1.5,
            0.8 * _share(self.precipitation),
            0.9 * _share(self.dust_storm),
        )
        return min(1.0, hidden)

    @cached_property
    def warmth(self) -> float:
        """How red the direct light is: 1 at the horizon, 0 above 25 degrees."""
        return 1.0 - _smooth(self.sun_altitude_angle / 25.0)

    @cached_property
    def direct(self) -> np.ndarray:
        """(3) float64 RGB factor of the light from the sun on a surface that faces it."""
        colour = _mix((1.0, 0.96, 0.88), (1.0, 0.62, 0.34), self.warmth)
        low = _smooth((self.sun_altitude_angle + 1.0) / 8.0)
        return 0.72 * low * (1.0 - self.overcast) * colour

    @cached_property
    def ambient(self) -> np.ndarray:
        """(3) float64 RGB factor of the light from everywhere."""
        by_day = _mix((0.56, 0.59, 0.64), (0.72, 0.73, 0.75), self.overcast)
        by_day *= 1.0 - 0.3 * _share(self.precipitation)
        by_day = by_day * _mix((1.0, 1.0, 1.0), (1.0, 0.86, 0.76), self.warmth * 0.8)
        return _mix((0.15, 0.165, 0.22), by_day, self.day)

    @cached_property
    def zenith(self) -> np.ndarray:
        """(3) float64 RGB 0..255 of the sky overhead."""
        clear = _mix((74.0, 124.0, 196.0), (70.0, 88.0, 138.0), self.warmth)
        return self._sky(clear, (150.0, 156.0, 164.0), (8.0, 10.0, 20.0))

    @cached_property
    def horizon(self) -> np.ndarray:
        """(3) float64 RGB 0..255 of the sky at the horizon."""
        clear = _mix((188.0, 210.0, 232.0), (238.0, 168.0, 110.0), self.warmth)
        return self._sky(clear, (182.0, 186.0, 190.0), (20.0, 22.0, 34.0))

    @cached_property
    def fog(self) -> np.ndarray:
        """(3) float64 RGB 0..255 of what distance turns into."""
        return _mix(self.horizon, self._mist, self.murk)

    @cached_property
    def murk(self) -> float:
        """0 .. 1: how far the fog hides the sky."""
        return _smooth(_share(self.fog_density) * 2.5)

    @cached_property
    def _mist(self) -> np.ndarray:
        return self._sky((196.0, 202.0, 208.0), (176.0, 180.0, 184.0), (20.0, 22.0, 34.0))

    @cached_property
    def extinction(self) -> float:
        """1/m: a share exp(-extinction * (distance - fog_distance)) of a surface's light arrives.

        A haze of 1 km by day; 3 / extinction, where 5 % arrive, is 75 m in full fog.
        """
        return (
            0.001
            + 0.039 * _share(self.fog_density) ** 1.5
            + 0.004 * _share(self.precipitation)
            + 0.02 * _share(self.dust_storm)
        )

    @cached_property
    def wet(self) -> float:
        """0 dry .. 1 soaked: how dark and how shiny the ground is."""
        return max(_share(self.wetness), _share(self.precipitation_deposits)) * 0.5 + 0.5 * max(
            _share(self.precipitation_deposits), 0.7 * _share(self.precipitation)
        )

    @cached_property
    def puddles(self) -> float:
        """0 none .. 1 the share of hollows that water fills."""
        return _share(self.precipitation_deposits)

    @cached_property
    def cover(self) -> float:
        """0 none .. 1 the share of the sky behind clouds."""
        return max(_share(self.cloudiness), _share(self.precipitation))

    @cached_property
    def cloud(self) -> np.ndarray:
        """(3) float64 RGB 0..255 of clouds."""
        clear = _mix((240.0, 242.0, 245.0), (236.0, 190.0, 160.0), self.warmth)
        return self._sky(clear, (164.0, 168.0, 174.0), (16.0, 18.0, 28.0))

    @cached_property
    def friction(self) -> float:
        """Grip as a share of the dry road's: 1 dry, 0.5 soaked.

        An estimate: on wet asphalt a car brakes with 0.7 to 0.8 of the dry deceleration, and water
        that stands takes more.
        """
        damp = max(_share(self.wetness), _share(self.precipitation))
        return 1.0 - 0.3 * damp - 0.2 * _share(self.precipitation_deposits)

    def _sky(
        self,
        clear: Sequence[float] | np.ndarray,
        covered: Sequence[float],
        night: Sequence[float],
    ) -> np.ndarray:
        by_day = _mix(clear, covered, self.overcast) * (1.0 - 0.25 * _share(self.precipitation))
        by_day = _mix(by_day, (196.0, 156.0, 100.0), 0.8 * _share(self.dust_storm))
        return _mix(night, by_day, self.day)


def _share(percent: float) -> float:
    return min(1.0, max(0.0, percent / 100.0))


def _smooth(x: float) -> float:
    x = min(1.0, max(0.0, x))
    return x * x * (3.0 - 2.0 * x)


def _mix(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, share: float
) -> np.ndarray:
    """``a`` at 0, ``b`` at 1."""
    mixed: np.ndarray = np.asarray(a, float) * (1.0 - share) + np.asarray(b, float) * share
    return mixed
