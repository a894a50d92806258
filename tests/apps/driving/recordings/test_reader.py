"""Samples of recordings, ours and TransFuser's, and what is wrong with bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.driving.recordings.pictures import write_png
from apps.driving.recordings.reader import open_dataset, read_route
from apps.driving.rig import LETFUSER, Rig
from core.errors import DataError, UsageError

Write = Callable[..., Path]
Frame = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def test_pictures_come_back(tmp_path: Path, record: Write, rig: Rig, frame: Frame) -> None:
    recording = read_route(record(tmp_path / "r"), rig=rig)
    for i in (0, 5):
        sample = recording.sample(i)
        rgb, depth, semantics = frame(i)
        np.testing.assert_array_equal(sample.rgb, rgb)
        np.testing.assert_array_equal(sample.semantics, semantics)
        np.testing.assert_allclose(sample.depth, depth, atol=1e-4)  # steps of 0.06 mm
        assert sample.depth.dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 1), (7, 5, 3), (160, 960), (33, 200, 3)])
def test_pngs_are_what_pillow_and_any_other_reader_reads(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()  # checksums
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("L" if picture.ndim == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_depth_of_nothing_is_far(tmp_path: Path, rig: Rig, frame: Frame) -> None:
    from apps.driving.recordings.layout import Measurement
    from apps.driving.recordings.writer import Recorder

    rgb, depth, semantics = frame(0)
    depth[0, 0, :3] = np.nan, np.inf, 0.0
    here = Measurement(np.zeros(2), 0.0, 0.0, np.ones(2), 4, 0.0, 0.0, 1.0)
    with Recorder(tmp_path / "r", rig) as to:
        to.add(rgb, depth, semantics, here)
    read = read_route(tmp_path / "r", rig=rig).picture(0, "depth")
    np.testing.assert_allclose(read[0, 0, :3], [1000.0, 1000.0, 0.0], atol=1e-4)


def test_waypoints_are_where_the_car_went(tmp_path: Path, record: Write, rig: Rig) -> None:
    """On a circle to the right, radius 20 m: a step of angle a lies at (R sin a, R (1 - cos a))."""
    step = 6.0

    def pose(k: int) -> tuple[float, float, float]:
        a = np.radians(step * k)
        return 7 + 20 * np.sin(a), -3 + 20 * (1 - np.cos(a)), step * k

    recording = read_route(record(tmp_path / "r", 12, pose=pose), rig=rig, steps=4)
    assert len(recording) == 8
    a = np.radians(step * np.arange(1, 5))
    wanted = np.stack([20 * np.sin(a), 20 * (1 - np.cos(a))], -1)
    for i in range(len(recording)):
        np.testing.assert_allclose(recording.labels(i).waypoints, wanted, atol=1e-5)
        x, y, heading = pose(i)
        forward = np.array([np.cos(np.radians(heading)), np.sin(np.radians(heading))])
        away = np.array([40.0, 5.0]) - [x, y]
        target = [away @ forward, away @ [-forward[1], forward[0]]]
        np.testing.assert_allclose(recording.labels(i).target, target, atol=1e-4)


def test_no_sample_looks_across_a_gap(tmp_path: Path, record: Write, rig: Rig) -> None:
    ticks = [0, 1, 2, 3, 4, 5, 9, 10, 11, 12]
    recording = read_route(record(tmp_path / "r", 10, ticks=ticks), rig=rig, steps=2)
    assert [recording.labels(i).tick for i in range(len(recording))] == [0, 1, 2, 3, 9, 10]
    for i in range(len(recording)):
        np.testing.assert_allclose(recording.labels(i).waypoints[:, 0], [2.0, 4.0], atol=1e-5)
    np.testing.assert_array_equal(recording.columns["tick"], [0, 1, 2, 3, 9, 10])


def test_time_must_go_on(tmp_path: Path, record: Write, rig: Rig) -> None:
    route = record(tmp_path / "r", 4, ticks=[0, 1, 1, 2])
    with pytest.raises(DataError, match="tick"):
        read_route(route, rig=rig)


def test_reads_what_transfuser_wrote(
    tmp_path: Path, transfuser: Write, rig: Rig, frame: Frame
) -> None:
    route = transfuser(tmp_path / "Scenario1" / "Town05_Scenario1" / "route_00", theta=np.pi / 2)
    recording = read_route(route, rig=rig, root=tmp_path)
    assert (recording.town, recording.table) == ("Town05", "old")
    sample = recording.sample(1)
    rgb, depth, _ = frame(1)
    np.testing.assert_array_equal(sample.rgb, rgb)
    np.testing.assert_allclose(sample.depth, depth, atol=1e-4)
    np.testing.assert_array_equal(np.unique(sample.semantics), [1, 11])
    np.testing.assert_allclose(sample.waypoints[:, 0], [2, 4, 6, 8], atol=1e-5)
    np.testing.assert_allclose(sample.waypoints[:, 1], 0, atol=1e-5)
    # the next point: 10 m ahead, and from y = 5 to y = 9, so 4 m to the right
    np.testing.assert_allclose(sample.target, [10.0, 4.0], atol=1e-5)
    assert (sample.red_light, sample.stop_sign, sample.walker, sample.vehicle) == (
        True,
        False,
        True,
        False,
    )
    assert sample.command == 1


def test_nan_theta_is_read(tmp_path: Path, transfuser: Write, rig: Rig) -> None:
    recording = read_route(transfuser(tmp_path / "r", theta=float("nan")), rig=rig)
    assert np.isfinite(recording.columns["waypoints"]).all()


def test_tables_mixed_in_a_route(tmp_path: Path, transfuser: Write, rig: Rig) -> None:
    old, new = transfuser(tmp_path / "a"), transfuser(tmp_path / "b", table="new")
    (new / "semantics" / "0007.png").replace(old / "semantics" / "0007.png")
    with pytest.raises(DataError, match=r"mixed tables of tags.*0007"):
        read_route(old, rig=rig).sample(0)


def test_a_picture_of_the_other_table_is_found_when_it_is_read(
    tmp_path: Path, transfuser: Write, rig: Rig
) -> None:
    old, new = transfuser(tmp_path / "a", 40), transfuser(tmp_path / "b", table="new")
    recording = read_route(old, rig=rig)
    assert recording.table == "old"
    (new / "semantics" / "0007.png").replace(old / "semantics" / "0003.png")
    with pytest.raises(DataError, match=r"0003\.png: has the new table"):
        recording.sample(3)


def test_a_table_that_is_not_the_one_declared(tmp_path: Path, transfuser: Write, rig: Rig) -> None:
    route = transfuser(tmp_path / "a")
    (route / "route.json").write_text('{"tags": "new"}')
    with pytest.raises(DataError, match="says its tags are new"):
        read_route(route, rig=rig).sample(0)


def test_tags_beyond_the_old_table(tmp_path: Path, transfuser: Write, rig: Rig) -> None:
    route = transfuser(tmp_path / "a")
    file = route / "semantics" / "0002.png"
    picture = np.array(Image.open(file))
    picture[0, 0] = 27
    Image.fromarray(picture).save(file)
    with pytest.raises(DataError, match=r"0002\.png: tag 27"):
        read_route(route, rig=rig).sample(2)


def test_both_tables_in_one_data_set_are_one(tmp_path: Path, transfuser: Write, rig: Rig) -> None:
    transfuser(tmp_path / "Town01" / "a")
    transfuser(tmp_path / "Town02" / "b", table="new")
    dataset = open_dataset([tmp_path], rig=rig)
    assert {r.table for r in dataset.recordings} == {"old", "new"}
    for sample in dataset:
        np.testing.assert_array_equal(np.unique(sample.semantics), [1, 11])


@pytest.mark.parametrize("kind", ["rgb", "depth", "semantics"])
def test_truncated_png(tmp_path: Path, record: Write, rig: Rig, kind: str) -> None:
    file = record(tmp_path / "r") / kind / "0001.png"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{kind}/0001.png.*not a whole PNG"):
        read_route(tmp_path / "r", rig=rig).sample(1)


def test_no_png_at_all(tmp_path: Path, record: Write, rig: Rig) -> None:
    (record(tmp_path / "r") / "rgb" / "0001.png").write_bytes(b"GIF89a" + b"0" * 100)
    with pytest.raises(DataError, match=r"0001\.png"):
        read_route(tmp_path / "r", rig=rig).sample(1)


@pytest.mark.parametrize("kind", ["rgb", "depth", "semantics"])
def test_a_missing_kind_of_picture_is_named(
    tmp_path: Path, record: Write, rig: Rig, kind: str
) -> None:
    route = record(tmp_path / "r")
    (route / kind / "0003.png").unlink()
    with pytest.raises(DataError, match=f"{kind}/0003.png: is missing"):
        read_route(route, rig=rig)
    (route / kind).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"no folder {kind}"):
        read_route(route, rig=rig)


def test_other_cameras(tmp_path: Path, record: Write, transfuser: Write, rig: Rig) -> None:
    with pytest.raises(DataError, match="other cameras"):
        read_route(record(tmp_path / "r"))  # with LETFUSER's
    with pytest.raises(DataError, match="48 x 8 pixels, not the 960 x 160"):
        read_route(transfuser(tmp_path / "t"), rig=LETFUSER).sample(0)


def test_data_set(tmp_path: Path, record: Write, rig: Rig) -> None:
    for town, name, frames in (("Town01", "a", 7), ("Town01", "b", 4), ("Town02", "a", 9)):
        record(tmp_path / "S" / town / name, frames, about={"town": town})
    whole = open_dataset([tmp_path], rig=rig)
    assert whole.routes == ("S/Town01/a", "S/Town01/b", "S/Town02/a")
    assert whole.towns == ("Town01", "Town02")
    assert len(whole) == 3 + 0 + 5
    places = [whole.place(i) for i in range(len(whole))]
    assert [(r.name[-1], r.town, k) for r, k in places] == [
        *(("a", "Town01", k) for k in range(3)),
        *(("a", "Town02", k) for k in range(5)),
    ]
    for name, column in whole.columns.items():
        assert len(column) == 8, name
    held_out = open_dataset([tmp_path], towns=["Town02"], rig=rig)
    rest = open_dataset([tmp_path], exclude=["Town02"], rig=rig)
    assert (held_out.towns, rest.towns) == (("Town02",), ("Town01",))
    assert not set(held_out.routes) & set(rest.routes)
    with pytest.raises(IndexError):
        whole[8]


def test_digest_tells_data_apart(tmp_path: Path, record: Write, rig: Rig) -> None:
    route = record(tmp_path / "d" / "Town01" / "a")
    before = open_dataset([tmp_path / "d"], rig=rig).digest
    (tmp_path / "d").rename(tmp_path / "e")
    assert open_dataset([tmp_path / "e"], rig=rig).digest == before  # wherever it lies
    file = tmp_path / "e" / "Town01" / "a" / "measurements" / "0004.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"brake": 1.0}))
    assert open_dataset([tmp_path / "e"], rig=rig).digest != before
    assert route != file


def test_what_is_not_there(tmp_path: Path, record: Write, rig: Rig) -> None:
    with pytest.raises(UsageError, match="no samples"):
        open_dataset([tmp_path], rig=rig)
    record(tmp_path / "a" / "Town01" / "r")
    with pytest.raises(UsageError, match="Town7"):
        open_dataset([tmp_path], exclude=["Town7"], rig=rig)
    with pytest.raises(UsageError, match="give each folder once"):
        open_dataset([tmp_path / "a", tmp_path / "a"], rig=rig)


def test_reading_needs_no_carla() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['carla'] = None; sys.modules['torch'] = None;"
        "import apps.driving.recordings.reader, apps.driving.recordings.writer;"
        "import apps.driving.recordings.check, apps.driving.recordings.card;"
        "import apps.driving.recordings.collect"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
