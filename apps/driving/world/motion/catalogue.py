"""The vehicles and pedestrians of CARLA 0.9.16: their blueprint ids, boxes and physics.

What is CARLA's own, and from where
    ids                CARLA 0.9.16 documentation, "Vehicle catalogue" and "Pedestrian catalogue"; the
                       names of types are those of carla-simulator/carla pull request 5258
    boxes              what ``bounding_box`` answers: sizes as in BerkeleyLearnVerify/Scenic,
                       src/scenic/simulators/carla/_blueprintData.py ("0.9.15"); centres as dumped
                       from the same version, rounded to a centimetre
    wheels, engine     defaults printed by ``carla.WheelPhysicsControl()`` and
                       ``carla.VehiclePhysicsControl()`` of the 0.9.16 wheel: 1500 and 3000 N m of
                       brake and hand brake a wheel, damping 0.25 a wheel and 0.15 / 2 / 0.35 in the
                       engine, lock 70 degrees, moment of inertia 1 kg m^2, clutch 10, drag 0.3
    electric           a print of ``get_physics_control`` of a one-gear car that public code keeps:
                       743 N m to 9,000 rpm, 502 at 15,000, final ratio 9. It names no car; that its
                       rpm limit is 232.7 km/h on 0.37 m wheels, and the Model 3's top speed 233,
                       says which one it is
    petrol             the wheel's default: 500 N m to 5,000 rpm, final ratio 4, with PhysX's gears
                       4, 2, 1.5, 1.1, 1, shifting up at 0.65 of the limit (PhysX 3.3 guide,
                       "Vehicles"). PhysX shifts down at 0.5, which hunts from 2 to 1; here lower,
                       just below the upward shift
    brakes             1500 N m is the Model 3's; the others' stop at 8.6 m/s^2, heavy ones at 6
    steering curve     1 at rest, 0.9 at 20, 0.8 at 60, 0.7 at 120 km/h: UE4's default for cars
                       (WheeledVehicleMovementComponent4W)
    published check    PDM-Lite (autonomousvision/carla_garage, team_code/config.py) fitted the ego
                       car of Leaderboard 2.0, the Lincoln MKZ 2020, in CARLA at 20 Hz: 0-50 km/h in 2.5 s at full throttle,
                       80 after 5 s, stops from 50 km/h in 11.3 m; ours 2.75 s, 78 km/h, 11.0 m
Estimates of ours: every mass, wheelbase and track that no print names (those of the real cars), all
of trucks, motorcycles and bicycles, colours but the Model 3's, who has lights and doors, and the
genders and generations of pedestrians.

``lock`` is smaller than ``max_steer``: CARLA's tyres scrub. World on Rails (Chen, Koltun and
Krähenbühl, ICCV 2021) fitted CARLA's ego vehicle by a bicycle of gain 0.36848 rad and axles at
-0.0908 and 1.4178 m: at full steer and town speeds, where the steering curve is 0.9, its middle
turns on a radius of 3.72 m. Ours does with a curvature of 0.324 / m of the rear axle at rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from apps.driving.world.tags import Tag

Curve = tuple[tuple[float, float], ...]
Vector = tuple[float, float, float]
Colour = tuple[int, int, int]

# A lock of 70 degrees turns as a bicycle's front wheel at this angle would (module docstring).
SCRUB = math.degrees(math.atan(0.324 * 2.875)) / 70.0


@dataclass(frozen=True)
class Gear:
    """One forward gear: its ratio, and the shares of ``max_rpm`` it is left at, down and up."""

    ratio: float
    down: float
    up: float


@dataclass(frozen=True, kw_only=True)
class VehicleSpec:
    """A blueprint: its box (m) and what ``carla.VehiclePhysicsControl`` tells of it."""

    id: str
    base_type: str  # car, truck, van, bus, motorcycle, bicycle
    special_type: str  # electric, emergency, taxi or nothing
    generation: int
    wheels: int
    has_lights: bool
    has_dynamic_doors: bool
    colours: tuple[Colour, ...]
    tag: Tag
    half: Vector  # half of length, width, height
    centre: Vector  # of the box, from the vehicle's origin, which is on the ground
    mass: float  # kg
    wheelbase: float
    track: float
    wheel_radius: float
    max_steer: float = 70.0  # degrees of the inner front wheel, as CARLA tells
    lock: float = 70.0 * SCRUB  # degrees of the bicycle's front wheel, as it turns
    torque_curve: Curve = ((0.0, 500.0), (5000.0, 500.0))  # rpm, N m
    max_rpm: float = 5000.0
    moi: float = 1.0  # kg m^2
    damping_full: float = 0.15  # kg m^2 / s, at full throttle
    damping_engaged: float = 2.0  # at none, in gear
    damping_free: float = 0.35  # at none, in neutral
    autobox: bool = True
    gear_switch_time: float = 0.0  # s
    clutch_strength: float = 10.0
    final_ratio: float = 4.0
    gears: tuple[Gear, ...] = (
        Gear(4.0, 0.0, 0.65),
        Gear(2.0, 0.25, 0.65),
        Gear(1.5, 0.4, 0.65),
        Gear(1.1, 0.4, 0.65),
        Gear(1.0, 0.5, 1.0),
    )
    reverse_ratio: float = 4.0
    drag: float = 0.3  # coefficient, of the box's front
    centre_of_mass: Vector = (0.0, 0.0, -0.3)
    steering_curve: Curve = ((0.0, 1.0), (20.0, 0.9), (60.0, 0.8), (120.0, 0.7))  # km/h, share
    tire_friction: float = 3.5  # as CARLA tells; the grip is ``grip``
    grip: float = 1.0  # friction of tyre on dry asphalt
    brake_torque: float = 1500.0  # N m a wheel
    hand_brake_torque: float = 3000.0  # N m a rear wheel
    wheel_damping: float = 0.25  # kg m^2 / s a wheel
    wheel_mass: float = 20.0  # kg, UE4's default

    @property
    def front(self) -> float:
        """How far the front axle is before the origin, m; the rear axle is as far behind it."""
        return 0.5 * self.wheelbase


@dataclass(frozen=True)
class WalkerSpec:
    """A pedestrian's blueprint: its box (m) and its walking and running speed (m/s)."""

    id: str
    gender: str  # female, male
    age: str  # adult, child
    generation: int
    half: Vector
    centre: Vector  # of the box, from the walker's origin, which is its middle
    speeds: tuple[float, float]


_ELECTRIC = {
    "torque_curve": (
        (0.0, 743.0),
        (9000.0, 743.0),
        (9500.0, 660.0),
        (10400.0, 605.0),
        (12500.0, 528.0),
        (15000.0, 502.0),
    ),
    "max_rpm": 15000.0,
    "gears": (Gear(1.0, 0.0, 0.0),),
    "final_ratio": 9.0,
    "reverse_ratio": 1.0,
    "gear_switch_time": 0.0,
}
_DIESEL = {
    "torque_curve": ((0.0, 900.0), (1200.0, 1600.0), (2400.0, 1200.0), (3000.0, 600.0)),
    "max_rpm": 3000.0,
    "hand_brake_torque": 9000.0,
    "lock": 32.0,
    "drag": 0.6,
}
_MOTORCYCLE = {
    "torque_curve": ((0.0, 70.0), (4000.0, 100.0), (9000.0, 80.0)),
    "max_rpm": 9000.0,
    "moi": 0.1,
    "damping_full": 0.01,
    "damping_engaged": 0.1,
    "damping_free": 0.05,
    "lock": 32.0,
    "brake_torque": 500.0,
    "hand_brake_torque": 500.0,
    "wheel_mass": 10.0,
    "gear_switch_time": 0.2,
    "drag": 0.6,
}
# A strong rider: some 400 W.
_BICYCLE = {
    "torque_curve": ((0.0, 70.0), (60.0, 60.0), (120.0, 30.0), (160.0, 10.0)),  # the pedals'
    "max_rpm": 160.0,
    "moi": 0.05,
    "damping_full": 0.1,
    "damping_engaged": 0.5,
    "damping_free": 0.1,
    "final_ratio": 0.45,
    "gears": (Gear(1.0, 0.0, 0.0),),
    "reverse_ratio": 0.5,
    "gear_switch_time": 0.0,
    "lock": 32.0,
    "brake_torque": 90.0,
    "hand_brake_torque": 90.0,
    "wheel_damping": 0.02,
    "wheel_mass": 2.0,
    "drag": 0.4,
    "grip": 0.8,
}
_POWER = {"e": _ELECTRIC, "p": {}, "d": _DIESEL, "m": _MOTORCYCLE, "b": _BICYCLE}

_TAGS = {
    "car": Tag.CAR,
    "van": Tag.CAR,
    "truck": Tag.TRUCK,
    "bus": Tag.BUS,
    "motorcycle": Tag.MOTORCYCLE,
    "bicycle": Tag.BICYCLE,
}
_COLOURS: tuple[Colour, ...] = (
    (180, 44, 44),
    (25, 60, 140),
    (235, 235, 235),
    (30, 30, 32),
    (140, 142, 145),
    (60, 90, 70),
    (200, 160, 40),
)
_OWN_COLOURS: dict[str, tuple[Colour, ...]] = {
    "vehicle.tesla.model3": (
        (180, 44, 44),
        (0, 0, 0),
        (47, 210, 231),
        (17, 37, 103),
        (114, 0, 0),
        (255, 255, 255),
    ),
    "vehicle.carlamotors.firetruck": ((170, 20, 20),),
    "vehicle.ford.ambulance": ((240, 240, 240),),
    "vehicle.ford.crown": ((230, 180, 30),),
    "vehicle.dodge.charger_police": ((240, 240, 245),),
    "vehicle.dodge.charger_police_2020": ((240, 240, 245),),
}

# id, base type, special type, generation, lights, doors, power, length, width, height, centre x,
# centre z, mass, wheelbase, track, wheel radius
_ROWS = """
audi.a2                      car        -         1 0 0 p 3.7054 1.7887 1.5491  0.00 0.78  990 2.41 1.46 0.31
audi.etron                   car        electric  1 1 0 e 4.8557 2.0328 1.6494  0.00 0.82 2490 2.93 1.66 0.37
audi.tt                      car        -         1 1 0 p 4.1812 1.9941 1.3853  0.00 0.69 1335 2.47 1.57 0.33
bmw.grandtourer              car        -         1 0 0 p 4.6110 2.2417 1.6673  0.00 0.77 1565 2.78 1.58 0.34
chevrolet.impala             car        -         1 0 0 p 5.3575 2.0332 1.4107  0.00 0.70 1690 2.84 1.58 0.34
citroen.c3                   car        -         1 0 0 p 3.9877 1.8508 1.6171  0.00 0.76 1090 2.54 1.48 0.31
dodge.charger_2020           car        -         2 1 1 p 5.0078 1.8816 1.5347 -0.01 0.77 1825 3.05 1.62 0.36
dodge.charger_police         car        emergency 1 1 0 p 4.9742 2.0384 1.5421  0.02 0.79 1825 3.05 1.62 0.36
dodge.charger_police_2020    car        emergency 2 1 1 p 5.2375 1.9298 1.6384  0.11 0.82 1880 3.05 1.62 0.36
ford.crown                   car        taxi      2 1 1 p 5.3657 1.8007 1.5750  0.19 0.77 1870 2.91 1.62 0.34
ford.mustang                 car        -         1 1 0 p 4.7175 1.8948 1.3009  0.03 0.65 1680 2.72 1.60 0.35
jeep.wrangler_rubicon        car        -         1 0 0 p 3.8662 1.9052 1.8779  0.00 0.93 1830 2.42 1.57 0.40
lincoln.mkz_2017             car        -         1 1 0 p 4.9017 2.1283 1.5107  0.00 0.72 1696 2.85 1.59 0.355
lincoln.mkz_2020             car        -         2 1 1 p 4.8924 1.8367 1.4903 -0.01 0.75 1696 2.85 1.59 0.355
mercedes.coupe               car        -         1 1 0 p 5.0268 2.1515 1.6507  0.00 0.67 1750 2.94 1.62 0.35
mercedes.coupe_2020          car        -         2 1 1 p 4.6738 1.8118 1.4419  0.00 0.72 1650 2.84 1.58 0.34
micro.microlino              car        electric  1 0 0 e 2.2073 1.4809 1.3760  0.00 0.68  513 1.57 1.20 0.27
mini.cooper_s                car        -         1 0 0 p 3.8058 1.9703 1.4750  0.00 0.69 1210 2.47 1.46 0.31
mini.cooper_s_2021           car        -         2 1 1 p 4.5527 2.0971 1.7672 -0.03 0.89 1280 2.50 1.50 0.32
nissan.micra                 car        -         1 0 0 p 3.6334 1.8451 1.5013  0.00 0.78  980 2.43 1.47 0.30
nissan.patrol                car        -         1 0 0 p 4.6045 1.9316 1.8548 -0.06 0.94 2300 2.97 1.60 0.40
nissan.patrol_2021           car        -         2 1 1 p 5.5658 2.1500 2.0451  0.03 1.02 2750 3.08 1.70 0.42
seat.leon                    car        -         1 0 0 p 4.1928 1.8162 1.4738  0.00 0.74 1260 2.58 1.53 0.32
tesla.model3                 car        electric  1 1 0 e 4.7918 2.1635 1.4877  0.03 0.74 1845 2.875 1.58 0.37
toyota.prius                 car        electric  1 0 0 p 4.5135 2.0068 1.5248  0.00 0.72 1390 2.70 1.54 0.32
tesla.cybertruck             truck      electric  1 1 0 e 6.2736 2.3896 2.0982  0.00 1.05 3020 3.81 1.80 0.43
carlamotors.carlacola        truck      -         1 1 0 d 5.2038 2.6270 2.4674  0.00 1.23 5500 3.40 2.00 0.45
carlamotors.european_hgv     truck      -         2 1 0 d 7.9357 2.8911 3.4619  0.01 1.73 9000 4.60 2.20 0.50
carlamotors.firetruck        truck      emergency 2 1 1 d 8.4680 2.8911 3.8274 -0.25 1.91 11000 4.80 2.20 0.50
ford.ambulance               van        emergency 2 1 1 p 6.3656 2.3512 2.4314 -0.29 1.22 3300 3.51 1.73 0.37
mercedes.sprinter            van        -         2 1 1 p 5.9152 1.9884 2.5607 -0.01 1.29 2300 3.66 1.71 0.35
volkswagen.t2                van        -         1 1 0 p 4.4804 2.0693 2.0378  0.00 1.01 1260 2.40 1.42 0.33
volkswagen.t2_2021           van        -         2 1 1 p 4.4422 1.7746 1.9872  0.12 0.99 1260 2.40 1.42 0.33
mitsubishi.fusorosa          bus        -         2 1 1 d 10.2727 3.9442 4.2528 -0.45 2.13 7000 5.20 2.20 0.45
harley-davidson.low_rider    motorcycle -         1 1 0 m 2.3502 0.7662 1.6495  0.00 0.82  302 1.62 0.00 0.32
kawasaki.ninja               motorcycle -         1 1 0 m 2.0437 0.7969 1.5232  0.00 0.77  164 1.37 0.00 0.30
vespa.zx125                  motorcycle -         1 1 0 m 1.8171 0.8659 1.5901  0.01 0.79  110 1.27 0.00 0.24
yamaha.yzf                   motorcycle -         1 1 0 m 2.1908 0.8659 1.5304  0.00 0.77  170 1.38 0.00 0.30
bh.crossbike                 bicycle    -         1 0 0 b 1.5093 0.8659 1.6124  0.00 0.81   90 1.08 0.00 0.34
diamondback.century          bicycle    -         1 0 0 b 1.6562 0.5824 1.6198  0.00 0.82   85 1.00 0.00 0.34
gazelle.omafiets             bicycle    -         1 0 0 b 1.8434 0.6590 1.7758 -0.01 0.89   95 1.12 0.00 0.35
"""


def _spec(row: str) -> VehicleSpec:
    name, base, special, generation, lights, doors, power, *numbers = row.split()
    length, width, height, x, z, mass, wheelbase, track, radius = map(float, numbers)
    key = f"vehicle.{name}"
    spec = VehicleSpec(
        id=key,
        base_type=base,
        special_type="" if special == "-" else special,
        generation=int(generation),
        wheels=2 if base in ("motorcycle", "bicycle") else 4,
        has_lights=lights == "1",
        has_dynamic_doors=doors == "1",
        colours=_OWN_COLOURS.get(key, _COLOURS),
        tag=_TAGS[base],
        half=(length / 2, width / 2, height / 2),
        centre=(x, 0.0, z),
        mass=mass,
        wheelbase=wheelbase,
        track=track,
        wheel_radius=radius,
    )
    spec = replace(spec, **_POWER[power])  # type: ignore[arg-type]
    if power == "e":  # one motor's print serves cars of 500 to 3,000 kg: the same push for each kg
        share = spec.mass / 1845.0
        spec = replace(
            spec,
            torque_curve=tuple((rpm, torque * share) for rpm, torque in spec.torque_curve),
            moi=spec.moi * share,
            damping_full=spec.damping_full * share,
            damping_engaged=spec.damping_engaged * share,
            damping_free=spec.damping_free * share,
            clutch_strength=spec.clutch_strength * share,
        )
    if name != "tesla.model3" and power in "epd":
        stops = 6.0 if power == "d" else 8.6
        spec = replace(spec, brake_torque=stops * spec.mass * spec.wheel_radius / spec.wheels)
    return spec


VEHICLES: dict[str, VehicleSpec] = {s.id: s for s in map(_spec, _ROWS.strip().splitlines())}
DEFAULT = VEHICLES["vehicle.tesla.model3"]

# CARLA tells of two sizes of children; everybody else shares one capsule.
_SMALL, _CHILD = (9, 10, 11, 48, 49), (12, 13, 14)
_FEMALE = frozenset((2, 3, 4, 9, 10, 13, 18, 20, 21, 22, 23, 26, 31, 33, 40, 41, 45, 46, 47, 48))


def _walker(number: int) -> WalkerSpec:
    if number in _SMALL:
        half = (0.25, 0.25, 0.55)
    elif number in _CHILD:
        half = (0.1877, 0.1877, 0.65)
    else:
        half = (0.1877, 0.1877, 0.93)
    return WalkerSpec(
        id=f"walker.pedestrian.{number:04d}",
        gender="female" if number in _FEMALE else "male",
        age="child" if number in _SMALL + _CHILD else "adult",
        generation=2 if 15 <= number <= 49 else 1,
        half=half,
        centre=(0.0, 0.0, 0.0),
        speeds=(1.43, 2.33),
    )


WALKERS: dict[str, WalkerSpec] = {w.id: w for w in map(_walker, range(1, 53))}
