"""Weather: set, read, seen."""

from __future__ import annotations

from typing import Any

import carla
import numpy as np
from harness import EMBEDDED, Session, close_to, depth_metres, main, pixels

FIELDS = (
    "cloudiness", "precipitation", "precipitation_deposits", "wind_intensity", "sun_azimuth_angle",
    "sun_altitude_angle", "fog_density", "fog_distance", "wetness", "fog_falloff",
    "scattering_intensity", "mie_scattering_scale", "rayleigh_scattering_scale", "dust_storm",
)  # fmt: skip


def values(weather: carla.WeatherParameters) -> np.ndarray:
    return np.array([getattr(weather, name) for name in FIELDS])


def presets() -> dict[str, carla.WeatherParameters]:
    found = vars(carla.WeatherParameters)
    return {k: v for k, v in found.items() if isinstance(v, carla.WeatherParameters)}


def check_presets(s: Session) -> dict[str, Any]:
    """Each of CARLA's presets comes back as it was set, for every client."""
    named = {k: v for k, v in presets().items() if k != "Default"}
    assert len(named) >= 14
    for name, weather in named.items():
        s.world.set_weather(weather)
        s.tick()
        for world in (s.world, s.client.get_world()):
            close_to(values(world.get_weather()), values(weather), 1e-4, name)
    return {"presets": len(named)}


def check_any_values(s: Session) -> dict[str, Any]:
    """Fourteen values of one's own, each in its place."""
    mine = carla.WeatherParameters(*[float(10 + i) for i in range(len(FIELDS))])
    s.world.set_weather(mine)
    s.tick()
    close_to(values(s.world.get_weather()), values(mine), 1e-4, "weather")
    return {}


def check_seen(s: Session) -> dict[str, Any]:
    """Fog, rain and sunset each change the picture, but neither depth nor the car's place."""
    car = s.car(s.straight(60))
    mount = carla.Transform(carla.Location(x=1, z=2))
    size = {"image_size_x": 160, "image_size_y": 80}
    rgb = s.sensor("sensor.camera.rgb", mount, car, **size)
    depth = s.sensor("sensor.camera.depth", mount, car, **size)
    clear = carla.WeatherParameters(sun_altitude_angle=60.0, fog_density=0.0)
    foggy = carla.WeatherParameters(sun_altitude_angle=60.0, fog_density=90.0, fog_distance=2.0)
    rainy = carla.WeatherParameters(
        sun_altitude_angle=60.0, cloudiness=100.0, precipitation=90.0,
        precipitation_deposits=90.0, wetness=90.0,
    )  # fmt: skip
    low = carla.WeatherParameters(sun_altitude_angle=3.0)
    pictures, distances = {}, {}
    looks = {"clear": clear, "foggy": foggy, "rainy": rainy, "low": low}
    for name, weather in looks.items():
        s.world.set_weather(weather)
        frame = s.tick(5 if EMBEDDED else 60)
        pictures[name] = pixels(rgb.at(frame))[..., :3].astype(float)
        distances[name] = depth_metres(depth.at(frame))
    changed = {}
    for name in ("foggy", "rainy", "low"):
        changed[name] = float(np.abs(pictures[name] - pictures["clear"]).mean())
        assert changed[name] > 4, f"{name} changes the picture by {changed[name]:.1f} of 255"
        off = np.abs(distances[name] - distances["clear"])
        assert np.median(off) < 0.05, f"{name} changes the depth"
    contrast = {k: float(v[:40].std()) for k, v in pictures.items()}
    assert contrast["foggy"] < contrast["clear"], "fog takes contrast from what is far"
    return {"mean_change": changed}


if __name__ == "__main__":
    main(globals())
