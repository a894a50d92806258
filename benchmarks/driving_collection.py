"""How fast drives are recorded: frames a second of wall and of processor time.

    python benchmarks/driving_collection.py

One process, the embedded world with NumPy's renderer, three cameras of RGB, depth and semantics, 20
vehicles and 10 walkers; a series of its own for each seed, start of the world included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KEPT = ("frames", "routes", "seconds", "frames_per_second", "cpu_seconds", "frames_per_cpu_second",
        "simulated_seconds")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--towns", nargs="+", default=["samples/Town01.xodr", "procedural:900"])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/driving_collection.json"
    )
    args = parser.parse_args()

    from apps.driving.recordings.collect import collect
    from core.errors import TriptychError
    from core.files import write_json
    from core.progress import get_progress
    from core.reporting import environment

    rows = []
    try:
        for town in args.towns:
            for seed in args.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    report = collect(
                        town, args.frames, Path(folder) / "data", seed=seed, progress=get_progress()
                    )
                rows.append({"town": town, "seed": seed, **{key: report[key] for key in KEPT}})
    except TriptychError as error:
        sys.exit(f"error: {error}")
    result = {
        "command": " ".join(["python", "benchmarks/driving_collection.py", *sys.argv[1:]]),
        "rows": rows,
        "frames_per_second": round(mean(row["frames_per_second"] for row in rows), 2),
        "frames_per_cpu_second": round(mean(row["frames_per_cpu_second"] for row in rows), 2),
        "environment": environment(args.seeds[0]),
    }
    write_json(args.out, result, force=True)
    for row in rows:
        print(
            f"{row['town']:<24}seed {row['seed']}  {row['frames']:>5} frames"
            f"{row['frames_per_second']:>7.1f} a second{row['frames_per_cpu_second']:>7.1f} a processor second"
        )


if __name__ == "__main__":
    main()
