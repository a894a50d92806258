"""Time and memory against length: attention, retention, Mamba and Mamba-2 at equal width.

    python benchmarks/sequence_scaling.py              # 1,024 to 1,048,576 positions, five minutes
    python benchmarks/sequence_scaling.py --plot       # the picture again, from the JSON

Each point is one causal mixer of ``--width`` channels on one sequence, float32, in a process of its
own: the best wall time of a few passes, and the peak of resident memory above what was resident
before.  A mixer goes no further where the next length would pass ``--budget`` seconds or
``--memory`` megabytes, judged by how the last two lengths grew.  Writes
``benchmarks/results/sequence_scaling.json`` and ``docs/images/sequence_scaling.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MIXERS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": ("attention", {"heads": 4, "causal": True}),
    "retention": ("retention", {"heads": 4}),
    "mamba": ("mamba", {}),
    "mamba2": ("mamba2", {}),
}
TITLES = {"attention": "Attention", "retention": "Retention", "mamba": "Mamba", "mamba2": "Mamba-2"}
COLOURS = {"attention": "#c0392b", "retention": "#8e6bbf", "mamba": "#1f6fb2", "mamba2": "#2e9e6b"}
PASSES = ("forward", "forward_backward")
GROWTH = 4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--shortest", type=int, default=1024)
    parser.add_argument("--longest", type=int, default=1024 * GROWTH**5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds one pass may take")
    parser.add_argument("--memory", type=float, default=12000.0, help="megabytes one pass may take")
    parser.add_argument("--seed", type=int, default=0)
    results, images = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
    parser.add_argument("--out", type=Path, default=results / "sequence_scaling.json")
    parser.add_argument("--png", type=Path, default=images / "sequence_scaling.png")
    parser.add_argument("--plot", action="store_true", help="draw the JSON, measure nothing")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.one:
        mixer, kind, length = args.one
        json.dump(measure(args, mixer, kind, int(length)), sys.stdout)
        return
    from core.files import write_json

    if not args.plot:
        write_json(args.out, sweep(args), force=True)
    plot(json.loads(args.out.read_text()), args.png)


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    """Every mixer, pass and length."""
    from core.reporting import environment

    steps = round(math.log(args.longest / args.shortest, GROWTH))
    lengths = [args.shortest * GROWTH**i for i in range(steps + 1)]
    curves: dict[str, Any] = {}
    for mixer in MIXERS:
        curves[mixer] = {}
        for kind in PASSES:
            points: list[dict[str, Any]] = []
            for length in lengths:
                reason = beyond(points, args)
                if reason:
                    curves[mixer].setdefault("stopped", {})[kind] = {
                        "length": length,
                        "because": reason,
                    }
                    break
                points.append(call(args, mixer, kind, length))
                print(mixer, kind, points[-1], file=sys.stderr, flush=True)
            curves[mixer][kind] = points
    names = ("width", "threads", "budget", "memory", "seed")
    return {
        "benchmark": "sequence_scaling",
        "settings": {name: getattr(args, name) for name in names},
        "mixers": {
            mixer: {"title": TITLES[mixer], "name": name, "options": options}
            for mixer, (name, options) in MIXERS.items()
        },
        "curves": curves,
        "load": os.getloadavg(),
        "environment": environment(args.seed),
    }


def beyond(points: list[dict[str, Any]], args: argparse.Namespace) -> str | None:
    """Why the next length is not tried."""
    if len(points) < 2:
        return None
    for key, limit, unit in (("seconds", args.budget, "s"), ("mb", args.memory, "MB")):
        last, before = points[-1][key], points[-2][key]
        expected = last * max(1.0, last / max(before, 1e-9)) if last > 0.01 * limit else 0.0
        if expected > limit:
            return f"about {expected:.0f} {unit} expected, {limit:.0f} allowed"
    return None


def call(args: argparse.Namespace, mixer: str, kind: str, length: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", mixer, kind, str(length)]
    for name in ("width", "threads", "seed"):
        command += [f"--{name}", str(getattr(args, name))]
    variables = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
    return json.loads(done.stdout)


def measure(args: argparse.Namespace, mixer: str, kind: str, length: int) -> dict[str, Any]:
    """One point, in this process."""
    import time

    import torch
    from selective_scan import peak_mb, reset_peak

    from core.mixers import BlockContext, build_mixer, mixer_config
    from core.runtime import fast_matmul

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    fast_matmul()
    name, options = MIXERS[mixer]
    module = build_mixer(mixer_config(name, **options), BlockContext(dim=args.width, rank=1))
    backward = kind == "forward_backward"

    def once(x: torch.Tensor) -> None:
        with torch.set_grad_enabled(backward):
            y = module(x)
        if backward:
            y.sum().backward()
            module.zero_grad()

    once(torch.randn(1, 100, args.width))  # kernels are loaded, threads started
    x = torch.randn(1, length, args.width)
    before = reset_peak()
    times: list[float] = []
    while len(times) < 7 and sum(times) < 5.0:
        start = time.perf_counter()
        once(x)
        times.append(time.perf_counter() - start)
    return {
        "length": length,
        "seconds": float(f"{min(times):.4g}"),
        "mb": round(max(0.0, peak_mb() - before), 1),
    }


def plot(report: dict[str, Any], png: Path) -> None:
    """Two panels, seconds and megabytes; solid is the forward pass, dashed both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from core.files import atomic_path

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
    for panel, key, label in zip(
        panels, ("seconds", "mb"), ("seconds a pass", "memory above start, MB"), strict=True
    ):
        for mixer, curve in report["curves"].items():
            for kind, style in zip(PASSES, ("-o", "--o"), strict=True):
                shown = [p for p in curve[kind] if p[key] > 0]
                panel.loglog(
                    [p["length"] for p in shown],
                    [p[key] for p in shown],
                    style,
                    color=COLOURS[mixer],
                    markersize=3.5,
                    label=TITLES[mixer] if kind == "forward" else None,
                )
        panel.set_xscale("log", base=2)
        panel.set_xlabel("length")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, title="solid: forward\ndashed: forward + backward")
    given = report["settings"]
    figure.suptitle(
        f"One causal mixer of {given['width']} channels, batch 1, float32, "
        f"{given['threads']} CPU threads"
    )
    png.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(png, force=True) as part:
        figure.savefig(part, dpi=130)


if __name__ == "__main__":
    main()
