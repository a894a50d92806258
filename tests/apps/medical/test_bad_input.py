"""What goes wrong with medical files, and the test that says what happens then.

Everything here goes through the command line: one line on standard error that names the input, the
exit code (2 usage, 3 data, 4 resources), and nothing lost; or the stated handling.

    orientation                 test_every_orientation_gives_the_same_segmentation_in_space
                                data/test_preprocess.py::test_prepare_and_restore_are_inverse_for_all_48_orientations
    array order                 test_nibabel_and_itk_files_give_the_same_segmentation
                                data/test_volume.py::test_itk_lps_becomes_ras_and_array_order_becomes_xyz
    oblique affine              test_oblique_grid_comes_back_bit_for_bit
                                data/test_volume.py::test_oblique_spacing_is_the_column_norm_not_the_diagonal
    label resampling            test_resampled_labels_are_the_models_own
                                data/test_preprocess.py::test_labels_are_resampled_per_class_and_never_invented
    anisotropy                  test_anisotropic_volume_is_segmented_and_told
                                data/test_preprocess.py::test_anisotropic_volumes_keep_their_slices_apart
                                test_train.py::test_networks_follow_an_anisotropic_plan
    scl_slope                   test_stored_slope_changes_nothing
                                data/test_volume.py::test_scl_slope_and_inter_are_applied
    4-D                         test_four_dimensions_are_refused
    NaN and infinity            test_not_a_number_is_refused_or_repaired
    constant image              test_constant_image_is_refused
    empty masks                 test_empty_masks_are_counted
                                test_metrics.py::test_empty_masks_follow_the_stated_rules
    HD95 and spacing            test_hd95_is_in_millimetres
                                test_metrics.py::test_hd95_is_in_millimetres_along_each_axis
    smaller than the window     test_volume_smaller_than_the_window
                                test_sliding.py::test_volume_smaller_than_the_window_is_padded_and_cropped_back
    0/255 masks                 test_masks_of_0_and_255_are_trained_on_and_evaluated_against
                                data/test_raster.py::test_one_bit_and_0_255_masks
    palette and alpha masks     test_every_way_to_store_a_mask_evaluates_alike
                                data/test_raster.py::test_palette_mask_reads_as_indices_and_palette_image_as_colours
                                data/test_raster.py::test_masks_in_rgba
    float labels                test_float_labels_are_rounded_when_close_and_refused_otherwise
    more than 255 labels        test_label_ids_above_255_do_not_wrap
                                data/test_targets.py::test_more_than_255_objects_get_a_wider_type
    truncated gzip              test_damaged_image_is_named_and_the_others_are_done
    wrong pairs                 test_wrong_pairs_are_listed_by_check
                                test_image_and_label_of_different_grids_stop_training
    unreadable file             test_damaged_image_is_named_and_the_others_are_done
                                test_missing_input_is_named
                                data/test_volume.py::test_unreadable_file_and_unwritable_folder
    disk full                   test_full_disk
                                test_predict.py::test_full_disk_leaves_no_half_case
    existing output             test_existing_output_is_kept_without_force
    spaces and dots in names    test_spaces_and_dots_in_names
    missing weights             test_missing_weights
    another architecture        test_weights_of_another_architecture
    poisoned checkpoint         test_poisoned_checkpoint_is_not_run
                                ../../core/weights/test_folder.py::test_pickle_is_refused_and_not_run
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
TINY = ("--model", "unet", "--option", "channels=[4, 8]", "--option", "strides=[2]")


def test_every_pitfall_has_its_test() -> None:
    """The list above names tests that exist."""
    here = Path(__file__)
    named = re.findall(r"(?:([\w./]+\.py)::)?(test_\w+)$", __doc__ or "", re.MULTILINE)
    assert len(named) > 40
    for file, test in named:
        path = here.parent / file if file else here
        assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{file} {test}"


def scan(shape: tuple[int, ...] = (14, 12, 10), seed: int = 0) -> np.ndarray:
    waves = np.sin(np.indices(shape).sum(0) / 3)
    noise = np.random.default_rng(seed).normal(0, 15, shape)
    return (100 + 60 * waves + noise).clip(1).astype(np.int16)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def labels_of(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / "seg.nii.gz").dataobj)


def refused(done: tuple[int, dict, str], code: int, *words: str) -> None:
    """One line ``error: ...`` with these words, and the exit code of its kind."""
    got, report, errors = done
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert (got, len(lines)) == (code, 1), errors
    for word in words:
        assert word in lines[0], lines[0]
    said = [case["error"] for case in report.get("cases", []) if case["error"]]
    assert lines[0] == f"error: {report['error']['message'] if 'error' in report else said[0]}"


@pytest.fixture
def segment(command, model_3d, tmp_path):
    """predict: inputs and options to (code, report, errors); the output is tmp_path / "out"."""

    def run(*arguments: object, model: Path = model_3d) -> tuple[int, dict, str]:
        return command("predict", *arguments, "--model", model, "--out", tmp_path / "out")

    return run


@pytest.fixture
def compare(command, tmp_path):
    """evaluate: (prediction, reference) arrays or folders of files to (code, report, errors)."""

    def run(pred: Path, ref: Path, *options: object) -> tuple[int, dict, str]:
        out = tmp_path / f"metrics{len(list(tmp_path.glob('*.json')))}.json"
        return command("evaluate", "--pred", pred, "--ref", ref, "--out", out, *options)

    return run


# ---- geometry --------------------------------------------------------------------------------


def test_every_orientation_gives_the_same_segmentation_in_space(segment, tmp_path) -> None:
    """Six permutations and all eight flips among them: one head, however its axes are stored."""
    image = nib.Nifti1Image(scan(), AFFINE)
    flips = list(itertools.product((1, -1), repeat=3))
    ways = [((0, 1, 2), flip) for flip in flips]
    ways += [(p, flips[3 * n % 8]) for n, p in enumerate(itertools.permutations(range(3)), 1)]
    for number, (order, flip) in enumerate(ways):
        turned = image.as_reoriented(np.array(list(zip(order, flip))))
        save(tmp_path / "in" / f"{number:02d}.nii.gz", np.asarray(turned.dataobj), turned.affine)
    code, report, _ = segment(tmp_path / "in")
    assert (code, report["done"]) == (0, len(ways))
    first = labels_of(tmp_path / "out" / "00")
    assert len(np.unique(first)) > 1
    for number in range(len(ways)):
        given = nib.load(tmp_path / "in" / f"{number:02d}.nii.gz")
        found = nib.load(tmp_path / "out" / f"{number:02d}" / "seg.nii.gz")
        assert found.affine.tobytes() == given.affine.tobytes()
        canonical = nib.as_closest_canonical(found)
        np.testing.assert_array_equal(np.asarray(canonical.dataobj), first)


def test_nibabel_and_itk_files_give_the_same_segmentation(segment, tmp_path) -> None:
    """SimpleITK's arrays are (z, y, x) and its world is LPS."""
    array = scan()
    affine = np.array([[1.0, 0, 0, -20], [0, 1, 0, 7], [0, 0, 1, 30], [0, 0, 0, 1]])
    save(tmp_path / "in" / "a.nii.gz", array, affine)
    other = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    other.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    other.SetOrigin((20, -7, 30))
    for suffix in ("mha", "nrrd"):
        sitk.WriteImage(other, str(tmp_path / "in" / f"{suffix}.{suffix}"))
    assert segment(tmp_path / "in")[0] == 0
    found = [nib.load(tmp_path / "out" / n / "seg.nii.gz") for n in ("a", "mha", "nrrd")]
    for volume in found[1:]:
        np.testing.assert_allclose(volume.affine, found[0].affine, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(volume.dataobj), np.asarray(found[0].dataobj))


def test_oblique_grid_comes_back_bit_for_bit(segment, tmp_path) -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0.1]])
    affine = np.eye(4)
    affine[:2, :3] = turn
    affine[:3, 3] = 1 / 3, -2 / 7, 1e3
    path = save(tmp_path / "in" / "case.nii.gz", scan(), affine)
    assert segment(path)[0] == 0
    before, after = nib.load(path), nib.load(tmp_path / "out" / "case" / "seg.nii.gz")
    for key in ("srow_x", "srow_y", "srow_z", "pixdim", "sform_code", "qform_code"):
        assert after.header[key].tobytes() == before.header[key].tobytes()
    assert after.shape == before.shape


def test_resampled_labels_are_the_models_own(segment, tmp_path) -> None:
    """Ids 2 and 5 with a gap between them: an average of labels would be 3 or 4."""
    for name, edge in (("coarse", 1.7), ("fine", 0.6)):
        path = save(tmp_path / "in" / f"{name}.nii.gz", scan(), np.diag([edge] * 3 + [1]))
        assert segment(path)[0] == 0
        found = labels_of(tmp_path / "out" / name)
        assert found.shape == (14, 12, 10)
        assert set(np.unique(found).tolist()) <= {0, 2, 5}
        assert len(np.unique(found)) > 1


def test_anisotropic_volume_is_segmented_and_told(segment, tmp_path) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan((20, 20, 5)), np.diag([1.0, 1, 5, 1]))
    code, report, _ = segment(path)
    assert code == 0
    assert any("anisotropic" in warning for warning in report["cases"][0]["warnings"])
    assert labels_of(tmp_path / "out" / "case").shape == (20, 20, 5)


def test_stored_slope_changes_nothing(segment, tmp_path) -> None:
    """uint8 with a slope of 2.2086 is the image that a float file of the same values is."""
    path = save(tmp_path / "in" / "slope.nii", (scan() / 2).astype(np.uint8))
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<ff", 2.2086, -30)  # scl_slope and scl_inter
    path.write_bytes(raw)
    assert nib.load(path).dataobj.slope == pytest.approx(2.2086)
    values = nib.load(path).get_fdata(dtype=np.float32)
    save(tmp_path / "in" / "float.nii.gz", values)
    code, report, _ = segment(tmp_path / "in")
    assert code == 0
    np.testing.assert_array_equal(
        labels_of(tmp_path / "out" / "slope"), labels_of(tmp_path / "out" / "float")
    )
    for case in ("slope", "float"):
        found = nib.load(tmp_path / "out" / case / "seg.nii.gz")
        assert found.header.get_slope_inter() in ((1.0, 0.0), (None, None))
        assert found.get_data_dtype() == np.uint8
    slope, plain = (
        next(c for c in report["cases"] if c["case"] == n)["stats"]["labels"]["front"]
        for n in ("slope", "float")
    )
    assert slope == pytest.approx(plain)


def test_volume_smaller_than_the_window(segment, tmp_path) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan((5, 3, 4)))
    assert segment(path)[0] == 0
    assert labels_of(tmp_path / "out" / "case").shape == (5, 3, 4)


# ---- images that are no images ---------------------------------------------------------------


def test_four_dimensions_are_refused(segment, tmp_path) -> None:
    path = save(tmp_path / "in" / "dwi.nii.gz", scan((8, 8, 8, 3)))
    refused(segment(path), 3, "dwi.nii.gz", "4-D", "split")


def test_not_a_number_is_refused_or_repaired(segment, tmp_path) -> None:
    array = scan().astype(np.float32)
    array[2, 2, 2], array[3, 3, 3] = np.nan, np.inf
    path = save(tmp_path / "in" / "case.nii.gz", array)
    refused(segment(path), 3, "case.nii.gz", "2 NaN or infinite", "--repair")
    assert not (tmp_path / "out" / "case").exists()
    code, report, _ = segment(path, "--repair")
    assert code == 0
    assert any("2 NaN or infinite" in warning for warning in report["cases"][0]["warnings"])


def test_constant_image_is_refused(segment, tmp_path) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", np.full((9, 9, 9), 7, np.int16))
    refused(segment(path), 3, "case.nii.gz", "every voxel is 7")


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "folder", "not compressed"])
def test_damaged_image_is_named_and_the_others_are_done(segment, tmp_path, kind) -> None:
    good = save(tmp_path / "in" / "good.nii.gz", scan())
    bad = tmp_path / "in" / "bad.nii.gz"
    if kind == "folder":
        bad.mkdir()
        (bad / "notes.txt").write_text("x")
    else:
        raw = good.read_bytes()
        plain = nib.Nifti1Image(scan(), AFFINE).to_bytes()
        data = {"truncated": raw[:-50], "garbage": b"nonsense", "empty": b""}
        bad.write_bytes(data.get(kind, plain))
    if kind == "folder":  # a folder named on the command line is searched for images
        refused(segment(good, bad), 3, "bad.nii.gz", "no image in it")
        return
    done = segment(good, bad)
    refused(done, 3, "bad.nii.gz")
    assert (done[1]["done"], done[1]["failed"]) == (1, 1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good"]


def test_missing_input_is_named(segment, tmp_path) -> None:
    refused(segment(tmp_path / "gone.nii.gz"), 3, "gone.nii.gz", "no such file")
    refused(segment(tmp_path / "gone"), 3, "gone")


# ---- masks -----------------------------------------------------------------------------------


def cube(shape: tuple[int, ...] = (10, 10, 10), at: int = 3) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(at, at + 4) for _ in shape)] = 1
    return mask


def test_empty_masks_are_counted(compare, tmp_path) -> None:
    for case, pred, ref in (
        ("full", cube(), cube()),
        ("both empty", 0 * cube(), 0 * cube()),
        ("missed", 0 * cube(), cube()),
    ):
        save(tmp_path / "pred" / f"{case}.nii.gz", pred)
        save(tmp_path / "ref" / f"{case}.nii.gz", ref)
    code, report, _ = compare(tmp_path / "pred", tmp_path / "ref")
    assert code == 0
    dice, hd95 = report["labels"]["1"]["dice"], report["labels"]["1"]["hd95"]
    assert (dice["mean"], dice["n"], dice["undefined"]) == (0.5, 2, 1)
    assert (hd95["mean"], hd95["n"], hd95["undefined"]) == (0, 1, 2)
    assert "undefined" in report["rules"]["both_empty"]


@pytest.mark.parametrize(("axis", "distance"), [(0, 0.5), (1, 1.0), (2, 4.0)])
def test_hd95_is_in_millimetres(compare, tmp_path, axis, distance) -> None:
    affine = np.diag([0.5, 1.0, 4.0, 1.0])
    save(tmp_path / "pred" / "case.nii.gz", np.roll(cube(), 1, axis), affine)
    save(tmp_path / "ref" / "case.nii.gz", cube(), affine)
    _, report, _ = compare(tmp_path / "pred", tmp_path / "ref")
    assert report["labels"]["1"]["hd95"]["mean"] == pytest.approx(distance)
    assert report["unit"] == "mm"


def pictures(folder: Path, count: int = 6) -> Path:
    """Grey pictures of a bright disc, and its mask stored as 0 and 255."""
    rows, columns = np.indices((24, 20))
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for n in range(count):
        disc = (rows - 10 - n % 3) ** 2 + (columns - 9) ** 2 < 30
        noise = np.random.default_rng(n).normal(0, 8, disc.shape)
        image = (60 + 120 * disc + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{n}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "masks" / f"{n}.png")
    return folder


def test_masks_of_0_and_255_are_trained_on_and_evaluated_against(
    command, compare, tmp_path
) -> None:
    """One class whichever number stores it: the model's 1 is the mask's 255."""
    data, run, out = pictures(tmp_path / "set"), tmp_path / "run", tmp_path / "out"
    code, report, _ = command("check", data)
    assert (code, report["counts"]["error"]) == (0, 0)
    options = ("--set", "patch=[16, 16]", "--max-steps", 40, "--precision", "float32")
    assert command("train", data, *TINY, *options, "--out", run)[0] == 0
    assert command("predict", data / "images", "--model", run, "--out", out)[0] == 0
    code, report, _ = compare(out, data / "masks")
    assert code == 0
    assert list(report["labels"]) == ["foreground"]
    sizes = [int((np.asarray(Image.open(p)) > 0).sum()) for p in (data / "masks").iterdir()]
    found = [case["foreground"]["volume_ref_px"] for case in report["cases"].values()]
    assert sorted(found) == sorted(sizes)
    assert report["labels"]["foreground"]["dice"]["mean"] > 0.7  # 40 steps learn a bright disc

    # The same from another tool's files, which come without a manifest and its names.
    for case in out.iterdir():
        shutil.copy(case / "seg.png", tmp_path / f"{case.name}.png")
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in tmp_path.glob("?.png"):
        file.rename(plain / file.name)
    again = compare(plain, data / "masks")[1]["labels"]["1"]["dice"]["mean"]
    assert again == report["labels"]["foreground"]["dice"]["mean"]


def test_every_way_to_store_a_mask_evaluates_alike(compare, tmp_path) -> None:
    mask = cube((20, 16), at=6)
    palette = Image.fromarray(mask, mode="P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    flat = np.full((20, 16, 3), 90, np.uint8)
    ways = {
        "grey": Image.fromarray(mask),
        "palette": palette,
        "one bit": Image.fromarray(mask * 255).convert("1"),
        "rgba": Image.fromarray(np.dstack([*[mask] * 3, np.full_like(mask, 255)])),
        "alpha": Image.fromarray(np.dstack([flat, mask])),
    }
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
    for name, picture in ways.items():
        picture.save(tmp_path / "ref" / f"{name}.png")
        Image.fromarray(np.roll(mask, 1, 0)).save(tmp_path / "pred" / f"{name}.png")
    code, report, errors = compare(tmp_path / "pred", tmp_path / "ref")
    assert code == 0, errors
    rows = [case["1"] for case in report["cases"].values()]
    assert len(rows) == len(ways)
    assert rows == [rows[0]] * len(ways)
    assert rows[0]["dice"] == pytest.approx(0.75)


def test_objects_against_numbered_pictures(compare, tmp_path) -> None:
    """A reference of 300 objects in a 16-bit PNG against a mask of 0 and 1: object by object."""
    ids = np.kron(np.arange(1, 301, dtype=np.uint16).reshape(20, 15), np.ones((4, 4), np.uint16))
    ids[::4] = ids[:, ::4] = 0
    for folder, array in (("pred", (ids > 0).astype(np.uint8)), ("ref", ids)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "x.png")
    code, report, _ = compare(tmp_path / "pred", tmp_path / "ref")
    assert (code, report["instances"]) == (0, True)
    assert report["cases"]["x"]["objects"]["objects_ref"] == 300
    assert report["cases"]["x"]["objects"]["pq"] == 1


def test_float_labels_are_rounded_when_close_and_refused_otherwise(compare, tmp_path) -> None:
    save(tmp_path / "pred" / "case.nii.gz", cube())
    save(tmp_path / "ref" / "case.nii.gz", cube().astype(np.float32) * 0.9999)
    code, report, _ = compare(tmp_path / "pred", tmp_path / "ref")
    assert (code, report["labels"]["1"]["dice"]["mean"]) == (0, 1)
    save(tmp_path / "ref" / "case.nii.gz", cube().astype(np.float32) * 0.7)
    refused(compare(tmp_path / "pred", tmp_path / "ref"), 3, "case.nii.gz", "not integers")


def test_label_ids_above_255_do_not_wrap(segment, compare, save_small, make_plan, tmp_path) -> None:
    """300 in eight bits would be 44."""
    plan = make_plan(labels={0: "background", 2: "front", 300: "back"})
    model = save_small(tmp_path / "model", plan)
    assert segment(save(tmp_path / "in" / "case.nii.gz", scan()), model=model)[0] == 0
    found = labels_of(tmp_path / "out" / "case")
    assert found.dtype == np.uint16
    assert set(np.unique(found).tolist()) - {0, 2} == {300}
    save(tmp_path / "ref" / "case.nii.gz", found)
    _, report, _ = compare(tmp_path / "out", tmp_path / "ref")
    assert report["labels"]["back"]["dice"]["mean"] == 1


# ---- data sets -------------------------------------------------------------------------------


def volumes(folder: Path, count: int = 6) -> Path:
    for n in range(count):
        save(folder / "images" / f"{n}.nii.gz", scan((9, 10, 8), n))
        save(folder / "labels" / f"{n}.nii.gz", cube((9, 10, 8)))
    return folder


def test_wrong_pairs_are_listed_by_check(command, tmp_path) -> None:
    data = volumes(tmp_path / "set")
    (data / "labels" / "1.nii.gz").unlink()
    (data / "images" / "2.nii.gz").unlink()
    code, report, _ = command("check", data)
    text = json.dumps(report)
    assert code == 3
    assert "image without label" in text
    assert "label without image" in text


def test_image_and_label_of_different_grids_stop_training(command, tmp_path) -> None:
    data = volumes(tmp_path / "set")
    save(data / "labels" / "3.nii.gz", cube((9, 10, 8)), np.diag([1.0, 1, 2, 1]))
    done = command("train", data, *TINY, "--max-steps", 1, "--out", tmp_path / "run")
    refused(done, 3, "3.nii.gz", "affines differ")
    save(data / "labels" / "3.nii.gz", cube((9, 9, 8)))
    done = command("train", data, *TINY, "--max-steps", 1, "--out", tmp_path / "run")
    refused(done, 3, "3.nii.gz", "(9, 10, 8) against (9, 9, 8)")
    assert not (tmp_path / "run" / "fold_0").exists()


# ---- outputs ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB, where one may be mounted."""
    place = tmp_path / "small disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(command, model_3d, tmp_path, small_disk) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan())
    refused(command("predict", path, "--model", model_3d, "--out", small_disk), 4, "no space left")
    assert list(small_disk.iterdir()) == []
    data = volumes(tmp_path / "set")
    options = ("--max-steps", 1, "--precision", "float32")
    done = command("train", data, *TINY, *options, "--out", small_disk / "run")
    refused(done, 4, "no space left")
    half = [p for p in small_disk.rglob("*") if p.name.startswith(".")]
    assert half == []


def test_existing_output_is_kept_without_force(segment, compare, tmp_path) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan())
    assert segment(path)[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    refused(segment(path), 2, "already exists", "--force")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
    assert segment(path, "--force")[0] == 0


def test_spaces_and_dots_in_names(segment, compare, tmp_path) -> None:
    names = ["sub-1.T1 w", "v1.2", "ünï cödé", "-dash"]
    for n, name in enumerate(names):
        save(tmp_path / "my scans" / f"{name}.nii.gz", scan(seed=n))
    code, report, _ = segment(tmp_path / "my scans")
    assert code == 0
    assert sorted(case["case"] for case in report["cases"]) == sorted(names)
    for name in names:
        shape = nib.load(tmp_path / "my scans" / f"{name}.nii.gz").shape
        assert labels_of(tmp_path / "out" / name).shape == shape
        save(tmp_path / "the refs" / f"{name}.nii.gz", labels_of(tmp_path / "out" / name))
    code, report, _ = compare(tmp_path / "out", tmp_path / "the refs")
    assert (code, report["n_cases"]) == (0, 4)


# ---- models ----------------------------------------------------------------------------------


@pytest.fixture
def broken(model_3d: Path, tmp_path: Path) -> Path:
    """A copy of the model to break."""
    return Path(shutil.copytree(model_3d, tmp_path / "model"))


def test_missing_weights(segment, broken, tmp_path) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan())
    (broken / "model.safetensors").unlink()
    refused(segment(path, model=broken), 3, "model.safetensors", "missing")
    refused(segment(path, model=tmp_path / "in"), 3, "no trained model here")
    refused(segment(path, model=tmp_path / "gone"), 2, "gone")
    refused(segment(path, model=Path("hipocampus")), 2, "unknown model 'hipocampus'")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_architecture(segment, broken, tmp_path) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan())
    card = json.loads((broken / "model.json").read_text())
    card["network"]["options"]["channels"] = [4, 16]
    (broken / "model.json").write_text(json.dumps(card))
    refused(segment(path, model=broken), 3, str(broken), "another architecture")


class Poison:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "pytorch_model.bin"])
def test_poisoned_checkpoint_is_not_run(segment, broken, tmp_path, name) -> None:
    path = save(tmp_path / "in" / "case.nii.gz", scan())
    (broken / "model.safetensors").unlink()
    (broken / name).write_bytes(pickle.dumps(Poison(f"touch '{tmp_path / 'owned'}'")))
    if name != "model.safetensors":
        refused(segment(path, model=broken / name), 3, name, "pickle", "safetensors")
    refused(segment(path, model=broken), 3, "model")
    assert not (tmp_path / "owned").exists()
    pickle.loads((broken / name).read_bytes())  # what every unpickling would have done
    assert (tmp_path / "owned").exists()
