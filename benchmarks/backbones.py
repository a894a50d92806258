"""How large each named backbone is, at its published rank and over volumes.

    python benchmarks/backbones.py               # ten seconds: nothing is computed, only counted

Pyramids are counted over pictures (rank 2, three channels, as published) and volumes (rank 3, one
channel); sequence trunks at rank 1 with one channel. Classifier heads are not part of a backbone, so
that counts are a little below what papers print. The demo's first page shows the result.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    from core.files import write_json
    from core.reporting import Timer, environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "benchmarks" / "results" / "backbones.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    with Timer() as timer:
        backbones = counted()
    result = {
        "benchmark": "backbones",
        "unit": "parameters",
        "backbones": backbones,
        "seconds": round(timer.seconds, 1),
        "environment": environment(seed=None),
    }
    write_json(args.out, result, force=True)
    print(f"{len(backbones)} backbones: {args.out}")


def counted() -> list[dict[str, Any]]:
    """Every backbone in table order: its family, sizes, and parameters by rank."""
    import torch

    import core
    from core.backbones.family import ZOO

    rows = []
    for name in core.list():
        row: dict[str, Any] = {"name": name, "paper": paper(ZOO[name][0]), "parameters": {}}
        with torch.device("meta"):  # shapes without memory
            first = core.create(name, rank=2, in_channels=3)
            sequence = tuple(first.strides) == (1,)
            for rank, channels in ((1, 1),) if sequence else ((2, 3), (3, 1)):
                backbone = core.create(name, rank=rank, in_channels=channels)
                row["parameters"][str(rank)] = sum(p.numel() for p in backbone.parameters())
        row["channels"] = list(backbone.channels)
        row["strides"] = list(backbone.strides)
        rows.append(row)
    return rows


def paper(builder: Any) -> str:
    """``Swin Transformer (Liu et al., ICCV 2021)``, from the beginning of the builder's docstring."""
    found = re.match(r"[^(]+\([^,)]+, [^,;)]+", builder.__doc__)
    assert found, f"{builder.__name__}: the docstring names no paper"
    return f"{found[0]})"


if __name__ == "__main__":
    main()
