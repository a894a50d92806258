"""From files to result folders: geometry, statistics, and inputs that are wrong in every known way."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import apps.medical
from apps.medical.data.volume import read_image
from apps.medical.predict import as_json, predict
from core.errors import DataError, ResourceError, UsageError

FILES = {
    "seg.nii.gz", "uncertainty.nii.gz", "stats.json", "overlay.png", "report.html", "report.pdf",
    "manifest.json",
}  # fmt: skip


def only(results):
    assert len(results) == 1
    assert results[0].error is None, results[0].error
    return results[0]


def error_of(results) -> str:
    assert len(results) == 1
    assert results[0].error is not None
    assert "\n" not in results[0].error
    return results[0].error


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")] if folder.exists() else []


def test_case_folder_lies_on_the_inputs_own_grid(tmp_path, model_3d, write_volume) -> None:
    """Oblique, with scl_slope, left-handed axes: affine, shape and codes come back bit for bit."""
    affine = np.array([[0, 0, -1.2, 40], [0.9, 0.1, 0, -3], [-0.1, 0.9, 0, 9], [0, 0, 0, 1.0]])
    path = write_volume("sub-1.T1 w.nii.gz", affine=affine)
    source = nib.load(path)
    source.header.set_slope_inter(0.25, -10)
    source.set_sform(affine, code=3)
    source.set_qform(affine, code=1)
    nib.save(source, path)

    result = only(predict(path, model_3d, tmp_path / "out"))
    folder = tmp_path / "out" / "sub-1.T1 w"
    assert result.folder == folder
    assert {p.name for p in folder.iterdir()} == FILES
    before, after = nib.load(path), nib.load(folder / "seg.nii.gz")
    assert after.shape == before.shape
    assert after.affine.tobytes() == before.affine.tobytes()
    for key in ("sform_code", "qform_code", "pixdim", "srow_x", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(after.header[key], before.header[key])
    assert after.get_data_dtype() == np.uint8
    # nibabel hides what it applies, so look at the stored bytes: slope 1, intercept 0.
    header = gzip.decompress((folder / "seg.nii.gz").read_bytes())[:348]
    assert struct.unpack_from("<ff", header, 112) == (1.0, 0.0)
    stored = gzip.decompress(path.read_bytes())[:348]
    assert struct.unpack_from("<ff", stored, 112) == (0.25, -10.0)
    inside = np.asarray(after.dataobj) == 2
    mean = result.stats["labels"]["front"]["mean_intensity"]
    assert mean == pytest.approx(before.get_fdata()[inside].mean(), rel=1e-5)
    values = np.unique(np.asarray(after.dataobj))
    assert set(values.tolist()) <= {0, 2, 5}
    assert not leftovers(tmp_path / "out")


def test_mha_input_and_nifti_output_agree_in_the_world(tmp_path, model_3d, write_volume) -> None:
    """ITK's LPS millimetres in, NIfTI's RAS out: the same voxel stays at the same place."""
    import SimpleITK as sitk

    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[c, -s, 0, -12], [s, c, 0, 30.5], [0, 0, 1, 7.25], [0, 0, 0, 1]])
    affine[:3, :3] *= (0.9, 1.0, 1.2)
    nifti = write_volume(affine=affine)
    image = sitk.ReadImage(str(nifti))
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    result = only(predict(tmp_path / "scan.mha", model_3d, tmp_path / "out"))
    after = nib.load(result.folder / "seg.nii.gz")
    np.testing.assert_allclose(after.affine, nib.load(nifti).affine, atol=1e-5)
    reference = only(predict(nifti, model_3d)).labels
    assert (np.asarray(after.dataobj) == reference).mean() > 0.99
    seg = sitk.ReadImage(str(result.folder / "seg.nii.gz"))
    np.testing.assert_allclose(seg.GetOrigin(), image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(seg.GetDirection(), image.GetDirection(), atol=1e-5)


def test_statistics_and_manifest(tmp_path, model_3d, write_volume) -> None:
    path = write_volume()
    stats = only(predict([path], model_3d, tmp_path / "out", seed=7)).stats
    folder = tmp_path / "out" / "case"
    labels = np.asarray(nib.load(folder / "seg.nii.gz").dataobj)
    image = nib.load(path)
    voxel = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert json.loads((folder / "stats.json").read_text()) == stats
    assert stats["unit"] == "mL"
    for name, label in (("front", 2), ("back", 5)):
        entry, mask = stats["labels"][name], labels == label
        assert entry["voxels"] == mask.sum()
        assert entry["mL"] == pytest.approx(mask.sum() * voxel, rel=1e-5)
        if mask.any():
            assert entry["mean_intensity"] == pytest.approx(image.get_fdata()[mask].mean())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"] == [
        {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    ]
    for name in ("seg.nii.gz", "stats.json", "overlay.png"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert manifest["outputs"][name] == digest
    weights = hashlib.sha256((model_3d / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["model"]["weights"] == {"model.safetensors": weights}
    assert manifest["options"]["overlap"] == 0.5
    assert manifest["options"]["device"].split(":")[0] in ("cpu", "cuda", "mps")  # never "auto"
    assert manifest["environment"]["seed"] == 7
    assert manifest["environment"]["packages"]["torch"]
    assert manifest["seconds"] > 0
    assert manifest["peak_memory_mb"] > 0
    assert "Not a medical device" in manifest["disclaimer"]
    assert Image.open(folder / "overlay.png").size[0] > 800


def test_in_memory_equals_on_disk(tmp_path, model_3d, write_volume) -> None:
    path = write_volume()
    predict(path, model_3d, tmp_path / "out")
    disk = nib.load(tmp_path / "out" / "case" / "seg.nii.gz")
    model = apps.medical.load_model(model_3d)
    for given in (path, read_image(path), nib.load(path)):
        result = only(apps.medical.predict(given, model))
        np.testing.assert_array_equal(result.labels, np.asarray(disk.dataobj))
        assert result.to_nibabel().affine.tobytes() == disk.affine.tobytes()
    with pytest.raises(UsageError, match="cannot segment a float"):
        predict([1.5], model)


def test_every_option_that_must_not_change_the_labels(tmp_path, model_3d, write_volume) -> None:
    path = write_volume(shape=(30, 22, 26), affine=np.diag([1.0, 1, 1, 1]))
    model = apps.medical.load_model(model_3d)
    plain = only(predict(path, model)).labels
    assert len(np.unique(plain)) > 1
    whole = only(predict(path, model, save_probabilities=True))
    np.testing.assert_array_equal(whole.labels, plain)
    assert whole.probabilities.shape == (3, 30, 22, 26)
    total = whole.probabilities.astype(np.float32).sum(0)
    np.testing.assert_allclose(total, 1, atol=5e-3)
    np.testing.assert_array_equal(only(predict(path, model, mem_limit=2 << 20)).labels, plain)
    np.testing.assert_array_equal(only(predict(path, model, batch=4)).labels, plain)


def test_tta_and_fast_and_folds(tmp_path, save_small, make_plan, write_volume) -> None:
    for fold in range(2):
        save_small(tmp_path / "m" / f"fold_{fold}", make_plan(), seed=fold)
    path = write_volume(shape=(34, 20, 20), affine=np.eye(4))
    out = tmp_path / "out"
    ensemble = only(predict(path, tmp_path / "m", out / "a", tta=True, report=False))
    assert ensemble.folder is not None
    manifest = json.loads((ensemble.folder / "manifest.json").read_text())
    assert manifest["model"]["folds"] == ["fold_0", "fold_1"]
    assert manifest["options"]["tta"] is True
    fast = only(predict(path, tmp_path / "m", out / "b", fast=True, report=False))
    manifest = json.loads((fast.folder / "manifest.json").read_text())
    assert manifest["model"]["folds"] == ["fold_0"]
    assert manifest["options"]["overlap"] == 0.25
    with pytest.raises(UsageError, match="contradict"):
        predict(path, tmp_path / "m", fast=True, tta=True)


def test_volume_smaller_than_the_window(tmp_path, model_3d, write_volume) -> None:
    path = write_volume(shape=(5, 9, 7))
    result = only(predict(path, model_3d, tmp_path / "out"))
    assert nib.load(result.folder / "seg.nii.gz").shape == (5, 9, 7)


def test_resampled_and_cropped_cases_come_back(tmp_path, model_3d, write_volume) -> None:
    """Two millimetres against the plan's one, and an empty margin: the grid is still the input's."""
    path = write_volume(shape=(14, 15, 12), affine=np.diag([2.0, 2, 2, 1]))
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[:4] = array[:, :3] = 0
    nib.save(nib.Nifti1Image(array, image.affine), path)
    result = only(predict(path, model_3d, tmp_path / "out"))
    labels = np.asarray(nib.load(result.folder / "seg.nii.gz").dataobj)
    assert labels.shape == (14, 15, 12)
    assert not labels[:4].any()
    assert any("trained on 1 x 1 x 1 mm" in warning for warning in result.warnings)


def test_unusual_field_of_view_and_anisotropy_are_told(tmp_path, model_3d, write_volume) -> None:
    path = write_volume(shape=(20, 20, 60), affine=np.diag([1.0, 1, 4, 1]))
    warnings = only(predict(path, model_3d)).warnings
    assert any("field of view" in w and "crop" in w for w in warnings)
    assert any("anisotropic" in w for w in warnings)


def test_two_inputs_of_one_name(tmp_path, model_3d, write_volume) -> None:
    first, second = write_volume("x/scan.nii.gz"), write_volume("y/Scan.nii")
    with pytest.raises(UsageError) as caught:
        predict([first, second], model_3d, tmp_path / "out")
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_channels_in_files(tmp_path, save_small, make_plan, write_volume) -> None:
    model = save_small(tmp_path / "m", make_plan(channels=2))
    for channel in range(2):
        write_volume(f"p.1_{channel:04d}.nii.gz", seed=channel)
    result = only(predict(tmp_path / "in", model, tmp_path / "out"))
    assert result.case == "p.1"
    means = result.stats["labels"]["front"]["mean_intensity"]
    assert means is None or len(means) == 2

    write_volume("p.1_0002.nii.gz")
    assert "found 3 channel files" in error_of(predict(tmp_path / "in", model))
    (tmp_path / "in" / "p.1_0001.nii.gz").unlink()
    assert "p.1_0001" in error_of(predict(tmp_path / "in", model))
    (tmp_path / "in" / "p.1_0002.nii.gz").unlink()
    assert "1 channel(s), the model wants 2" in error_of(predict(tmp_path / "in", model))


def test_one_bad_input_among_many(tmp_path, model_3d, write_volume) -> None:
    good, other = write_volume("good.nii.gz"), write_volume("other.nii.gz", seed=1)
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.write_bytes(good.read_bytes()[:200])  # a truncated gzip
    files = [good, bad, tmp_path / "in" / "gone.nii", other]
    results = predict(files, model_3d, tmp_path / "out", report=False)
    report = as_json(results)
    assert [case["status"] for case in report["cases"]] == ["done", "failed", "failed", "done"]
    assert (report["done"], report["failed"]) == (2, 2)
    assert "bad.nii.gz" in results[1].error
    assert "no such file" in results[2].error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good", "other"]


def test_constant_image(model_3d, write_volume) -> None:
    path = write_volume()
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), 7, np.int16), np.eye(4)), path)
    assert "every voxel is 7" in error_of(predict(path, model_3d))


def test_not_a_number_is_refused_or_repaired(tmp_path, model_3d, write_volume) -> None:
    path = write_volume(dtype=np.float32)
    array = np.asarray(nib.load(path).dataobj).copy()
    array[3, 3, 3], array[4, 4, 4], array[5, 5, 5] = np.nan, np.inf, -np.inf
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    assert "3 NaN or infinite" in error_of(predict(path, model_3d))
    result = only(predict(path, model_3d, tmp_path / "out", repair=True))
    assert any("3 NaN or infinite voxels were replaced" in w for w in result.warnings)
    assert "NaN" not in (result.folder / "stats.json").read_text()


def test_four_dimensional_input_says_what_to_do(model_3d, write_volume) -> None:
    path = write_volume(shape=(8, 8, 8, 3))
    message = error_of(predict(path, model_3d))
    assert "4-D" in message
    assert "split" in message
    with pytest.raises(DataError, match="split"):
        predict(nib.load(path), model_3d)


def test_existing_output_is_detected_before_any_work(tmp_path, model_3d, write_volume) -> None:
    first, second = write_volume("one.nii.gz"), write_volume("two.nii.gz", seed=1)
    out = tmp_path / "out"
    predict(second, model_3d, out, report=False)
    stamp = (out / "two" / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match=r"two already exists.*--force.*--continue"):
        predict([first, second], model_3d, out)
    assert sorted(p.name for p in out.iterdir()) == ["two"]

    results = predict([first, second], model_3d, out, resume=True, report=False)
    assert [r.skipped for r in results] == [False, True]
    assert (out / "two" / "manifest.json").read_bytes() == stamp
    (out / "two" / "mine.txt").write_text("x")
    predict([first, second], model_3d, out, force=True)
    assert {p.name for p in (out / "two").iterdir()} == FILES
    assert not leftovers(out)

    (out / "one" / "manifest.json").unlink()  # not ours, or not whole
    with pytest.raises(UsageError, match="already exists"):
        predict([first, second], model_3d, out, resume=True)
    with pytest.raises(UsageError, match="choose one"):
        predict(first, model_3d, out, force=True, resume=True)


def test_output_that_is_a_file(tmp_path, model_3d, write_volume) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="needs a folder"):
        predict(write_volume(), model_3d, tmp_path / "out")


@pytest.mark.parametrize("where", ["seg", "overlay", "report", "manifest"])
@pytest.mark.parametrize("force", [False, True])
def test_full_disk_leaves_no_half_case(
    tmp_path, model_3d, write_volume, monkeypatch, where, force
) -> None:
    first, second = write_volume("one.nii.gz"), write_volume("two.nii.gz", seed=1)
    out, reported = tmp_path / "out", where == "report"
    predict([first, second] if force else first, model_3d, out, report=False)
    kept = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "seg":
        monkeypatch.setattr(nib, "save", full)
    elif where == "overlay":
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    elif where == "report":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        original = Path.write_text

        def write_text(self, *args, **kwargs):
            return full() if "manifest" in self.name else original(self, *args, **kwargs)

        monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(ResourceError, match="no space left"):
        predict(second, model_3d, out, force=force, report=reported)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == kept
    assert not leftovers(out)


def test_really_full_disk(tmp_path, model_3d, write_volume) -> None:
    """On a file system of 16 KiB, where one may be mounted."""
    out = tmp_path / "small"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(out)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        with pytest.raises(ResourceError, match="no space left"):
            predict(write_volume(), model_3d, out)
        assert list(out.iterdir()) == []
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_no_permission_to_write(tmp_path, model_3d, write_volume, monkeypatch) -> None:
    """Root may write anywhere, so the system's answer is simulated."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ResourceError, match="no permission to write"):
        predict(write_volume(), model_3d, tmp_path / "out")


def test_interrupted_replacement_keeps_the_old_case(
    tmp_path, model_3d, write_volume, monkeypatch
) -> None:
    """Killed between moving the old folder aside and the new one in."""
    path, out = write_volume(), tmp_path / "out"
    predict(path, model_3d, out)
    kept = (out / "case" / "manifest.json").read_bytes()

    real = os.replace

    def replace(source, target):
        if Path(target) == out / "case":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        predict(path, model_3d, out, force=True)
    assert (out / "case" / "manifest.json").read_bytes() == kept
    assert not leftovers(out)


def test_unknown_model_names_the_nearest(tmp_path, model_3d, write_volume, monkeypatch) -> None:
    shutil.copytree(model_3d, tmp_path / "weights" / "hippocampus")
    monkeypatch.setenv("TRIPTYCH_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(UsageError, match="Did you mean 'hippocampus'"):
        predict(write_volume(), "hipocampus")
    assert only(predict(write_volume())).labels is not None  # the default


def test_picture_in_colour(tmp_path, save_small, make_plan) -> None:
    """seg.png beside seg.nii.gz, sizes in pixels, grey accepted for colour."""
    colours = make_plan(rank=2, channels=3).model_copy(
        update={"channels": ["red", "green", "blue"]}
    )
    model = save_small(tmp_path / "m", colours)
    rng = np.random.default_rng(0)
    for name, shape in (("rgb_0001", (40, 30, 3)), ("rgba", (40, 30, 4)), ("grey", (40, 30))):
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in ("rgb_0001", "rgba", "grey")]
    results = predict(files, model, tmp_path / "out")
    assert [r.error for r in results] == [None] * 3
    for result in results:
        mask = np.asarray(Image.open(result.folder / "seg.png"))
        assert mask.shape == (40, 30)
        volume = nib.load(result.folder / "seg.nii.gz")
        np.testing.assert_array_equal(np.asarray(volume.dataobj).reshape(40, 30), mask)
        front = result.stats["labels"]["front"]
        assert front["pixels"] == front["voxels"] == (mask == 2).sum()
        assert result.warnings == [] or "nothing" in result.warnings[0]


def test_objects_are_numbered_and_counted(tmp_path, save_small, make_plan) -> None:
    model = save_small(tmp_path / "m", make_plan(rank=2, target="instances"), seed=3)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "cells.png")
    result = only(predict(tmp_path / "cells.png", model, tmp_path / "out"))
    mask = np.asarray(Image.open(result.folder / "seg.png"))
    count = len(np.unique(mask[mask > 0]))
    assert result.stats["objects"]["count"] == count == mask.max() > 0
    sizes = np.bincount(mask.ravel())[1:]
    assert result.stats["objects"]["median_size_pixels"] == np.median(sizes)


def test_wrong_dimension_for_the_model(tmp_path, model_3d) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "x.png")
    assert "3-D model" in error_of(predict(tmp_path / "x.png", model_3d))
