"""The table of calls, and what the server makes of parameters that are wrong, odd or absurd."""

from __future__ import annotations

import inspect
import math
import struct

import msgpack
import pytest

from apps.driving.world.protocol import handlers, values
from apps.driving.world.protocol.calls import (
    CALLS,
    CLIENT_SIDE,
    COMMANDS,
    Answer,
    Call,
    Status,
    command_table,
    table,
)
from apps.driving.world.protocol.handlers import Handlers
from apps.driving.world.server import bind, in_thread
from apps.driving.world.town import build_town

from .conftest import connect  # isort: skip

ALL = list(CALLS.values())
NAN = math.nan
PLACE = [[1.0, 2.0, 0.5], [0.0, 90.0, 0.0]]
ELSEWHERE = [[-400.0, -400.0, 0.5], [0.0, 0.0, 0.0]]  # where no other test spawns
CAR = [1, "vehicle.tesla.model3", [["role_name", 4, "hero"]]]

# Well-formed values of each parameter: a plain one first, then such as make no sense.
SAMPLES: dict[str, list] = {
    "actor": [1, 0, 999_999, (1 << 32) - 1],
    "actors": [[1, 2], [], [999_999] * 100],
    "ackermann": [[0.1, 0.0, 5.0, 1.0, 0.0], [NAN] * 5, [1e38] * 5],
    "ackermann_settings": [[0.1] * 6, [NAN] * 6, [-math.inf] * 6],
    "angle": [10.0, NAN, 1e38],
    "anything": [1, [[]], "x"],
    "attachment": [0, 2],
    "blend": [0.5, NAN],
    "commands": [[], [[[1, [999_999]]]], [[[99, None]]], [[[0, "junk"]]], [[[2, [1]]]]],
    "control": [[0.5, 0.0, 0.0, False, False, False, 1], [NAN] * 3 + [True] * 3 + [-5]],
    "description": [CAR, [0, "", []], [7, "no.such.thing", []], [1, CAR[1], [["no", 4, "x"]]]],
    "distance": [10.0, -1.0, NAN, math.inf],
    "door": [0, 6],
    "enabled": [True, False],
    "endpoint": ["127.0.0.1:2000"],
    "factor": [1.0],
    "generation": [[2.0, 50.0, 1.0, 0.6, True, True, True], []],
    "gravity": [9.81, NAN, 1e30],
    "lamps": [[], [[1, [0.0, 0.0, 0.0], 1.0, 2, [1, 2, 3], True]], [[9, [NAN] * 3, NAN, 0, [0] * 3, True]]],
    "layers": [0, 65535],
    "lights": [0, [8], (1 << 32) - 1],
    "location": [[1.0, 2.0, 3.0], [NAN, 0.0, 0.0], [1e38, -1e38, 0.0]],
    "manager": [["127.0.0.1", 8000]],
    "name": ["x", "", "../../etc/passwd", "\x00" * 10, "a" * 10_000],
    "objects": [[], [1], [(1 << 64) - 1]],
    "opendrive": ["", "<x/>", "<OpenDRIVE/>", "not xml"],
    "parent": [1, 999_999],
    "port": [8000, 0],
    "seconds": [1.0, -1.0, NAN, math.inf],
    "settings": [
        [True, False, [True, 0.05], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True],
        [True, False, [False], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True],
        [True, False, [True, NAN], True, NAN, -1, NAN, True, NAN, NAN, True],
        [True, False, [True, -1.0], True, 0.0, 0, 0.0, True, 0.0, 0.0, True],
    ],
    "shape": [[[0, [[1.0, 2.0, 3.0], 0.1]], [255, 0, 0], -1.0, True], [[200, None], [0] * 3, NAN, False]],
    "socket": ["", "hand_l"],
    "speed": [1.0, NAN],
    "state": [0, 4],
    "stream": [1, 0, (1 << 32) - 1],
    "tag": [14, 255, 200],
    "transform": [PLACE, [[NAN] * 3, [NAN] * 3], [[1e38] * 3, [1e38] * 3]],
    "vector": [[1.0, 2.0, 3.0], [NAN] * 3, [1e38] * 3],
    "walker_control": [[[1.0, 0.0, 0.0], 1.0, False], [[NAN] * 3, NAN, True]],
    "weather": [[10.0] * 14, [NAN] * 14, [-1.0] * 14],
    "wheel": [0, 3],
}  # fmt: skip
POINT = [3000.0, 500.0]
WHEEL = [3.5, 0.25, 70.0, 0.36, 1500.0, 3000.0, 2.0, 17.0, 1000.0, [0.0, 0.0, 0.0]]


def physics(number: float, wheels: int) -> list:
    return [
        *([POINT], number, number, number, number, number, True, number, number, number),
        *([[1.0, 0.5, 0.6]], number, number, [0.0, 0.0, 0.0], [[0.0, 1.0]], [WHEEL] * wheels, True),
    ]


SAMPLES["physics"] = [physics(1.0, 4), physics(NAN, 4), physics(0.0, 0), physics(-1.0, 40)]
JUNK = (None, True, -1, 1 << 40, 1.5, "text", b"bytes", [], [[]], [None] * 3, {"a": 1}, [1] * 50)


def test_every_parameter_has_a_reader_and_a_sample():
    used = {name for call in ALL for name in call.parameters}
    used |= {name for command in COMMANDS for name in command.fields}
    assert used <= values.PARAMETERS.keys()
    assert used <= SAMPLES.keys()
    assert values.PARAMETERS.keys() <= used


@pytest.mark.parametrize("call", ALL, ids=lambda call: call.name)
def test_each_call_has_a_handler_of_its_parameters_or_says_why_not(call: Call):
    handler = getattr(Handlers, call.name, None)
    if call.status is Status.REFUSED:
        assert handler is None
        assert call.note
    else:
        assert handler is not None
        assert len(inspect.signature(handler).parameters) == 1 + len(call.parameters)
        if call.status is Status.RECORDED:
            assert call.note


def test_commands_stand_for_calls_that_are_not_refused():
    assert len(COMMANDS) == 22
    for command in COMMANDS:
        if command.call and command.call != "set_walker_state":
            assert CALLS[command.call].status is not Status.REFUSED


def test_calls_that_leave_an_episode_as_it_began_are_calls():
    assert CALLS.keys() > handlers._HARMLESS
    assert "spawn_actor" not in handlers._HARMLESS


def test_table_is_for_people():
    rows = table()
    assert len(rows) == len(CALLS) == len({row["call"] for row in rows})
    assert {row["status"] for row in rows} == {"served", "accepted and recorded", "refused"}
    served = next(row for row in rows if row["call"] == "tick_cue")
    assert served == {"call": "tick_cue", "python": "World.tick", "status": "served", "note": ""}
    commands = {row["command"]: row["status"] for row in command_table()}
    assert commands["SpawnActor"] == commands["ApplyWalkerState"] == "served"
    assert commands["SetAutopilot"] == "accepted and recorded"
    assert commands["ConsoleCommand"] == "refused"


def test_every_method_of_the_wheel_is_accounted_for():
    """Each public method makes a call of the table, or is done by the client itself."""
    carla = pytest.importorskip("carla")
    listed = {name for call in ALL for name in call.python}
    local = {f"{owner}.{name}" for owner in CLIENT_SIDE for name in CLIENT_SIDE[owner].split()}
    owners = {*CLIENT_SIDE, "DebugHelper", "LaneInvasionSensor"}
    there = {
        f"{owner}.{name}"
        for owner in owners
        for name in vars(getattr(carla, owner))
        if not name.startswith("_")
    }
    assert (there & listed) | local == there
    for name in listed:
        owner, _, method = name.partition(".")
        assert hasattr(getattr(carla, owner), method), name
    commands = {name for name in vars(carla.command) if name[0].isupper()}
    assert commands - {"FutureActor", "Response"} <= {command.name for command in COMMANDS}


class Client:
    def __init__(self, port: int) -> None:
        self.sock = connect(port)
        self.unpacker = msgpack.Unpacker(raw=False)
        self.number = 0

    def ask(self, method: str, *parameters: object, waits: bool = True) -> list:
        """(error, result) of a call; fails when the connection does."""
        self.number += 1
        self.sock.sendall(msgpack.packb([0, self.number, method, [[not waits], *parameters]]))
        while True:
            for message in self.unpacker:
                kind, number, error, result = message
                assert (kind, number) == (1, self.number)
                return [error, result]
            data = self.sock.recv(1 << 16)
            assert data, f"the server closed the connection on {method}"
            self.unpacker.feed(data)


def message_of(call: Call, answer: list) -> str | None:
    """The error in an answer, which must have the shape that the client's library reads."""
    error, result = answer
    if call.answer is Answer.LIST:
        assert (error is None) == isinstance(result, list)
        return error
    assert error is None
    assert isinstance(result, list)
    assert len(result) == 1
    if call.answer is Answer.VALUE:
        index, value = result[0]
        assert index in (0, 1)
        return value[0] if index == 0 else None
    failed = result[0]
    assert failed == [False] or failed[0] is True
    return failed[1][0] if failed[0] else None


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("carla")  # which reads the town's map
    calls, streams = bind(0)
    with (
        calls,
        streams,
        in_thread(build_town("procedural:0"), calls, streams, synchronous=True) as s,
    ):
        s.port = calls.getsockname()[1]
        yield s


@pytest.fixture
def client(server) -> Client:
    return Client(server.port)


@pytest.fixture(autouse=True)
def no_defect(caplog):
    """Whatever comes in, the server may refuse it but must not stumble over it."""
    yield
    assert "a defect of the server" not in caplog.text


def test_unknown_call_names_itself_and_the_fix(client):
    error, result = client.ask("fly_to_the_moon", 1)
    assert result is None
    assert error.startswith("fly_to_the_moon: no such call")
    assert "pip install carla==0.9.16" in error


@pytest.mark.parametrize("call", ALL, ids=lambda call: call.name)
def test_wrong_number_of_parameters_names_the_version(client, call):
    message = message_of(call, client.ask(call.name, *[1] * (len(call.parameters) + 1)))
    assert message is not None
    assert message.startswith(f"{call.name}: got")
    assert "pip install carla==0.9.16" in message


@pytest.mark.parametrize("call", [c for c in ALL if c.parameters], ids=lambda call: call.name)
def test_parameters_of_the_wrong_type_are_refused(client, call):
    plain = [SAMPLES[name][0] for name in call.parameters]
    for i, name in enumerate(call.parameters):
        for junk in JUNK:
            try:
                values.PARAMETERS[name](junk)
            except values.Malformed:
                answer = client.ask(call.name, *plain[:i], junk, *plain[i + 1 :])
                message = message_of(call, answer)
                assert message is not None
                assert call.name in message


@pytest.mark.parametrize(
    "call", [c for c in ALL if c.name != "tick_cue"], ids=lambda call: call.name
)
def test_values_that_make_no_sense_are_survived(client, call):
    plain = [SAMPLES[name][0] for name in call.parameters]
    message_of(call, client.ask(call.name, *plain))
    for i, name in enumerate(call.parameters):
        for odd in SAMPLES[name][1:]:
            message_of(call, client.ask(call.name, *plain[:i], odd, *plain[i + 1 :]))
    if call.status is Status.REFUSED:
        message = message_of(call, client.ask(call.name, *plain))
        assert message.startswith(f"{call.name}: not supported by this world (")
    assert message_of(CALLS["tick_cue"], client.ask("tick_cue")) is None


def test_nobody_waits_for_refusals_but_the_log_tells(client, caplog):
    for _ in range(10):
        client.ask("enable_carsim", 1, "x", waits=False)
    lines = [r.message for r in caplog.records if r.message.startswith("enable_carsim was refused")]
    assert len(lines) <= 3


def test_batch_answers_each_command(client):
    commands = [
        [[0, [CAR, ELSEWHERE, [False], 200, "", []]]],  # the wheel leaves the attachment to chance
        [[1, [999_999]]],
        [[20, ["stat fps"]]],
        [[77, [1]]],
        [[2, ["nonsense"]]],
    ]
    error, result = client.ask("apply_batch", commands, False)
    assert error is None
    spawned = result[0][0]
    assert spawned[0] == 1
    assert [answer[0][0] for answer in result[1:]] == [0] * 4
    words = [answer[0][1][0] for answer in result[1:]]
    assert "not found" in words[0]
    assert words[1].startswith("ConsoleCommand: not supported")
    assert "22" in words[2]
    assert words[3].startswith("ApplyVehicleControl:")
    _, (answer,) = client.ask("destroy_actor", spawned[1])
    assert answer == [1, True]


def test_then_is_done_to_the_actor_just_spawned(client):
    control = [0.5, 0.0, 0.0, False, False, False, 0]
    then = [[[2, [0, control]]], [[6, [0, [[40.0, 2.0, 0.5], [0.0, 0.0, 0.0]]]]], [[1, [0]]]]
    _, result = client.ask("apply_batch", [[[0, [CAR, ELSEWHERE, [False], 0, "", then]]]], False)
    assert result[0][0][0] == 1
    number = result[0][0][1]
    _, ((_, actors),) = client.ask("get_actors_by_id", [number])
    assert actors == []  # the last command destroyed it


def test_batches_within_batches_end(client):
    command = [0, [CAR, PLACE, [False], 0, "", []]]
    for _ in range(40):
        command = [0, [CAR, [[NAN] * 3, [0.0] * 3], [False], 0, "", [[command]]]]
    error, result = client.ask("apply_batch", [[command]], False)
    assert error is None
    assert result[0][0][0] == 0


def test_ten_thousand_spawns_are_answered_one_by_one(client, server):
    command = [[0, [CAR, ELSEWHERE, [False], 0, "", []]]]
    error, result = client.ask("apply_batch", [command] * 10_000, False)
    assert error is None
    assert len(result) == 10_000
    done = [answer[0][1] for answer in result if answer[0][0] == 1]
    assert len(done) == 1  # they would all stand in one place
    client.ask("apply_batch", [[[1, [number]]] for number in done], False)


def test_traffic_manager_goes_with_its_client(server):
    first, second = Client(server.port), Client(server.port)
    assert first.ask("add_traffic_manager_running", ["127.0.0.1", 8123])[1] == [[1, True]]
    assert second.ask("is_traffic_manager_running", 8123)[1] == [[1, True]]
    assert second.ask("get_traffic_manager_running", 8123)[1] == [[1, ["127.0.0.1", 8123]]]
    assert second.ask("add_traffic_manager_running", ["127.0.0.1", 8123])[1] == [[1, False]]
    first.sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: as a killed process
    first.sock.close()
    for _ in range(200):
        if second.ask("is_traffic_manager_running", 8123)[1] == [[1, False]]:
            break
    else:
        pytest.fail("the traffic manager of a client that is gone is still listed")
