"""Series of routes: how many, what is lost, how one goes on; and a real one, small."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.driving.recordings.check import check_dataset
from apps.driving.recordings.collect import collect, town_folder
from apps.driving.recordings.job import Job
from apps.driving.recordings.layout import Measurement
from apps.driving.recordings.process import RouteLost
from apps.driving.recordings.reader import open_dataset
from apps.driving.recordings.writer import Recorder
from apps.driving.rig import LETFUSER
from core.errors import DataError, ResourceError, UsageError

TOWN = "procedural:1"
PICTURES = (
    np.zeros((3, 160, 320, 3), np.uint8),
    np.ones((3, 160, 320), np.float32),
    np.ones((3, 160, 320), np.uint8),
)


class Fake:
    """Records routes of ``length`` frames without a simulator; some numbers fail, some for ever."""

    def __init__(
        self, length: int = 8, lost: dict[int, int] | None = None, error: Exception | None = None
    ) -> None:
        self.length, self.lost, self.error = length, dict(lost or {}), error
        self.drove: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def __call__(
        self, job: Job, told: Callable[[int], None], stop: threading.Event
    ) -> dict[str, Any]:
        with self.lock:
            self.drove.append((job.number, job.frames))
        if self.error is not None:
            raise self.error
        if self.lost.get(job.number, 0):
            self.lost[job.number] -= 1
            raise RouteLost("gone")
        frames = min(self.length, job.frames)
        about = {"town": town_folder(job.town), "seed": job.seed}
        with Recorder(Path(job.folder), LETFUSER, about=about) as to:
            for i in range(frames):
                here = np.array([i * 1.0, 0.0])
                to.add(*PICTURES, Measurement(here, 0, 2, here + 9, 4, 0, 0.5, 0, tick=i))
                told(i + 1)
        return {"frames": frames, "status": "perfect"}


def names(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("*/*/*/route.json"))


def test_ends_at_the_frames_asked_for(tmp_path: Path) -> None:
    fake = Fake()
    report = collect(TOWN, 20, tmp_path, seed=3, runner=fake)
    assert (report["frames"], report["new_frames"], report["routes"]) == (20, 20, 3)
    assert fake.drove == [(0, 20), (1, 12), (2, 4)]
    assert names(tmp_path) == [f"route_s3_{i:04d}" for i in range(3)]
    assert (tmp_path / "sampled" / "procedural_1").is_dir()
    assert report["card"]["frames"] == 20
    assert (tmp_path / "README.md").exists()


def test_progress_counts_frames_once(tmp_path: Path) -> None:
    from core.progress import Progress, Task

    seen: list[float] = []

    class Seen(Progress):
        def show(self, task: Task, event: Any) -> None:
            if task.label == "collect":
                seen.append(task.done)

    collect(TOWN, 20, tmp_path, runner=Fake(lost={1: 1}), progress=Seen())
    assert seen[-1] == 20
    assert max(seen) == 20


def test_a_lost_route_is_tried_again_then_passed_over(tmp_path: Path) -> None:
    fake = Fake(lost={0: 1, 1: 9})
    report = collect(TOWN, 16, tmp_path, runner=fake)
    assert [number for number, _ in fake.drove] == [0, 0, 1, 1, 2]
    assert names(tmp_path) == ["route_s0_0000", "route_s0_0002"]
    assert [lost["route"] for lost in report["lost"]] == ["route_s0_0001"]
    assert report["frames"] == 16


def test_when_all_are_lost_it_ends(tmp_path: Path) -> None:
    fake = Fake(lost={number: 9 for number in range(1, 99)})
    with pytest.raises(ResourceError, match=r"routes after one another were lost.*gone.*--resume"):
        collect(TOWN, 100, tmp_path, runner=fake)
    assert names(tmp_path) == ["route_s0_0000"]  # what is whole is kept


def test_routes_without_a_frame_do_not_go_on_for_ever(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no frame was worth keeping"):
        collect(TOWN, 10, tmp_path, runner=Fake(length=0))


@pytest.mark.parametrize("error", [DataError("no such town"), ResourceError("disk full")])
def test_what_no_route_can_mend_ends_it_at_once(tmp_path: Path, error: Exception) -> None:
    fake = Fake(error=error)
    with pytest.raises(type(error), match=str(error)):
        collect(TOWN, 10, tmp_path, runner=fake)
    assert len(fake.drove) == 1


def test_resumed_is_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    collect(TOWN, 30, whole, runner=Fake())
    with pytest.raises(ResourceError):
        collect(TOWN, 30, parts, runner=Fake(lost={number: 9 for number in range(2, 99)}))
    left = parts / "sampled" / "procedural_1" / ".tmp-12ab34cd-route_s0_0002"
    left.mkdir()
    with pytest.raises(UsageError, match="--resume"):
        collect(TOWN, 30, parts, runner=Fake())
    fake = Fake()
    report = collect(TOWN, 30, parts, runner=fake, resume=True)
    assert [number for number, _ in fake.drove] == [2, 3]
    assert (report["frames"], report["new_frames"]) == (30, 14)
    assert names(parts) == names(whole)
    assert open_dataset([parts]).digest == open_dataset([whole]).digest
    assert not left.exists()
    again = Fake()
    assert collect(TOWN, 30, parts, runner=again, resume=True)["new_frames"] == 0
    assert again.drove == []


def test_another_series_or_town_may_share_the_folder(tmp_path: Path) -> None:
    collect(TOWN, 5, tmp_path, runner=Fake())
    collect(TOWN, 5, tmp_path, seed=1, runner=Fake())
    collect("procedural:2", 5, tmp_path, runner=Fake())
    assert len(names(tmp_path)) == 3
    collect(TOWN, 3, tmp_path, force=True, runner=Fake())
    assert len(names(tmp_path)) == 3
    assert open_dataset([tmp_path]).towns == ("procedural_1", "procedural_2")


def test_several_at_a_time(tmp_path: Path) -> None:
    report = collect(TOWN, 40, tmp_path, jobs=3, runner=Fake(lost={1: 1}))
    assert 40 <= report["frames"] <= 40 + 2 * 8
    assert report["frames"] == sum(r.frames for r in open_dataset([tmp_path]).recordings)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"frames": 0}, "frames 0"), ({"jobs": 0}, "jobs 0"), ({"jobs": 2, "host": "x"}, "--jobs")],
)
def test_numbers_that_make_no_sense(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {"frames": 5} | options
    with pytest.raises(UsageError, match=said):
        collect(TOWN, out=tmp_path, runner=Fake(), **values)


@pytest.mark.parametrize(
    ("town", "folder"),
    [("samples/Town01.xodr", "Town01"), ("procedural:7", "procedural_7"), ("Town05", "Town05")],
)
def test_town_folder(town: str, folder: str) -> None:
    assert town_folder(town) == folder


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Really driven and recorded."""
    out = tmp_path_factory.mktemp("series")
    return out, collect(TOWN, 12, out, seed=2, traffic=6, walkers=3)


def test_a_real_route_is_fit_to_learn_from(series: tuple[Path, dict[str, Any]]) -> None:
    out, report = series
    assert report["frames"] == 12
    assert report["lost"] == []
    checked = check_dataset(out)
    assert checked["ok"], checked["problems"]
    recording = open_dataset([out]).recordings[0]
    assert recording.table == "new"
    for i in range(len(recording)):
        sample = recording.sample(i)
        # it drives ahead, as fast as it says
        step = float(np.hypot(*sample.waypoints[0]))
        after = recording.measurements[recording.frame_of(i) + 1].speed
        assert step == pytest.approx((sample.speed + after) / 4, abs=0.3)
        # the road before it, seen by a camera 2.3 m above: 60 rows below the middle of a picture
        # whose focal length is 277 pixels lies the ground at 2.3 * 277 / 60 m
        if sample.semantics[1, 139, 160] in (1, 24):
            assert sample.depth[1, 139, 160] == pytest.approx(2.3 * 277.13 / 59.5, rel=0.04)
    assert recording.measurements[-1].position[0] != recording.measurements[0].position[0]


def test_pictures_and_measurement_are_of_one_frame(series: tuple[Path, dict[str, Any]]) -> None:
    """Ticks and the simulator's frames go together: ten of these to one of those."""
    recording = open_dataset([series[0]]).recordings[0]
    frames = np.array([m.frame for m in recording.measurements])
    ticks = np.array([m.tick for m in recording.measurements])
    np.testing.assert_array_equal(np.diff(frames), 10 * np.diff(ticks))


def test_the_same_series_again(series: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    report = collect(TOWN, 12, tmp_path, seed=2, traffic=6, walkers=3)
    assert report["card"]["digest"] == series[1]["card"]["digest"]
    first, again = (sorted(p.glob("*/*/*/rgb/*.png")) for p in (series[0], tmp_path))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


def test_about_tells_how_it_was_made(series: tuple[Path, dict[str, Any]]) -> None:
    about = json.loads(next(series[0].glob("*/*/*/route.json")).read_text())
    assert about["town"] == "procedural_1"
    assert about["agent"] == "expert"
    assert (about["seed"], about["number"], about["tags"]) == (2, 0, "new")
    assert set(about["draws"]) == {"world", "route", "weather", "noise"}
    assert about["result"]["frames"] == 12
    assert "carla" in about["version"]
