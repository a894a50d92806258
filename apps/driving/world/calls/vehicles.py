"""Calls on vehicles: control, physics, lamps, autopilot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.world.calls.ackermann import Ackermann, Gains
from apps.driving.world.calls.checks import finite, vector
from apps.driving.world.errors import SimulationError
from apps.driving.world.motion.bicycle import GRAVITY
from apps.driving.world.motion.catalogue import VEHICLES, Gear, VehicleSpec

if TYPE_CHECKING:
    from apps.driving.world.simulation.world import World

POSITION, LOW_BEAM, HIGH_BEAM = 0x1, 0x2, 0x4
"""Bits of ``carla.VehicleLightState`` that light the road."""
ALL_LAMPS = 0xFFFFFFFF


class Vehicles:
    """As the methods of ``carla.Vehicle``. SimulationError for an actor that is no vehicle and for
    numbers that are not finite; nothing has changed then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lamps: dict[int, int] = {}
        self.controllers: dict[int, Ackermann] = {}
        self.autopilot: set[int] = set()
        self.loose: set[int] = set()
        """Vehicles whose control holds for one tick: attribute ``sticky_control`` is false."""
        self._wheels: dict[tuple[int, int], float] = {}
        self._told: dict[int, list[Any]] = {}  # physics controls as they were set

    def apply_control(
        self,
        actor_id: int,
        throttle: float,
        steer: float,
        brake: float,
        hand_brake: bool = False,
        reverse: bool = False,
        manual_gear_shift: bool = False,
        gear: int = 0,
    ) -> None:
        """As ``carla.VehicleControl``; out of range is clipped. Ends Ackermann control."""
        self._row(actor_id)
        finite("throttle, steer or brake", throttle, steer, brake)
        controller = self.controllers.get(actor_id)
        if controller is not None:
            controller.active = False
        self._world.fleet.set_control(
            actor_id,
            throttle,
            steer,
            brake,
            bool(hand_brake),
            bool(reverse),
            bool(manual_gear_shift),
            int(gear),
        )

    def apply_ackermann(
        self,
        actor_id: int,
        steer: float,
        steer_speed: float,
        speed: float,
        acceleration: float,
        jerk: float,
    ) -> None:
        """As ``carla.VehicleAckermannControl`` (rad, rad/s, m/s, m/s^2, m/s^3; 0: no limit)."""
        self._row(actor_id)
        finite("the ackermann control", steer, steer_speed, speed, acceleration, jerk)
        controller = self.controllers.setdefault(actor_id, Ackermann())
        controller.steer, controller.steer_speed = steer, abs(steer_speed)
        controller.speed, controller.acceleration, controller.jerk = speed, acceleration, jerk
        controller.active = True

    def ackermann_settings(self, actor_id: int) -> tuple[float, ...]:
        """The gains: speed kp, ki, kd, acceleration kp, ki, kd."""
        self._row(actor_id)
        return self.controllers.get(actor_id, Ackermann()).gains.values()

    def set_ackermann_settings(self, actor_id: int, gains: Sequence[float]) -> None:
        """Six gains, in that order."""
        self._row(actor_id)
        finite("a gain", *gains)
        if len(gains) != 6:
            raise SimulationError(f"ackermann settings have {len(gains)} numbers; they need six")
        self.controllers.setdefault(actor_id, Ackermann()).tune(Gains(*gains))

    def physics(self, actor_id: int) -> list[Any]:
        """``carla.VehiclePhysicsControl`` in the order of the wire.

        Lengths of wheels are centimetres and their places the world's, as CARLA gives them.
        """
        fleet, row = self._world.fleet, self._row(actor_id)
        spec = fleet.specs[row]
        body = self._world.transform(actor_id)
        axles = _axles(spec)
        patch = self._world.movement.friction.under
        # What was set comes back, what this world has no use for included.
        told = self._told.get(actor_id)
        kept = told[15] if told else []
        wheels = []
        for i, (x, y) in enumerate(axles):
            place = body.apply(np.array([x, y, spec.wheel_radius]))
            steers = x > 0
            own = [
                spec.tire_friction,
                spec.wheel_damping,
                spec.max_steer if steers else 0.0,
                100.0 * spec.wheel_radius,
                spec.brake_torque,
                0.0 if steers else spec.hand_brake_torque,
                2.0,
                17.0,
                1000.0,
            ]
            if len(kept) == len(axles):
                own = list(kept[i])
            own[0] = patch.get(actor_id, own[0])
            wheels.append([*own, [100.0 * float(c) for c in place]])
        if told:
            return [*told[:15], wheels, told[16]]
        return [
            [list(point) for point in spec.torque_curve],
            spec.max_rpm,
            spec.moi,
            spec.damping_full,
            spec.damping_engaged,
            spec.damping_free,
            spec.autobox,
            spec.gear_switch_time,
            spec.clutch_strength,
            spec.final_ratio,
            [[gear.ratio, gear.down, gear.up] for gear in spec.gears],
            spec.mass,
            spec.drag,
            list(spec.centre_of_mass),
            [list(point) for point in spec.steering_curve],
            wheels,
            True,
        ]

    def set_physics(self, actor_id: int, control: Sequence[Any]) -> None:
        """The same back. The tyres' stiffness is kept and has no effect; the wheels stay in place."""
        row = self._row(actor_id)
        spec = self._world.fleet.specs[row]
        try:
            (torque, max_rpm, moi, full, engaged, free, autobox, switch, clutch, final, gears) = (
                control[:11]
            )
            mass, drag, centre, steering, wheels = control[11:16]
            changed = replace(
                spec,
                torque_curve=tuple((float(a), float(b)) for a, b in torque),
                max_rpm=float(max_rpm),
                moi=float(moi),
                damping_full=float(full),
                damping_engaged=float(engaged),
                damping_free=float(free),
                autobox=bool(autobox),
                gear_switch_time=float(switch),
                clutch_strength=float(clutch),
                final_ratio=float(final),
                gears=tuple(Gear(float(r), float(d), float(u)) for r, d, u in gears),
                mass=float(mass),
                drag=float(drag),
                centre_of_mass=vector("the centre of mass", centre),
                steering_curve=tuple((float(a), float(b)) for a, b in steering),
            )
            if wheels:
                changed = _with_wheels(changed, wheels)
            told = [
                *([[float(a), float(b)] for a, b in torque], *map(float, control[1:6])),
                *(bool(autobox), *map(float, control[7:10])),
                [[float(r), float(d), float(u)] for r, d, u in gears],
                *(float(mass), float(drag), [float(c) for c in centre]),
                [[float(a), float(b)] for a, b in steering],
                [[float(number) for number in wheel[:9]] for wheel in wheels],
                bool(control[16]) if len(control) > 16 else True,
            ]
            self._world.fleet.respec(actor_id, changed)
            self._told[actor_id] = told
        except (TypeError, ValueError) as error:
            raise SimulationError(f"unable to apply physics control: {error}") from error

    def light_state(self, actor_id: int) -> int:
        """Bits of ``carla.VehicleLightState``."""
        self._row(actor_id)
        return self.lamps.get(actor_id, 0)

    def set_light_state(self, actor_id: int, state: int) -> None:
        """The same; headlights show in cameras at night."""
        self._row(actor_id)
        self.lamps[actor_id] = int(state) & ALL_LAMPS
        self._world.repaint()

    def light_states(self) -> list[tuple[int, int]]:
        """(id, bits) of every vehicle."""
        return [(int(i), self.lamps.get(int(i), 0)) for i in self._world.fleet.ids]

    def set_autopilot(self, actor_id: int, enabled: bool) -> None:
        """Let this world's own traffic drive a vehicle, or no more."""
        self._row(actor_id)
        if enabled and actor_id not in self.autopilot:
            self._world.traffic.manage(actor_id)
            self.autopilot.add(actor_id)
        elif not enabled and actor_id in self.autopilot:
            self._world.traffic.release(actor_id)
            self.autopilot.discard(actor_id)

    def wheel_steer_angle(self, actor_id: int, wheel: int) -> float:
        """Degrees of a wheel (0, 1 front left and right; 2, 3 rear), right positive."""
        self._row(actor_id)
        if (actor_id, wheel) in self._wheels:
            return self._wheels[actor_id, wheel]
        return self._world.fleet.wheel_angle(actor_id) if wheel in (0, 1) else 0.0

    def set_wheel_steer(self, actor_id: int, wheel: int, degrees: float) -> None:
        """Turn the picture of a wheel; the vehicle drives as before, as in CARLA."""
        self._row(actor_id)
        finite("the angle", degrees)
        if wheel not in range(6):
            raise SimulationError(f"wheel {wheel}: want 0 to 5")
        self._wheels[actor_id, wheel] = float(degrees)

    def open_door(self, actor_id: int, door: int) -> None:
        """No vehicle of this world has doors that move; as in CARLA, that is no error."""
        self._door(actor_id, door)

    def close_door(self, actor_id: int, door: int) -> None:
        """The same."""
        self._door(actor_id, door)

    def telemetry(self, actor_id: int) -> tuple[Any, ...]:
        """``carla.VehicleTelemetryData``: speed (m/s), steer, throttle, brake, rpm, gear, drag (N) and
        for each wheel friction, slips, turn rate (rad/s), load (N) and its share, forces (N) and theirs.

        Wheels do not slip in this world and share the vehicle's weight evenly.
        """
        fleet, row = self._world.fleet, self._row(actor_id)
        spec, speed = fleet.specs[row], float(fleet.speed[row])
        area = 4.0 * spec.half[1] * spec.half[2]
        load = spec.mass * GRAVITY / spec.wheels
        yaw = math.radians(float(fleet.yaw[row]))
        ax, ay = float(fleet.ax[row]), float(fleet.ay[row])
        share = spec.mass / spec.wheels
        along = share * (ax * math.cos(yaw) + ay * math.sin(yaw))
        across = share * (ay * math.cos(yaw) - ax * math.sin(yaw))
        wheel = (
            spec.tire_friction, 0.0, 0.0, speed / spec.wheel_radius, load, 1.0,
            along * spec.wheel_radius, along, across, along / load, across / load,
        )  # fmt: skip
        return (
            speed,
            float(fleet.steer[row]),
            float(fleet.throttle[row]),
            float(fleet.brake[row]),
            fleet.rpm(actor_id),
            int(fleet.gear[row]),
            0.6 * spec.drag * area * speed * abs(speed),
            [wheel] * spec.wheels,
        )

    def drive(self, delta: float) -> None:
        """Pedals of the vehicles under Ackermann control, for the tick that begins."""
        fleet = self._world.fleet
        for actor_id in sorted(i for i, c in self.controllers.items() if c.active):
            row, controller = fleet.row(actor_id), self.controllers[actor_id]
            yaw = math.radians(float(fleet.yaw[row]))
            along = float(fleet.ax[row]) * math.cos(yaw) + float(fleet.ay[row]) * math.sin(yaw)
            lock = math.radians(fleet.specs[row].max_steer)
            throttle, steer, brake, back = controller.pedals(
                float(fleet.speed[row]), along, lock, delta
            )
            fleet.set_control(actor_id, throttle, steer, brake, reverse=back)

    def relax(self) -> None:
        """After a tick: the controls that held for it only."""
        for actor_id in sorted(self.loose):
            self._world.fleet.set_control(actor_id, 0.0, 0.0, 0.0)

    def forget(self, actor_id: int) -> None:
        """A vehicle is gone."""
        self.loose.discard(actor_id)
        self._told.pop(actor_id, None)
        if actor_id in self.autopilot:
            self.set_autopilot(actor_id, False)
        self.lamps.pop(actor_id, None)
        self.controllers.pop(actor_id, None)
        for key in [k for k in self._wheels if k[0] == actor_id]:
            del self._wheels[key]

    def _row(self, actor_id: int) -> int:
        actor = self._world.actor(actor_id)
        if actor.kind != "vehicle":
            raise SimulationError(f"actor {actor_id} is a {actor.kind}, want a vehicle")
        return self._world.fleet.row(actor_id)

    def _door(self, actor_id: int, door: int) -> None:
        self._row(actor_id)
        if door not in range(7):
            raise SimulationError(f"door {door}: want 0 to 6")


def _axles(spec: VehicleSpec) -> list[tuple[float, float]]:
    """Places of the wheels in the body's frame: front left, front right, rear left, rear right."""
    # Two-wheelers have four here, too, as CARLA gives them.
    x, y = spec.front, 0.5 * spec.track if spec.wheels > 2 else 0.0
    return [(x, -y), (x, y), (-x, -y), (-x, y)]


def _with_wheels(spec: VehicleSpec, wheels: Sequence[Any]) -> VehicleSpec:
    """What the wheels of a physics control change; friction scales the grip."""
    if any(len(wheel) < 9 for wheel in wheels):
        raise ValueError("a wheel needs ten numbers, in the order of carla.WheelPhysicsControl")
    front, rear = wheels[0], wheels[-1]
    friction = sum(float(w[0]) for w in wheels) / len(wheels)
    steer = float(front[2])
    # Of the vehicle as it came, for no friction and no lock may have been set before.
    base = VEHICLES[spec.id]
    return replace(
        spec,
        tire_friction=friction,
        grip=base.grip * friction / base.tire_friction,
        wheel_damping=float(front[1]),
        max_steer=steer,
        lock=base.lock * steer / base.max_steer,
        wheel_radius=float(front[3]) / 100.0,
        brake_torque=sum(float(w[4]) for w in wheels) / len(wheels),
        hand_brake_torque=float(rear[5]),
    )
