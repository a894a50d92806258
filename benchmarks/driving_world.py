"""Ticks, memory and start-up of the driving world, through CARLA's own client, in one run.

    python benchmarks/driving_world.py                      # Town01, both renderers: about 4 minutes
    python benchmarks/driving_world.py --renderers numpy --rounds 1 --ticks 60

For each renderer and each number of cars of the world's own traffic (0, 20, 100, with all of
Town01's lights) a server is started anew; a client in a third process puts a car with 0, 3 or 9
cameras of 320 x 160 among them (RGB, depth and semantics of one view or of three), and ticks in
step with them: a tick counts once every camera's picture has arrived.

    start_s           from the server's start to the line that says it listens
    ticks_per_s       wall clock, with the client on the same machine; the best round
    server_cpu_ms     processor time of the server a tick, all its threads; the least of the rounds
    client_cpu_ms     the client's, which decodes nothing but receives every picture
    camera_cpu_s      of a step of three views, each RGB, depth and semantics: server_cpu_ms with nine
                      cameras less that with none
    memory_mb         largest resident size of the server so far

The floor is the same world with no traffic and no cameras (``actors`` counts the client's own car too).  Beside them stand the targets this world
was built to, and what the same three views cost in MetaDrive 0.4.3 with its software renderer,
measured apart on a machine of the same kind (2 cores, no GPU), not in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ACTORS = (0, 20, 100)
CAMERAS = (0, 3, 9)
KINDS = ("rgb", "depth", "semantic_segmentation")
VIEWS = (0, -60, 60)  # degrees of yaw
TARGETS = {
    "camera_cpu_s": {"numpy": 0.03, "egl": 0.006},
    "ticks_per_s_20_cars": 400.0,
    "start_s": 4.0,
    "memory_mb": 300.0,
}
PEER = {"name": "MetaDrive 0.4.3, llvmpipe, same three views", "camera_cpu_s": 1.21}


def cpu_s(pid: int) -> float:
    """User and system seconds of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def largest_mb(pid: int) -> float:
    """Peak resident size of a process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


def drive(port: int, pid: int, ticks: int) -> list[dict[str, Any]]:
    """In the client's process: each number of cameras in turn."""
    import carla

    client = carla.Client("127.0.0.1", port)
    client.set_timeout(60)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode = True
    settings.fixed_delta_seconds = 0.05
    world.apply_settings(settings)
    library = world.get_blueprint_library()
    blueprint = library.find("vehicle.tesla.model3")
    car = next(
        found
        for point in world.get_map().get_spawn_points()
        if (found := world.try_spawn_actor(blueprint, point)) is not None
    )
    rows = []
    for cameras in CAMERAS:
        inboxes: list[tuple[Any, queue.Queue[Any]]] = []
        for yaw in VIEWS[: cameras // len(KINDS)]:
            mount = carla.Transform(carla.Location(1.3, 0, 2.3), carla.Rotation(yaw=yaw))
            for kind in KINDS:
                found = library.find(f"sensor.camera.{kind}")
                for name, value in (("image_size_x", 320), ("image_size_y", 160), ("fov", 60)):
                    found.set_attribute(name, str(value))
                camera = world.spawn_actor(found, mount, attach_to=car)
                inbox: queue.Queue[Any] = queue.Queue()
                camera.listen(inbox.put)
                inboxes.append((camera, inbox))

        def step(inboxes: list[tuple[Any, queue.Queue[Any]]] = inboxes) -> None:
            car.apply_control(carla.VehicleControl(throttle=0.4))
            frame = world.tick(60)
            for _, inbox in inboxes:
                while inbox.get(timeout=60).frame < frame:
                    pass

        for _ in range(20):
            step()
        # Processor time comes in steps of 10 ms: many ticks where one costs half a millisecond.
        timed = ticks if cameras else 10 * ticks
        began, before, mine = time.perf_counter(), cpu_s(pid), time.process_time()
        for _ in range(timed):
            step()
        wall = time.perf_counter() - began
        rows.append(
            {
                "cameras": cameras,
                "actors": len(world.get_actors().filter("vehicle.*")),
                "ticks_per_s": timed / wall,
                "server_cpu_ms": 1e3 * (cpu_s(pid) - before) / timed,
                "client_cpu_ms": 1e3 * (time.process_time() - mine) / timed,
                "memory_mb": largest_mb(pid),
            }
        )
        for camera, _ in inboxes:
            camera.stop()
            camera.destroy()
        world.tick(60)
    settings.synchronous_mode = False
    world.apply_settings(settings)
    return rows


def serve(town: str, renderer: str, traffic: int, ticks: int) -> dict[str, Any] | str:
    """A server and its client; the rows of ``drive`` with the start-up, or why there are none."""
    command = [
        sys.executable, str(ROOT / "apps/driving/run.py"), "world", "--town", town, "--port", "0",
        "--renderer", renderer, "--traffic", str(traffic), "--seed", "0",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        found = None
        for line in server.stdout:
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
            if found:
                break
        start = time.perf_counter() - began
        if found is None:
            return server.stderr.read().strip().splitlines()[-1]
        row = {
            "start_s": start,
            "start_cpu_s": cpu_s(server.pid),
            "start_mb": largest_mb(server.pid),
        }
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--client", found.group(1), str(server.pid),
                 "--ticks", str(ticks)],
                capture_output=True, text=True, env=environment, check=False, timeout=600,
            )  # fmt: skip
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
    if done.returncode:
        sys.exit(f"{renderer}, {traffic} cars: {done.stderr.strip().splitlines()[-1]}")
    row["rows"] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def best(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a number of cameras: the best of the rounds, each round beside it."""
    rows = []
    for k, cameras in enumerate(CAMERAS):
        rounds = [r["rows"][k] for r in found]
        rows.append(
            {
                "cameras": cameras,
                "actors": rounds[0]["actors"],
                "ticks_per_s": round(max(r["ticks_per_s"] for r in rounds), 1),
                "ticks_per_s_by_round": [round(r["ticks_per_s"], 1) for r in rounds],
                "server_cpu_ms": round(min(r["server_cpu_ms"] for r in rounds), 3),
                "client_cpu_ms": round(min(r["client_cpu_ms"] for r in rounds), 3),
                "memory_mb": round(max(r["memory_mb"] for r in rounds), 1),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--town", default=str(ROOT / "samples/Town01.xodr"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/driving_world.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument(
        "--renderers", nargs="+", default=["numpy", "egl"], choices=["numpy", "egl"]
    )
    parser.add_argument("--client", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        print(json.dumps(drive(*args.client, args.ticks)))
        return
    from core.files import write_json
    from core.reporting import environment

    runs: dict[str, dict[int, list[dict[str, Any]]]] = {r: {} for r in args.renderers}
    absent: dict[str, str] = {}
    for _ in range(args.rounds):
        for renderer in args.renderers:
            for traffic in ACTORS:
                if renderer in absent:
                    continue
                row = serve(args.town, renderer, traffic, args.ticks)
                if isinstance(row, str):
                    absent[renderer] = row
                    print(f"{renderer}: {row}", file=sys.stderr)
                else:
                    runs[renderer].setdefault(traffic, []).append(row)
    result: dict[str, Any] = {
        "town": Path(args.town).name,
        "ticks": args.ticks,
        "rounds": args.rounds,
        "targets": TARGETS,
        "peer": PEER,
        "absent": absent,
        "renderers": {},
        "environment": environment(0),
    }
    for renderer, by_traffic in runs.items():
        if renderer in absent:
            continue
        tables = {traffic: best(found) for traffic, found in by_traffic.items()}
        starts = [r for found in by_traffic.values() for r in found]
        cost = {
            t: (rows[-1]["server_cpu_ms"] - rows[0]["server_cpu_ms"]) / 1e3
            for t, rows in tables.items()
        }
        result["renderers"][renderer] = {
            "start_s": round(min(r["start_s"] for r in starts), 2),
            "start_cpu_s": round(min(r["start_cpu_s"] for r in starts), 2),
            "start_mb": round(max(r["start_mb"] for r in starts), 1),
            "memory_mb": max(row["memory_mb"] for rows in tables.values() for row in rows),
            "camera_cpu_s": {str(t): round(c, 4) for t, c in cost.items()},
            "ticks_per_s_20_cars": tables[20][0]["ticks_per_s"],
            "by_cars": {str(t): rows for t, rows in tables.items()},
        }
    write_json(args.out, result, force=True)
    show(result)


def show(result: dict[str, Any]) -> None:
    """The result as tables, targets beside."""
    for renderer, found in result["renderers"].items():
        print(f"{renderer}")
        print(
            f"{'cars':>8}{'cameras':>9}{'ticks/s':>10}{'server ms':>11}{'client ms':>11}{'MB':>8}"
        )
        for cars, rows in found["by_cars"].items():
            for row in rows:
                print(
                    f"{cars:>8}{row['cameras']:>9}{row['ticks_per_s']:>10.0f}"
                    f"{row['server_cpu_ms']:>11.2f}{row['client_cpu_ms']:>11.2f}{row['memory_mb']:>8.0f}"
                )
        worst = max(found["camera_cpu_s"].values())
        for name, value, wanted in (
            ("start, s", found["start_s"], TARGETS["start_s"]),
            ("memory, MB", found["memory_mb"], TARGETS["memory_mb"]),
            ("three views, CPU-s", worst, TARGETS["camera_cpu_s"][renderer]),  # type: ignore[index]
            (
                "20 cars, ticks/s (at least)",
                found["ticks_per_s_20_cars"],
                TARGETS["ticks_per_s_20_cars"],
            ),
        ):
            print(f"  {name:<30}{value:>10.4g}   target {wanted:g}")
        print(f"  {'three views in MetaDrive':<30}{PEER['camera_cpu_s']:>10.4g}")


if __name__ == "__main__":
    main()
