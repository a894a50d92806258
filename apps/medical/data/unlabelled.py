"""Images to learn from without labels: a data set's own and those beside it, or any folder's.

Of a labelled data set (see ``datasets``) every image counts, labelled or not, and so do those of
``imagesTs/``.  Any other folder is taken for images alone, one file a case, or one for each channel
named CASE_0000, CASE_0001, ... as nnU-Net does.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from apps.medical.cases import find_cases
from apps.medical.data.datasets import Case, Dataset, open_dataset, read_patients
from apps.medical.data.layouts import IMAGE_FOLDERS, LABEL_FOLDERS
from apps.medical.data.preprocess import prepare
from apps.medical.data.store import PreparedCases
from apps.medical.data.volume import RASTER, case_name, is_volume_file, peek, suffix_of
from core.errors import DataError

TEST_FOLDER = "imagesTs"
_NOTHING = {0: "background", 1: "unlabelled"}


def open_images(path: Path | str) -> Dataset:
    """Every image of ``path``, as cases whose ``label`` may be None.

    Raises DataError for a folder without images and as ``open_dataset`` does.
    """
    root = Path(path)
    if root.name == "dataset.json" and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of images")
    labelled = any((root / name).is_dir() for name in LABEL_FOLDERS)
    if not labelled and not (root / "dataset.json").is_file():
        return _folder(root.resolve())
    data = open_dataset(root)
    return replace(data, cases=(*data.cases, *_others(data)))


def _others(data: Dataset) -> list[Case]:
    """Images in the data set's folders that belong to no labelled case."""
    used = {file for case in data.cases for file in case.images}
    places = [data.root / name for name in (*IMAGE_FOLDERS, TEST_FOLDER)]
    files = [
        file
        for place in places
        if place.is_dir()
        for file in sorted(place.iterdir())
        if is_volume_file(file) and file not in used
    ]
    if not files:
        return []
    channels = len(data.cases[0].images)
    taken = {case.id for case in data.cases}
    people = read_patients(data.root)
    found: list[Case] = []
    for other in find_cases(files, channels):
        if len(other.files) != channels:
            continue  # an incomplete case is no sample of what the network will see
        name = other.name if other.name not in taken else f"{other.name} ({len(found)})"
        patient = people.get(other.name, name)
        found.append(Case(id=name, images=other.files, label=None, patient=patient))
    return found


def _folder(root: Path) -> Dataset:
    """A folder of images alone."""
    single = [case.files[0] for case in find_cases([root])]  # names the folder if it is empty
    numbers = [re.fullmatch(r".+_(\d{4})", case_name(file)) for file in single]
    count = len({match[1] for match in numbers if match}) if all(numbers) else 1
    found = find_cases(single, count)
    people = read_patients(root)
    cases = [
        Case(id=c.name, images=c.files, label=None, patient=people.get(c.name, c.name))
        for c in found
    ]
    first = peek(cases[0].images[0])
    picture = suffix_of(cases[0].images[0]) in RASTER
    flat = picture or sum(n > 1 for n in first.shape) < 3
    names = tuple(f"channel {i}" for i in range(count))
    if picture and count == 1:
        names = ("red", "green", "blue") if first.channels == 3 else ("grey",)
    return Dataset(
        root=root,
        name=root.name,
        rank=2 if flat else 3,
        channels=names,
        labels=_NOTHING,
        cases=tuple(cases),
        layout="images",
    )


class PreparedImages(PreparedCases):
    """Samples {"image"} by case id: float32 (C, *S) on the plan's grid, memory-mapped."""

    parts = ("image",)

    def __getitem__(self, case_id: str) -> dict[str, np.ndarray]:
        return self._load(case_id)

    def _read(self, case: Case) -> dict[str, np.ndarray]:
        return {"image": prepare(self.dataset.read_images(case), self.plan).image}
