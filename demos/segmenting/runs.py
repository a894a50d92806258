"""One way to segment one image: which model, how; doing it in the background, reading what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from apps.medical.data.volume import read_image
from apps.medical.results import PROBABILITIES, Result, list_results
from apps.medical.store import ModelSpec, find_model, read_spec, shipped
from core.errors import DataError, TriptychError
from core.progress import Progress
from demos.segmenting.images import Image
from demos.shared import jobs
from demos.shared.keys import key_of
from demos.shared.workspace import workspace

if TYPE_CHECKING:
    from apps.medical.predict import CaseResult
    from apps.medical.store import Model

STANDARD, FAST, MIRRORED = "Standard", "Fast", "Mirrored"
WAYS = {
    STANDARD: "windows overlap by half",
    FAST: "windows overlap by a quarter, of an ensemble the first network",
    MIRRORED: "averaged over mirrored copies, slower",
}
IN_SERIES, NAMED, REMOVED = "In DICOM files", "In the report, too", "Removed"
PATIENTS = {
    IN_SERIES: "the mask belongs to the study it was made of; the report names nobody",
    NAMED: "the report says whose image it is",
    REMOVED: "nothing that is made says whose image it was",
}
# Probabilities of all classes are kept in memory and on disk: up to this many numbers.
MOST_PROBABILITIES = 2**25


@dataclass(frozen=True)
class Run:
    """How an image is segmented. ``model`` is a shipped name or a folder's path."""

    model: str
    way: str = STANDARD
    repair: bool = False
    patient: str = IN_SERIES
    probabilities: bool = False

    @property
    def title(self) -> str:
        """``hippocampus, mirrored``."""
        name = Path(self.model).name
        words = [name] if self.way == STANDARD else [name, self.way.lower()]
        return ", ".join(words + ["repaired"] * self.repair + ["patient removed"] * self.removed)

    @property
    def removed(self) -> bool:
        return self.patient == REMOVED

    def key(self, image: Image) -> str:
        """Of the result: another image, other weights or another way give another."""
        return key_of("segment", image.key, self, find_model(self.model))


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished run: its folder on disk and what is in it, arrays on the image's grid, read-only."""

    run: Run
    key: str
    result: Result
    labels: np.ndarray
    uncertainty: np.ndarray | None
    stats: Mapping[str, Any]
    warnings: list[str]
    seconds: float

    @property
    def folder(self) -> Path:
        return self.result.file.parent

    @property
    def names(self) -> dict[int, str]:
        return self.result.labels

    @property
    def instances(self) -> bool:
        return self.result.instances


def models() -> dict[str, ModelSpec]:
    """The shipped models that segment, by name. Imports no torch."""
    found = {}
    for name in shipped():
        try:
            found[name] = read_spec(name)
        except TriptychError:  # a classifier, or damaged: its own command says more
            continue
    return found


def again(image: Image, run: Run) -> None:
    """Let a run that failed or was cancelled be done anew."""
    job = jobs.find(run.key(image))
    if job is not None and job.state in ("failed", "cancelled"):
        jobs.forget(job.key)


def submit(image: Image, run: Run) -> jobs.Job:
    """The job of a run: the one that is there, or a new one, also where its result had to go."""
    key = run.key(image)
    return jobs.submit(
        key, f"Segmenting with {run.title}", lambda progress: _segment(image, run, key, progress)
    )


def _segment(image: Image, run: Run, key: str, progress: Progress) -> CaseResult:
    with progress.task("load the model"):
        from apps.medical.predict import predict

        folder = find_model(run.model)
        model = _model(str(folder), key_of(folder))
    (result,) = predict(
        [image.path],
        model,
        workspace(key),
        series=[image.series] if image.series else (),
        fast=run.way == FAST,
        tta=run.way == MIRRORED,
        repair=run.repair,
        identify=run.patient == NAMED,
        deidentify=run.removed,
        save_probabilities=run.probabilities,
        progress=progress,
    )
    if result.error:
        raise DataError(result.error)
    return result


@lru_cache(maxsize=3)
def _model(folder: str, content: str) -> Model:
    """The model in ``folder``. ``content`` is its key: what was trained on is loaded anew. Read-only."""
    from apps.medical.store import load_model
    from core.cli import pick_device

    del content
    return load_model(folder, pick_device("auto"))


def outcome(job: jobs.Job, run: Run) -> Outcome:
    """What came of a run whose job is done."""
    return _loaded(job.key, run, job.result)


@st.cache_resource(max_entries=6, show_spinner="Reading the result ...")
def _loaded(key: str, _run: Run, _made: CaseResult) -> Outcome:
    assert _made.folder is not None
    result = list_results(_made.folder.parent)[_made.case]
    labels = result.read().array
    file = result.file.parent / "uncertainty.nii.gz"
    uncertainty = read_image(file).array.reshape(labels.shape) if file.is_file() else None
    for array in (labels, uncertainty):
        if array is not None:
            array.flags.writeable = False
    return Outcome(
        _run, key, result, labels, uncertainty, _made.stats, list(_made.warnings), _made.seconds
    )


@st.cache_resource(max_entries=2, show_spinner="Reading the probabilities ...")
def probabilities(key: str, _folder: Path) -> np.ndarray | None:
    """The probabilities (K, *S) of a run's classes, read-only; None where they were not kept."""
    file = _folder / PROBABILITIES
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        array: np.ndarray = stored["probabilities"]
    array.flags.writeable = False
    return array
