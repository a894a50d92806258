"""Traces read back: whole ones, ones that are still written, and damaged ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.driving.agents.base import Command
from apps.driving.evaluation import trace as module
from apps.driving.evaluation import trace_format
from apps.driving.evaluation.trace import Trace, clear, picture_name
from apps.driving.evaluation.trace_format import PICTURES
from apps.driving.rig import LETFUSER
from core.errors import DataError, UsageError

META: dict[str, Any] = {
    "format": "triptych-drive-trace",
    "version": 1,
    "route": "r1",
    "town": "Town01",
    "agent": "small",
    "seed": 3,
    "interval": 0.1,
    "picture_every": 2,
    "rig": LETFUSER.as_dict(),
    "plan": {
        "xy": [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]],
        "s": [0.0, 1.0, 2.0],
        "speed_limit": [8.0, 8.0, 8.0],
        "command": [4, 4, 1],
    },
    "lanes": [{"points": [[0.0, 0.0], [2.0, 0.0]], "width": 3.5, "junction": False}],
    "lights": [{"id": 7, "lines": [[[2.0, -1.0], [2.0, 1.0]]]}],
    "stops": [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]],
    "crosswalks": [],
}
RED = {"kind": "red_light", "time": 0.3, "position": [1.0, 0.0], "message": "ran the red light 7"}


def tick(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "time": 0.1 * number,
        "x": float(number),
        "y": 0.0,
        "yaw": 0.0,
        "speed": 5.0,
        "limit": 8.0,
        "throttle": 0.5,
        "steer": -0.1,
        "brake": 0.0,
        "completion": 10.0 * number,
        "index": 1,
        "command": "LEFT",
        "target": [5.0, 1.0],
        "waypoints": [[2.0, 0.0], [4.0, 0.5]],
        "red_light": 0.25,
        "parts": {"network": [0.6, -0.2, 0.0]},
        "lights": {"7": "Red"},
        "neighbours": [
            {"id": 9, "kind": "walker", "x": 1.0, "y": 2.0, "yaw": 3.0, "length": 0.4,
             "width": 0.4, "speed": 1.2}
        ],
    } | changes  # fmt: skip


def lines(*ticks: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in ticks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "r1.trace"
    (found / PICTURES).mkdir(parents=True)
    (found / "meta.json").write_text(json.dumps(META))
    ticks = [
        tick(0, pictures=0),
        tick(1, interventions=["emergency brake"], throttle=None),
        tick(2, interventions=["emergency brake", "creep"], pictures=1),
        tick(3, infractions=[RED]),
    ]
    (found / "ticks.jsonl").write_text(lines(*ticks))
    for number in (0, 1):
        picture = Image.new("RGB", (96, 16), (200, 10 + 100 * number, 10))
        picture.save(found / PICTURES / picture_name(number, "rgb"))
    return found


def test_everything_comes_back(folder: Path) -> None:
    trace = Trace(folder)
    meta = trace.meta
    assert (meta.route, meta.agent, meta.seed, meta.length) == ("r1", "small", 3, 2.0)
    assert meta.rig == LETFUSER
    assert meta.plan.shape == (3, 2)
    assert meta.lanes[0].width == 3.5
    assert meta.lights[7][0].tolist() == [[2.0, -1.0], [2.0, 1.0]]
    assert len(trace) == 4
    first, second = trace[0], trace[1]
    assert first.command == Command.LEFT
    assert first.waypoints.tolist() == [[2.0, 0.0], [4.0, 0.5]]
    assert first.parts == {"network": (0.6, -0.2, 0.0)}
    assert first.lights == {7: "Red"}
    assert first.neighbours[0].kind == "walker"
    assert first.red_light == 0.25
    assert math.isnan(first.target_speed)
    assert math.isnan(second.throttle)
    assert trace.columns["x"].tolist() == [0, 1, 2, 3]
    assert np.isnan(trace.columns["throttle"]).tolist() == [False, True, False, False]
    assert not trace.over
    assert [one.kind for one in trace.infractions] == ["red_light"]


def test_time_leads_to_a_decision(folder: Path) -> None:
    trace = Trace(folder)
    assert [trace.at(time) for time in (-1.0, 0.0, 0.1, 0.19, 0.2, 99.0)] == [0, 0, 1, 1, 2, 3]


def test_interventions_have_a_beginning_and_an_end(folder: Path) -> None:
    assert Trace(folder).interventions == [
        (pytest.approx(0.1), pytest.approx(0.3), "emergency brake"),
        (pytest.approx(0.2), pytest.approx(0.3), "creep"),
    ]


def test_a_decision_without_a_picture_has_the_last_one(folder: Path) -> None:
    trace = Trace(folder)
    assert trace.kinds == ("rgb",)
    assert [trace.picture(i).name for i in range(4)] == [
        *("000000-rgb.jpg",) * 2,
        *("000001-rgb.jpg",) * 2,
    ]
    assert trace.picture(-1) == trace.picture(3)
    assert trace.picture(3, "truth") is None
    assert trace.image(3, "truth") is None
    image = trace.image(3)
    assert image.shape == (16, 96, 3)
    assert abs(int(image[8, 8, 1]) - 110) < 4
    with pytest.raises(UsageError, match="deph"):
        trace.picture(0, "deph")


def test_a_drive_is_followed_while_it_goes_on(folder: Path) -> None:
    trace = Trace(folder)
    before = trace.columns["x"]
    file = folder / "ticks.jsonl"
    whole = lines(tick(4), tick(5))
    with file.open("a") as stream:
        stream.write(whole[:-7])
    assert trace.refresh() == 1  # of the second there is only a part
    assert trace.refresh() == 0
    with file.open("a") as stream:
        stream.write(whole[-7:])
    assert trace.refresh() == 1
    assert len(trace) == 6
    assert len(before) == 4
    assert trace.columns["x"].tolist() == [0, 1, 2, 3, 4, 5]
    late = {"time": 0.55, "position": [5.0, 0.0], "message": "not there after 1 s"}
    light = {key: value for key, value in RED.items() if key != "kind"}
    found = {"status": "failed", "infractions": {"red_light": [light], "route_timeout": [late]}}
    (folder / "result.json").write_text(json.dumps(found))
    assert trace.refresh() == 0
    assert trace.over
    assert trace.result["status"] == "failed"
    assert [one.kind for one in trace.infractions] == ["red_light", "route_timeout"]


def test_a_drive_that_has_just_begun_has_no_decisions(folder: Path) -> None:
    (folder / "ticks.jsonl").unlink()
    trace = Trace(folder)
    assert len(trace) == 0
    assert trace.kinds == ()
    assert trace.picture(-1) is None
    assert trace.at(3.0) == 0
    assert trace.interventions == []
    assert trace.columns["time"].shape == (0,)


def test_a_drive_that_was_begun_anew_is_noticed(folder: Path) -> None:
    trace = Trace(folder)
    (folder / "ticks.jsonl").unlink()
    (folder / "ticks.jsonl").write_text(lines(tick(0)))
    with pytest.raises(DataError, match="begun anew"):
        trace.refresh()


def test_where_no_trace_is(tmp_path: Path) -> None:
    assert not Trace.begun(tmp_path)
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="no drive is traced here"):
            Trace(place)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "other"}, "not the trace of a drive"),
        ({"version": 2}, "version 2"),
        ({"plan": {"xy": [[0, 0]]}}, "plan.xy has 1 points"),
        ({"plan": META["plan"] | {"s": [0.0]}}, "plan.s has 1 numbers; want 3"),
        ({"plan": META["plan"] | {"xy": [[0, 0], [1, "x"], [2, 0]]}}, "want a number"),
        ({"plan": None}, "plan is not what"),
        ({"rig": {"cameras": []}}, "cameras"),
        ({"rig": {"cameras": [{"name": "a", "colour": 1}]}}, "rig"),
        ({"lanes": [3]}, "an entry is not"),
        ({"lanes": [{"points": [[0, 0], [1, 0]], "width": 1e300}]}, "lanes.width"),
        ({"lights": [{"id": -1, "lines": []}]}, "lights.id is '-1'"),
        ({"stops": [[[0, 0]]]}, "stops has 1 points"),
        ({"seed": True}, "seed is 'True'"),
        ({"route": 5}, "route is not"),
    ],
)
def test_meta_that_is_wrong_is_named(folder: Path, changes: dict[str, Any], match: str) -> None:
    (folder / "meta.json").write_text(json.dumps(META | changes))
    with pytest.raises(DataError, match=match) as caught:
        Trace(folder)
    assert "meta.json" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "want decision 4"),
        (json.dumps(tick(5)), "want decision 4"),
        (json.dumps(tick(4, time=0.1)), "backwards"),
        (json.dumps(tick(4, time=None)), "time is no number"),
        (json.dumps(tick(4, x=math.nan)), "x is 'nan'"),
        (json.dumps(tick(4, speed=10**400)), "speed is"),
        (json.dumps(tick(4, steer="left")), "steer is 'left'"),
        (json.dumps(tick(4, command="JUMP")), "command 'JUMP'"),
        (json.dumps(tick(4, target=[1])), "target has 1 numbers"),
        (json.dumps(tick(4, waypoints=[[1, 2, 3]])), "waypoints has 3"),
        (json.dumps(tick(4, parts={"network": [1]})), "parts has 1"),
        (json.dumps(tick(4, neighbours=[{"id": 1}])), "neighbours.kind"),
        (json.dumps(tick(4, lights={"../7": "Red"})), "lights is '-1'"),
        (json.dumps(tick(4, infractions=[RED | {"kind": "murder"}])), "infraction 'murder'"),
        (json.dumps(tick(4, pictures="../../x")), "pictures is '../../x'"),
        (json.dumps(tick(4, hazards=["x" * 200_000])), "over 128 KB"),
    ],
)
def test_a_damaged_line_is_named(folder: Path, line: str, match: str) -> None:
    trace = Trace(folder)
    with (folder / "ticks.jsonl").open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(DataError, match=match) as caught:
        trace.refresh()
    assert "ticks.jsonl, line 5" in str(caught.value)
    assert len(trace) == 4


def test_a_damaged_result_is_named(folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps({"infractions": {"red_light": [{}]}}))
    with pytest.raises(DataError, match=r"result\.json"):
        _ = Trace(folder).infractions
    (folder / "result.json").write_text("nonsense")
    with pytest.raises(DataError, match=r"result\.json"):
        Trace(folder)


def test_what_is_no_picture_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace(folder)
    file = folder / PICTURES / picture_name(0, "rgb")
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_PICTURE_BYTES", 10)
        with pytest.raises(DataError, match="MB"):
            trace.image(0)
    file.write_bytes(b"GIF89a nonsense")
    with pytest.raises(DataError, match="not a picture"):
        trace.image(0)


def test_sizes_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TICKS", 3)
    with pytest.raises(DataError, match="over 3 decisions"):
        Trace(folder)
    monkeypatch.setattr(trace_format, "MAX_META_BYTES", 100)
    with pytest.raises(DataError, match="over 0 MB"):
        Trace(folder)


def test_clearing_takes_a_trace_and_nothing_else(folder: Path) -> None:
    other = folder.parent / "other.trace"
    shutil.copytree(folder, other)
    (other / "notes.txt").write_text("mine")
    clear(folder)
    assert not folder.exists()
    clear(folder)
    clear(other)
    assert [file.name for file in other.iterdir()] == ["notes.txt"]
