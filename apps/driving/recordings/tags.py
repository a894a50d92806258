"""Semantic tags: CARLA's old and new tables, telling them apart, and the classes a model learns.

CARLA renumbered its tags in 0.9.14 (``carla.CityObjectLabel``; documentation "Sensors reference",
semantic segmentation camera). Recordings of TransFuser and LeTFuser are of CARLA 0.9.10 and have
the old numbers, 0 to 22, and two more that TransFuser's recorder (autonomousvision/transfuser,
team_code_autopilot/data_agent.py, ``_change_seg_tl``) paints over lights: 23 red, 24 yellow.

Nothing in a picture says which table it has. But the car stands on a road in either, so the lower
part of nearly every picture is roadway, and the numbers of roadway do not collide: ``table_of``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from apps.driving.world.tags import Tag

Table = Literal["old", "new"]

UNKNOWN = 255  # OLD_TO_NEW: a number that the old table does not have

# CARLA 0.9.12 and before, then TransFuser's two lights.
_OLD: tuple[Tag, ...] = (
    Tag.NONE,  # 0 unlabeled
    Tag.BUILDINGS,
    Tag.FENCES,
    Tag.OTHER,
    Tag.PEDESTRIANS,
    Tag.POLES,  # 5
    Tag.ROAD_LINES,
    Tag.ROADS,
    Tag.SIDEWALKS,
    Tag.VEGETATION,
    Tag.CAR,  # 10 vehicles of every kind, riders included
    Tag.WALLS,
    Tag.TRAFFIC_SIGNS,
    Tag.SKY,
    Tag.GROUND,
    Tag.BRIDGE,  # 15
    Tag.RAIL_TRACK,
    Tag.GUARD_RAIL,
    Tag.TRAFFIC_LIGHT,
    Tag.STATIC,
    Tag.DYNAMIC,  # 20
    Tag.WATER,
    Tag.TERRAIN,
    Tag.TRAFFIC_LIGHT,  # red
    Tag.TRAFFIC_LIGHT,  # yellow
)

OLD_TO_NEW: np.ndarray = np.full(256, UNKNOWN, np.uint8)
OLD_TO_NEW[: len(_OLD)] = _OLD

# What a model learns to tell apart: name, tags in it; the first stands for the class.
_GROUPS: tuple[tuple[str, tuple[Tag, ...]], ...] = (
    ("road", (Tag.ROADS,)),
    ("line", (Tag.ROAD_LINES,)),
    ("sidewalk", (Tag.SIDEWALKS,)),
    ("vehicle", (Tag.CAR, Tag.TRUCK, Tag.BUS, Tag.TRAIN)),
    ("two_wheeler", (Tag.BICYCLE, Tag.MOTORCYCLE, Tag.RIDER)),
    ("pedestrian", (Tag.PEDESTRIANS,)),
    ("traffic_light", (Tag.TRAFFIC_LIGHT,)),
    ("sign", (Tag.TRAFFIC_SIGNS,)),
    ("structure", (Tag.BUILDINGS, Tag.WALLS, Tag.FENCES, Tag.BRIDGE, Tag.GUARD_RAIL)),
    ("vegetation", (Tag.VEGETATION, Tag.TERRAIN, Tag.GROUND)),
    ("pole", (Tag.POLES,)),
    ("sky", (Tag.SKY,)),
    ("other", (Tag.OTHER, Tag.NONE, Tag.STATIC, Tag.DYNAMIC, Tag.WATER, Tag.RAIL_TRACK)),
)

GROUP_NAMES: tuple[str, ...] = tuple(name for name, _ in _GROUPS)

# (256,) the class of each tag; numbers that are no tag are "other".
GROUPS: np.ndarray = np.full(256, GROUP_NAMES.index("other"), np.uint8)
for _index, (_, _tags) in enumerate(_GROUPS):
    GROUPS[list(_tags)] = _index

# (classes,) the tag that stands for each class: a prediction as a picture of tags.
GROUP_TAGS: np.ndarray = np.array([tags[0] for _, tags in _GROUPS], np.uint8)

_OLD_ROADWAY = [6, 7, 8]  # line, road, sidewalk of the old table: pole, light and sign of the new
_NEW_ROADWAY = [Tag.ROADS, Tag.SIDEWALKS, Tag.ROAD_LINES]  # 1, 2, 24: building, fence, yellow light


def table_of(semantics: np.ndarray) -> Table | None:
    """Which table a picture of tags (h, w) uint8 is written in; None where it does not show.

    Counts roadway in the lowest quarter: of one table at least a fifth of the pixels, and five
    times that of the other. A car that stands nose to nose with a lorry shows neither.
    """
    lowest = semantics[-max(1, semantics.shape[0] // 4) :]
    counts = np.bincount(lowest.ravel(), minlength=256)
    old, new = int(counts[_OLD_ROADWAY].sum()), int(counts[_NEW_ROADWAY].sum())
    few = lowest.size // 5
    if new >= few and new > 5 * old:
        return "new"
    if old >= few and old > 5 * new:
        return "old"
    return None
