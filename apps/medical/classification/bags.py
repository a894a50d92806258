"""From pictures to bags: each picture's tiles, as a trained classifier of images sees them.

    OUT/NAME.safetensors    features (N, C), coords (N, 2) row and column of each tile, row by row
    OUT/labels.csv          image,label,patient where the pictures are a labelled data set
    OUT/bags.json           the model, the tile, and what the model was trained on, by content

So `classify train OUT --network r2t_mil` follows.  A model that has seen a picture has features of it
that are too good: training refuses a validation case that the model of its features was trained on.

Every tile is kept: there is no search for tissue, and whole-slide formats (.svs, .mrxs) are not read.
The last row and column of tiles end with the picture, and so overlap their neighbours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.medical.cases import find_cases
from apps.medical.classification.data import (
    LabelledCase,
    LabelledData,
    looks_labelled,
    open_labelled,
)
from apps.medical.classification.inputs import ImagePreparation, canonical
from apps.medical.classification.store import fingerprints, load_classifier
from core.errors import DataError, UsageError
from core.files import (
    atomic_path,
    read_json,
    require_writable,
    sha256,
    write_json,
    write_text,
)
from core.progress import Progress, SilentProgress
from core.weights.folder import TENSORS, write_tensors

RECORD = "bags.json"
MAX_TILES = 100_000


def make_bags(
    inputs: Sequence[Path],
    model: Path,
    out: Path,
    *,
    tile: int = 128,
    device: torch.device | str = "cpu",
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A bag of each picture of ``inputs``, tiles of ``tile`` pixels; see the module for the files.

    Raises UsageError for outputs that exist, an ensemble or a model of volumes or bags; DataError
    naming a picture that cannot be read or has too many tiles.
    """
    progress = progress or SilentProgress()
    out = Path(out)
    require_writable(out, ("labels.csv", RECORD), force)
    loaded = load_classifier(model, device)
    preparation = loaded.spec.preparation
    if len(loaded.networks) > 1:
        raise UsageError(
            f"{model}: an ensemble; give one of its folds, features of several do not mix"
        )
    if not isinstance(preparation, ImagePreparation) or preparation.rank != 2:
        raise UsageError(f"{model}: wants a classifier of pictures, to see their tiles with")
    data = _labelled(inputs, loaded.spec.classes)
    cases = _plain(inputs) if data is None else list(data.cases)
    counts: dict[str, int] = {}
    with progress.task("bags", total=len(cases)) as task:
        for case in cases:
            picture = torch.from_numpy(canonical(case.file, 2, preparation.channels))
            coords = tile_corners(picture.shape[1], picture.shape[2], tile)
            if len(coords) > MAX_TILES:
                raise DataError(
                    f"{case.file}: {len(coords)} tiles of {tile} pixels; the most is {MAX_TILES}, take "
                    "larger ones"
                )
            features = _features(loaded.networks[0], preparation, picture, coords, tile, device)
            with atomic_path(out / f"{case.id}.safetensors", force=force) as path:
                write_tensors(path, {"features": features, "coords": torch.tensor(coords)})
            counts[case.id] = len(coords)
            task.advance(1, note=case.id)
    if data is not None:
        write_text(out / "labels.csv", _table(data), force)
    record = {
        "model": sha256(loaded.folder / TENSORS),
        "tile": tile,
        "seen": loaded.spec.training.get("seen", []),
        "sources": {case.id: fingerprints([case])[0] for case in cases},
    }
    write_json(out / RECORD, record, force)
    return {"out": str(out), "bags": counts, "labelled": data is not None}


def tile_corners(height: int, width: int, tile: int) -> list[tuple[int, int]]:
    """Row and column of the first pixel of each tile; one at 0 where a side is shorter."""

    def starts(length: int) -> list[int]:
        last = max(0, length - tile)
        return [*range(0, last, tile), last]

    return [(row, column) for row in starts(height) for column in starts(width)]


def require_unseen_features(data: LabelledData, validation: Sequence[LabelledCase]) -> None:
    """Refuse bags whose features come from a model that was trained on a validation case.

    Nothing is known of bags made elsewhere.  Raises UsageError, or DataError for a damaged record.
    """
    file = data.root / RECORD
    if not file.is_file():
        return
    record = read_json(file)
    seen, sources = record.get("seen"), record.get("sources")
    if not isinstance(seen, list) or not isinstance(sources, dict):
        raise DataError(f"{file}: lacks seen or sources; make the bags again")
    for case in validation:
        if sources.get(case.id) in seen:
            raise UsageError(
                f"{file}: the model of these features was trained on {case.id}, a validation case of "
                "this fold; make bags with a model of the same fold, or metrics would be too good"
            )


@torch.no_grad()
def _features(
    network: torch.nn.Module,
    preparation: ImagePreparation,
    picture: Tensor,
    coords: Sequence[tuple[int, int]],
    tile: int,
    device: torch.device | str,
    batch: int = 16,
) -> Tensor:
    """(N, C) of the tiles of a picture (channels, H, W), on the CPU."""
    found = []
    for at in range(0, len(coords), batch):
        parts = [
            preparation.fitted(picture[:, row : row + tile, column : column + tile])
            for row, column in coords[at : at + batch]
        ]
        given = torch.stack(parts).to(device)
        found.append(network.features(given).float().cpu())  # type: ignore[operator]
    return torch.cat(found)


def _labelled(inputs: Sequence[Path], classes: Sequence[str]) -> LabelledData | None:
    """The data set, where ``inputs`` is one, of any classes if it has a table."""
    if len(inputs) != 1 or not looks_labelled(inputs[0], classes):
        return None
    data = open_labelled(inputs[0])
    if data.kind != "images":
        raise UsageError(f"{data.root}: holds bags already; give pictures")
    return data


def _plain(inputs: Sequence[Path]) -> list[LabelledCase]:
    return [
        LabelledCase(id=case.name, file=case.files[0], label=-1, patient=case.name)
        for case in find_cases([Path(i) for i in inputs])
    ]


def _table(data: LabelledData) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "label", "patient"])
    for case in data.cases:
        writer.writerow([f"{case.id}.safetensors", data.classes[case.label], case.patient])
    return stream.getvalue()
