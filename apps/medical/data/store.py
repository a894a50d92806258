"""Prepared cases on disk, made once and then read by pages: training never holds a data set.

A case is two files, ``<case>.<stamp>.image.npy`` float32 (C, *S) and ``<case>.<stamp>.label.npy``
(1, *S), in a folder named after the plan.  The stamp follows the case's files, so that neither an
edited plan nor a corrected label ever meets stale arrays.  The folder may be deleted at any time
between runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from apps.medical.data.augment import locate_classes
from apps.medical.data.datasets import Case, Dataset
from apps.medical.data.plan import Plan
from apps.medical.data.preprocess import load_sample
from core.errors import DataError
from core.files import atomic_path
from core.progress import Progress, SilentProgress

PREPROCESSING = ("rank", "channels", "labels", "target", "orientation", "crop", "spacing")
STAMP = 8


class PreparedCases:
    """Samples {"image", "label", "locations"} by case id, memory-mapped from ``folder``."""

    parts: tuple[str, ...] = ("image", "label")

    def __init__(self, dataset: Dataset, plan: Plan, folder: Path) -> None:
        described = plan.model_dump_json(include={*PREPROCESSING, "normalisation", "intensity"})
        key = hashlib.sha256(f"{dataset.root.resolve()}{described}".encode()).hexdigest()[:16]
        self.dataset, self.plan, self.folder = dataset, plan, Path(folder) / key
        self._locations: dict[str, Any] = {}
        self._stamps: dict[str, str] = {}

    def prepare(self, ids: Sequence[str], progress: Progress | None = None) -> None:
        """Make what is missing.  Raises DataError naming the first case that cannot be read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stamps.clear()
        missing = [i for i in ids if not all(f.exists() for f in self._files(i))]
        if not missing:
            return
        with (progress or SilentProgress()).task("preparing cases", total=len(missing)) as task:
            for case_id in missing:
                for stale in self.folder.glob(f"{escape(case_id)}.{'?' * STAMP}.*.npy"):
                    stale.unlink()
                sample = self._read(self.dataset.case(case_id))
                for name, file in zip(self.parts, self._files(case_id), strict=True):
                    with atomic_path(file, force=True) as temporary:
                        np.save(temporary, sample[name])
                task.advance(1, note=case_id)

    def __getitem__(self, case_id: str) -> dict[str, Any]:
        sample: dict[str, Any] = self._load(case_id)
        if case_id not in self._locations:
            self._locations[case_id] = locate_classes(sample["label"][0])
        return sample | {"locations": self._locations[case_id]}

    def _read(self, case: Case) -> dict[str, np.ndarray]:
        """The parts of a case, made from its files."""
        return load_sample(self.dataset, case, self.plan)[0]

    def _load(self, case_id: str) -> dict[str, np.ndarray]:
        """The parts of a case as they were made."""
        try:
            arrays = [np.load(f, mmap_mode="c") for f in self._files(case_id)]
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{self.folder}: prepared case {case_id!r} is damaged ({error}); delete the folder "
                "and start again with --resume"
            ) from error
        return dict(zip(self.parts, arrays, strict=True))

    def _files(self, case_id: str) -> tuple[Path, ...]:
        if case_id not in self._stamps:
            self._stamps[case_id] = _stamp(self.dataset.case(case_id))
        stem = f"{case_id}.{self._stamps[case_id]}"
        return tuple(self.folder / f"{stem}.{part}.npy" for part in self.parts)


def _stamp(case: Case) -> str:
    """Changes when a file of the case is edited or replaced, also by an older one."""
    files = [file for file in (*case.images, case.label) if file is not None]
    try:
        about = [(stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, files)]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return hashlib.sha256(repr(about).encode()).hexdigest()[:STAMP]
