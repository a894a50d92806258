"""Processor time and memory of a training step, ours beside neuralforecast's, in one run.

    pip install neuralforecast        # not a dependency of this project
    python benchmarks/forecast_steps.py samples/ETTh1.csv

A step is forward, mean squared error, backward and the Adam update of a batch of 32 windows of ETTh1
(96 stamps in, 96 out, published sizes), on one thread, without the loader; in the precision of the
model's recipe, which for Autoformer is bfloat16 products where the processor has them.  Every measurement is a
process of its own; the programs take turns, so that a busy machine falls on all alike.  ``cpu_ms`` is
the median over steps of the process's time, the least of the rounds; ``extra_mb`` the peak of
resident memory above what was resident with the model and its optimiser built.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BATCH, LOOKBACK, HORIZON = 32, 96, 96
SUBJECTS = (
    "itransformer",
    "neuralforecast-itransformer",
    "autoformer",
    "neuralforecast-autoformer",
    "olinear",
    "patchtst",
    "dlinear",
    "s-mamba",
    "itransformer-marks",
)
TARGETS = {
    "itransformer": {"cpu_ms": 15.0, "peer_cpu_ms": 24.7},
    "autoformer": {"cpu_ms": 600.0, "extra_mb": 600.0, "peer_cpu_ms": 2925.0, "peer_mb": 3300.0},
}


def windows(file: Path) -> Any:
    """A batch (32, 192, 7) of scaled training windows."""
    import numpy as np
    import torch

    from apps.timeseries.data.reading import read_panel
    from apps.timeseries.data.windows import Scaling

    values = read_panel(file).series[0].values[:8640]
    values = Scaling.of(values).apply(values)
    starts = np.random.default_rng(0).integers(0, len(values) - LOOKBACK - HORIZON, BATCH)
    rows = starts[:, None] + np.arange(LOOKBACK + HORIZON)
    return torch.from_numpy(values[rows]).float()


def subject(name: str, batch: Any) -> tuple[Any, Any, Any, Any]:
    """(model, inputs as a call, truth, optimiser) of one program."""
    import torch

    if name.startswith("neuralforecast-"):
        return peer(name.removeprefix("neuralforecast-"), batch)
    from apps.timeseries import catalog
    from apps.timeseries.models.base import Shape, build
    from core.runtime import autocast_dtype, fast_matmul

    fast_matmul()
    marks = 4 if name.endswith("-marks") else 0
    name = name.removesuffix("-marks")
    if name == "autoformer":
        marks = 4  # the published model embeds the calendar
    shape = Shape(lookback=LOOKBACK, horizon=HORIZON, variates=batch.shape[2], known=marks)
    recipe = catalog.model(name).recipe
    more = {"known": "lookback"} if marks and name == "itransformer" else {}
    model = build(name, shape, **recipe.options, **more)
    known = torch.rand(BATCH, LOOKBACK + HORIZON, marks) - 0.5 if marks else None
    x, y = batch[:, :LOOKBACK].contiguous(), batch[:, LOOKBACK:].contiguous()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    dtype = autocast_dtype("cpu") if recipe.precision == "auto" else None

    def forward() -> Any:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            return model(x, None, known).float()

    return model, forward, y, optimiser


def peer(name: str, batch: Any) -> tuple[Any, Any, Any, Any]:
    """neuralforecast's module of the same sizes; its Autoformer forecasts one variate a window."""
    import torch
    from neuralforecast.losses.pytorch import MSE
    from neuralforecast.models import Autoformer, iTransformer

    common = {"h": HORIZON, "input_size": LOOKBACK, "loss": MSE(), "max_steps": 1}
    if name == "itransformer":
        model = iTransformer(
            n_series=batch.shape[2], hidden_size=256, n_heads=8, e_layers=2, d_ff=256, **common
        )
    else:
        model = Autoformer(
            hidden_size=512, n_head=8, conv_hidden_size=2048, encoder_layers=2, decoder_layers=1,
            factor=3, dropout=0.05, **common,
        )  # fmt: skip
        batch = batch[:, :, :1]
    x, y = batch[:, :LOOKBACK].contiguous(), batch[:, LOOKBACK:].contiguous()
    inputs = {"insample_y": x, "futr_exog": None}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    return model, lambda: model(inputs).reshape(y.shape), y, optimiser


def measure(name: str, file: Path, seconds: float) -> dict[str, Any]:
    """One subject in this process."""
    import torch

    from core.reporting import peak_memory_mb

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, forward, y, optimiser = subject(name, windows(file))
    model.train()
    resident = peak_memory_mb()
    times: list[float] = []
    began = time.monotonic()
    while len(times) < 5 or time.monotonic() - began < seconds:
        start = time.process_time()
        loss = (forward() - y).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        times.append(1e3 * (time.process_time() - start))
    assert bool(torch.isfinite(loss))
    return {
        "cpu_ms": statistics.median(times[2:]),
        "steps": len(times),
        "extra_mb": peak_memory_mb() - resident,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="ETTh1.csv")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/forecast_steps.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.file, args.seconds)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in args.subjects}
    for _ in range(args.rounds):
        for name in args.subjects:
            done = subprocess.run(
                [sys.executable, __file__, str(args.file), "--one", name,
                 "--seconds", str(args.seconds)],
                capture_output=True, text=True, check=False,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            rounds[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    from importlib.metadata import PackageNotFoundError, version

    from core.files import write_json
    from core.reporting import environment

    try:
        peer_version = version("neuralforecast")
    except PackageNotFoundError:
        peer_version = None
    result = {
        "batch": BATCH,
        "lookback": LOOKBACK,
        "horizon": HORIZON,
        "threads": 1,
        "neuralforecast": peer_version,
        "steps": {
            name: {
                "cpu_ms": round(min(r["cpu_ms"] for r in found), 2),
                "cpu_ms_by_round": [round(r["cpu_ms"], 2) for r in found],
                "extra_mb": round(min(r["extra_mb"] for r in found), 1),
                "parameters": found[0]["parameters"],
            }
            for name, found in rounds.items()
        },
        "targets": TARGETS,
        "environment": environment(0),
    }
    write_json(args.out, result, force=True)
    for name, row in result["steps"].items():  # type: ignore[attr-defined]
        print(
            f"{name:<28}{row['cpu_ms']:>10.1f} ms{row['extra_mb']:>9.0f} MB{row['parameters']:>12,}"
        )


if __name__ == "__main__":
    main()
