"""Reading OpenDRIVE elements, against what ``carla.Map`` makes of them."""

from __future__ import annotations

from pathlib import Path

import carla
import numpy as np
import pytest

from apps.driving.world.maps.procedural import generate
from apps.driving.world.maps.roads import Roads
from core.errors import DataError

_LANES = """<lanes><laneOffset s="0" a="0.5" b="0.01" c="0" d="0"/><laneSection s="0"><left>
<lane id="1" type="driving"><width sOffset="0" a="3" b="0.02" c="0" d="0"/></lane></left><center>
<lane id="0" type="none"/></center><right><lane id="-1" type="driving">
<width sOffset="0" a="3.5" b="0" c="0" d="0"/><width sOffset="20" a="3.5" b="-0.01" c="0" d="0"/>
<roadMark sOffset="0" type="broken" color="white" width="0.1" laneChange="both"/>
<roadMark sOffset="25" type="solid" color="yellow" width="0.2"/></lane><lane id="-2" type="sidewalk">
<width sOffset="0" a="2" b="0" c="0.0004" d="-0.000002"/></lane></right></laneSection></lanes>"""


def town(*shapes: tuple[float, str], heading: float = 0.4, extra: str = "") -> str:
    """One road of pieces (length, XML of the shape), put end to end with their own heading."""
    pieces, s = "", 0.0
    for length, shape in shapes:
        pieces += (
            f'<geometry s="{s}" x="{10 + s}" y="-5" hdg="{heading}" length="{length}">'
            f"{shape}</geometry>"
        )
        s += length
    return (
        '<OpenDRIVE><header revMajor="1" revMinor="4"/>'
        f'<road name="r" length="{s}" id="7" junction="-1"><link/>'
        '<type s="0" type="town"><speed max="50" unit="km/h"/></type>'
        f"<planView>{pieces}</planView>{_LANES}{extra}</road></OpenDRIVE>"
    )


def test_marks_change_along_a_lane() -> None:
    lane = Roads.parse(town((60.0, "<line/>"))).roads[7].sections[0].lanes[-1]
    early, late = lane.mark_at(24.9), lane.mark_at(25.0)
    assert early is not None
    assert late is not None
    assert (early.type, early.lane_change) == ("broken", "both")
    assert (late.type, late.color, late.width, late.lane_change) == ("solid", "yellow", 0.2, "")


def test_crosswalks_are_where_carla_puts_them() -> None:
    text = generate(2, blocks=2)
    theirs = np.array([[p.x, p.y] for p in carla.Map("t", text).get_crosswalks()])
    mine = np.concatenate([i.outline for i in Roads.parse(text).items if i.type == "crosswalk"])
    assert len(mine) == len(theirs) > 0
    for corner in mine:
        assert np.abs(theirs - corner).sum(1).min() < 1e-3


def test_objects_that_carla_takes_for_speed_limits(samples: Path) -> None:
    text = (samples / "Town01.xodr").read_text()
    mine = {s.id: s.value for s in Roads.parse(text).signals.values() if s.type == "274"}
    theirs = carla.Map("Town01", text).get_all_landmarks_of_type("274")
    assert mine == {mark.id: mark.value for mark in theirs}
    assert sorted(set(mine.values())) == [30.0, 60.0, 90.0]


def test_lanes_without_validity_are_those_carla_assumes(samples: Path) -> None:
    text = (samples / "Town01.xodr").read_text()
    lanes = {r.signal: r.lanes for r in Roads.parse(text).references if r.primary}
    for mark in carla.Map("Town01", text).get_all_landmarks_of_type("274"):
        ((first, last),) = mark.get_lane_validities()
        assert set(lanes[mark.id]) == set(range(first, last + 1)) - {0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<OpenDRIVE/>", "no <road>"),
        ("<other/>", "not <OpenDRIVE>"),
        ("<OpenDRIVE>", "not XML"),
        (town((40.0, "<circle/>")), "no shape"),
        (town((-1.0, "<line/>")), "length -1 m"),
        (town((40.0, '<arc curvature="inf"/>')), "not a finite number"),
        (town((40.0, '<arc curvature="1e999"/>')), "not a finite number"),
        (town((40.0, "<line/>")).replace('id="7"', 'id="seven"'), "CARLA takes no other ids"),
        (town((40.0, "<line/>")).replace('id="7"', 'id="-7"'), "ids from 0 on"),
        (town((40.0, "<line/>")).replace('unit="km/h"', 'unit="knots"'), "use km/h"),
        (town((40.0, "<line/>")).replace('max="50"', 'max="-5"'), "must be positive"),
        (town((40.0, "<line/>")).replace('length="40.0" id', 'length="90" id'), "mend one"),
        (town((40.0, "<line/>")).replace('<lane id="-2"', '<lane id="-3"'), "leave a gap"),
        (town((40.0, "<line/>")).replace('<lane id="1"', '<lane id="-1"'), "wrong side"),
        (town((40.0, "<line/>")).replace('<lane id="0" type="none"/>', ""), "no <center>"),
        (
            town((40.0, "<line/>"), extra='<objects><object name="Speed_fast" s="1"/></objects>'),
            "Speed_ and a number",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Roads.parse(text, "town.xodr")
    assert str(caught.value).startswith("town.xodr: ")
