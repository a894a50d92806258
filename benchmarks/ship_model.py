"""Put a trained fold into weights/ under a name: tensors in half precision, a card in model.json.

    python benchmarks/ship_model.py RUN/fold_0 --name hippocampus --licence "CC BY-SA 4.0"

Prints how far the logits on a random window move by the rounding, and the share of voxels whose
label changes, and refuses when that share is above one in a thousand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LIMIT = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder, for example RUN/fold_0")
    parser.add_argument("--name", required=True)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "weights")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()

    import torch

    from apps.medical.store import load_model, save_model

    model = load_model(args.model)
    if len(model.networks) != 1:
        parser.error(f"{args.model} is an ensemble; give one of its folds")
    folder = args.out / args.name
    spec = model.spec.model_copy(update={"name": args.name, "licence": args.licence})
    save_model(folder, model.network, spec, args.force, torch.float16)

    plan = spec.plan
    torch.manual_seed(0)
    window = torch.randn(1, len(plan.channels), *plan.patch)
    with torch.inference_mode():
        before = model.network(window)
        after = load_model(folder).network(window)
    moved = float((before.argmax(1) != after.argmax(1)).float().mean())
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(
        f"{folder}: {size:.1f} MiB; logits move by at most {float((before - after).abs().max()):.2g},"
        f" {moved:.2%} of the voxels of a random window change label"
    )
    if moved > LIMIT:
        sys.exit("too many labels change; keep the weights in full precision")


if __name__ == "__main__":
    main()
