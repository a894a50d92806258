"""Streams: what the world and its sensors send after each tick to the clients that subscribed.

A client connects, sends the id of a stream (u32) and then only reads: ``u32 size`` and a message,
again and again. Its library connects anew at once whenever it finds a connection closed, so an
unknown or ended stream is left open and silent instead: closing it would make the client spin.

Nobody waits for a slow reader, except the one who ticks, and then shortly. What a reader has not
taken is kept up to ``BEHIND`` bytes. A reader further behind misses messages while the world runs
by itself, as with CARLA's server; in synchronous mode, where every frame counts, ``caught_up``
lets the tick wait up to ``PATIENCE_S`` for it. A reader that takes nothing for that long is dropped.

The tick also waits for a reader that is on its way: a client asks by a call where a stream is, and
connects to it from another thread while it goes on to tick. A tick of CARLA's takes longer than that;
one of this world's would be over, and the first reading lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

from apps.driving.world.protocol.layouts import framed
from apps.driving.world.protocol.rpc import prepare_socket

log = logging.getLogger(__name__)

BEHIND = 16 << 20  # bytes a reader may be behind: two pictures of 1920 x 1080
PATIENCE_S = 2.0
ON_ITS_WAY_S = 1.0  # from being told a stream's address to having subscribed
GREETING_S = 10.0  # within which a connection has to say what it wants
MAX_CONNECTIONS = 1024
_STREAM_ID = struct.Struct("<I")


class Reader(asyncio.Protocol):
    """One subscription."""

    def __init__(self, server: StreamServer) -> None:
        self.server = server
        self.name = "?"
        self.stream: int | None = None
        self.skipped = 0
        self._behind_since: float | None = None
        self._left = 0
        self._greeting = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.name = prepare_socket(transport)
        if len(self.server.readers) >= MAX_CONNECTIONS:
            log.warning("reader %s refused: %d are connected", self.name, MAX_CONNECTIONS)
            transport.abort()
            return
        self.server.readers.add(self)
        self._deadline = self.server.loop.call_later(GREETING_S, self._too_late)

    def data_received(self, data: bytes) -> None:
        if self.stream is not None:
            return  # a reader has nothing more to say
        self._greeting += data[: _STREAM_ID.size - len(self._greeting)]
        if len(self._greeting) == _STREAM_ID.size:
            if self._deadline is not None:
                self._deadline.cancel()
            (self.stream,) = _STREAM_ID.unpack(self._greeting)
            self.server.subscribed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        self.server.readers.discard(self)
        if self.stream is not None:
            self.server.unsubscribed(self)

    def _too_late(self) -> None:
        if self.stream is None:
            self.drop(f"named no stream within {GREETING_S:g} s")

    @property
    def behind(self) -> int:
        """Bytes this reader has not taken."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, message: bytes, now: float) -> None:
        """Queue a framed message, or leave it out when the reader is too far behind."""
        if self._transport is None:
            return
        behind = self.behind
        if behind <= BEHIND:
            self._behind_since = None
            self._transport.write(message)
            return
        self.skipped += 1
        if self._behind_since is None or behind < self._left:
            self._behind_since = now  # it was not behind, or has taken something since
        self._left = behind
        if now - self._behind_since > PATIENCE_S:
            self.drop(f"has taken nothing for {PATIENCE_S:g} s and is {behind >> 20} MB behind")

    def drop(self, reason: str) -> None:
        if self._transport is not None:
            log.warning("reader %s of stream %s %s; dropped", self.name, self.stream, reason)
            self._transport.abort()
            self._transport = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class StreamServer:
    """Who reads which stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.readers: set[Reader] = set()
        self.on_first: Callable[[int], None] = lambda stream: None
        self.on_last: Callable[[int], None] = lambda stream: None
        self.greet: Callable[[int], bytes | None] = lambda stream: None
        self._by_stream: dict[int, list[Reader]] = {}
        self._expected: list[tuple[int, float]] = []  # stream, until when
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accept readers on a bound ``sock``."""
        self._server = await self.loop.create_server(lambda: Reader(self), sock=sock, backlog=128)

    def subscribed(self, reader: Reader) -> None:
        assert reader.stream is not None
        readers = self._by_stream.setdefault(reader.stream, [])
        readers.append(reader)
        for waited in self._expected:
            if waited[0] == reader.stream:
                self._expected.remove(waited)
                break
        if len(readers) == 1:
            self.on_first(reader.stream)
        greeting = self.greet(reader.stream)
        if greeting is not None:
            reader.send(framed(greeting), self.loop.time())

    def unsubscribed(self, reader: Reader) -> None:
        assert reader.stream is not None
        readers = self._by_stream.get(reader.stream, [])
        if reader in readers:
            readers.remove(reader)
        if not readers and self._by_stream.pop(reader.stream, None) is not None:
            self.on_last(reader.stream)

    @property
    def read(self) -> list[int]:
        """The streams that somebody reads."""
        return list(self._by_stream)

    def wanted(self, stream: int) -> bool:
        """Whether anybody reads ``stream``."""
        return stream in self._by_stream

    def send(self, stream: int, payload: bytes) -> None:
        """Give ``payload`` to every reader of ``stream``; copies nothing where nobody reads."""
        readers = self._by_stream.get(stream)
        if readers:
            message, now = framed(payload), self.loop.time()
            for reader in list(readers):
                reader.send(message, now)

    def expect(self, stream: int) -> None:
        """Somebody has been told the address of ``stream`` and will subscribe."""
        now = self.loop.time()
        self._expected = [waited for waited in self._expected if waited[1] > now]
        if len(self._expected) < MAX_CONNECTIONS:
            self._expected.append((stream, now + ON_ITS_WAY_S))

    @property
    def congested(self) -> bool:
        """Whether a reader would miss a message sent now: it is too far behind, or on its way."""
        return bool(self._expected) or any(reader.behind > BEHIND for reader in self.readers)

    async def caught_up(self) -> None:
        """Wait until no reader would miss a message; drop those that do not move meanwhile."""
        while self._expected:
            await asyncio.sleep(0.0005)
            now = self.loop.time()
            self._expected = [waited for waited in self._expected if waited[1] > now]
        moved = self.loop.time()
        left = self._owed()
        while left:
            await asyncio.sleep(0.002)
            now, still = self.loop.time(), self._owed()
            if any(still.get(reader, 0) < bytes_ for reader, bytes_ in left.items()):
                moved = now
            elif now - moved > PATIENCE_S:
                for reader, bytes_ in still.items():
                    reader.drop(
                        f"has taken nothing for {PATIENCE_S:g} s and is {bytes_ >> 20} MB behind"
                    )
            left = self._owed()

    def _owed(self) -> dict[Reader, int]:
        return {reader: reader.behind for reader in self.readers if reader.behind > BEHIND}

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for reader in list(self.readers):
            reader.close()
