"""The blueprint library: what may be spawned, with which attributes.

Names, types and defaults of the attributes follow CARLA 0.9.16's documentation (``Docs/bp_library.md``
and ``Docs/ref_sensors.md`` of carla-simulator/carla) and the recommended values of its
``ActorBlueprintFunctionLibrary.cpp``: the client takes the first recommended value as the default.
Accepted ranges are this world's: beyond them a camera or a lidar would exhaust the machine.
A sensor that is not in the library does not exist here (dvs, optical flow, normals, rss, V2X, the
wide-angle and G-buffer cameras).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from apps.driving.world.errors import SimulationError
from apps.driving.world.motion.catalogue import VEHICLES, WALKERS, VehicleSpec, WalkerSpec
from apps.driving.world.simulation.actors import BoundingBox, Kind
from apps.driving.world.simulation.friction import TRIGGER
from apps.driving.world.simulation.props import PROPS
from apps.driving.world.tags import Tag
from core.errors import nearest


class AttributeType(IntEnum):
    """``carla.ActorAttributeType``, as on the wire."""

    BOOL = 1
    INT = 2
    FLOAT = 3
    STRING = 4
    RGB = 5


BOOL, INT, FLOAT, STRING, RGB = AttributeType


@dataclass(frozen=True)
class Attribute:
    """One attribute of a blueprint; ``low`` and ``high`` bound a number, both included."""

    id: str
    type: AttributeType
    default: str
    recommended: tuple[str, ...] = ()
    modifiable: bool = True
    restricted: bool = False  # only the recommended values are accepted
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Definition:
    """A blueprint: ``tags`` are the parts of the name, as ``BlueprintLibrary.filter`` matches them."""

    uid: int
    id: str
    tags: str
    kind: Kind
    attributes: tuple[Attribute, ...]


def _number(
    id: str, default: float | int, low: float = -math.inf, high: float = math.inf
) -> Attribute:
    kind = INT if isinstance(default, int) else FLOAT
    return Attribute(id, kind, str(default), (str(default),), low=low, high=high)


def _fixed(id: str, type: AttributeType, value: str) -> Attribute:
    return Attribute(id, type, value, modifiable=False)


def _role(*names: str) -> Attribute:
    return Attribute("role_name", STRING, names[0], names)


MOST_PIXELS = 3840 * 2160
"""Of one camera: this many take 1.4 s and 0.7 GB in NumPy."""

_SENSOR_ROLE = _role(
    "front", "back", "left", "right", "front_left", "front_right", "back_left", "back_right"
)
_TICK = _number("sensor_tick", 0.0, 0.0, 3600.0)

_CAMERA = (
    _TICK,
    _number("image_size_x", 800, 1, 4096),
    _number("image_size_y", 600, 1, 4096),
    _number("fov", 90.0, 1.0, 175.0),
    _number("lens_circle_falloff", 5.0, 0.0, 10.0),
    _number("lens_circle_multiplier", 0.0, 0.0, 10.0),
    _number("lens_k", -1.0),
    _number("lens_kcube", 0.0),
    _number("lens_x_size", 0.08, 0.0, 1.0),
    _number("lens_y_size", 0.08, 0.0, 1.0),
)
# Accepted and listed, as programs set them; this world's cameras do not develop a film.
_FILM = (
    Attribute("exposure_mode", STRING, "histogram", ("histogram", "manual"), restricted=True),
    Attribute("enable_postprocess_effects", BOOL, "true", ("true",)),
    *(
        _number(name, value)
        for name, value in {
            "exposure_compensation": 0.0,
            "shutter_speed": 200.0,
            "iso": 100.0,
            "fstop": 1.4,
            "gamma": 2.2,
            "motion_blur_intensity": 0.45,
            "motion_blur_max_distortion": 0.35,
            "motion_blur_min_object_screen_size": 0.1,
            "lens_flare_intensity": 0.1,
            "bloom_intensity": 0.675,
            "exposure_min_bright": 10.0,
            "exposure_max_bright": 12.0,
            "exposure_speed_up": 3.0,
            "exposure_speed_down": 1.0,
            "calibration_constant": 16.0,
            "focal_distance": 1000.0,
            "min_fstop": 1.2,
            "blade_count": 5,
            "blur_amount": 1.0,
            "blur_radius": 0.0,
            "slope": 0.88,
            "toe": 0.55,
            "shoulder": 0.26,
            "black_clip": 0.0,
            "white_clip": 0.04,
            "temp": 6500.0,
            "tint": 0.0,
            "chromatic_aberration_intensity": 0.0,
            "chromatic_aberration_offset": 0.0,
        }.items()
    ),
)
_SEED = _number("noise_seed", 0)
_RAYS = (
    _TICK,
    _number("channels", 32, 1, 1024),
    _number("range", 10.0, 0.0, 1000.0),
    _number("points_per_second", 56000, 1, 20_000_000),
    _number("rotation_frequency", 10.0, 0.01, 1000.0),
    _number("upper_fov", 10.0, -90.0, 90.0),
    _number("lower_fov", -30.0, -90.0, 90.0),
    _number("horizontal_fov", 360.0, 0.0, 360.0),
)


def _deviations(*names: str) -> tuple[Attribute, ...]:
    return tuple(_number(name, 0.0, 0.0 if "stddev" in name else -math.inf) for name in names)


LISTED_ONLY = ("sensor.camera.dvs", "sensor.camera.normals", "sensor.camera.optical_flow")
"""Not made here; programs look all cameras up before they choose one."""

SENSORS: dict[str, tuple[Attribute, ...]] = {
    "sensor.camera.rgb": _CAMERA + _FILM,
    "sensor.camera.depth": _CAMERA,
    "sensor.camera.semantic_segmentation": _CAMERA,
    "sensor.camera.instance_segmentation": _CAMERA,
    "sensor.lidar.ray_cast": (
        *_RAYS,
        _SEED,
        _number("atmosphere_attenuation_rate", 0.004, 0.0, 100.0),
        _number("dropoff_general_rate", 0.45, 0.0, 1.0),
        _number("dropoff_intensity_limit", 0.8, 0.0, 1.0),
        _number("dropoff_zero_intensity", 0.4, 0.0, 1.0),
        _number("noise_stddev", 0.0, 0.0, 100.0),
    ),
    "sensor.lidar.ray_cast_semantic": _RAYS,
    "sensor.other.radar": (
        _TICK,
        _number("horizontal_fov", 30.0, 0.0, 179.0),
        _number("vertical_fov", 30.0, 0.0, 179.0),
        _number("range", 100.0, 0.0, 1000.0),
        _number("points_per_second", 1500, 1, 10_000_000),
        _SEED,
    ),
    "sensor.other.gnss": (
        _TICK,
        _SEED,
        *_deviations(
            "noise_alt_stddev", "noise_lat_stddev", "noise_lon_stddev",
            "noise_alt_bias", "noise_lat_bias", "noise_lon_bias",
        ),
    ),
    "sensor.other.imu": (
        _TICK,
        _SEED,
        *_deviations(
            "noise_accel_stddev_x", "noise_accel_stddev_y", "noise_accel_stddev_z",
            "noise_gyro_stddev_x", "noise_gyro_stddev_y", "noise_gyro_stddev_z",
            "noise_gyro_bias_x", "noise_gyro_bias_y", "noise_gyro_bias_z",
        ),
    ),
    "sensor.other.collision": (),
    "sensor.other.lane_invasion": (),
    "sensor.other.obstacle": (
        _TICK,
        _number("distance", 5.0, 0.0, 1000.0),
        _number("hit_radius", 0.5, 0.0, 100.0),
        Attribute("only_dynamics", BOOL, "false", ("false",)),
        Attribute("debug_linetrace", BOOL, "false", ("false",)),
    ),
}  # fmt: skip


def _vehicle(spec: VehicleSpec) -> tuple[Attribute, ...]:
    colours = tuple(",".join(map(str, rgb)) for rgb in spec.colours)
    painted = (Attribute("color", RGB, colours[0], colours),) if colours else ()
    return (
        _role("autopilot", "scenario", "ego_vehicle"),
        *painted,
        Attribute("sticky_control", BOOL, "true", ("true",)),
        Attribute("terramechanics", BOOL, "false", ("false",)),
        _fixed("object_type", STRING, ""),
        _fixed("base_type", STRING, spec.base_type),
        _fixed("special_type", STRING, spec.special_type),
        _fixed("number_of_wheels", INT, str(spec.wheels)),
        _fixed("generation", INT, str(spec.generation)),
        _fixed("has_dynamic_doors", BOOL, "false"),
        _fixed("has_lights", BOOL, str(spec.has_lights).lower()),
    )


def _walker(spec: WalkerSpec) -> tuple[Attribute, ...]:
    speeds = ("0.0", *(f"{v:g}" for v in spec.speeds))
    return (
        _role("pedestrian"),
        Attribute("is_invincible", BOOL, "true", ("true",)),
        Attribute("speed", FLOAT, speeds[0], speeds, low=0.0, high=10.0),
        _fixed("gender", STRING, spec.gender),
        _fixed("age", STRING, spec.age),
        _fixed("generation", INT, str(spec.generation)),
    )


def _entries() -> Iterable[tuple[str, Kind, tuple[Attribute, ...]]]:
    yield "controller.ai.walker", "controller", (_role("default"),)
    for name, own in SENSORS.items():
        yield name, "sensor", (_SENSOR_ROLE, *own)
    for name in LISTED_ONLY:
        yield name, "sensor", (_SENSOR_ROLE, *_CAMERA)
    for name, (_, size) in PROPS.items():
        attributes = (_role("prop"), _fixed("size", STRING, size))
        yield name, "static", attributes
    extents = tuple(_number(f"extent_{axis}", 1.0, 0.0, 1e6) for axis in "xyz")
    yield TRIGGER, "static", (_role("default"), _number("friction", 3.5, 0.0, 100.0), *extents)
    for name, car in VEHICLES.items():
        yield name, "vehicle", _vehicle(car)
    for name, person in WALKERS.items():
        yield name, "walker", _walker(person)


@cache
def library() -> tuple[Definition, ...]:
    """Every blueprint, by name; the numbers count from 1 in that order."""
    entries = sorted(_entries(), key=lambda entry: entry[0])
    return tuple(
        Definition(uid, name, name.replace(".", ","), kind, attributes)
        for uid, (name, kind, attributes) in enumerate(entries, 1)
    )


@cache
def _by_name() -> dict[str, Definition]:
    return {definition.id: definition for definition in library()}


def find(name: str) -> Definition:
    """The blueprint ``name``. Raises SimulationError with the nearest one when there is none."""
    found = _by_name().get(name)
    if found is None:
        raise _invalid(f"no blueprint '{name[:80]}' in this world.{nearest(name[:80], _by_name())}")
    return found


def body(definition: Definition, values: Mapping[str, str]) -> tuple[BoundingBox, tuple[int, ...]]:
    """Box and semantic tags of what a blueprint makes with these attributes.

    What has no tags is neither seen nor met: sensors, controllers, patches of friction.
    """
    name = definition.id
    if name == TRIGGER:
        x, y, z = (float(values[f"extent_{axis}"]) / 100.0 for axis in "xyz")  # given in cm
        return BoundingBox(half=(x, y, z)), ()
    if definition.kind == "vehicle":
        return BoundingBox(VEHICLES[name].centre, VEHICLES[name].half), (int(VEHICLES[name].tag),)
    if definition.kind == "walker":
        return BoundingBox(WALKERS[name].centre, WALKERS[name].half), (int(Tag.PEDESTRIANS),)
    if definition.kind == "static":
        half, _ = PROPS[name]
        return BoundingBox((0.0, 0.0, half[2]), half), (int(Tag.DYNAMIC),)
    return BoundingBox(), ()


def resolve(name: str, given: Mapping[str, str]) -> tuple[Definition, dict[str, str]]:
    """The blueprint and all its attributes, ``given`` ones checked and the others at their default.

    Raises SimulationError for an unknown blueprint or attribute, and for a value that is not of the
    attribute's type, out of its range or not among those it is restricted to, or for more pixels
    than ``MOST_PIXELS``.
    """
    definition = find(name)
    values = {a.id: a.default for a in definition.attributes}
    known = {a.id: a for a in definition.attributes}
    for key, value in given.items():
        if key not in known:
            raise _invalid(f"{name} has no attribute '{key[:80]}'.{nearest(key[:80], known)}")
        values[key] = _checked(name, known[key], value)
    if "image_size_x" in values:
        pixels = int(values["image_size_x"]) * int(values["image_size_y"])
        if pixels > MOST_PIXELS:
            raise _invalid(f"{name}: {pixels} pixels; want at most {MOST_PIXELS}")
    return definition, values


def _invalid(why: str) -> SimulationError:
    # CARLA's words first: programs look for them.
    return SimulationError(f"Spawn failed because of invalid actor description: {why}")


def _checked(name: str, attribute: Attribute, value: str) -> str:
    what = f"{name}: {attribute.id} '{value[:80]}'"
    if not attribute.modifiable and value != attribute.default:
        raise _invalid(f"{what} cannot be changed; it is '{attribute.default}'")
    if attribute.restricted and value not in attribute.recommended:
        raise _invalid(f"{what}: want one of {', '.join(attribute.recommended)}")
    if attribute.type == INT and re.fullmatch(r"[+-]?\d{1,18}\.\d*", value):
        # Unreal reads whole numbers so, and CARLA's lidar_to_camera.py gives 64.0 channels.
        value = value.partition(".")[0]
    if attribute.type in (INT, FLOAT):
        try:
            number = int(value) if attribute.type == INT else float(value)
        except ValueError:
            raise _invalid(f"{what}: want a number") from None
        if not attribute.low <= number <= attribute.high or not math.isfinite(number):
            raise _invalid(f"{what}: want {attribute.low:g} to {attribute.high:g}")
    elif attribute.type == BOOL and value.lower() not in ("true", "false", "1", "0"):
        raise _invalid(f"{what}: want true or false")
    elif attribute.type == RGB and not _is_colour(value):
        raise _invalid(f"{what}: want three numbers from 0 to 255, as 255,0,0")
    return value


def _is_colour(value: str) -> bool:
    parts = value.split(",")
    return len(parts) == 3 and all(p.isdecimal() and int(p) <= 255 for p in parts)


def truth(value: str) -> bool:
    """The value of a boolean attribute."""
    return value.lower() in ("true", "1")
