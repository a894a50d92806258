"""How long the command line takes to answer: ``run.py --help`` and ``info`` against bare Python.

    python benchmarks/startup.py                 # 20 runs of each, about half a minute

The commands take turns, so that whatever else the machine does falls on all of them alike. The
promise is ``--help`` in less than 0.4 s. The minimum is what the code costs, the median what a person
waited on this machine. ``load`` says how busy it was: with more runnable processes than cores, only
the processor seconds say something about the code.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RUN = "apps/medical/run.py"
COMMANDS = {
    "python": ["-c", "pass"],
    "--help": [RUN, "--help"],
    "info": [RUN, "info"],
    "info --json": [RUN, "info", "--json"],
    "predict --help": [RUN, "predict", "--help"],
}
TARGET = {"--help": 0.4}


def main() -> None:
    from core.files import write_json
    from core.reporting import environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="of each command")
    default = ROOT / "benchmarks" / "results" / "startup.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()

    load = [os.getloadavg()]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for name in COMMANDS:  # once unmeasured: byte code and file cache
        once(name)
    for _ in range(args.runs):
        for name in COMMANDS:
            seconds[name].append(once(name))
    load.append(os.getloadavg())
    result = {
        "benchmark": "startup",
        "runs": args.runs,
        "unit": "seconds of one process, wall clock and processor",
        "commands": {name: summary(name, taken) for name, taken in seconds.items()},
        "load": [[round(value, 2) for value in values] for values in load],
        "environment": environment(seed=0),
    }
    write_json(args.out, result, force=True)
    for name, row in result["commands"].items():
        wall, cpu = row["wall"], row["cpu"]
        print(
            f"{name:16s} wall min {wall['min']:.3f}  median {wall['median']:.3f}  "
            f"max {wall['max']:.3f}   processor min {cpu['min']:.3f}  median {cpu['median']:.3f}"
            + (f"   target {row['target']:g}" if "target" in row else "")
        )


def once(name: str) -> tuple[float, float]:
    """(wall, processor) seconds of one process, its exit included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, *COMMANDS[name]]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def summary(name: str, taken: list[tuple[float, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for kind, values in zip(("wall", "cpu"), zip(*taken, strict=True), strict=True):
        row[kind] = {
            "min": round(min(values), 4),
            "median": round(statistics.median(values), 4),
            "max": round(max(values), 4),
        }
    if name in TARGET:
        row["target"] = TARGET[name]
    return row


if __name__ == "__main__":
    main()
