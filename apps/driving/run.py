"""Drive in CARLA, or in a world of our own that CARLA's client takes for it: the command line.

Every verb is a thin function: it reads options, imports its implementation when it is called, and
emits the result. So ``--help`` and ``calls`` cost no import of NumPy, PyTorch or CARLA.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on its path, where our modules would shadow
    # packages of their names. The repository root belongs there instead.
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
from core.errors import need  # noqa: E402

app = cli.make_app(
    "driving",
    "An end-to-end driver: record, train, drive and score, in CARLA 0.9.16 or in a world of our own "
    "that needs neither Unreal nor a GPU.",
)

TownOption = Annotated[
    str, typer.Option(help="An OpenDRIVE file (.xodr) or procedural:SEED.", metavar="TOWN")
]


Out = Annotated[Path, typer.Option(help="The folder to write.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what OUT holds.")]
Host = Annotated[
    str | None,
    typer.Option(help="A CARLA that runs there; without it the world is embedded.", metavar="HOST"),
]
Port = Annotated[int, typer.Option(help="Port of --host.", min=1, max=65535)]
Traffic = Annotated[int, typer.Option(help="Other vehicles.", min=0)]
Walkers = Annotated[int, typer.Option(help="Pedestrians.", min=0)]
Jobs = Annotated[int, typer.Option(help="Routes driven at the same time.", min=1)]
Routes = Annotated[
    Path, typer.Option(help="A route file of the CARLA Leaderboard (.xml).", show_default=False)
]
Limit = Annotated[int | None, typer.Option(help="Only the file's first N routes.", min=1)]
Weather = Annotated[
    str, typer.Option(help="routes (what the file says), varied (by the seed) or clear.")
]
Trace = Annotated[
    bool, typer.Option("--trace", help="Keep what the car sees, means and does (see the docs).")
]
Video = Annotated[bool, typer.Option("--video/--no-video", help="Film each route (MP4).")]
SETTINGS = "Change a setting: key=value; repeat. Those of the network begin with model."


@app.command()
def drive(
    routes: Routes,
    out: Out,
    town: TownOption = "samples/Town01.xodr",
    agent: Annotated[
        str, typer.Option(help="A driver's name (see agents) or a model folder.")
    ] = "small",
    supervisor: Annotated[
        bool, typer.Option("--supervisor", help="Let safety rules overrule the driver.")
    ] = False,
    traffic: Traffic = 0,
    walkers: Walkers = 0,
    weather: Weather = "routes",
    limit: Limit = None,
    video: Video = True,
    trace: Trace = False,
    jobs: Jobs = 1,
    min_speed: Annotated[
        bool,
        typer.Option("--min-speed", help="Count driving slower than the traffic, as 2.x does."),
    ] = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Simulated seconds after which a route has timed out, if not before."),
    ] = None,
    renderer: Annotated[str, typer.Option(help="numpy or egl.")] = "numpy",
    host: Host = None,
    port: Port = 2000,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Drive routes, film them, and print completion, infractions and driving scores."""
    _need_carla()
    from apps.driving.evaluation.report import print_drive
    from apps.driving.evaluation.runner import drive as implementation
    from core.progress import get_progress

    report = implementation(
        town,
        routes,
        agent,
        out=out,
        supervisor=supervisor,
        traffic=traffic,
        walkers=walkers,
        weather=weather,
        limit=limit,
        video=video,
        trace=trace,
        jobs=jobs,
        min_speed=min_speed,
        max_seconds=max_seconds,
        renderer=renderer,
        host=host,
        port=port,
        seed=seed,
        device=device,
        threads=threads,
        resume=resume,
        force=force,
        progress=get_progress(quiet),
    )
    cli.emit(report, as_json=json, human=lambda: print_drive(report))


@app.command()
def evaluate(
    routes: Routes,
    out: Out,
    town: TownOption = "samples/Town01.xodr",
    agent: Annotated[
        list[str] | None,
        typer.Option(help="A driver; repeat. All that have names when not given."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N - 1.", min=1)] = 3,
    supervisor: Annotated[
        bool, typer.Option("--supervisor", help="Each driver with safety rules, too.")
    ] = False,
    traffic: Traffic = 20,
    walkers: Walkers = 10,
    weather: Weather = "varied",
    limit: Limit = None,
    video: Video = False,
    jobs: Jobs = 1,
    host: Host = None,
    port: Port = 2000,
    device: Device = "cpu",
    threads: Threads = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare drivers on the same routes and seeds, with 95 % intervals."""
    _need_carla()
    from apps.driving.agents.catalog import names
    from apps.driving.evaluation.report import print_evaluation
    from apps.driving.evaluation.runner import evaluate as implementation
    from core.progress import get_progress

    report = implementation(
        town,
        routes,
        agent or tuple(names()),
        out=out,
        seeds=range(seeds),
        supervisor=(False, True) if supervisor else (False,),
        traffic=traffic,
        walkers=walkers,
        weather=weather,
        limit=limit,
        video=video,
        jobs=jobs,
        host=host,
        port=port,
        device=device,
        threads=threads,
        resume=resume,
        force=force,
        progress=get_progress(quiet),
    )
    cli.emit(report, as_json=json, human=lambda: print_evaluation(report))


@app.command()
def replay(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="A folder that drive --trace wrote.")
    ],
    out: Annotated[Path, typer.Option(help="The .html file to write.", show_default=False)],
    moments: Annotated[int, typer.Option(help="Moments of the drive to show.", min=1)] = 60,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a traced drive as one HTML page with a slider."""
    from apps.driving.evaluation.trace import Trace
    from core.files import require_absent

    require_absent(out, force)
    made = Trace(trace).replay(moments)
    made.save(out, force)
    report = {"replay": str(out), "moments": len(made.indices), "bytes": out.stat().st_size}
    cli.emit(report, as_json=json, human=lambda: print(f"wrote {out}"))


@app.command()
def agents(json: Json = False) -> None:
    """List the drivers that have names."""
    from apps.driving.agents.catalog import names

    known = names()

    def human() -> None:
        for name, what in known.items():
            print(f"{name:<16}{what}")

    cli.emit({"agents": known}, as_json=json, human=human)


@app.command()
def collect(
    frames: Annotated[int, typer.Option(help="Frames to record, two a second.", min=1)],
    out: Out,
    town: TownOption = "procedural:0",
    traffic: Traffic = 20,
    walkers: Walkers = 10,
    perturb: Annotated[
        bool,
        typer.Option("--perturb/--no-perturb", help="Push the car off its line now and then."),
    ] = True,
    jobs: Jobs = 1,
    host: Host = None,
    port: Port = 2000,
    seed: Seed = 0,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Record the expert's drives: RGB, depth, semantics, measurements in TransFuser's layout."""
    _need_carla()
    import shlex

    from apps.driving.recordings.collect import collect as implementation
    from core.progress import get_progress

    report = implementation(
        town,
        frames,
        out,
        traffic=traffic,
        walkers=walkers,
        perturb=perturb,
        jobs=jobs,
        host=host,
        port=port,
        seed=seed,
        resume=resume,
        force=force,
        command=f"python apps/driving/run.py {shlex.join(sys.argv[1:])}",
        progress=get_progress(quiet),
    )

    def human() -> None:
        print(
            f"{report['new_frames']} new frames of {report['routes']} routes in {out} "
            f"({report['frames_per_second']:.1f} a second); {out / 'card.md'} describes them"
        )
        for lost in report["lost"]:
            print(f"lost: {lost}")

    cli.emit(report, as_json=json, human=human)


@app.command()
def recordings(
    data: Annotated[Path, typer.Argument(metavar="DATADIR", help="A folder that collect wrote.")],
    every: Annotated[int, typer.Option(help="Decode the pictures of every N-th frame.", min=1)] = 1,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Check recorded drives: everything that is wrong with them, each file by name."""
    from apps.driving.recordings.check import check_dataset
    from core.errors import DataError
    from core.progress import get_progress

    report = check_dataset(data, every=every, progress=get_progress(quiet))

    def human() -> None:
        print(f"{data}: {report['routes']} routes, {report['frames']} frames")
        for town, samples in report["towns"].items():
            print(f"  {town}: {samples} samples")
        for problem in report["problems"]:
            print(problem)

    if report["ok"] or json:
        cli.emit(report, as_json=json, human=human)
        if report["ok"]:
            return
        raise typer.Exit(DataError.exit_code)
    human()
    raise DataError(f"{data}: {len(report['problems'])} problems, listed above")


@app.command()
def train(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATADIR...", help="Folders that collect wrote.")
    ],
    out: Out,
    model: Annotated[
        str, typer.Option(help="small, small-mamba, cvt13, late-fusion, or a model to go on from.")
    ] = "small",
    max_minutes: Annotated[float | None, typer.Option(help="Time for training.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Updates, at most.", min=1)] = None,
    town: Annotated[
        list[str] | None, typer.Option(help="Learn from this town alone; repeat.")
    ] = None,
    val_town: Annotated[
        list[str] | None,
        typer.Option(help="Keep this town for validation; repeat. Else a tenth of the routes."),
    ] = None,
    balance: Annotated[
        str, typer.Option(help="How losses are weighed: gradnorm, fixed or uncertainty.")
    ] = "gradnorm",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help=SETTINGS, metavar="KEY=VALUE")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read pictures.", min=0)] = 0,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a driver on recordings and measure it on routes it never saw."""
    cli.set_threads(threads)
    from typing import get_args

    from apps.driving.training.config import BalanceName
    from apps.driving.training.train import train as implementation
    from core.errors import UsageError, unknown
    from core.progress import get_progress

    if balance not in get_args(BalanceName):
        raise UsageError(unknown("balance", balance, get_args(BalanceName)))
    done = implementation(
        data,
        model=model,
        out=out,
        max_minutes=max_minutes,
        max_steps=max_steps,
        seed=seed,
        towns=town,
        val_towns=val_town,
        balance=balance,  # type: ignore[arg-type]
        device=cli.pick_device(device),
        threads=threads,
        workers=workers,
        resume=resume,
        force=force,
        progress=get_progress(quiet),
        options=setting or (),
    )
    cli.emit(done.report(), as_json=json, human=lambda: print(done.text()))


@app.command()
def routes(
    out: Annotated[Path, typer.Option(help="The .xml file to write.", show_default=False)],
    town: TownOption = "procedural:0",
    count: Annotated[int, typer.Option(help="Routes to draw.", min=1)] = 10,
    shortest: Annotated[float, typer.Option(help="Metres.", min=10)] = 150,
    longest: Annotated[float, typer.Option(help="Metres.", min=10)] = 400,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw routes through a town at random, in the Leaderboard's format."""
    _need_carla()
    from apps.driving.routes.draw import draw_routes

    report = draw_routes(town, count, out, seed=seed, length=(shortest, longest), force=force)
    cli.emit(report, as_json=json, human=lambda: print(f"wrote {count} routes of {town} to {out}"))


@app.command()
def world(
    town: TownOption = "procedural:0",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes any free one.")] = 2000,
    seed: Seed = 0,
    renderer: Annotated[
        str, typer.Option(help="numpy, or egl where moderngl and OpenGL are installed.")
    ] = "numpy",
    traffic: Annotated[int, typer.Option(help="Vehicles of the world's own.", min=0)] = 0,
    walkers: Annotated[int, typer.Option(help="Walkers of the world's own.", min=0)] = 0,
    synchronous: Annotated[
        bool, typer.Option("--synchronous", help="Stand still until a client ticks.")
    ] = False,
    attached: Annotated[
        bool, typer.Option("--attached", hidden=True, help="End when standard input is closed.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Serve a world to CARLA clients on this machine until interrupted."""
    import logging

    _need_carla()
    from apps.driving.world.server import run

    logging.basicConfig(
        level=logging.ERROR if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )

    def listening(facts: dict[str, Any]) -> None:
        line = f"listening on {facts['host']}:{facts['port']}"
        cli.emit(facts, as_json=json, human=lambda: print(line, flush=True))

    run(
        town,
        port=port,
        seed=seed,
        renderer=renderer,
        traffic=traffic,
        walkers=walkers,
        synchronous=synchronous,
        attached=attached,
        listening=listening,
    )


@app.command()
def town(
    out: Annotated[Path, typer.Option(help="The .xodr file to write.", show_default=False)],
    seed: Seed = 0,
    blocks: Annotated[int, typer.Option(help="Blocks along a side.")] = 3,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the OpenDRIVE map of a procedural town."""
    _need_carla()
    from apps.driving.world.maps.procedural import generate
    from core.files import atomic_path, require_absent

    require_absent(out, force)
    text = generate(seed, blocks=blocks)
    with atomic_path(out, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")
    report = {"town": str(out), "seed": seed, "blocks": blocks, "bytes": len(text.encode())}
    cli.emit(report, as_json=json, human=lambda: print(f"wrote {out}"))


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(metavar="TOWN", help="An .xodr file or procedural:SEED.")
    ],
    json: Json = False,
) -> None:
    """Check an OpenDRIVE map and say what is in it."""
    _need_carla()
    from apps.driving.world.server import survey

    report = survey(source)

    def human() -> None:
        for name, value in report.items():
            print(f"{name.replace('_', ' '):<24}{value}")

    cli.emit(report, as_json=json, human=human)


@app.command()
def calls(json: Json = False) -> None:
    """List CARLA's calls and what becomes of each here."""
    from apps.driving.world.protocol.calls import command_table, table

    rows, commands = table(), command_table()

    def human() -> None:
        for row in rows:
            note = f" ({row['note']})" if row["note"] else ""
            print(f"{row['call']:<40}{row['status']}{note}")
        for row in commands:
            print(f"{'command.' + row['command']:<40}{row['status']}")

    report = {"carla": "0.9.16", "calls": rows, "commands": commands}
    cli.emit(report, as_json=json, human=human)


def _need_carla() -> None:
    """UsageError that names the extra when the client's library is not installed."""
    need("carla", "driving")
    need("msgpack", "driving")


if __name__ == "__main__":
    sys.exit(cli.main(app))
