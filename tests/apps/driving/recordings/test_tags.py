"""Tables of tags and the classes made of them."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.recordings import tags
from apps.driving.world.tags import Tag

# CARLA 0.9.10's documentation, "Sensors reference", semantic segmentation camera.
OLD_NAMES = {
    0: "NONE",
    1: "BUILDINGS",
    2: "FENCES",
    3: "OTHER",
    4: "PEDESTRIANS",
    5: "POLES",
    6: "ROAD_LINES",
    7: "ROADS",
    8: "SIDEWALKS",
    9: "VEGETATION",
    10: "CAR",
    11: "WALLS",
    12: "TRAFFIC_SIGNS",
    13: "SKY",
    14: "GROUND",
    15: "BRIDGE",
    16: "RAIL_TRACK",
    17: "GUARD_RAIL",
    18: "TRAFFIC_LIGHT",
    19: "STATIC",
    20: "DYNAMIC",
    21: "WATER",
    22: "TERRAIN",
}


def test_every_old_tag_has_the_new_number_of_its_name() -> None:
    for old, name in OLD_NAMES.items():
        assert tags.OLD_TO_NEW[old] == Tag[name]
    # red and yellow, as TransFuser paints them over lights
    assert list(tags.OLD_TO_NEW[[23, 24]]) == [Tag.TRAFFIC_LIGHT] * 2
    assert (tags.OLD_TO_NEW[25:] == tags.UNKNOWN).all()


def test_new_tags_are_those_of_the_client() -> None:
    carla = pytest.importorskip("carla")
    named = {
        name.lower().replace("_", ""): int(v) for name, v in carla.CityObjectLabel.names.items()
    }
    matched = 0
    for tag in Tag:
        key = tag.name.lower().replace("_", "")
        for name in (key, key.rstrip("s"), f"{key}s"):
            if name in named:
                assert named[name] == tag
                matched += 1
                break
    assert matched > 20


def test_each_tag_is_in_one_class_and_each_class_stands_for_itself() -> None:
    assert (
        tuple(
            [
                "road",
                "line",
                "sidewalk",
                "vehicle",
                "two_wheeler",
                "pedestrian",
                "traffic_light",
                "sign",
                "structure",
                "vegetation",
                "pole",
                "sky",
                "other",
            ]
        )
        == tags.GROUP_NAMES
    )
    grouped = [tag for _, group in tags._GROUPS for tag in group]
    assert sorted(grouped) == sorted(Tag)
    assert (tags.GROUPS[tags.GROUP_TAGS] == np.arange(len(tags.GROUP_NAMES))).all()
    assert tags.GROUP_NAMES[tags.GROUPS[200]] == "other"
    assert tags.GROUP_NAMES[tags.GROUPS[Tag.BUS]] == "vehicle"


@pytest.mark.parametrize(("numbers", "table"), [([7, 6, 8], "old"), ([1, 24, 2], "new")])
def test_a_road_shows_its_table(numbers: list[int], table: str) -> None:
    rng = np.random.default_rng(0)
    picture = rng.choice([3, 9, 11, 13], (160, 960)).astype(np.uint8)
    picture[110:] = rng.choice(numbers, (50, 960), p=[0.8, 0.1, 0.1])
    picture[110:, :200] = 14 if table == "new" else 10  # a car beside
    assert tags.table_of(picture) == table


def test_no_road_or_two_shows_none() -> None:
    assert tags.table_of(np.full((160, 960), 14, np.uint8)) is None
    both = np.full((160, 960), 1, np.uint8)
    both[:, ::2] = 7
    assert tags.table_of(both) is None
