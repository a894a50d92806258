"""A folder of cases, whichever of the usual layouts it has.

- Medical Segmentation Decathlon: `dataset.json` with a `training` list of {image, label}.
- nnU-Net v2 raw: `dataset.json` with `channel_names`, `labels`, `file_ending`;
  imagesTr/CASE_0000.nii.gz, one file per channel, labelsTr/CASE.nii.gz.
- Folder pairs: images/ (or imagesTr/) beside labels/, masks/, instances/ (or labelsTr/), paired by
  name, any readable format; `labels` and `channel_names` of an optional dataset.json name things.

An optional `patients.csv` (columns case,patient) or `patients.json` ({case: patient}) at the root
says which cases belong to one person; without it each case is its own patient.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from apps.medical.data.volume import (
    Volume,
    read_image,
    read_label,
    smallest_unsigned,
)
from core.errors import DataError
from core.files import read_json

Kind = Literal["labels", "instances"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One subject or picture: a file per channel (or one file with all), and its label if known."""

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str


@dataclass(frozen=True)
class Problem:
    """Something wrong with one case's files, found while listing them."""

    case: str
    file: str
    what: str
    fix: str

    @property
    def text(self) -> str:
        return f"{self.case}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Cases and what their channels and labels mean.

    `kind` "instances": the label files number objects from 1. `label_map` turns stored values into
    the ids of `labels` where these differ (a 0/255 mask: {255: 1}). `problems` lists cases that
    were left out.
    """

    root: Path
    name: str
    rank: int
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[Case, ...]
    kind: Kind = "labels"
    layout: str = "pairs"
    channels_last_axis: bool = False
    label_map: dict[int, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def case(self, case_id: str) -> Case:
        for case in self.cases:
            if case.id == case_id:
                return case
        raise DataError(f"{self.root}: no case named {case_id!r}")

    def read_images(self, case: Case) -> list[Volume]:
        """The case's channels, one Volume per file. Raises DataError."""
        return [read_image(p, channels_last_axis=self.channels_last_axis) for p in case.images]

    def read_label(self, case: Case) -> Volume:
        """The case's label with stored values mapped to ids. Raises DataError."""
        if case.label is None:
            raise DataError(f"{self.root}: case {case.id} has no label")
        return map_labels(read_label(case.label), self.label_map)


def map_labels(volume: Volume, mapping: Mapping[int, int]) -> Volume:
    """`volume` with each stored value that is a key of `mapping` replaced; others are kept."""
    if not mapping:
        return volume
    array = volume.array
    highest = max(int(array.max(initial=0)), *mapping.values())
    out = array.astype(smallest_unsigned(highest), copy=True)
    for stored, wanted in mapping.items():
        out[array == stored] = wanted
    return replace(volume, array=out)


def open_dataset(path: Path | str) -> Dataset:
    """Recognise the layout of `path` (a folder, or its dataset.json) and list its cases.

    Cases whose files are missing are left out and listed in `problems`. Raises DataError if the
    layout is unknown, the JSON is wrong, a path leaves the folder, or no complete case remains.
    """
    from apps.medical.data import layouts  # it builds Datasets, so it imports this module

    root = Path(path)
    if root.name == "dataset.json" and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise DataError(f"{root}: no such data set folder")
    root = root.resolve()
    described = root / "dataset.json"
    spec = read_json(described, advice="repair it") if described.is_file() else {}
    if isinstance(spec.get("training"), list):
        dataset = layouts.decathlon(root, spec)
    elif "file_ending" in spec or isinstance(spec.get("dataset"), dict):
        dataset = layouts.nnunet(root, spec)
    else:
        dataset = layouts.pairs(root, spec)
    if not dataset.cases:
        found = f"; first problem: {dataset.problems[0].text}" if dataset.problems else ""
        raise DataError(f"{root}: no case with an image and a label{found}")
    ids = [case.id for case in dataset.cases]
    strange = [i for i in ids if i in ("", ".", "..") or "/" in i or "\\" in i]
    if strange:  # a case's files are named after it, here and in results
        raise DataError(f"{root}: case name {strange[0]!r} is not a file name; rename the case")
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"{root}: case name {twice[0]!r} is used twice; rename one of them")
    return _with_patients(dataset)


def read_patients(root: Path) -> dict[str, str]:
    """Case -> patient from patients.csv or patients.json in `root`; empty if there is neither.

    Raises DataError for a file of another form.
    """
    as_csv, as_json = root / "patients.csv", root / "patients.json"
    if as_csv.is_file():
        with as_csv.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if not {"case", "patient"} <= set(rows.fieldnames or ()):
                raise DataError(f"{as_csv}: needs the columns case,patient")
            return {row["case"]: row["patient"] for row in rows}
    if as_json.is_file():
        stored = read_json(as_json, advice="it must map each case to its patient")
        return {str(k): str(v) for k, v in stored.items()}
    return {}


def _with_patients(dataset: Dataset) -> Dataset:
    table = read_patients(dataset.root)
    if not table:
        return dataset
    cases = tuple(replace(c, patient=table.get(c.id, c.patient)) for c in dataset.cases)
    return replace(dataset, cases=cases)
