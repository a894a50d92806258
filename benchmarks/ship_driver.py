"""Put a trained driver into weights/ under a name: tensors in half precision, the card completed.

    python benchmarks/ship_driver.py MODELDIR out/drives --name small

Prints how far the rounding moves waypoints and pedals on frames of the recordings, and refuses above
five centimetres (a tenth of what waypoints are off by) or a hundredth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

METRES, PEDALS = 5e-2, 1e-2
FRAMES = 32
INTENDED_USE = (
    "Research in simulation (CARLA, or this program's own world). Not for a real vehicle."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a folder that train wrote")
    parser.add_argument("data", type=Path, nargs="+", help="recordings to compare on")
    parser.add_argument("--name", required=True)
    parser.add_argument("--licence", help="of the weights; as train wrote it when not given")
    parser.add_argument("--out", type=Path, default=ROOT / "weights")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()

    import torch

    from apps.driving.models.store import load_driver, save_model
    from apps.driving.recordings.reader import open_dataset
    from apps.driving.recordings.tags import GROUPS
    from apps.driving.training.batches import Frames, evenly, in_batches
    from apps.driving.training.learning import inputs_of

    before = load_driver(args.model)
    about = before.config
    folder = args.out / args.name
    save_model(
        folder,
        before.network,
        training=before.spec.training,
        metrics=before.spec.metrics,
        licence=args.licence or before.spec.licence,
        intended_use=INTENDED_USE,
        dtype=torch.float16,
        force=args.force,
    )
    after = load_driver(folder)
    frames = Frames(
        open_dataset(args.data, rig=about.rig, steps=about.steps).recordings, GROUPS, about.steps
    )
    metres = pedals = 0.0
    with torch.inference_mode():
        for batch in in_batches(frames, evenly(frames, FRAMES), 8):
            old, new = (one.network(inputs_of(batch)) for one in (before, after))
            metres = max(metres, float((old.waypoints - new.waypoints).abs().max()))
            pedals = max(pedals, float((old.control - new.control).abs().max()))
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(
        f"{folder}: {size:.1f} MiB; waypoints move by at most {metres:.2g} m, wheel and pedals by {pedals:.2g}"
    )
    if metres > METRES or pedals > PEDALS:
        sys.exit("the driver changes too much; keep the weights in full precision")


if __name__ == "__main__":
    main()
