"""The command line as a person uses it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from apps.driving.world.maps.opendrive import check_opendrive

pytest.importorskip("carla")

ROOT = Path(__file__).resolve().parents[3]
TOWN01 = ROOT / "samples" / "Town01.xodr"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "apps/driving/run.py"), *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)


@pytest.fixture
def serving():
    """Starts the verb ``world``; whatever is left of it ends with the test."""
    started = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                command("world", *arguments),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_world_says_one_line_and_ends_cleanly(serving, number):
    process = serving("--town", TOWN01, "--port", 0)
    line = process.stdout.readline()
    assert line.startswith("listening on 127.0.0.1:")
    port = int(line.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err


def test_world_as_json_is_one_object(serving):
    process = serving("--port", 0, "--json", "--traffic", 2, "--walkers", 2)
    facts = json.loads(process.stdout.readline())
    assert facts["host"] == "127.0.0.1"
    assert facts["port"] > 0
    assert facts["town"] == "Procedural0"
    process.terminate()
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0


def test_port_in_use_is_the_machines_fault():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("world", "--port", port)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--town", "no.xodr"), 3, "no.xodr"),
        (("--town", ROOT / "README.md"), 2, "README.md"),
        (("--town", "procedural:x"), 2, "procedural"),
        (("--port", 70000), 2, "port 70000"),
        (("--renderer", "crayon"), 2, "crayon"),
        (("--traffic", -1), 2, "--traffic"),
    ],
)
def test_bad_options_are_one_line(arguments, code, words):
    done = run("world", "--port", 0, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_town_is_written_once(tmp_path):
    out = tmp_path / "new" / "town.xodr"
    done = run("town", "--seed", 3, "--blocks", 2, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bytes"] == out.stat().st_size
    check_opendrive(out.read_text(), out.name)
    again = run("town", "--seed", 4, "--out", out)
    assert again.returncode == 2
    assert "--force" in again.stderr
    before = out.read_bytes()
    assert run("town", "--seed", 3, "--blocks", 2, "--out", out, "--force").returncode == 0
    assert out.read_bytes() == before


def test_check_counts_what_is_in_a_map(tmp_path):
    done = run("check", TOWN01, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["town"] == "Town01"
    assert report["traffic_lights"] == 36
    assert report["spawn_points"] > 100
    bad = tmp_path / "bad.xodr"
    bad.write_text("<OpenDRIVE/>")
    refused = run("check", bad)
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: ")


def test_calls_need_neither_numpy_nor_carla():
    code = (
        "import sys; sys.argv = ['run.py', 'calls', '--json']; import runpy\n"
        "try: runpy.run_path('apps/driving/run.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'numpy', 'carla', 'msgpack'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["carla"] == "0.9.16"
    assert {"call", "python", "status", "note"} == report["calls"][0].keys()
