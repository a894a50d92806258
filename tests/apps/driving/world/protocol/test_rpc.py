"""Calls over real sockets: order, turns, and everything a broken or hostile client may send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time

import msgpack
import pytest

from apps.driving.world.protocol import rpc
from apps.driving.world.protocol.rpc import CallError, RpcServer

from .conftest import connect, until  # isort: skip


class Client:
    """Half a client: packs requests, reads answers."""

    def __init__(self, port: int) -> None:
        self.sock = connect(port)
        self.unpacker = msgpack.Unpacker(raw=False)
        self.number = 0

    def send(self, method: str, *parameters: object, waits: bool = True) -> int:
        self.number += 1
        request = [0, self.number, method, [[not waits], *parameters]]
        self.sock.sendall(msgpack.packb(request))
        return self.number

    def receive(self) -> list:
        while True:
            for message in self.unpacker:
                return message
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self.unpacker.feed(data)

    def call(self, method: str, *parameters: object) -> object:
        number = self.send(method, *parameters)
        kind, answered, error, result = self.receive()
        assert (kind, answered, error) == (1, number, None)
        return result

    def closed(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True


@pytest.fixture
def calls() -> list:
    return []


@pytest.fixture
def port(loop, listening, calls):
    """A server that echoes, adds, fails and waits."""

    def dispatch(peer, method, parameters, waits):
        calls.append((method, parameters, waits))
        if method == "fail":
            return CallError("because")
        if method == "slow":
            time.sleep(0.002)
        if method == "later":

            async def later():
                await asyncio.sleep(0.05)
                return parameters

            return later()
        return parameters

    server = RpcServer(dispatch, loop.loop)
    loop.run(server.start(listening))
    yield listening.getsockname()[1]
    loop.call(server.close)


def test_answers_with_the_number_of_the_request(port):
    assert Client(port).call("echo", 1, "two", b"3", [4.0], True) == [1, "two", b"3", [4.0], True]


def test_metadata_says_whether_anybody_waits(port, calls):
    client = Client(port)
    client.send("echo", 5, waits=False)
    assert client.receive() == [1, 1, None, [5]]  # CARLA's library expects an answer all the same
    client.call("echo", 6)
    assert calls == [("echo", [5], False), ("echo", [6], True)]


def test_notification_has_no_answer(port, calls):
    client = Client(port)
    client.sock.sendall(msgpack.packb([2, "note", [1]]))
    assert client.call("echo", 2) == [2]
    assert calls[0] == ("note", [1], False)


def test_requests_of_one_connection_are_answered_in_order(port):
    client = Client(port)
    numbers = [client.send("later" if i == 0 else "echo", i) for i in range(50)]
    assert [client.receive()[1] for _ in numbers] == numbers


def test_a_waiting_call_holds_nobody_else_up(port):
    slow, quick = Client(port), Client(port)
    slow.send("later", 1)
    assert quick.call("echo", 2) == [2]
    assert slow.receive()[3] == [1]


def test_error_travels_in_the_error_field(port):
    client = Client(port)
    client.send("fail")
    assert client.receive() == [1, 1, "because", None]


def test_request_may_arrive_byte_by_byte(port):
    client = Client(port)
    for byte in msgpack.packb([0, 1, "echo", [[False], "x" * 40]]):
        client.sock.sendall(bytes([byte]))
    assert client.receive() == [1, 1, None, ["x" * 40]]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1" * 16,  # a byte that MessagePack does not use
        b"GET / HTTP/1.1\r\n\r\n",
        msgpack.packb("text"),
        msgpack.packb([]),
        msgpack.packb([0, 1, "echo"]),
        msgpack.packb([7, 1, "echo", []]),
        msgpack.packb([0, "one", "echo", []]),
        msgpack.packb([0, -1, "echo", []]),
        msgpack.packb([0, 1, 2, []]),
        msgpack.packb([0, 1, "echo", {"a": 1}]),
        msgpack.packb({1: 2}),
        b"\xdd" + struct.pack(">I", 0xFFFFFFFF),  # an array of four thousand million
        b"\xdf" + struct.pack(">I", 0xFFFFFFFF),
        b"\x91" * 5000,  # nested beyond reason
    ],
    ids=lambda raw: raw[:8].hex(),
)
def test_malformed_bytes_close_that_connection_alone(port, raw, caplog):
    bystander = Client(port)
    broken = Client(port)
    with caplog.at_level(logging.WARNING):
        broken.sock.sendall(raw)
        assert broken.closed()
    assert bystander.call("echo", 1) == [1]
    assert Client(port).call("echo", 2) == [2]
    assert "its connection is closed" in caplog.text


def test_announcing_more_than_a_frame_may_hold_ends_when_it_has_come(port, monkeypatch):
    client = Client(port)
    client.sock.sendall(b"\xc6" + struct.pack(">I", 0xFFFFFFFF))  # four gigabytes of bytes
    assert Client(port).call("echo", 1) == [1]
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            client.sock.sendall(bytes(1 << 20))
    assert client.closed()


def test_oversize_frame_closes_that_connection_alone(port, monkeypatch):
    monkeypatch.setattr(rpc, "MAX_FRAME", 1 << 16)
    bystander, big = Client(port), Client(port)
    with contextlib.suppress(ConnectionError):
        big.sock.sendall(msgpack.packb([0, 1, "echo", [[False], b"x" * (1 << 20)]]))
    assert big.closed()
    assert bystander.call("echo", 1) == [1]


def test_client_that_vanishes_in_the_middle_of_a_request(port):
    client = Client(port)
    client.sock.sendall(msgpack.packb([0, 1, "echo", [[False], b"x" * 1000]])[:500])
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()  # with a reset, as a killed process does
    assert Client(port).call("echo", 1) == [1]


def test_client_that_vanishes_while_its_call_waits(port):
    client = Client(port)
    client.send("later")
    client.sock.close()
    assert Client(port).call("echo", 1) == [1]


def test_client_that_reads_no_answers_is_not_read_from(port, calls):
    greedy = Client(port)
    greedy.sock.settimeout(0.5)
    request = msgpack.packb([0, 1, "echo", [[False], b"x" * 100_000]])
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 2000:  # 200 MB: far more than the sockets' buffers hold
            greedy.sock.sendall(request)
            sent += 1
    assert sent < 1000
    answered = len(calls)
    assert Client(port).call("echo", 1) == [1]
    assert len(calls) <= answered + 3


def test_many_requests_of_one_client_leave_turns_for_others(port, calls):
    busy, other = Client(port), Client(port)
    busy.sock.sendall(b"".join(msgpack.packb([2, "slow", [i]]) for i in range(400)))
    assert until(lambda: len(calls) > 0)
    assert other.call("other") == []  # 0.8 s of work are waiting before it
    assert len(calls) < 200


def test_connections_are_bounded(port, monkeypatch):
    monkeypatch.setattr(rpc, "MAX_CONNECTIONS", 3)
    kept = [Client(port) for _ in range(3)]
    assert [client.call("echo", 1) for client in kept] == [[1]] * 3
    assert Client(port).closed()
    kept[0].sock.close()
    assert until(lambda: _answers(port))


def _answers(port: int) -> bool:
    client = Client(port)
    try:
        return client.call("echo", 1) == [1]
    except (EOFError, ConnectionError):
        return False


def test_close_hooks_run_once(loop, listening):
    gone = []

    def dispatch(peer, method, parameters, waits):
        peer.on_close.append(lambda: gone.append(method))
        return None

    server = RpcServer(dispatch, loop.loop)
    loop.run(server.start(listening))
    client = Client(listening.getsockname()[1])
    client.call("register")
    client.sock.close()
    assert until(lambda: gone == ["register"])
    loop.call(server.close)
