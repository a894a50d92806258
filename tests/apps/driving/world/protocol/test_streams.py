"""Subscriptions over real sockets: who gets what, and readers that are slow, silent or gone."""

from __future__ import annotations

import logging
import socket
import struct
import time

import pytest

from apps.driving.world.protocol import streams
from apps.driving.world.protocol.streams import StreamServer

from .conftest import connect, until  # isort: skip


class Reader:
    def __init__(self, port: int, stream: int | None) -> None:
        self.sock = connect(port)
        if stream is not None:
            self.sock.sendall(struct.pack("<I", stream))

    def exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def message(self) -> bytes:
        return self.exactly(struct.unpack("<I", self.exactly(4))[0])

    def closed(self) -> bool:
        try:
            while self.sock.recv(1 << 20):
                pass
        except ConnectionError:
            pass
        return True


class Served:
    def __init__(self, loop, listening) -> None:
        self.loop = loop
        self.server = StreamServer(loop.loop)
        self.log: list[tuple[str, int]] = []
        self.server.on_first = lambda stream: self.log.append(("first", stream))
        self.server.on_last = lambda stream: self.log.append(("last", stream))
        loop.run(self.server.start(listening))
        self.port = listening.getsockname()[1]

    def reader(self, stream: int) -> Reader:
        """A reader whose subscription has arrived."""
        before = len(self.server._by_stream.get(stream, []))
        reader = Reader(self.port, stream)
        assert until(lambda: len(self.server._by_stream.get(stream, [])) > before)
        return reader

    def send(self, stream: int, payload: bytes) -> None:
        self.loop.call(self.server.send, stream, payload)


@pytest.fixture
def served(loop, listening):
    running = Served(loop, listening)
    yield running
    loop.call(running.server.close)


def test_each_reader_gets_its_stream_in_order(served):
    a, also_a, b = served.reader(5), served.reader(5), served.reader(6)
    for i in range(20):
        served.send(5, b"five %d" % i)
        served.send(6, b"six %d" % i)
    served.send(7, b"nobody")
    assert [a.message() for _ in range(20)] == [b"five %d" % i for i in range(20)]
    assert [also_a.message() for _ in range(20)] == [b"five %d" % i for i in range(20)]
    assert [b.message() for _ in range(20)] == [b"six %d" % i for i in range(20)]


def test_first_and_last_reader_are_told(served):
    first, second = served.reader(5), served.reader(5)
    assert served.log == [("first", 5)]
    assert served.server.wanted(5)
    first.sock.close()
    second.sock.close()
    assert until(lambda: served.log == [("first", 5), ("last", 5)])
    assert not served.server.wanted(5)


def test_reader_is_greeted_with_the_present_state(served):
    served.server.greet = lambda stream: b"now" if stream == 1 else None
    assert served.reader(1).message() == b"now"
    late = served.reader(2)
    served.send(2, b"later")
    assert late.message() == b"later"


def test_unknown_stream_stays_open_and_silent(served):
    # Its client would connect again at once, for ever.
    reader = served.reader(999)
    reader.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        reader.sock.recv(1)


def test_stream_id_may_come_in_pieces_and_chatter_is_ignored(served):
    reader = Reader(served.port, None)
    for byte in struct.pack("<I", 5):
        reader.sock.sendall(bytes([byte]))
        time.sleep(0.01)
    reader.sock.sendall(b"chatter" * 1000)
    assert until(lambda: served.server.wanted(5))
    served.send(5, b"x")
    assert reader.message() == b"x"


def test_connection_that_names_no_stream_is_dropped(served, monkeypatch, caplog):
    monkeypatch.setattr(streams, "GREETING_S", 0.1)
    with caplog.at_level(logging.WARNING):
        assert Reader(served.port, None).closed()
    assert "named no stream" in caplog.text


def test_slow_reader_misses_messages_and_the_others_miss_none(served, monkeypatch):
    monkeypatch.setattr(streams, "BEHIND", 1 << 20)
    monkeypatch.setattr(streams, "PATIENCE_S", 60.0)
    slow, quick = served.reader(5), served.reader(5)
    payload = bytes(1 << 18)
    started = time.monotonic()
    for i in range(100):
        served.send(5, struct.pack("<I", i) + payload)
        assert quick.message()[:4] == struct.pack("<I", i)
    assert time.monotonic() - started < 5
    skipped = next(r.skipped for r in served.server.readers if r.skipped)
    seen = [struct.unpack("<I", slow.message()[:4])[0] for _ in range(100 - skipped)]
    assert seen == list(range(100 - skipped))  # what it got is whole, the rest is missing
    served.send(5, struct.pack("<I", 1000) + payload)
    assert slow.message()[:4] == struct.pack("<I", 1000)  # and it is served again


def test_reader_that_takes_nothing_is_dropped(served, monkeypatch, caplog):
    monkeypatch.setattr(streams, "BEHIND", 1 << 20)
    monkeypatch.setattr(streams, "PATIENCE_S", 0.2)
    silent = served.reader(5)
    with caplog.at_level(logging.WARNING):
        assert until(lambda: served.send(5, bytes(1 << 20)) or not served.server.readers)
    assert "has taken nothing" in caplog.text
    silent.sock.close()


def test_a_tick_waits_for_a_reader_that_moves(served, monkeypatch):
    monkeypatch.setattr(streams, "BEHIND", 1 << 20)
    reader = served.reader(5)
    sent = 0
    while not served.server.congested and sent < 30:
        served.send(5, bytes(1 << 19))
        sent += 1
    assert served.server.congested
    waiting = served.loop.run(_start(served))
    assert not waiting.done()
    for _ in range(sent):
        reader.message()
    assert until(waiting.done)
    assert served.server.readers


def test_a_tick_does_not_wait_for_a_dead_reader(served, monkeypatch, caplog):
    monkeypatch.setattr(streams, "BEHIND", 1 << 20)
    monkeypatch.setattr(streams, "PATIENCE_S", 0.2)
    silent = served.reader(5)
    for _ in range(30):
        served.send(5, bytes(1 << 19))
    assert served.server.congested
    with caplog.at_level(logging.WARNING):
        served.loop.run(served.server.caught_up())
    assert not served.server.congested
    assert "dropped" in caplog.text
    silent.sock.close()


async def _start(served):
    return served.loop.loop.create_task(served.server.caught_up())


def test_killed_reader_disturbs_nobody(served):
    killed, other = served.reader(5), served.reader(5)
    killed.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    killed.sock.close()
    for i in range(20):
        served.send(5, b"%d" % i)
    assert [other.message() for _ in range(20)] == [b"%d" % i for i in range(20)]
    assert until(lambda: len(served.server.readers) == 1)


def test_connections_are_bounded(served, monkeypatch):
    monkeypatch.setattr(streams, "MAX_CONNECTIONS", 2)
    kept = [served.reader(5) for _ in range(2)]
    assert Reader(served.port, 5).closed()
    served.send(5, b"x")
    assert [reader.message() for reader in kept] == [b"x", b"x"]


def test_a_tick_waits_for_a_reader_on_its_way(served):
    served.loop.call(served.server.expect, 5)
    assert served.server.congested
    waiting = served.loop.run(_start(served))
    time.sleep(0.05)
    assert not waiting.done()
    reader = served.reader(5)
    assert until(waiting.done)
    assert not served.server.congested
    served.send(5, b"first")
    assert reader.message() == b"first"


def test_a_tick_does_not_wait_for_ever_for_a_reader_on_its_way(served, monkeypatch):
    monkeypatch.setattr(streams, "ON_ITS_WAY_S", 0.1)
    served.loop.call(served.server.expect, 5)
    started = time.monotonic()
    served.loop.run(served.server.caught_up())
    assert 0.05 < time.monotonic() - started < 2.0
    assert not served.server.congested
