"""Closed-loop driving: agents x towns x seeds, those that look also under the safety supervisor.

    python benchmarks/driving_agent.py                     # the shipped agent and the baselines
    python benchmarks/driving_agent.py --agents expert --towns --known samples/Town01.xodr=samples/routes.xml \\
        --limit 10 --out benchmarks/results/driving_expert.json
    python benchmarks/driving_agent.py --agents small --towns procedural:901 --routes 3 --seeds 0
    python benchmarks/driving_agent.py --towns TOWNS/Town10HD.xodr procedural:901

A town is ``TOWN=ROUTES.xml``, or ``TOWN`` alone, for which ``--routes`` routes are drawn from its
name. Towns given by ``--known`` are those that a trained agent has seen; they are reported apart. The
embedded world drives ``--traffic`` vehicles and ``--walkers`` walkers of its own; weather is drawn
from the seed unless the routes say it.

    driving_score_2_1   by the Leaderboard's formula of 2.1, without its minimum speed
    driving_score_1_0   by that of 1.0
    route_completion    percent
    decision_ms         the agent's own time a decision, on one thread

Each has a 95 % interval: whole routes and whole seeds are resampled
(``apps.driving.evaluation.statistics``). ``supervisor_gain`` compares an agent with itself under the
supervisor, route by route. Beside the agents stand the floor (``constant``, ``blind``: they do not
look) and the ceiling (``expert``: it sees the simulator's own state).

About 20 s a route on one core without cameras and 60 s with them. It continues where it stopped:
what is driven lies under ``--work``.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

GUARDED = ("small",)
TOWNS = ("procedural:901", "procedural:902", "procedural:903")
KEPT = (
    "driving_score_2_1", "driving_score_2_1_min_speed", "driving_score_1_0", "route_completion",
    "intervals", "routes_driven", "success_rate", "simulation_crashed", "infractions",
    "infractions_per_km", "outside_route_lanes_km", "driven_km", "statuses", "interventions",
    "decision_ms",
)  # fmt: skip
METRICS = ("driving_score_2_1", "driving_score_1_0", "route_completion")


def routes_of(town: str, count: int, work: Path) -> tuple[str, Path]:
    """A town and its file of routes, drawn and written if none is given."""
    from apps.driving.routes.files import write_routes
    from apps.driving.routes.sampling import sample_routes
    from apps.driving.simulator.session import open_session

    name, equals, file = town.partition("=")
    if equals:
        return name, Path(file)
    seed = zlib.crc32(Path(name).name.encode())
    path = work / "routes" / f"{Path(name).name.replace(':', '')}_{count}.xml"
    if not path.exists():
        with open_session(name) as session:
            specs = sample_routes(session.map, session.town, count, seed)
        write_routes(path, specs)
    return name, path


def drive(args: argparse.Namespace, town: str, routes: Path) -> dict[str, list[dict[str, Any]]]:
    """Results by agent; those of ``--guarded`` once more under the supervisor."""
    from apps.driving.evaluation.runner import evaluate
    from core.progress import get_progress

    results = {}
    for agent in args.agents:
        report = evaluate(
            town,
            routes,
            [agent],
            out=args.work / Path(town).stem.replace(":", ""),
            seeds=args.seeds,
            supervisor=[False, True] if agent in args.guarded else [False],
            traffic=args.traffic,
            walkers=args.walkers,
            weather=args.weather,
            jobs=args.jobs,
            limit=args.limit,
            threads=1,
            video=False,
            resume=True,
            progress=get_progress(args.quiet),
        )
        results |= {row["agent"]: row["results"] for row in report["rows"]}
    return results


def rows_of(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row an agent; those with a supervisor say what it changed."""
    from apps.driving.evaluation.statistics import difference, summarise

    rows = []
    for agent, found in results.items():
        summary = summarise(found)
        row = {"agent": agent, **{name: summary[name] for name in KEPT}}
        seeds = sorted({result["seed"] for result in found})
        row["by_seed"] = {
            metric: {
                str(seed): round(
                    sum(r[metric] for r in found if r["seed"] == seed)
                    / sum(r["seed"] == seed for r in found),
                    3,
                )
                for seed in seeds
            }
            for metric in METRICS
        }
        bare = results.get(agent.removesuffix("+supervisor"))
        if agent.endswith("+supervisor") and bare:
            row["supervisor_gain"] = {m: difference(found, bare, m) for m in METRICS}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", nargs="+", help="all that have names, if none are given")
    parser.add_argument("--towns", nargs="*", default=list(TOWNS), metavar="TOWN[=ROUTES]")
    parser.add_argument("--known", nargs="+", default=[], metavar="TOWN[=ROUTES]")
    parser.add_argument("--routes", type=int, default=5, help="routes drawn for a town without any")
    parser.add_argument("--limit", type=int, help="only the first routes of each town")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--traffic", type=int, default=20)
    parser.add_argument("--walkers", type=int, default=10)
    parser.add_argument("--weather", default="varied", choices=["routes", "varied", "clear"])
    parser.add_argument("--guarded", nargs="*", default=list(GUARDED), metavar="AGENT",
                        help="those also driven under the safety supervisor")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "out/driving_agent")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/driving_agent.json")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    from apps.driving.agents.catalog import names
    from apps.driving.evaluation.report import print_evaluation
    from core.errors import TriptychError
    from core.files import write_json
    from core.reporting import environment

    args.agents = args.agents or list(names())
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/driving_agent.py", *sys.argv[1:]]),
        "seeds": args.seeds,
        "traffic": args.traffic,
        "walkers": args.walkers,
        "weather": args.weather,
        "interval": "95 % pigeonhole bootstrap of the mean over routes and seeds",
        "towns": {},
    }
    try:
        for group, towns in (("unseen", args.towns), ("known", args.known)):
            pooled: dict[str, list[dict[str, Any]]] = {}
            for given in towns:
                town, routes = routes_of(given, args.routes, args.work)
                results = drive(args, town, routes)
                for agent, found in results.items():
                    pooled.setdefault(agent, []).extend(found)
                result["towns"][Path(town).stem] = {"group": group, "rows": rows_of(results)}
                print(f"{town} ({group})")
                print_evaluation({"rows": result["towns"][Path(town).stem]["rows"]})
            if pooled:
                result[group] = rows_of(pooled)
    except TriptychError as error:
        sys.exit(f"error: {error}")
    result["environment"] = environment(args.seeds[0])
    write_json(args.out, result, force=True)
    for group in ("unseen", "known"):
        if group in result:
            print(f"all {group} towns")
            print_evaluation({"rows": result[group]})


if __name__ == "__main__":
    main()
