"""Calls on any actor: where it is, how fast, what pushes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.driving.world.calls.checks import place, vector
from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.blueprints import truth

if TYPE_CHECKING:
    from apps.driving.world.simulation.world import World

Vector = Sequence[float]


class Bodies:
    """As the methods of ``carla.Actor``. Ids are actors'; SimulationError for one that is not there
    and for numbers that are not finite.

    Forces and torques act for the next tick, as in CARLA; impulses at once. What pushes a vehicle
    pushes its body on the ground; walkers and props are not pushed.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.forces: dict[int, list[tuple[Vector, Vector | None]]] = {}
        self.torques: dict[int, float] = {}

    def set_transform(self, actor_id: int, transform: Sequence[float]) -> None:
        """Move an actor there; its velocity stays. A child's is relative from its parent on."""
        world, actor = self._world, self._world.actor(actor_id)
        pose = place("the transform", transform)
        if actor.kind == "vehicle":
            world.fleet.place(actor_id, pose)
        elif actor.kind == "walker":
            world.walkers.place(actor_id, pose)
        elif actor.parent:
            actor.transform = _relative(world.transform(actor.parent), pose)
        else:
            actor.transform = pose
        moved = actor.kind not in ("vehicle", "walker")
        world.moved(rebuilt=moved)

    def set_location(self, actor_id: int, location: Vector) -> None:
        """Move an actor, its rotation as it is."""
        pose = self._world.transform(actor_id)
        self.set_transform(actor_id, (*vector("the location", location), *pose[3:]))

    def set_target_velocity(self, actor_id: int, velocity: Vector) -> None:
        """m/s, world frame."""
        v = vector("the velocity", velocity)
        actor = self._moving(actor_id, "set a velocity")
        if actor.kind == "vehicle":
            self._world.fleet.set_velocity(actor_id, v)
        else:
            speed = math.hypot(*v)
            direction = tuple(c / speed for c in v) if speed else (1.0, 0.0, 0.0)
            self._world.people.apply_control(actor_id, direction, speed, False)

    def set_target_angular_velocity(self, actor_id: int, velocity: Vector) -> None:
        """Degrees/s; only the turn about z has an effect on the flat ground."""
        w = vector("the angular velocity", velocity)
        if self._moving(actor_id, "set an angular velocity").kind == "vehicle":
            self._world.fleet.set_yaw_rate(actor_id, w[2])

    def enable_constant_velocity(self, actor_id: int, velocity: Vector) -> None:
        """m/s in the actor's own frame, kept until it is disabled."""
        v = vector("the velocity", velocity)
        if self._moving(actor_id, "keep a velocity").kind == "vehicle":
            self._world.fleet.hold_velocity(actor_id, v)

    def disable_constant_velocity(self, actor_id: int) -> None:
        """The wheels decide again."""
        if self._moving(actor_id, "release a velocity").kind == "vehicle":
            self._world.fleet.hold_velocity(actor_id, None)

    def add_impulse(self, actor_id: int, impulse: Vector, at: Vector | None = None) -> None:
        """N s, world frame, at the body's middle or at a place of the world (m)."""
        push = vector("the impulse", impulse)
        where = None if at is None else vector("the location", at)
        if self._moving(actor_id, "push").kind == "vehicle":
            self._world.fleet.push(actor_id, push, where)

    def add_force(self, actor_id: int, force: Vector, at: Vector | None = None) -> None:
        """N, world frame, during the next tick."""
        push = vector("the force", force)
        where = None if at is None else vector("the location", at)
        if self._moving(actor_id, "push").kind == "vehicle":
            self.forces.setdefault(actor_id, []).append((push, where))

    def add_angular_impulse(self, actor_id: int, impulse: Vector) -> None:
        """kg m^2 degrees/s; the part about z."""
        z = vector("the angular impulse", impulse)[2]
        if self._moving(actor_id, "twist").kind == "vehicle":
            self._world.fleet.twist(actor_id, math.radians(z))

    def add_torque(self, actor_id: int, torque: Vector) -> None:
        """kg m^2 degrees/s^2 during the next tick; the part about z."""
        z = vector("the torque", torque)[2]
        if self._moving(actor_id, "twist").kind == "vehicle":
            self.torques[actor_id] = self.torques.get(actor_id, 0.0) + math.radians(z)

    def set_simulate_physics(self, actor_id: int, enabled: bool) -> None:
        """Off, a vehicle stands where it is put; others have no physics to switch."""
        actor = self._world.actor(actor_id)
        if actor.kind == "vehicle":
            fleet = self._world.fleet
            fleet.simulate[fleet.row(actor_id)] = bool(enabled)
            if not enabled:
                fleet.set_velocity(actor_id, (0.0, 0.0, 0.0))

    def set_collisions(self, actor_id: int, enabled: bool) -> None:
        """Off, it drives or stands through everything and may be spawned upon.

        A walker that is not invincible stays solid: the client's navigation switches off the
        collisions of each walker it leads, and CARLA's cars run into those nevertheless.
        """
        world, actor = self._world, self._world.actor(actor_id)
        if actor.kind == "walker" and not truth(actor.attributes["is_invincible"]):
            return
        if enabled:
            world.ghosts.discard(actor_id)
        else:
            world.ghosts.add(actor_id)
        if actor.kind in ("vehicle", "walker"):
            group = world.fleet if actor.kind == "vehicle" else world.walkers
            group.solid[group.row(actor_id)] = bool(enabled)
        world.moved(rebuilt=True)

    def set_enable_gravity(self, actor_id: int, enabled: bool) -> None:
        """Off, a vehicle stays at its height."""
        actor = self._world.actor(actor_id)
        if actor.kind == "vehicle":
            fleet = self._world.fleet
            fleet.gravity[fleet.row(actor_id)] = bool(enabled)

    def set_dead(self, actor_id: int) -> None:
        """A dead actor stays in the world and does nothing any more."""
        actor = self._moving(actor_id, "kill")
        if actor.kind == "vehicle":
            self._world.vehicles.set_autopilot(actor_id, False)
            self._world.fleet.set_control(actor_id, hand_brake=True)
        else:
            self._world.people.apply_control(actor_id, (1.0, 0.0, 0.0), 0.0, False)

    def apply_forces(self, delta: float) -> None:
        """What the forces of this tick add up to, and then none are left."""
        fleet = self._world.fleet
        for actor_id in sorted(self.forces):
            for force, at in self.forces[actor_id]:
                fleet.push(actor_id, [f * delta for f in force], at)
        for actor_id in sorted(self.torques):
            fleet.twist(actor_id, self.torques[actor_id] * delta)
        self.forces.clear()
        self.torques.clear()

    def forget(self, actor_id: int) -> None:
        """An actor is gone."""
        self.forces.pop(actor_id, None)
        self.torques.pop(actor_id, None)

    def _moving(self, actor_id: int, what: str) -> Actor:
        actor = self._world.actor(actor_id)
        if actor.kind not in ("vehicle", "walker"):
            raise SimulationError(
                f"unable to {what}: actor {actor_id} is a {actor.kind}, want a vehicle or a walker"
            )
        return actor


def _relative(parent: Transform, pose: Transform) -> Transform:
    """``pose`` of the world in the frame of ``parent``."""
    from numpy.linalg import inv

    from apps.driving.world.geometry import from_matrix

    return from_matrix(inv(parent.matrix()) @ pose.matrix())
