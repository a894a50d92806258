"""The verb that makes copies of DICOM images without what identifies the patient: deidentify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from core import cli
from core.cli import Force, Json, Quiet

LOOK = (
    "Look at the pictures before you pass them on: burned-in text and faces are not removed, and "
    "the law of your country may ask for more."
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command()
    def deidentify(
        source: Annotated[
            Path, typer.Argument(help="DICOM folder, zip, DICOMDIR or file.", show_default=False)
        ],
        out: Annotated[Path, typer.Option(help="New folder for the copies.")],
        force: Force = False,
        quiet: Quiet = False,
        json: Json = False,
    ) -> None:
        """Copy DICOM images without names, dates and identifiers (PS3.15 basic profile)."""
        from apps.medical.dicom.deidentify import deidentify_folder
        from core.progress import get_progress

        report = deidentify_folder(source, out, force=force, progress=get_progress(quiet or json))
        report["notice"] = LOOK
        cli.emit(report, as_json=json, human=lambda: _show(report))


def _show(report: dict[str, Any]) -> None:
    print(
        f"{report['written']} files of {report['patients']} patients, {report['studies']} studies "
        f"and {report['series']} series in {report['out']}"
    )
    for entry in report["skipped"]:
        print(f"  left out: {entry['file']}: {entry['reason']}")
    print(LOOK)
