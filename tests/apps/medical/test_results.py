"""Result folders: what is recognised in one, and how one takes another's place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.medical.data.volume import Volume
from apps.medical.results import case_folder, check_outputs, legend, list_results, statistics
from core.errors import DataError, UsageError


def grid(rank: int = 3, affine: np.ndarray | None = None, physical: bool = True) -> Volume:
    affine = np.diag([0.5, 2.0, 3.0, 1.0]) if affine is None else affine
    spacing = tuple(np.linalg.norm(affine[:3, :rank], axis=0)) if physical else (1.0,) * rank
    return Volume(
        array=np.zeros((4,) * rank),
        affine=affine,
        spacing=spacing,
        rank=rank,
        path=Path("x"),
        physical=physical,
    )


def test_sizes_in_the_unit_of_the_grid() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0] = 1
    report = statistics(labels, grid(), {0: "background", 1: "a", 2: "b"})
    assert report["labels"]["a"] == {
        "label": 1, "voxels": 16, "mL": pytest.approx(0.048), "mean_intensity": None
    }  # fmt: skip
    assert report["labels"]["b"]["mL"] == 0
    assert legend(report) == {1: "a, 0.048 mL", 2: "b, 0 mL"}
    flat = statistics(labels[:, :, 0], grid(2), {1: "a"})
    assert flat["labels"]["a"]["mm2"] == pytest.approx(4)
    picture = statistics(labels[:, :, 0], grid(2, physical=False), {1: "a"})
    assert picture["labels"]["a"]["pixels"] == 4


def test_a_sheared_voxel_is_smaller_than_its_edges_say() -> None:
    sheared = np.eye(4)
    sheared[:3, 1] = (0.6, 0.8, 0)  # unit edge, leaning over the first axis
    labels = np.ones((4, 4, 4), np.uint8)
    report = statistics(labels, grid(affine=sheared), {1: "a"})
    assert report["labels"]["a"]["mL"] == pytest.approx(64 * 0.8 / 1000)


def test_intensities_skip_what_is_not_a_number() -> None:
    image = grid()
    image.array[0, 0, 0] = np.nan
    image.array[0, 0, 1] = 6
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, :3] = 1
    report = statistics(labels, image, {1: "a"}, images=[image, image])
    assert report["labels"]["a"]["mean_intensity"] == [3, 3]


def test_objects() -> None:
    ids = np.zeros((4, 4), np.uint16)
    ids[0, :2], ids[2:] = 3, 9
    report = statistics(ids, grid(2, physical=False), {1: "cell"}, instances=True)
    assert report["objects"]["count"] == 2
    assert report["objects"]["median_size_pixels"] == 5
    assert legend(report) == {0: "2 objects, median size 5 px"}
    none = statistics(ids * 0, grid(2, physical=False), {1: "cell"}, instances=True)
    assert legend(none) == {0: "0 objects"}


def test_what_is_a_result(tmp_path) -> None:
    for name in ("a/seg.nii.gz", "b/seg.png", "c.nii.gz", ".tmp-1-d/seg.nii.gz", "e/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(list_results(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "a.mha").write_text("x")
    with pytest.raises(DataError, match="both case a"):
        list_results(tmp_path)
    (tmp_path / "a.mha").unlink()
    (tmp_path / "b" / "manifest.json").write_text("[1]")
    with pytest.raises(DataError, match="one JSON object"):
        list_results(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        list_results(tmp_path / "nowhere")


def test_an_error_leaves_the_old_folder_and_success_replaces_it_whole(tmp_path) -> None:
    target = tmp_path / "out" / "case"
    with case_folder(target, force=False) as folder:
        (folder / "old").write_text("1")

    def fail() -> None:
        with case_folder(target, force=True) as folder:
            (folder / "new").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [file.name for file in target.iterdir()] == ["old"]
    with pytest.raises(UsageError, match="--force"), case_folder(target, force=False):
        pass
    with case_folder(target, force=True) as folder:
        (folder / "new").write_text("2")
    assert [file.name for file in target.iterdir()] == ["new"]
    assert [file.name for file in target.parent.iterdir()] == ["case"]


def test_a_link_is_replaced_and_not_followed(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    target = tmp_path / "case"
    target.symlink_to(elsewhere)
    with pytest.raises(UsageError):
        check_outputs(tmp_path, ["case"], force=False)
    with case_folder(target, force=True) as folder:
        (folder / "new").write_text("2")
    assert (elsewhere / "precious").exists()
    assert [file.name for file in target.iterdir()] == ["new"]


@pytest.mark.parametrize("below", ["file", "file/sub"])
def test_outputs_below_a_file(tmp_path, below) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file: is a file; --out needs a folder"):
        check_outputs(tmp_path / below, ["case"], force=False)
