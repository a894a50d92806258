"""Options that several verbs have."""

from __future__ import annotations

from typing import Annotated

import typer

Report = Annotated[bool, typer.Option(help="Write report.html and report.pdf.")]
Identify = Annotated[
    bool, typer.Option("--identify", help="Name the patient of a DICOM series in the report.")
]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="Leave the patient out of seg.dcm and report.dcm.")
]
