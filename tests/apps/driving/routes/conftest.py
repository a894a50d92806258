"""Maps that the tests of routes share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.driving.routes.planner import Planner


@pytest.fixture(scope="session")
def load() -> Callable[[str], Any]:
    """``carla.Map`` of ``procedural:SEED`` or of OpenDRIVE text; each once."""
    carla = pytest.importorskip("carla")
    from apps.driving.world.maps.procedural import generate

    maps: dict[str, Any] = {}

    def of(town: str) -> Any:
        if town not in maps:
            seed = town.removeprefix("procedural:")
            maps[town] = carla.Map("Town", generate(int(seed)) if seed != town else town)
        return maps[town]

    return of


@pytest.fixture(scope="session")
def town01(samples: Path) -> Any:
    """``carla.Map`` of Town01."""
    carla = pytest.importorskip("carla")
    return carla.Map("Carla/Maps/Town01", (samples / "Town01.xodr").read_text())


@pytest.fixture(scope="session")
def planner01(town01: Any) -> Planner:
    return Planner(town01)


@pytest.fixture(scope="session")
def one_road() -> str:
    """OpenDRIVE of a straight road of 200 m along x that leads nowhere, a lane of 4 m either way."""
    lane = (
        '<lane id="{}" type="driving" level="false"><width sOffset="0" a="4" b="0" c="0" d="0"/>'
        '<roadMark sOffset="0" type="solid" weight="standard" color="white" width="0.1"/></lane>'
    )
    return (
        '<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4" name="one" version="1"/>'
        '<road name="r" length="200" id="1" junction="-1"><link/>'
        '<planView><geometry s="0" x="0" y="0" hdg="0" length="200"><line/></geometry></planView>'
        '<elevationProfile/><lateralProfile/><lanes><laneSection s="0"><left>'
        + lane.format(1)
        + '</left><center><lane id="0" type="none" level="false"/></center><right>'
        + lane.format(-1)
        + "</right></laneSection></lanes></road></OpenDRIVE>"
    )
