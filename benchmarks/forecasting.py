"""Benchmark protocols of long-horizon forecasting: published settings, every test window, seeds.

    python benchmarks/forecasting.py DATA --jobs 2 --out benchmarks/results/forecasting.json

DATA holds ETTh1.csv, ETTh2.csv, ETTm1.csv and exchange_rate.csv (benchmarks/README.md says where
they come from; ETTh1.csv is in samples/).  A cell is one data set, horizon, model and seed: trained
by the settings in ``apps/timeseries/catalog.py``, chosen by validation, its test windows forecast
once.  Each cell is a process of one thread and leaves a JSON file in ``--work``; a cell that is there
is not computed again and a training that was killed goes on from its last checkpoint, so the command
continues where it stopped, and more cells may be added later.
``--collect`` only writes the result from the cells that are there; ``--add`` keeps what ``--out`` holds
already, and does not compute its cells again.  A baseline's forecast of 720 steps begins with that
of 96: its horizons are one process, and their rows name the CPU-seconds of all of them.

Published figures (``published_forecasting.csv``) stand beside ours; they are the papers'.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FILES = {
    "ETTh1": ("ETTh1.csv", "ett-hour"),
    "ETTh2": ("ETTh2.csv", "ett-hour"),
    "ETTm1": ("ETTm1.csv", "ett-minute"),
    "Exchange": ("exchange_rate.csv", "7-1-2"),
}
HORIZONS = (96, 192, 336, 720)
NAIVE = ("last-value", "seasonal-naive", "seasonal-mean", "drift", "ets")
MODELS = ("itransformer", "olinear", "dlinear", "patchtst", "s-mamba", "autoformer")
LOOKBACK = 96
KEPT = ("windows", "parameters", "changes", "together")
"""What all seeds of a row share."""
BY_SEED = {
    "mse": "mse_by_seed",
    "mae": "mae_by_seed",
    "steps": "steps",
    "cpu_seconds": "cpu_seconds",
}
"""Of a run -> its name in a row, a list over seeds."""
PUBLISHED = ROOT / "benchmarks" / "published_forecasting.csv"


@dataclass(frozen=True)
class Cell:
    """One training and one look at the test windows."""

    dataset: str
    horizon: int
    model: str
    seed: int

    @property
    def file(self) -> str:
        """Of its result, in the work folder."""
        return f"{self.dataset}-{self.horizon}-{self.model}-{self.seed}.json"

    def command(self, data: Path, run: Path) -> list[str]:
        """What a person would type. A training that was killed goes on in the folder ``run``."""
        name, protocol = FILES[self.dataset]
        return [
            *(sys.executable, str(ROOT / "apps" / "timeseries" / "run.py"), "evaluate"),
            *(str(data / name), "--protocol", protocol, "--model", self.model),
            *("--lookback", str(LOOKBACK), "--horizon", str(self.horizon)),
            *("--seed", str(self.seed), "--threads", "1", "--no-naive", "--json"),
            *("--out", str(run), "--resume"),
        ]


def cells(args: argparse.Namespace) -> list[Cell]:
    """In the order they are computed: a first seed of everything, then the others."""
    found = [
        Cell(dataset, horizon, model, seed)
        for seed in range(args.seeds)
        for model in args.models
        for dataset in args.datasets
        for horizon in args.horizons
        if model not in NAIVE or seed == 0
    ]
    return found


def processes(wanted: list[Cell]) -> list[list[Cell]]:
    """What is computed together: the horizons of a baseline, or a cell alone; in their order."""
    groups: dict[Cell, list[Cell]] = {}
    for cell in wanted:
        first = replace(cell, horizon=0) if cell.model in NAIVE else cell
        groups.setdefault(first, []).append(cell)
    return list(groups.values())


def compute(group: list[Cell], data: Path, work: Path) -> None:
    """Run cells of one process and keep their JSON, or the error beside the first."""
    group = [cell for cell in group if not (work / cell.file).exists()]
    if not group:
        return
    first = group[0]
    run = (work / "runs" / first.file).with_suffix("")
    if first.model in NAIVE:
        horizons = [str(cell.horizon) for cell in group]
        names = ("--datasets", first.dataset, "--models", first.model, "--horizons", *horizons)
        command = [sys.executable, __file__, str(data), "--baseline", *names]
    else:
        command = first.command(data, run)
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        (work / f"{first.file}.error").write_text(done.stderr)
        print(f"{first.file}: failed, exit code {done.returncode}", file=sys.stderr)
        return
    found = json.loads(done.stdout)
    for cell, result in zip(group, found if isinstance(found, list) else [found], strict=True):
        target = work / cell.file
        temporary = target.with_suffix(".part")
        temporary.write_text(json.dumps(result))
        temporary.replace(target)
        print(
            f"{cell.file}: mse {result['mse']:.4f} mae {result['mae']:.4f}, "
            f"{time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    shutil.rmtree(run, ignore_errors=True)  # hundreds of megabytes, and the figures are kept


def baseline(data: Path, dataset: str, model: str, horizons: list[int]) -> list[dict[str, Any]]:
    """What ``evaluate`` reports of a baseline at each horizon, from one forecast of each window."""
    from apps.timeseries.data.reading import read_panel
    from apps.timeseries.data.splits import protocol_borders
    from apps.timeseries.evaluate import score
    from apps.timeseries.methods import BaselinePredictor
    from core.cli import set_threads
    from core.reporting import Timer

    set_threads(1)
    name, protocol = FILES[dataset]
    panel = read_panel(data / name)
    borders = protocol_borders(protocol, len(panel.series[0]), panel.source)
    with Timer() as timer:
        scores = score(panel, BaselinePredictor(model), borders, LOOKBACK, horizons)
    shared = {"dataset": dataset, "model": model, "seed": 0, "training": {}}
    about = {"file_sha256": panel.sha256, "cpu_seconds": round(timer.cpu_seconds, 1)}
    if len(horizons) > 1:
        about["together"] = horizons
    return [{**shared, "horizon": h, **scores[h], **about} for h in horizons]


def collect(work: Path, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """All cells in ``work``, and those of the result ``before`` that are not there.

    A row for each data set, horizon and model, over its seeds.
    """
    from core.reporting import environment

    runs: dict[tuple[str, int, str, int], dict[str, Any]] = {}
    hashes: dict[str, str] = {}
    for row in (before or {"rows": []})["rows"]:
        for i, seed in enumerate(row["seeds"]):
            runs[row["dataset"], row["horizon"], row["model"], seed] = {
                **{key: row[key] for key in KEPT if key in row},
                **{key: row[name][i] for key, name in BY_SEED.items() if name in row},
            }
    if before is not None:
        hashes |= before["files_sha256"]
    for path in sorted(work.glob("*.json")):
        cell = json.loads(path.read_text())
        training = cell["training"]
        runs[cell["dataset"], cell["horizon"], cell["model"], cell["seed"]] = {
            **{key: cell[key] for key in ("windows", "mse", "mae", "cpu_seconds")},
            **({"together": cell["together"]} if "together" in cell else {}),
            **{key: training[key] for key in ("parameters", "changes", "steps") if key in training},
        }
        if hashes.setdefault(cell["dataset"], cell["file_sha256"]) != cell["file_sha256"]:
            sys.exit(f"{path.name}: {cell['dataset']} is another file than the other cells'")
    order = [*FILES, *NAIVE, *MODELS]
    keys = sorted(
        {key[:3] for key in runs},
        key=lambda k: (order.index(k[0]), k[1], _place(order, k[2]), k[2]),
    )
    rows = []
    for key in keys:
        found = {k[3]: run for k, run in sorted(runs.items()) if k[:3] == key}
        first = next(iter(found.values()))
        row: dict[str, Any] = {
            **dict(zip(("dataset", "horizon", "model"), key)),
            "seeds": list(found),
            **{name: first[name] for name in KEPT if name in first},
        }
        for metric in ("mse", "mae"):
            row[metric] = round(statistics.fmean(run[metric] for run in found.values()), 5)
        for metric, name in BY_SEED.items():
            if metric in first:
                row[name] = [round(run[metric], 5) for run in found.values()]
        rows.append(row)
    return {
        "protocol": "lookback 96, borders and settings as published, all test windows, scaled space",
        "files_sha256": hashes,
        "rows": rows,
        "published": published(),
        "environment": environment(),
    }


def published() -> list[dict[str, Any]]:
    """The papers' figures, a row for each data set, horizon and model."""
    with PUBLISHED.open(newline="", encoding="utf-8") as stream:
        return [
            {
                **row,
                "horizon": int(row["horizon"]),
                "mse": float(row["mse"]),
                "mae": float(row["mae"]),
            }
            for row in csv.DictReader(stream)
        ]


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the folder of the four files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/forecasting.json")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "forecasting")
    parser.add_argument("--datasets", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--horizons", nargs="+", type=int, default=list(HORIZONS))
    parser.add_argument("--models", nargs="+", default=list(NAIVE + MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--collect", action="store_true", help="compute nothing")
    parser.add_argument("--add", action="store_true", help="to the result that --out is")
    parser.add_argument("--baseline", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.baseline:
        (dataset,), (model,) = args.datasets, args.models
        print(json.dumps(baseline(args.data, dataset, model, args.horizons)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    before = json.loads(args.out.read_text()) if args.add else None
    done = {
        (row["dataset"], row["horizon"], row["model"], seed)
        for row in (before or {"rows": []})["rows"]
        for seed in row["seeds"]
    }
    if not args.collect:
        wanted = [c for c in cells(args) if (c.dataset, c.horizon, c.model, c.seed) not in done]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda group: compute(group, args.data, args.work), processes(wanted)))
    from core.files import write_json

    write_json(args.out, collect(args.work, before), force=True)


if __name__ == "__main__":
    main()
