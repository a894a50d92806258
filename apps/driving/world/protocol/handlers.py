"""What the world answers to each call that ``calls`` lists as served or recorded.

``Handlers.dispatch`` reads the parameters, asks the world and writes the answer as the client's
library expects it: ``Response<T>`` is ``[[1, value]]`` or ``[[0, [message]]]``, ``Response<void>``
``[[false]]`` or ``[[true, [message]]]``. It never raises: a refusal of the world, a malformed
parameter and a defect of ours are answered alike with an error in one line, and the world goes on.

A file of its own length because it is one method per call, most of a line; they share the world.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable
from typing import Any, Protocol

from apps.driving.world.calls.surroundings import Surrounding
from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.protocol import values
from apps.driving.world.protocol.batch import run_command
from apps.driving.world.protocol.calls import CALLS, Answer, Call, Status
from apps.driving.world.protocol.layouts import CARLA_VERSION, SimulationState
from apps.driving.world.protocol.rpc import CallError, Peer
from apps.driving.world.protocol.values import Description, Malformed, Vector
from apps.driving.world.simulation.actors import Actor, BoundingBox, Settings
from apps.driving.world.simulation.world import World
from apps.driving.world.weather import Weather
from core.errors import TriptychError

log = logging.getLogger(__name__)

FIX = f"this server speaks CARLA {CARLA_VERSION}; install that client: pip install carla==0.9.16"
FRAMES = 1000  # 50 s of asynchronous mode: clients are synchronous before that
STREET = 2  # carla::rpc::LightState::LightGroup::Street
OPENDRIVE_MAP = "OpenDriveMap"  # the name under which a client loads the map it has sent
WARNINGS = 3  # lines in the log for refusals of one call that nobody waits for
MAX_BOXES = 4096  # bounding boxes remembered of actors that may be gone
# Calls that leave an episode as it began; see set_episode_settings.
_HARMLESS = frozenset(
    {
        *("set_episode_settings", "set_weather_parameters", "set_imui_gravity", "tick_cue"),
        *("add_traffic_manager_running", "destroy_traffic_manager", "update_day_night_cycle"),
        *(call for call in CALLS if call.startswith(("get_", "is_", "query_", "request_"))),
        *("version", "cast_ray", "project_point", "load_map_layer", "unload_map_layer"),
    }
)


class Host(Protocol):
    """What calls need of the server around the world."""

    episode: int

    def token(self, stream: int) -> bytes:
        """The address of a stream."""
        ...

    def expect(self, stream: int) -> None:
        """A client is about to read a stream."""
        ...

    def tick(self) -> int | Awaitable[int]:
        """One step in synchronous mode; the number of its frame."""
        ...

    def announce(self, state: SimulationState) -> None:
        """Tell clients with the next state what they should fetch anew."""
        ...

    def publish(self) -> None:
        """Send the present state to all clients now."""
        ...

    def towns(self) -> list[str]:
        """Names of the towns that can be loaded."""
        ...

    def load(self, name: str, reset_settings: bool) -> Awaitable[None]:
        """Begin a new episode in a town; SimulationError when there is none of that name."""
        ...

    def keep_opendrive(self, text: str) -> Awaitable[None]:
        """Check a map and keep it as ``OPENDRIVE_MAP``."""
        ...

    def navigation(self) -> Awaitable[tuple[str, bytes]]:
        """Name and content of the file by which clients' walkers find their way; empty: none."""
        ...

    def settings_changed(self) -> None:
        """The mode or the step has changed."""
        ...


class Handlers:
    """The calls of all clients, answered from one world."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.managers: dict[int, str] = {}  # port -> address of CARLA's traffic managers
        self.lamps: dict[int, list[Any]] = {}  # street lights that a client has set
        self._boxes: dict[int, list[Any]] = {}  # last answers of get_actor_bounding_box
        self.touched = False  # whether anything but time has changed since the episode began
        self.calls: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self.peer: Peer | None = None

    # --- dispatch

    def dispatch(self, peer: Peer, method: str, parameters: list[Any], waits: bool) -> object:
        """Answer one call; an awaitable of the answer where it takes time."""
        call = CALLS.get(method)
        if call is None:
            return self._unknown(peer, method[:80])
        self.peer = peer
        self.calls[method] += 1
        try:
            result = self._answer(call, parameters)
        except Exception as error:
            return self._failed(call, error, waits)
        if asyncio.iscoroutine(result):
            return self._later(call, result, waits)
        return _success(call, result)

    def _unknown(self, peer: Peer, method: str) -> CallError:
        self._refused["?"] += 1
        if self._refused["?"] <= WARNINGS:
            log.warning("client %s called %s, which is no call; %s", peer.name, method, FIX)
        return CallError(f"{method}: no such call; {FIX}")

    async def _later(self, call: Call, result: Awaitable[Any], waits: bool) -> object:
        try:
            return _success(call, await result)
        except Exception as error:
            return self._failed(call, error, waits)

    def _answer(self, call: Call, parameters: list[Any]) -> Any:
        if len(parameters) != len(call.parameters):
            raise SimulationError(
                f"{call.name}: got {len(parameters)} parameters, want {len(call.parameters)}; {FIX}"
            )
        if call.status is Status.REFUSED:
            raise SimulationError(f"{call.name}: not supported by this world ({call.note})")
        read = []
        for name, value in zip(call.parameters, parameters, strict=True):
            try:
                read.append(values.PARAMETERS[name](value))
            except Malformed as error:
                raise SimulationError(f"{call.name}: parameter '{name}' {error}; {FIX}") from None
        if call.name not in _HARMLESS:
            self.touched = True
        return getattr(self, call.name)(*read)

    def _failed(self, call: Call, error: Exception, waits: bool) -> object:
        if isinstance(error, SimulationError | TriptychError | ValueError):
            message = " ".join(str(error).split())
        else:
            log.error("a defect of the server in %s", call.name, exc_info=error)
            message = f"{call.name}: internal error ({type(error).__name__}: {error})"
        if not waits or call.answer is Answer.NONE:
            # The client has thrown the answer away already: the log is all its author can see.
            self._refused[call.name] += 1
            if self._refused[call.name] <= WARNINGS:
                more = "; more of these are not shown" * (self._refused[call.name] == WARNINGS)
                log.warning("%s was refused: %s%s", call.name, message, more)
        if call.answer is Answer.LIST:
            return CallError(message)
        if call.answer is Answer.VALUE:
            return [[0, [message]]]
        return [[True, [message]]]

    # --- connecting and time

    def version(self) -> str:
        return CARLA_VERSION

    def get_episode_info(self) -> list[Any]:
        return [self.host.episode, [self.host.token(1)]]

    def get_sensor_token(self, stream: int) -> list[Any]:
        self.host.expect(stream)
        return [self.host.token(stream)]

    def get_episode_settings(self) -> list[Any]:
        return values.settings_out(self.world.settings)

    def set_episode_settings(self, settings: Settings) -> int:
        """Take settings over; returns the frame they hold from.

        An episode that nobody has touched begins again when it becomes synchronous, at the next
        round frame: how long it ran by itself before depends on the machine, and what follows
        should not.
        """
        was = self.world.settings.synchronous_mode
        self.world.set_settings(settings)
        if settings.synchronous_mode and not was and not self.touched:
            weather = self.world.weather
            self.world.reset(reset_settings=False)
            self.world.set_weather(weather)
            self.world.frame = (self.world.frame // FRAMES + 1) * FRAMES
            self.host.publish()
        self.host.settings_changed()
        return self.world.frame

    def tick_cue(self) -> int | Awaitable[int]:
        if self.world.settings.synchronous_mode:
            return self.host.tick()
        return self.world.frame + 1  # the frame that comes by itself

    # --- maps

    def get_available_maps(self) -> list[str]:
        return [f"/Game/Carla/Maps/{name}" for name in self.host.towns()]

    async def load_new_episode(self, name: str, reset_settings: bool, layers: int) -> None:
        await self.host.load(name.replace("\\", "/").rpartition("/")[2], reset_settings)

    async def copy_opendrive_to_file(self, opendrive: str, generation: list[Any]) -> None:
        await self.host.keep_opendrive(opendrive)

    def load_map_layer(self, layers: int) -> None:
        pass

    def unload_map_layer(self, layers: int) -> None:
        pass

    def get_map_info(self) -> list[Any]:
        points = self.world.town.network.spawn_points
        name = f"Carla/Maps/{self.world.town.name}"
        return [name, [values.transform_out(point) for point in points]]

    def get_map_data(self) -> str:
        return self.world.town.opendrive

    async def get_required_files(self, folder: str) -> list[str]:
        if "nav" not in folder.lower():
            return []  # the map itself comes by get_map_data
        name, data = await self.host.navigation()
        return [name] if data else []

    async def request_file(self, name: str) -> bytes:
        known, data = await self.host.navigation()
        if name != known or not data:
            raise SimulationError(f"request_file: no file '{name}'")
        return data

    async def get_navigation_mesh(self) -> bytes:
        return (await self.host.navigation())[1]

    # --- the world

    def get_actor_definitions(self) -> list[Any]:
        return values.definitions_out()

    def get_spectator(self) -> list[Any]:
        return self.actor_out(self.world.spectator)

    def get_weather_parameters(self) -> list[float]:
        return [float(value) for value in self.world.weather.values()]

    def set_weather_parameters(self, weather: Weather) -> None:
        self.world.set_weather(weather)

    def get_imui_gravity(self) -> float:
        return float(self.world.imu_gravity)

    def set_imui_gravity(self, gravity: float) -> None:
        if not abs(gravity) < 1e6:
            raise SimulationError(f"set_imui_gravity: {gravity} is no gravity in m/s2")
        self.world.imu_gravity = gravity

    def get_names_of_all_objects(self) -> list[str]:
        return [piece.name for piece in self.world.surroundings.environment_objects()]

    def get_all_level_BBs(self, tag: int) -> list[Any]:
        return [_surrounding_box(piece) for piece in self.world.surroundings.level_boxes(tag)]

    def get_environment_objects(self, tag: int) -> list[Any]:
        return [
            [
                *(values.transform_out(piece.transform), _surrounding_box(piece)),
                *(piece.id, piece.name, int(piece.tag)),
            ]
            for piece in self.world.surroundings.environment_objects(tag)
        ]

    def enable_environment_objects(self, objects: list[int], enabled: bool) -> None:
        self.world.surroundings.enable_environment_objects(objects, enabled)

    def cast_ray(self, start: Vector, end: Vector) -> list[Any]:
        hits = self.world.surroundings.cast_ray(start, end)
        return [[values.vector_out(place), int(tag)] for place, tag in hits]

    def project_point(self, location: Vector, direction: Vector, distance: float) -> list[Any]:
        hit = self.world.surroundings.project_point(location, direction, distance)
        if hit is None:
            return [False, [[0.0, 0.0, 0.0], 0]]
        return [True, [values.vector_out(hit[0]), int(hit[1])]]

    def set_annotations_traverse_translucency(self, enabled: bool) -> None:
        pass

    # --- any actor

    def actor_out(self, actor: Actor) -> list[Any]:
        """``actor`` as clients read it."""
        return values.actor_out(actor, self.host.token(actor.stream) if actor.stream else b"")

    def get_actors_by_id(self, actors: list[int]) -> list[Any]:
        there = self.world.actors
        return [self.actor_out(there[number]) for number in actors if number in there]

    def spawn_actor(self, description: Description, transform: Transform) -> list[Any]:
        return self.actor_out(self.world.spawn(*description, transform))

    def spawn_actor_with_parent(
        self,
        description: Description,
        transform: Transform,
        parent: int,
        attachment: int,
        socket: str,
    ) -> list[Any]:
        if socket:
            raise SimulationError(
                f"spawn_actor_with_parent: no socket or bone '{socket}': actors are boxes; "
                "attach to the actor itself"
            )
        if parent not in self.world.actors:
            raise SimulationError("unable to attach actor: parent actor not found")
        return self.actor_out(self.world.spawn(*description, transform, parent, attachment))

    def destroy_actor(self, actor: int) -> bool:
        if not self.world.destroy(actor):
            raise SimulationError("unable to destroy actor: not found")
        return True

    def get_actor_bounding_box(self, actor: int) -> list[Any]:
        # CARLA's traffic manager asks this of each of its cars after each frame, in a thread where an
        # error ends the client's process; a car may have gone since that frame.
        if actor in self._boxes and actor not in self.world.actors:
            return self._boxes[actor]
        found = self._boxes[actor] = values.box_out(self.world.actor(actor).box, actor)
        if len(self._boxes) > MAX_BOXES:
            del self._boxes[next(iter(self._boxes))]
        return found

    def set_actor_location(self, actor: int, location: Vector) -> None:
        self.world.bodies.set_location(actor, location)

    def set_actor_transform(self, actor: int, transform: Transform) -> None:
        self.world.bodies.set_transform(actor, transform)

    def set_actor_target_velocity(self, actor: int, vector: Vector) -> None:
        self.world.bodies.set_target_velocity(actor, vector)

    def set_actor_target_angular_velocity(self, actor: int, vector: Vector) -> None:
        self.world.bodies.set_target_angular_velocity(actor, vector)

    def enable_actor_constant_velocity(self, actor: int, vector: Vector) -> None:
        self.world.bodies.enable_constant_velocity(actor, vector)

    def disable_actor_constant_velocity(self, actor: int) -> None:
        self.world.bodies.disable_constant_velocity(actor)

    def add_actor_impulse(self, actor: int, impulse: Vector) -> None:
        self.world.bodies.add_impulse(actor, impulse)

    def add_actor_impulse_at_location(self, actor: int, impulse: Vector, at: Vector) -> None:
        self.world.bodies.add_impulse(actor, impulse, at)

    def add_actor_force(self, actor: int, force: Vector) -> None:
        self.world.bodies.add_force(actor, force)

    def add_actor_force_at_location(self, actor: int, force: Vector, at: Vector) -> None:
        self.world.bodies.add_force(actor, force, at)

    def add_actor_angular_impulse(self, actor: int, impulse: Vector) -> None:
        self.world.bodies.add_angular_impulse(actor, impulse)

    def add_actor_torque(self, actor: int, torque: Vector) -> None:
        self.world.bodies.add_torque(actor, torque)

    def set_actor_simulate_physics(self, actor: int, enabled: bool) -> None:
        self.world.bodies.set_simulate_physics(actor, enabled)

    def set_actor_collisions(self, actor: int, enabled: bool) -> None:
        self.world.bodies.set_collisions(actor, enabled)

    def set_actor_enable_gravity(self, actor: int, enabled: bool) -> None:
        self.world.bodies.set_enable_gravity(actor, enabled)

    def set_actor_dead(self, actor: int) -> None:
        self.world.bodies.set_dead(actor)

    # --- vehicles

    def apply_control_to_vehicle(self, actor: int, control: tuple[Any, ...]) -> None:
        self.world.vehicles.apply_control(actor, *control)

    def apply_ackermann_control_to_vehicle(self, actor: int, control: tuple[float, ...]) -> None:
        self.world.vehicles.apply_ackermann(actor, *control)

    def get_ackermann_controller_settings(self, actor: int) -> list[float]:
        return values.vector_out(self.world.vehicles.ackermann_settings(actor))

    def apply_ackermann_controller_settings(self, actor: int, gains: tuple[float, ...]) -> None:
        self.world.vehicles.set_ackermann_settings(actor, gains)

    def get_physics_control(self, actor: int) -> list[Any]:
        return self.world.vehicles.physics(actor)

    def apply_physics_control(self, actor: int, physics: tuple[Any, ...]) -> None:
        self.world.vehicles.set_physics(actor, physics)

    def set_actor_autopilot(self, actor: int, enabled: bool) -> None:
        # Two drivers would fight over one wheel: the client's traffic manager sends controls.
        if self.world.actor(actor).kind != "vehicle":
            raise SimulationError(f"set_actor_autopilot: actor {actor} is no vehicle")

    def get_telemetry_data(self, actor: int) -> list[Any]:
        *rest, wheels = self.world.vehicles.telemetry(actor)
        speed, steer, throttle, brake, rpm, gear, drag = rest
        if any(len(wheel) != 11 for wheel in wheels):
            raise TypeError("a wheel's telemetry has 11 numbers in CARLA 0.9.16")
        floats = values.vector_out((speed, steer, throttle, brake, rpm))
        return [*floats, int(gear), float(drag), [values.vector_out(wheel) for wheel in wheels]]

    def show_vehicle_debug_telemetry(self, actor: int, enabled: bool) -> None:
        self.world.actor(actor)

    def get_vehicle_light_state(self, actor: int) -> list[int]:
        return [int(self.world.vehicles.light_state(actor))]

    def set_vehicle_light_state(self, actor: int, lights: int) -> None:
        self.world.vehicles.set_light_state(actor, lights)

    def get_vehicle_light_states(self) -> list[list[int]]:
        return [[int(actor), int(state)] for actor, state in self.world.vehicles.light_states()]

    def open_vehicle_door(self, actor: int, door: int) -> None:
        self.world.vehicles.open_door(actor, door)

    def close_vehicle_door(self, actor: int, door: int) -> None:
        self.world.vehicles.close_door(actor, door)

    def get_wheel_steer_angle(self, actor: int, wheel: int) -> float:
        return float(self.world.vehicles.wheel_steer_angle(actor, wheel))

    def set_wheel_steer_direction(self, actor: int, wheel: int, angle: float) -> None:
        self.world.vehicles.set_wheel_steer(actor, wheel, angle)

    def restore_physx_physics(self, actor: int) -> None:
        self.world.actor(actor)

    # --- walkers

    def apply_control_to_walker(self, actor: int, control: tuple[Any, ...]) -> None:
        self.world.people.apply_control(actor, *control)

    # --- traffic lights

    def set_traffic_light_state(self, actor: int, state: int) -> None:
        self.world.signals.set_state(actor, state)

    def set_traffic_light_green_time(self, actor: int, seconds: float) -> None:
        self.world.signals.set_green_time(actor, seconds)

    def set_traffic_light_yellow_time(self, actor: int, seconds: float) -> None:
        self.world.signals.set_yellow_time(actor, seconds)

    def set_traffic_light_red_time(self, actor: int, seconds: float) -> None:
        self.world.signals.set_red_time(actor, seconds)

    def freeze_traffic_light(self, actor: int, frozen: bool) -> None:
        self.world.signals.freeze(actor, frozen)

    def freeze_all_traffic_lights(self, frozen: bool) -> None:
        self.world.signals.freeze_all(frozen)

    def reset_traffic_light_group(self, actor: int) -> None:
        self.world.signals.reset_group(actor)

    def reset_all_traffic_lights(self) -> None:
        self.world.signals.reset_all()

    def get_group_traffic_lights(self, actor: int) -> list[int]:
        return [int(number) for number in self.world.signals.group(actor)]

    def get_light_boxes(self, actor: int) -> list[Any]:
        return [_surrounding_box(piece) for piece in self.world.signals.light_boxes(actor)]

    # --- street lights

    def query_lights_state(self, endpoint: str) -> list[Any]:
        night = self.world.weather.sun_altitude_angle <= 0.0
        lamps = self.world.town.scenery.lamps
        return [
            self.lamps.get(number)
            or [number, values.vector_out(lamp), 1.0, STREET, [255, 214, 170], night]
            for number, lamp in enumerate(lamps, start=1)
        ]

    def update_lights_state(self, endpoint: str, lamps: list[Any], discard: bool) -> None:
        count = len(self.world.town.scenery.lamps)
        for number, place, intensity, group, colour, active in lamps:
            if 1 <= number <= count:
                self.lamps[number] = [
                    *(number, list(place), intensity, group, list(colour), active)
                ]
        self.host.announce(SimulationState.PENDING_LIGHT_UPDATE)

    def update_day_night_cycle(self, endpoint: str, active: bool) -> None:
        pass

    # --- sensors

    def disable_sensor_for_ros(self, stream: int) -> None:
        pass

    def is_sensor_enabled_for_ros(self, stream: int) -> bool:
        return False

    def are_gbuffers_enabled(self, actor: int) -> bool:
        return False

    # --- CARLA's traffic managers

    def is_traffic_manager_running(self, port: int) -> bool:
        return port in self.managers

    def get_traffic_manager_running(self, port: int) -> list[Any]:
        return [self.managers[port], port] if port in self.managers else ["", 0]

    def add_traffic_manager_running(self, manager: tuple[str, int]) -> bool:
        address, port = manager
        if port in self.managers:
            return False
        self.managers[port] = address
        if self.peer is not None:
            # It lives in the client's process: a client that was killed takes it along unsaid.
            self.peer.on_close.append(lambda: self.destroy_traffic_manager(port))
        return True

    def destroy_traffic_manager(self, port: int) -> None:
        self.managers.pop(port, None)

    # --- batches

    def apply_batch(self, commands: list[Any], tick: bool) -> list[Any] | Awaitable[list[Any]]:
        results = [run_command(self, command[0]) for command in commands]
        if tick and self.world.settings.synchronous_mode:
            ticked = self.host.tick()
            if asyncio.iscoroutine(ticked):
                return _after(ticked, results)
        return results

    # --- debugging

    def draw_debug_shape(self, shape: tuple[Any, ...]) -> None:
        self.world.debug_shapes.append(shape)

    def clear_debug_shape(self) -> None:
        self.world.debug_shapes.clear()

    def clear_debug_string(self) -> None:
        self.clear_debug_shape()


async def _after(first: Awaitable[Any], results: list[Any]) -> list[Any]:
    await first
    return results


def _success(call: Call, value: Any) -> object:
    if call.answer is Answer.LIST:
        return value
    return [[1, value]] if call.answer is Answer.VALUE else [[False]]


def _surrounding_box(piece: Surrounding) -> list[Any]:
    place = piece.transform
    box = BoundingBox((place.x, place.y, place.z), piece.half, place.yaw)
    return values.box_out(box, piece.id)
