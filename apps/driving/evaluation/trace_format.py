"""What the files of a drive's trace hold, and how they are checked when they are read.

A trace is read as if it came from a stranger: sizes are bounded and numbers checked, and whatever is
wrong is a DataError that names the file. docs/driving-agent.md describes every key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.agents.base import Command
from apps.driving.evaluation.scores import KINDS, Infraction
from apps.driving.rig import Rig
from core.errors import DataError, UsageError
from core.files import read_json

FORMAT, VERSION = "triptych-drive-trace", 1
META, TICKS, RESULT, PICTURES = "meta.json", "ticks.jsonl", "result.json", "pictures"
KINDS_OF_PICTURES = {
    "rgb": ".jpg",  # the cameras side by side
    "depth": ".jpg",  # the same, near is bright
    "truth": ".png",  # the semantic tags that the simulator knows, by ``palette.PALETTE``
    "semantics": ".png",  # those that the driver thinks
    "birdseye": ".png",  # the driver's own view from above
}
"""Kinds of pictures and their files' suffixes. PNG files have tags as palette indices."""

MAX_META_BYTES = 32 * 2**20
MAX_LINE_BYTES = 2**17
MAX_POINTS = 200_000

Point = tuple[float, float]
NUMBERS = ("time", "x", "y", "yaw", "speed", "limit", "throttle", "steer", "brake", "completion")
GUESSES = ("target_speed", "red_light", "stop_sign", "decision_ms")


@dataclass(frozen=True)
class Neighbour:
    """Somebody near: ``kind`` "vehicle", "bicycle" or "walker"; metres, degrees, m/s in the world."""

    id: int
    kind: str
    x: float
    y: float
    yaw: float
    length: float
    width: float
    speed: float


@dataclass(frozen=True)
class Tick:
    """One decision and the moment it was made in.

    ``time`` s since the route began; ``x``, ``y`` m and ``yaw`` degrees in the world; ``speed`` and
    the road's ``limit`` m/s; ``throttle``, ``steer``, ``brake`` as decided; ``completion`` percent;
    ``index`` of the last point of the plan that was passed.
    ``parts``: (throttle, steer, brake) of each controller of which the decision was made, "waypoints"
    and "network" of a learned driver, "driver" what a supervisor overruled. ``waypoints`` (n, 2) and
    ``target`` (2,) m in the ego frame. ``red_light`` and ``stop_sign`` are probabilities, NaN like
    ``target_speed`` (m/s) where the driver has no such opinion. ``hazards`` hold the car back,
    ``interventions`` name what the supervisor changed. ``lights``: the states of the traffic lights
    near, by id. ``infractions``: those that are new. ``pictures``: the number of the pictures taken
    now, or None.
    """

    number: int
    time: float
    x: float
    y: float
    yaw: float
    speed: float
    limit: float
    throttle: float
    steer: float
    brake: float
    completion: float
    index: int
    command: Command
    target: np.ndarray
    waypoints: np.ndarray
    target_speed: float = math.nan
    red_light: float = math.nan
    stop_sign: float = math.nan
    decision_ms: float = math.nan
    parts: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    hazards: tuple[str, ...] = ()
    interventions: tuple[str, ...] = ()
    lights: Mapping[int, str] = field(default_factory=dict)
    neighbours: tuple[Neighbour, ...] = ()
    infractions: tuple[Infraction, ...] = ()
    pictures: int | None = None

    @property
    def position(self) -> Point:
        """(x, y) in the world."""
        return self.x, self.y


@dataclass(frozen=True)
class Lane:
    """A piece of a driving lane: its middle (n, 2) m, its width m, whether it is in a junction."""

    points: np.ndarray
    width: float
    junction: bool


@dataclass(frozen=True)
class Meta:
    """What does not change: which drive this is, and what is around its route, in the world's metres.

    ``seed`` is the route's own, drawn from the run's. ``plan`` (n, 2) with ``s`` (n,) m, ``speed_limit`` (n,) m/s and ``command`` (n,); ``lights``: the
    stop lines of each traffic light by its id, every line two points; ``stops`` and ``crosswalks``:
    outlines (k, 2). ``picture_every``: decisions from picture to picture, at the beginning.
    """

    route: str
    town: str
    agent: str
    seed: int
    interval: float
    picture_every: int
    rig: Rig
    plan: np.ndarray
    s: np.ndarray
    speed_limit: np.ndarray
    command: np.ndarray
    lanes: tuple[Lane, ...]
    lights: Mapping[int, tuple[np.ndarray, ...]]
    stops: tuple[np.ndarray, ...]
    crosswalks: tuple[np.ndarray, ...]

    @property
    def length(self) -> float:
        """Metres of the route."""
        return float(self.s[-1] - self.s[0])


def read_meta(file: Path) -> Meta:
    """What ``meta.json`` says."""
    values = read_object(file)
    if values.get("format") != FORMAT:
        raise DataError(f"{file}: not the trace of a drive")
    if values.get("version") != VERSION:
        raise DataError(
            f"{file}: a trace of version {values.get('version')!r}; this program reads {VERSION}"
        )
    plan = _within(file, "plan", dict, values.get("plan"))
    xy = _points(file, "plan.xy", plan.get("xy"), 2)
    lanes = [
        Lane(
            _points(file, "lanes.points", lane.get("points"), 2),
            _number(file, "lanes.width", lane.get("width")),
            bool(lane.get("junction")),
        )
        for lane in _records(f"{file}, lanes", values.get("lanes", []))
    ]
    lights = {
        _whole(file, "lights.id", light.get("id")): tuple(
            _points(file, "lights.lines", line, 2)
            for line in _within(file, "lights.lines", list, light.get("lines"))
        )
        for light in _records(f"{file}, lights", values.get("lights", []))
    }
    outlines = {
        name: tuple(
            _points(file, name, one, 3)
            for one in _within(file, name, list, values.get(name, []))[:MAX_POINTS]
        )
        for name in ("stops", "crosswalks")
    }
    try:
        rig = Rig.from_dict(_within(file, "rig", dict, values.get("rig")))
    except UsageError as error:
        raise DataError(f"{file}: {error}") from error
    return Meta(
        route=_text(file, "route", values.get("route")),
        town=_text(file, "town", values.get("town")),
        agent=_text(file, "agent", values.get("agent")),
        seed=_whole(file, "seed", values.get("seed")),
        interval=_number(file, "interval", values.get("interval")),
        picture_every=_whole(file, "picture_every", values.get("picture_every")),
        rig=rig,
        plan=xy,
        s=_column(file, "plan.s", plan.get("s"), len(xy)),
        speed_limit=_column(file, "plan.speed_limit", plan.get("speed_limit"), len(xy)),
        command=_column(file, "plan.command", plan.get("command"), len(xy)).astype(np.int8),
        lanes=tuple(lanes),
        lights=lights,
        **outlines,
    )


def read_tick(line: bytes, number: int, name: str) -> Tick:
    """A line of the ticks' file, which ``name`` names."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON ({error}); the trace is damaged") from error
    if not isinstance(values, dict) or values.get("number") != number:
        raise DataError(f"{name}: want decision {number}; the trace is damaged")
    command = values.get("command")
    if not isinstance(command, str) or command not in Command.__members__:
        raise DataError(f"{name}: command {str(command)[:40]!r} is none")
    pictures = values.get("pictures")
    parts = {
        _text(name, "parts", key): _column(name, "parts", part, 3)
        for key, part in _within(name, "parts", dict, values.get("parts", {})).items()
    }
    neighbours = [
        Neighbour(
            id=_whole(name, "neighbours.id", one.get("id")),
            kind=_text(name, "neighbours.kind", one.get("kind")),
            **{
                key: _number(name, f"neighbours.{key}", one.get(key))
                for key in ("x", "y", "yaw", "length", "width", "speed")
            },
        )
        for one in _records(f"{name}, neighbours", values.get("neighbours", []))
    ]
    lights = _within(name, "lights", dict, values.get("lights", {}))
    known = {key: _number(name, key, values.get(key), none=True) for key in (*NUMBERS, *GUESSES)}
    for key in ("time", "x", "y", "yaw", "speed"):
        if math.isnan(known[key]):
            raise DataError(f"{name}: {key} is no number")
    return Tick(
        number=number,
        **known,
        index=_whole(name, "index", values.get("index")),
        command=Command[command],
        target=_column(name, "target", values.get("target"), 2),
        waypoints=_points(name, "waypoints", values.get("waypoints", []), 0),
        parts={key: (part[0], part[1], part[2]) for key, part in parts.items()},
        hazards=_texts(name, "hazards", values.get("hazards", [])),
        interventions=_texts(name, "interventions", values.get("interventions", [])),
        lights={
            _whole(name, "lights", _int(key)): _text(name, "lights", value)
            for key, value in lights.items()
        },
        neighbours=tuple(neighbours),
        infractions=tuple(
            _infraction(name, one)
            for one in _records(f"{name}, infractions", values.get("infractions", []))
        ),
        pictures=None if pictures is None else _whole(name, "pictures", pictures),
    )


def _infraction(name: str, values: Mapping[str, Any]) -> Infraction:
    kind = _text(name, "kind", values.get("kind"))
    if kind not in KINDS:
        raise DataError(f"{name}: infraction {kind[:40]!r} is none")
    share = values.get("percentage")
    at = _column(name, "position", values.get("position"), 2)
    return Infraction(
        kind,
        _number(name, "time", values.get("time")),
        (float(at[0]), float(at[1])),
        _text(name, "message", values.get("message")),
        None if share is None else _number(name, "percentage", share),
    )


def read_infractions(result: Mapping[str, Any], file: Path) -> list[Infraction]:
    """Those of a ``RouteResult.as_dict`` that ``file`` holds."""
    by_kind = _within(file, "infractions", dict, result.get("infractions"))
    return [
        _infraction(f"{file}, infractions", {"kind": kind, **one})
        for kind in KINDS
        for one in _records(f"{file}, {kind}", by_kind.get(kind, []))
    ]


def read_object(file: Path) -> dict[str, Any]:
    """``meta.json`` or ``result.json``; DataError where it is none, too large or not there."""
    advice = "no drive is traced here, or the trace is damaged"
    return read_json(file, limit=MAX_META_BYTES, advice=advice)


def _within(file: Any, name: str, kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise DataError(f"{file}: {name} is not what a trace has there; the trace is damaged")
    return value


def _records(name: str, value: Any) -> list[dict[str, Any]]:
    """A bounded list of objects."""
    found = _within(name, "the list", list, value)
    if len(found) > MAX_POINTS:
        raise DataError(f"{name}: {len(found)} entries are too many")
    return [_within(name, "an entry", dict, one) for one in found]


def _text(file: Any, name: str, value: Any) -> str:
    return str(_within(file, name, str, value))[:500]


def _texts(file: Any, name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(file, name, one) for one in _within(file, name, list, value)[:100])


def _whole(file: Any, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise DataError(f"{file}: {name} is {str(value)[:40]!r}; want a whole number from 0 on")
    return value


def _int(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _number(file: Any, name: str, value: Any, none: bool = False) -> float:
    """A finite number; NaN for null where ``none``."""
    if value is None and none:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise DataError(f"{file}: {name} is {str(value)[:40]!r}; want a number")
    return float(value)


def _column(file: Any, name: str, value: Any, length: int) -> np.ndarray:
    """(length,) float64, NaN for null."""
    found = _within(file, name, list, value)
    if len(found) != length:
        raise DataError(f"{file}: {name} has {len(found)} numbers; want {length}")
    return np.array([_number(file, name, one, none=True) for one in found], np.float64)


def _points(file: Any, name: str, value: Any, least: int) -> np.ndarray:
    """(n, 2) float64, n at least ``least``; NaN for null."""
    found: Sequence[Any] = _within(file, name, list, value)
    if not least <= len(found) <= MAX_POINTS:
        raise DataError(f"{file}: {name} has {len(found)} points; want {least} to {MAX_POINTS}")
    return np.array([_column(file, name, one, 2) for one in found], np.float64).reshape(-1, 2)
