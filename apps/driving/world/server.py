"""Running the server: CARLA's two ports on this machine alone, here or in a process of its own.

Calls arrive on ``port``, streams leave on the port after it, or on any free one when that is taken:
the client is told where. ``protocol.host`` is what is served.
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from apps.driving.world.protocol.host import Server
from apps.driving.world.town import PROCEDURAL, Town, build_town
from core.errors import DataError, ResourceError, UsageError

HOST = "127.0.0.1"
PROGRAM = Path(__file__).resolve().parents[1] / "run.py"
PATIENCE_S = 10.0  # for a world in a process of its own to end


def bind(port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets for calls and for streams on this machine's own address; 0: any free port.

    Raises UsageError for a number that is no port, ResourceError when it is taken or forbidden.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}: give 0 (any free one) to 65535")
    calls = _bound(port)
    if calls is None:
        raise ResourceError(
            f"port {port} of {HOST} is in use, perhaps by another world or by CARLA; stop that or "
            "choose another port"
        )
    following = calls.getsockname()[1] + 1
    streams = _bound(following if following <= 65535 else 0) or _bound(0)
    if streams is None:
        calls.close()
        raise ResourceError(f"no free port on {HOST} for the streams")
    return calls, streams


def _bound(port: int) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen(128)  # two sockets may be bound to one port until one of them listens
    except OSError as error:
        sock.close()
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ResourceError(
                f"port {port} needs a permission this user lacks; choose one above 1023"
            ) from error
        if error.errno == errno.EADDRINUSE:
            return None
        raise ResourceError(f"port {port} of {HOST}: {error.strerror}") from error
    return sock


def _folder(town: str | Path) -> Path | None:
    return None if str(town).startswith(PROCEDURAL) else Path(town).resolve().parent


def survey(town: str | Path, seed: int = 0) -> dict[str, Any]:
    """What is in a town; DataError or UsageError when it cannot be used."""
    built = build_town(town, seed)
    network = built.network
    kinds = [sign.kind for sign in network.signs]
    return {
        "town": built.name,
        "roads": len(built.roads.roads),
        "lane_metres": round(float(network.length.sum())),
        "spawn_points": len(network.spawn_points),
        "traffic_lights": len(network.lights),
        "stop_signs": kinds.count("stop"),
        "yield_signs": kinds.count("yield"),
        "speed_signs": kinds.count("speed_limit"),
        "crosswalks": len(network.crosswalks),
        "pieces_of_scenery": len(built.scenery.boxes),
    }


def run(
    town: str | Path,
    *,
    port: int = 2000,
    seed: int = 0,
    renderer: str = "numpy",
    traffic: int = 0,
    walkers: int = 0,
    synchronous: bool = False,
    attached: bool = False,
    listening: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> None:
    """Serve until SIGINT or SIGTERM; ``listening`` is told once clients may connect.

    ``attached``: until standard input is closed, too, as it is when whoever started this ends.
    """
    started = time.monotonic()
    calls, streams = bind(port)
    with calls, streams:
        built = build_town(town, seed)
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        server = Server(
            built,
            loop=loop,
            folder=_folder(town),
            seed=seed,
            renderer=renderer,
            traffic=traffic,
            walkers=walkers,
            synchronous=synchronous,
        )

        async def serving() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(NotImplementedError):  # Windows has no such handlers
                    loop.add_signal_handler(number, stop.set)
            if attached:
                loop.add_reader(sys.stdin, stop.set)
            await server.start(calls, streams)
            listening(
                {
                    "host": HOST,
                    "port": calls.getsockname()[1],
                    "stream_port": server.stream_port,
                    "town": built.name,
                    "seconds": round(time.monotonic() - started, 3),
                }
            )
            await stop.wait()

        try:
            loop.run_until_complete(serving())
        finally:
            _end(loop, server)


@contextmanager
def serve(
    town: str | Path = "procedural:0",
    *,
    port: int = 0,
    seed: int = 0,
    renderer: str = "numpy",
    traffic: int = 0,
    walkers: int = 0,
    synchronous: bool = False,
) -> Iterator[int]:
    """A world in a process of its own while the block runs; yields its port.

    >>> with serve("samples/Town01.xodr") as port:
    ...     client = carla.Client("127.0.0.1", port)

    Not in a thread of this one: CARLA's client keeps Python's lock while it waits for an answer. The
    process ends with the block, and with this process however that ends.

    ``synchronous`` starts it in synchronous mode with a step of 0.05 s. Raises UsageError, DataError
    or ResourceError for a town, a port or a renderer that cannot be had.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, str(PROGRAM), "world", "--town", str(town), "--port", str(port)),
            *("--seed", str(seed), "--renderer", renderer, "--traffic", str(traffic)),
            *("--walkers", str(walkers), *(["--synchronous"] if synchronous else [])),
            *("--attached", "--quiet", "--json"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors: IO[str] = process.stderr
    began = threading.Event()

    def pass_on() -> None:
        for line in errors:
            if began.is_set():  # what ends it before is raised here
                sys.stderr.write(line)

    reader = threading.Thread(target=pass_on, name="carla-world-log", daemon=True)
    reader.start()
    try:
        facts = json.loads(process.stdout.readline() or "{}")
        if "port" not in facts:
            _fail(facts.get("error", {}), process.wait())
        began.set()
        yield int(facts["port"])
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def _fail(error: dict[str, Any], code: int) -> NoReturn:
    """The error that ended the world before it listened."""
    kinds = {kind.exit_code: kind for kind in (UsageError, DataError)}
    message = error.get("message", f"the world ended with exit code {code} before it listened")
    raise kinds.get(code, ResourceError)(message)


@contextmanager
def in_thread(
    town: Town, calls: socket.socket, streams: socket.socket, **options: Any
) -> Iterator[Server]:
    """A ``Server`` with these options on a loop in a thread, on two bound sockets."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    made: list[Server] = []
    failures: list[BaseException] = []

    def running() -> None:
        try:
            # The world is made here: an OpenGL context belongs to the thread that made it.
            made.append(Server(town, loop=loop, **options))
            loop.run_until_complete(made[0].start(calls, streams))
            ready.set()
            loop.run_forever()
        except BaseException as error:
            failures.append(error)
            ready.set()
        finally:
            _end(loop, made[0] if made else None)

    thread = threading.Thread(target=running, name="carla-world", daemon=True)
    thread.start()
    ready.wait()
    try:
        if failures:
            raise failures[0]
        yield made[0]
    finally:
        if not failures:
            loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _end(loop: asyncio.AbstractEventLoop, server: Server | None) -> None:
    """Close the server and let what is under way on the loop end."""

    async def ending() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await loop.shutdown_default_executor()

    if server is not None:
        server.close()
    loop.run_until_complete(ending())
    loop.close()
