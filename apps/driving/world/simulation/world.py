"""The world: a town, who is in it, and how a tick goes.

A tick, in this order: traffic lights, decisions of traffic and walkers, motion, collisions, places of
what is attached, sensors. What clients ask for between two ticks is applied when they ask and seen in
the next snapshot. Everything is in the order of ids, every draw has a seed: the same town, seed and
calls give the same bytes.

``World`` holds the parts and the episode; calls of one concern are one object of it: ``bodies``
(any actor), ``vehicles``, ``people``, ``signals`` and ``surroundings``.

Deviates from CARLA: ids begin anew with each episode, so that a reset is as good as a fresh start
(the client refuses actors of an old episode by itself); frames go on. What a destroyed parent carried
stays where it was, as in Unreal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps.driving.world.calls.bodies import Bodies
from apps.driving.world.calls.checks import finite, place
from apps.driving.world.calls.people import People
from apps.driving.world.calls.signals import Signals
from apps.driving.world.calls.surroundings import Surroundings
from apps.driving.world.calls.vehicles import Vehicles
from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.motion.catalogue import VEHICLES, WALKERS
from apps.driving.world.motion.vehicles import Fleet
from apps.driving.world.motion.walkers import Walkers
from apps.driving.world.render import Renderer
from apps.driving.world.render.scene import Scene
from apps.driving.world.sensors.base import Sensor
from apps.driving.world.sensors.kinds import SENSORS, gather
from apps.driving.world.sensors.payloads import Collision, Reading
from apps.driving.world.simulation import blueprints
from apps.driving.world.simulation.actors import Actor, Attachment, Settings
from apps.driving.world.simulation.footprints import Footprints, meets, outline
from apps.driving.world.simulation.movement import Movement
from apps.driving.world.simulation.poses import Poses
from apps.driving.world.simulation.registry import Registry
from apps.driving.world.simulation.roadside import Roadside
from apps.driving.world.simulation.stage import Stage
from apps.driving.world.tags import Tag
from apps.driving.world.town import Town
from apps.driving.world.traffic.drivers import Traffic
from apps.driving.world.traffic.lights import Lights
from apps.driving.world.weather import Weather

LONGEST = 10.0
"""s: no tick that a client asks for stands for more."""
SLEPT = 1.0
"""s: nor one by the clock, which goes on while the machine sleeps."""
DEEPEST = 16
"""Actors on actors on actors; each level is placed after the one before it."""
MOST_SHAPES = 10_000
"""Debug shapes that are remembered."""


class World:
    """One town with its actors.

    ``traffic`` vehicles and ``walkers`` pedestrians of its own are there from the start, driven by
    this world. Without a ``renderer`` cameras give nothing. SimulationError is what a call answers
    that is refused; the world is then as it was.
    """

    def __init__(
        self,
        town: Town,
        seed: int = 0,
        renderer: Renderer | None = None,
        traffic: int = 0,
        walkers: int = 0,
    ) -> None:
        self.seed = seed
        self.renderer = renderer
        self.background = (traffic, walkers)
        self.episode = 0
        self.frame = 0
        self.settings = Settings()
        self.imu_gravity = 9.81  # m/s^2
        self._begin(town)

    def _begin(self, town: Town) -> None:
        """A new episode."""
        self.town = town
        self.episode += 1
        self.elapsed = 0.0  # s since the episode began
        self.delta = 0.0  # s of the last tick
        self.weather = Weather()
        self.registry = Registry()
        self.ghosts: set[int] = set()  # actors that collide with nothing
        self.sensors: dict[int, Sensor] = {}
        self.readings: list[Reading] = []
        self.collisions: list[Collision] = []
        self.debug_shapes: deque[Any] = deque(maxlen=MOST_SHAPES)
        self._poses: Poses | None = None
        self._stage: Stage | None = None
        self._scene: Scene | None = None
        self._footprints: Footprints | None = None
        self._placed = False
        self.fleet = Fleet(self.weather.friction)
        self.lights = Lights(town.network.lights)
        self.walkers = Walkers(town.network, self.seed, self.fleet)
        self.traffic = Traffic(
            town.network, self.fleet, self.lights, town.network.signs, self.seed, self.walkers
        )
        self.bodies, self.vehicles, self.people = Bodies(self), Vehicles(self), People(self)
        self.signals, self.surroundings = Signals(self), Surroundings(self)
        self.movement, self.roadside = Movement(self), Roadside(self)
        self.signals.populate()
        start = town.network.spawn_points[0] if town.network.spawn_points else Transform()
        self.spectator = self.registry.add(
            type_id="spectator",
            uid=0,
            kind="spectator",
            attributes={},
            transform=Transform(start.x, start.y, 15.0, -30.0, start.yaw, 0.0),
        )
        self.movement.populate(*self.background)

    # Episode.

    def reset(self, reset_settings: bool = True) -> None:
        """Begin anew in the same town."""
        self.load(self.town, reset_settings)

    def load(self, town: Town, reset_settings: bool = True) -> None:
        """Begin anew in a town; all actors are gone."""
        if reset_settings:
            self.settings = Settings()
        self._begin(town)

    def set_settings(self, settings: Settings) -> int:
        """Take over settings; the frame they hold from. SimulationError for a step of no length."""
        for name in ("max_substep_delta_time", "max_culling_distance"):
            finite(name, getattr(settings, name))
        delta = settings.fixed_delta_seconds
        if delta is not None:
            finite("fixed_delta_seconds", delta)
            if not 0.0 <= delta <= LONGEST:
                raise SimulationError(
                    f"fixed_delta_seconds is {delta}; want 0 (variable) to {LONGEST:g} s"
                )
        self.settings = settings
        return self.frame

    def set_weather(self, weather: Weather) -> None:
        """Light and grip from now on."""
        self.weather = weather
        self.fleet.friction = weather.friction
        self.repaint()

    # Actors.

    @property
    def actors(self) -> dict[int, Actor]:
        """All of them, by ascending id."""
        return self.registry.actors

    def actor(self, actor_id: int) -> Actor:
        """One. SimulationError when it is not there."""
        return self.registry.get(actor_id)

    def spawn(
        self,
        blueprint: str,
        attributes: Mapping[str, str],
        transform: Sequence[float],
        parent: int = 0,
        attachment: int = 0,
    ) -> Actor:
        """A new actor, at ``transform`` of the world or of its ``parent``.

        SimulationError for an unknown blueprint, an attribute it does not take, a parent that is not
        there, numbers that are not finite, and a vehicle or walker whose place is taken or that is
        to be attached.
        """
        definition, values = blueprints.resolve(blueprint, attributes)
        if blueprint in blueprints.LISTED_ONLY:
            raise SimulationError(f"{blueprint}: not supported by this world")
        pose = place("the spawn transform", transform)
        if parent:
            if len(self.registry.ancestors(parent)) >= DEEPEST:
                raise SimulationError(f"unable to attach: actor {parent} is {DEEPEST} deep already")
            if definition.kind in ("vehicle", "walker"):
                raise SimulationError(f"unable to attach a {definition.kind} to actor {parent}")
        if attachment not in tuple(Attachment):
            raise SimulationError(f"attachment type {attachment}: want 0, 1 or 2")
        box, tags = blueprints.body(definition, values)
        world_pose = self.transform(parent).then(pose) if parent else pose
        if definition.kind == "walker":
            # Clients take the ground for a walker's place; its own is half its height above.
            world_pose = world_pose._replace(z=max(world_pose.z, box.half[2]))
        footprint = outline(box, world_pose)
        if definition.kind in ("vehicle", "walker") and not self._free(footprint):
            raise SimulationError("Spawn failed because of collision at spawn position")
        actor = self.registry.add(
            type_id=blueprint,
            uid=definition.uid,
            kind=definition.kind,
            attributes=values,
            transform=pose if parent else world_pose,
            box=box,
            tags=tags,
            parent=parent,
            attachment=Attachment(attachment),
            streamed=blueprint in SENSORS,
        )
        if actor.kind == "vehicle":
            self.fleet.add(actor.id, VEHICLES[blueprint], world_pose)
            if values.get("sticky_control") == "false":
                self.vehicles.loose.add(actor.id)
        elif actor.kind == "walker":
            self.walkers.add(actor.id, WALKERS[blueprint], world_pose)
        elif actor.type_id in SENSORS:
            self.sensors[actor.id] = SENSORS[actor.type_id](actor)
        if self._footprints is not None and actor.tags:
            footprint.instance[0] = actor.id
            self._footprints.add(footprint)
        self._changed(actor)
        return actor

    def destroy(self, actor_id: int) -> bool:
        """Take an actor out; False when it is not there. What it carried stays where it was.

        SimulationError for what belongs to the town: lights, signs, the spectator.
        """
        actor = self.actors.get(actor_id)
        if actor is None:
            return False
        if actor.kind in ("traffic_light", "traffic_sign", "spectator"):
            raise SimulationError(f"unable to destroy actor {actor_id}: a {actor.kind} stays")
        left = {i: self.transform(i) for i in self.registry.children(actor_id)}
        self.vehicles.forget(actor_id)
        self.bodies.forget(actor_id)
        self.people.forget(actor_id)
        _, orphans = self.registry.remove(actor_id)
        for orphan in orphans:
            orphan.transform = left[orphan.id]
        if actor.kind == "vehicle":
            self.fleet.remove(actor_id)
        elif actor.kind == "walker":
            self.walkers.remove(actor_id)
        self.sensors.pop(actor_id, None)
        self.ghosts.discard(actor_id)
        if self._footprints is not None:
            self._footprints.remove(actor_id)
        self._changed(actor)
        return True

    def _changed(self, actor: Actor) -> None:
        """An actor has come or gone."""
        self._poses = self._stage = self._scene = None
        if actor.kind == "static":
            self.movement.rebuild()

    def transform(self, actor_id: int) -> Transform:
        """Where an actor is now, in the world's frame."""
        actor = self.actor(actor_id)
        if self._poses is not None and self._placed:
            return self._poses.at(self._poses.row_of[actor_id])
        if actor.kind == "vehicle":
            return self.fleet.transform(actor_id)
        if actor.kind == "walker":
            return self.walkers.transform(actor_id)
        if actor.parent:
            parent = self.transform(actor.parent)
            if actor.attachment != Attachment.RIGID:
                parent = parent._replace(pitch=0.0, roll=0.0)
            return parent.then(actor.transform)
        return actor.transform

    def moved(self, rebuilt: bool = False) -> None:
        """Something was put elsewhere; ``rebuilt``: what stands or is attached, too."""
        self._placed = False
        self._scene = self._footprints = None
        if rebuilt:
            self._poses = self._stage = None
            self.movement.rebuild()

    def repaint(self) -> None:
        """Something looks different."""
        self._scene = None

    # Time.

    def tick(self, delta: float | None = None) -> int:
        """One step on; the number of its frame.

        The step is the settings' ``fixed_delta_seconds`` where there is one, else ``delta`` (s, the
        time that passed), else 0.05 s.
        """
        step = self.settings.fixed_delta_seconds or (0.05 if delta is None else min(delta, SLEPT))
        finite("the step", step)
        step = max(step, 1e-4)
        self.collisions = self.movement.step(step)
        self.frame += 1
        self.elapsed += step
        self.delta = step
        self.moved()
        active = (s for s in self.sensors.values() if s.listened)
        renderer = None if self.settings.no_rendering_mode else self.renderer
        self.readings = gather(self, active, step, renderer)
        return self.frame

    def listen(self, sensor_id: int, listened: bool) -> None:
        """Whether somebody wants a sensor's readings: only then are they made."""
        sensor = self.sensors.get(self.actor(sensor_id).id)
        if sensor is not None and sensor.listened != listened:
            sensor.listened = listened
            sensor.forget()

    # What there is to be seen.

    def poses(self) -> Poses:
        """Where everybody is."""
        if self._poses is None:
            self._poses = Poses(self.actors)
            self._stage = None
            self._placed = False
        if not self._placed:
            self.movement.place(self._poses)
            self._poses.follow()
            self._placed = True
        return self._poses

    def stage(self) -> Stage:
        """What can be seen of them."""
        poses = self.poses()
        if self._stage is None:
            self._stage = Stage(self, poses)
        return self._stage

    def snapshot(self) -> np.ndarray:
        """(N) rows of ``snapshot.ROW``: every actor, by ascending id. Valid until the next call."""
        poses = self.poses()
        self.movement.fill(poses)
        poses.rows["transform"] = poses.pose
        return poses.rows

    def boxes(self) -> Boxes:
        """Vehicles, walkers and props as they are now."""
        return self.stage().boxes()

    def scene(self) -> Scene:
        """What cameras and rays see now."""
        if self._scene is None:
            self._scene = self.stage().scene()
        return self._scene

    def motion(self, actor_id: int) -> np.ndarray:
        """(3, 3): velocity (m/s), angular velocity (degrees/s), acceleration (m/s^2); 0 at rest."""
        return self.movement.of(actor_id)

    def met(self, instance: int, tag: int) -> Actor:
        """The actor of a box of this ``tag`` (0: any); for the scenery one that stands for it, with
        the id 0. The scenery's numbers begin at 65,535 downwards, where ids may arrive too."""
        actor = self.actors.get(instance)
        if actor is not None and (tag == Tag.NONE or tag in actor.tags):
            return actor
        name = f"static.{Tag(tag).name.lower()}"
        return Actor(0, name, 0, "static", {}, Transform(), tags=(int(tag),))

    def geolocation(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Latitude, longitude (degrees) and altitude (m) of a place."""
        import carla

        geo = self.town.map.transform_to_geolocation(carla.Location(x, y, z))
        return geo.latitude, geo.longitude, geo.altitude

    # Room for new actors.

    def _free(self, box: Boxes) -> bool:
        if self._footprints is None:
            self._footprints = Footprints(self.stage().solid())
        return not (self._footprints.meets(box) or meets(box, self.surroundings.fixed).any())
