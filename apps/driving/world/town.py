"""A town, ready to be driven in: map, lanes, ground and scenery, from a file or from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.ground import STOP_LINE, Ground, paint
from apps.driving.world.network import Network
from apps.driving.world.opendrive import check_opendrive, flatten, load_map, read_opendrive
from apps.driving.world.roads import Roads
from apps.driving.world.scenery import Scenery, furnish
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


def build_town(source: str | Path, seed: int = 0, *, resolution: float | None = None) -> Town:
    """The town of an .xodr file, or of ``procedural:SEED``. Same source and seed, same town.

    ``seed`` decides texture and scenery; ``resolution`` (m a cell) is 0.1 unless the town is large.
    Raises UsageError for a source that names no town, DataError for a map that cannot be used.
    """
    name, text = _read(source)
    text = flatten(text)
    roads = check_opendrive(text, name)
    built = load_map(text, name)
    network = Network(built, text, roads)
    ground = paint(
        roads,
        seed=seed,
        crosswalks=network.crosswalks,
        stop_lines=stop_lines(network),
        **({} if resolution is None else {"resolution": resolution}),
    )
    scenery = furnish(network, roads, ground, seed)
    return Town(name, text, built, network, roads, ground, scenery, seed)


def stop_lines(network: Network) -> np.ndarray:
    """(n, 2, 2) m: across each lane that a light or a stop sign holds up, at the lane's end.

    None where the map itself lists a line within 6 m."""
    stops = [light.stop_nodes for light in network.lights]
    stops += [sign.stop_nodes for sign in network.signs if sign.kind == "stop"]
    nodes = np.unique(np.array([node for some in stops for node in some], np.int64))
    if not len(nodes):
        return np.zeros((0, 2, 2))
    yaw = network.yaw_rad[nodes]
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], 1)
    right = np.stack([-np.sin(yaw), np.cos(yaw)], 1)
    middle = network.position[nodes] + ahead * (network.length[nodes] - STOP_LINE)[:, None] / 2
    drawn = [item.outline.mean(0) for item in network.roads.items if item.name == "StopLine"]
    if drawn:
        gap = np.hypot(*(middle[:, None] - np.array(drawn)).transpose(2, 0, 1)).min(1)
        middle, right, nodes = middle[gap > 6.0], right[gap > 6.0], nodes[gap > 6.0]
    reach = right * (network.width[nodes] / 2 - 0.1)[:, None]
    return np.stack([middle - reach, middle + reach], axis=1)


def _read(source: str | Path) -> tuple[str, str]:
    """Name and OpenDRIVE text."""
    given = str(source)
    if given.startswith(PROCEDURAL):
        number = given.removeprefix(PROCEDURAL)
        if not number.isdecimal():
            raise UsageError(
                f"town '{given}': the seed must be a whole number, as in {PROCEDURAL}0"
            )
        from apps.driving.world.procedural import generate

        return f"Procedural{number}", generate(int(number))
    if not given.lower().endswith(".xodr"):
        raise UsageError(
            f"town '{given}': give an OpenDRIVE file that ends in .xodr, or {PROCEDURAL}SEED"
        )
    return Path(given).stem, read_opendrive(given)
