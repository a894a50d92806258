"""MessagePack-RPC over TCP, as CARLA's client speaks it, on one event loop.

A request is ``[0, id, method, [[asynchronous], *parameters]]`` and its reply
``[1, id, error, result]`` (github.com/msgpack-rpc/msgpack-rpc, spec.md); CARLA puts one flag before
the parameters, true where nobody waits for the answer (``carla/rpc/Metadata.h``). Requests of one
connection are answered in order. Several connections take turns, about ``TURN_S`` at a time, so
that one client's ten thousand calls do not silence the others.

Whatever arrives, only the connection it arrived on can suffer: bytes that are not MessagePack, are
no request, or announce more than ``MAX_FRAME`` close that connection with a line in the log. A
client that does not read its answers is not read from until it does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from apps.driving.world.protocol.layouts import packed

log = logging.getLogger(__name__)

MAX_FRAME = 64 << 20  # bytes of one request: the largest OpenDRIVE that is read is as long
MAX_ITEMS = 1 << 22  # of one array or map: a four-byte length must not reserve gigabytes
MAX_CONNECTIONS = 256
TURN_S = 0.005
_REQUEST, _REPLY, _NOTIFICATION = 0, 1, 2

#: Answers a call: (peer, method, parameters, whether anybody waits) -> the result, or an awaitable
#: of it where the answer has to wait. It raises nothing.
Dispatch = Callable[["Peer", str, list[Any], bool], "object | Awaitable[object]"]


class Peer(asyncio.Protocol):
    """One client's connection for calls."""

    def __init__(self, server: RpcServer) -> None:
        self.server = server
        self.name = "?"
        self.on_close: list[Callable[[], None]] = []
        self._transport: asyncio.Transport | None = None
        self._unpacker = _unpacker()
        self._turn: asyncio.Handle | None = None
        self._answer: asyncio.Task[None] | None = None
        self._full = False  # the client does not read its answers

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.name = prepare_socket(transport)
        if not self.server.admit(self):
            log.warning(
                "client %s refused: %d connections are open", self.name, len(self.server.peers)
            )
            transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            self.fail(f"sent a request of more than {MAX_FRAME >> 20} MB")
            return
        self._pause()  # until what has arrived is answered: the buffer cannot grow meanwhile
        self._continue()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._continue()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._turn is not None:
            self._turn.cancel()
        if self._answer is not None:
            self._answer.cancel()
        self.server.peers.discard(self)
        for done in self.on_close:
            done()
        self.on_close.clear()

    # --- ours

    def fail(self, reason: str) -> None:
        """Close this connection alone and say why."""
        if self._transport is not None:
            log.warning("client %s %s; its connection is closed", self.name, reason)
            self._transport.abort()
            self._transport = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _pause(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _continue(self) -> None:
        if self._turn is None and self._answer is None and self._transport is not None:
            self._turn = self.server.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Answer what has arrived for about ``TURN_S``, then let others have theirs."""
        self._turn = None
        until = time.perf_counter() + TURN_S
        while self._transport is not None and self._answer is None and not self._full:
            try:
                message = self._unpacker.unpack()
            except msgpack.OutOfData:
                if not self._transport.is_reading():
                    self._transport.resume_reading()
                return
            except (ValueError, msgpack.UnpackException, RecursionError) as error:
                self.fail(f"sent bytes that are not MessagePack ({type(error).__name__}: {error})")
                return
            self._handle(message)
            if time.perf_counter() > until:
                self._continue()
                return

    def _handle(self, message: object) -> None:
        kind, number, method, parameters = _request(message)
        if kind is None or not isinstance(parameters, list):
            self.fail("sent a message that is no request")
            return
        if parameters and _is_metadata(parameters[0]):
            waits = kind == _REQUEST and not parameters[0][0]
            parameters = parameters[1:]
        else:
            waits = kind == _REQUEST
        result = self.server.dispatch(self, method, parameters, waits)
        if asyncio.iscoroutine(result):
            self._answer = self.server.loop.create_task(self._later(kind, number, result))
        elif kind == _REQUEST:
            self._reply(number, result)

    async def _later(self, kind: int, number: int, result: Awaitable[object]) -> None:
        value = await result
        self._answer = None
        if kind == _REQUEST:
            self._reply(number, value)
        self._continue()

    def _reply(self, number: int, result: object) -> None:
        if self._transport is None:
            return
        error = result.text if isinstance(result, CallError) else None
        value = None if error is not None else result
        self._transport.write(packed([_REPLY, number, error, value]))


class CallError:
    """A result that makes the client's library itself raise: for calls without an error of theirs."""

    def __init__(self, text: str) -> None:
        self.text = text


class RpcServer:
    """The clients that are connected for calls; ``dispatch`` answers them."""

    def __init__(self, dispatch: Dispatch, loop: asyncio.AbstractEventLoop) -> None:
        self.dispatch = dispatch
        self.loop = loop
        self.peers: set[Peer] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Answer on a bound ``sock``."""
        self._server = await self.loop.create_server(lambda: Peer(self), sock=sock, backlog=128)

    def admit(self, peer: Peer) -> bool:
        if len(self.peers) >= MAX_CONNECTIONS:
            return False
        self.peers.add(peer)
        return True

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in list(self.peers):
            peer.close()


def prepare_socket(transport: asyncio.Transport) -> str:
    """No waiting for full packets, and probes that find a peer gone; returns the peer's name."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    name = transport.get_extra_info("peername") or ("?", 0)
    return f"{name[0]}:{name[1]}"


def _unpacker() -> msgpack.Unpacker:
    return msgpack.Unpacker(
        raw=False,
        unicode_errors="replace",
        strict_map_key=True,
        max_buffer_size=MAX_FRAME,
        max_array_len=MAX_ITEMS,
        max_map_len=MAX_ITEMS,
    )


def _request(message: object) -> tuple[int | None, int, str, object]:
    """Kind, number, method and parameters of a message; kind None when it is no request."""
    if isinstance(message, list) and message and all(type(m) is int for m in message[:1]):
        if message[0] == _REQUEST and len(message) == 4 and isinstance(message[2], str):
            if type(message[1]) is int and 0 <= message[1] < 1 << 32:
                return _REQUEST, message[1], message[2], message[3]
        elif message[0] == _NOTIFICATION and len(message) == 3 and isinstance(message[1], str):
            return _NOTIFICATION, 0, message[1], message[2]
    return None, 0, "", None


def _is_metadata(value: object) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], bool)
