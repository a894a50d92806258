"""Coverage of conformal intervals on the test rows of ETTh1 and Exchange, measured.

    python benchmarks/interval_coverage.py DATA --out benchmarks/results/interval_coverage.json

DATA holds ETTh1.csv and exchange_rate.csv.  A model is trained by the benchmark's protocol; it and a
naive method are forecast from every validation and test origin, a row apart.  The bounds of each test
origin come from the errors that had been realised by then, the validation rows' to begin with; nothing
is fitted on test rows.  The table gives, for 80, 90 and 95 %, the share of test values inside
(pointwise) and of whole paths inside (joint bands), with the mean width in training deviations.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LEVELS = (80.0, 90.0, 95.0)
LOOKBACK = HORIZON = 96
SETS = {
    # file, protocol, rows of the rolling window, models
    "ETTh1": ("ETTh1.csv", "ett-hour", ("dlinear", "seasonal-mean")),
    "Exchange": ("exchange_rate.csv", "7-1-2", ("dlinear", "last-value")),
}


def measure(name: str, data: Path, seed: int) -> dict[str, Any]:
    """Each model of one data set: coverage and width by level, pointwise and joint."""
    import numpy as np

    from apps.timeseries import intervals
    from apps.timeseries.data.reading import read_panel
    from apps.timeseries.data.splits import origins, protocol_borders
    from apps.timeseries.data.windows import Scaling
    from apps.timeseries.evaluate import published
    from apps.timeseries.fit import train
    from apps.timeseries.methods import BaselinePredictor, Predictor
    from apps.timeseries.predictor import ModelPredictor

    file, protocol, models = SETS[name]
    panel = read_panel(data / file)
    series = panel.series[0]
    borders = protocol_borders(protocol, len(series))
    std = Scaling.of(series.values[: borders.train]).std
    at = origins(borders.train, borders.test, LOOKBACK, HORIZON)
    start = int(np.searchsorted(at, borders.val))
    truths = series.values[at[:, None] + np.arange(HORIZON)] / std
    found: dict[str, Any] = {}
    for model in models:
        predictor: Predictor = BaselinePredictor(model)
        if model == "dlinear":
            with tempfile.TemporaryDirectory() as folder:
                trained = train(
                    panel, model, lookback=LOOKBACK, horizon=HORIZON, borders=borders, seed=seed,
                    options=published(model, name, HORIZON), run_dir=Path(folder) / "run",
                )  # fmt: skip
            predictor = ModelPredictor(trained.model)
        forecasts = predictor.predict(series, at.tolist(), HORIZON) / std
        rows = {}
        for kind, joint in (("pointwise", False), ("joint path", True)):
            done = intervals.rolling(
                forecasts, truths, LEVELS, origins=at, start=start, joint=joint
            )
            report = done.report(truths[start:], panel.names(series))["levels"]
            rows[kind] = {
                level: {k: round(row[k], 4) for k in ("nominal", "coverage", "width")}
                for level, row in report.items()
            }
        found[model] = rows
        print(name, model, {k: [r["coverage"] for r in v.values()] for k, v in rows.items()})
    return {
        "protocol": protocol,
        "test_origins": len(at) - start,
        "file_sha256": panel.sha256,
        "models": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    default = ROOT / "benchmarks" / "results" / "interval_coverage.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch

    from apps.timeseries import intervals
    from core.files import write_json
    from core.reporting import environment

    torch.set_num_threads(1)
    result = {
        "lookback": LOOKBACK,
        "horizon": HORIZON,
        "settings": {
            name: parameter.default
            for name, parameter in inspect.signature(intervals.rolling).parameters.items()
            if name in ("window", "rate", "every")
        },
        "sets": {name: measure(name, args.data, args.seed) for name in SETS},
        "environment": environment(args.seed),
    }
    write_json(args.out, result, force=True)


if __name__ == "__main__":
    main()
