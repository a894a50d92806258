"""Drives the expert through scenes of an embedded world; prints one JSON object.

    python scenes.py quiet | stop | traffic

A program of its own, because carla's client ends the process it is in when it fails.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import carla
import numpy as np

ROOT = Path(__file__).resolve().parents[5]
sys.path.insert(0, str(ROOT))

from apps.driving.agents.base import Command, Drive, Observation  # noqa: E402
from apps.driving.agents.expert import Expert  # noqa: E402
from apps.driving.evaluation.criteria import Criteria  # noqa: E402
from apps.driving.rig import LETFUSER  # noqa: E402
from apps.driving.routes.files import read_routes  # noqa: E402
from apps.driving.routes.planner import Planner  # noqa: E402
from apps.driving.simulator.session import open_session  # noqa: E402

TOWN01 = str(ROOT / "samples" / "Town01.xodr")
STEP = 0.05


class Run:
    """The expert on a plan: ``forward`` seconds at a time, with what happened."""

    def __init__(self, session: Any, plan: Any, interval: float = 0.1) -> None:
        self.session, self.plan, self.interval = session, plan, interval
        first = plan.xy[0]
        self.ego = session.spawn_ego((first[0], first[1], float(plan.z[0]), plan.yaw[0]))
        self.criteria = Criteria(session.world, session.map, self.ego, plan)
        self.agent = Expert()
        self.agent.begin(
            Drive(session.client, session.world, session.map, self.ego, plan, LETFUSER, 0, interval)
        )
        self.speeds: list[float] = []
        self.decisions: list[Any] = []
        self.cost: list[float] = []

    def forward(self, seconds: float) -> None:
        every = round(self.interval / STEP)
        nothing = Observation(0, 0.0, 0.0, np.zeros(2), 0.0, np.zeros(2), Command.LANE_FOLLOW)
        for tick in range(round(seconds / STEP)):
            if self.criteria.over:
                return
            if tick % every == 0:
                began = time.process_time()
                decision = self.agent.act(nothing)
                self.cost.append(time.process_time() - began)
                self.decisions.append(decision)
                self.ego.apply_control(
                    carla.VehicleControl(
                        throttle=decision.throttle, steer=decision.steer, brake=decision.brake
                    )
                )
            snapshot = self.session.tick()
            self.criteria.update(snapshot)
            velocity = self.ego.get_velocity()
            self.speeds.append(math.hypot(velocity.x, velocity.y))

    @property
    def s(self) -> float:
        """m along the plan of the car's origin."""
        place = self.ego.get_transform().location
        index, _ = self.plan.nearest((place.x, place.y))
        return float(self.plan.s[index])

    def end(self) -> dict[str, Any]:
        """Leaves the world; what was held against it."""
        kinds = sorted(infraction.kind for infraction in self.criteria.finish())
        self.agent.end()
        self.session.destroy([self.ego])
        return {"kinds": kinds, "completion": self.criteria.completion}

    def held(self, name: str) -> bool:
        return any(decision.hazards.get(name) for decision in self.decisions)


def planned(session: Any, number: int) -> Any:
    spec = read_routes(ROOT / "samples" / "routes.xml")[number]
    return Planner(session.map).plan_route(spec)


def light(session: Any) -> dict[str, Any]:
    """All lights frozen red; then green."""
    run = Run(session, planned(session, 3), 0.05)
    session.world.freeze_all_traffic_lights(True)
    lights = session.world.get_actors().filter("traffic.traffic_light*")
    for one in lights:
        one.set_state(carla.TrafficLightState.Red)
    run.forward(20.0)
    junction = float(run.plan.s[np.argmax(run.plan.junction)])
    front = float(run.ego.bounding_box.extent.x)
    stood = {"gap": junction - run.s - front, "speed": run.speeds[-1], "held": run.held("light")}
    for one in lights:
        one.set_state(carla.TrafficLightState.Green)
    run.forward(8.0)
    return {**stood, "then": run.speeds[-1], **run.end()}


def obstacle(session: Any) -> dict[str, Any]:
    """A van that stands on the lane, 60 m ahead; after 15 s it is taken away."""
    run = Run(session, planned(session, 3), 0.05)
    at = run.plan.xy[60]
    van = session.spawn(
        "vehicle.mercedes.sprinter",
        carla.Transform(
            carla.Location(at[0], at[1], 0.3), carla.Rotation(yaw=float(run.plan.yaw[60]))
        ),
    )
    run.forward(15.0)
    gap = 60.0 - run.s - float(run.ego.bounding_box.extent.x + van.bounding_box.extent.x)
    stood = {"gap": gap, "speed": run.speeds[-1], "held": run.held("vehicle")}
    session.destroy([van])
    run.forward(5.0)
    return {**stood, "then": run.speeds[-1], **run.end()}


def walker(session: Any) -> dict[str, Any]:
    """One steps onto the road 20 m before the car, and walks over it."""
    run = Run(session, planned(session, 3))
    yaw = math.radians(float(run.plan.yaw[60]))
    aside = np.array([-math.sin(yaw), math.cos(yaw)])  # to the right
    at = run.plan.xy[60] + 5.0 * aside
    person = session.spawn(
        "walker.pedestrian.0001", carla.Transform(carla.Location(at[0], at[1], 1.0))
    )
    while run.s < 38.0 and len(run.speeds) < 400:
        run.forward(0.1)
    before = run.speeds[-1]
    person.apply_control(carla.WalkerControl(carla.Vector3D(-aside[0], -aside[1], 0.0), 1.6, False))
    run.forward(5.0)
    least = min(run.speeds[-90:])
    run.forward(5.0)
    found = {"before": before, "least": least, "then": run.speeds[-1], "held": run.held("walker")}
    session.destroy([person])
    return {**found, **run.end()}


def foreseen(session: Any) -> dict[str, Any]:
    """What it says of the next 2 s, against where it was then, on an empty road."""
    run = Run(session, planned(session, 3))
    run.forward(1.0)
    transform = run.ego.get_transform()
    said = run.decisions[-1].waypoints
    errors = []
    for point in said:
        run.forward(0.5)
        there = transform.transform(carla.Location(float(point[0]), float(point[1]), 0.0))
        errors.append(there.distance_2d(run.ego.get_transform().location))
    return {"errors": errors, "far": float(said[-1][0]), **run.end()}


def quiet() -> dict[str, Any]:
    """Scenes of a town without traffic, one after the other in the same world."""
    with open_session(TOWN01) as session:
        return {scene.__name__: scene(session) for scene in (foreseen, obstacle, walker, light)}


def stop() -> dict[str, Any]:
    """A route of a procedural town through a stop sign."""
    with open_session("procedural:3") as session:
        planner = Planner(session.map)
        signs = sorted(session.world.get_actors().filter("traffic.stop*"), key=lambda a: a.id)
        for sign in signs:
            middle = sign.get_transform().transform(sign.trigger_volume.location)
            lane = session.map.get_waypoint(middle)
            start, after = lane.previous(40.0), lane.next(45.0)
            if not start or not after:
                continue
            ends = [way.transform.location for way in (start[0], lane, after[0])]
            plan = planner.plan([(end.x, end.y) for end in ends])
            if not 60.0 < plan.length < 120.0:
                continue
            run = Run(session, plan)
            run.forward(40.0)
            return {
                "held": run.held("stop"), "least": min(run.speeds[60:]),
                "status": run.criteria.status, **run.end(),
            }  # fmt: skip
    return {}


def traffic() -> dict[str, Any]:
    """A whole route among 20 vehicles and as many walkers."""
    with open_session(TOWN01, seed=5, traffic=20, walkers=20) as session:
        run = Run(session, planned(session, 11))
        run.forward(200.0)
        wheel = np.array([decision.steer for decision in run.decisions])
        return {
            "cost": float(np.median(run.cost)), "wheel": float(np.abs(np.diff(wheel)).mean()),
            "pedals": bool(all(d.throttle == 0 or d.brake == 0 for d in run.decisions)),
            "shape": list(run.decisions[0].waypoints.shape), **run.end(),
        }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"quiet": quiet, "stop": stop, "traffic": traffic}[sys.argv[1]]()), flush=True)
    os._exit(0)  # carla's client may abort while it is taken down
