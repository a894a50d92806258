"""Colours of semantic tags: those of Cityscapes, as CARLA documents and its client paints them."""

from __future__ import annotations

import numpy as np

from apps.driving.world.tags import Tag

_COLOURS: dict[Tag, tuple[int, int, int]] = {
    Tag.NONE: (0, 0, 0),
    Tag.ROADS: (128, 64, 128),
    Tag.SIDEWALKS: (244, 35, 232),
    Tag.BUILDINGS: (70, 70, 70),
    Tag.WALLS: (102, 102, 156),
    Tag.FENCES: (190, 153, 153),
    Tag.POLES: (153, 153, 153),
    Tag.TRAFFIC_LIGHT: (250, 170, 30),
    Tag.TRAFFIC_SIGNS: (220, 220, 0),
    Tag.VEGETATION: (107, 142, 35),
    Tag.TERRAIN: (152, 251, 152),
    Tag.SKY: (70, 130, 180),
    Tag.PEDESTRIANS: (220, 20, 60),
    Tag.RIDER: (255, 0, 0),
    Tag.CAR: (0, 0, 142),
    Tag.TRUCK: (0, 0, 70),
    Tag.BUS: (0, 60, 100),
    Tag.TRAIN: (0, 80, 100),
    Tag.MOTORCYCLE: (0, 0, 230),
    Tag.BICYCLE: (119, 11, 32),
    Tag.STATIC: (110, 190, 160),
    Tag.DYNAMIC: (170, 120, 50),
    Tag.OTHER: (55, 90, 80),
    Tag.WATER: (45, 60, 150),
    Tag.ROAD_LINES: (157, 234, 50),
    Tag.GROUND: (81, 0, 81),
    Tag.BRIDGE: (150, 100, 100),
    Tag.RAIL_TRACK: (230, 150, 140),
    Tag.GUARD_RAIL: (180, 165, 180),
}

PALETTE = np.zeros((256, 3), np.uint8)
"""(256, 3) RGB by tag; numbers that are no tag are black."""

for _tag, _rgb in _COLOURS.items():
    PALETTE[_tag] = _rgb
