"""A validator finds what is wrong, each and every thing, and nothing in a good data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.driving.recordings.card import write_card
from apps.driving.recordings.check import check_dataset
from apps.driving.rig import Rig

Write = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path, record: Write) -> Path:
    for town in ("Town01", "Town02"):
        weather = {"cloudiness": 10.0, "sun_altitude_angle": 60.0 if town == "Town01" else -40.0}
        record(
            tmp_path / "d" / "S" / town / "r",
            about={"town": town, "weather": weather, "seed": 3, "agent": "expert"},
        )
    return tmp_path / "d"


def test_good(data: Path, rig: Rig) -> None:
    report = check_dataset(data, rig=rig)
    assert report["ok"], report["problems"]
    assert (report["routes"], report["frames"], report["samples"]) == (2, 20, 12)
    assert report["towns"] == {"Town01": 6, "Town02": 6}
    assert report["tags"] == {"new": 2}


def test_every_problem_is_told(data: Path, rig: Rig) -> None:
    first, second = data / "S/Town01/r", data / "S/Town02/r"
    png = first / "depth" / "0003.png"
    png.write_bytes(png.read_bytes()[:200])
    for number, change in (("0002", {"steer": 1.5}), ("0005", {"throttle": -0.5})):
        file = first / "measurements" / f"{number}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (second / "rgb" / "0001.png").unlink()
    report = check_dataset(data, rig=rig)
    assert not report["ok"]
    told = "\n".join(report["problems"])
    for word in ("depth/0003.png", "0002.json: steer", "0005.json: throttle", "rgb/0001.png"):
        assert word in told
    assert len(report["problems"]) == 4


def test_a_car_that_was_put_elsewhere(tmp_path: Path, record: Write, rig: Rig) -> None:
    record(tmp_path / "r", pose=lambda k: (2.0 * k + (100 if k > 4 else 0), 0.0, 0.0))
    problems = check_dataset(tmp_path, rig=rig)["problems"]
    assert len(problems) == 1
    assert "0004.json: 102.0 m" in problems[0]


def test_nothing_there(tmp_path: Path, rig: Rig) -> None:
    assert "no recordings" in check_dataset(tmp_path, rig=rig)["problems"][0]


def test_card(data: Path, rig: Rig) -> None:
    card = write_card(data, rig=rig)
    assert card == json.loads((data / "card.json").read_text())
    assert card["weather"] == {"clear, day": 1, "clear, night": 1}
    assert card["commands"] == {"lane_follow": 12}
    assert card["shares"]["standing"] == 0
    assert (card["seeds"], card["drivers"]) == (["3"], {"expert": 2})
    text = (data / "README.md").read_text()
    assert "| Town02 | 1 | 10 | 6 |" in text
    assert card["digest"] in text
    write_card(data, rig=rig)  # again, over its own
    assert check_dataset(data, rig=rig)["ok"]
