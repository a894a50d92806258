"""Does pre-training help where labels are few?  Pre-trained on the unlabelled rest against scratch.

    python benchmarks/pretraining.py DATASET --plan benchmarks/plans/hippocampus.yaml \\
        --work runs/pretraining --jobs 2 --out benchmarks/results/pretraining.json

About 4 CPU-hours on an AMD EPYC: 110 s a training, and a pre-training 250 s for mae and gmml and
450 s for multitask.

The validation cases of fold 0 are the test; nothing is chosen on them (weights are the last
average) and pre-training never sees them.  For each seed the other cases are shuffled: the first 5,
10, 20 and 50 are the labelled ones, the same for every arm, and all beyond the largest of these are
the unlabelled rest, whose images alone the encoder is pre-trained on.  Then every arm trains the
whole network on the labelled cases with one budget and one learning rate; only where the encoder's
weights begin differs.  What pre-training costs is reported beside it.

A seed decides the cases, the fresh weights and the batches.  Intervals resample seeds and test
cases together, so they hold for other choices of labelled cases, not only for these.

Each pre-training and each training is a cell with a folder of its own in ``--work``.  Interrupted,
it goes on with the cells that are missing; a cell that was cut off goes on from its checkpoint.
CPU-seconds are of the process that finished a cell.
``--collect`` gathers what is finished and trains nothing; a missing cell is an error that names it,
or with ``--partial`` its seed is left out and the cell counted.  ``--add`` takes the seeds that
``--out`` holds as finished, on whatever machine, and computes only the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SCRATCH = "scratch"
TASKS = ("mae", "gmml", "multitask")
SIZES = (5, 10, 20, 50)
SEEDS = (0, 1, 2, 3, 4)
RESAMPLES = 2000
TEST_FOLD = 0
DIGITS = 5
"""Of each Dice, so that what a result holds counts like what was just computed."""


@dataclass(frozen=True)
class Cell:
    """One training: ``size`` labelled cases, or None for the pre-training of ``arm``."""

    arm: str
    seed: int
    size: int | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        what = "pretraining" if self.size is None else f"{self.size}-labelled"
        return f"{what}/{self.arm}/seed-{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The inverse of ``name``."""
        what, arm, seed = text.split("/")
        size = None if what == "pretraining" else int(what.removesuffix("-labelled"))
        return cls(arm, int(seed.removeprefix("seed-")), size)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for every cell")
    parser.add_argument("--model", default="cswin_unet")
    parser.add_argument("--arms", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument(
        "--init-lr", type=float, default=1.0, help="share of --lr for what was pre-trained"
    )
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--pretrain-lr", type=float, default=1e-3)
    parser.add_argument("--pretrain-batch", type=int, default=4)
    parser.add_argument("--reserve", type=int, help="cases kept from pre-training; most of --sizes")
    parser.add_argument("--jobs", type=int, default=1, help="cells at once, one thread each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--collect", action="store_true", help="gather finished cells, train none")
    parser.add_argument("--partial", action="store_true", help="collect without missing cells")
    parser.add_argument("--add", action="store_true", help="keep the seeds that --out holds")
    parser.add_argument("--note", help="what else a reader of the result must know")
    parser.add_argument("--one", metavar="CELL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.kept = kept(args.out) if args.add else {}
    args.sizes = sorted(set(args.sizes))
    args.reserve = args.reserve or max(args.sizes)
    if args.reserve < max(args.sizes):
        parser.error(f"--reserve {args.reserve}: fewer than the {max(args.sizes)} labelled cases")
    return args


def cells(args: argparse.Namespace, seed: int) -> tuple[list[Cell], list[Cell]]:
    """(pre-trainings, trainings) of ``seed``."""
    before = [Cell(arm, seed) for arm in args.arms]
    after = [Cell(arm, seed, size) for size in args.sizes for arm in (SCRATCH, *args.arms)]
    return before, after


def kept(file: Path) -> dict[Cell, dict[str, Any]]:
    """The finished cells that a result holds: :func:`compact`'s inverse."""
    if not file.is_file():
        raise SystemExit(f"{file}: is not there; leave out --add to begin it")
    result = json.loads(file.read_text(encoding="utf-8"))
    found = {}
    for name, row in result["cells"].items():
        record = {**row, "cell": name}
        if "dice" in row:
            columns = row["dice"].items()
            record["dice"] = {
                case: {label: values[i] for label, values in columns}
                for i, case in enumerate(result["test_case_ids"])
            }
        found[Cell.parse(name)] = record
    return found


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """A finished cell as the result holds it: Dice by label, in the order of the sorted cases."""
    row: dict[str, Any] = {
        "settings": record["settings"],
        "cpu_seconds": round(record["cpu_seconds"], 1),
        "environment": {key: record["environment"][key] for key in ("commit", "modified")},
    }
    if "dice" not in record:
        gain = round(record["metrics"]["gain"], 5)
        return {**row, "images": record["images"], "metrics": {"gain": gain}}
    dice = record["dice"]
    columns = {
        label: [
            None if (v := dice[case][label]) is None else round(v, DIGITS) for case in sorted(dice)
        ]
        for label in next(iter(dice.values()))
    }
    return {**row, "dice": columns}


def deal(args: argparse.Namespace, seed: int) -> tuple[list[str], list[str], list[str]]:
    """(labelled pool in its order, unlabelled rest, test cases) of ``seed``."""
    import random

    from apps.medical.data.datasets import open_dataset
    from apps.medical.data.splits import folds

    pool, test = folds(open_dataset(args.dataset))[TEST_FOLD]
    order = sorted(pool)
    random.Random(f"labelled cases, seed {seed}").shuffle(order)
    if len(order) < args.reserve + 4:
        raise SystemExit(f"{args.dataset}: {len(order)} cases leave no unlabelled rest")
    return order[: args.reserve], order[args.reserve :], test


def record_of(args: argparse.Namespace, cell: Cell) -> Path:
    """What a finished cell leaves."""
    return Path(args.work / cell.name / "cell.json")


def settings_of(args: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    """What must be equal for a finished cell to be of this benchmark."""
    shared = {"model": args.model, "plan": args.plan.stem, "reserve": args.reserve}
    before = {
        "pretrain_steps": args.pretrain_steps,
        "pretrain_lr": args.pretrain_lr,
        "pretrain_batch": args.pretrain_batch,
    }
    if cell.size is None:
        return {**shared, **before}
    own = {**shared, "steps": args.steps, "lr": args.lr}
    return own if cell.arm == SCRATCH else {**own, **before, "init_lr": args.init_lr}


def run_one(args: argparse.Namespace, cell: Cell) -> None:
    """One cell, in this process; continues it where there is a checkpoint."""
    from core.cli import seed_everything, set_threads
    from core.files import write_json
    from core.reporting import environment

    set_threads(1)
    seed_everything(cell.seed)
    result = pretrain_cell(args, cell) if cell.size is None else train_cell(args, cell)
    record = {
        "cell": cell.name,
        "settings": settings_of(args, cell),
        **result,
        "cpu_seconds": time.process_time(),
        "environment": environment(cell.seed),
    }
    write_json(record_of(args, cell), record, force=True)


def pretrain_cell(args: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    from apps.medical.pretrain import pretrain, pretraining_config
    from core.pretraining import pretext_config
    from core.progress import get_progress

    _, rest, _ = deal(args, cell.seed)
    config = pretraining_config(
        cell.arm,
        max_steps=args.pretrain_steps,
        lr=args.pretrain_lr,
        precision="auto",
        seed=cell.seed,
    )
    result = pretrain(
        args.dataset,
        args.model,
        args.work / cell.name,
        pretext_config(cell.arm),
        cases=rest,
        plan=args.plan,
        plan_overrides=[f"batch={args.pretrain_batch}"],
        config=config,
        resume=True,
        progress=get_progress(True),
    )
    return {"metrics": result.metrics, "images": result.images}


def train_cell(args: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    from apps.medical.train import train, training_config
    from core.progress import get_progress

    pool, _, test = deal(args, cell.seed)
    folder = args.work / cell.name
    labelled = pool[: cell.size]
    config = training_config(
        max_steps=args.steps,
        val_every=args.steps,
        lr=args.lr,
        precision="auto",
        seed=cell.seed,
    )
    start = None if cell.arm == SCRATCH else args.work / Cell(cell.arm, cell.seed).name
    (fold,) = train(
        subset(args.dataset, folder / "data", labelled, test),
        args.model,
        folder / "run",
        fold="0",
        plan=args.plan,
        config=config,
        initial=start,
        initial_rate=1.0 if start is None else args.init_lr,
        resume=True,
        progress=get_progress(True),
    )
    cases = json.loads((fold.folder / "validation.json").read_text(encoding="utf-8"))["cases"]
    dice = {case: {name: row["dice"] for name, row in rows.items()} for case, rows in cases.items()}
    return {"labelled": labelled, "dice": dice, "initial": fold.initial}


def subset(dataset: Path, folder: Path, training: Sequence[str], test: Sequence[str]) -> Path:
    """A data set of links to the cases named, with their split as its fold 0."""
    from apps.medical.data.datasets import open_dataset
    from core.files import write_json

    data = open_dataset(dataset)
    for case_id in (*training, *test):
        case = data.case(case_id)
        assert case.label is not None
        for place, file in [("imagesTr", f) for f in case.images] + [("labelsTr", case.label)]:
            link = folder / place / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(file, link.parent.resolve()))
    split = {"train": sorted(training), "val": sorted(test)}
    write_json(folder / "splits_final.json", [split], force=True)
    return folder


def run_all(args: argparse.Namespace) -> None:
    """Every cell that is not finished, ``--jobs`` at once.

    Seed by seed, so that a stopped benchmark has whole seeds.
    """

    def start(cell: Cell) -> None:
        began = time.monotonic()
        command = [sys.executable, __file__, *sys.argv[1:], "--one", cell.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{cell.name} failed:\n{done.stderr[-3000:]}")
        print(f"{cell.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    for seed in args.seeds:
        for group in cells(args, seed):
            waiting = [cell for cell in group if finished(args, cell) is None]
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(start, waiting))


def finished(args: argparse.Namespace, cell: Cell) -> dict[str, Any] | None:
    """The record of a finished cell.  Ends the program where it was made with other settings."""
    file, record = record_of(args, cell), args.kept.get(cell)
    if record is not None:
        file = args.out
    elif file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
    else:
        return None
    for key, value in settings_of(args, cell).items():
        if record["settings"].get(key) != value:
            raise SystemExit(
                f"{file}: {cell.name} was made with {key} {record['settings'].get(key)}, now it is "
                f"{value}; give another {'--out' if file == args.out else '--work'}"
            )
    return dict(record)


def collect(args: argparse.Namespace) -> dict[str, Any]:
    """Dice by number of labelled cases and arm, and each arm's difference to scratch."""
    from core.reporting import environment

    have: dict[Cell, dict[str, Any]] = {}
    missing, seeds = [], []
    for seed in sorted({*args.seeds, *(cell.seed for cell in args.kept)}):
        wanted = [cell for group in cells(args, seed) for cell in group]
        records = {cell: finished(args, cell) for cell in wanted}
        lacking = [cell.name for cell, record in records.items() if record is None]
        missing += lacking
        if not lacking:  # every arm and size, or the arms would not be compared on the same cases
            seeds.append(seed)
            have |= {cell: record for cell, record in records.items() if record is not None}
    if missing and not args.partial:
        raise SystemExit(f"{len(missing)} cells are missing, first {missing[0]}")
    if not seeds:
        raise SystemExit("no seed is finished")
    trained = [record for cell, record in have.items() if cell.size is not None]
    test = sorted(trained[0]["dice"])
    if any(sorted(record["dice"]) != test for record in trained):
        raise SystemExit(f"{args.dataset}: not the test cases of the seeds that --out holds")
    sizes: dict[str, Any] = {}
    for size in args.sizes:
        dice = {
            arm: [have[Cell(arm, seed, size)]["dice"] for seed in seeds]
            for arm in (SCRATCH, *args.arms)
        }
        sizes[str(size)] = {
            arm: {
                "dice": summary(table(rows)),
                "labels": {
                    label: summary(table(rows, label)) for label in next(iter(rows[0].values()))
                },
                **(
                    {}
                    if arm == SCRATCH
                    else {"minus_scratch": summary(table(rows) - table(dice[SCRATCH]))}
                ),
            }
            for arm, rows in dice.items()
        }
    return {
        "benchmark": "pretraining",
        "dataset": args.plan.stem,
        "model": args.model,
        "test_cases": len(test),
        "seeds": seeds,
        "steps": args.steps,
        "peak_learning_rate": args.lr,
        "share_of_it_for_the_encoder": args.init_lr,
        "pretraining": {
            arm: pretraining_row([have[Cell(arm, seed)] for seed in seeds], args)
            for arm in args.arms
        },
        "note": args.note,
        "missing": len(missing),
        "interval": f"95 % percentile bootstrap over seeds and test cases, {RESAMPLES} resamples",
        "cpu_seconds_per_training": mean(trained, "cpu_seconds"),
        "labelled_cases": sizes,
        "trained_at_commits": sorted({commit(record) for record in have.values()}),
        "environment": environment(0),
        "test_case_ids": test,
        "cells": {cell.name: compact(record) for cell, record in have.items()},
    }


def pretraining_row(records: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Cost, and how much better than saying the mean held-out voxels are reconstructed."""
    gains = [record["metrics"]["gain"] for record in records]
    return {
        "images": records[0]["images"],
        "steps": args.pretrain_steps,
        "batch": args.pretrain_batch,
        "peak_learning_rate": args.pretrain_lr,
        "cpu_seconds": mean(records, "cpu_seconds"),
        "reconstruction_gain": round(sum(gains) / len(gains), 4),
    }


def mean(records: list[dict[str, Any]], key: str) -> float:
    return round(sum(record[key] for record in records) / len(records), 1)


def commit(record: dict[str, Any]) -> str:
    made = record["environment"]
    return f"{made['commit']}{' with local changes' if made['modified'] else ''}"


def table(rows: list[dict[str, dict[str, float | None]]], label: str | None = None) -> Any:
    """Dice as an array (seeds, cases): of a label, or the mean of all; an absent one counts as 0."""
    import numpy as np

    def value(case: dict[str, float | None]) -> float:
        chosen = [case[label]] if label is not None else list(case.values())
        return sum(round(v or 0.0, DIGITS) for v in chosen) / len(chosen)

    return np.array([[value(row[case]) for case in sorted(row)] for row in rows])


def summary(values: Any, seed: int = 0) -> dict[str, Any]:
    """Mean of (seeds, cases) and its interval, seeds and cases both resampled; and of each seed."""
    import numpy as np

    random = np.random.default_rng(seed)
    seeds, cases = values.shape
    means = [
        values[random.integers(seeds, size=seeds)][:, random.integers(cases, size=cases)].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "mean": round(float(values.mean()), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
        "by_seed": [round(float(v), 5) for v in values.mean(1)],
    }


def main() -> None:
    from core.errors import TriptychError
    from core.files import write_json

    args = arguments()
    try:
        if args.one:
            run_one(args, Cell.parse(args.one))
            return
        if not args.collect:
            run_all(args)
        result = collect(args)
    except TriptychError as error:
        raise SystemExit(str(error)) from error
    write_json(args.out, result, force=True)
    for size, arms in result["labelled_cases"].items():
        for arm, row in arms.items():
            by = row.get("minus_scratch")
            more = (
                "" if by is None else f"  {by['mean']:+.3f} [{by['low']:+.3f}, {by['high']:+.3f}]"
            )
            print(f"{size:>3} labelled  {arm:<10} Dice {row['dice']['mean']:.3f}{more}")


if __name__ == "__main__":
    main()
