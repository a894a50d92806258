"""The verbs of lesion detection: detect, prepare, score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.medical.commands.options import Deidentify, Identify, Report
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
        report: Report = True,
        identify: Identify = False,
        deidentify: Deidentify = False,
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
            report=report,
            identify=identify,
            deidentify=deidentify,
            force=force,
            device=device,
            threads=threads,
            seed=seed,
            progress=get_progress(quiet or json),
        )
        cli.emit(result.report(), as_json=json, human=lambda: print_result(result))

    @app.command()
    def prepare(
        images: Annotated[
            Path,
            typer.Argument(help="PATIENT/PATIENT_STUDY_t2w.mha, _adc, _hbv.", show_default=False),
        ],
        labels: Annotated[Path, typer.Argument(help="A copy of picai_labels.", show_default=False)],
        out: Annotated[Path, typer.Option(help="Folder of the data set, with its plan.yaml.")],
        spacing: Annotated[str, typer.Option(help="Voxels in mm: x,y,z.")] = "0.5,0.5,3",
        shape: Annotated[str, typer.Option(help="Voxels of the grid.")] = "256,256,20",
        patch: Annotated[
            str | None, typer.Option(help="What a network sees at once; the whole grid.")
        ] = None,
        splits: Annotated[
            Path | None, typer.Option(help="Folds by patient: an nnU-Net splits.json.")
        ] = None,
        ai: Annotated[
            bool, typer.Option("--ai", help="Automatic labels where there are no expert's.")
        ] = False,
        resume: Annotated[
            bool, typer.Option("--resume", help="Go on with the cases that are missing.")
        ] = False,
        force: Force = False,
        quiet: Quiet = False,
        json: Json = False,
    ) -> None:
        """Put PI-CAI's cases on one grid: a data set for train, with a plan for detection."""
        from apps.medical.detection.picai import prepare_dataset
        from core.progress import get_progress

        report = prepare_dataset(
            images,
            labels,
            out,
            spacing=_numbers("--spacing", spacing),
            shape=[int(n) for n in _numbers("--shape", shape)],
            patch=[int(n) for n in _numbers("--patch", patch)] if patch else None,
            splits=splits,
            ai=ai,
            resume=resume,
            force=force,
            progress=get_progress(quiet or json),
        )

        def show() -> None:
            print(
                f"{report['cases']} cases of {report['patients']} patients, "
                f"{report['positive']} with a lesion, in {out}; {report['left_out']} left out"
            )
            for note in report["notes"]:
                print(f"  {note}")
            print(f"\nnext: run.py train {out} --plan {out / 'plan.yaml'} --fold 0 --out RUN")

        cli.emit(report, as_json=json, human=show)

    @app.command()
    def score(
        pred: Annotated[Path, typer.Option(help="Folder of detection maps, as detect writes it.")],
        ref: Annotated[Path, typer.Option(help="Folder of lesion labels, named like the cases.")],
        out: Annotated[Path, typer.Option(help="Figures as JSON.")],
        min_overlap: Annotated[
            float, typer.Option(help="Least IoU of a hit.", min=0.0, max=1.0)
        ] = 0.1,
        allow_missing: Annotated[
            bool, typer.Option("--allow-missing", help="Leave out references without a map.")
        ] = False,
        force: Force = False,
        seed: Seed = 0,
        json: Json = False,
    ) -> None:
        """Score detection maps: AP, AUROC and FROC by picai_eval, with 95 % intervals."""
        from apps.medical.detection.metrics import print_figures, score_folders
        from core.files import require_absent, write_json

        require_absent(out, force)
        figures = score_folders(
            pred, ref, min_overlap=min_overlap, allow_missing=allow_missing, seed=seed
        )
        write_json(out, figures, force)
        cli.emit(figures, as_json=json, human=lambda: print_figures(figures))


def _numbers(option: str, text: str) -> list[float]:
    from core.errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} '{text}': give three numbers separated by commas") from None
