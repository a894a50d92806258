"""``classify``: train a classifier of images or bags of patches, and use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from core import cli
from core.cli import Device, Force, Json, Quiet, Seed, Threads
from core.errors import DataError, UsageError, unknown

ACTIONS = ("train", "predict", "bags")


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def classify(
        action: Annotated[str, typer.Argument(help="train, predict or bags.", show_default=False)],
        inputs: Annotated[
            list[Path],
            typer.Argument(
                help="A data set (labels.csv, or a folder for each class); or what to classify.",
                show_default=False,
            ),
        ],
        out: Annotated[Path, typer.Option(help="Run folder, or folder of predictions.")],
        model: Annotated[
            Path | None, typer.Option(help="predict, bags: folder of a trained classifier.")
        ] = None,
        network: Annotated[
            str,
            typer.Option(
                help="train: convnext_xs, swin_xs, cswin_xs, deit_xs, deit_t, any backbone of core's; "
                "r2t_mil or ab_mil for bags of features."
            ),
        ] = "convnext_xs",
        fold: Annotated[
            str, typer.Option(help="train: 0 to 4, all, or full (every case, no validation).")
        ] = "0",
        teacher: Annotated[
            Path | None,
            typer.Option(help="train: a run whose classifier teaches this one (DeiT)."),
        ] = None,
        distillation: Annotated[
            str, typer.Option(help="train: hard or soft, how the teacher is followed.")
        ] = "hard",
        size: Annotated[
            int | None,
            typer.Option(help="train: images are resized to this (128; volumes 48).", min=8),
        ] = None,
        batch: Annotated[int, typer.Option(help="train: images in a step.", min=1)] = 16,
        balanced: Annotated[
            bool, typer.Option(help="train: draw every class as often as the others.")
        ] = True,
        mirror: Annotated[
            bool, typer.Option(help="train: mirror images; not where left and right matter.")
        ] = True,
        tile: Annotated[
            int, typer.Option(help="bags: side of the tiles that pictures are cut into.", min=8)
        ] = 128,
        option: Annotated[
            list[str] | None, typer.Option(help="train: network option, e.g. --option depth=4.")
        ] = None,
        max_minutes: Annotated[
            float | None, typer.Option(help="train: time of a fold, in minutes.", min=0.0)
        ] = None,
        max_steps: Annotated[
            int | None, typer.Option(help="train: steps of a fold (1000).", min=1)
        ] = None,
        lr: Annotated[
            float | None, typer.Option(help="train: peak learning rate (1e-3; bags 2e-4).", min=0.0)
        ] = None,
        val_every: Annotated[
            int | None,
            typer.Option(help="train: validate so often and keep the best weights.", min=1),
        ] = None,
        precision: Annotated[str, typer.Option(help="train: auto, float32 or bf16.")] = "auto",
        workers: Annotated[
            int, typer.Option(help="train: processes that prepare batches.", min=0)
        ] = 0,
        resume: Annotated[
            bool, typer.Option("--resume", help="train: continue a run that stopped.")
        ] = False,
        seed: Seed = 0,
        device: Device = "auto",
        threads: Threads = None,
        force: Force = False,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        """Classify images, volumes or bags of patches; train a classifier, with a teacher if given."""
        if action not in ACTIONS:
            raise UsageError(unknown("action of classify", action, ACTIONS))
        cli.set_threads(threads)
        from core.progress import get_progress

        progress = get_progress(quiet or json)
        if action != "train":
            if model is None:
                raise UsageError(f"classify {action}: give --model, the folder that train wrote")
            where = cli.pick_device(device)
            if action == "bags":
                _bags(inputs, model, out, tile, where, force, json, progress)
            else:
                _predict(inputs, model, out, seed, where, force, json, progress)
            return
        if model is not None or len(inputs) != 1:
            raise UsageError("classify train: give one data set, --out and --network, no --model")
        from apps.medical.classification.catalog import BAGS
        from apps.medical.classification.learning import ClassAugmentation
        from apps.medical.classification.train import (
            ClassSettings,
            class_config,
            train_classifier,
        )
        from core.config import validate

        cli.seed_everything(seed)
        config = class_config(
            bags=network in BAGS,
            max_steps=max_steps,
            max_minutes=max_minutes,
            lr=lr,
            val_every=val_every,
            precision=precision,
            workers=workers,
            seed=seed,
            threads=threads,
        )
        values: dict[str, Any] = {
            "size": size,
            "batch": batch,
            "balanced": balanced,
            "augmentation": ClassAugmentation() if mirror else ClassAugmentation(flip=0.0),
            "distillation": {"kind": distillation},
        }
        results = train_classifier(
            inputs[0],
            network,
            out,
            fold=fold,
            options=cli.parse_options(option or ()),
            settings=validate(ClassSettings, values, "classify"),
            config=config,
            teacher=teacher,
            resume=resume,
            force=force,
            device=cli.pick_device(device),
            progress=progress,
        )

        def show() -> None:
            for result in results:
                print(result.text())
            made = results[0].folder if fold == "full" else out
            print(
                f"\nnext: python apps/medical/run.py classify predict IMAGES --model {made} --out D"
            )

        cli.emit(
            {"run": str(out), "folds": [r.report() for r in results]}, as_json=json, human=show
        )


def _bags(
    inputs: list[Path],
    model: Path,
    out: Path,
    tile: int,
    device: Any,
    force: bool,
    json: bool,
    progress: Any,
) -> None:
    from apps.medical.classification.bags import make_bags

    report = make_bags(inputs, model, out, tile=tile, device=device, force=force, progress=progress)

    def show() -> None:
        for name, count in report["bags"].items():
            print(f"{name}: {count} tiles")
        if report["labelled"]:
            print(f"\nnext: run.py classify train {out} --network r2t_mil --out RUN")

    cli.emit(report, as_json=json, human=show)


def _predict(
    inputs: list[Path],
    model: Path,
    out: Path,
    seed: int,
    device: Any,
    force: bool,
    json: bool,
    progress: Any,
) -> None:
    from apps.medical.classification.predict import classify
    from apps.medical.classification.scores import described
    from apps.medical.shipped import DISCLAIMER

    report = classify(inputs, model, out, device=device, seed=seed, force=force, progress=progress)

    def show() -> None:
        for name, case in report["cases"].items():
            print(f"{name}: {case['class']} ({case['probabilities'][case['class']]:.3f})")
        for name in report["failed"]:
            print(f"{name}: failed")
        for warning in report["warnings"]:
            print(f"warning: {warning}")
        print("\n".join(described(report["scores"] or {})), end="\n" if report["scores"] else "")
        print(f"written to {out}. {DISCLAIMER}")

    cli.emit(report, as_json=json, human=show)
    if report["failed"]:
        raise typer.Exit(DataError.exit_code)
