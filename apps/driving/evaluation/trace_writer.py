"""Writes a drive's trace as it goes on (``trace_format`` describes it, ``trace`` reads it).

What is not a driver's own comes from CARLA's client: who is near from each tick's snapshot, the roads
around the route from the map. Pillow is imported when a trace is begun.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.evaluation.palette import PALETTE
from apps.driving.evaluation.trace import clear, picture_name
from apps.driving.evaluation.trace_format import FORMAT, META, PICTURES, RESULT, TICKS, VERSION
from apps.driving.evaluation.trace_roads import crosswalks_around, lanes_around
from core.errors import ResourceError, need
from core.files import plain, write_json

if TYPE_CHECKING:
    import carla

    from apps.driving.evaluation.episode import Moment, RouteResult
    from apps.driving.routes.plan import Plan

PICTURES_HZ = 5.0
FEWER_AFTER = 1000  # pictures of each kind; then half as many come, and again after as many
NEAR_M = 60.0  # of the car: neighbours and lights
LISTED_S = (
    1.0  # between two looks at who is in the world; those known are followed at every decision
)
QUALITY = 80  # of JPEG


class TraceWriter:
    """Watches one drive; its trace is in ``folder``.

    >>> trace = TraceWriter(folder, route="0", agent="small")
    >>> result = drive_route(..., show=trace.show(interval), watch=[trace.watch])
    >>> trace.finish(result)

    What another trace left in ``folder`` is removed; other files stay. Whatever is written raises
    ResourceError where it cannot be, UsageError where Pillow is not installed.
    """

    def __init__(self, folder: Path, route: str, agent: str, seed: int = 0) -> None:
        self.folder, self.route = Path(folder), route
        self.agent, self.seed = agent, seed
        self._number = self._pictures = self._new = 0
        self._people: dict[int, tuple[str, float, float]] = {}
        self._listed = -math.inf
        self._every = 1
        need("PIL.Image", "driving")
        try:
            clear(self.folder)
            (self.folder / PICTURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._explained(error) from error

    @staticmethod
    def show(interval: float) -> dict[str, int]:
        """The cameras that a trace wants, each with every n-th decision (``drive_route``)."""
        every = max(1, round(1 / (PICTURES_HZ * interval)))
        return dict.fromkeys(("rgb", "depth", "semantic"), every)

    def watch(self, moment: Moment) -> None:
        """Add a decision."""
        try:
            if self._number == 0:
                self._every = self.show(moment.drive.interval)["rgb"]
                write_json(self.folder / META, self._meta(moment), force=True)
            pictures = self._keep(moment) if moment.number % self._every == 0 else None
            line = json.dumps(_rounded(plain(self._tick(moment, pictures))), separators=(",", ":"))
            with open(self.folder / TICKS, "a", encoding="utf-8", newline="\n") as stream:
                stream.write(f"{line}\n")
        except OSError as error:
            raise self._explained(error) from error
        self._number += 1

    def finish(self, result: RouteResult) -> None:
        """Say that the drive is over and what became of it. Without a decision there is no trace."""
        if self._number:
            write_json(self.folder / RESULT, result.as_dict(), force=True)

    def _explained(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"{self.folder}: the trace cannot be written ({error.strerror or error}); free some disk "
            "space, or choose another output folder"
        )

    # --- the drive

    def _meta(self, moment: Moment) -> dict[str, Any]:
        drive, criteria = moment.drive, moment.criteria
        plan: Plan = drive.plan
        return {
            "format": FORMAT,
            "version": VERSION,
            "route": self.route,
            "town": plan.town,
            "agent": self.agent,
            "seed": self.seed,
            "interval": drive.interval,
            "picture_every": self._every,
            "rig": drive.rig.as_dict(),
            "plan": {
                "xy": plan.xy.round(2),
                "s": plan.s.round(2),
                "speed_limit": plan.speed_limit.round(3),
                "command": plan.command,
            },
            "lanes": lanes_around(drive.map, plan.xy),
            "lights": [
                {"id": light.id, "lines": [_rounded([li.left, li.right]) for li in lines]}
                for light, lines in criteria.lights
            ],
            "stops": _rounded(criteria.stops),
            "crosswalks": crosswalks_around(drive.map, plan.xy),
        }

    # --- a decision

    def _tick(self, moment: Moment, pictures: int | None) -> dict[str, Any]:
        decision, observation, criteria = moment.decision, moment.observation, moment.criteria
        state = criteria.state
        assert state is not None  # a decision follows a tick
        index = criteria.progress.index
        found: dict[str, Any] = {
            "number": self._number,
            "time": state.time,
            "x": state.x,
            "y": state.y,
            "yaw": state.yaw,
            "speed": observation.speed,
            "limit": moment.drive.plan.speed_limit[index],
            "throttle": decision.throttle,
            "steer": decision.steer,
            "brake": decision.brake,
            "completion": criteria.completion,
            "index": index,
            "command": observation.command.name,
            "target": observation.target,
            "waypoints": [] if decision.waypoints is None else decision.waypoints,
            "target_speed": decision.target_speed,
            "red_light": decision.red_light,
            "stop_sign": decision.stop_sign,
            "decision_ms": moment.milliseconds,
            "parts": decision.parts,
            "hazards": [name for name, on in decision.hazards.items() if on],
            "interventions": decision.interventions,
            "lights": self._lights(moment),
            "neighbours": self._neighbours(moment),
            "infractions": [
                {"kind": one.kind, **one.as_dict()} for one in criteria.infractions[self._new :]
            ],
        }
        self._new = len(criteria.infractions)
        if pictures is not None:
            found["pictures"] = pictures
        return found

    def _lights(self, moment: Moment) -> dict[int, str]:
        state = moment.criteria.state
        assert state is not None
        return {
            light.id: str(light.state)
            for light, lines in moment.criteria.lights
            if any(math.dist(line.left, state.position) < NEAR_M for line in lines)
        }

    def _neighbours(self, moment: Moment) -> list[dict[str, Any]]:
        """Vehicles and walkers within ``NEAR_M``, by the snapshot of this tick."""
        state, drive = moment.criteria.state, moment.drive
        assert state is not None
        if state.time - self._listed >= LISTED_S:
            self._listed = state.time
            self._people = _bodies(drive.world, drive.ego.id)
        found = []
        for number, (kind, length, width) in self._people.items():
            actor = moment.snapshot.find(number)
            if actor is None:
                continue
            pose, velocity = actor.get_transform(), actor.get_velocity()
            if math.dist((pose.location.x, pose.location.y), state.position) < NEAR_M:
                found.append(
                    {
                        "id": number,
                        "kind": kind,
                        "x": pose.location.x,
                        "y": pose.location.y,
                        "yaw": pose.rotation.yaw,
                        "length": length,
                        "width": width,
                        "speed": math.hypot(velocity.x, velocity.y),
                    }
                )
        return found

    # --- pictures

    def _keep(self, moment: Moment) -> int | None:
        """Write the pictures of this moment; their number, None where there are none."""
        made = _pictures(moment)
        if not made:
            return None
        number = self._pictures
        for kind, image in made.items():
            path = self.folder / PICTURES / picture_name(number, kind)
            if path.suffix == ".jpg":
                image.save(path, "JPEG", quality=QUALITY)
            else:
                image.save(path, "PNG", compress_level=1)
        self._pictures += 1
        if self._pictures % FEWER_AFTER == 0:
            self._every *= 2
        return number


def _bodies(world: carla.World, ego: int) -> dict[int, tuple[str, float, float]]:
    """Kind, length and width in m of every vehicle and walker but ours, by id."""
    found = {}
    actors = world.get_actors()
    for group in ("vehicle.*", "walker.pedestrian.*"):
        for actor in actors.filter(group):
            if actor.id == ego:
                continue
            kind = "walker" if group.startswith("walker") else "vehicle"
            if kind == "vehicle" and actor.attributes.get("number_of_wheels") == "2":
                kind = "bicycle"
            extent = actor.bounding_box.extent
            found[actor.id] = (kind, round(2 * extent.x, 2), round(2 * extent.y, 2))
    return found


def _pictures(moment: Moment) -> dict[str, Any]:
    """Pillow images by their kind, of what there is now."""
    from PIL import Image

    from apps.driving.evaluation.video import shaded

    frames, decision = moment.frames, moment.decision
    found: dict[str, Any] = {}
    if frames.rgb is not None:
        found["rgb"] = Image.fromarray(side_by_side(frames.rgb))
    if frames.depth is not None:
        found["depth"] = Image.fromarray(side_by_side(shaded(frames.depth)))
    tags: dict[str, np.ndarray | None] = {
        "truth": None if frames.semantics is None else side_by_side(frames.semantics),
        "semantics": None if decision.semantics is None else side_by_side(decision.semantics),
        "birdseye": decision.birdseye,
    }
    for kind, picture in tags.items():
        if picture is not None:
            image = Image.fromarray(np.ascontiguousarray(picture, np.uint8))
            image.putpalette(PALETTE.tobytes())  # grey becomes a palette's indices
            found[kind] = image
    return found


def side_by_side(views: np.ndarray) -> np.ndarray:
    """(V, h, w, ...) to (h, V w, ...)."""
    return np.ascontiguousarray(np.concatenate(list(views), axis=1))


def _rounded(value: Any) -> Any:
    """Three digits after the point, in whatever holds numbers; a millimetre is enough."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
