"""Ticks that never return, freed by way of the Traffic Manager's port; and those that are only slow."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgpack
import pytest

from apps.driving.simulator.waker import Waker, ask_manager

ROOT = Path(__file__).resolve().parents[4]


class Manager:
    """Answers MessagePack-RPC as a Traffic Manager does, and frees a tick when its mode ends."""

    def __init__(self, error: object = None) -> None:
        self.asked: list[tuple[str, list[object]]] = []
        self.freed = threading.Event()
        self._error = error
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                unpacker = msgpack.Unpacker()
                while received := connection.recv(1000):
                    unpacker.feed(received)
                    for kind, number, method, parameters in unpacker:
                        assert kind == 0
                        self.asked.append((method, parameters))
                        if method == "set_synchronous_mode" and parameters == [False]:
                            self.freed.set()
                        answer = msgpack.packb([1, number, self._error, None])
                        connection.sendall(answer[:2])
                        time.sleep(0.01)  # an answer may come in pieces
                        connection.sendall(answer[2:])

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager():
    found = Manager()
    yield found
    found.close()


@pytest.fixture
def port():
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class World:
    """A world whose tick takes ``before`` s until its frame is there and then what ``after`` takes."""

    def __init__(self, before=0.0, after=lambda: None) -> None:
        self.frame = 7
        self._before, self._after = before, after

    def get_snapshot(self):
        return SimpleNamespace(frame=self.frame)

    def tick(self, timeout: float) -> int:
        time.sleep(self._before)
        self.frame += 1
        self._after()
        return self.frame


FREED = [("set_synchronous_mode", [False]), ("set_synchronous_mode", [True])]


def test_a_tick_that_hangs_is_freed_and_the_manager_is_synchronous_again(manager, caplog):
    def hang():
        assert manager.freed.wait(20), "nobody freed the tick"
        manager.freed.clear()

    waker = Waker(manager.port, patience=0.2)
    world = World(after=hang)
    with caplog.at_level(logging.WARNING):
        assert waker.tick(world, 1.0) == 8
        assert waker.tick(world, 1.0) == 9
    end = time.monotonic() + 10
    while waker.freed < 2 and time.monotonic() < end:  # the tick returns before the second answer
        time.sleep(0.01)
    waker.close()
    assert waker.freed == 2
    assert manager.asked == FREED * 2
    assert "hung in a tick and was freed" in caplog.text


def test_a_slow_simulator_is_waited_for(manager):
    waker = Waker(manager.port, patience=0.1)
    assert waker.tick(World(before=1.0), 5.0) == 8
    waker.close()
    assert not manager.asked


def test_a_manager_within_its_time_is_left_alone(manager):
    waker = Waker(manager.port, patience=2.0)
    world = World(after=lambda: time.sleep(0.4))
    for _ in range(6):  # together longer than the patience with one
        waker.tick(world, 5.0)
    waker.close()
    assert not manager.asked


def test_a_world_that_is_replaced_does_not_end_the_watch(manager):
    class Replaced(World):
        def get_snapshot(self):
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("trying to operate on a destroyed actor")
            return super().get_snapshot()

    waker = Waker(manager.port, patience=0.1)
    waker.tick(Replaced(after=lambda: time.sleep(0.5)), 5.0)
    assert not manager.asked
    waker.tick(World(after=lambda: manager.freed.wait(20)), 5.0)
    waker.close()
    assert manager.asked[:1] == FREED[:1]


def test_errors_of_the_simulator_are_the_callers(manager):
    def fail():
        raise RuntimeError("time-out of 1000ms while waiting for the simulator")

    waker = Waker(manager.port, patience=0.1)
    with pytest.raises(RuntimeError, match="time-out"):
        waker.tick(World(after=fail), 1.0)
    time.sleep(0.4)  # nobody ticks any more
    waker.close()
    assert not manager.asked


def test_a_manager_that_refuses_or_is_gone_is_said(port, caplog):
    refusing = Manager(error="no such method")
    with pytest.raises(ValueError, match="no such method"):
        ask_manager(refusing.port, "set_synchronous_mode", False)
    refusing.close()
    with pytest.raises(OSError, match="refused"):
        ask_manager(port, "set_synchronous_mode", False)
    waker = Waker(port, patience=0.05)
    with caplog.at_level(logging.WARNING):
        waker.tick(World(after=lambda: time.sleep(0.5)), 5.0)
    waker.close()
    assert waker.freed == 0
    assert "cannot be freed" in caplog.text


REAL = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from apps.driving.simulator.session import open_session
from apps.driving.simulator.waker import Waker, ask_manager

with open_session({str(ROOT / "samples" / "Town01.xodr")!r}) as s:
    manager = s.client.get_trafficmanager({{port}})
    manager.set_synchronous_mode(True)
    car = s.spawn("vehicle.tesla.model3", s.map.get_spawn_points()[0])
    car.set_autopilot(True, {{port}})
    waker = Waker(manager.get_port())
    s.advance = waker.tick
    began = s.tick().frame
    start = car.get_location()
    for i in range(200):
        if i % 20 == 10:  # as if a tick had hung
            ask_manager(manager.get_port(), "set_synchronous_mode", False)
            ask_manager(manager.get_port(), "set_synchronous_mode", True)
        frame = s.tick().frame
    facts = dict(frames=frame - began, gone=car.get_location().distance(start))
    car.set_autopilot(False, {{port}})
    s.tick()
    manager.shut_down()
print(json.dumps(facts))
"""


def test_carlas_own_manager_takes_it_and_drives_on(port, python):
    """The call is understood; steps too many neither stop the ticks nor the cars."""
    done = python("-c", REAL.format(port=port))
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["frames"] == 200
    assert facts["gone"] > 10.0
