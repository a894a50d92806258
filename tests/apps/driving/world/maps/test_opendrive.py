"""Towns from outside: what is refused, in which words, and that this process lives on."""

from __future__ import annotations

import re
from pathlib import Path

import carla
import pytest

from apps.driving.world.maps import opendrive
from apps.driving.world.maps.opendrive import (
    check_opendrive,
    flatten,
    load_map,
    probe_opendrive,
    read_opendrive,
)
from apps.driving.world.maps.procedural import generate
from core.errors import DataError

GOOD = generate(0, blocks=2)


def changed(pattern: str, new: str, count: int = 1) -> str:
    """The good town with some text replaced, which must be there."""
    text, found = re.subn(pattern, new, GOOD, count=count, flags=re.DOTALL)
    assert found
    return text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("not a town", "not XML"),
        ("\x89PNG\0\0", "zero bytes"),
        ("<x/>", "root is <x>"),
        ("<OpenDRIVE></OpenDRIVE>", "no <road>"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + GOOD, "DTD"),
        (GOOD[: len(GOOD) // 2], "not XML"),
        (changed('length="[^"]*" id="0"', 'length="-4" id="0"'), "length -4 m"),
        (changed('length="[^"]*" id="0"', 'length="nan" id="0"'), "not a finite number"),
        (changed("<planView>.*?</planView>", ""), "no planView"),
        (changed("<lanes>.*?</lanes>", ""), "no lanes"),
        (changed("<laneSection .*?</laneSection>", "", 99), "no lanes"),
        (changed('type="driving"', 'type="biking"', 9999), "no lane of type 'driving'"),
        (changed('"junction" elementId="[0-9]+"', '"road" elementId="999"'), "to road 999"),
        (changed('"junction" elementId="[0-9]+"', '"junction" elementId="999"'), "junction 999"),
        (changed('junction="8"', 'junction="999"'), "in junction 999"),
        (changed('incomingRoad="[0-9]+"', 'incomingRoad="9999"'), "connects road 9999"),
        (changed('contactPoint="start"', 'contactPoint="middle"'), "start or end"),
        (changed('<signalReference id="[0-9]+"', '<signalReference id="none"'), "signal 'none'"),
        (changed('<control signalId="[0-9]+"', '<control signalId="none"'), "signal 'none'"),
        (changed('a="3.500000"', 'a="1e6"'), "wide"),
        (changed('a="3.500000"', 'a="-3.5"'), "wide"),
        (changed('x="-?[0-9.]+" y', 'x="1e9" y'), "from the origin"),
        (changed('max="[0-9]+"', 'max="1e6"'), "speed limit"),
        (changed('c="0" d="0"', 'c="0" d="1e300"'), "not a finite number"),
        (changed('<cornerLocal u="[^"]*"', '<cornerLocal u="1e11"'), "object .* from the origin"),
        (changed('(<signal [^>]*?) s="[^"]*"', r'\1 s="1e11"'), "signal .* from the origin"),
    ],
)
def test_what_cannot_be_a_town_is_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        check_opendrive(text, "some.xodr")
    message = str(caught.value)
    assert message.startswith("some.xodr: ")
    assert "\n" not in message
    assert len(message) < 300


def test_lanes_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opendrive, "MAX_LANES_M", 1000.0)
    with pytest.raises(DataError, match="km of driving lanes"):
        check_opendrive(GOOD, "long.xodr")


def test_texts_over_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opendrive, "MAX_BYTES", 2**20)
    with pytest.raises(DataError, match="over 1 MB"):
        check_opendrive("<OpenDRIVE>" + " " * 2**20, "big.xodr")
    path = tmp_path / "big.xodr"
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(DataError, match="over 1 MB"):
        read_opendrive(path)


def test_deep_nesting_is_survived() -> None:
    deep = "<a>" * 200_000 + "</a>" * 200_000
    text = GOOD.replace("</header>", "</header>" + deep)
    assert check_opendrive(text, "deep.xodr").roads.keys() == check_opendrive(GOOD, "").roads.keys()


# Each of these ends a process that gives it to carla.Map 0.9.16 and walks the waypoints with a
# segmentation fault; all but the last pass the check of the text.
CRASHES = {
    "a lane that goes on into one that is not there": changed(
        '<predecessor id="-?[0-9]+"/>', '<predecessor id="-8"/>'
    ),
    "ways through a junction that lead nowhere": changed(
        '<successor elementType="[^>]*>', "", 9999
    ),
    "a reference to no signal": changed('<signalReference id="[0-9]+"', '<signalReference id="0"'),
}


@pytest.mark.parametrize("name", CRASHES)
def test_what_crashes_the_library_does_not_crash_us(name: str) -> None:
    with pytest.raises(DataError, match="CARLA's library"):
        probe_opendrive(CRASHES[name], "crash.xodr")
    with pytest.raises(DataError, match=r"^crash\.xodr: "):
        load_map(CRASHES[name], "crash.xodr")


def test_what_the_library_refuses_is_said() -> None:
    text = changed('(<signal [^>]*?) s="[^"]*"', r'\1 s="-10"')
    with pytest.raises(DataError, match=r"refuses it .*s_position"):
        load_map(text, "refused.xodr")


def test_a_town_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opendrive, "_PROBE_S", 0.001)
    with pytest.raises(DataError, match="to walk it"):
        probe_opendrive(GOOD.replace('name="procedural:0"', 'name="slow"'), "slow.xodr")


def test_a_good_town_is_loaded_and_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_map(GOOD, "Good")
    monkeypatch.setattr(opendrive, "_PROBE_S", 0.001)  # a second try would now fail
    second = load_map(GOOD, "Good")
    assert isinstance(first, carla.Map)
    assert second.name == "Good"
    assert len(first.get_topology()) == len(second.get_topology()) > 20


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_opendrive(tmp_path / "missing.xodr")
    with pytest.raises(DataError, match="no such file"):
        read_opendrive(tmp_path)
    (tmp_path / "empty.xodr").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        read_opendrive(tmp_path / "empty.xodr")
    (tmp_path / "latin.xodr").write_bytes("<a b='é'/>".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_opendrive(tmp_path / "latin.xodr")
    (tmp_path / "mark.xodr").write_bytes(b"\xef\xbb\xbf<OpenDRIVE/>")
    assert read_opendrive(tmp_path / "mark.xodr") == "<OpenDRIVE/>"


def test_a_flat_town_is_flat_and_otherwise_the_same() -> None:
    hilly = GOOD.replace(
        "<elevationProfile/>",
        '<elevationProfile><elevation s="0" a="5" b="0.01" c="0" d="0"/></elevationProfile>',
    ).replace(
        "<lateralProfile/>",
        '<lateralProfile ><superelevation s="0" a="0.1" b="0" c="0" d="0"/></lateralProfile>',
    )
    assert hilly != GOOD
    before, after = carla.Map("a", hilly), carla.Map("b", flatten(hilly))
    for one, other in zip(
        before.generate_waypoints(20.0), after.generate_waypoints(20.0), strict=True
    ):
        a, b = one.transform.location, other.transform.location
        assert a.z > 4
        assert b.z == 0
        assert (a.x, a.y) == pytest.approx((b.x, b.y), abs=1e-3)
    assert flatten(GOOD) == flatten(hilly)
