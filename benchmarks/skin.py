"""Outline skin lesions in dermoscopic pictures: five-fold Dice and HD95, beside the CNN baseline.

    python benchmarks/skin.py SKIN --steps 600 --jobs 2 --out benchmarks/results/skin_cv.json

SKIN holds ``images/NAME.jpg`` and ``masks/NAME.png`` of values 0 and 255 (ISIC 2017's training set or
a part of it).  Pictures are shrunk, proportions kept, to 256 pixels on the longer side, so that one
patch of 192 x 256 shows a whole lesion with its surroundings, as the papers' 224 or 256 pixel squares
do; ``--work`` keeps the copies.  Everything else is ``segmentation_cv.py``: same folds, patches,
steps and schedule for every network, from scratch in the small preset, nothing chosen on validation
cases, every network and fold a cell that is not computed twice; ``--models``, ``--folds``,
``--collect`` and ``--add`` are its.  HD95 is in pixels of the shrunk pictures.

Cost on one core, from timed steps of 4 patches: 600 steps of all eight networks on five folds take four
hours (a step: U-Net 0.14, DynUNet 0.28, Swin-UMamba 0.43, Swin-Unet and Att-SwinU-Net 0.5, Swin UNETR
0.6, CSWin-UNet 0.7, VM-UNet 1.6 s in bfloat16); ``--jobs 2`` halves the wait.

Whose pictures they are is not known, so folds go by picture: two of one lesion may be on both sides.
Published figures (Att-SwinU-Net, VM-UNet and others on ISIC 2017: Dice 0.89 to 0.92) come from 2000
pictures, ImageNet weights and splits of their own, and do not compare with a few dozen from scratch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PLAN = ROOT / "benchmarks" / "plans" / "skin.yaml"
LONGEST = 256
MODELS = (
    "unet",
    "dynunet",
    "swin_unetr",
    "swin_unet",
    "att_swin_unet",
    "cswin_unet",
    "vm_unet",
    "swin_umamba",
)
NOTE = (
    "pictures shrunk to 256 pixels on the longer side; HD95 in pixels of these; folds by picture, "
    "patients unknown"
)


def shrink(source: Path, target: Path) -> int:
    """Copies of ``source`` in ``target``, as a data set; how many.

    Raises DataError where a picture has no mask, or a mask other values than 0 and 255.
    """
    from PIL import Image

    from core.errors import DataError
    from core.files import atomic_path, write_json

    pictures = sorted((source / "images").glob("*.jpg")) if source.is_dir() else []
    if not pictures:
        raise DataError(f"{source}: no images/*.jpg here; give the folder of pictures and masks")
    for picture in pictures:
        mask = source / "masks" / f"{picture.stem}.png"
        if not mask.is_file():
            raise DataError(f"{mask}: is missing; every picture needs its mask")
        with Image.open(picture) as image, Image.open(mask) as outline:
            values = sorted(v for _, v in outline.convert("L").getcolors())
            if not set(values) <= {0, 255} or image.size != outline.size:
                raise DataError(f"{mask}: want 0 and 255 on the picture's grid, found {values[:4]}")
            share = LONGEST / max(image.size)
            size = tuple(max(1, round(n * share)) for n in image.size)
            small = image.convert("RGB").resize(size, Image.Resampling.BOX)
            # Half covered or more is lesion: the nearest pixel would shift the outline.
            covered = outline.convert("L").resize(size, Image.Resampling.BOX)
            covered = covered.point(lambda v: 255 if v >= 128 else 0)
        for copy, name in ((small, "images"), (covered, "masks")):
            with atomic_path(target / name / f"{picture.stem}.png", force=True) as path:
                copy.save(path)
    names = {"name": "skin", "labels": {"background": 0, "lesion": 1}}
    write_json(target / "dataset.json", names, force=True)
    return len(pictures)


def digest(folder: Path) -> str:
    """One hash of all pictures and masks, by name."""
    found = hashlib.sha256()
    for file in sorted([*(folder / "images").iterdir(), *(folder / "masks").iterdir()]):
        found.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def main() -> None:
    from core.errors import TriptychError

    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Other options go to segmentation_cv.py: --folds, --lr, --jobs, --collect, --add ...",
    )
    parser.add_argument("source", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "skin_cv.json"
    )
    args, rest = parser.parse_known_args()
    small = args.work / "skin-data"
    try:
        record = {"source": digest(args.source), "longest": LONGEST}
        known = small / "made.json"
        if not known.is_file() or json.loads(known.read_text(encoding="utf-8")) != record:
            from core.files import write_json

            shrink(args.source, small)
            write_json(known, record, force=True)
    except (TriptychError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    sys.argv = [
        str(ROOT / "benchmarks" / "segmentation_cv.py"),
        str(small),
        *("--plan", str(PLAN), "--models", *args.models, "--runs", str(args.work)),
        *("--note", NOTE, "--out", str(args.out), *rest),
    ]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
