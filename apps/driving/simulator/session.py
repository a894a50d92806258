"""A session with a simulator: the embedded world, or a real CARLA 0.9.16, the same from here on.

Time stands still between ticks. Everything goes through CARLA's public Python client, and what a
session spawned goes with it. In the embedded world, traffic is the world's own, decided by the seed;
in a real CARLA it is the Traffic Manager's, which has threads of its own: there a seed repeats an
episode only as well as the Traffic Manager does.

Never ``apply_batch_sync(..., True)``: it holds Python's lock while it waits for a frame, and cameras
whose callbacks wait for that lock keep the frame away (docs/driving.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from apps.driving.routes.files import WEATHER
from apps.driving.simulator.connection import SimulatorGone, connect, explain, plain_town
from core.errors import DataError, ResourceError, UsageError, nearest

if TYPE_CHECKING:
    import carla

HOST = "127.0.0.1"
CLEAR_M = 8.0  # around a car that is spawned
LIFT_M = 0.3  # above the road: a car spawned in the road would be refused
SETTLE_TICKS = 10
PROBE_S = 2.0
OFF_ROAD_M = 10.0
ON_ITS_WAY_S = 0.05  # what a sensor's reading takes at most from the tick to this process

T = TypeVar("T")


class Session:
    """``client``, ``world`` and ``map`` are carla's; ``town`` a plain name; ``step`` seconds a tick.

    ``advance`` is how a world is ticked, with a time-out in s. Made by ``open_session``.
    """

    def __init__(
        self,
        client: carla.Client,
        *,
        address: str,
        embedded: bool,
        step: float,
        timeout: float,
    ) -> None:
        self.client = client
        self.address = address
        self.embedded = embedded
        self.step = step
        self.timeout = timeout
        self.world: carla.World = self.ask(client.get_world)
        self.map: carla.Map = self.ask(self.world.get_map)
        self.advance: Callable[[carla.World, float], int] = _plain_tick
        self.town = plain_town(self.map.name)
        self._own: dict[int, carla.Actor] = {}
        self._doubtful = False  # a call found the simulator gone

    def ask(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """A call to the simulator; SimulatorGone where that is gone or does not answer in time."""
        try:
            return call(*arguments, **named)
        except RuntimeError as error:
            raise self._explain(error) from error

    def _explain(self, error: RuntimeError) -> ResourceError:
        reason = explain(error, self.address)
        self._doubtful = self._doubtful or isinstance(reason, SimulatorGone)
        return reason

    def answers(self) -> bool:
        """Whether there is still somebody to clean up with: else each call waits for its time-out."""
        if self._doubtful:
            self.client.set_timeout(min(self.timeout, PROBE_S))
            try:
                self.client.get_server_version()
                self._doubtful = False
            except RuntimeError:
                return False
            finally:
                self.client.set_timeout(self.timeout)
        return True

    def tick(self) -> carla.WorldSnapshot:
        """One step; what the world is then."""
        frame = self.ask(self.advance, self.world, self.timeout)
        snapshot = self.ask(self.world.get_snapshot)
        if snapshot.frame < frame:
            snapshot = self.ask(self.world.wait_for_tick, self.timeout)
        return snapshot

    def ticks(self, count: int) -> carla.WorldSnapshot:
        """Several steps, one at least."""
        for _ in range(max(count, 1)):
            snapshot = self.tick()
        return snapshot

    def alive(self, actor: carla.Actor) -> bool:
        """Whether an actor was in the world at the last tick."""
        return bool(self.ask(self.world.get_snapshot).has_actor(actor.id))

    # --- actors

    def spawn(
        self,
        blueprint: str,
        transform: carla.Transform,
        parent: carla.Actor | None = None,
        **attributes: Any,
    ) -> carla.Actor:
        """An actor of this session's own, which goes with it; sensors are attached rigidly.

        Raises UsageError for an unknown blueprint or attribute, ResourceError where there is no room.
        """
        import carla

        found = self._blueprint(blueprint, attributes)
        try:
            actor = self.world.spawn_actor(found, transform, parent, carla.AttachmentType.Rigid)
        except RuntimeError as error:
            reason = self._explain(error)
            if isinstance(reason, SimulatorGone):
                raise reason from error
            raise ResourceError(
                f"{blueprint} cannot be spawned at ({transform.location.x:.1f}, "
                f"{transform.location.y:.1f}) in {self.town}: {error}"
            ) from error
        self._own[actor.id] = actor
        return actor

    def _blueprint(self, name: str, attributes: Mapping[str, Any]) -> carla.ActorBlueprint:
        library = self.ask(self.world.get_blueprint_library)
        try:
            found = library.find(name)
        except (IndexError, RuntimeError) as error:
            known = [blueprint.id for blueprint in library]
            raise UsageError(f"no blueprint '{name}' here.{nearest(name, known)}") from error
        for key, value in attributes.items():
            if not found.has_attribute(key):
                raise UsageError(f"{name} has no attribute '{key}'")
            found.set_attribute(key, str(value))
        return found

    def spawn_ego(
        self,
        place: carla.Transform | Sequence[float],
        blueprint: str = "vehicle.tesla.model3",
    ) -> carla.Vehicle:
        """The car to be driven, standing on its wheels at a transform or (x, y[, z[, yaw]]).

        Vehicles and walkers within ``CLEAR_M`` are removed first. The height is the road's, raised a
        little, so that ``z`` need only be on the right level; without ``yaw`` it heads along the lane.

        Raises DataError where there is no road within 10 m, ResourceError where it cannot stand.
        """
        import carla

        if isinstance(place, carla.Transform):
            at = carla.Location(place.location.x, place.location.y, place.location.z)
            given: float | None = place.rotation.yaw
        else:
            numbers = [float(v) for v in place]
            if not 2 <= len(numbers) <= 4 or not all(math.isfinite(v) for v in numbers):
                raise DataError(f"a place to start at is (x, y, z, yaw), got {tuple(place)}")
            at = carla.Location(numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else 0.0)
            given = numbers[3] if len(numbers) > 3 else None
        road = self.map.get_waypoint(at)
        for _ in range(3):  # the nearest lane in space: with a wrong height it may be another one
            if road is not None:
                at.z = road.transform.location.z
                road = self.map.get_waypoint(at)
        gap = math.inf if road is None else math.hypot(*_flat(road.transform.location, at))
        if gap > OFF_ROAD_M:
            raise DataError(
                f"start ({at.x:.1f}, {at.y:.1f}): no driving lane of {self.town} within "
                f"{OFF_ROAD_M:.0f} m"
            )
        self._clear(at)
        yaw = road.transform.rotation.yaw if given is None else given
        height = road.transform.location.z
        refused: ResourceError | None = None
        for lift in (LIFT_M, 3 * LIFT_M, 6 * LIFT_M):
            transform = carla.Transform(
                carla.Location(at.x, at.y, height + lift), carla.Rotation(yaw=yaw)
            )
            try:
                ego = self.spawn(blueprint, transform, role_name="hero")
                break
            except SimulatorGone:
                raise
            except ResourceError as error:
                refused = error
        else:
            assert refused is not None
            raise refused
        self.ask(ego.apply_control, carla.VehicleControl(brake=1.0, hand_brake=False))
        self.ticks(SETTLE_TICKS)
        if not self.alive(ego):
            raise ResourceError(f"the car at ({at.x:.1f}, {at.y:.1f}) was removed by the simulator")
        return ego

    def _clear(self, at: carla.Location, radius: float = CLEAR_M) -> None:
        """Remove vehicles and walkers around a place."""
        actors = self.ask(self.world.get_actors)
        gone = [
            actor
            for kind in ("vehicle.*", "walker.*")
            for actor in actors.filter(kind)
            if math.hypot(*_flat(actor.get_location(), at)) < radius
        ]
        ids = {actor.id for actor in gone}
        # A walker's controller goes first: CARLA's client steers what is left of it otherwise.
        controllers = [
            actor
            for actor in actors.filter("controller.*")
            if actor.parent is not None and actor.parent.id in ids
        ]
        if gone:
            self.destroy([*controllers, *gone])
            self.tick()

    def destroy(self, actors: Sequence[carla.Actor | None]) -> None:
        """Remove actors, in this order, whatever of them is still there. Sensors stop first."""
        reachable = self.answers()
        if reachable and any(actor is not None and _listens(actor) for actor in actors):
            # The client's library aborts when a sensor is stopped while a reading of its arrives.
            time.sleep(ON_ITS_WAY_S)
        for actor in actors:
            if actor is None:
                continue
            self._own.pop(actor.id, None)
            if not reachable:
                continue
            # What is gone already is as good as destroyed; a simulator that is gone shows at a tick.
            with suppress(RuntimeError):
                if _listens(actor):
                    actor.stop()
                if actor.type_id.startswith("controller."):
                    actor.stop()
            with suppress(RuntimeError):
                actor.destroy()

    def close(self) -> None:
        """Destroy what this session spawned: sensors and controllers before what carries them."""
        last = {"sensor": 0, "controller": 0}
        own = sorted(
            self._own.values(), key=lambda a: (last.get(a.type_id.split(".")[0], 1), -a.id)
        )
        self.destroy(own)

    # --- weather

    def set_weather(self, weather: Mapping[str, float]) -> None:
        """Fields of ``carla.WeatherParameters``; those not given are as in CARLA's ClearNoon.

        Raises UsageError for an unknown field, DataError for a number that is not finite.
        """
        import carla

        found = carla.WeatherParameters.ClearNoon
        # A preset is one object for the whole process: never change it.
        values = {name: float(getattr(found, name)) for name in WEATHER}
        for name, value in weather.items():
            if name not in values:
                raise UsageError(f"weather: no field '{name}'.{nearest(name, WEATHER)}")
            if not math.isfinite(float(value)):
                raise DataError(f"weather: {name} is {value}; want a finite number")
            values[name] = float(value)
        self.ask(self.world.set_weather, carla.WeatherParameters(**values))


@contextmanager
def open_session(
    town: str | Path,
    *,
    host: str | None = None,
    port: int = 2000,
    seed: int = 0,
    traffic: int = 0,
    walkers: int = 0,
    renderer: str = "numpy",
    step: float = 0.05,
    timeout: float = 20.0,
) -> Iterator[Session]:
    """A session in a town while the block runs.

    Without ``host``: an embedded world of its own, with ``traffic`` vehicles and ``walkers``; a town
    is an .xodr file or ``procedural:SEED``. With ``host``: a real CARLA; a town is one of its own by
    name, or an .xodr file, which is that town where CARLA has one of this name and is otherwise
    built from the file's roads. Traffic and walkers are spawned with the seed, and at the end
    settings are restored and what was spawned is destroyed.

    Raises SimulatorGone where nobody answers, ResourceError for another version than 0.9.16,
    DataError or UsageError for a town that is unknown or cannot be used.
    """
    from core.errors import need

    need("carla", "driving")
    if step <= 0 or not math.isfinite(step):
        raise UsageError(f"step {step}: want seconds above 0, such as 0.05")
    with ExitStack() as stack:
        if host is None:
            from apps.driving.world import serve

            address = stack.enter_context(
                serve(
                    town,
                    seed=seed,
                    renderer=renderer,
                    traffic=traffic,
                    walkers=walkers,
                    synchronous=True,
                )
            )
            session = Session(
                connect(HOST, address, timeout),
                address=f"{HOST}:{address}",
                embedded=True,
                step=step,
                timeout=timeout,
            )
            stack.callback(session.close)
            synchronous(session, step)
            session.tick()  # before it, actors are nowhere
        else:
            from apps.driving.simulator import remote

            session = stack.enter_context(
                remote.session(
                    town,
                    host=host,
                    port=port,
                    seed=seed,
                    traffic=traffic,
                    walkers=walkers,
                    step=step,
                    timeout=timeout,
                )
            )
        yield session


def synchronous(session: Session, step: float) -> None:
    settings = session.ask(session.world.get_settings)
    settings.synchronous_mode = True
    settings.fixed_delta_seconds = step
    settings.no_rendering_mode = False
    settings.substepping = True
    settings.max_substep_delta_time = 0.01
    settings.max_substeps = max(10, math.ceil(step / 0.01))
    session.ask(session.world.apply_settings, settings, session.timeout)


def _plain_tick(world: carla.World, timeout: float) -> int:
    """The frame's number."""
    return int(world.tick(timeout))


def _flat(a: carla.Location, b: carla.Location) -> tuple[float, float]:
    return a.x - b.x, a.y - b.y


def _listens(actor: carla.Actor) -> bool:
    return bool(actor.type_id.startswith("sensor.") and actor.is_listening())
