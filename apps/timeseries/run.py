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
    Path,
    typer.Argument(
        help="CSV (.gz), Parquet or Excel, long or wide.",
        show_default=False,
        readable=False,  # reading says so itself, with the exit code for permissions
    ),
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
    typer.Option(help="Spread series over Ray: local, auto or an address.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")]

RUNNING: dict[str, tuple[Any, Any]] = {
    "force": (Force, False),
    "device": (Device, "auto"),
    "threads": (Threads, None),
    "quiet": (Quiet, False),
    "json": (Json, False),
}

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
    "max_gap": (
        Annotated[int | None, typer.Option(help="Fill no longer gap than this.", min=1)],
        None,
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


def shares(**tables: dict[str, tuple[Any, Any]]) -> Callable[..., Any]:
    """Give a verb the options of ``tables``; it gets each table's as a dictionary of that name."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(verb, include_extras=True)
        own = [
            p.replace(annotation=hints[name])
            for name, p in inspect.signature(verb).parameters.items()
            if name not in tables
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        extra = [
            inspect.Parameter(name, keyword, default=default, annotation=kind)
            for table in tables.values()
            for name, (kind, default) in table.items()
        ]

        @functools.wraps(verb)
        def wrapped(**options: Any) -> None:
            shared = {
                title: {name: options.pop(name) for name in table}
                for title, table in tables.items()
            }
            verb(**options, **shared)

        parameters = [p.replace(kind=keyword) for p in (*own, *extra)]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        del wrapped.__wrapped__
        return wrapped

    return decorate


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``read_panel``."""
    plural = {"target": "targets", "sentinel": "sentinels"}
    reading = {plural.get(name, name): value for name, value in options.items()}
    for name in ("past", "known", "static", "sentinels"):
        reading[name] = tuple(reading[name] or ())
    return reading


def _running(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments by which an implementation runs."""
    return {
        "force": options["force"],
        "device": str(cli.pick_device(options["device"])),
        "progress": _progress(options["quiet"], options["json"]),
    }


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
@shares(reading=READING)
def check(file: File, json: Json = False, *, reading: dict[str, Any]) -> None:
    """Profile a file: layout, frequency, gaps, duplicates, sentinels, constants. Exit code 3 on problems."""
    from apps.timeseries.data.check import check_file, print_report
    from core.errors import DataError

    report = check_file(file, **_reading(reading))
    cli.emit(report, as_json=json, human=lambda: print_report(report))
    if not report["ok"]:
        raise typer.Exit(DataError.exit_code)


@app.command()
@shares(running=RUNNING, reading=READING)
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
    seed: Seed = 0,
    *,
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Train a model on a file and measure it on the rows that came last."""
    cli.set_threads(running["threads"])
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
        **_running(running),
        **_reading(reading),
    )
    report = done.report()
    cli.emit(report, as_json=running["json"], human=lambda: print_fit(report))


@app.command()
@shares(running=RUNNING, reading=READING)
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
    ray: Ray = None,
    *,
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Forecast what follows a file: forecast.csv, .json, .png and .html."""
    cli.set_threads(running["threads"])
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
        ray=ray,
        **_running(running),
        **_reading(reading),
    )
    cli.emit(done.report, as_json=running["json"], human=lambda: print_report(done))


ROLLING: dict[str, tuple[Any, Any]] = {
    "windows": (Annotated[int, typer.Option(help="Past horizons to forecast.", min=1)], 5),
    "step": (
        Annotated[
            int | None, typer.Option(help="Rows between them.", min=1, show_default="the horizon")
        ],
        None,
    ),
    "refit": (
        Annotated[str, typer.Option(help="never, always, or n: train anew every n-th window.")],
        "never",
    ),
    "level": (Levels, [80.0, 90.0]),
    "season": (Annotated[int | None, typer.Option(help="Rows of a season.", min=1)], None),
    "lookback": (Lookback, 96),
    "calibration": (
        Annotated[
            int | None,
            typer.Option(help="Origins before each window that make intervals, at most.", min=0),
        ],
        None,
    ),
    "align": (
        Annotated[
            str | None,
            typer.Option(help="Windows at the same time, or from each series' end: time or end."),
        ],
        None,
    ),
    "loss": (Annotated[str, typer.Option(help="mae or mse: what decides the verdict.")], "mae"),
    "ray": (Ray, None),
    "setting": (Settings, None),
    "max_steps": (MaxSteps, None),
    "max_minutes": (MaxMinutes, None),
}


def _rolling(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``backtest`` and ``compare``."""
    names = (
        "windows", "step", "refit", "season", "lookback", "loss", "calibration", "align", "ray",
    )  # fmt: skip
    return {name: options[name] for name in names} | {
        "levels": options["level"],
        "options": cli.parse_options(options["setting"] or ()),
        "training": {name: options[name] for name in ("max_steps", "max_minutes")},
    }


@app.command()
@shares(running=RUNNING, rolling=ROLLING, reading=READING)
def backtest(
    file: File,
    out: Out,
    model: Models,
    horizon: Horizon,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Run this baseline, not all of them; repeat.")
    ] = None,
    seed: Seed = 0,
    *,
    rolling: dict[str, Any],
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Forecast past horizons from rolling origins, beside every baseline, with a verdict."""
    cli.set_threads(running["threads"])
    from apps.timeseries.backtest import backtest as implementation
    from apps.timeseries.backtest import print_report

    done = implementation(
        file,
        model,
        horizon=horizon,
        baselines=baseline,
        out=out,
        seed=seed,
        **_running(running),
        **_rolling(rolling),
        **_reading(reading),
    )
    cli.emit(done.report, as_json=running["json"], human=lambda: print_report(done))


@app.command()
@shares(running=RUNNING, rolling=ROLLING, reading=READING)
def compare(
    file: File,
    out: Out,
    model: Models,
    horizon: Horizon,
    seed: Seed = 0,
    *,
    rolling: dict[str, Any],
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Backtest models on the same windows and test every pair, corrected for their number."""
    cli.set_threads(running["threads"])
    from apps.timeseries.compare import compare as implementation
    from apps.timeseries.compare import print_report

    done = implementation(
        file,
        model,
        horizon=horizon,
        out=out,
        seed=seed,
        **_running(running),
        **_rolling(rolling),
        **_reading(reading),
    )
    cli.emit(done.report, as_json=running["json"], human=lambda: print_report(done))


@app.command()
@shares(running=RUNNING, reading=READING)
def detect(
    file: File,
    out: Out,
    model: Annotated[
        str, typer.Option(help="A model folder, shipped name or baseline.")
    ] = "seasonal-naive",
    rate: Annotated[
        float, typer.Option(help="Share of clean values that may raise an alarm.")
    ] = 0.01,
    ahead: Annotated[int, typer.Option(help="Rows ahead of the forecast that is compared.")] = 1,
    calibration: Annotated[
        float, typer.Option(help="Share of the rows that sets the threshold.")
    ] = 0.5,
    since: Annotated[
        str | None, typer.Option(help="Monitor from this stamp on, calibrate before it.")
    ] = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="Forecast on from what was expected after an alarm.")
    ] = False,
    rolling: Annotated[
        bool, typer.Option("--rolling/--no-rolling", help="Renew the threshold as errors change.")
    ] = True,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Write every monitored row, not the alarms alone.")
    ] = False,
    season: Annotated[int | None, typer.Option(help="Rows of a season.", min=1)] = None,
    seed: Seed = 0,
    *,
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Find anomalies by what was forecast, at a calibrated alarm rate: alarms.csv."""
    cli.set_threads(running["threads"])
    from apps.timeseries.anomaly import detect as implementation
    from apps.timeseries.anomaly import print_report

    done = implementation(
        file,
        model,
        rate=rate,
        ahead=ahead,
        calibration=calibration,
        since=since,
        mend=mend,
        rolling=rolling,
        keep_all=keep_all,
        season=season,
        out=out,
        seed=seed,
        **_running(running),
        **_reading(reading),
    )
    cli.emit(done.report, as_json=running["json"], human=lambda: print_report(done))


@app.command()
@shares(running=RUNNING, reading=READING)
def report(
    source: Annotated[
        str,
        typer.Argument(
            help="A model folder or shipped name, or a folder of forecast, backtest or compare.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The output folder.", show_default="SOURCE/report")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Measure a model by horizon on this file.", readable=False)
    ] = None,
    *,
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Write a page about a model, a forecast or a backtest: report.html and report.md."""
    cli.set_threads(running["threads"])
    from apps.timeseries.report import print_report
    from apps.timeseries.report import report as implementation

    written = implementation(
        source,
        out,
        data=data,
        **_running(running),
        **_reading(reading),
    )
    cli.emit(written, as_json=running["json"], human=lambda: print_report(written))


@app.command()
@shares(running=RUNNING)
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
    seed: Seed = 0,
    *,
    running: dict[str, Any],
) -> None:
    """Run a benchmark protocol: published settings, every test window, scaled space."""
    cli.set_threads(running["threads"])
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
        **_running(running),
    )
    cli.emit(report, as_json=running["json"], human=lambda: print_evaluation(report))


@app.command()
@shares(running=RUNNING, reading=READING)
def tune(
    file: File,
    out: Out,
    horizon: Horizon,
    model: Annotated[str, typer.Option(help="A model's name; see models.")] = "itransformer",
    lookback: Annotated[
        list[int], typer.Option(help="Stamps of history; several are searched. Repeat.")
    ] = [96],  # noqa: B006 (typer copies it)
    trials: Annotated[int, typer.Option(help="Settings to try.", min=1)] = 20,
    search: Annotated[
        list[str] | None,
        typer.Option(help="name=low:high, name=low:high:log or name=a,b,c; repeat."),
    ] = None,
    setting: Settings = None,
    objective: Annotated[str, typer.Option(help="mae or mse, on validation rows.")] = "mae",
    protocol: Annotated[
        str | None, typer.Option(help="Borders of a benchmark instead of 80, 10 and 10 %.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Training steps of a trial at most.", min=1)
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Time of all trials together.", min=0.01)
    ] = None,
    resume: Resume = False,
    seed: Seed = 0,
    *,
    reading: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Search settings with Optuna on validation rows: best.yaml and a fit command."""
    cli.set_threads(running["threads"])
    from apps.timeseries.tune import print_report
    from apps.timeseries.tune import tune as implementation

    done = implementation(
        file,
        model,
        horizon=horizon,
        out=out,
        lookback=lookback,
        trials=trials,
        max_minutes=max_minutes,
        max_steps=max_steps,
        search=search or (),
        options=cli.parse_options(setting or ()),
        objective=objective,
        protocol=protocol,
        seed=seed,
        resume=resume,
        **_running(running),
        **_reading(reading),
    )
    cli.emit(done.report, as_json=running["json"], human=lambda: print_report(done))


@app.command()
def classify(
    train: Annotated[
        Path, typer.Argument(help="A UEA .ts file of labelled recordings.", show_default=False)
    ],
    out: Out,
    test: Annotated[
        Path | None, typer.Option(help="Another, looked at once, at the end.", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Option, such as per_class=5 or epochs=80.")
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Learn classes of whole recordings with a ShapeFormer, beside nearest-neighbour baselines."""
    cli.set_threads(threads)
    from apps.timeseries.classification.classify import classify as implementation
    from apps.timeseries.listing import print_classification

    report = implementation(
        train,
        test,
        out,
        seed=seed,
        force=force,
        progress=_progress(quiet, json),
        **cli.parse_options(setting or ()),
    )
    cli.emit(report, as_json=json, human=lambda: print_classification(report, out))


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
