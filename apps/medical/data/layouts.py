"""The layouts `datasets.open_dataset` recognises, each turned into a Dataset. Internal to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from apps.medical.data.datasets import Case, Dataset, Kind, Problem
from apps.medical.data.volume import (
    RASTER,
    case_name,
    is_volume_file,
    peek,
    read_label,
    suffix_of,
)
from core.errors import DataError

IMAGE_FOLDERS = ("imagesTr", "images", "image")
LABEL_FOLDERS = ("labelsTr", "labels", "label", "masks", "mask", "segmentations", "instances")
# Suffixes that label files of pair folders often carry in addition to the case's name.
LABEL_TAILS = ("_mask", "_label", "_seg", "_segmentation", "-mask", "-label", "-seg")
# More ids than this in one unnamed picture mask means that they number objects, not classes.
MAX_CLASSES = 32
# Unnamed labels are read to learn their ids: all files up to this many bytes, else an even sample.
SCAN_BYTES = 50_000_000
SCAN_FILES = 32

T = TypeVar("T")


def decathlon(root: Path, spec: dict[str, Any]) -> Dataset:
    source = root / "dataset.json"
    labels = _label_names(spec.get("labels"), source)
    names = _channel_names(spec.get("modality", spec.get("channel_names")))
    cases: list[Case] = []
    problems: list[Problem] = []
    for entry in spec["training"]:
        if not isinstance(entry, dict) or "image" not in entry:
            raise DataError(f"{source}: each `training` entry needs `image` and `label`")
        stored = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
        images = tuple(_inside(root, p, source) for p in stored)
        label = _inside(root, entry["label"], source) if entry.get("label") else None
        case_id = case_name(label or images[0])
        _add(cases, problems, case_id, images, label, str(entry.get("patient", case_id)))
    if not names and cases:
        names = tuple(f"channel {i}" for i in range(_channels_of(cases)))
    joined = len(names) > 1 and bool(cases) and len(cases[0].images) == 1
    return Dataset(
        root=root,
        name=str(spec.get("name") or root.name),
        rank=_rank(cases),
        channels=names,
        labels=labels,
        cases=tuple(cases),
        layout="decathlon",
        channels_last_axis=joined and suffix_of(cases[0].images[0]) not in RASTER,
        label_map=_binary_map(cases, labels),
        problems=tuple(problems),
    )


def nnunet(root: Path, spec: dict[str, Any]) -> Dataset:
    source = root / "dataset.json"
    labels = _label_names(spec.get("labels"), source)
    names = _channel_names(spec.get("channel_names", spec.get("modality")))
    ending = str(spec.get("file_ending", ".nii.gz"))
    cases: list[Case] = []
    problems: list[Problem] = []
    listed = spec.get("dataset")
    if isinstance(listed, dict):
        for case_id, entry in sorted(listed.items()):
            images = tuple(_inside(root, p, source) for p in entry["images"])
            _add(cases, problems, case_id, images, _inside(root, entry["label"], source), case_id)
    else:
        folder, label_folder = root / "imagesTr", root / "labelsTr"
        if not folder.is_dir():
            raise DataError(f"{root}: dataset.json names nnU-Net's layout but imagesTr/ is missing")
        channels: dict[str, dict[int, Path]] = {}
        for file in sorted(folder.iterdir()):
            if not (is_volume_file(file) and file.name.endswith(ending)):
                continue
            stem, _, number = file.name[: -len(ending)].rpartition("_")
            if not (stem and number.isdigit() and len(number) == 4):
                what = f"name does not end in _0000{ending}"
                problems.append(Problem(file.name, str(file), what, "add the channel number"))
                continue
            channels.setdefault(stem, {})[int(number)] = file
        count = len(names) or 1
        if not names and channels:
            count = max(len(files) for files in channels.values())
            names = tuple(f"channel {i}" for i in range(count))
        for case_id, files in sorted(channels.items()):
            images = tuple(
                files.get(i, folder / f"{case_id}_{i:04d}{ending}") for i in range(count)
            )
            _add(cases, problems, case_id, images, label_folder / (case_id + ending), case_id)
        problems += _labels_without_image(label_folder, set(channels), ending)
    if len(names) == 1 and cases and suffix_of(cases[0].images[0]) in RASTER:
        colours = _channels_of(cases)  # one RGB picture counts as one "channel" there
        names = names if colours == 1 else ("red", "green", "blue")
    elif names and all(n.strip().upper() in ("R", "G", "B") for n in names):
        names = ("red", "green", "blue")
    return Dataset(
        root=root,
        name=str(spec.get("name") or root.name),
        rank=_rank(cases),
        channels=names,
        labels=labels,
        cases=tuple(cases),
        layout="nnunet",
        label_map=_binary_map(cases, labels),
        problems=tuple(problems),
    )


def pairs(root: Path, spec: dict[str, Any]) -> Dataset:
    images_in = next((root / f for f in IMAGE_FOLDERS if (root / f).is_dir()), None)
    labels_in = next((root / f for f in LABEL_FOLDERS if (root / f).is_dir()), None)
    if images_in is None or labels_in is None:
        raise DataError(
            f"{root}: not a known data set layout; wanted a dataset.json, or images/ (imagesTr/)"
            " beside labels/, masks/ or instances/ (labelsTr/)"
        )
    images = _by_case(images_in)
    labels = _by_case(labels_in)
    for name in list(labels):
        if name not in images:
            tail = next((t for t in LABEL_TAILS if name.lower().endswith(t)), "")
            if tail and name[: -len(tail)] in images:
                labels[name[: -len(tail)]] = labels.pop(name)
    cases: list[Case] = []
    problems: list[Problem] = []
    for case_id, image in sorted(images.items()):
        _add(cases, problems, case_id, (image,), labels.get(case_id), case_id)
    for case_id in sorted(set(labels) - set(images)):
        problems.append(_lonely_label(case_id, labels[case_id]))
    names = _channel_names(spec.get("channel_names", spec.get("modality")))
    count = _channels_of(cases)
    if not names:
        natural = bool(cases) and suffix_of(cases[0].images[0]) in RASTER
        names = ("red", "green", "blue") if natural and count == 3 else ("grey",) if natural else ()
        names = names or (
            "channel 0",
        )  # a 4-D file is refused on reading unless channels are named
    kind: Kind = "instances" if labels_in.name == "instances" else "labels"
    declared = spec.get("labels")
    mapping: dict[int, int] = {}
    if spec.get("target") == "instances" or kind == "instances":
        kind = "instances"
        ids = _label_names(declared, root / "dataset.json") if declared else _OBJECTS
    elif declared:
        ids = _label_names(declared, root / "dataset.json")
        mapping = _binary_map(cases, ids)
    else:
        found, most = _scan(cases)
        if most > MAX_CLASSES and all(suffix_of(c.images[0]) in RASTER for c in cases):
            kind, ids = "instances", _OBJECTS
        elif found <= {0, 255} and 255 in found:
            ids, mapping = {0: "background", 1: "foreground"}, {255: 1}
        elif found <= {0, 1}:
            ids = {0: "background", 1: "foreground"}
        else:
            ids = {0: "background"} | {i: f"label {i}" for i in sorted(found - {0})}
    return Dataset(
        root=root,
        name=str(spec.get("name") or root.name),
        rank=_rank(cases),
        channels=names,
        labels=dict(ids),
        cases=tuple(cases),
        kind=kind,
        channels_last_axis=len(names) > 1 and not _is_picture(cases),
        label_map=mapping,
        problems=tuple(problems),
    )


_OBJECTS = {0: "background", 1: "object"}


def _add(
    cases: list[Case],
    problems: list[Problem],
    case_id: str,
    images: tuple[Path, ...],
    label: Path | None,
    patient: str,
) -> None:
    """List the case if all its files exist, else say which one does not."""
    for file in images:
        if not file.is_file():
            problems.append(
                Problem(
                    case_id,
                    str(file),
                    f"image {file.name} is missing",
                    "restore it or drop the case",
                )
            )
            return
    if label is None or not label.is_file():
        name = label.name if label is not None else "its label"
        fix = "add a label of the same name or move the image out"
        problems.append(
            Problem(case_id, str(images[0]), f"image without label ({name} is missing)", fix)
        )
        return
    cases.append(Case(id=case_id, images=images, label=label, patient=patient))


def _lonely_label(case_id: str, file: Path) -> Problem:
    return Problem(case_id, str(file), "label without image", "add the image or move the label out")


def _labels_without_image(folder: Path, known: set[str], ending: str) -> list[Problem]:
    if not folder.is_dir():
        return []
    stems = {f.name[: -len(ending)]: f for f in sorted(folder.iterdir()) if f.name.endswith(ending)}
    return [
        _lonely_label(stem, file)
        for stem, file in stems.items()
        if stem not in known and is_volume_file(file)
    ]


def _by_case(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if not is_volume_file(file):
            continue
        name = case_name(file)
        if name in found:
            raise DataError(
                f"{folder}: {found[name].name} and {file.name} are the same case; keep one of them"
            )
        found[name] = file
    return found


def _inside(root: Path, stored: Any, source: Path) -> Path:
    """A path from a JSON file, confined to the data set's folder."""
    if not isinstance(stored, str):
        raise DataError(f"{source}: a file path is wanted, got {stored!r}")
    path = root / stored
    # Compared without following the last links: a folder of symlinked cases is common and harmless,
    # `..` in a shared JSON is not.
    if Path(stored).is_absolute() or ".." in Path(stored).parts:
        raise DataError(
            f"{source}: path {stored!r} leaves the data set folder; use a relative path"
        )
    return path


def _label_names(stored: Any, source: Path) -> dict[int, str]:
    """{id: name} from either {"1": "name"} (Decathlon) or {"name": 1} (nnU-Net)."""
    if not isinstance(stored, dict) or not stored:
        raise DataError(f"{source}: `labels` must map names to ids")
    ids: dict[int, str] = {}
    for key, value in stored.items():
        if isinstance(value, list | tuple):
            raise DataError(
                f"{source}: label {key!r} is a region {value}; give each id its own name instead"
            )
        name, number = (value, key) if str(key).lstrip("-").isdigit() else (key, value)
        try:
            index = int(number)
        except (TypeError, ValueError) as error:
            raise DataError(f"{source}: label {key!r}: {value!r} has no integer id") from error
        if str(name).lower() == "ignore":
            raise DataError(
                f"{source}: an `ignore` label is not supported; relabel it as background"
            )
        if index < 0 or index in ids:
            raise DataError(f"{source}: label id {index} is negative or given twice")
        ids[index] = str(name)
    ids.setdefault(0, "background")
    return dict(sorted(ids.items()))


def _channel_names(stored: Any) -> tuple[str, ...]:
    if isinstance(stored, dict):
        return tuple(str(stored[k]) for k in sorted(stored, key=lambda k: (len(str(k)), str(k))))
    if isinstance(stored, list | tuple):
        return tuple(str(name) for name in stored)
    return ()


def _is_picture(cases: list[Case]) -> bool:
    return bool(cases) and suffix_of(cases[0].images[0]) in RASTER


def _channels_of(cases: list[Case]) -> int:
    """Channels of the first readable case; the audit reports the others."""
    for case in cases:
        if len(case.images) > 1:
            return len(case.images)
        try:
            return peek(case.images[0]).channels
        except DataError:
            continue
    return 1


def _rank(cases: list[Case]) -> int:
    """2 for pictures and where every sampled volume is a single slice, else 3."""
    if not cases or _is_picture(cases):
        return 2 if cases else 3
    for case in _spread(cases, 16):
        try:
            shape = peek(case.images[0]).shape
        except DataError:
            continue  # the audit reports it
        if sum(n > 1 for n in shape) > 2:
            return 3
    return 2


def _binary_map(cases: list[Case], labels: dict[int, str]) -> dict[int, int]:
    """{255: 1} where one class is declared and the sampled masks store it as 255."""
    if sorted(labels) != [0, 1]:
        return {}
    found, _ = _scan(_spread(cases, 8))
    return {255: 1} if 255 in found and found <= {0, 255} else {}


def _scan(cases: list[Case]) -> tuple[set[int], int]:
    """All label values in the (sampled) cases, and the most values in one of them."""
    files = [case.label for case in cases if case.label is not None]
    if sum(file.stat().st_size for file in files) > SCAN_BYTES:
        files = _spread(files, SCAN_FILES)
    found: set[int] = set()
    most = 0
    for file in files:
        try:
            values = np.unique(read_label(file).array)
        except DataError:
            continue  # the audit reports it
        found.update(int(v) for v in values)
        most = max(most, len(values))
    return found, most


def _spread(items: list[T], count: int) -> list[T]:
    """At most `count` items, evenly spaced."""
    return items if len(items) <= count else [items[i * len(items) // count] for i in range(count)]
