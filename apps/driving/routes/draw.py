"""Write a file of routes drawn at random through a town."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apps.driving.routes.files import write_routes
from apps.driving.routes.planner import Planner
from apps.driving.routes.sampling import sample_routes
from apps.driving.simulator.session import open_session
from core.files import require_absent


def draw_routes(
    town: str,
    count: int,
    out: Path,
    *,
    seed: int = 0,
    length: tuple[float, float] = (150.0, 400.0),
    force: bool = False,
) -> dict[str, Any]:
    """``count`` routes of ``length`` metres through an .xodr file or procedural:SEED, in ``out``.

    Returns the town's name and each route's id and metres. Raises UsageError for numbers that make no
    sense or a file that is there already, DataError for a town that cannot be used.
    """
    require_absent(out, force)
    with open_session(town) as session:
        planner = Planner(session.map)
        specs = sample_routes(session.map, session.town, count, seed, length, planner)
        lengths = {spec.id: round(planner.plan_route(spec).length, 1) for spec in specs}
    write_routes(out, specs, force=force)
    return {"out": str(out), "town": specs[0].town, "seed": seed, "metres": lengths}
