"""The verbs of lesion detection: detect, prepare-lesions, evaluate-lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.cli import Device, Force, Json, Quiet, Seed, Threads


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""

    @app.command()
    def detect(
        study: Annotated[
            Path,
            typer.Argument(
                help="A DICOM folder, zip or DICOMDIR, or a folder with CASE_t2w, _adc and _hbv.",
                show_default=False,
            ),
        ],
        model: Annotated[str, typer.Option(help="A model folder trained on T2W, ADC and HBV.")],
        out: Annotated[Path, typer.Option(help="The case gets a folder in here.")] = Path("out"),
        t2w: Annotated[
            str | None, typer.Option(help="Which T2W: a file, or a series' UID or description.")
        ] = None,
        adc: Annotated[str | None, typer.Option(help="Which ADC map, likewise.")] = None,
        hbv: Annotated[str | None, typer.Option(help="Which high b-value image.")] = None,
        threshold: Annotated[
            str, typer.Option(help="dynamic, dynamic-fast, or a probability such as 0.3.")
        ] = "dynamic",
        min_voxels: Annotated[
            int, typer.Option(help="A candidate has more T2W voxels than this.", min=0)
        ] = 10,
        most: Annotated[int, typer.Option(help="Most candidates of a case.", min=1)] = 5,
        folds: Annotated[
            str, typer.Option(help="all, or such as 0,2: members of an ensemble.")
        ] = "all",
        tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored copies.")] = False,
        force: Force = False,
        device: Device = "auto",
        threads: Threads = None,
        seed: Seed = 0,
        quiet: Quiet = False,
        json: Json = False,
    ) -> None:
        """Find lesion candidates in bi-parametric prostate MRI: T2W, ADC and high b-value."""
        from apps.medical.detection.candidates import CandidateRule
        from apps.medical.detection.detect import detect as implementation
        from apps.medical.detection.detect import print_result
        from core.progress import get_progress

        result = implementation(
            study,
            model,
            out,
            series={"t2w": t2w, "adc": adc, "hbv": hbv},
            rule=CandidateRule.parse(threshold, min_voxels=min_voxels, most=most),
            folds=folds,
            tta=tta,
            force=force,
            device=device,
            threads=threads,
            seed=seed,
            progress=get_progress(quiet or json),
        )
        cli.emit(result.report(), as_json=json, human=lambda: print_result(result))
