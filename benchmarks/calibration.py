"""Measure the calibration that a shipped segmentation model carries, and write it down.

    python benchmarks/calibration.py DATASET --model hippocampus \\
        --out benchmarks/results/calibration.json

``DATASET`` is the data set the model was trained on; its held-out cases are those of the fold in
its model.json, checked by the digest of the training cases.  For ``hippocampus`` that is Task04's
``imagesTr`` and ``labelsTr`` without the three sample cases, 204 of 260 cases (weights/README.md).
``--write`` puts the calibration into the model folder as well, as ``run.py calibrate`` does.

The result holds the calibration error and the likelihood near the structures, as trained and after
temperature scaling; per label Dice, what its confidence, its expected Dice (beside the error of one
number for all cases), its extent and its volume range are worth; each with a 95 % bootstrap interval
over patients, what is chosen on cases being judged by cross-fitting.  The same is measured with
mirrored copies averaged, as ``predict --tta`` does.

41 held-out cases of ``hippocampus``: one CPU-minute, two with mirrored copies; 80 pictures of
``nuclei``: one and three.  On a busy 2-core AMD EPYC, one thread (``OMP_NUM_THREADS=1``); nothing is
random but the halves (seed 0).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="hippocampus", help="a shipped model, or a model folder")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put it into model.json as well")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()

    from apps.medical.calibrate import held_out, measure, print_calibration, write_calibration
    from apps.medical.data.datasets import open_dataset
    from apps.medical.store import find_model, load_model
    from core.cli import seed_everything
    from core.files import require_absent, write_json
    from core.progress import get_progress
    from core.reporting import Timer, environment

    require_absent(args.out, args.force)
    folder = find_model(args.model)
    model, dataset = load_model(folder), open_dataset(args.dataset)
    cases = held_out(model, dataset)
    seed_everything(args.seed)
    runs: dict[str, Any] = {}
    for name, tta in (("plain", False), ("mirrored", True)):
        with Timer() as timer:
            found = measure(
                model, dataset, cases, alpha=args.alpha, tta=tta, seed=args.seed,
                progress=get_progress(quiet=False),
            )  # fmt: skip
        print_calibration(f"{args.model}, {name}", found)
        if args.write and not tta:
            write_calibration(folder, found, force=True)
        about = found.model_dump(mode="json", exclude={"environment"})
        runs[name] = about | {"cpu_seconds": round(timer.cpu_seconds, 1)}
    result = {
        "benchmark": "calibration",
        "model": args.model,
        "weights": model.weights,
        "interval": "95 % percentile bootstrap over patients, 2000 resamples",
        "region": "voxels within 3 of the prediction for calibration error and likelihood",
        "runs": runs,
        "environment": environment(args.seed),
    }
    write_json(args.out, result, args.force)


if __name__ == "__main__":
    main()
