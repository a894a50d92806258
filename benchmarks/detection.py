"""Lesion detection end to end, on data whose truth is known.  No figure here is about cancer.

    python benchmarks/detection.py lesions STUDY --work runs/detection --jobs 2 \\
        --out benchmarks/results/detection_synthetic.json
    python benchmarks/detection.py nuclei IMAGES --out benchmarks/results/detection_nuclei.json

``lesions`` paints ellipsoids over one real bi-parametric prostate study (``apps.medical.detection.
synthetic``), writes them as PI-CAI's files, puts them on one grid, cross-validates networks by patient,
detects in each held-out study from its files, and scores all held-out cases together.  It tests the
path and compares networks under one budget; it says nothing about real lesions, of which there are none
in it.  Beside each figure stands a floor that learns nothing: "dark on ADC and bright at high b" by
arithmetic.  Nothing is chosen on the held-out cases (weights are the last average).

``nuclei`` turns the shipped nuclei model's probabilities of the held-out pictures of IMAGES (images/
and instances/, the data the model was trained on) into candidates by three rules and scores them
against single nuclei, eroded by their rim so that neighbours stay apart.  AUROC is undefined: every
picture has nuclei.  It tests the candidate rules at dozens of objects; it is no lesion detection.

Interrupted, both go on with what is missing.  ``--collect`` trains nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FLOOR = "arithmetic"
BASELINE = "dynunet"
MODELS = (FLOOR, "cswin_unet", "dynunet", "unet")
RULES = ("0.5", "dynamic", "dynamic-fast")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    lesions = parts.add_parser("lesions")
    lesions.add_argument("study", type=Path)
    lesions.add_argument("--work", type=Path, required=True, help="data, runs and detection maps")
    lesions.add_argument("--cases", type=int, default=60)
    lesions.add_argument("--models", nargs="+", default=list(MODELS))
    lesions.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    lesions.add_argument("--steps", type=int, default=400)
    lesions.add_argument("--lr", type=float, default=2e-3)
    lesions.add_argument("--spacing", nargs=3, type=float, default=[1.0, 1.0, 3.0])
    lesions.add_argument("--shape", nargs=3, type=int, default=[80, 80, 20])
    lesions.add_argument("--seed", type=int, default=0)
    lesions.add_argument("--jobs", type=int, default=1, help="folds at once, one thread each")
    lesions.add_argument("--collect", action="store_true", help="score what is finished")
    lesions.add_argument("--partial", action="store_true", help="leave out networks not finished")
    lesions.add_argument("--one", nargs=2, metavar=("MODEL", "FOLD"), help=argparse.SUPPRESS)
    nuclei = parts.add_parser("nuclei")
    nuclei.add_argument("images", type=Path)
    nuclei.add_argument("--model", default="nuclei")
    nuclei.add_argument("--largest", type=int, default=360, help="longest side, in pixels")
    nuclei.add_argument("--limit", type=int, help="only the first held-out pictures")
    nuclei.add_argument("--seed", type=int, default=0)
    for part in (lesions, nuclei):
        part.add_argument("--out", type=Path, required=True)
    return parser.parse_args(given)


def data(args: argparse.Namespace) -> tuple[Path, Path]:
    """PI-CAI's files of painted lesions and the data set made from them, once."""
    from apps.medical.detection.inputs import read_study
    from apps.medical.detection.picai import prepare_dataset
    from apps.medical.detection.synthetic import write_dataset
    from core.files import write_json
    from core.progress import get_progress

    files, made = args.work / "files", args.work / "set"
    settings = {
        "cases": args.cases, "seed": args.seed, "spacing": args.spacing, "shape": args.shape,
    }  # fmt: skip
    record = args.work / "settings.json"
    if record.exists() and json.loads(record.read_text()) != settings:
        raise SystemExit(f"{record}: other data; give a new --work")
    write_json(record, settings, force=True)
    if not files.exists():
        write_dataset(read_study(args.study), files, args.cases, seed=args.seed)
    if not (made / "plan.yaml").exists():
        prepare_dataset(
            files / "images", files / "labels", made, spacing=args.spacing, shape=args.shape,
            resume=True, progress=get_progress(False),
        )  # fmt: skip
    return files, made


def cell(args: argparse.Namespace, name: str, fold: int) -> Path:
    return args.work / "cells" / name / f"fold_{fold}.json"


def run_one(args: argparse.Namespace, name: str, fold: int) -> None:
    """Train one network on one fold and detect in its held-out studies, in this process."""
    from apps.medical.data.datasets import open_dataset
    from apps.medical.data.splits import folds
    from apps.medical.detection.detect import detect
    from apps.medical.store import load_model
    from apps.medical.train import train, training_config
    from core.cli import seed_everything, set_threads
    from core.files import write_json
    from core.progress import get_progress

    set_threads(1)
    seed_everything(args.seed)
    files, made = args.work / "files", args.work / "set"
    run = args.work / "runs" / name
    if name != FLOOR:
        config = training_config(
            max_steps=args.steps, val_every=args.steps, lr=args.lr, seed=args.seed
        )
        train(
            made, name, run, fold=str(fold), plan=made / "plan.yaml", config=config, resume=True,
            progress=get_progress(True),
        )  # fmt: skip
    model = arithmetic(made) if name == FLOOR else load_model(run / f"fold_{fold}")
    trained = time.process_time()
    held_out = folds(open_dataset(made))[fold][1]
    for case in held_out:
        folder = files / "images" / case.split("_")[0]
        series = {role: str(folder / f"{case}_{role}.mha") for role in ("t2w", "adc", "hbv")}
        detect(
            folder,
            model,
            args.work / "maps" / name,
            series={**series, "case": case},
            report=False,
            force=True,
        )
    seconds = time.process_time()
    about = {
        "cases": held_out,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "cpu_seconds": round(seconds, 1),
        "cpu_seconds_per_study": round((seconds - trained) / len(held_out), 2),
    }
    write_json(cell(args, name, fold), about, force=True)


def arithmetic(made: Path) -> Any:
    """The floor: the smaller of two z-scores, low ADC and high b-value, as a model."""
    import torch

    from apps.medical.data.plan import read_plan
    from apps.medical.store import Model, ModelSpec, NetworkSpec

    class Arithmetic(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            evidence = torch.minimum(x[:, 2], -x[:, 1])
            return torch.stack([torch.zeros_like(evidence), 2 * evidence - 2], 1)

    plan = read_plan(made / "plan.yaml")
    about = NetworkSpec(name=FLOOR, rank=3, in_channels=3, out_channels=2)
    spec = ModelSpec(name=FLOOR, network=about, plan=plan, labels=plan.labels)
    return Model((Arithmetic(),), spec, made)


def run_all(args: argparse.Namespace) -> None:
    """Every network and fold that is not finished, ``--jobs`` at a time."""
    waiting = [
        (name, fold)
        for fold in args.folds
        for name in args.models
        if not cell(args, name, fold).exists()
    ]

    def start(job: tuple[str, int]) -> None:
        began = time.monotonic()
        command = [sys.executable, __file__, *sys.argv[1:], "--one", job[0], str(job[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{job[0]} fold {job[1]} failed:\n{done.stderr[-3000:]}")
        seconds = time.monotonic() - began
        print(f"{job[0]} fold {job[1]}: {seconds:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(start, waiting))


def collect_lesions(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of each network over all held-out cases, and differences to the baseline's."""
    from apps.medical.data.volume import read_image, read_label
    from apps.medical.detection.metrics import Scored, case_patient, difference, score_cases
    from apps.medical.detection.picai import LABELS
    from apps.medical.detection.synthetic import NOTICE
    from core.reporting import environment

    labels = args.work / "files" / "labels" / LABELS[0]
    figures: dict[str, Any] = {}
    missing = []
    for name in args.models:
        cells = [cell(args, name, fold) for fold in args.folds]
        absent = [c for c in cells if not c.exists()]
        missing += [f"{name} fold {fold}" for fold, c in zip(args.folds, cells) if not c.exists()]
        if absent:
            continue
        about = [json.loads(c.read_text()) for c in cells]
        maps = args.work / "maps" / name
        scored = (
            Scored(
                case=case,
                patient=case_patient(case),
                detection=read_image(maps / case / "detection_map.nii.gz").array,
                reference=read_label(labels / f"{case}.nii.gz").array,
            )
            for one in about
            for case in one["cases"]
        )
        figures[name] = score_cases(scored, seed=args.seed) | {
            "parameters": about[0]["parameters"],
            "cpu_seconds_per_fold": mean(one["cpu_seconds"] for one in about),
            "cpu_seconds_per_study": mean(one["cpu_seconds_per_study"] for one in about),
        }
    if missing and not args.partial:
        raise SystemExit(f"not finished: {', '.join(missing)}; run them, or pass --partial")
    if not figures:
        raise SystemExit("nothing is finished")
    for name, row in figures.items():
        for other in (FLOOR, BASELINE):
            if other in figures and other != name:
                row[f"minus_{other}"] = difference(row, figures[other], seed=args.seed)
    for row in figures.values():  # which lesion was found is in the maps
        row["per_case"] = {
            case: {k: v for k, v in entry.items() if k != "results"}
            for case, entry in row["per_case"].items()
        }
    return {
        "benchmark": "detection_synthetic",
        "warning": " ".join(NOTICE.split()),
        "cases": args.cases,
        "folds": args.folds,
        "steps": args.steps,
        "peak_learning_rate": args.lr,
        "spacing": args.spacing,
        "shape": args.shape,
        "seed": args.seed,
        "missing": missing,
        "models": figures,
        "environment": environment(args.seed),
    }


def mean(values: Any) -> float:
    values = list(values)
    return round(sum(values) / len(values), 2)


def nuclei(args: argparse.Namespace) -> dict[str, Any]:
    """Candidates of the shipped model on its held-out pictures, by each rule."""
    import numpy as np

    from apps.medical.data.datasets import open_dataset
    from apps.medical.data.preprocess import prepare, restore_map
    from apps.medical.data.splits import folds
    from apps.medical.data.targets import INTERIOR, instances_to_classes
    from apps.medical.data.volume import peek
    from apps.medical.detection.candidates import CandidateRule, extract_candidates
    from apps.medical.detection.metrics import Scored, score_cases
    from apps.medical.sliding import sliding_logits
    from apps.medical.store import load_model
    from core.progress import get_progress
    from core.reporting import environment

    model, dataset = load_model(args.model), open_dataset(args.images)
    plan = model.spec.plan
    training, held_out = folds(dataset)[int(model.spec.training["fold"])]
    digest = hashlib.sha256("\n".join(sorted(training)).encode()).hexdigest()
    if digest != model.spec.training["cases_sha256"]:
        raise SystemExit(
            f"{args.images}: not the {model.spec.training['cases']} pictures that {args.model} was "
            "trained on, so which were held out is not known"
        )
    # picai_eval compares every candidate with every object over the whole picture: a picture of a
    # thousand pixels and three hundred nuclei would take minutes.
    small = [c for c in held_out if max(peek(dataset.case(c).images[0]).shape) <= args.largest]
    held_out = small[: args.limit]
    found: dict[str, list[Scored]] = {rule: [] for rule in RULES}
    with get_progress(False).task("pictures", total=len(held_out)) as task:
        for name in held_out:
            case = dataset.case(name)
            prepared = prepare(dataset.read_images(case), plan)
            scores = sliding_logits(prepared.image, list(model.networks), plan.patch)
            odds = np.exp(scores - scores.max(0))
            interior = restore_map(odds[INTERIOR] / odds.sum(0), prepared)
            interior = np.clip(interior, 0, 1)
            truth = instances_to_classes(dataset.read_label(case).array) == INTERIOR
            for rule in RULES:
                cut = extract_candidates(interior, CandidateRule.parse(rule, most=None))
                found[rule].append(Scored(case=name, detection=cut.map, reference=truth))
            task.advance(note=name)
    rows = {
        rule: score_cases(cases, false_positives=(0.5, 1, 2, 5), seed=args.seed)
        for rule, cases in found.items()
    }
    for row in rows.values():
        del row["per_case"]
    return {
        "benchmark": "detection_nuclei",
        "warning": "Nuclei in microscopy pictures: a test of the candidate rules, no lesions.",
        "pictures": len(held_out),
        "longest_side": args.largest,
        "model": args.model,
        "rules": rows,
        "environment": environment(args.seed),
    }


def show(rows: dict[str, Any]) -> None:
    """One line for each network or rule."""
    for name, row in rows.items():
        texts = []
        for key in ("auroc", "ap"):
            figure = row[key]
            low, high = figure["low"], figure["high"]
            interval = f" [{low:.3f}, {high:.3f}]" if low is not None else ""
            texts.append(f"{key.upper()} {figure['value']:.3f}{interval}")
        print(f"{name:14s} {'  '.join(texts)}  {row['found']} of {row['lesions']} found")


def main() -> None:
    from core.errors import TriptychError
    from core.files import write_json

    args = arguments()
    try:
        if args.part == "nuclei":
            result = nuclei(args)
            rows = result["rules"]
        else:
            if args.one:
                run_one(args, args.one[0], int(args.one[1]))
                return
            if not args.collect:
                data(args)
                run_all(args)
            result = collect_lesions(args)
            rows = result["models"]
        write_json(args.out, result, force=True)
    except TriptychError as error:
        raise SystemExit(str(error)) from error
    show(rows)


if __name__ == "__main__":
    main()
