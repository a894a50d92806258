"""Taking a result away: masks, tables and reports as files."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import streamlit as st

from apps.medical.edit import write_edited
from apps.medical.tables import as_csv, volume_rows
from core.progress import Progress
from demos.segmenting.shown import Shown
from demos.shared import jobs
from demos.shared.keys import key_of
from demos.shared.workspace import workspace

# File in a case folder: what the button says, and the media type.
FILES = {
    "seg.nii.gz": ("Mask (NIfTI)", "application/gzip"),
    "seg.png": ("Mask (PNG)", "image/png"),
    "seg.dcm": ("Mask (DICOM-SEG)", "application/dicom"),
    "report.pdf": ("Report (PDF)", "application/pdf"),
    "report.html": ("Report (HTML)", "text/html"),
    "report.dcm": ("Report (DICOM)", "application/dicom"),
    "uncertainty.nii.gz": ("Uncertainty (NIfTI)", "application/gzip"),
}


def draw(now: Shown) -> None:
    """The buttons. A corrected result is written first, in the background."""
    folder = now.outcome.folder
    if not now.edits.idle:
        key = key_of("edited", now.key)
        job = jobs.submit(key, "Writing the corrected result", lambda p: _write(now, key, p))
        if not jobs.watch(job):
            return
        folder = job.result
        st.caption("Files as corrected; they say that a person took part.")
    case = now.outcome.result.case
    stem = _safe(f"{case}_{now.title}")
    columns = st.columns(3)
    present = [
        (folder / name, *about) for name, about in FILES.items() if (folder / name).is_file()
    ]
    for place, (file, label, kind) in enumerate(present):
        columns[place % 3].download_button(
            label, file.read_bytes(), f"{stem}_{file.name}", kind,
            on_click="ignore", width="stretch", key=f"{now.key}-{file.name}",
        )  # fmt: skip
    columns[len(present) % 3].download_button(
        "Volumes (CSV)", as_csv(volume_rows(now.stats)).encode(), f"{stem}_volumes.csv", "text/csv",
        on_click="ignore", width="stretch", key=f"{now.key}-csv",
    )  # fmt: skip
    columns[(len(present) + 1) % 3].download_button(
        "Everything (ZIP)", lambda: _zip(folder, now), f"{stem}.zip", "application/zip",
        on_click="ignore", width="stretch", key=f"{now.key}-zip",
    )  # fmt: skip
    if "seg.dcm" not in {file.name for file, *_ in present}:
        st.caption("DICOM files are made where the image was DICOM.")


def _write(now: Shown, key: str, progress: Progress) -> Path:
    with progress.task("write files and report"):
        return write_edited(workspace(key), now.outcome.result, now.labels, now.edits)


def _zip(folder: Path, now: Shown) -> bytes:
    """The case folder and the table of volumes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{folder.name}/{file.name}")
        archive.writestr(f"{folder.name}/volumes.csv", as_csv(volume_rows(now.stats)))
    return made.getvalue()


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")[:100]
