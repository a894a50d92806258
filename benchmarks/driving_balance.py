"""How losses are weighed: GradNorm at every step, uncertainty, and fixed weights, on the same drives.

    python benchmarks/driving_balance.py out/drives --steps 400

One training each of ``small`` with equal steps, batches, seed and routes; then the open-loop metrics
of held-out routes, the weights as they ended, and the seconds it took. ``--seeds 0 1 2`` repeats
it. It continues where it stopped: what is trained lies under ``--work``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BALANCES = ("fixed", "uncertainty", "gradnorm")
KEPT = ("miou", "waypoints", "waypoints_constant_speed", "red_light", "stop_sign", "brake",
        "steer_mae", "throttle_mae", "speed_mae")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="folders that collect wrote")
    parser.add_argument("--model", default="small")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=ROOT / "out/driving_balance")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/driving_balance.json"
    )
    args = parser.parse_args()

    from apps.driving.models.store import METADATA, load_driver
    from apps.driving.training.train import train
    from core.errors import TriptychError
    from core.files import write_json
    from core.progress import get_progress
    from core.reporting import environment

    rows: list[dict[str, Any]] = []
    try:
        for seed in args.seeds:
            for balance in BALANCES:
                folder = args.work / f"{balance}_{seed}"
                if not (folder / METADATA).exists():
                    train(
                        args.data, model=args.model, out=folder, max_steps=args.steps, seed=seed,
                        balance=balance, threads=args.threads, options=args.set,
                        resume=(folder / "run").exists(), progress=get_progress(),
                    )  # fmt: skip
                spec = load_driver(folder).spec
                rows.append(
                    {
                        "balance": balance,
                        "seed": seed,
                        "steps": spec.training["steps"],
                        "seconds": spec.training["seconds"],
                        "weights": spec.training["weights"],
                        "data": spec.training["data"]["digest"],
                        **{key: spec.metrics["validation"][key] for key in KEPT},
                    }
                )
    except TriptychError as error:
        sys.exit(f"error: {error}")
    result = {
        "command": f"python benchmarks/driving_balance.py DATA --model {args.model} --steps {args.steps}"
        f" --seeds {' '.join(map(str, args.seeds))}"
        + "".join(f" --set {change}" for change in args.set),
        "steps": args.steps,
        "rows": rows,
        "environment": environment(args.seeds[0]),
    }
    write_json(args.out, result, force=True)
    print(
        f"{'':<14}{'seed':>5}{'mIoU':>8}{'ADE m':>8}{'FDE m':>8}{'red F1':>8}{'wheel':>8}{'s':>7}"
    )
    for row in rows:
        points = row["waypoints"]
        print(
            f"{row['balance']:<14}{row['seed']:>5}{row['miou']:>8.3f}{points['ade']:>8.2f}"
            f"{points['fde']:>8.2f}{row['red_light']['f1'] or 0:>8.3f}{row['steer_mae']:>8.4f}"
            f"{row['seconds']:>7.0f}"
        )


if __name__ == "__main__":
    main()
