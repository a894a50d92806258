"""What goes wrong with the world, and the test that says what happens then.

On the command line: one line ``error:`` on standard error that names the input, what is wrong and
what to do, and the exit code (2 usage, 3 data, 4 resources).  From a client: an error, or the
connection closed; the world goes on for everybody else.  ``*`` names a check of
conformance/programs, run by conformance/test_conformance.py through CARLA's own client.

    port busy                    test_port_busy
    port out of range            test_options_that_cannot_be
    town missing, a folder       test_town_that_is_no_file
    town empty, not XML, ...     test_town_that_is_no_opendrive
    files that crash carla.Map   test_town_that_crashes_the_library
    a huge town file             test_huge_town
    OpenDRIVE from a client      maps.bad_opendrive *
    unknown town from a client   maps.load_world *
    generated town, bad seed     test_options_that_cannot_be
    unknown blueprint            test_unknown_blueprint, refusals.unknown_blueprint *
    duplicate spawn, collision   spawning.collision_at_spawn *
    sensor attribute             refusals.sensor_attributes *
    NaN control                  refusals.nan_control *
    control beyond its range     refusals.control_beyond_its_range *
    NaN place, far, below        refusals.nan_places *, refusals.spawn_below_and_far *
    settings, weather            refusals.settings_that_cannot_be *, refusals.weather_that_cannot_be *
    unknown actor                test_unknown_actor_in_every_call, batches.errors_in_order *
    parent that has gone         refusals.no_such_parent *
    10,000 spawn requests        refusals.many_spawns *, test_ten_thousand_calls_at_once
    unknown call                 test_unknown_call, maps.rare_calls *
    wrong parameters             test_wrong_parameters_of_every_call
    malformed frames             test_malformed_frames
    announced gigabytes          test_announced_gigabytes
    half a message               test_half_a_message_holds_nobody_up
    unknown stream               test_streams_that_are_not_there
    client killed                connection.killed_client *
    client killed mid-tick       test_client_gone_mid_tick
    slow client                  test_slow_readers
    many connections             test_many_connections
    many episodes, many actors   test_memory_does_not_grow
    another client version       test_other_client_version
    other machines               test_only_this_machine_can_connect
    SIGINT, SIGTERM              test_ends_cleanly
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

msgpack = pytest.importorskip("msgpack")
pytest.importorskip("carla")

ROOT = Path(__file__).resolve().parents[3]
RUN = str(ROOT / "apps" / "driving" / "run.py")


# -- the command line --------------------------------------------------------------------------


def world(*options: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """``run.py world`` with options that must end it."""
    port = () if "--port" in options else ("--port", "0")
    command = [sys.executable, RUN, "world", *map(str, options), *port]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """The one line of an error that a person can act on."""
    assert done.returncode == code, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, done.stderr
    assert "listening" not in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"
    return errors[0]


def test_port_busy(samples: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = world("--town", samples / "Town01.xodr", "--port", port)
    refused(done, 4, str(port))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--port", 70_000), "port"),
        (("--port", -1), "port"),
        (("--town", "procedural:many"), "procedural:many"),
        (("--town", "procedural:-1"), "procedural:-1"),
        (("--renderer", "vulkan"), "vulkan"),
        (("--traffic", -3), "traffic"),
        (("--walkers", -3), "walkers"),
        (("--seed", "x"), "seed"),
        (("--townn", "x"), "townn"),
    ],
)
def test_options_that_cannot_be(options: tuple[object, ...], word: str) -> None:
    refused(world(*options), 2, word)


def test_town_that_is_no_file(tmp_path: Path) -> None:
    refused(world("--town", tmp_path / "nowhere.xodr"), 3, "nowhere.xodr")
    refused(world("--town", tmp_path), 2, str(tmp_path))
    folder = tmp_path / "folder.xodr"
    folder.mkdir()
    refused(world("--town", folder), 3, str(folder))


def road() -> str:
    """An OpenDRIVE text of one straight road."""
    program = (Path(__file__).parent / "conformance/programs/maps.py").read_text()
    found = re.search(r'ROAD = """(.*?)"""', program, re.DOTALL)
    assert found is not None
    return found.group(1)


def without(tag: str) -> str:
    return re.sub(rf"<{tag}>.*?</{tag}>", "", road(), flags=re.DOTALL)


NO_OPENDRIVE: dict[str, Callable[[], str | bytes]] = {
    "empty": lambda: "",
    "blank": lambda: "  \n ",
    "not XML": lambda: "Town01 is a nice town",
    "cut off": lambda: road()[:700],
    "another root": lambda: "<osm><node/></osm>",
    "no roads": lambda: "<OpenDRIVE><header/></OpenDRIVE>",
    "no lanes": lambda: without("lanes"),
    "not finite": lambda: road().replace('length="300.0"', 'length="nan"'),
    "negative": lambda: road().replace('length="300.0"', 'length="-300.0"'),
    "a link to nowhere": lambda: road().replace(
        "<link/>",
        '<link><successor elementType="road" elementId="77" contactPoint="end"/></link>',
        1,
    ),
    "a DTD": lambda: '<!DOCTYPE OpenDRIVE [<!ENTITY a "aaaa">]>' + road().split("?>", 1)[1],
    "binary": lambda: bytes(range(256)) * 40,
    "no text": lambda: b"\xff\xfe\x00\xd8",
}


@pytest.mark.parametrize("case", NO_OPENDRIVE)
def test_town_that_is_no_opendrive(tmp_path: Path, case: str) -> None:
    text = NO_OPENDRIVE[case]()
    path = tmp_path / "bad town.xodr"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(world("--town", path), 3, "bad town.xodr")


CRASHING: dict[str, Callable[[], str]] = {
    "no planView": lambda: without("planView"),
    "a reference to no signal": lambda: road().replace(
        "<signals/>", '<signals><signalReference id="99" s="9" t="0" orientation="+"/></signals>'
    ),
    "a junction of no roads": lambda: road().replace(
        "</OpenDRIVE>",
        '<junction id="5" name="j"><connection id="0" incomingRoad="88" connectingRoad="99" '
        'contactPoint="start"><laneLink from="-1" to="-1"/></connection></junction></OpenDRIVE>',
    ),
}


@pytest.mark.parametrize("case", CRASHING)
def test_town_that_crashes_the_library(tmp_path: Path, case: str) -> None:
    path = tmp_path / "crashing.xodr"
    path.write_text(CRASHING[case]())
    code = "import sys, carla; carla.Map('t', open(sys.argv[1]).read()).get_topology()"
    library = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=60)
    assert library.returncode != 0, "carla.Map takes this file now: find another"
    refused(world("--town", path), 3, "crashing.xodr")


def test_huge_town(tmp_path: Path) -> None:
    """70 MB, mostly holes: refused by its size, not read."""
    path = tmp_path / "huge.xodr"
    with path.open("wb") as file:
        file.write(b"<OpenDRIVE>")
        file.truncate(70 * 2**20)
    began = time.monotonic()
    refused(world("--town", path), 3, "huge.xodr", "MB")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly(embedded: Any, how: signal.Signals) -> None:
    """Within seconds, with clients connected; the port is free again."""
    server = embedded("--town", "procedural:0")
    server.environment()
    port = server.port
    with connect(port) as client:
        assert client.ask("version") == [[1, "0.9.16"]]
        server.process.send_signal(how)
        began = time.monotonic()
        code = server.process.wait(15)
        assert time.monotonic() - began < 5
    assert code in (0, 130), f"exit status {code}"
    assert not any("Traceback" in line for line in server.log), "\n".join(server.log)
    for freed in (port, port + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", freed))


# -- the wire ----------------------------------------------------------------------------------


class Raw:
    """A client that may say anything."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        self.number = 0

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, *parameters: object) -> int:
        """Send a call without waiting; its number."""
        self.number += 1
        self.send(msgpack.packb([0, self.number, method, [[False], *parameters]]))
        return self.number

    def answer(self) -> tuple[int, object, Any]:
        """(number, error, result) of the next answer; ConnectionError when closed."""
        while True:
            for message in self.unpacker:
                assert message[0] == 1
                return message[1], message[2], message[3]
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            self.unpacker.feed(data)

    def ask(self, method: str, *parameters: object) -> Any:
        """The result of a call, or RuntimeError with what the server says."""
        number = self.request(method, *parameters)
        found, error, result = self.answer()
        assert found == number
        if error is not None:
            raise RuntimeError(str(error))
        return result

    def error(self, method: str, *parameters: object) -> str:
        """What the call is refused with; fails if it is not."""
        try:
            result = self.ask(method, *parameters)
        except RuntimeError as refusal:
            return str(refusal)
        assert isinstance(result, list)
        assert result[0][0] in (0, True), f"{method}{parameters} gave {result}"
        return str(result[0][1])

    def is_closed(self, within: float = 10) -> bool:
        """Whether the server ends this connection."""
        self.socket.settimeout(within)
        try:
            while True:
                if not self.socket.recv(1 << 16):
                    return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def connect(port: int) -> Raw:
    return Raw(port)


@pytest.fixture(scope="module")
def served(embedded: Any) -> Iterator[Any]:
    """One server for the tests of this file."""
    running = embedded("--town", "procedural:0")
    yield running
    running.stop()


@pytest.fixture
def port(served: Any) -> Iterator[int]:
    """The server's port; afterwards it must live, answer and have printed no traceback."""
    served.environment()
    yield served.port
    problem = served.problem()
    assert not problem, problem
    with connect(served.port) as client:
        assert client.ask("version") == [[1, "0.9.16"]]


def memory_mb(server: Any) -> float:
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("memory is read from /proc")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found.group(1)) / 1024


def spawn(client: Raw, blueprint: str, x: float = 0.0, y: float = 0.0) -> Any:
    """Ask for an actor at a place."""
    description = [1, blueprint, []]
    return client.ask("spawn_actor", description, [[x, y, 0.5], [0.0, 0.0, 0.0]])


def test_unknown_blueprint(port: int) -> None:
    with connect(port) as client:
        place = [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]
        said = client.error("spawn_actor", [1, "vehicle.no.such", []], place)
        assert "vehicle.no.such" in said
        said = client.error("spawn_actor", [1, "vehicle.tesla.model3", [["wings", 2, "2"]]], place)
        assert "wings" in said
        assert client.ask("version") == [[1, "0.9.16"]]


def test_unknown_call(port: int) -> None:
    with connect(port) as client:
        assert "make_coffee" in client.error("make_coffee", 1, 2)
        assert client.ask("version") == [[1, "0.9.16"]]


CALLS = (
    "destroy_actor", "set_actor_location", "set_actor_transform", "set_actor_target_velocity",
    "set_actor_target_angular_velocity", "enable_actor_constant_velocity",
    "disable_actor_constant_velocity", "add_actor_impulse", "add_actor_force", "add_actor_torque",
    "add_actor_angular_impulse", "set_actor_simulate_physics", "set_actor_enable_gravity",
    "set_actor_collisions", "apply_control_to_vehicle", "apply_ackermann_control_to_vehicle",
    "apply_control_to_walker", "get_physics_control", "apply_physics_control", "set_actor_autopilot",
    "set_vehicle_light_state", "get_group_traffic_lights", "get_light_boxes",
    "set_traffic_light_state", "set_traffic_light_green_time", "set_traffic_light_yellow_time",
    "set_traffic_light_red_time", "freeze_traffic_light", "reset_traffic_light_group",
    "get_wheel_steer_angle", "get_telemetry_data", "open_vehicle_door", "close_vehicle_door",
)  # fmt: skip
"""Calls whose first parameter is an actor."""


def test_unknown_actor_in_every_call(port: int) -> None:
    """An actor that is not there: an error or nothing, never a closed connection."""
    vector, place = [1.0, 0.0, 0.0], [[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]
    more: dict[str, list[object]] = {
        "set_actor_location": [vector],
        "set_actor_transform": [place],
        "apply_control_to_vehicle": [[0.5, 0.0, 0.0, False, False, False, 0]],
        "apply_control_to_walker": [[vector, 1.0, False]],
        "set_vehicle_light_state": [1],
    }
    with connect(port) as client:
        for call in CALLS:
            for extra in (more.get(call, [vector]), [True], [1.0], []):
                client.request(call, 4_000_000, *extra)
                client.answer()
        assert client.ask("version") == [[1, "0.9.16"]]


WRONG: tuple[tuple[object, ...], ...] = (
    (),
    (None,),
    ("text",),
    (b"\x00" * 8,),
    (-1,),
    (2**63,),
    (1.5e300, "x", None),
    ([],),
    ([[[]]],),
    ({"a": 1},),
    (1, 2, 3, 4, 5, 6, 7, 8, 9),
    (float("nan"), float("inf")),
    (["x", "y", "z"], ["a"], [1, 2]),
)


def test_wrong_parameters_of_every_call(port: int) -> None:
    """Too few, too many, of other types: refused in one line, and the same connection goes on."""
    calls = (
        *CALLS, "spawn_actor", "spawn_actor_with_parent", "apply_batch", "set_episode_settings",
        "set_weather_parameters", "load_new_episode", "copy_opendrive_to_file", "get_actors_by_id",
        "get_sensor_token", "request_file", "get_required_files", "cast_ray", "project_point",
        "draw_debug_shape", "update_lights_state", "query_lights_state", "get_environment_objects",
        "enable_environment_objects", "get_all_level_BBs", "add_traffic_manager_running",
        "get_traffic_manager_running", "start_recorder", "replay_file",
    )  # fmt: skip
    closed = []
    for call in calls:
        with connect(port) as client:
            try:
                for parameters in WRONG:
                    client.request(call, *parameters)
                    _, error, result = client.answer()
                    assert "Traceback" not in str(error) + str(result)
                assert client.ask("version") == [[1, "0.9.16"]]
            except ConnectionError:
                closed.append(call)
    assert not closed, f"these closed the connection: {closed}"


def test_malformed_frames(port: int) -> None:
    """Bytes that are no call close that connection and no other."""
    with connect(port) as other:
        assert other.ask("version") == [[1, "0.9.16"]]
        for data in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\xc1" * 64,
            msgpack.packb([0, 1]),
            msgpack.packb([7, 1, "version", []]),
            msgpack.packb({"version": 1}),
            msgpack.packb([0, "x", 5, None]),
            msgpack.packb([0, 1, "version", "nothing"]),
            msgpack.packb(17),
            b"\x91" * 100_000,
            os.urandom(4096),
        ):
            with connect(port) as client:
                client.send(data)
                # What happens to be a whole call may be answered; the rest closes the connection or waits.
                client.socket.shutdown(socket.SHUT_WR)
                assert client.is_closed(), f"{data[:20]!r} is still connected"
            assert other.ask("version") == [[1, "0.9.16"]]


def test_announced_gigabytes(port: int, served: Any) -> None:
    """A length of gigabytes reserves nothing; megabytes without end are cut off."""
    before = memory_mb(served)
    for head in (
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ):
        with connect(port) as client:
            client.send(b"\x94\x00\x01\xa7version" + head)
            client.socket.settimeout(1)
            try:
                chunk = b"\x00" * (1 << 20)
                for _ in range(100):
                    client.send(chunk)
            except (ConnectionError, TimeoutError):
                pass
        assert memory_mb(served) < before + 150
    time.sleep(0.5)
    assert memory_mb(served) < before + 100


def test_half_a_message_holds_nobody_up(port: int) -> None:
    whole = msgpack.packb([0, 1, "version", [[False]]])
    with connect(port) as half, connect(port) as other:
        half.send(whole[:5])
        began = time.monotonic()
        for _ in range(50):
            assert other.ask("version") == [[1, "0.9.16"]]
        assert time.monotonic() - began < 5
        half.send(whole[5:])
        assert half.answer()[2] == [[1, "0.9.16"]]


def test_ten_thousand_calls_at_once(port: int) -> None:
    """Ten thousand spawns without waiting for an answer; another client is served between them."""
    with connect(port) as client:
        points = client.ask("get_map_info")[0][1][1]
    car = [1, "vehicle.tesla.model3", []]
    message = b"".join(
        msgpack.packb([0, i, "spawn_actor", [[False], car, points[i % len(points)]]])
        for i in range(10_000)
    )
    with connect(port) as client, connect(port) as other:
        client.socket.settimeout(60)
        client.socket.setblocking(False)
        sent, answered, made, waits = 0, 0, [], []
        deadline = time.monotonic() + 60
        while answered < 10_000 and time.monotonic() < deadline:
            if sent < len(message):
                with contextlib.suppress(BlockingIOError):
                    sent += client.socket.send(message[sent : sent + (1 << 16)])
            try:
                client.unpacker.feed(client.socket.recv(1 << 20))
                for _, _, error, result in client.unpacker:
                    assert error is None
                    answered += 1
                    made += [result[0][1][0]] if result[0][0] == 1 else []
            except BlockingIOError:
                time.sleep(0.001)
            if answered // 2000 > len(waits):
                began = time.monotonic()
                assert other.ask("version") == [[1, "0.9.16"]]
                waits.append(time.monotonic() - began)
        assert answered == 10_000
        assert max(waits) < 2, waits
        assert 0.9 * len(points) <= len(made) <= len(points)
        for actor in made:
            assert other.ask("destroy_actor", actor)[0][0] == 1


def stream_port(client: Raw) -> tuple[int, int]:
    """(port, id) of the world's own stream, from the episode's token."""
    token = client.ask("get_episode_info")[0][1][1]
    data = token[0] if isinstance(token, list) else token
    data = data.encode("latin-1") if isinstance(data, str) else data
    number, found = struct.unpack("<IH", data[:6])
    return found, number


def test_streams_that_are_not_there(port: int) -> None:
    """An unknown stream, half an id, or nothing: silence, and the world's own stream still comes."""
    with connect(port) as client:
        where, number = stream_port(client)
        strange = []
        for data in (
            struct.pack("<I", 123_456),
            struct.pack("<I", 0),
            b"\x01",
            b"",
            os.urandom(64),
        ):
            stranger = socket.create_connection(("127.0.0.1", where), timeout=5)
            stranger.sendall(data)
            strange.append(stranger)
        with socket.create_connection(("127.0.0.1", where), timeout=10) as reader:
            reader.sendall(struct.pack("<I", number))
            time.sleep(0.2)
            client.ask("tick_cue")
            size = struct.unpack("<I", reader.recv(4, socket.MSG_WAITALL))[0]
            assert 48 <= size < 1 << 20
        for stranger in strange:
            stranger.close()


def test_client_gone_mid_tick(port: int) -> None:
    """A tick asked for by a client that is gone before the answer."""
    with connect(port) as client:
        settings = client.ask("get_episode_settings")[0][1]
        synchronous = [True, settings[1], [True, 0.05], *settings[3:]]
        client.ask("set_episode_settings", synchronous)
        try:
            for _ in range(20):
                hasty = connect(port)
                hasty.request("tick_cue")
                hasty.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                hasty.socket.close()  # a reset, not a farewell
            time.sleep(0.5)  # what they asked for is done meanwhile, or is not
            first = client.ask("tick_cue")[0][1]
            assert client.ask("tick_cue")[0][1] == first + 1
        finally:
            client.ask("set_episode_settings", settings)


SLOW = """
import sys, time, carla
client = carla.Client("127.0.0.1", int(sys.argv[1])); client.set_timeout(20)
world = client.get_world()
settings = world.get_settings(); settings.synchronous_mode = True; settings.fixed_delta_seconds = 0.05
world.apply_settings(settings)
camera = world.get_blueprint_library().find("sensor.camera.rgb")
camera.set_attribute("image_size_x", "640"); camera.set_attribute("image_size_y", "360")
made = world.spawn_actor(camera, world.get_map().get_spawn_points()[0])
world.tick()
print(made.id, flush=True)
sys.stdin.readline()
import queue
inbox = queue.Queue(); made.listen(inbox.put); time.sleep(0.3)
longest = 0
for i in range(60):
    began = time.perf_counter(); frame = world.tick()
    while inbox.get(timeout=10).frame < frame: pass
    longest = max(longest, time.perf_counter() - began)
made.stop(); made.destroy(); world.tick()
settings.synchronous_mode = False; settings.fixed_delta_seconds = None; world.apply_settings(settings)
print(longest, flush=True)
"""


def test_slow_readers(port: int, served: Any) -> None:
    """Readers of a camera who take nothing cost bounded memory, and the others get every frame."""
    before = memory_mb(served)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        camera = int(client.stdout.readline())
        with connect(port) as raw:
            where, _ = stream_port(raw)
            token = raw.ask("get_actors_by_id", [camera])[0][1][0][5]
        data = token.encode("latin-1") if isinstance(token, str) else token
        number = struct.unpack("<I", data[:4])[0]
        slow = []
        for _ in range(3):
            reader = socket.create_connection(("127.0.0.1", where), timeout=10)
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(struct.pack("<I", number))
            slow.append(reader)
        client.stdin.write("go\n")
        client.stdin.flush()
        longest = float(client.stdout.readline())
        assert client.wait(20) == 0
    assert memory_mb(served) < before + 200
    assert longest < 10, f"a tick took {longest:.1f} s"
    for reader in slow:
        reader.close()


def test_many_connections(port: int) -> None:
    """Three hundred at once: refused or served, and later ones are served again."""
    held = []
    for _ in range(300):
        held.append(socket.create_connection(("127.0.0.1", port), timeout=10))
    for one in held:
        one.close()
    time.sleep(0.5)
    with connect(port) as client:
        assert client.ask("version") == [[1, "0.9.16"]]


def test_memory_does_not_grow(port: int, served: Any) -> None:
    """Fifty episodes of actors, and actors made and destroyed in one."""

    def episode(client: Raw) -> None:
        points = client.ask("get_map_info")[0][1][1]
        for point in points[:40]:
            client.request("spawn_actor", [1, "vehicle.tesla.model3", []], point)
        made = [client.answer()[2][0][1][0] for _ in points[:40]]
        camera = [1, "sensor.camera.rgb", [["image_size_x", 2, "64"], ["image_size_y", 2, "32"]]]
        mounted = client.ask("spawn_actor_with_parent", camera, points[0], made[0], 0, "")
        assert mounted[0][0] == 1, mounted
        for actor in made[:20]:
            assert client.ask("destroy_actor", actor)[0] == [1, True]

    with connect(port) as client:
        name = client.ask("get_map_info")[0][1][0].rsplit("/", 1)[-1]
        for _ in range(5):
            episode(client)
            client.ask("load_new_episode", name, True, 0xFFFF)
        before = memory_mb(served)
        for _ in range(50):
            episode(client)
            client.ask("load_new_episode", name, True, 0xFFFF)
    grown = memory_mb(served) - before
    assert grown < 15, f"{grown:.0f} MB more after fifty episodes"


def test_other_client_version(port: int) -> None:
    """An older client sends calls without the flag or with fewer parameters: an error, no hang."""
    with connect(port) as client:
        for message in (
            [0, 1, "version", []],
            [0, 2, "get_episode_info", []],
            [0, 3, "spawn_actor", [[1, "vehicle.tesla.model3", []]]],
            [0, 4, "set_episode_settings", [[True, False, [True, 0.05]]]],
            [0, 5, "get_episode_settings", [[False]]],
        ):
            client.send(msgpack.packb(message))
            number, _, _ = client.answer()
            assert number == message[1]


def test_only_this_machine_can_connect(port: int) -> None:
    """The server listens on 127.0.0.1, for calls and for streams."""
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            pytest.skip("listening sockets are read from /proc")
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, number = local.rsplit(":", 1)
            if state == "0A" and int(number, 16) in (port, port + 1):
                listening.append(address)
    assert len(listening) == 2
    assert set(listening) == {"0100007F"}


def test_bad_town_leaves_json_whole() -> None:
    """With --json an error is one object, as with every verb."""
    done = world("--town", "nowhere.xodr", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert "error" in found
