"""Put a fitted forecaster into weights/ under a name: tensors in half precision, the card completed.

    python benchmarks/ship_forecaster.py MODELDIR --name etth1-96 --file samples/ETTh1.csv \\
        --licence "CC BY-ND 4.0, as the data"

Prints how far the forecasts of the file's last 100 origins move by the rounding, in training
deviations, and refuses above a hundredth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LIMIT = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a folder that fit wrote")
    parser.add_argument("--name", required=True)
    parser.add_argument("--file", type=Path, required=True, help="what it was fitted on")
    parser.add_argument("--licence", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "weights")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()

    import numpy as np
    import torch

    from apps.timeseries.data.reading import read_panel
    from apps.timeseries.predictor import ModelPredictor
    from apps.timeseries.store import load, save

    model = load(args.model)
    series = read_panel(args.file).series[0]
    horizon = model.spec.network.shape.horizon
    origins = list(range(len(series) - 100, len(series)))
    before = ModelPredictor(model).predict(series, origins, horizon)
    folder = args.out / args.name
    spec = model.spec.model_copy(update={"name": args.name, "licence": args.licence})
    scalings = [model.scalings[name] for name in spec.data.series]
    save(folder, model.network, spec, scalings, args.force, torch.float16)
    after = ModelPredictor(load(folder)).predict(series, origins, horizon)
    moved = float(np.abs((before - after) / scalings[0].values.std).max())
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(f"{folder}: {size:.1f} MiB; forecasts move by at most {moved:.2g} deviations")
    if moved > LIMIT:
        sys.exit("the forecasts move too far; keep the weights in full precision")


if __name__ == "__main__":
    main()
