"""Drive in CARLA, or in a world of our own that CARLA's client takes for it: the command line.

Every verb is a thin function: it reads options, imports its implementation when it is called, and
emits the result. So ``--help`` and ``calls`` cost no import of NumPy or CARLA.
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
from core.cli import Force, Json, Quiet, Seed  # noqa: E402
from core.errors import need  # noqa: E402

app = cli.make_app(
    "driving", "A world that CARLA 0.9.16's Python client can drive, without Unreal or a GPU."
)

TownOption = Annotated[
    str, typer.Option(help="An OpenDRIVE file (.xodr) or procedural:SEED.", metavar="TOWN")
]


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
