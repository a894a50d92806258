"""A town, ready to be driven in: map, lanes, ground and scenery, from a file or from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.maps.network import Network
from apps.driving.world.maps.opendrive import (
    check_opendrive,
    flatten,
    load_map,
    probe_opendrive,
    read_opendrive,
)
from apps.driving.world.maps.roads import Roads
from apps.driving.world.townscape.ground import Ground
from apps.driving.world.townscape.painting import FINEST, paint
from apps.driving.world.townscape.scenery import Scenery, furnish
from core.errors import UsageError

if TYPE_CHECKING:
    import carla

PROCEDURAL = "procedural:"


@dataclass(frozen=True)
class Town:
    """Everything that stays as it is while the world runs."""

    name: str
    opendrive: str  # the text, flat: what clients are sent
    map: carla.Map
    network: Network
    roads: Roads
    ground: Ground
    scenery: Scenery
    seed: int

    def height(self, xy: np.ndarray) -> np.ndarray:
        """z (...) of the ground under points (..., 2): 0, because this world is flat."""
        return np.zeros(np.shape(xy)[:-1])


def build_town(source: str | Path, seed: int = 0, *, resolution: float = FINEST) -> Town:
    """The town of an .xodr file, or of ``procedural:SEED``. Same source and seed, same town.

    ``seed`` decides texture and scenery; ``resolution`` (m a cell) is that or
    as much coarser as the town is large.
    Raises UsageError for a source that names no town, DataError for a map that cannot be used.
    """
    name, text = _read(source)
    text = flatten(text)
    roads = check_opendrive(text, str(source))
    probe_opendrive(text, str(source))
    built = load_map(text, name)
    network = Network(built, text, roads)
    ground = paint(roads, network, seed=seed, resolution=resolution)
    scenery = furnish(network, roads, ground, seed)
    return Town(name, text, built, network, roads, ground, scenery, seed)


def _read(source: str | Path) -> tuple[str, str]:
    """Name and OpenDRIVE text."""
    given = str(source)
    if given.startswith(PROCEDURAL):
        number = given.removeprefix(PROCEDURAL)
        if not number.isdecimal():
            raise UsageError(
                f"town '{given}': the seed must be a whole number, as in {PROCEDURAL}0"
            )
        from apps.driving.world.maps.procedural import generate

        return f"Procedural{number}", generate(int(number))
    if not given.lower().endswith(".xodr"):
        raise UsageError(
            f"town '{given}': give an OpenDRIVE file that ends in .xodr, or {PROCEDURAL}SEED"
        )
    return Path(given).stem, read_opendrive(given)
