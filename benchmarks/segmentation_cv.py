"""Cross-validate segmentation networks head to head: same folds, patches, steps and schedule.

    python benchmarks/segmentation_cv.py DATASET --plan benchmarks/plans/hippocampus.yaml \\
        --steps 400 --lr 4e-3 --jobs 2 --out benchmarks/results/hippocampus_cv.json

Every network is trained from scratch in its ``small`` preset; nothing is chosen on the validation
cases (weights are the last average).  Interrupted, it continues where it stopped.  The result holds,
for each network and label, the mean over all validation cases with a 95 % bootstrap interval, the
CPU-seconds a fold took, and the difference to the baseline case by case.

``--models umamba_bot:mixer=none umamba_enc:residual=true`` are variants, other options in the same
preset: each is a network of its own, with its own runs.  A network that comes with its variant
without Mamba is compared with that one too, case by case (``dice_minus_ablation``).

``--add`` puts the networks of this call into the result that ``--out`` already is, which must be of
the same data, folds and budget; those that are there and not named here stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODELS = (
    "unet",
    "dynunet",
    "swin_unetr",
    "cswin_unet",
    "swin_unet",
    "att_swin_unet",
    "umamba_bot",
    "umamba_bot:residual=true",
    "umamba_bot:mixer=none",
    "umamba_enc",
    "umamba_enc:residual=true",
    "segmamba",
    "segmamba:mixer=none",
    "swin_umamba",
    "swin_umamba:mixer=none",
    "vm_unet",
    "vm_unet:mixer=none",
)
BASELINE = "dynunet"
SAME = ("dataset", "cases", "folds", "steps", "batch", "patch", "peak_learning_rate", "seed")
"""What two results must share to stand in one table."""
SAME_WITHOUT = {"umamba_enc": "umamba_bot"}
"""Networks that are one network once their mixers are gone, which is trained once."""
METRICS = ("dice", "hd95", "nsd", "f1_50", "ap_50", "ap_mean", "pq", "aji")


@dataclass(frozen=True)
class Variant:
    """A network of the catalog with some options of its own: ``name:option=value,...``."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Of a command line.  Raises UsageError naming the nearest network or option."""
        from apps.medical import catalog
        from core.cli import parse_options
        from core.errors import UsageError

        name, _, rest = text.partition(":")
        try:
            options = parse_options(re.split(r",(?=\w+=)", rest) if rest else [])
        except UsageError as error:
            message = f"variant {text!r}: want name:option=value,option=value."
            raise UsageError(message) from error
        catalog.resolve(name, catalog.entry(name).ranks[0], "small", **options)
        return cls(name, options)

    @property
    def key(self) -> str:
        """As it is written: the same options always give the same key."""
        given = ",".join(f"{k}={_written(v)}" for k, v in sorted(self.options.items()))
        return f"{self.name}:{given}" if given else self.name

    @property
    def folder(self) -> str:
        """A name for its runs, on any file system."""
        return self.key.replace(":", "+")

    @property
    def title(self) -> str:
        """For a reader: "U-Mamba Bot, Mamba layer removed"."""
        from apps.medical import catalog

        return ", ".join([catalog.entry(self.name).title, *map(_said, self.options.items())])

    @property
    def ablation(self) -> Variant | None:
        """The same without its mixer; None for networks that have no such option, or no mixer."""
        from apps.medical import catalog

        if {**catalog.entry(self.name).defaults, **self.options}.get("mixer") is None:
            return None
        others = {k: v for k, v in self.options.items() if k not in ("residual", "path")}
        return Variant(SAME_WITHOUT.get(self.name, self.name), {**others, "mixer": None})


def _written(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"').replace(" ", "")


def _said(option: tuple[str, Any]) -> str:
    """An option in words, or as it is written."""
    words = {
        "mixer=none": "Mamba layer removed",
        "residual=true": "with a residual around Mamba",
        "residual=false": "without a residual around Mamba",
    }
    name, value = option
    written = f"{name}={_written(value)}"
    if name == "mixer" and value is not None:
        return f"{value} in Mamba's place"
    return words.get(written, written)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="name[:option=value,...]")
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="folds at once, one thread each")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--collect", action="store_true", help="gather finished runs, train none")
    parser.add_argument("--add", action="store_true", help="keep the networks that --out holds")
    parser.add_argument("--note", help="what else a reader of the result must know")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FOLD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.models = [Variant.parse(text) for text in args.models]
    args.old = json.loads(args.out.read_text(encoding="utf-8")) if args.add else None
    if args.add:  # before hours of training
        known = {"dataset": args.plan.stem, "folds": args.folds, "steps": args.steps}
        require_same(args.old, {**known, "peak_learning_rate": args.lr, "seed": args.seed})
    return args


def train_one(args: argparse.Namespace, model: Variant, fold: str) -> None:
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
        model.name,
        args.runs / args.plan.stem / model.folder,
        fold=fold,
        options=model.options,
        plan=args.plan,
        config=config,
        resume=True,
        progress=get_progress(True),
    )
    record = args.runs / args.plan.stem / model.folder / f"fold_{fold}" / "benchmark.json"
    record.write_text(json.dumps({"cpu_seconds": time.process_time(), "steps": args.steps}))


def run_all(args: argparse.Namespace) -> None:
    """Every network and fold that is not finished, ``--jobs`` at a time."""
    runs = args.runs / args.plan.stem
    waiting = [
        (model, str(fold))
        for fold in args.folds
        for model in args.models
        if not (runs / model.folder / f"fold_{fold}" / "benchmark.json").exists()
    ]

    def start(job: tuple[Variant, str]) -> None:
        began = time.monotonic()
        model, fold = job[0].key, job[1]
        command = [sys.executable, __file__, *sys.argv[1:], "--one", model, fold]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{model} fold {fold} failed:\n{done.stderr[-3000:]}")
        seconds = time.monotonic() - began
        print(f"{model} fold {fold}: {seconds:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(start, waiting))


def collect(args: argparse.Namespace) -> dict[str, Any]:
    """Means, intervals, paired differences, and the Dice of every validation case."""
    from apps.medical.models import build
    from core.reporting import environment

    runs = args.runs / args.plan.stem
    rows: dict[str, Any] = {}  # of the network at hand, by case
    models: dict[str, Any] = {}
    dice: dict[str, Any] = {}
    for model in args.models:
        rows, cpu, commits = {}, [], set()
        for fold in args.folds:
            folder = runs / model.folder / f"fold_{fold}"
            rows.update(json.loads((folder / "validation.json").read_text())["cases"])
            record = folder / "benchmark.json"  # absent where `run.py train` made the run
            if record.exists():
                cpu.append(json.loads(record.read_text())["cpu_seconds"])
            spec = json.loads((folder / "model.json").read_text())
            made = spec["training"]["environment"]
            commits.add(f"{made['commit']}{' with local changes' if made['modified'] else ''}")
        n = spec["network"]
        network = build(n["name"], n["rank"], n["in_channels"], n["out_channels"], **n["options"])
        labels = next(iter(rows.values()))
        ablation = model.ablation
        models[model.key] = {
            "title": model.title,
            "parameters": sum(p.numel() for p in network.parameters()),
            "cpu_seconds_per_fold": round(sum(cpu) / len(cpu), 1) if cpu else None,
            "trained_at_commits": sorted(commits),
            "ablation": None if ablation is None else ablation.key,
            "labels": {
                label: {m: interval(rows, label, m) for m in METRICS if m in values}
                for label, values in labels.items()
            },
        }
        dice[model.key] = {label: _by_case(rows, label) for label in labels}
    return {
        "benchmark": "segmentation_cv",
        "dataset": args.plan.stem,
        "cases": len(rows),
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
        "case_ids": sorted(rows),
        "dice": dice,
    }


def _by_case(rows: dict[str, Any], label: str) -> list[float | None]:
    """Dice of each case, sorted by name; None where it is undefined."""
    values = [rows[case][label]["dice"] for case in sorted(rows)]
    return [None if v is None or v != v else round(v, 6) for v in values]


def require_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises UsageError naming the first of ``new`` that is another in ``old``."""
    from core.errors import UsageError

    for key, value in new.items():
        if old[key] != value:
            raise UsageError(
                f"--add: {key} is {value} here, but {old[key]} in the result; the networks of one "
                "table share data and budget: give a new --out."
            )


def added(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``old`` with the networks of ``new``.  Raises UsageError where the two cannot be compared."""
    keys = (*SAME, "case_ids") if "case_ids" in old else SAME  # results before --add have no cases
    require_same(old, {key: new[key] for key in keys})
    addition = {
        "models": [*new["models"]],
        "note": new["note"],
        "environment": new["environment"],
    }
    return {
        **old,
        "models": {**old["models"], **new["models"]},
        "additions": [*old.get("additions", []), addition],
        "case_ids": new["case_ids"],
        "dice": {**old.get("dice", {}), **new["dice"]},
    }


def compare(result: dict[str, Any]) -> None:
    """Paired differences of every network whose cases are known, into its row."""
    models, dice = result["models"], result["dice"]
    for key, model in models.items():
        for name, other in (
            (f"dice_minus_{BASELINE}", BASELINE),
            ("dice_minus_ablation", model.get("ablation")),
            ("dice_minus_default", key.partition(":")[0]),  # the same with its default options
        ):
            if key in dice and other in dice and other != key:
                model[name] = {
                    label: difference(values, dice[other][label])
                    for label, values in dice[key].items()
                }


def interval(cases: dict[str, Any], label: str, metric: str) -> dict[str, Any]:
    """Mean of a metric over cases, its interval, and in how many cases it is undefined."""
    values = [row[label][metric] for row in cases.values()]
    return bootstrap([v for v in values if v is not None and v == v], len(values))


def difference(ours: list[float | None], theirs: list[float | None]) -> dict[str, Any]:
    """Dice of one network minus another's on the same cases."""
    pairs = [*zip(ours, theirs, strict=True)]
    return bootstrap([a - b for a, b in pairs if a is not None and b is not None], len(pairs))


def bootstrap(values: list[float], total: int) -> dict[str, Any]:
    import numpy as np

    from apps.medical.evaluate import bootstrap as interval

    if not values:  # a distance to a label that a network never marks
        return {"mean": None, "low": None, "high": None, "undefined": total}
    mean = statistics.fmean(values)
    cases = [f"{i:06d}" for i in range(len(values))]  # each its own group, in this order
    low, high = interval(np.asarray(values), cases) or (mean, mean)
    return {
        "mean": round(mean, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "undefined": total - len(values),
    }


def written(result: dict[str, Any]) -> str:
    """As JSON, with lists of numbers and names on one line each."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m[0].split()), text) + "\n"


def main() -> None:
    from core.errors import TriptychError

    try:
        args = arguments()
        if args.one:
            train_one(args, Variant.parse(args.one[0]), args.one[1])
            return
        if not args.collect:
            run_all(args)
        result = collect(args)
        if args.add:
            result = added(args.old, result)
    except TriptychError as error:
        raise SystemExit(str(error)) from error
    compare(result)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(written(result), encoding="utf-8")
    for name, model in sorted(
        result["models"].items(),
        key=lambda m: -sum(v["dice"]["mean"] for v in m[1]["labels"].values()),
    ):
        row = "  ".join(
            f"{label}: Dice {v['dice']['mean']:.4f} [{v['dice']['low']:.4f}, {v['dice']['high']:.4f}]"
            + (f" HD95 {v['hd95']['mean']:.2f}" if v["hd95"]["mean"] is not None else "")
            for label, v in model["labels"].items()
        )
        print(f"{name:28s} {model['parameters'] / 1e6:.2f} M  {row}")


if __name__ == "__main__":
    main()
