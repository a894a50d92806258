"""A world and the clients around it, on one event loop of one thread.

Everything that touches the world runs on the loop, one thing after the other, so there are no locks;
only building a town and its navigation file happens beside it.

In synchronous mode the world moves when a client says so, and stands still while nobody does. In
asynchronous mode it moves by itself in real time, as long as anybody is looking.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.maps import navmesh
from apps.driving.world.protocol import layouts
from apps.driving.world.protocol.handlers import OPENDRIVE_MAP, Handlers
from apps.driving.world.protocol.layouts import (
    WORLD_OBSERVER_STREAM,
    SensorType,
    SimulationState,
)
from apps.driving.world.protocol.measurements import encode
from apps.driving.world.protocol.rpc import RpcServer
from apps.driving.world.protocol.streams import StreamServer
from apps.driving.world.render import open_renderer
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.world import World
from apps.driving.world.town import PROCEDURAL, Town, build_town
from core.errors import TriptychError, nearest

log = logging.getLogger(__name__)

STEP_S = 0.05  # of asynchronous mode without a fixed step
SHORTEST_S, LONGEST_S = 0.005, 0.1  # between which a step of measured time may be
EPISODE_BITS = 20  # a stream's id on the wire: its episode above these bits, the sensor's below
NEWCOMER_S = 1.0  # that readers of former episodes wait for one of the new episode
DEFECTS = 5  # of ticking that are logged in full


class Server:
    """A world and the clients around it. ``start`` first, then the loop runs it."""

    def __init__(
        self,
        town: Town,
        *,
        loop: asyncio.AbstractEventLoop,
        folder: Path | None = None,
        seed: int = 0,
        renderer: str = "numpy",
        traffic: int = 0,
        walkers: int = 0,
        synchronous: bool = False,
    ) -> None:
        """``folder`` holds the .xodr files that clients may load beside ``town``.

        Raises ResourceError when the renderer is not available here.
        """
        self.loop = loop
        self.episode = 1
        self.stream_port = 0
        self._folder, self._seed = folder, seed
        self._renderer = open_renderer(renderer)
        self.world = World(town, seed, self._renderer, traffic, walkers)
        if synchronous:
            self.world.set_settings(
                replace(self.world.settings, synchronous_mode=True, fixed_delta_seconds=STEP_S)
            )
        # Frame 0 is what a client believes to have seen already.
        self.world.frame = max(self.world.frame, 1)
        self.handlers = Handlers(self.world, self)
        self._rpc = RpcServer(self.handlers.dispatch, loop)
        self._streams = StreamServer(loop)
        self._streams.on_first = lambda stream: self._listen(stream, True)
        self._streams.on_last = lambda stream: self._listen(stream, False)
        self._streams.greet = self._greet
        self._announced = SimulationState.NONE
        self._held: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._due = self._ticked = self._started = loop.time()
        self._loading = asyncio.Lock()
        self._sent: Town | None = None  # the map a client has sent
        self._navigation: tuple[Town, asyncio.Future[tuple[str, bytes]]] | None = None
        self._defects = 0

    async def start(self, calls: socket.socket, streams: socket.socket) -> None:
        """Serve on two bound sockets."""
        self.stream_port = streams.getsockname()[1]
        await self._streams.start(streams)
        await self._rpc.start(calls)
        self.settings_changed()

    def close(self) -> None:
        """Leave the clients and the renderer; the loop is the caller's."""
        if self._timer is not None:
            self._timer.cancel()
        self._rpc.close()
        self._streams.close()
        self._renderer.close()

    # --- time

    def settings_changed(self) -> None:
        """Begin or stop to move by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.world.settings.synchronous_mode:
            self._due = self._ticked = self.loop.time()
            self._timer = self.loop.call_soon(self._free_run)

    def _free_run(self) -> None:
        now = self.loop.time()
        if self._streams.readers:
            try:
                self.world.tick(min(max(now - self._ticked, SHORTEST_S), LONGEST_S))
                self._publish()
            except Exception as error:
                self._defect("a tick", error)
        self._ticked = now
        step = self.world.settings.fixed_delta_seconds or STEP_S
        # A world that cannot keep up runs slower: it does not hurry after the clock.
        self._due = max(self._due + step, self.loop.time() + 0.0005)
        self._timer = self.loop.call_at(self._due, self._free_run)

    def tick(self) -> Any:
        """One step; an awaitable when a reader has to catch up or to arrive first."""
        if self._streams.congested:
            return self._tick_when_caught_up()
        return self._tick()

    async def _tick_when_caught_up(self) -> int:
        await self._streams.caught_up()
        return self._tick()

    def _tick(self) -> int:
        frame = self.world.tick()
        self._publish()
        return frame

    def _defect(self, what: str, error: Exception) -> None:
        self._defects += 1
        if self._defects <= DEFECTS:
            log.error("a defect of the server in %s", what, exc_info=error)

    # --- streams

    def token(self, stream: int) -> bytes:
        """The address of a stream: of a sensor by its own number, or of one on the wire."""
        if stream >> EPISODE_BITS == 0:
            stream |= self._episode_bits()
        return layouts.token(stream, self.stream_port)

    def expect(self, stream: int) -> None:
        """A client has asked where a stream is and is about to read it."""
        if _observes(stream) or self._sensor(stream) is not None:
            self._streams.expect(stream)

    def _episode_bits(self) -> int:
        # So that a reader left over from an earlier episode never gets another sensor's data,
        # although ids begin anew. And whoever loads a town listens to the new episode before it leaves
        # the old one: the client's library cannot read one stream twice, and ends the process.
        return (1 + self.episode % 0xFFE) << EPISODE_BITS

    @property
    def _observer(self) -> int:
        return WORLD_OBSERVER_STREAM | self._episode_bits()

    def _sensor(self, stream: int) -> Actor | None:
        """The sensor that sends on a stream of the present episode."""
        number = stream - self._episode_bits()
        if number >> EPISODE_BITS:
            return None
        found = (a for a in self.world.actors.values() if a.stream and a.stream == number)
        return next(found, None)

    def _listen(self, stream: int, listened: bool) -> None:
        sensor = self._sensor(stream)
        if sensor is not None:
            self.world.listen(sensor.id, listened)

    def _greet(self, stream: int) -> bytes | None:
        """The present state for who begins to look: in synchronous mode none may come for long."""
        if not _observes(stream):
            return None
        if stream == self._observer:
            self.loop.call_soon(self._release)
        return self._state(SimulationState.NONE)

    def _state(self, state: SimulationState) -> bytes:
        world = self.world
        synchronous = world.settings.synchronous_mode
        data = layouts.episode_state(
            world.snapshot(),
            episode=self.episode,
            # In synchronous mode nothing that is sent depends on the machine's clock.
            platform_timestamp=world.elapsed if synchronous else self.loop.time() - self._started,
            delta_seconds=world.delta,
            state=state,
        )
        return self._measurement(SensorType.WORLD_OBSERVER, Transform(), data)

    def _measurement(self, kind: SensorType, place: Transform, data: bytes) -> bytes:
        return layouts.measurement(kind, self.world.frame, self.world.elapsed, place, data)

    def _publish(self) -> None:
        """Send what the tick brought: the state, then the readings, as CARLA does."""
        # By the state other clients learn of a new episode, on the stream of the one they know.
        state, observers = SimulationState.NONE, [self._observer]
        if self._held is None:
            state, self._announced = self._announced, state
            observers = [stream for stream in self._streams.read if _observes(stream)]
        if any(self._streams.wanted(stream) for stream in observers):
            message = self._state(state)
            for stream in observers:
                self._streams.send(stream, message)
        for sensor, _, payload in self.world.readings:
            stream = sensor.stream | self._episode_bits()
            if self._streams.wanted(stream):
                try:
                    kind, data = encode(sensor, payload, self._actor_out)
                    place = self.world.transform(sensor.id)
                    self._streams.send(stream, self._measurement(kind, place, data))
                except Exception as error:
                    self._defect(f"a reading of {sensor.type_id}", error)

    def _actor_out(self, actor: Actor) -> list[Any]:
        return self.handlers.actor_out(actor)

    def publish(self) -> None:
        """Send the present state out of turn: readings have had theirs."""
        self.world.readings = []
        self._publish()

    def announce(self, state: SimulationState) -> None:
        """Tell clients with the next state what they should fetch anew."""
        self._announced |= state

    # --- towns

    def towns(self) -> list[str]:
        """Names of the towns that can be loaded, the present one among them."""
        beside = sorted(path.stem for path in self._files())
        return sorted({self.world.town.name, *beside})

    def _files(self) -> list[Path]:
        if self._folder is None:
            return []
        with suppress(OSError):
            return [path for path in self._folder.glob("*.xodr") if path.is_file()]
        return []

    async def load(self, name: str, reset_settings: bool) -> None:
        """A new episode in the present town (an empty name), or in another."""
        async with self._loading:
            town = await self._town(name)
            self.world.load(town, reset_settings)
            self.episode += 1
            self.handlers.touched = False
            self.handlers.lamps.clear()
            self.announce(SimulationState.MAP_CHANGE)
            self.world.readings = []
            self._hold()
            self.settings_changed()

    def _hold(self) -> None:
        """Tell readers of former episodes of the new one when its first reader has come.

        That is mostly whoever loaded it. Between its call and its listening the client's library has
        no episode, and its traffic manager ends the process if it hears of a change just then.
        """
        if self._held is not None:
            self._held.cancel()
        self._held = self.loop.call_later(NEWCOMER_S, self._release)

    def _release(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self.publish()

    async def _town(self, name: str) -> Town:
        present = self.world.town
        plain = name.removesuffix("_Opt")
        if plain in ("", present.name):
            return present
        if plain == OPENDRIVE_MAP and self._sent is not None:
            return self._sent
        paths = {path.stem: path for path in self._files()}
        if plain in paths:
            return await self._build(str(paths[plain]))
        generated = re.fullmatch(r"(?:procedural:|Procedural)(\d{1,18})", plain)
        if generated:
            return await self._build(f"{PROCEDURAL}{generated[1]}")
        known = [*self.towns(), f"{PROCEDURAL}SEED"]
        raise SimulationError(
            f"Map '{name}' not found.{nearest(plain, known)} Known: {', '.join(known)}"
        )

    async def keep_opendrive(self, text: str) -> None:
        """Build the town of a map that a client has sent; SimulationError when it cannot be used."""
        async with self._loading:
            with tempfile.TemporaryDirectory(prefix="carla-world-") as folder:
                path = Path(folder) / f"{OPENDRIVE_MAP}.xodr"
                path.write_text(text, encoding="utf-8", errors="replace")
                try:
                    self._sent = await self._build(str(path))
                except SimulationError as error:
                    # The client knows nothing of the file in which it was kept.
                    message = str(error).replace(str(path), OPENDRIVE_MAP)
                    raise SimulationError(message) from None

    async def _build(self, source: str) -> Town:
        try:
            # Beside the loop: seconds in which the other clients want their answers.
            return await self.loop.run_in_executor(None, build_town, source, self._seed)
        except TriptychError as error:
            raise SimulationError(str(error)) from None

    async def navigation(self) -> tuple[str, bytes]:
        """Name and content of the present town's navigation file; made when first asked for.

        Without content where it cannot be made: clients ask at every tick, so an error would stop
        all of them, while no file only leaves their walkers without a way.
        """
        town = self.world.town
        if self._navigation is None or self._navigation[0] is not town:
            self._navigation = town, self.loop.run_in_executor(None, _navigation, town)
        # Shared by all who ask: one that goes away meanwhile must not cancel it for the others.
        return await asyncio.shield(self._navigation[1])


def _navigation(town: Town) -> tuple[str, bytes]:
    try:
        data = navmesh.town_mesh(town.network)
    except TriptychError as error:
        log.warning("no paths for walkers of controller.ai.walker: %s", error)
        data = b""
    return navmesh.file_name(town.name, data), data


def _observes(stream: int) -> bool:
    """Whether a stream on the wire is the world's own, of whichever episode."""
    return stream & ((1 << EPISODE_BITS) - 1) == WORLD_OBSERVER_STREAM
