"""The page that a traced drive becomes, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHADES = (40, 120, 200)


@pytest.fixture
def replay(tmp_path: Path) -> str:
    """The page of three moments; the cameras see ever brighter red."""
    from PIL import Image

    from apps.driving.evaluation.trace import Trace, picture_name
    from apps.driving.rig import LETFUSER

    (tmp_path / "pictures").mkdir()
    meta = {
        "format": "triptych-drive-trace", "version": 1, "route": "r1", "town": "Town01",
        "agent": "small", "seed": 3, "interval": 0.1, "picture_every": 1, "rig": LETFUSER.as_dict(),
        "plan": {
            "xy": [[0.0, 0.0], [50.0, 0.0]], "s": [0.0, 50.0], "speed_limit": [8.0, 8.0],
            "command": [4, 4],
        },
        "lanes": [{"points": [[-9.0, 0.0], [90.0, 0.0]], "width": 3.5, "junction": False}],
    }  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    lines = []
    for number, shade in enumerate(SHADES):
        tick = {
            "number": number, "time": float(number), "x": 9.0 * number, "y": 0.0, "yaw": 0.0,
            "speed": 5.0, "limit": 8.0, "throttle": 0.5, "steer": 0.0, "brake": 0.0,
            "completion": 10.0 * number, "index": 0, "command": "LANE_FOLLOW",
            "target": [5.0, 0.0], "pictures": number,
        }  # fmt: skip
        lines.append(f"{json.dumps(tick)}\n")
        picture = Image.new("RGB", (960, 160), (shade, 0, 0))
        picture.save(tmp_path / "pictures" / picture_name(number, "rgb"))
    (tmp_path / "ticks.jsonl").write_text("".join(lines))
    made = Trace(tmp_path).replay()
    made.save(tmp_path / "replay.html")
    return (tmp_path / "replay.html").read_text()


def shade(image: np.ndarray) -> float:
    middle = image[image.shape[0] // 2, image.shape[1] // 2]
    return float(middle[0])


def test_the_slider_leads_through_the_drive(
    page: Any, replay: str, pixels: Any, shoot: Any
) -> None:
    page.set_content(replay)
    cameras = page.get_by_alt_text("What the cameras saw")
    above = page.get_by_alt_text("The car from above")
    slider = page.get_by_role("slider", name="Moment")
    seen = []
    slider.focus()
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        page.wait_for_timeout(200)
        seen.append(shade(pixels(cameras)))
    assert seen == pytest.approx(SHADES, abs=6)
    assert pixels(above).std() > 20
    shoot(page, "end")
    assert page.get_by_text("2.0 s; 18 km/h").is_visible()
    assert slider.get_attribute("aria-valuetext").startswith("2.0 s")


def test_it_plays_to_the_end_and_stops(page: Any, replay: str) -> None:
    page.set_content(replay)
    page.get_by_role("button", name="Play").click()
    page.get_by_text("2.0 s; 18 km/h").wait_for()
    page.get_by_role("button", name="Play").wait_for()
    page.get_by_role("button", name="Play").click()  # again, from the beginning
    page.get_by_text("1.0 s; 18 km/h").wait_for()


def test_two_of_the_same_go_each_their_own_way(page: Any, replay: str) -> None:
    body = replay[replay.index("<div") : replay.index("</body>")]
    page.set_content(f"<main>{body}{body}</main>")
    first, second = page.get_by_role("slider").all()
    second.focus()
    page.keyboard.press("End")
    assert (first.input_value(), second.input_value()) == ("0", "2")
    assert page.get_by_text("2.0 s; 18 km/h").count() == 1
    assert page.get_by_text("0.0 s; 18 km/h").count() == 1


def test_it_fits_a_telephone(narrow: Any, replay: str, shoot: Any) -> None:
    narrow.set_content(replay)
    narrow.get_by_role("slider").wait_for()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
    shoot(narrow, "telephone")
