"""Sessions with a CARLA that somebody else runs: its town, its settings, the Traffic Manager's traffic.

Everything is left as it was found: settings are restored and what was spawned is destroyed, unless
the simulator has gone meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.simulator.connection import SimulatorGone, connect, explain, plain_town
from apps.driving.simulator.session import Session, synchronous
from apps.driving.simulator.waker import Waker
from core.errors import DataError, ResourceError, TriptychError, UsageError, unknown

if TYPE_CHECKING:
    import carla

PROCEDURAL = "procedural:"
LOADING_S = 180.0  # a real CARLA takes up to a minute to load a large town
TRAFFIC_MANAGER_PORT = 8000


@contextmanager
def session(
    town: str | Path,
    *,
    host: str,
    port: int,
    seed: int,
    traffic: int,
    walkers: int,
    step: float,
    timeout: float,
) -> Iterator[Session]:
    """See ``open_session``."""
    if not 0 < port < 65536:
        raise UsageError(f"port {port}: give 1 to 65535")
    client = connect(host, port, timeout)
    address = f"{host}:{port}"
    try:
        _load(client, town, timeout)
        world = client.get_world()
        before = world.get_settings()
    except RuntimeError as error:
        raise explain(error, address) from error
    opened = Session(client, address=address, embedded=False, step=step, timeout=timeout)
    opened.town = _name(town)  # a map built from a file is called OpenDriveMap
    crowd = _Crowd(opened, seed)
    try:
        synchronous(opened, step)
        opened.tick()  # before it, actors are nowhere
        crowd.spawn(traffic, walkers)
        yield opened
    finally:
        if opened.answers():
            crowd.close()
            opened.close()
        if opened.answers():
            with suppress(RuntimeError):
                world.apply_settings(before, timeout)


def _load(client: carla.Client, town: str | Path, timeout: float) -> None:
    """Make ``town`` the simulator's world, if it is not already."""
    wanted = _name(town)
    now = client.get_world().get_map().name
    if plain_town(now) == wanted:
        return
    known = {plain_town(path): path for path in client.get_available_maps()}
    client.set_timeout(max(timeout, LOADING_S))
    try:
        if wanted in known:
            client.load_world(known[wanted])
        elif str(town).lower().endswith(".xodr") or str(town).startswith(PROCEDURAL):
            client.generate_opendrive_world(_opendrive(town))
        else:
            raise DataError(unknown("town", wanted, known))
    finally:
        client.set_timeout(timeout)


def _name(town: str | Path) -> str:
    """As the embedded world would call it: ``Town01`` of a file, ``Procedural3`` of a seed."""
    given = str(town)
    if given.startswith(PROCEDURAL):
        return f"Procedural{given.removeprefix(PROCEDURAL)}"
    return Path(given).stem if given.lower().endswith(".xodr") else plain_town(given)


def _opendrive(town: str | Path) -> str:
    """The checked text of a town that the simulator does not have."""
    from apps.driving.world.maps.opendrive import check_opendrive, read_opendrive

    if str(town).startswith(PROCEDURAL):
        from apps.driving.world.maps.procedural import generate

        number = str(town).removeprefix(PROCEDURAL)
        if not number.isdecimal():
            raise UsageError(f"town '{town}': the seed must be a whole number, as in {PROCEDURAL}0")
        return generate(int(number))
    text = read_opendrive(town)
    check_opendrive(text, str(town))
    return text


class _Crowd:
    """Vehicles on the Traffic Manager's autopilot and walkers with controllers."""

    def __init__(self, session: Session, seed: int) -> None:
        self._session = session
        self._seed = seed
        self._manager: Any = None
        self._waker: Waker | None = None
        self._cars: list[Any] = []

    def spawn(self, vehicles: int, walkers: int) -> None:
        """As many as there is room for; the world is synchronous already."""
        session = self._session
        rng = np.random.default_rng([self._seed, 41])
        if vehicles:
            # The manager has a thread of its own, which must not read a world that is replaced.
            self._manager = session.ask(session.client.get_trafficmanager, TRAFFIC_MANAGER_PORT)
            self._manager.set_synchronous_mode(True)
            self._manager.set_random_device_seed(self._seed)
            self._waker = Waker(self._manager.get_port())
            session.advance = self._waker.tick
            places = list(session.map.get_spawn_points())
            names = sorted(
                blueprint.id
                for blueprint in session.world.get_blueprint_library().filter("vehicle.*")
                if blueprint.get_attribute("number_of_wheels").as_int() == 4
            )
            for number in rng.permutation(len(places))[:vehicles].tolist():
                self._vehicle(rng, names, places[number])
            session.tick()
        if walkers:
            session.ask(session.world.set_pedestrians_seed, self._seed)
            for _ in range(walkers):
                self._walker(rng)

    def _vehicle(self, rng: np.random.Generator, names: list[str], place: carla.Transform) -> None:
        name = names[int(rng.integers(len(names)))]
        car = self._spawn(name, place, role_name="autopilot")
        if car is not None:
            self._cars.append(car)
            self._session.ask(car.set_autopilot, True, TRAFFIC_MANAGER_PORT)

    def _spawn(
        self,
        name: str,
        place: carla.Transform,
        parent: carla.Actor | None = None,
        **attributes: Any,
    ) -> carla.Actor | None:
        """None where somebody stands there."""
        try:
            return self._session.spawn(name, place, parent, **attributes)
        except SimulatorGone:
            raise
        except ResourceError:
            return None

    def _walker(self, rng: np.random.Generator) -> None:
        import carla

        session = self._session
        place = session.ask(session.world.get_random_location_from_navigation)
        if place is None:  # a town without footways
            return
        names = sorted(b.id for b in session.world.get_blueprint_library().filter("walker.*"))
        place.z += 1.0
        name = names[int(rng.integers(len(names)))]
        walker = self._spawn(name, carla.Transform(place), is_invincible=False)
        if walker is None:
            return
        controller = self._spawn("controller.ai.walker", carla.Transform(), walker)
        session.tick()  # a controller knows its walker from the next frame on
        if controller is not None:
            session.ask(controller.start)
            goal = session.ask(session.world.get_random_location_from_navigation)
            if goal is not None:
                session.ask(controller.go_to_location, goal)
            session.ask(controller.set_max_speed, float(rng.uniform(1.0, 1.8)))

    def close(self) -> None:
        """Take the cars from the manager, which would ask those that are gone, and end its mode.

        The manager itself stays: it may be somebody else's.
        """
        if self._manager is None:
            return
        with suppress(RuntimeError, TriptychError):
            for car in self._cars:
                car.set_autopilot(False, TRAFFIC_MANAGER_PORT)
            self._session.tick()
        with suppress(RuntimeError):
            self._manager.set_synchronous_mode(False)
        if self._waker is not None:
            self._waker.close()
