"""The driving page without a browser or a simulator: drives are written by hand, as the trace's format has it.

Real drives are in tests/browser/test_driving.py, and in the tests of ``apps.driving``.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.driving.evaluation.episode import RouteResult
from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.trace import Trace
from apps.driving.rig import LETFUSER
from core.errors import DataError, UsageError
from core.progress import Progress, SilentProgress
from demos.drives import exports, pictures, plots, results, running, town
from demos.drives.choice import WEATHERS, Choice
from demos.shared import jobs

pytest.importorskip("streamlit")

ROOT = Path(__file__).resolve().parents[2]
TOWN01, ROUTES = ROOT / "samples" / "Town01.xodr", ROOT / "samples" / "routes.xml"
CHOICE = Choice(
    town=str(TOWN01),
    routes=None,
    route="",
    drawn=1,
    metres=(60, 110),
    driver="blind",
    supervisor=False,
    traffic=10,
    walkers=5,
    weather="Clear noon",
    seed=0,
    max_seconds=60,
)
DECISIONS = 41
RED = Infraction("red_light", 2.5, (25.0, 0.0), "ran the red light <7>")


def write_drive(out: Path, driver: str = "blind", bad: bool = True) -> Path:
    """A drive of 4 s straight on, as ``apps.driving.drive(trace=True)`` leaves it in ``out``."""
    folder = out / "1.trace"
    (folder / "pictures").mkdir(parents=True)
    s = np.arange(0.0, 101.0, 10.0)
    meta = {
        "format": "triptych-drive-trace",
        "version": 1,
        "route": "1",
        "town": "Town01",
        "agent": driver,
        "seed": 0,
        "interval": 0.1,
        "picture_every": 2,
        "rig": LETFUSER.as_dict(),
        "plan": {
            "xy": [[x, 0.0] for x in s],
            "s": list(s),
            "speed_limit": [8.0] * len(s),
            "command": [4] * len(s),
        },
        "lanes": [{"points": [[-10.0, 0.0], [110.0, 0.0]], "width": 3.5, "junction": False}],
        "lights": [],
        "stops": [],
        "crosswalks": [],
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    found = (RED,) if bad else ()
    lines = []
    for number in range(DECISIONS):
        now = round(0.1 * number, 3)
        line: dict[str, Any] = {
            "number": number, "time": now, "x": 10 * now, "y": 0.0, "yaw": 0.0, "speed": 5.0,
            "limit": 8.0, "throttle": 0.5, "steer": -0.1, "brake": 0.0, "completion": 10 * now,
            "index": 1, "command": "LEFT", "target": [5.0, 1.0],
            "waypoints": [[12.0, 0.0], [18.0, 0.5]], "target_speed": 6.0,
            "parts": {"network": [0.6, -0.2, 0.0]}, "lights": {}, "neighbours": [],
            "hazards": ["light"] if 10 <= number < 15 else [],
            "interventions": ["creep"] if number in (20, 21) else [],
            "infractions": [
                {"kind": one.kind, **one.as_dict()} for one in found if one.time == now
            ],
        }  # fmt: skip
        if number % 2 == 0:
            line["pictures"] = number // 2
        lines.append(json.dumps(line))
        if number % 2 == 0:
            for kind, suffix in (("rgb", "jpg"), ("depth", "jpg"), ("semantics", "png")):
                shade = np.full((160, 960, 3), 40 + 4 * number, np.uint8)
                shade[:, 320:640, 1] = 200  # the front camera can be told from the others
                Image.fromarray(shade).save(
                    folder / "pictures" / f"{number // 2:06d}-{kind}.{suffix}"
                )
    (folder / "ticks.jsonl").write_text("".join(f"{line}\n" for line in lines))
    row = RouteResult(
        route="1",
        town="Town01",
        agent=driver,
        seed=0,
        status="completed" if bad else "perfect",
        completion=40.0,
        length=100.0,
        duration=4.0,
        infractions=found,
        decisions=DECISIONS,
        decision_ms={"mean": 1.5, "p95": 2.0},
        interventions={"creep": 2},
    ).as_dict()
    (folder / "result.json").write_text(json.dumps(row))
    (out / "summary.json").write_text(json.dumps({"routes": [row]}))
    (out / "1.mp4").write_bytes(b"not really a film")
    return out


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """Drives that take no time; the choices that were driven. ``constant`` runs a red light."""
    driven: list[Choice] = []

    def drive(choice: Choice, folder: Path, progress: Progress) -> Path:
        driven.append(choice)
        if choice.driver == "expert":
            raise DataError("route 1: is for Town02, but this is Town01")
        if choice.driver == "late-fusion":
            with progress.task("drive late-fusion", total=1) as task:
                while True:
                    task.advance(0)
                    time.sleep(0.02)
        return write_drive(folder / running.OUT, choice.driver, choice.driver == "constant")

    monkeypatch.setattr(running, "drive_choice", drive)
    jobs_before = dict(jobs._jobs)
    yield driven  # type: ignore[misc]
    for key in set(jobs._jobs) - set(jobs_before):
        jobs.forget(key)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(write_drive(tmp_path / "drive") / "1.trace")


def pick(app: Any, *drivers: str) -> Any:
    """Press Drive for these drivers."""
    app.multiselect(key="drives-drivers").set_value(list(drivers)).run()
    return button(app, "Drive").click().run()


def button(app: Any, label: str) -> Any:
    found = [one for one in app.button if one.label.startswith(label)]
    assert found, [one.label for one in app.button]
    return found[0]


def texts(app: Any) -> str:
    return "\n".join(str(one.value) for one in (*app.markdown, *app.caption))


# --- the page


def test_the_first_paint_needs_neither_simulator_nor_model(open_page):
    before = set(sys.modules)
    app = open_page("driving")
    assert not {"torch", "monai", "carla"} & (set(sys.modules) - before)
    assert app.title[0].value == "Driving"
    assert not button(app, "Drive").disabled
    assert app.multiselect(key="drives-drivers").value == ["small"]
    assert not app.error


def test_every_widget_has_a_name(open_page):
    app = open_page("driving")
    for kind in ("selectbox", "multiselect", "slider", "number_input", "toggle", "radio"):
        assert all(one.label.strip() for one in app.get(kind)), kind


def test_without_a_driver_there_is_nothing_to_press(open_page):
    app = open_page("driving")
    app.multiselect(key="drives-drivers").set_value([]).run()
    assert button(app, "Drive").disabled
    assert "at least one driver" in texts(app)


def test_what_is_not_installed_is_said(open_page, monkeypatch):
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    app = open_page("driving")
    assert "pip install -e '.[driving]'" in app.warning[0].value
    assert button(app, "Drive").disabled


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("town.xodr", bytes(range(256)) * 10, "town.xodr"),
        ("town.xodr", b"<OpenDRIVE></OpenDRIVE>", "town.xodr"),
        ("town.xodr", b"<!DOCTYPE x><OpenDRIVE></OpenDRIVE>", "DTD"),
        ("town.xodr", b"", "empty"),
        ("town.txt", b"text", "does not read such files"),
        ("../../etc/x.xodr", b"<a/>", "x.xodr"),
    ],
)
def test_towns_that_are_none(open_page, name, content, said):
    app = open_page("driving")
    app.selectbox(key="drives-town").set_value("My own OpenDRIVE file").run()
    assert button(app, "Drive").disabled
    app.file_uploader(key="drives-own-town").set_value((name, content, "text/xml")).run()
    assert not app.exception
    assert said in app.error[0].value
    assert "Traceback" not in app.error[0].value
    assert "/tmp" not in app.error[0].value
    assert button(app, "Drive").disabled


def test_own_town_and_own_routes(open_page):
    app = open_page("driving")
    app.selectbox(key="drives-town").set_value("My own OpenDRIVE file").run()
    app.file_uploader(key="drives-own-town").set_value(
        ("mine.xodr", TOWN01.read_bytes(), "text/xml")
    ).run()
    assert not app.error
    assert not button(app, "Drive").disabled
    app.radio(key="drives-route-My own OpenDRIVE file").set_value("From my own route file").run()
    assert button(app, "Drive").disabled
    field = app.file_uploader(key="drives-own-routes")
    field.set_value(("r.xml", b"<routes><route id='1'/></routes>", "text/xml")).run()
    assert "route 1: names no town" in app.error[0].value
    field = app.file_uploader(key="drives-own-routes")
    field.set_value(("r.xml", ROUTES.read_bytes(), "text/xml")).run()
    assert not app.error
    assert "Which of its 23 routes" in [one.label for one in app.selectbox]
    assert "As the route file says" in app.selectbox(key="drives-weather").options
    assert not button(app, "Drive").disabled


def test_a_generated_town_is_drawn(open_page):
    app = open_page("driving")
    app.selectbox(key="drives-town").set_value("A generated town").run()
    specs = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    first = specs[0]["data"][0]
    app.number_input[0].set_value(8).run()
    second = json.loads(app.get("plotly_chart")[0].proto.spec)["data"][0]
    assert first["x"] != second["x"]


def test_a_model_folder_that_is_none(open_page, tmp_path, by_hand):
    app = open_page("driving")
    app.text_input(key="drives-own").set_value(str(tmp_path / "nothing")).run()
    assert "no such model folder" in app.error[0].value
    app.text_input(key="drives-own").set_value(str(tmp_path)).run()
    assert "model.json" in app.error[0].value
    app.text_input(key="drives-own").set_value(str(ROOT / "weights" / "small")).run()
    assert not app.error


def test_a_drive_is_shown_and_every_moment_of_it(open_page, settle, by_hand):
    app = settle(pick(open_page("driving"), "constant"))
    assert [one.driver for one in by_hand] == ["constant"]
    metrics = {one.label: one.value for one in app.metric}
    expected = RouteResult("1", "", "", 0, "", 40.0, 100.0, infractions=(RED,)).as_dict()
    assert metrics["Driving score 2.1"] == f"{expected['driving_score_2_1']:.1f}"
    assert metrics["Driving score 1.0"] == f"{expected['driving_score_1_0']:.1f}"
    assert metrics["Infractions"] == "1"
    assert "creep 2" in texts(app)
    key = by_hand[0].key
    slider = app.slider(key=f"moment-{key}")
    assert (slider.min, slider.max, slider.value) == (0.0, pytest.approx(4.0), 0.0)

    slider.set_value(1.2).run()
    assert "**1.2 s**" in texts(app)
    assert "waits for light" in texts(app)
    button(app, "2.5 s: red lights").click().run()
    assert app.slider(key=f"moment-{key}").value == pytest.approx(2.5)
    button(app, "End").click().run()
    assert app.slider(key=f"moment-{key}").value == pytest.approx(4.0)
    button(app, "1 s back").click().run()
    assert "**3.0 s**" in texts(app)
    # the plots' line is where the slider is
    charts = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    lines = [
        shape["x0"]
        for chart in charts
        for shape in chart["layout"].get("shapes", [])
        if shape["type"] == "line"
    ]
    assert lines
    assert set(lines) == {3.0}


def test_the_colours_of_the_classes_are_told(open_page, settle, by_hand):
    app = settle(pick(open_page("driving"), "blind"))
    told = app.get("html")[0].proto.body
    assert "rgb(128,64,128)" in told.split("roads")[0]
    assert "traffic light" in told


def test_playing_moves_on_and_ends_at_the_end(open_page, settle, by_hand):
    app = settle(pick(open_page("driving"), "blind"))
    key = by_hand[0].key
    app.toggle(key=f"playing-{key}").set_value(True).run()
    for _ in range(3):  # in a browser the fragment does this by itself
        app.run()
    assert app.slider(key=f"moment-{key}").value >= 1.5
    for _ in range(8):
        app.run()
    assert app.slider(key=f"moment-{key}").value == pytest.approx(4.0)
    assert app.toggle(key=f"playing-{key}").value is False


def test_drives_are_compared_and_the_same_is_not_driven_twice(open_page, settle, by_hand):
    app = settle(pick(open_page("driving"), "blind", "constant"))
    assert "Comparison" in [one.value for one in app.header]
    table = app.dataframe[0].value
    assert list(table["driver"]) == ["blind", "constant"]
    assert list(table["infractions"]) == ["none", "red lights 1"]
    shown = app.selectbox(key="drives-shown")
    assert "blind" in str(shown.format_func(shown.value))
    assert {one.label: one.value for one in app.metric}["Infractions"] == "0"
    shown.set_value(by_hand[1].key).run()
    assert {one.label: one.value for one in app.metric}["Infractions"] == "1"

    app = settle(pick(app, "blind"))
    assert len(by_hand) == 2
    other = settle(pick(open_page("driving"), "constant"))
    assert len(by_hand) == 2
    assert {one.label: one.value for one in other.metric}["Infractions"] == "1"

    app.selectbox(key="drives-weather").set_value("Fog").run()
    # what is looked at says itself what it is; the new choice is another drive
    assert "clear noon" in str(app.selectbox(key="drives-shown").options)
    settle(pick(app, "blind"))
    assert [one.weather for one in by_hand] == ["Clear noon", "Clear noon", "Fog"]


def test_a_failure_is_a_sentence_and_can_be_tried_again(open_page, settle, by_hand):
    app = settle(pick(open_page("driving"), "expert"))
    assert "is for Town02" in app.error[0].value
    assert len(by_hand) == 1
    app = settle(button(app, "Try again").click().run())
    assert len(by_hand) == 2
    assert "is for Town02" in app.error[0].value


def test_a_drive_is_cancelled_and_begun_again(open_page, settle, by_hand):
    app = pick(open_page("driving"), "late-fusion")
    deadline = time.monotonic() + 20
    while not by_hand and time.monotonic() < deadline:
        time.sleep(0.02)
    app.run()
    button(app, "Cancel").click().run()
    app = settle(app)
    assert "was cancelled" in app.info[0].value
    pick(app, "late-fusion")
    deadline = time.monotonic() + 20
    while len(by_hand) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(by_hand) == 2
    jobs.find(by_hand[1].key).cancel()  # type: ignore[union-attr]


# --- choices and routes


def test_another_choice_is_another_result(tmp_path):
    changes: list[dict[str, Any]] = [
        {"town": "procedural:7"},
        {"routes": str(ROUTES)},
        {"route": "3"},
        {"drawn": 2},
        {"metres": (60, 120)},
        {"driver": "constant"},
        {"supervisor": True},
        {"traffic": 11},
        {"walkers": 6},
        {"weather": "Fog"},
        {"seed": 1},
        {"max_seconds": 70},
    ]
    assert {name for change in changes for name in change} == set(CHOICE.__dataclass_fields__)
    keys = {CHOICE.key, *(replace(CHOICE, **change).key for change in changes)}
    assert len(keys) == 1 + len(changes)
    file = tmp_path / "town.xodr"
    file.write_text("a")
    own = replace(CHOICE, town=str(file))
    first = own.key
    file.write_text("bb")
    assert own.key != first


def test_a_route_is_taken_from_its_file():
    choice = replace(CHOICE, routes=str(ROUTES), route="3")
    assert running.route_of(choice, SilentProgress()).id == "3"
    with pytest.raises(UsageError, match=r"routes\.xml.*unknown route '99'"):
        running.route_of(replace(choice, route="99"), SilentProgress())


def test_weathers_are_those_of_the_app():
    from apps.driving.routes.sampling import typical_weather

    for pair in WEATHERS.values():
        assert pair is None or typical_weather(*pair)["sun_altitude_angle"]


def test_what_a_choice_becomes(monkeypatch, tmp_path):
    from apps.driving.evaluation import runner

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        runner, "drive", lambda *where, **how: calls.append({"where": where, **how})
    )
    choice = replace(CHOICE, routes=str(ROUTES), route="3", weather="Fog", supervisor=True)
    running.drive_choice(choice, tmp_path, SilentProgress())
    (call,) = calls
    town_, (spec,), driver = call["where"]
    assert (town_, spec.id, driver) == (str(TOWN01), "3", "blind")
    assert spec.weather["fog_density"] > 10
    assert call["supervisor"]
    assert call["trace"]
    assert call["max_seconds"] == 60
    assert call["weather"] == "routes"
    running.drive_choice(replace(choice, weather="Drawn from the seed"), tmp_path, SilentProgress())
    assert calls[1]["weather"] == "varied"


def test_why_no_route_was_drawn_is_passed_on():
    told = json.dumps({"error": {"type": "DataError", "message": "no route", "exit_code": 3}})
    assert isinstance(running._failure(told, 3, "x"), DataError)
    assert "ended with -11" in str(running._failure("", -11, "x"))
    assert "ended with 1" in str(running._failure("[]", 1, "x"))


# --- pictures, plots, tables


def test_a_strip_has_the_points_aimed_for_and_can_be_one_camera(trace):
    whole = pictures.strip(trace, 0, "rgb")
    front = pictures.strip(trace, 0, "rgb", 1)
    assert whole is not None
    assert front is not None
    assert whole.shape == (160, 960, 3)
    np.testing.assert_array_equal(front, whole[:, 320:640])
    plain = trace.image(0, "rgb")
    assert plain is not None
    changed = (whole != plain).any(-1)
    assert changed[:, 320:640].sum() > 30  # 12 and 18 m ahead
    assert not changed[:, :320].any()
    assert pictures.strip(trace, 0, "truth") is None
    depth = pictures.strip(trace, 0, "depth")
    np.testing.assert_array_equal(depth, trace.image(0, "depth"))


def test_the_drivers_own_map_is_shown_where_there_is_one(trace):
    assert pictures.own_map(trace, 5) is None
    cells = Image.new("P", (3, 2), 1)
    cells.putpalette([0, 0, 0, 128, 64, 128])
    cells.save(trace.folder / "pictures" / "000001-birdseye.png")
    shown = pictures.own_map(trace, 2)
    assert shown is not None
    assert shown.shape == (8, 12, 3)
    assert (shown == (128, 64, 128)).all()


def test_points_are_of_the_moment_of_their_picture(trace):
    assert pictures.taken(trace, 3).number == 2
    assert pictures.taken(trace, -1).number == 40


def test_plots_mark_what_happened_where_the_slider_is(trace):
    figure = plots.over_time(trace, 1.5)
    named = {one.name: one for one in figure.data if one.x is not None and len(one.x) > 1}
    assert np.allclose(named["speed"].y, 3.6 * 5.0)
    assert np.allclose(named["limit"].y, 3.6 * 8.0)
    marks = next(one for one in figure.data if one.name == "infraction")
    assert list(marks.x) == [2.5]
    assert {shape.x0 for shape in figure.layout.shapes} == {1.5}
    # only curves with points can be clicked
    assert all("markers" in one.mode for one in named.values())


def test_bars_say_what_held_the_car_back(trace):
    assert plots.hazards(trace) == [(1.0, 1.5, "light")]


def test_ways_and_speeds_of_drives_of_one_route(trace):
    figure = plots.on_the_ground([("a", trace), ("<b>", trace)])
    ways = [one for one in figure.data if one.name in ("a", "<b>")]
    np.testing.assert_allclose(ways[0].x, trace.columns["x"])
    assert "<b>" not in ways[1].hovertemplate.replace("<extra>", "")
    assert [one.name for one in figure.data if "infractions" in one.name]
    speeds = plots.along_the_route([("a", trace)])
    np.testing.assert_allclose(speeds.data[1].x, trace.columns["completion"])  # 100 m


def test_the_table_is_the_trace(trace):
    rows = list(csv.DictReader(io.StringIO(exports.decisions_csv(trace).decode())))
    assert len(rows) == DECISIONS
    assert float(rows[25]["time"]) == pytest.approx(2.5)
    assert rows[25]["infractions"] == "red_light: ran the red light <7>"
    assert rows[12]["hazards"] == "light"
    assert rows[20]["interventions"] == "creep"
    assert rows[0]["red_light"] == ""  # this driver has no opinion
    assert rows[0]["waypoints"] == "12.00,0.00 18.00,0.50"


def test_the_replay_is_a_page_of_its_own(monkeypatch, trace):
    monkeypatch.setattr(results, "trace_of", lambda choice: trace)
    for _ in range(2):  # made once
        page = results._replay(CHOICE, trace.folder.parent).decode()
    assert "<h1>blind on route 1 in Town01</h1>" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_archive_is_the_folder(trace):
    out = trace.folder.parent
    with zipfile.ZipFile(io.BytesIO(exports.archive(out))) as packed:
        assert packed.testzip() is None
        assert packed.read("summary.json") == (out / "summary.json").read_bytes()
        assert len(packed.namelist()) == sum(file.is_file() for file in out.rglob("*"))
    assert exports.film(out) == out / "1.mp4"
    assert exports.film(trace.folder) is None


def test_a_town_from_above():
    x, _ = town.edges(str(TOWN01), "")
    assert np.isfinite(x).sum() > 1000
    assert np.nanmax(x) - np.nanmin(x) > 300  # m
    figure = town.picture(str(TOWN01), "", running.route_of(
        replace(CHOICE, routes=str(ROUTES), route="0"), SilentProgress()))  # fmt: skip
    assert list(figure.data[1].text) == ["start", "goal"]
    assert figure.layout.yaxis.autorange == "reversed"
