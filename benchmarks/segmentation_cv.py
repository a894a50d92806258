"""Cross-validate segmentation networks head to head: same folds, patches, steps and schedule.

    python benchmarks/segmentation_cv.py DATASET --plan benchmarks/plans/hippocampus.yaml \\
        --steps 400 --lr 4e-3 --jobs 2 --out benchmarks/results/hippocampus_cv.json

Every network is trained from scratch in its ``small`` preset; nothing is chosen on the validation
cases (weights are the last average).  Interrupted, it continues where it stopped.  The result holds,
for each network and label, the mean over all validation cases with a 95 % bootstrap interval, the
CPU-seconds a fold took, and the difference to the baseline case by case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODELS = ("unet", "dynunet", "swin_unetr", "cswin_unet", "swin_unet", "att_swin_unet")
BASELINE = "dynunet"
METRICS = ("dice", "hd95", "nsd", "f1_50", "ap_50", "ap_mean", "pq", "aji")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="folds at once, one thread each")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--collect", action="store_true", help="gather finished runs, train none")
    parser.add_argument("--note", help="what else a reader of the result must know")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FOLD"), help=argparse.SUPPRESS)
    return parser.parse_args()


def train_one(args: argparse.Namespace, model: str, fold: str) -> None:
    """One network on one fold, in this process."""
    from apps.medical.train import train, training_config
    from core.cli import seed_everything, set_threads
    from core.progress import get_progress

    set_threads(1)
    seed_everything(args.seed)
    config = training_config(
        max_steps=args.steps, val_every=args.steps, lr=args.lr, precision="auto", seed=args.seed
    )
    train(
        args.dataset,
        model,
        args.runs / args.plan.stem / model,
        fold=fold,
        plan=args.plan,
        config=config,
        resume=True,
        progress=get_progress(True),
    )
    record = args.runs / args.plan.stem / model / f"fold_{fold}" / "benchmark.json"
    record.write_text(json.dumps({"cpu_seconds": time.process_time(), "steps": args.steps}))


def run_all(args: argparse.Namespace) -> None:
    """Every network and fold that is not finished, ``--jobs`` at a time."""
    waiting = [
        (model, str(fold))
        for fold in args.folds
        for model in args.models
        if not (args.runs / args.plan.stem / model / f"fold_{fold}" / "benchmark.json").exists()
    ]

    def start(job: tuple[str, str]) -> None:
        began = time.monotonic()
        command = [sys.executable, __file__, *sys.argv[1:], "--one", *job]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(job)} failed:\n{done.stderr[-3000:]}")
        seconds = time.monotonic() - began
        print(f"{job[0]} fold {job[1]}: {seconds:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(start, waiting))


def collect(args: argparse.Namespace) -> dict[str, Any]:
    """Means, intervals and paired differences over all validation cases."""
    from apps.medical import catalog
    from apps.medical.models import build
    from core.reporting import environment

    runs = args.runs / args.plan.stem
    cases: dict[str, dict[str, Any]] = {}
    models: dict[str, Any] = {}
    for model in args.models:
        cases[model], cpu, commits = {}, [], set()
        for fold in args.folds:
            folder = runs / model / f"fold_{fold}"
            cases[model].update(json.loads((folder / "validation.json").read_text())["cases"])
            record = folder / "benchmark.json"  # absent where `run.py train` made the run
            if record.exists():
                cpu.append(json.loads(record.read_text())["cpu_seconds"])
            spec = json.loads((folder / "model.json").read_text())
            made = spec["training"]["environment"]
            commits.add(f"{made['commit']}{' with local changes' if made['modified'] else ''}")
        n = spec["network"]
        network = build(n["name"], n["rank"], n["in_channels"], n["out_channels"], **n["options"])
        models[model] = {
            "title": catalog.entry(model).title,
            "parameters": sum(p.numel() for p in network.parameters()),
            "cpu_seconds_per_fold": round(sum(cpu) / len(cpu), 1) if cpu else None,
            "trained_at_commits": sorted(commits),
            "labels": {
                label: {m: interval(cases[model], label, m) for m in METRICS if m in values}
                for label, values in next(iter(cases[model].values())).items()
            },
        }
    for model in args.models:
        if BASELINE in cases and model != BASELINE:
            models[model][f"dice_minus_{BASELINE}"] = {
                label: difference(cases[model], cases[BASELINE], label)
                for label in models[model]["labels"]
            }
    return {
        "benchmark": "segmentation_cv",
        "dataset": args.plan.stem,
        "cases": len(next(iter(cases.values()))),
        "folds": args.folds,
        "steps": args.steps,
        "batch": spec["plan"]["batch"],
        "patch": spec["plan"]["patch"],
        "peak_learning_rate": args.lr,
        "seed": args.seed,
        "note": args.note,
        "interval": "95 % percentile bootstrap of the mean over cases, 2000 resamples",
        "models": models,
        "environment": environment(args.seed),
    }


def interval(cases: dict[str, Any], label: str, metric: str) -> dict[str, Any]:
    """Mean of a metric over cases, its interval, and in how many cases it is undefined."""
    values = [row[label][metric] for row in cases.values()]
    return bootstrap([v for v in values if v is not None and v == v], len(values))


def difference(ours: dict[str, Any], theirs: dict[str, Any], label: str) -> dict[str, Any]:
    """Dice of one network minus another's on the same cases."""
    pairs = [(ours[c][label]["dice"], theirs[c][label]["dice"]) for c in ours]
    values = [a - b for a, b in pairs if a is not None and b is not None and a == a and b == b]
    return bootstrap(values, len(pairs))


def bootstrap(values: list[float], total: int) -> dict[str, Any]:
    import numpy as np

    from apps.medical import evaluate

    mean = statistics.fmean(values)
    cases = [f"{i:06d}" for i in range(len(values))]  # each its own group, in this order
    low, high = evaluate.bootstrap(np.asarray(values), cases) or (mean, mean)
    return {
        "mean": round(mean, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "undefined": total - len(values),
    }


def main() -> None:
    args = arguments()
    if args.one:
        train_one(args, *args.one)
        return
    if not args.collect:
        run_all(args)
    result = collect(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, model in sorted(
        result["models"].items(),
        key=lambda m: -sum(v["dice"]["mean"] for v in m[1]["labels"].values()),
    ):
        row = "  ".join(
            f"{label}: Dice {v['dice']['mean']:.4f} [{v['dice']['low']:.4f}, {v['dice']['high']:.4f}]"
            f" HD95 {v['hd95']['mean']:.2f}"
            for label, v in model["labels"].items()
        )
        print(f"{name:14s} {model['parameters'] / 1e6:.2f} M  {row}")


if __name__ == "__main__":
    main()
