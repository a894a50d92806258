"""Forecast multivariate time series: the command line.

Every verb is a thin function: it reads options, imports its implementation when it is called, and
emits the result. So ``--help`` and ``models`` cost no import of torch, pandas or NumPy.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_type_hints

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on its path, where our fit.py, report.py and
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

from core import cli  # noqa: E402
from core.cli import Device, Force, Json, Quiet, Seed, Threads  # noqa: E402
from core.progress import Progress, get_progress  # noqa: E402

app = cli.make_app(
    "timeseries", "Forecast multivariate time series, with intervals whose coverage was measured."
)

File = Annotated[
    Path, typer.Argument(help="CSV (.gz), Parquet or Excel, long or wide.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="The output folder.", show_default=False)]
Horizon = Annotated[int, typer.Option(help="Stamps to forecast.", show_default=False)]
OptionalHorizon = Annotated[
    int | None, typer.Option(help="Stamps to forecast.", show_default="the model's")
]
Lookback = Annotated[int, typer.Option(help="Stamps of history a forecast looks at.", min=1)]
Levels = Annotated[
    list[float],
    typer.Option("--level", help="Per cent that an interval shall cover; repeat for several."),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="A model, baseline, model folder or shipped name; repeat.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Option of the network or recipe, such as dim=128 or rate=1e-3."),
]
MaxSteps = Annotated[int | None, typer.Option(help="Training steps at most.", min=1)]
MaxMinutes = Annotated[float | None, typer.Option(help="Training time at most.", min=0.01)]
Ray = Annotated[
    str | None,
    typer.Option(help="Spread series over Ray: auto, local or an address.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")]

READING: dict[str, tuple[Any, Any]] = {
    "layout": (Annotated[str, typer.Option(help="auto, wide or long.")], "auto"),
    "time": (Annotated[str | None, typer.Option(help="The column of stamps.")], None),
    "id": (Annotated[str | None, typer.Option(help="The column naming the series (long).")], None),
    "target": (Annotated[list[str] | None, typer.Option(help="Column to forecast; repeat.")], None),
    "past": (
        Annotated[list[str] | None, typer.Option(help="Covariate known up to now; repeat.")],
        None,
    ),
    "known": (
        Annotated[list[str] | None, typer.Option(help="Covariate known ahead; repeat.")],
        None,
    ),
    "static": (
        Annotated[list[str] | None, typer.Option(help="Column that describes a series; repeat.")],
        None,
    ),
    "freq": (Annotated[str | None, typer.Option(help="Such as h, 15min, D, MS.")], None),
    "tz": (Annotated[str | None, typer.Option(help="Time zone of stamps without one.")], None),
    "decimal": (Annotated[str | None, typer.Option(help="Decimal mark of a CSV: . or ,")], None),
    "day_first": (
        Annotated[bool | None, typer.Option("--day-first/--month-first", help="Of 03/04/2024.")],
        None,
    ),
    "encoding": (Annotated[str | None, typer.Option(help="Of a CSV, such as latin-1.")], None),
    "sheet": (Annotated[str | None, typer.Option(help="Of an Excel file.")], None),
    "fill": (
        Annotated[str, typer.Option(help="Gaps: none, ffill, interpolate or seasonal.")],
        "none",
    ),
    "agg": (
        Annotated[str | None, typer.Option(help="Duplicates: mean, sum, first or last.")],
        None,
    ),
    "sentinel": (
        Annotated[list[float] | None, typer.Option(help="Number that means missing; repeat.")],
        None,
    ),
    "multivariate": (
        Annotated[bool, typer.Option("--multivariate", help="A long file's series as variates.")],
        False,
    ),
}
_PLURAL = {"target": "targets", "sentinel": "sentinels"}


def reads(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of reading a file; it gets them as the dictionary ``reading``."""
    hints = get_type_hints(verb, include_extras=True)
    own = {
        name: p.replace(annotation=hints[name])
        for name, p in inspect.signature(verb).parameters.items()
        if name != "reading"
    }
    extra = {
        name: inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
        )
        for name, (kind, default) in READING.items()
    }

    @functools.wraps(verb)
    def wrapped(**options: Any) -> None:
        reading = {_PLURAL.get(name, name): options.pop(name) for name in READING}
        for name in ("past", "known", "static", "sentinels"):
            reading[name] = tuple(reading[name] or ())
        verb(**options, reading=reading)

    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own.values(), *extra.values())
    ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    del wrapped.__wrapped__
    return wrapped


def _progress(quiet: bool, json: bool) -> Progress:
    return get_progress(quiet or json)


def _name(verb: Any) -> str:
    return verb.__name__


@app.command()
def models(json: Json = False) -> None:
    """Show models, baselines, shipped weights, protocols and verbs."""
    from apps.timeseries.listing import listing, print_listing

    report = listing(
        [command.name or _name(command.callback) for command in app.registered_commands]
    )
    cli.emit(report, as_json=json, human=lambda: print_listing(report))


@app.command()
@reads
def check(file: File, json: Json = False, *, reading: dict[str, Any]) -> None:
    """Profile a file: layout, frequency, gaps, duplicates, sentinels, constants. Exit code 3 on problems."""
    from apps.timeseries.data.check import check_file, print_report
    from core.errors import DataError

    report = check_file(file, **reading)
    cli.emit(report, as_json=json, human=lambda: print_report(report))
    if not report["ok"]:
        raise typer.Exit(DataError.exit_code)


@app.command()
@reads
def fit(
    file: File,
    out: Out,
    horizon: Horizon,
    model: Annotated[str, typer.Option(help="A model's name; see models.")] = "itransformer",
    lookback: Lookback = 96,
    setting: Settings = None,
    quantile: Annotated[
        list[float] | None, typer.Option(help="Learn quantiles, such as 0.1 0.5 0.9; repeat.")
    ] = None,
    max_steps: MaxSteps = None,
    max_minutes: MaxMinutes = None,
    protocol: Annotated[
        str | None, typer.Option(help="Borders of a benchmark instead of 80, 10 and 10 %.")
    ] = None,
    resume: Resume = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Train a model on a file and measure it on the rows that came last."""
    cli.set_threads(threads)
    from apps.timeseries.fit import fit as implementation
    from apps.timeseries.listing import print_fit

    done = implementation(
        file,
        model,
        horizon=horizon,
        out=out,
        lookback=lookback,
        options=cli.parse_options(setting or ()),
        quantiles=quantile or (),
        max_steps=max_steps,
        max_minutes=max_minutes,
        protocol=protocol,
        seed=seed,
        resume=resume,
        force=force,
        device=cli.pick_device(device),
        progress=_progress(quiet, json),
        **reading,
    )
    report = done.report()
    cli.emit(report, as_json=json, human=lambda: print_fit(report))


@app.command()
@reads
def forecast(
    file: File,
    out: Out,
    model: Annotated[
        str, typer.Option(help="A model folder, shipped name or baseline.", show_default=False)
    ],
    horizon: OptionalHorizon = None,
    level: Levels = [80.0, 90.0],  # noqa: B006 (typer copies it)
    joint: Annotated[
        bool, typer.Option("--joint", help="Bands that hold the whole path, not each step.")
    ] = False,
    series: Annotated[
        list[str] | None, typer.Option(help="Forecast this series alone; repeat.")
    ] = None,
    season: Annotated[
        int | None, typer.Option(help="Rows of a season, for baselines.", min=1)
    ] = None,
    calibration: Annotated[
        int, typer.Option(help="Past origins that make the intervals, at most.", min=0)
    ] = 200,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Forecast what follows a file: forecast.csv, .json, .png and .html."""
    cli.set_threads(threads)
    from apps.timeseries.forecast import forecast as implementation
    from apps.timeseries.forecast import print_report

    done = implementation(
        file,
        model,
        horizon=horizon,
        levels=level,
        joint=joint,
        out=out,
        series=series,
        season=season,
        calibration=calibration,
        force=force,
        device=str(cli.pick_device(device)),
        progress=_progress(quiet, json),
        **reading,
    )
    cli.emit(done.report, as_json=json, human=lambda: print_report(done))


Windows = Annotated[int, typer.Option(help="Past horizons to forecast.", min=1)]
Step = Annotated[
    int | None, typer.Option(help="Rows between them.", min=1, show_default="the horizon")
]


@app.command()
@reads
def backtest(
    file: File,
    out: Out,
    model: Models,
    horizon: Horizon,
    windows: Windows = 5,
    step: Step = None,
    refit: Annotated[
        str, typer.Option(help="never, always, or n: train anew every n-th window.")
    ] = "never",
    level: Levels = [80.0, 90.0],  # noqa: B006 (typer copies it)
    season: Annotated[int | None, typer.Option(help="Rows of a season.", min=1)] = None,
    lookback: Lookback = 96,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Run this baseline, not all of them; repeat.")
    ] = None,
    loss: Annotated[str, typer.Option(help="mae or mse: what decides the verdict.")] = "mae",
    setting: Settings = None,
    max_steps: MaxSteps = None,
    max_minutes: MaxMinutes = None,
    ray: Ray = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Forecast past horizons from rolling origins, beside every baseline, with a verdict."""
    cli.set_threads(threads)
    from apps.timeseries.backtest import backtest as implementation
    from apps.timeseries.backtest import print_report

    done = implementation(
        file,
        model,
        horizon=horizon,
        windows=windows,
        step=step,
        refit=refit,
        levels=level,
        season=season,
        lookback=lookback,
        baselines=baseline,
        loss=loss,
        options=cli.parse_options(setting or ()),
        training={"max_steps": max_steps, "max_minutes": max_minutes},
        out=out,
        force=force,
        seed=seed,
        device=cli.pick_device(device),
        progress=_progress(quiet, json),
        **reading,
    )
    cli.emit(done.report, as_json=json, human=lambda: print_report(done))


@app.command()
def evaluate(
    file: File,
    model: Annotated[str, typer.Option(help="A model or baseline.", show_default=False)],
    protocol: Annotated[str, typer.Option(help="ett-hour, ett-minute or 7-1-2.")] = "7-1-2",
    lookback: Lookback = 96,
    horizon: Annotated[int, typer.Option(help="Stamps to forecast.")] = 96,
    setting: Settings = None,
    max_steps: MaxSteps = None,
    max_minutes: MaxMinutes = None,
    naive: Annotated[
        bool, typer.Option("--naive/--no-naive", help="Naive forecasts beside it.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Keep the training run here.", show_default=False)
    ] = None,
    resume: Resume = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a benchmark protocol: published settings, every test window, scaled space."""
    cli.set_threads(threads)
    from apps.timeseries.evaluate import evaluate as implementation
    from apps.timeseries.listing import print_evaluation

    report = implementation(
        file,
        protocol,
        model,
        lookback=lookback,
        horizon=horizon,
        seed=seed,
        options=cli.parse_options(setting or ()),
        max_steps=max_steps,
        max_minutes=max_minutes,
        naive=naive,
        out=out,
        resume=resume,
        force=force,
        device=cli.pick_device(device),
        progress=_progress(quiet, json),
    )
    cli.emit(report, as_json=json, human=lambda: print_evaluation(report))


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A model folder or shipped name.", show_default=False)
    ],
    out: Out,
    format: Annotated[str, typer.Option(help="onnx or pt2 (torch.export).")] = "onnx",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare with the network on random windows.")
    ] = True,
    force: Force = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a forecaster as ONNX or torch.export, checked against the network."""
    from apps.timeseries.export import export as implementation
    from apps.timeseries.export import print_report

    report = implementation(model, out, format, check, force=force, seed=seed)  # type: ignore[arg-type]
    cli.emit(report, as_json=json, human=lambda: print_report(report, out))


if __name__ == "__main__":
    sys.exit(cli.main(app))
