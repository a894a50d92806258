"""Replays of traced drives: one page that holds everything."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.driving.evaluation.replay import Replay
from apps.driving.evaluation.trace import Trace, picture_name
from apps.driving.rig import LETFUSER
from core.errors import DataError, UsageError


def write(folder: Path, decisions: int, agent: str = "small", **changes: Any) -> Path:
    """A trace in which the car goes on by 1 m at each decision and the cameras see ever more red."""
    (folder / "pictures").mkdir(parents=True)
    route = [[float(x), 0.0] for x in range(decisions + 2)]
    meta = {
        "format": "triptych-drive-trace", "version": 1, "route": "r1", "town": "Town01",
        "agent": agent, "seed": 3, "interval": 0.1, "picture_every": 1, "rig": LETFUSER.as_dict(),
        "plan": {
            "xy": route, "s": [x for x, _ in route], "speed_limit": [8.0] * len(route),
            "command": [4] * len(route),
        },
        "lanes": [{"points": route, "width": 3.5, "junction": False}],
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    with (folder / "ticks.jsonl").open("w") as stream:
        for number in range(decisions):
            tick = {
                "number": number, "time": 0.5 * number, "x": float(number), "y": 0.0, "yaw": 0.0,
                "speed": 5.0, "limit": 10.0, "throttle": 0.5, "steer": -0.001, "brake": 0.0,
                "completion": 100.0 * number / decisions, "index": number, "command": "LANE_FOLLOW",
                "target": [5.0, 0.0], "pictures": number, **changes,
            }  # fmt: skip
            stream.write(f"{json.dumps(tick)}\n")
            shade = Image.new("RGB", (960, 160), (min(20 * number, 255), 60, 60))
            shade.save(folder / "pictures" / picture_name(number, "rgb"))
    return folder


def moments(page: str) -> list[dict[str, str]]:
    found = re.search(r"const moments = (\[.*\]);", page)
    assert found is not None
    return json.loads(found[1])


def decoded(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_moments_are_spread_over_the_drive(tmp_path: Path) -> None:
    replay = Replay(Trace(write(tmp_path / "t", 11)), moments=6)
    assert replay.indices == [0, 2, 4, 6, 8, 10]
    shown = moments(replay.body)
    assert len(shown) == 6
    assert shown[1]["said"].startswith(
        "1.0 s; 18 km/h (limit 36); throttle 0.50; brake 0.00; steer"
    )
    assert "steer +0.00" in shown[1]["said"]
    for k, one in enumerate(shown):
        cameras, above = decoded(one["cameras"]), decoded(one["above"])
        assert cameras.shape == (107, 640, 3)
        assert above.shape == (320, 320, 3)
        assert abs(int(cameras[50, 300, 0]) - 40 * k) < 6
    assert Trace(tmp_path / "t").replay(600 // 60).indices[-1] == 10
    assert len(Replay(Trace(tmp_path / "t")).indices) == 11


def test_the_page_is_whole_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    replay = Replay(Trace(write(tmp_path / "t", 3)))
    replay.save(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert replay._repr_html_() in text
    sources: list[str] = []
    texts: list[str | None] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            sources.extend(str(given[name]) for name in ("src", "href") if name in given)
            if tag == "img":
                texts.append(given.get("alt"))

    Reader().feed(text)
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg") for source in sources)
    assert texts == [
        "What the cameras saw: small on route r1 in Town01",
        "The car from above: small on route r1 in Town01",
    ]
    assert "http" not in text
    with pytest.raises(UsageError, match="exists"):
        replay.save(tmp_path / "r.html")
    replay.save(tmp_path / "r.html", force=True)
    again = Replay(Trace(tmp_path / "t"))
    assert again.body == replay.body


def test_what_a_driver_says_is_told(tmp_path: Path) -> None:
    late = {"kind": "red_light", "time": 1.0, "position": [0.0, 0.0], "message": "ran a red light"}
    folder = write(
        tmp_path / "t", 12, red_light=0.9, stop_sign=0.1, hazards=["walker"],
        interventions=["emergency brake"], infractions=[late],
    )  # fmt: skip
    said = [one["said"] for one in moments(Replay(Trace(folder)).body)]
    assert "sees a red light (0.90)" in said[0]
    assert "stop sign" not in said[0]
    assert "waits for walker; supervisor: emergency brake" in said[0]
    assert ["ran a red light" in one for one in said] == [False] * 2 + [True] * 6 + [False] * 4


def test_a_name_cannot_become_markup(tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script>" onload="alert(2)\''
    page = Replay(Trace(write(tmp_path / "t", 2, agent=evil, hazards=[evil]))).body
    assert page.count("<script>") == page.count("</script>") == 1
    assert 'onload="alert' not in page
    assert moments(page)[0]["said"].endswith(f"waits for {evil}")


def test_a_drive_without_pictures_has_the_view_from_above(tmp_path: Path) -> None:
    folder = write(tmp_path / "t", 2, pictures=None)
    shown = moments(Replay(Trace(folder)).body)
    assert decoded(shown[0]["cameras"])[..., 0].std() < 2
    assert decoded(shown[0]["above"])[..., 0].std() > 8


def test_what_cannot_be_replayed(tmp_path: Path) -> None:
    trace = Trace(write(tmp_path / "t", 2))
    for count in (0, 501):
        with pytest.raises(UsageError, match=f"{count} moments"):
            trace.replay(count)
    with pytest.raises(DataError, match="nothing has been driven"):
        Trace(write(tmp_path / "empty", 0)).replay()


def test_on_the_command_line(tmp_path: Path, run_json: Any) -> None:
    from apps.driving.run import app

    call = run_json(app)
    write(tmp_path / "t", 5)
    page = tmp_path / "r.html"
    code, report, _ = call("replay", tmp_path / "t", "--out", page, "--moments", 3)
    assert code == 0
    assert report == {"replay": str(page), "moments": 3, "bytes": page.stat().st_size}
    code, report, _ = call("replay", tmp_path / "t", "--out", page)
    assert (code, "already exists" in report["error"]["message"]) == (2, True)
    code, report, _ = call("replay", tmp_path, "--out", tmp_path / "other.html")
    assert (code, "no drive is traced here" in report["error"]["message"]) == (3, True)
    assert not (tmp_path / "other.html").exists()
