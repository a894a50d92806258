"""Prepared cases on disk, made once and then read by pages: training never holds a data set.

A case is two files, ``<case>.image.npy`` float32 (C, *S) and ``<case>.label.npy`` (1, *S), in a
folder named after the plan, so that an edited plan never meets stale arrays.  The folder may be
deleted at any time between runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.medical.data.augment import locate_classes
from apps.medical.data.datasets import Dataset
from apps.medical.data.plan import Plan
from apps.medical.data.preprocess import load_sample
from core.errors import DataError
from core.files import atomic_path
from core.progress import Progress, SilentProgress

PREPROCESSING = ("rank", "channels", "labels", "target", "orientation", "crop", "spacing")


class PreparedCases:
    """Samples {"image", "label", "locations"} by case id, memory-mapped from ``folder``."""

    def __init__(self, dataset: Dataset, plan: Plan, folder: Path) -> None:
        described = plan.model_dump_json(include={*PREPROCESSING, "normalisation", "intensity"})
        key = hashlib.sha256(f"{dataset.root.resolve()}{described}".encode()).hexdigest()[:16]
        self.dataset, self.plan, self.folder = dataset, plan, Path(folder) / key
        self._locations: dict[str, Any] = {}

    def prepare(self, ids: Sequence[str], progress: Progress | None = None) -> None:
        """Make what is missing.  Raises DataError naming the first case that cannot be read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [i for i in ids if not all(f.exists() for f in self._files(i))]
        if not missing:
            return
        with (progress or SilentProgress()).task("preparing cases", total=len(missing)) as task:
            for case_id in missing:
                sample, _ = load_sample(self.dataset, self.dataset.case(case_id), self.plan)
                for name, file in zip(("image", "label"), self._files(case_id), strict=True):
                    with atomic_path(file, force=True) as temporary:
                        np.save(temporary, sample[name])
                task.advance(1, note=case_id)

    def __getitem__(self, case_id: str) -> dict[str, Any]:
        try:
            image, label = (np.load(f, mmap_mode="c") for f in self._files(case_id))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder}: prepared case {case_id!r} is damaged ({error}); delete the folder "
                "and start again with --resume"
            ) from error
        if case_id not in self._locations:
            self._locations[case_id] = locate_classes(label[0])
        return {"image": image, "label": label, "locations": self._locations[case_id]}

    def _files(self, case_id: str) -> tuple[Path, Path]:
        return self.folder / f"{case_id}.image.npy", self.folder / f"{case_id}.label.npy"
