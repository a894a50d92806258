"""The verb of self-supervised pre-training: pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.cli import Device, Force, Json, Quiet, Seed, Threads


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command()
    def pretrain(
        dataset: Annotated[
            Path, typer.Argument(help="A data set, labelled or not, or any folder of images.")
        ],
        out: Annotated[Path, typer.Option(help="Run folder; afterwards for `train --init`.")],
        model: Annotated[str, typer.Option(help="Network (see `info`).")] = "cswin_unet",
        task: Annotated[str, typer.Option(help="mae, gmml or multitask.")] = "mae",
        pretext: Annotated[
            list[str] | None, typer.Option(help="Setting of the task, e.g. --pretext ratio=0.75.")
        ] = None,
        fold: Annotated[
            int | None,
            typer.Option(help="Leave out this fold's validation cases; train on it later."),
        ] = None,
        plan: Annotated[Path | None, typer.Option(help="A plan.yaml; made when not given.")] = None,
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", help="Override a plan entry, e.g. --set batch=8."),
        ] = None,
        preset: Annotated[str, typer.Option(help="Size: small or published.")] = "small",
        option: Annotated[
            list[str] | None, typer.Option(help="Network option, e.g. --option feature_size=24.")
        ] = None,
        max_minutes: Annotated[
            float | None, typer.Option(help="Training time, in minutes.", min=0.0)
        ] = None,
        max_steps: Annotated[
            int | None,
            typer.Option(help="Optimiser steps (2000 without --max-minutes).", min=1),
        ] = None,
        lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.", min=0.0)] = 1e-3,
        val_every: Annotated[
            int | None, typer.Option(help="Steps between validations.", min=1)
        ] = None,
        precision: Annotated[str, typer.Option(help="auto, float32 or bf16.")] = "auto",
        workers: Annotated[int, typer.Option(help="Processes that prepare batches.", min=0)] = 0,
        seed: Seed = 0,
        device: Device = "auto",
        threads: Threads = None,
        resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
        force: Force = False,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        """Pre-train a network's encoder on images without labels."""
        from core.pretraining import pretext_config

        settings = pretext_config(task, cli.parse_options(pretext or ()))
        cli.set_threads(threads)
        from apps.medical.pretrain import pretrain as run
        from apps.medical.pretrain import pretraining_config
        from core.progress import get_progress

        cli.seed_everything(seed)
        config = pretraining_config(
            settings.task,
            max_steps=max_steps,
            max_minutes=max_minutes,
            lr=lr,
            val_every=val_every,
            precision=precision,
            workers=workers,
            seed=seed,
            threads=threads,
        )
        result = run(
            dataset,
            model,
            out,
            settings,
            fold=fold,
            preset=preset,
            options=cli.parse_options(option or ()),
            plan=plan,
            plan_overrides=overrides or (),
            config=config,
            resume=resume,
            force=force,
            device=cli.pick_device(device),
            progress=get_progress(quiet),
        )

        def show() -> None:
            print(result.text())
            chosen = "" if fold is None else f" --fold {fold}"
            print(
                f"\nnext: python apps/medical/run.py train {dataset} --model {model}{chosen} "
                f"--init {out} --out RUNDIR"
            )

        cli.emit(result.report(), as_json=json, human=show)
