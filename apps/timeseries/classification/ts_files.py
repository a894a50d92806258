"""Reader of the ``.ts`` text format of the UEA and UCR archives of time-series classification.

Format (Bagnall et al., "The UEA multivariate time series classification archive", 2018, section 2;
the sktime and aeon projects' description): lines starting with # are comments; lines starting with
@ are a header of names and values, without regard to case, up to ``@data``; then one line a case,
its channels separated by colons, a channel's numbers by commas, ``?`` a missing one, and the class
as the last field where ``@classLabel true``.  Series of one file may differ in length, the channels
of one case may not.  Time stamps in the data, ``(0.5, 1.2)``, and targets of regression are refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import DataError, ResourceError


@dataclass(frozen=True)
class Cases:
    """Labelled series: each (C, its length) float64 with NaN where missing, and its class.

    ``classes`` are those the header declares, in its order.
    """

    name: str
    series: tuple[np.ndarray, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        return len(self.series[0])

    @property
    def lengths(self) -> np.ndarray:
        """The length of each series, (n,)."""
        return np.array([s.shape[1] for s in self.series])

    def take(self, chosen: np.ndarray) -> Cases:
        """The cases at the indices ``chosen``."""
        return Cases(
            self.name,
            tuple(self.series[i] for i in chosen),
            tuple(self.labels[i] for i in chosen),
            self.classes,
        )


def read_ts(path: str | Path) -> Cases:
    """All cases of a ``.ts`` file with classes.

    Raises DataError when there is no such file and, naming file and line, for what is not the
    format, for time stamps, a file without classes or cases, and for a case whose class, number of
    channels or lengths do not fit; ResourceError for a file that may not be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a .ts file with classes")
    if not os.access(path, os.R_OK):
        raise ResourceError(f"{path}: no permission to read it; change its permissions or copy it")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # comments hold names of authors
    header: dict[str, list[str]] = {}
    lines = text.splitlines()
    start = None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not line.startswith("@"):
            raise DataError(
                f"{path}: line {number} comes before @data and is no header (a line starting with "
                "@) nor comment (#); this is no .ts file"
            )
        key, *values = line[1:].split()
        if key.lower() == "data":
            start = number
            break
        header[key.lower()] = values
    if start is None:
        raise DataError(f"{path}: has no line @data; this is no .ts file, or it was cut short")
    classes = _classes(path, header)
    series: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(lines[start:], start + 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        *channels, label = line.split(":")
        case = _case(path, number, channels)
        label = label.strip()
        if label not in classes:
            raise DataError(
                f"{path}: line {number} ends in class {label[:40]!r}, and the header declares "
                f"{', '.join(classes)}; correct one of them"
            )
        if series and len(case) != len(series[0]):
            raise DataError(
                f"{path}: line {number} has {len(case)} channels and the first case "
                f"{len(series[0])}; every case has the same channels"
            )
        series.append(case)
        labels.append(label)
    if not series:
        raise DataError(f"{path}: holds no case after @data; was it cut short?")
    declared = header.get("dimensions", [])
    if declared and declared[0].isdigit() and int(declared[0]) != len(series[0]):
        raise DataError(
            f"{path}: the header declares {declared[0]} dimensions and the cases have "
            f"{len(series[0])}; correct one of them"
        )
    name = " ".join(header.get("problemname", [])) or path.stem
    return Cases(name, tuple(series), tuple(labels), classes)


def _classes(path: Path, header: dict[str, list[str]]) -> tuple[str, ...]:
    """The declared classes, once the header is known to be of what can be read."""
    if header.get("timestamps", ["false"])[:1] not in (["false"], ["False"], []):
        raise DataError(
            f"{path}: has time stamps in its data, which is not read; write plain values"
        )
    values = header.get("classlabel", [])
    if [v.lower() for v in values[:1]] != ["true"] or len(values) < 2:
        raise DataError(
            f"{path}: declares no classes; give a file with a line such as @classLabel true a b"
        )
    return tuple(values[1:])


def _case(path: Path, number: int, channels: list[str]) -> np.ndarray:
    """One line's channels as (C, T)."""
    if not channels:
        raise DataError(f"{path}: line {number} has no colon; a case is values:...:values:class")
    rows = []
    for c, channel in enumerate(channels, 1):
        fields = [field.strip() for field in channel.split(",")]
        try:
            rows.append([float("nan") if field == "?" else float(field) for field in fields])
        except ValueError:
            wrong = next(field for field in fields if field != "?" and not _is_number(field))
            raise DataError(
                f"{path}: line {number}, channel {c}: {wrong[:40]!r} is no number; write numbers "
                "with a decimal point, ? where one is missing"
            ) from None
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise DataError(
            f"{path}: line {number} has channels of {lengths[0]} and of {lengths[-1]} values; the "
            "channels of a case must have one length, with ? where a value is missing"
        )
    values = np.array(rows)
    if np.isinf(values).any():
        raise DataError(
            f"{path}: line {number} holds an infinite value; write ? where none is known"
        )
    return values


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
