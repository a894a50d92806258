"""Labelled images or bags, as a folder of classes or with a table, patients included.

    ROOT/labels.csv           columns image,label and, where known, patient; image is a path below ROOT
    ROOT/CLASS/image.png      without a table: each sub-folder is a class

Images are of any format the application reads, all 2-D or all 3-D.  A bag is a file
``NAME.safetensors`` with a tensor ``features`` (N, D), or ``NAME.npy`` of that shape: features of the
patches of one slide.  patients.csv or patients.json at the root (columns case,patient; a case is the
image's path without suffix) say who is whose, as for segmentation; otherwise each image is its own
patient.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from apps.medical.data.datasets import read_patients
from apps.medical.data.layouts import LABEL_FOLDERS
from apps.medical.data.volume import case_name, is_volume_file, peek, suffix_of
from core.errors import DataError, UsageError

BAG_SUFFIXES = (".safetensors", ".npy")
MAX_ROWS = 1_000_000
# "nan" and a dozen missing values in a label column are a spreadsheet's, not classes.
NO_LABEL = {"", "nan", "none", "null"}

Kind = Literal["images", "bags"]


@dataclass(frozen=True, kw_only=True)
class LabelledCase:
    """One image or bag; ``label`` is the index of its class."""

    id: str
    file: Path
    label: int
    patient: str


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Cases of two classes or more.  ``problems``: what was left out, and why."""

    root: Path
    name: str
    kind: Kind
    classes: tuple[str, ...]
    cases: tuple[LabelledCase, ...]
    problems: tuple[str, ...] = ()

    def take(self, ids: Sequence[str]) -> list[LabelledCase]:
        """The cases of these ids, in their order."""
        by_id = {case.id: case for case in self.cases}
        return [by_id[i] for i in ids]


def open_labelled(path: Path | str) -> LabelledData:
    """Recognise the layout of ``path`` and list its cases.

    Raises DataError for an unknown layout, a table of another form, a path that leaves the folder,
    images and bags mixed, one name used twice, or fewer than two classes.
    """
    root = Path(path)
    if root.name == "labels.csv" and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise DataError(f"{root}: no such data set folder")
    root = root.resolve()
    table = root / "labels.csv"
    if not table.is_file() and any((root / name).is_dir() for name in LABEL_FOLDERS):
        raise DataError(
            f"{root}: looks like a data set of masks, not of classes; `train` takes it, or write "
            "labels.csv (image,label)"
        )
    rows, problems = _table(root, table) if table.is_file() else (_folders(root), [])
    problems += [f"{f.name}: is listed but not there" for f, _, _ in rows if not f.is_file()]
    rows = [row for row in rows if row[0].is_file()]
    if not rows:
        first = f"; first problem: {problems[0]}" if problems else ""
        raise DataError(
            f"{root}: no labelled image; give labels.csv (image,label) or a folder for each class"
            f"{first}"
        )
    kinds: set[Kind] = {"bags" if _is_bag(file) else "images" for file, _, _ in rows}
    if len(kinds) > 1:
        raise DataError(f"{root}: images and bags of features together; keep one kind in a folder")
    classes = tuple(sorted({label for _, label, _ in rows}))
    if len(classes) < 2:
        raise DataError(
            f"{root}: all {len(rows)} cases are of class {classes[0]!r}; a classifier needs two"
        )
    known = read_patients(root)
    cases: dict[str, LabelledCase] = {}
    for file, label, patient in rows:
        name = _case_id(root, file)
        if name in cases:
            raise DataError(
                f"{root}: {cases[name].file.name} and {file.name} are both case {name!r}; keep one"
            )
        who = patient or known.get(name) or known.get(case_name(file)) or name
        cases[name] = LabelledCase(id=name, file=file, label=classes.index(label), patient=who)
    return LabelledData(
        root=root,
        name=root.name,
        kind=kinds.pop(),
        classes=classes,
        cases=tuple(cases.values()),
        problems=tuple(problems),
    )


def patient_folds(
    data: LabelledData, k: int = 5, seed: int = 0
) -> list[tuple[list[str], list[str]]]:
    """[(training ids, validation ids)] for each of ``k`` folds, with no patient on both sides.

    Patients are shuffled by ``seed`` and dealt class by class (that of most of their cases, the
    rarest first) to the fold with the fewest cases of it.  Raises DataError where a class has fewer
    than two patients, or there are fewer patients than folds.
    """
    patients: dict[str, list[LabelledCase]] = {}
    for case in data.cases:
        patients.setdefault(case.patient, []).append(case)
    if not 2 <= k <= len(patients):
        raise DataError(f"{data.root}: {k} folds need 2 <= folds <= {len(patients)} patients")
    of_class: dict[int, list[str]] = {}
    for patient, own in patients.items():
        labels = [case.label for case in own]
        of_class.setdefault(max(sorted(set(labels)), key=labels.count), []).append(patient)
    for label, name in enumerate(data.classes):
        holders = {case.patient for case in data.cases if case.label == label}
        if len(holders) < 2:
            raise DataError(
                f"{data.root}: class {name!r} has one patient only; it cannot be in training and in "
                "validation: add cases or leave the class out"
            )
    parts: list[list[LabelledCase]] = [[] for _ in range(k)]
    for label in sorted(of_class, key=lambda c: (len(of_class[c]), c)):
        order = sorted(of_class[label])
        random.Random(f"{seed}/{label}").shuffle(order)
        order.sort(key=lambda patient: -len(patients[patient]))
        for patient in order:
            emptiest = min(
                parts, key=lambda p: (sum(c.label == label for c in p), len(p), parts.index(p))
            )
            emptiest.extend(patients[patient])
    return [
        (
            sorted(c.id for j, part in enumerate(parts) if j != fold for c in part),
            sorted(c.id for c in parts[fold]),
        )
        for fold in range(k)
    ]


def rank_and_channels(data: LabelledData) -> tuple[int, int]:
    """Rank of the images and the most channels that any has (of 16 looked at).  Raises DataError.

    A volume with one slice is rank 2.
    """
    step = max(1, len(data.cases) // 16)
    seen = [peek(case.file) for case in data.cases[::step][:16]]
    ranks = {max(2, sum(n > 1 for n in found.shape)) for found in seen}
    if len(ranks) > 1:
        raise DataError(f"{data.root}: pictures and volumes together; keep one kind in a folder")
    return ranks.pop(), max(found.channels for found in seen)


def looks_labelled(path: Path, classes: Sequence[str]) -> bool:
    """Whether there is a table of labels, or folders named like two of ``classes``."""
    if not path.is_dir():
        return path.name == "labels.csv"
    folders = {f.name for f in path.iterdir() if f.is_dir() and not f.name.startswith(".")}
    return (path / "labels.csv").is_file() or len(folders & set(classes)) >= 2


def only(data: LabelledData, kind: Kind) -> LabelledData:
    """``data``, which must be of this kind.  Raises UsageError."""
    if data.kind != kind:
        raise UsageError(
            f"{data.root}: holds {data.kind}, this model classifies {kind}; choose another --network"
        )
    return data


def relabelled(data: LabelledData, classes: Sequence[str], source: str) -> LabelledData:
    """``data`` with its labels as indices into ``classes``.  Raises DataError for a class not in it."""
    strange = sorted(set(data.classes) - set(classes))
    if strange:
        raise DataError(
            f"{data.root}: class {strange[0]!r} is not among those of {source}: {', '.join(classes)}"
        )
    cases = tuple(
        replace(case, label=list(classes).index(data.classes[case.label])) for case in data.cases
    )
    return replace(data, classes=tuple(classes), cases=cases)


def _is_bag(file: Path) -> bool:
    return file.suffix.lower() in BAG_SUFFIXES


def _readable(file: Path) -> bool:
    return is_volume_file(file) or (_is_bag(file) and not file.name.startswith("."))


def _case_id(root: Path, file: Path) -> str:
    name = file.relative_to(root).as_posix()
    return name[: -len(suffix_of(file) or file.suffix)]


def _table(root: Path, table: Path) -> tuple[list[tuple[Path, str, str]], list[str]]:
    """(file, label, patient or "") of each row of labels.csv that has a label."""
    rows: list[tuple[Path, str, str]] = []
    problems: list[str] = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"image", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{table}: needs the columns image,label (and patient if known)")
            for number, row in enumerate(reader, 2):
                if number > MAX_ROWS:
                    raise DataError(f"{table}: more than {MAX_ROWS} rows; split it")
                name, label = (row["image"] or "").strip(), (row["label"] or "").strip()
                if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                    raise DataError(
                        f"{table}: line {number}: {name!r} is not a path inside {root}; use relative "
                        "paths"
                    )
                if label.lower() in NO_LABEL:
                    problems.append(f"{name}: has no label")
                    continue
                if not _is_bag(root / name) and not suffix_of(root / name):
                    raise DataError(f"{table}: line {number}: {name!r} is no format known here")
                rows.append((root / name, label, (row.get("patient") or "").strip()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); save it as UTF-8 CSV") from error
    return rows, problems


def _folders(root: Path) -> list[tuple[Path, str, str]]:
    """(file, class, "") of every image in the sub-folders of ``root``, one level deep."""
    return [
        (file, folder.name, "")
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.iterdir())
        if _readable(file)
    ]
