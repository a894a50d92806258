"""Seconds and memory of ``fit`` and ``forecast`` as the number of series grows.

    python benchmarks/many_series.py                         # 100 to 3,000 series, two models
    python benchmarks/many_series.py --series 100 300 --models dlinear --steps 50     # a small one

Each series has 1,000 hourly points: a level, a slope, daily and weekly cycles and noise, all its own.
One model is fitted to all of them for a fixed number of steps, and forecasts 24 hours of each with
intervals of 80 and 90 %.  Every verb is a process of its own; its time, processor time and peak of
resident memory are those the system counted, interpreter and imports among them.  ``slope`` is the
memory that a further series costs, by least squares over the sizes; ``data`` what its 1,000 values
and stamps take as numbers of 8 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

POINTS, LOOKBACK, HORIZON = 1000, 96, 24
DATA_MB = POINTS * 2 * 8 / 2**20
SIZES = (100, 300, 1000, 3000)
MODELS = ("dlinear", "itransformer")
FORMATS = ("parquet", "csv")


def generate(path: Path, series: int, seed: int) -> None:
    """Write ``series`` long: unique_id, ds, y."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    t = np.arange(POINTS)
    size, slope, noise = rng.lognormal(3, 1, series), rng.normal(0, 5e-4, series), 0.1
    phase, weekly = rng.uniform(0, 24, series), rng.uniform(0, 0.3, series)
    day = np.sin(2 * np.pi * (t + phase[:, None]) / 24)
    week = weekly[:, None] * np.sin(2 * np.pi * t / 168)
    errors = noise * rng.normal(size=(series, POINTS))
    y = size[:, None] * (2 + slope[:, None] * t + 0.5 * day + week + errors)
    times = pd.date_range("2024-01-01", periods=POINTS, freq="h")
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"series-{i:05}" for i in range(series)], POINTS),
            "ds": np.tile(times.to_numpy(), series),
            "y": y.ravel().round(4),
        }
    )
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)


def run(verb: str, *arguments: str) -> dict[str, Any]:
    """One verb as a process: what it cost and what it said."""
    command = [sys.executable, "apps/timeseries/run.py", verb, *arguments, "--json", "--quiet"]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--threads", "1"], stdout=said, stderr=errors, cwd=ROOT, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{verb} {' '.join(arguments)}: {errors.read().strip()}")
        said.seek(0)
        report = json.loads(said.read())
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / divisor, 1),
        "report": report,
    }


def measure(file: Path, model: str, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fit and forecast one file."""
    fitted = run(
        "fit", str(file), "--model", model, "--lookback", str(LOOKBACK), "--horizon", str(HORIZON),
        "--max-steps", str(steps), "--seed", str(seed), "--out", str(folder / "model"),
    )  # fmt: skip
    ahead = run(
        "forecast", str(file), "--model", str(folder / "model"), "--horizon", str(HORIZON),
        "--level", "80", "--level", "90", "--out", str(folder / "forecast"),
    )  # fmt: skip
    test, forecast = fitted.pop("report")["metrics"]["test"], ahead.pop("report")
    return {
        "fit": fitted,
        "forecast": ahead,
        "rows_forecast": forecast["rows"],
        "coverage": {f"{entry['level']:g}": entry["measured"] for entry in forecast["coverage"]},
        "test_mae": test["mae"],
        "seasonal_naive_test_mae": test["naive"]["seasonal-naive"]["mae"],
    }


def slope(sizes: Sequence[int], peaks: Sequence[float]) -> float | None:
    """MB that a further series costs, by least squares."""
    if len(sizes) < 2:
        return None
    x, y = sum(sizes) / len(sizes), sum(peaks) / len(peaks)
    return sum((a - x) * (b - y) for a, b in zip(sizes, peaks)) / sum((a - x) ** 2 for a in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--format", choices=FORMATS, default="parquet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/many_series.json")
    parser.add_argument("--generate", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.generate:
        generate(Path(args.generate[0]), int(args.generate[1]), args.seed)
        return
    sizes = sorted(set(args.series))
    load = [os.getloadavg()]
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in args.models}
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="many-series-") as scratch:
            file = Path(scratch) / f"series.{args.format}"
            # In a process of its own: a child's memory is counted from its parent's on.
            subprocess.run(
                [sys.executable, __file__, "--generate", str(file), str(count),
                 "--seed", str(args.seed)],
                check=True,
            )  # fmt: skip
            for model in args.models:
                folder = Path(scratch) / model
                row = measure(file, model, args.steps, args.seed, folder)
                row = {"series": count, "file_mb": round(file.stat().st_size / 2**20, 1), **row}
                found[model].append(row)
                show(model, row)
    from core.files import write_json
    from core.reporting import environment

    models = {}
    for model, rows in found.items():
        peaks = {verb: [row[verb]["peak_mb"] for row in rows] for verb in ("fit", "forecast")}
        models[model] = {
            "sizes": rows,
            "slope_mb_per_series": {verb: slope(sizes, peak) for verb, peak in peaks.items()},
            "growth_mb": {verb: round(peak[-1] - peak[0], 1) for verb, peak in peaks.items()},
        }
        for verb, value in models[model]["slope_mb_per_series"].items():
            if value is not None:
                print(
                    f"{model}, {verb}: {value:.3f} MB a series, {value / DATA_MB:.1f} times its data"
                )
    result = {
        "benchmark": "many_series",
        "points": POINTS,
        "lookback": LOOKBACK,
        "horizon": HORIZON,
        "steps": args.steps,
        "format": args.format,
        "threads": 1,
        "data_mb_per_series": round(DATA_MB, 5),
        "models": models,
        "load": [[round(value, 2) for value in values] for values in [*load, os.getloadavg()]],
        "environment": environment(args.seed),
    }
    write_json(args.out, result, force=True)


def show(model: str, row: dict[str, Any]) -> None:
    """One size as a line."""
    costs = "   ".join(
        f"{verb} {row[verb]['seconds']:7.1f} s {row[verb]['cpu_seconds']:7.1f} CPU-s "
        f"{row[verb]['peak_mb']:7.0f} MB"
        for verb in ("fit", "forecast")
    )
    print(f"{model:<14}{row['series']:>6} series   {costs}", flush=True)


if __name__ == "__main__":
    main()
