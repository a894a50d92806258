"""The verb ``calibrate``: measure on held-out cases how far a model's probabilities can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.cli import Device, Force, Json, Quiet, Seed, Threads


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""

    @app.command()
    def calibrate(
        model: Annotated[
            str, typer.Argument(help="A shipped model or a model folder.", show_default=False)
        ],
        dataset: Annotated[
            Path, typer.Argument(help="The data set it was trained on.", show_default=False)
        ],
        fold: Annotated[
            int | None,
            typer.Option(help="Fold whose cases were held out; the model's own.", min=0),
        ] = None,
        external: Annotated[
            bool,
            typer.Option(
                "--external", help="The model has seen no case of this data set: use all."
            ),
        ] = False,
        alpha: Annotated[
            float, typer.Option(help="Share that extents may miss and ranges may not hold.")
        ] = 0.1,
        tta: Annotated[bool, typer.Option("--tta", help="As predict --tta will be used.")] = False,
        overlap: Annotated[float, typer.Option(help="Of neighbouring windows.")] = 0.5,
        batch: Annotated[int, typer.Option(help="Windows computed at once.", min=1)] = 1,
        device: Device = "auto",
        threads: Threads = None,
        seed: Seed = 0,
        force: Force = False,
        quiet: Quiet = False,
        json: Json = False,
    ) -> None:
        """Fit temperature, extents and volume ranges on held-out cases, into model.json."""
        from apps.medical.calibrate import calibrate as implementation
        from apps.medical.calibrate import print_calibration
        from core.progress import get_progress

        found = implementation(
            model,
            dataset,
            fold=fold,
            external=external,
            alpha=alpha,
            tta=tta,
            overlap=overlap,
            batch=batch,
            device=device,
            threads=threads,
            seed=seed,
            force=force,
            progress=get_progress(quiet or json),
        )

        def show() -> None:
            for folder, calibration in found.items():
                print_calibration(folder, calibration)

        report = {folder: one.model_dump(mode="json") for folder, one in found.items()}
        cli.emit({"calibrations": report}, as_json=json, human=show)
