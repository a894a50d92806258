"""Selective scan on a CPU: our backends against every other formulation, side by side.

    python benchmarks/selective_scan.py --json                # B 2, L 4096, D 384, N 16, float32
    python benchmarks/selective_scan.py --length 512 --rounds 1 --out /tmp/scan.json   # two minutes

Every method and number of threads runs in a process of its own; the rounds go through all of them in
turn, so that a busy minute of the machine falls on each alike, and the best call counts.  A method
that needs more than ``--budget`` seconds for a pass is stopped and has no figure.  The full run
takes about twenty minutes.

Measured for each: wall milliseconds of the forward pass, and of forward and backward; the peak of
resident memory above inputs, output and gradients; and the error against our loop in float64,
relative to the largest value (of the output, and of the worst gradient), over ERROR_LENGTH positions.

Marks, measured in the same run, for a forward pass:
  bandwidth    the floor: u, delta, B, C read and y written once, at the speed of a large copy;
  arithmetic   INSTRUCTIONS vector instructions for each state update of a whole vector, at the rate
               at which a matrix product issues its multiply-adds.  The exponential makes this the
               higher one; a processor that adds beside multiplying can pass it.

``mamba.py`` is measured where it is installed (``pip install mambapy``); transformers' fallback
and ``torch.associative_scan`` come with the development environment.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

METHODS = {
    "native": "Triptych, C++ (best instruction set)",
    "native-avx2": "Triptych, C++ (AVX2)",
    "native-portable": "Triptych, C++ (portable)",
    "blocked": "Triptych, blocked torch",
    "loop": "torch loop over positions",
    "pscan": "mamba.py, parallel scan",
    "associative": "torch.associative_scan",
    "transformers": "transformers, without kernels",
}
PASSES = ("forward", "forward_backward")
INSTRUCTIONS = 14
"""A state update: product with A, ten of an exponential, and three multiply-adds (h, B and C)."""
ERROR_LENGTH = 1024
"""The loop in float64 keeps 3 GB for its gradients at 4096 positions."""
REPEATS = {"native": 30, "native-avx2": 30, "native-portable": 30, "blocked": 5}
TARGETS = {
    "native": {"forward_ms": 4.0, "forward_backward_ms": 16.0, "extra_mb": 20.0},
    "native-avx2": {"times_native": 2.0},
    "blocked": {"times_arithmetic_floor": 25.0},
}
"""For an AVX-512 machine with two threads, at the default size."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds a pass may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    default = ROOT / "benchmarks" / "results" / "selective_scan.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "PASS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.one:
        json.dump(measure(args, *args.one), sys.stdout)
        return
    from core.files import write_json
    from core.reporting import environment

    began = os.getloadavg()
    floors: dict[str, Any] = {}
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    hopeless: set[tuple[str, str, int]] = set()
    for number in range(args.rounds):
        for threads in args.threads:
            key = str(threads)
            found = call(args, "floors", "-", threads)
            floors[key] = {k: min(v, floors.get(key, found)[k]) for k, v in found.items()}
            for method in args.methods:
                for kind in PASSES:
                    job = (method, kind, threads)
                    if job in hopeless:
                        continue
                    result = call(args, method, kind, threads)
                    print(f"round {number + 1} {job}: {result}", file=sys.stderr, flush=True)
                    if "absent" in result:
                        hopeless.add(job)
                    runs.setdefault(job, []).append(result)
    methods = {
        method: {
            "title": METHODS[method],
            **{
                str(t): {kind: best(runs[method, kind, t]) for kind in PASSES} for t in args.threads
            },
        }
        for method in args.methods
    }
    report = {
        "benchmark": "selective_scan",
        "settings": {
            k: getattr(args, k)
            for k in ("batch", "length", "channels", "state", "rounds", "budget", "seed")
        },
        "floors": floors,
        "instructions_per_update": INSTRUCTIONS,
        "targets": TARGETS,
        "methods": methods,
        "load": {"before": began, "after": os.getloadavg()},
        "environment": environment(args.seed),
    }
    write_json(args.out, report, force=True)
    if args.json:
        print(json.dumps(report))
    else:
        show(report)


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Least time and memory over the rounds; errors are the same in each."""
    done = [run for run in runs if "absent" not in run]
    if not done:
        return {"absent": runs[0]["absent"]}
    return {key: min(run[key] for run in done) for key in done[0]}


def show(report: dict[str, Any]) -> None:
    """The table for a person."""
    for threads, floor in report["floors"].items():
        print(
            f"{threads} thread(s): bandwidth floor {floor['bandwidth_ms']:.2f} ms, "
            f"arithmetic mark {floor['arithmetic_ms']:.2f} ms (forward)"
        )
        for method in report["methods"].values():
            forward, both = (method[threads][kind] for kind in PASSES)
            cells = [
                cell.get("absent")
                or f"{cell['ms']:9.2f} ms {cell['extra_mb']:8.1f} MB  error {cell['error']:.0e}"
                for cell in (forward, both)
            ]
            print(f"  {method['title']:38s} {cells[0]} | {cells[1]}")


def call(args: argparse.Namespace, method: str, kind: str, threads: int) -> dict[str, Any]:
    """One method in its own process; ``{"absent": reason}`` where it cannot run or takes too long."""
    names = ("batch", "length", "channels", "state", "budget", "seed")
    command = [sys.executable, __file__, "--one", method, kind, "--threads", str(threads)]
    command += [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if method.startswith("native-"):
        variables["TRIPTYCH_SCAN_ISA"] = method.removeprefix("native-")
    limit = 60 + 3 * args.budget
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=variables, check=False
        )
    except subprocess.TimeoutExpired:
        return {"absent": f"over {args.budget:.0f} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(done.stderr, file=sys.stderr)
        return {"absent": f"failed: {reason}"[:200]}
    return json.loads(done.stdout)


def inputs(args: argparse.Namespace) -> dict[str, Any]:
    """u, delta as after a softplus with Mamba's start (0.01 to 0.05), A, B, C and D in float64."""
    import torch

    g = torch.Generator().manual_seed(args.seed)

    def noise(*shape: int) -> Any:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    B, L, D, N = args.batch, args.length, args.channels, args.state
    delta = torch.nn.functional.softplus(noise(B, L, D) * 0.5 - 4.0)
    decay = torch.arange(1, N + 1, dtype=torch.float64).repeat(D, 1)
    return {
        "u": noise(B, L, D),
        "delta": delta,
        "A": -decay * (1 + 0.1 * noise(D, N).abs()),
        "B": noise(B, L, N),
        "C": noise(B, L, N),
        "D": torch.ones(D, dtype=torch.float64),
    }


def scan(method: str) -> Callable[..., Any] | str:
    """``call(u, delta, A, B, C, D) -> y``, or why there is none."""
    from core.ops import selective_scan

    if method in ("native", "blocked", "loop") or method.startswith("native-"):
        backend = {"loop": "reference"}.get(method, method.partition("-")[0])
        return lambda *tensors: selective_scan(*tensors, backend=backend)
    if method == "pscan":
        try:
            from mambapy.pscan import pscan
        except ImportError:
            return "not installed: pip install mambapy"

        def parallel(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
            decay = (delta.unsqueeze(-1) * A).exp()
            states = pscan(decay, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
            return (states @ C.unsqueeze(-1)).squeeze(3) + D * u

        return parallel
    if method == "associative":
        from torch._higher_order_ops.associative_scan import associative_scan

        def associative(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
            decay = (delta.unsqueeze(-1) * A).exp()
            given = delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)

            def combine(left: Any, right: Any) -> Any:
                return left[0] * right[0], right[0] * left[1] + right[1]

            _, states = associative_scan(combine, (decay, given), dim=1, combine_mode="generic")
            return (states @ C.unsqueeze(-1)).squeeze(3) + D * u

        return associative
    try:
        from transformers.models.mamba import modeling_mamba
    except ImportError:
        return 'not installed: pip install -e ".[dev]"'
    slow = getattr(modeling_mamba, "mamba_selective_scan", None)
    if slow is None:
        return "this release of transformers has its slow path elsewhere"
    slow = getattr(slow, "__wrapped__", slow)

    def fallback(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
        turned = (t.transpose(1, 2) for t in (u, delta))
        return slow(*turned, A, B.transpose(1, 2), C.transpose(1, 2), D).transpose(1, 2)

    return fallback


def measure(args: argparse.Namespace, method: str, kind: str) -> dict[str, Any]:
    """One pass of one method: ms, extra_mb, error; in this process."""
    import torch

    torch.set_num_threads(args.threads[0])
    if method == "floors":
        return floors_of(args)
    run = scan(method)
    if isinstance(run, str):
        return {"absent": run}
    backward = kind == "forward_backward"
    exact = inputs(args)
    given = {k: v.float().requires_grad_(backward) for k, v in exact.items()}
    weight = torch.randn(given["u"].shape, generator=torch.Generator().manual_seed(1))

    def once(tensors: dict[str, Any], by: Any) -> list[Any]:
        if not backward:
            with torch.no_grad():
                return [run(*tensors.values())]
        return list(torch.autograd.grad(run(*tensors.values()), tuple(tensors.values()), by))

    short = {k: v.detach()[:, :64] if v.ndim == 3 else v.detach() for k, v in given.items()}
    once({k: v.requires_grad_(backward) for k, v in short.items()}, weight[:, :64])  # loads it all
    before = reset_peak()
    start = time.perf_counter()
    results = once(given, weight)
    first = time.perf_counter() - start
    own = sum(r.numel() * r.element_size() for r in results)
    own += given["u"].numel() * 4 if backward else 0  # y, which the gradients replace
    extra = max(0.0, peak_mb() - before - own / 2**20)
    if first > args.budget:
        return {"absent": f"over {args.budget:.0f} s"}
    times = [first]
    while len(times) < REPEATS.get(method, 2) and sum(times) < args.budget:
        start = time.perf_counter()
        results = once(given, weight)  # kept till the next, as a training loop keeps gradients
        times.append(time.perf_counter() - start)
    return {
        "ms": round(min(times) * 1e3, 3),
        "extra_mb": round(extra, 1),
        "error": float(f"{error(once, exact, weight):.2g}"),
    }


def error(once: Callable[..., list[Any]], exact: dict[str, Any], weight: Any) -> float:
    """The largest relative error against the loop in float64."""
    import torch

    from core.ops import selective_scan

    cut = {k: v[:, :ERROR_LENGTH] if v.ndim == 3 else v for k, v in exact.items()}
    weight = weight[:, :ERROR_LENGTH]
    results = once({k: v.float().requires_grad_() for k, v in cut.items()}, weight)
    wide = {k: v.clone().requires_grad_() for k, v in cut.items()}
    y = selective_scan(*wide.values(), backend="reference")
    truth = [y]
    if len(results) > 1:
        truth = list(torch.autograd.grad(y, tuple(wide.values()), weight.double()))
    pairs = zip(results, truth, strict=True)
    return max(float((r.double() - t).abs().max() / t.abs().max()) for r, t in pairs)


def floors_of(args: argparse.Namespace) -> dict[str, Any]:
    """The two marks of a forward pass, from a copy and a matrix product on this machine."""
    import torch

    source = torch.rand(50_000_000)
    target = torch.empty_like(source)
    copy = fastest(lambda: target.copy_(source))
    values = args.batch * args.length * (3 * args.channels + 2 * args.state)
    bandwidth = values * 4 / (2 * source.numel() * 4 / copy)
    torch.set_float32_matmul_precision("medium")  # oneDNN: the faster product where both are exact
    a, b = torch.rand(2048, 1024), torch.rand(1024, 2048)
    product = fastest(lambda: a @ b)
    lanes = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
    issued = a.numel() * b.shape[1] / lanes / product  # multiply-adds of whole vectors a second
    updates = args.batch * args.length * args.channels * args.state
    arithmetic = updates / lanes * INSTRUCTIONS / issued
    return {
        "bandwidth_ms": round(bandwidth * 1e3, 3),
        "arithmetic_ms": round(arithmetic * 1e3, 3),
    }


def fastest(work: Callable[[], Any], repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def reset_peak() -> float:
    """Resident memory in MB now, from where :func:`peak_mb` counts on (Linux).

    What was freed goes back to the system first; taken again unseen it would not count.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_mb() -> float:
    return status("VmHWM")


def status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


if __name__ == "__main__":
    main()
