"""Where a recording's files lie and what its measurements say: the data layout of TransFuser.

    DATADIR/<scenario>/<town>/<route>/rgb/0000.png            colours
                                      depth/0000.png          depth, 24 bits
                                      semantics/0000.png      semantic tags, one channel
                                      measurements/0000.json  where the car is, what it does
                                      route.json              ours: cameras, tags, seed, versions

Two frames a second. The pictures of a rig's cameras stand side by side, left to right. After Chitta
et al., "TransFuser" (PAMI 2022; autonomousvision/transfuser, team_code_autopilot), whose recordings
LeTFuser (pagand/e2etransfuser) learns from. Their lidar, topdown and label_raw are not written here.

A measurement, theirs:

- ``x``, ``y``, ``theta``: position and compass *in their frame*: x is CARLA's -y, y is CARLA's x,
  theta is the yaw + 90 degrees, in radians. ``x_command``, ``y_command``: the next point of the
  sparse route in that frame; ``command``: what to do there (1 to 6). ``waypoints``: x, y, theta of
  the driver's forecast of itself, 0.5 s apart, in that frame.
- ``ego_matrix``: (4, 4), the car in CARLA's world. The reader prefers it: their x, y come of GNSS.
- ``speed``, ``target_speed`` m/s; ``steer``, ``throttle``, ``brake``; ``junction``; ``angle``: to
  the next waypoint, 1 is 90 degrees to the right; ``vehicle_hazard``, ``walker_hazard``,
  ``light_hazard``, ``stop_sign_hazard``: what the driver yields to.

Ours besides, which their loaders pass over:

- ``tick``: half seconds since the route began; a step of more than one is a gap (frames during
  steering noise are not kept). ``frame``: the simulator's.
- ``red_light``: a red or yellow light holds for the lane at most 30 m ahead, whether or not the
  driver brakes for it yet; ``light_distance``: metres to its stop line, or null.
- ``command_near``: what to do here, by the dense route.

Deviates from theirs: ``theta`` is never NaN, and hazards are single truth values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.routes.plan import to_world
from core.errors import DataError, UsageError
from core.files import read_json

ABOUT = "route.json"
FORMAT = 1
RGB, DEPTH, SEMANTICS, MEASUREMENTS = "rgb", "depth", "semantics", "measurements"
PICTURES = (RGB, DEPTH, SEMANTICS)
INTERVAL = 0.5  # seconds between two frames
HAZARDS = ("vehicle", "walker", "light", "stop")

_TOWN = re.compile(r"town(\d+)(hd)?", re.IGNORECASE)
_LARGEST = 1 << 20  # bytes of one measurement or of route.json
_KEYS = {"vehicle": "vehicle_hazard", "walker": "walker_hazard", "light": "light_hazard"}
_KEYS["stop"] = "stop_sign_hazard"


@dataclass(frozen=True)
class Measurement:
    """One frame's measurement, in CARLA's world: metres, degrees.

    ``position`` and ``target`` (2,) in the world; ``waypoints`` (n, 2) in the ego frame. ``tick`` is
    None in recordings that do not tell it. ``red_light`` is None where only the hazard is known.
    """

    position: np.ndarray
    heading: float
    speed: float
    target: np.ndarray
    command: int
    steer: float
    throttle: float
    brake: float
    hazards: Mapping[str, bool] = field(default_factory=dict)
    junction: bool = False
    target_speed: float = 0.0
    waypoints: np.ndarray | None = None
    matrix: list[list[float]] | None = None
    tick: int | None = None
    frame: int | None = None
    red_light: bool | None = None
    light_distance: float | None = None
    command_near: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The keys of a measurement file."""
        matrix = self.matrix if self.matrix is not None else _matrix(self.position, self.heading)
        points = np.zeros((0, 2)) if self.waypoints is None else np.asarray(self.waypoints, float)
        return {
            "x": -float(self.position[1]),
            "y": float(self.position[0]),
            "theta": (math.radians(self.heading) + math.pi / 2) % math.tau,
            "speed": self.speed,
            "target_speed": self.target_speed,
            "x_command": -float(self.target[1]),
            "y_command": float(self.target[0]),
            "command": int(self.command),
            "waypoints": self._foreseen(points),
            "steer": self.steer,
            "throttle": self.throttle,
            "brake": self.brake,
            "junction": self.junction,
            **{_KEYS[kind]: bool(self.hazards.get(kind, False)) for kind in HAZARDS},
            "angle": _angle(points),
            "ego_matrix": matrix,
            "tick": self.tick,
            "frame": self.frame,
            "red_light": self.red_light,
            "light_distance": self.light_distance,
            "command_near": self.command_near,
        }

    def _foreseen(self, points: np.ndarray) -> list[list[float]]:
        """(n, 3): x, y, theta in TransFuser's frame."""
        yaw = math.radians(self.heading)
        steps = np.diff(points, axis=0, prepend=np.zeros((1, 2)))
        # where it stands, a step has no direction: keep the one before
        turn, turns = 0.0, []
        for dx, dy in steps:
            turn = math.atan2(dy, dx) if math.hypot(dx, dy) > 0.05 else turn
            turns.append(turn)
        world = to_world(points, self.position, self.heading)
        return [
            [-float(b), float(a), (yaw + turn + math.pi / 2) % math.tau]
            for (a, b), turn in zip(world, turns)
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Measurement:
        """DataError, naming ``source``, where a key is missing or is not what it should be."""
        try:
            return cls._from_dict(values)
        except KeyError as error:
            raise DataError(
                f"{source}: has no {error}; is it a measurement of TransFuser's?"
            ) from None
        except (TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{source}: {error}; write the file anew or leave the route out"
            ) from None

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        matrix = values.get("ego_matrix")
        if matrix is not None:
            m = np.asarray(matrix, float)
            if m.shape != (4, 4) or not np.isfinite(m).all():
                raise ValueError("'ego_matrix' is not 4 x 4 numbers")
            position = m[:2, 3]
            heading = math.degrees(math.atan2(m[1, 0], m[0, 0]))
        else:
            position = np.array([_number(values, "y"), -_number(values, "x")])
            # NaN where the simulator's compass failed; TransFuser's own loader takes 0 for it
            theta = float(values["theta"])
            heading = math.degrees((0.0 if math.isnan(theta) else theta) - math.pi / 2)
        command = int(_number(values, "command"))
        if not (command == -1 or 1 <= command <= 6):
            raise ValueError(f"'command' is {command}, not one of CARLA's road options, 1 to 6")
        red = values.get("red_light")
        return cls(
            position=position,
            heading=heading,
            speed=_number(values, "speed"),
            target=np.array([_number(values, "y_command"), -_number(values, "x_command")]),
            command=command,
            steer=_number(values, "steer"),
            throttle=_number(values, "throttle"),
            brake=_number(values, "brake"),
            # TransFuser's autopilot writes a list, a truth value for each step of its forecast
            hazards={kind: bool(np.any(values.get(_KEYS[kind], False))) for kind in HAZARDS},
            junction=bool(values.get("junction", False)),
            target_speed=_number(values, "target_speed", 0.0),
            matrix=matrix,
            tick=None if values.get("tick") is None else int(values["tick"]),
            frame=None if values.get("frame") is None else int(values["frame"]),
            red_light=None if red is None else bool(red),
            light_distance=values.get("light_distance"),
            command_near=values.get("command_near"),
        )


def find_routes(folder: Path) -> list[Path]:
    """Folders below (or at) ``folder`` that hold measurements, sorted; UsageError without ``folder``.

    Folders whose names begin with a dot are passed over: those are routes being written.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give a folder that collect wrote")
    return sorted(_routes(folder, 0))


def _routes(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / MEASUREMENTS).is_dir():
        yield folder
    elif depth < 6:  # DATADIR/<scenario>/<town>/<route> is 3; a bound for what is no data set
        for child in folder.iterdir():
            if child.is_dir() and not child.name.startswith("."):
                yield from _routes(child, depth + 1)


def town_of(route: Path, root: Path) -> str:
    """The town by the folders' names: the first part like Town01, else the folder above the route."""
    parts = route.relative_to(root).parts if route != root else (route.name,)
    for part in (*parts, root.name):
        found = _TOWN.search(part)
        if found:
            return f"Town{found.group(1)}{(found.group(2) or '').upper()}"
    return route.parent.name


def read_object(path: Path) -> dict[str, Any]:
    """A measurement or ``route.json``.  Python's reader takes NaN, which TransFuser's have."""
    return read_json(path, limit=_LARGEST, advice="leave the route out or copy it again")


def _number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = values[key] if default is None else values.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"'{key}' is {value!r}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"'{key}' is {number}")
    return number


def _angle(points: np.ndarray) -> float:
    """To the first waypoint; 1 is 90 degrees to the right."""
    ahead = points[np.hypot(*points.T) > 0.5] if len(points) else points
    return math.atan2(ahead[0, 1], ahead[0, 0]) / (math.pi / 2) if len(ahead) else 0.0


def _matrix(position: np.ndarray, heading: float) -> list[list[float]]:
    c, s = math.cos(math.radians(heading)), math.sin(math.radians(heading))
    x, y = float(position[0]), float(position[1])
    return [[c, -s, 0.0, x], [s, c, 0.0, y], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
