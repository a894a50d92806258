"""Swin UNETR over a volume: this project against MONAI, same weights, same windows, side by side.

    python benchmarks/sliding_window.py                      # 160^3, windows of 96^3, overlap 0.5
    python benchmarks/sliding_window.py --size 96 --roi 64 --classes 3 --features 12   # a minute

Each run is a process of its own with one thread (``--threads``): MONAI's network under
``monai.inferers.sliding_window_inference`` followed by an argmax, and ours with the same weights
under ``apps.medical.sliding.sliding_argmax``. Measured around the inference alone: processor
seconds, wall seconds, and the peak of resident memory, both whole and above what was resident
before. The full size takes about five processor minutes.

The result also says how far the two agree: the largest difference of the logits of one window, and
the share of voxels whose labels differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIDES = ("monai", "ours")
TARGETS = {"cpu_seconds": 0.6, "peak_mb": 0.5}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=160, help="edge of the volume, voxels")
    parser.add_argument("--roi", type=int, default=96, help="edge of the window")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--features", type=int, default=24, help="feature size of Swin UNETR")
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    default = ROOT / "benchmarks" / "results" / "sliding_window.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--side", choices=(*SIDES, "weights", "compare"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.side:
        json.dump(child(args), sys.stdout)
        return
    from core.files import write_json
    from core.reporting import environment

    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as work:
        call(args, "weights", work)
        for repeat in range(args.repeats):
            # Alternating which goes first spreads a slow minute of the machine over both.
            for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
                runs[side].append(call(args, side, work))
                print(f"{side}: {runs[side][-1]}", file=sys.stderr)
        agreement = call(args, "compare", work)
    best = {
        side: {key: min(run[key] for run in given) for key in given[0]}
        for side, given in runs.items()
    }
    ratio = {key: best["ours"][key] / best["monai"][key] for key in best["ours"]}
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "side", "work")}
    report = {
        "what": "Swin UNETR with sliding windows, ours / MONAI, same weights",
        "settings": settings,
        "best": best,
        "ratio": ratio,
        "targets": TARGETS,
        "runs": runs,
        "agreement": agreement,
        "environment": environment(args.seed),
    }
    write_json(args.out, report, force=True)
    print(json.dumps({"ratio": ratio, "agreement": agreement}, indent=2))


def call(args: argparse.Namespace, side: str, work: str) -> dict[str, Any]:
    """Run one side in its own process."""
    names = ("size", "roi", "overlap", "classes", "features", "threads", "seed")
    command = [sys.executable, __file__, "--side", side, "--work", work]
    command += [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout) if done.stdout else {}


def child(args: argparse.Namespace) -> dict[str, Any]:
    import os

    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    if args.side == "weights":
        return save_weights(args)
    return compare(args) if args.side == "compare" else measure(args)


def monai_network(args: argparse.Namespace) -> Any:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels=1, out_channels=args.classes, feature_size=args.features).eval()


def our_network(args: argparse.Namespace, state: dict[str, Any]) -> Any:
    from apps.medical import models
    from core.weights.monai import load_swin_unetr

    options = {"feature_size": args.features, "policy": "monai"}
    network = models.build("swin_unetr", 3, 1, args.classes, **options)
    load_swin_unetr(network, state)
    return network.eval()


def read_weights(args: argparse.Namespace) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(args.work / "weights.safetensors")


def volume(args: argparse.Namespace) -> Any:
    import numpy as np

    rng = np.random.default_rng(args.seed)
    return rng.standard_normal((1, args.size, args.size, args.size), dtype=np.float32)


def save_weights(args: argparse.Namespace) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(args.seed)
    save_file(monai_network(args).state_dict(), args.work / "weights.safetensors")
    return {}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One side's inference: seconds, memory; its labels go to a file."""
    import gc

    import numpy as np
    import torch

    from core.reporting import Timer, peak_memory_mb

    image, window = volume(args), (args.roi,) * 3
    state = read_weights(args)
    if args.side == "monai":
        from monai.inferers import sliding_window_inference

        network = monai_network(args)
        network.load_state_dict(state)

        def infer() -> Any:
            with torch.inference_mode():
                scores = sliding_window_inference(
                    torch.from_numpy(image)[None],
                    window,
                    1,
                    network,
                    overlap=args.overlap,
                    mode="gaussian",
                )
                return scores.argmax(1)[0].numpy()
    else:
        from apps.medical.sliding import sliding_argmax
        from core.runtime import fast_matmul

        network = our_network(args, state)
        fast_matmul()  # what predict does at its start

        def infer() -> Any:
            return sliding_argmax(image, network, window, args.overlap)

    del state
    gc.collect()
    before = resident_mb()
    with Timer() as timer:
        labels = infer()
    peak = peak_memory_mb()
    np.save(args.work / f"{args.side}.npy", labels.astype(np.uint8))
    return {
        "cpu_seconds": round(timer.cpu_seconds, 3),
        "wall_seconds": round(timer.seconds, 3),
        "peak_mb": round(peak, 1),
        "peak_above_start_mb": round(peak - before, 1),
    }


def resident_mb() -> float:
    import os

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """One window through both networks, and both label maps."""
    import numpy as np
    import torch

    state = read_weights(args)
    reference = monai_network(args)
    reference.load_state_dict(state)
    network = our_network(args, state)
    x = torch.from_numpy(volume(args))[None, :, : args.roi, : args.roi, : args.roi].contiguous()
    with torch.inference_mode():
        expected = reference(x)
        difference = (network(x) - expected).abs().max()
    first, second = (np.load(args.work / f"{side}.npy") for side in SIDES)
    return {
        "max_abs_logit_difference": float(difference),
        "max_abs_logit": float(expected.abs().max()),
        "labels_that_differ": float((first != second).mean()),
    }


if __name__ == "__main__":
    main()
