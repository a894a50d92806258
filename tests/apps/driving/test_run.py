"""The command line as a person uses it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from apps.driving.routes.files import read_routes
from apps.driving.world.maps.opendrive import check_opendrive

pytest.importorskip("carla")

ROOT = Path(__file__).resolve().parents[3]
TOWN01 = ROOT / "samples" / "Town01.xodr"
ROUTES = ROOT / "samples" / "routes.xml"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "apps/driving/run.py"), *map(str, arguments)]


def run(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=seconds)


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


def test_routes_are_drawn_for_a_town(tmp_path):
    out = tmp_path / "routes.xml"
    drawn = ("routes", "--town", "procedural:3", "--count", 2, "--longest", 300, "--out", out)
    done = run(*drawn, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    specs = read_routes(out)
    assert {spec.id for spec in specs} == report["metres"].keys()
    assert {spec.town for spec in specs} == {report["town"]}
    assert all(150 <= metres <= 300 for metres in report["metres"].values())
    assert run(*drawn).returncode == 2, "the file is there already"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("drive", "--routes", ROUTES, "--agent", "exprt"), 2, "exprt"),
        (("drive", "--routes", "no.xml", "--agent", "expert"), 3, "no.xml"),
        (("drive", "--routes", ROUTES, "--agent", "expert", "--town", "no.xodr"), 3, "no.xodr"),
        (("drive", "--routes", ROUTES, "--agent", "expert", "--town", "procedural:1"), 3, "Town01"),
        (("drive", "--routes", ROUTES, "--agent", "expert", "--weather", "snow"), 2, "snow"),
        (("drive", "--routes", ROUTES, "--agent", "expert", "--max-seconds", 0), 2, "--max-seconds 0"),
        (("drive", "--routes", ROUTES, "--agent", "expert", "--host", "127.0.0.1", "--port", 9), 4, ":9"),
        (("collect", "--frames", 5, "--town", "no.xodr"), 3, "no.xodr"),
        (("train", "no-data"), 2, "no-data"),
        (("train", "no-data", "--balance", "gradnrm"), 2, "gradnorm"),
        (("train", "no-data", "--model", "smal"), 2, "small"),
    ],
)  # fmt: skip
def test_bad_verbs_are_one_line(arguments, code, words, tmp_path):
    done = run(*arguments, "--out", tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_recordings_that_are_none():
    done = run("recordings", ROOT / "docs")
    assert done.returncode == 3
    assert "docs" in done.stderr


@pytest.mark.slow
def test_from_a_town_to_a_scored_drive(tmp_path):
    """Collect, check, train, draw a route, drive it with what was trained: by the command line alone."""
    drives, mine, routes, out = (tmp_path / name for name in ("drives", "mine", "r.xml", "out"))
    frames = 0
    for town in ("procedural:1", "procedural:2"):  # whole routes are held out: two are the least
        collected = run(
            *("collect", "--town", town, "--frames", 30, "--traffic", 4, "--walkers", 2),
            *("--out", drives / town.replace(":", "_"), "--json"),
            seconds=200,
        )
        assert collected.returncode == 0, collected.stderr
        report = json.loads(collected.stdout)
        assert report["frames"] >= 30
        assert not report["lost"]
        frames += report["frames"]

    checked = run("recordings", drives, "--json")
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["frames"] == frames

    changes = ("batch=2", "val_frames=4", "test_frames=4", "gradnorm.warmup=1")
    trained = run(
        *("train", drives, "--model", "small", "--max-steps", 3, "--out", mine, "--json"),
        *(word for change in changes for word in ("--set", change)),
        seconds=200,
    )
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["steps"] == 3
    assert {path.name for path in mine.iterdir()} >= {"model.safetensors", "model.json"}

    drawn = run("routes", "--town", "procedural:3", "--count", 1, "--shortest", 60,
                "--longest", 100, "--out", routes)  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    driven = run(
        *("drive", "--town", "procedural:3", "--routes", routes, "--agent", mine, "--supervisor"),
        *("--traffic", 2, "--max-seconds", 8, "--out", out, "--json"),
        seconds=400,
    )
    assert driven.returncode == 0, driven.stderr
    score = json.loads(driven.stdout)
    assert {
        "driving_score_2_1",
        "driving_score_1_0",
        "route_completion",
        "infractions",
    } <= score.keys()
    (route,) = score["routes"]
    assert route["status"] != "failed: simulation crashed"
    assert route["duration_s"] <= 9
    assert 0 <= score["driving_score_2_1"] <= score["route_completion"] <= 100
    (film,) = out.glob("*.mp4")
    assert film.stat().st_size > 10_000


def test_the_shipped_driver_reaches_its_goal(tmp_path):
    done = run(
        *("drive", "--town", TOWN01, "--routes", ROUTES, "--limit", 1, "--agent", "small"),
        *("--no-video", "--threads", 1, "--out", tmp_path / "out", "--json"),
        seconds=400,
    )
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert score["agent"] == "small"
    assert score["route_completion"] > 95
    assert score["driving_score_2_1"] > 50


@pytest.mark.parametrize("verb", ["calls", "agents"])
def test_lists_need_neither_numpy_nor_carla(verb):
    code = (
        f"import sys; sys.argv = ['run.py', '{verb}', '--json']; import runpy\n"
        "try: runpy.run_path('apps/driving/run.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'numpy', 'torch', 'carla', 'msgpack'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    if verb == "agents":
        assert {"small", "expert", "constant", "blind"} <= report["agents"].keys()
        return
    assert report["carla"] == "0.9.16"
    assert {"call", "python", "status", "note"} == report["calls"][0].keys()
