"""Segment medical images: the command line. Research use only; not a medical device.

Every verb is a thin function: it reads options, imports its implementation when it is called, and
emits the result. So ``--help`` and ``info`` cost no import of torch, MONAI or NumPy.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on its path, where our predict.py, plan.py and
    # others would shadow packages of those names. The repository root belongs there instead.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(ROOT), *(place for place in sys.path if Path(place).resolve() != here)]
    if find_spec("typer") is None:
        print(
            f"error: {sys.executable} lacks Triptych's dependencies; run `make quickstart` and use "
            ".venv/bin/python, or: pip install -e .",
            file=sys.stderr,
        )
        sys.exit(4)

import typer  # noqa: E402

from apps.medical.commands import calibrate, classify, deidentify, detect, pacs, pretrain  # noqa: E402
from apps.medical.commands.options import Deidentify, Identify, Report  # noqa: E402
from apps.medical.shipped import DISCLAIMER  # noqa: E402
from core import cli  # noqa: E402
from core.cli import Device, Force, Json, Quiet, Seed, Threads  # noqa: E402
from core.errors import DataError, UsageError, unknown  # noqa: E402

if TYPE_CHECKING:
    from apps.medical.losses import LossName

Continue = Annotated[bool, typer.Option("--continue", help="Skip cases that are already finished.")]

app = cli.make_app("medical", f"Segment medical images in 2-D and 3-D. {DISCLAIMER}")


@app.command()
def info(
    path: Annotated[
        Path | None,
        typer.Argument(help="A DICOM folder, zip or DICOMDIR, or images.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With a path: which series this model would take.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Show models, weights, input formats and verbs; with a path, the series in it."""
    if path is not None:
        from apps.medical.dicom.describe import describe, print_description

        described = describe(path, model)
        cli.emit(described, as_json=json, human=lambda: print_description(described))
        return
    if model is not None:
        raise UsageError("--model goes with a path: info PATH --model NAME")
    from apps.medical.listing import listing, print_listing

    report = listing(_verbs())
    cli.emit(report, as_json=json, human=lambda: print_listing(report))


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Images or folders of them; DICOM folders, zips, DICOMDIRs.", show_default=False
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A shipped model's name or a model folder.")
    ] = "hippocampus",
    out: Annotated[Path, typer.Option(help="Each case gets a folder in here.")] = Path("out"),
    series: Annotated[
        list[str] | None,
        typer.Option(
            help="Of DICOM: UID, number or part of the description; may be repeated.",
            show_default=False,
        ),
    ] = None,
    folds: Annotated[
        str, typer.Option(help="all, or such as 0,2: members of an ensemble.")
    ] = "all",
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored copies.")] = False,
    overlap: Annotated[
        float | None, typer.Option(help="Of neighbouring windows; 0.5, with --fast 0.25.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Windows computed at once.", min=1)] = 1,
    mem_limit: Annotated[
        str | None,
        typer.Option(
            help="Most memory for class scores, such as 500MB or 2GB.", show_default=False
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Overlap 0.25, first fold only: less exact at seams.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write probabilities.npz.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option(help="Write uncertainty.nii.gz, and confidences into stats.json.")
    ] = True,
    report: Report = True,
    identify: Identify = False,
    deidentify: Deidentify = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace NaN and infinite voxels, with a warning.")
    ] = False,
    resume: Continue = False,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Segment images: masks, volumes, uncertainty and a report per case."""
    from apps.medical import predict as implementation  # the function, see the package
    from apps.medical.predict import as_json, print_results
    from core.progress import get_progress

    results = implementation(
        list(inputs),
        model,
        out,
        series=series or (),
        folds=folds,
        tta=tta,
        overlap=overlap,
        batch=batch,
        mem_limit=_bytes(mem_limit),
        fast=fast,
        save_probabilities=save_probabilities,
        uncertainty=uncertainty,
        report=report,
        identify=identify,
        deidentify=deidentify,
        repair=repair,
        force=force,
        resume=resume,
        device=device,
        threads=threads,
        seed=seed,
        progress=get_progress(quiet or json),
    )
    summary = as_json(results)
    if quiet or json:  # otherwise the progress has said so at once
        for case in results:
            if case.error:
                print(f"error: {case.error}", file=sys.stderr)
    cli.emit(summary, as_json=json, human=lambda: print_results(results, fast))
    if summary["failed"]:
        raise typer.Exit(DataError.exit_code)


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option(help="Folder of predictions, as predict writes it.")],
    ref: Annotated[Path, typer.Option(help="Folder of reference labels, named like the cases.")],
    out: Annotated[Path, typer.Option(help="Metrics as JSON; per case as CSV beside it.")],
    nsd_tolerance: Annotated[float, typer.Option(help="Of the surface Dice, in mm.")] = 1.0,
    instances: Annotated[
        bool | None,
        typer.Option(help="Whether labels number objects; decided by the files if not given."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out references without a prediction.")
    ] = False,
    force: Force = False,
    seed: Seed = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare with references: Dice, IoU, HD95, NSD, volume error, with 95 % intervals."""
    from apps.medical.evaluate import evaluate as implementation
    from apps.medical.evaluate import print_summary
    from core.progress import get_progress

    result = implementation(
        pred,
        ref,
        out,
        nsd_tolerance=nsd_tolerance,
        instances=instances,
        allow_missing=allow_missing,
        seed=seed,
        force=force,
        progress=get_progress(quiet or json),
    )
    cli.emit(result, as_json=json, human=lambda: print_summary(result))


@app.command()
def ensemble(
    folders: Annotated[
        list[Path], typer.Argument(help="Two or more folders of predictions.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Each case gets a folder in here.")],
    method: Annotated[
        str, typer.Option(help="mean of probabilities, vote of labels, or auto.")
    ] = "auto",
    weights: Annotated[
        str | None, typer.Option(help="One number per folder, such as 2,1,1.", show_default=False)
    ] = None,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write the mean probabilities.")
    ] = False,
    report: Report = True,
    resume: Continue = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Combine predictions of several models: mean of probabilities, or majority vote."""
    from apps.medical import ensemble as implementation
    from core.progress import get_progress

    if method not in ("auto", "mean", "vote"):
        raise UsageError(unknown("method", method, ("auto", "mean", "vote")))
    result = implementation.ensemble(
        folders,
        out,
        method=method,  # type: ignore[arg-type]  # checked above
        weights=_numbers("--weights", weights),
        save_probabilities=save_probabilities,
        report=report,
        force=force,
        resume=resume,
        progress=get_progress(quiet or json),
    )

    def show() -> None:
        methods = sorted(set(result["cases"].values()))
        how = f" by {' and '.join(methods)}" if methods else ""
        print(f"{len(result['cases'])} cases combined{how} in {out}")
        for warning in result["warnings"]:
            print(f"  warning: {warning}")

    cli.emit(result, as_json=json, human=show)


@app.command()
def postprocess(
    pred: Annotated[Path, typer.Argument(help="Folder of predictions.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="New folder of predictions; with --determine the rules' JSON.")
    ],
    keep_largest: Annotated[
        bool, typer.Option("--keep-largest", help="Keep each label's largest component.")
    ] = False,
    min_size: Annotated[
        float, typer.Option(help="Drop components below this: mL, mm2 of a slice, pixels.", min=0)
    ] = 0.0,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill background that a label encloses.")
    ] = False,
    rules: Annotated[
        Path | None, typer.Option(help="A JSON that --determine wrote.", show_default=False)
    ] = None,
    determine: Annotated[
        Path | None,
        typer.Option(
            metavar="REF", help="References: choose each label's steps by cross-validated Dice."
        ),
    ] = None,
    report: Report = True,
    resume: Continue = False,
    force: Force = False,
    seed: Seed = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Clean predictions by chosen rules, or choose the rules from references."""
    from apps.medical import postprocess as implementation
    from core.progress import get_progress

    progress = get_progress(quiet or json)
    steps = implementation.Steps(
        keep_largest=keep_largest, min_size=min_size, fill_holes=fill_holes
    )
    if sum((rules is not None, determine is not None, keep_largest or fill_holes)) > 1:
        raise UsageError("choose one of --rules, --determine and the steps themselves")
    if determine is not None:
        sizes = [min_size] if min_size else []
        chosen = implementation.determine(
            pred, determine, out, min_sizes=sizes, seed=seed, force=force, progress=progress
        )
        cli.emit(
            chosen.model_dump(mode="json"),
            as_json=json,
            human=lambda: implementation.print_rules(chosen, out),
        )
        return
    if rules is None and steps.idle:
        raise UsageError("nothing to do: give --keep-largest, --min-size, --fill-holes or --rules")
    given = steps if rules is None else implementation.read_rules(rules)
    result = implementation.postprocess(
        pred, out, given, report=report, force=force, resume=resume, progress=progress
    )
    changed = sum(count > 0 for count in result["voxels_changed"].values())
    cli.emit(result, as_json=json, human=lambda: print(f"{changed} cases changed, all in {out}"))


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A shipped model's name or a model folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the network and its export.json.")],
    format: Annotated[str, typer.Option(help="torchscript, torch_export or onnx.")] = "onnx",
    fold: Annotated[
        int | None, typer.Option(help="Which member of an ensemble.", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compare the file's outputs with the model's.")
    ] = True,
    force: Force = False,
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write the network as TorchScript, torch.export or ONNX, and check that it is equal."""
    from apps.medical import export as implementation

    cli.set_threads(threads)
    report = implementation.export(
        model,
        out,
        format,  # type: ignore[arg-type]  # checked there
        check,
        fold=fold,
        force=force,
        seed=seed,
    )
    cli.emit(report, as_json=json, human=lambda: implementation.print_report(report, out))


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} '{text}': give numbers separated by commas") from None


def _bytes(text: str | None) -> int | None:
    """``500MB`` or ``1.5 GB`` as bytes."""
    import re

    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG])i?B?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"--mem-limit '{text}': give a number and a unit, such as 500MB or 2GB")
    return int(float(match[1]) * 2 ** (10 * ("KMG".index(match[2].upper()) + 1)))


DatasetPath = Annotated[Path, typer.Argument(help="Folder of the data set (see `info`, Inputs).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a plan entry, e.g. --set batch=2.")
]


@app.command()
def check(dataset: DatasetPath, json: Json = False, quiet: Quiet = False) -> None:
    """Audit a data set: pairs, grids, labels, duplicates, folds."""
    from apps.medical.data.check import check_dataset, render
    from core.progress import get_progress

    report = check_dataset(dataset, get_progress(quiet))
    cli.emit(report, as_json=json, human=lambda: render(report))
    if report["counts"]["error"]:
        raise typer.Exit(3)


@app.command()
def plan(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option(help="Where to write the plan.")] = Path("plan.yaml"),
    overrides: Overrides = None,
    json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure a data set and write an editable plan.yaml."""
    from apps.medical.data.datasets import open_dataset
    from apps.medical.data.plan import plan_dataset
    from core.files import require_absent
    from core.progress import get_progress

    require_absent(out, force)
    made = plan_dataset(open_dataset(dataset), out, overrides or (), get_progress(quiet))

    def show() -> None:
        print(out.read_text(encoding="utf-8"), end="")
        print(f"\nwritten to {out}; edit it, then: run.py train {dataset} --plan {out} --out RUN")

    cli.emit({"path": str(out), "plan": made.model_dump(mode="json")}, as_json=json, human=show)


@app.command()
def train(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option(help="Run folder; afterwards also a model for `predict`.")],
    model: Annotated[
        str | None, typer.Option(help="Network (see `info`); the plan's when not given.")
    ] = None,
    fold: Annotated[
        str, typer.Option(help="0 to 4, all, or full (every case, no validation).")
    ] = "0",
    plan: Annotated[Path | None, typer.Option(help="A plan.yaml; made when not given.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Start from a pre-training run's encoder, or a model's weights."),
    ] = None,
    init_lr: Annotated[
        float,
        typer.Option(help="What --init loaded learns at this share of --lr.", min=0.0, max=1.0),
    ] = 1.0,
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="Size of the network: small or published.")] = "small",
    option: Annotated[
        list[str] | None, typer.Option(help="Network option, e.g. --option feature_size=24.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Training time of a fold, in minutes.", min=0.0)
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Optimiser steps of a fold (2000 without --max-minutes).", min=1),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate of AdamW; the network's own by default.", min=0.0),
    ] = None,
    loss: Annotated[
        str, typer.Option(help="dice_ce, or dice_focal: for lesions small beside the background.")
    ] = "dice_ce",
    val_every: Annotated[int | None, typer.Option(help="Steps between validations.", min=1)] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many validations without progress.", min=1)
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bf16.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.", min=0)] = 0,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that stopped.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on one fold, or on all of them."""
    cli.set_threads(threads)
    from apps.medical.data.plan import read_plan
    from apps.medical.detection.detect import is_detector
    from apps.medical.train import train as run
    from apps.medical.train import training_config
    from core.progress import get_progress

    cli.seed_everything(seed)
    config = partial(
        training_config,
        max_steps=max_steps,
        max_minutes=max_minutes,
        lr=lr,
        val_every=val_every,
        patience=patience,
        precision=precision,
        workers=workers,
        seed=seed,
        threads=threads,
    )
    results = run(
        dataset,
        model,
        out,
        fold=fold,
        preset=preset,
        options=cli.parse_options(option or ()),
        plan=plan,
        plan_overrides=overrides or (),
        config=config,
        loss=cast("LossName", loss),
        initial=init,
        initial_rate=init_lr,
        resume=resume,
        force=force,
        device=cli.pick_device(device),
        progress=get_progress(quiet),
    )
    report = {"run": str(out), "folds": [r.report() for r in results]}

    def show() -> None:
        for result in results:
            print(result.text())
        # Folds are an ensemble together; the model of all cases stands alone.
        made = results[0].folder if fold == "full" else out
        verb = "detect STUDY" if is_detector(read_plan(out / "plan.yaml")) else "predict IMAGE"
        print(f"\nnext: python apps/medical/run.py {verb} --model {made} --out OUTDIR")

    cli.emit(report, as_json=json, human=show)


classify.register(app)
calibrate.register(app)
deidentify.register(app)
detect.register(app)
pacs.register(app)
pretrain.register(app)


def _verbs() -> dict[str, str]:
    """Each verb and the first sentence of its help, from the commands themselves."""
    verbs = {}
    for command in app.registered_commands:
        function = command.callback
        if function is not None:
            name = command.name or function.__name__.replace("_", "-")
            verbs[name] = (command.help or function.__doc__ or "").strip().split("\n")[0]
    return verbs


if __name__ == "__main__":
    sys.exit(cli.main(app))
