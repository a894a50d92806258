"""Training a network by fold: what it leaves, what it may see, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from apps.medical import catalog
from apps.medical.data.datasets import open_dataset
from apps.medical.data.plan import network_strides, read_plan
from apps.medical.data.splits import folds
from apps.medical.models import build
from apps.medical.predict import predict
from apps.medical.store import load_model
from apps.medical.train import SegmentationBatches, plan_options, train, training_config
from core.errors import DataError, UsageError
from core.training import TrainConfig

TINY = {"channels": [4, 8], "strides": [2], "residual_units": 0}
PLAN = ("patch=[8,8,8]", "batch=2")
CASES = 7


def write_case(folder: Path, number: int) -> None:
    """Two nested ellipsoids, labels 1 and 2, brighter than the noise around them."""
    rng = np.random.default_rng(number)
    centre = rng.uniform(4, 6, 3)[:, None, None, None]
    radius = np.sqrt((((np.indices((11, 10, 12)) - centre) / 3.5) ** 2).sum(0))
    label = ((radius < 1).astype(np.uint8) + (radius < 0.6)).astype(np.uint8)
    image = 100 + 50 * label + rng.normal(0, 5, label.shape)
    for kind, array in (("images", image.astype(np.float32)), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"case {number}.nii.gz")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven cases of six patients: cases 0 and 1 are one person's."""
    folder = tmp_path_factory.mktemp("data") / "set"
    for number in range(CASES):
        write_case(folder, number)
    rows = [f"case {n},{max(n, 1)}" for n in range(CASES)]
    (folder / "patients.csv").write_text("\n".join(["case,patient", *rows]) + "\n")
    return folder


@pytest.fixture
def own(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "own"))


def settings(steps: int = 4, **given) -> TrainConfig:
    values = {"max_steps": steps, "val_every": 2, "precision": "float32", "lr": 0.01}
    return training_config(**(values | given))


def run(dataset: Path, out: Path, **given):
    values = {"model": "unet", "options": TINY, "plan_overrides": PLAN, "config": settings()}
    model = given.pop("model", values.pop("model"))
    return train(dataset, model, out, **(values | given))


def weights(folder: Path, part: str = "network", which: str = "last") -> dict[str, torch.Tensor]:
    """The tensors of a part, "network" or its average "ema", in a checkpoint of the fold."""
    (file,) = (folder / "checkpoints" / which).glob("*.safetensors")
    stored = load_file(file)
    found = {k.removeprefix(f"{part}/"): v for k, v in stored.items() if k.startswith(f"{part}/")}
    assert found
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fold 0, trained without a break. Read it, or copy it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(dataset, out)
    return out


def case_ids(dataset: Path, fold: int) -> tuple[list[str], list[str]]:
    return folds(open_dataset(dataset), 5)[fold]


# ---- what a run leaves -----------------------------------------------------------------------


def test_run_folder(finished, dataset) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"plan.yaml", "cache", "fold_0", "cv_summary.json"}
    fold = finished / "fold_0"
    assert {path.name for path in fold.iterdir()} == {
        "config.yaml", "env.json", "log.jsonl", "metrics.csv", "checkpoints",
        "model.safetensors", "model.json", "validation.json",
    }  # fmt: skip
    _, validation = case_ids(dataset, 0)
    scores = json.loads((fold / "validation.json").read_text())
    assert sorted(scores["cases"]) == validation
    for case in scores["cases"].values():
        assert set(case) == {"label 1", "label 2"}
        assert set(case["label 1"]) == {"dice", "iou", "hd95", "nsd"}
    summary = json.loads((finished / "cv_summary.json").read_text())
    assert summary["folds"] == ["fold_0"]
    assert summary["mean"] == scores["mean"]
    spec = json.loads((fold / "model.json").read_text())
    assert spec["training"]["cases"] == CASES - len(validation)
    assert "Not a medical device" in spec["intended_use"]
    assert read_plan(finished / "plan.yaml").patch == [8, 8, 8]


def test_the_kept_model_is_the_best_average(finished) -> None:
    model = load_file(finished / "fold_0" / "model.safetensors")
    assert same(model, weights(finished / "fold_0", "ema", "best"))


def test_run_is_a_model_and_with_more_folds_an_ensemble(dataset, finished, tmp_path) -> None:
    """The second fold takes plan and cache from the first."""
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    kept = {k: v for k, v in contents(out).items() if k.startswith(("plan.yaml", "cache/"))}
    stamps = {p: p.stat().st_mtime_ns for p in (out / "cache").rglob("*.npy")}
    assert len(load_model(out).networks) == 1
    run(dataset, out, fold="1", plan_overrides=())
    assert len(load_model(out).networks) == 2
    assert json.loads((out / "cv_summary.json").read_text())["folds"] == ["fold_0", "fold_1"]
    assert {k: contents(out)[k] for k in kept} == kept
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    result = predict(next((dataset / "images").iterdir()), out)[0]
    assert result.error is None
    assert result.labels.shape == (11, 10, 12)


def test_full_takes_every_case_and_is_a_model_of_its_own(dataset, tmp_path) -> None:
    (result,) = run(dataset, tmp_path / "run", fold="full")
    assert result.folder == tmp_path / "run" / "full"
    assert result.metrics == {}
    spec = json.loads((result.folder / "model.json").read_text())
    assert spec["training"]["cases"] == CASES
    assert not (tmp_path / "run" / "cv_summary.json").exists()
    assert not (result.folder / "validation.json").exists()
    # Without validation nothing is best: the last average is kept.
    model = load_file(result.folder / "model.safetensors")
    assert same(model, weights(result.folder, "ema"))
    assert len(load_model(result.folder).networks) == 1


# ---- what a run may see ----------------------------------------------------------------------


def test_no_patient_straddles(dataset) -> None:
    patient = {case.id: case.patient for case in open_dataset(dataset).cases}
    assert patient["case 0"] == patient["case 1"]
    seen: list[str] = []
    for fold in range(5):
        training, validation = case_ids(dataset, fold)
        assert not {patient[i] for i in training} & {patient[i] for i in validation}
        assert sorted([*training, *validation]) == sorted(patient)
        seen += validation
    assert sorted(seen) == sorted(patient)


def test_training_batches_hold_training_cases_only(dataset, tmp_path, monkeypatch) -> None:
    asked: set[str] = set()
    original = SegmentationBatches._patch

    def spy(self, n):
        asked.update(self.ids)
        return original(self, n)

    monkeypatch.setattr(SegmentationBatches, "_patch", spy)
    run(dataset, tmp_path / "run", fold="3")
    assert sorted(asked) == case_ids(dataset, 3)[0]


def disturb(dataset: Path, case: str) -> None:
    path = dataset / "images" / f"{case}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1] * 3, image.affine), path)


def test_validation_cases_do_not_reach_the_weights(own, finished, tmp_path) -> None:
    """Another image in a validation case changes its score and no weight; in a training case both."""
    training, validation = case_ids(own, 0)
    disturb(own, validation[0])
    run(own, tmp_path / "a")
    assert same(weights(tmp_path / "a" / "fold_0"), weights(finished / "fold_0"))
    scores = [
        json.loads((r / "fold_0" / "validation.json").read_text())["cases"][validation[0]]
        for r in (tmp_path / "a", finished)
    ]
    assert scores[0] != scores[1]
    disturb(own, training[0])
    run(own, tmp_path / "b")
    assert not same(weights(tmp_path / "b" / "fold_0"), weights(finished / "fold_0"))


def test_corrected_files_replace_what_was_prepared(own, tmp_path) -> None:
    """Also when the corrected label is older than the prepared one, as from an archive."""
    import os

    out = tmp_path / "run"
    run(own, out)
    before = weights(out / "fold_0")
    label = own / "labels" / f"{case_ids(own, 0)[0][0]}.nii.gz"
    array = np.asarray(nib.load(label).dataobj)
    nib.save(nib.Nifti1Image(np.where(array == 2, 1, array)[::-1], np.eye(4)), label)
    os.utime(label, (1e9, 1e9))
    run(own, out, force=True)
    assert not same(weights(out / "fold_0"), before)
    assert len(list((out / "cache").rglob("*.label.npy"))) == CASES


def test_seed_decides(dataset, finished, tmp_path) -> None:
    run(dataset, tmp_path / "again")
    assert same(weights(tmp_path / "again" / "fold_0"), weights(finished / "fold_0"))
    run(dataset, tmp_path / "other", config=settings(seed=1))
    assert not same(weights(tmp_path / "other" / "fold_0"), weights(finished / "fold_0"))


def test_another_loss_is_recorded_and_may_not_be_swapped_in_mid_run(dataset, finished, tmp_path):
    run(dataset, tmp_path / "focal", loss="dice_focal")
    assert not same(weights(tmp_path / "focal" / "fold_0"), weights(finished / "fold_0"))
    spec = json.loads((tmp_path / "focal" / "fold_0" / "model.json").read_text())
    assert spec["training"]["loss"] == "dice_focal"
    with pytest.raises(UsageError, match="loss"):
        run(dataset, tmp_path / "focal", resume=True)
    with pytest.raises(UsageError, match="unknown loss 'dice'"):
        run(dataset, tmp_path / "never", loss="dice")
    assert not (tmp_path / "never").exists()


# ---- stopping, resuming, replacing -----------------------------------------------------------


def test_resumed_run_ends_in_the_same_bits(dataset, finished, tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    config = settings(save_every=1)
    original = SegmentationBatches.batch_at

    def dies(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(SegmentationBatches, "batch_at", dies)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, out, config=config)
    assert not (out / "fold_0" / "model.json").exists()
    monkeypatch.undo()
    run(dataset, out, config=config, plan_overrides=(), resume=True)
    assert same(weights(out / "fold_0"), weights(finished / "fold_0"))
    for name in ("model.safetensors", "validation.json"):
        assert (out / "fold_0" / name).read_bytes() == (finished / "fold_0" / name).read_bytes()


def test_resuming_a_finished_run_does_nothing_again(
    dataset, finished, tmp_path, monkeypatch
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(out)
    monkeypatch.setattr(SegmentationBatches, "batch_at", lambda *a: pytest.fail("it trained"))
    monkeypatch.setattr(
        sys.modules["apps.medical.train"], "validate_cases", lambda *a: pytest.fail("it validated")
    )
    (result,) = run(dataset, out, resume=True)
    assert result.steps == 4
    assert result.metrics == json.loads(before["fold_0/validation.json"])
    changed = {name for name, data in contents(out).items() if before.get(name) != data}
    # Only the loop's own record of having looked.
    assert not {name for name in changed if not name.startswith("fold_0/")}
    assert {name.split("/")[1] for name in changed} <= {"log.jsonl", "config.yaml", "checkpoints"}
    assert same(weights(out / "fold_0"), weights(finished / "fold_0"))


def test_longer_budget_renews_the_model(dataset, finished, tmp_path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (result,) = run(dataset, out, config=settings(6), resume=True)
    assert result.steps == 6
    assert json.loads((out / "fold_0" / "model.json").read_text())["training"]["steps"] == 6


def test_existing_run_needs_resume_or_force(dataset, finished, tmp_path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(out)
    with pytest.raises(UsageError, match=r"--resume.*--force"):
        run(dataset, out)
    with pytest.raises(UsageError, match="one of them"):
        run(dataset, out, resume=True, force=True)
    assert contents(out) == before
    run(dataset, out, config=settings(2), force=True)
    assert json.loads((out / "fold_0" / "model.json").read_text())["training"]["steps"] == 2


def test_a_replaced_run_leaves_no_old_model_behind(
    dataset, finished, tmp_path, monkeypatch
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))

    def dies(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentationBatches, "batch_at", dies)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, out, force=True)
    assert not {"model.json", "model.safetensors"} & {p.name for p in (out / "fold_0").iterdir()}


def test_edited_plan_is_refused_on_resume(dataset, finished, tmp_path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (out / "plan.yaml").read_text().replace("patch: [8, 8, 8]", "patch: [8, 8, 4]")
    (out / "plan.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"fold_0: was trained with plan patch \[8, 8, 8\]"):
        run(dataset, out, plan_overrides=(), resume=True)
    assert (out / "plan.yaml").read_text() == text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan_overrides": ("batch=3",)}, "plan batch 2"),
        ({"options": TINY | {"channels": [4, 6]}}, r"option channels \[4, 8\]"),
        ({"model": "dynunet", "options": {}}, "network name unet"),
    ],
)
@pytest.mark.parametrize("how", [{"fold": "1"}, {"resume": True}])
def test_folds_of_a_run_share_plan_and_network(
    dataset, finished, tmp_path, given, said, how
) -> None:
    """Refused before anything is written: the run stays what it was."""
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(out)
    with pytest.raises(UsageError, match=said):
        run(dataset, out, **given, **how)
    assert contents(out) == before


# ---- settings and data that are wrong --------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan_overrides": ("ptach=[8,8,8]",)}, "'patch'"),
        ({"plan_overrides": ("batch=0",)}, "batch"),
        ({"model": "swin_unter", "options": {}}, "'swin_unetr'"),
        ({"options": {"chanels": [4]}}, "'channels'"),
        ({"preset": "smal"}, "'small'.*published"),
        ({"fold": "5"}, "want 0 to 4"),
        ({"fold": "00"}, "want 0 to 4"),
    ],
)
def test_wrong_settings_name_the_nearest(dataset, tmp_path, given, said) -> None:
    with pytest.raises(UsageError, match=said):
        run(dataset, tmp_path / "run", **given)
    assert not (tmp_path / "run" / "fold_0").exists()


def test_an_output_that_is_a_file(dataset, tmp_path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(UsageError, match="run: is a file; --out needs a folder"):
        run(dataset, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "x"


def test_plan_of_another_rank(dataset, finished, own, tmp_path) -> None:
    for kind in ("images", "labels"):
        for path in (own / kind).iterdir():
            array = np.asarray(nib.load(path).dataobj)[:, :, 5]
            Image.fromarray(array.astype(np.uint8)).save(path.with_name(path.name[:6] + ".png"))
            path.unlink()
    with pytest.raises(UsageError, match="a plan for rank 3"):
        run(own, tmp_path / "run", plan=finished / "plan.yaml")


def test_the_plans_options_are_for_its_own_network(dataset, finished, tmp_path) -> None:
    text = (finished / "plan.yaml").read_text()
    head = text[: text.index("network:")]
    (tmp_path / "plan.yaml").write_text(
        head + "network: {name: dynunet, options: {kernels: [3, 3, 3, 3]}}\n"
    )
    (result,) = run(dataset, tmp_path / "run", plan=tmp_path / "plan.yaml", plan_overrides=())
    assert result.steps == 4


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not an array", None])
def test_damaged_cache_is_one_line(dataset, finished, tmp_path, damage) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    for file in (out / "cache").rglob("*.image.npy"):
        file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(DataError, match=r"prepared case 'case \d' is damaged") as caught:
        run(dataset, out, config=settings(6), resume=True)
    assert "\n" not in str(caught.value)
    shutil.rmtree(out / "cache")  # what the message says to do
    run(dataset, out, config=settings(6), resume=True)


def test_labels_are_needed(own, tmp_path) -> None:
    for path in sorted((own / "labels").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="1 case with an image and a label"):
        run(own, tmp_path / "run")
    next((own / "labels").iterdir()).unlink()
    with pytest.raises(DataError, match="no case with an image and a label"):
        run(own, tmp_path / "run")
    with pytest.raises(DataError, match="no such data set"):
        run(own / "gone", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cases_left_out_are_told(own, tmp_path) -> None:
    from core.progress import SilentProgress

    class Listening(SilentProgress):
        def message(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    (own / "labels" / "case 6.nii.gz").unlink()
    run(own, tmp_path / "run", progress=Listening(), config=settings(1))
    assert any("1 cases are left out" in text and "case 6" in text for text in said)


def test_image_that_cannot_be_read_is_named(own, tmp_path) -> None:
    bad = own / "images" / "case 3.nii.gz"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(DataError, match=r"case 3\.nii\.gz"):
        run(own, tmp_path / "run")


def test_a_network_learns_at_its_own_rate_unless_told(own, tmp_path) -> None:
    small = {"feature_size": 4, "depths": [1, 1], "heads": [1, 1], "window": 2, "patch": 2}
    for given, wanted in (({}, 1e-3), ({"lr": 5e-3}, 5e-3)):
        out = tmp_path / f"run {wanted}"
        config = partial(training_config, max_steps=1, precision="float32", **given)
        (fold,) = run(own, out, model="swin_unet", options=small, config=config)
        assert load_model(fold.folder).spec.training["config"]["lr"] == wanted
    assert training_config().lr == training_config("dynunet").lr == 2e-3
    untouched = tmp_path / "none"
    with pytest.raises(UsageError, match="lr"):
        run(tmp_path / "no data", untouched, config=partial(training_config, lr=-1.0))
    assert not untouched.exists()


def test_stored_splits_with_fewer_folds(own, tmp_path) -> None:
    names = [f"case {n}" for n in range(CASES)]
    entries = [{"train": names[:4], "val": names[4:]}, {"train": names[4:], "val": names[:4]}]
    (own / "splits.json").write_text(json.dumps(entries))
    with pytest.raises(UsageError, match="comes with 2 folds"):
        run(own, tmp_path / "run", fold="4")
    results = run(own, tmp_path / "run", fold="all", config=settings(1))
    assert [r.fold for r in results] == ["0", "1"]
    summary = json.loads((tmp_path / "run" / "cv_summary.json").read_text())
    assert summary["cases"] == CASES


# ---- other kinds of data ---------------------------------------------------------------------


def test_objects(tmp_path) -> None:
    """Numbered objects: three classes are learnt, objects are scored."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((32, 32))
    for name in ("images", "instances"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for n in range(6):
        ids = np.zeros((32, 32), np.uint8)
        for number, (r, c) in enumerate(rng.integers(5, 27, (4, 2)), 1):
            ids[(rows - r) ** 2 + (columns - c) ** 2 < 16] = number
        image = (60 + 120 * (ids > 0) + rng.normal(0, 5, ids.shape)).clip(0, 255)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"set/images/{n}.png")
        Image.fromarray(ids).save(tmp_path / f"set/instances/{n}.png")
    (result,) = run(tmp_path / "set", tmp_path / "run", plan_overrides=("patch=[16,16]", "batch=2"))
    assert set(result.metrics["mean"]) == {"foreground"}
    assert {"dice", "f1_50", "pq"} <= set(result.metrics["mean"]["foreground"])
    spec = json.loads((result.folder / "model.json").read_text())
    assert spec["plan"]["target"] == "instances"
    assert spec["network"]["out_channels"] == 3


ANISOTROPIC = (0.5, 0.5, 4.0)


@pytest.mark.parametrize("preset", ["small", None])
@pytest.mark.parametrize("name", catalog.MODELS)
def test_networks_follow_an_anisotropic_plan(make_plan, name, preset) -> None:
    """Slices 4 mm apart, pixels of 0.5 mm: no network may pool slices before pixels are as coarse."""
    patch = [32, 32, 4]
    strides = network_strides([128, 128, 16], ANISOTROPIC)
    plan = make_plan(spacing=list(ANISOTROPIC), patch=patch, strides=strides)
    options = plan_options(name, plan, preset, {})
    resolved = catalog.resolve(name, 3, preset, **options)
    steps = [tuple(s) if isinstance(s, tuple | list) else (s,) * 3 for s in resolved["strides"]]
    if "patch" in resolved:
        steps.insert(0, tuple(resolved["patch"]))
    edges = np.array(ANISOTROPIC)
    for step in steps:
        if step[2] > 1:  # slices are joined only once pixels have about caught up
            assert edges[2] <= 2 * edges[:2].max(), (name, steps)
        edges = edges * step
    assert edges[2] / edges[0] < 8, steps
    with torch.device("meta"):  # the published networks are large; their shapes are enough
        build(name, 3, 1, 3, **resolved)
    if preset == "small":
        network = build(name, 3, 1, 3, **resolved).eval()
        with torch.no_grad():
            for shape in (patch, [17, 23, 3]):
                assert network(torch.zeros(1, 1, *shape)).shape == (1, 3, *shape)


def test_strides_of_an_anisotropic_plan_fit_the_options_given(make_plan) -> None:
    strides = network_strides([128, 128, 16], ANISOTROPIC)
    plan = make_plan(spacing=list(ANISOTROPIC), patch=[32, 32, 4], strides=strides)
    given = {"depths": [1, 1], "heads": [2, 4]}
    options = {**plan_options("swin_unetr", plan, "small", given), **given}
    network = build("swin_unetr", 3, 1, 3, **catalog.resolve("swin_unetr", 3, "small", **options))
    assert len(network.encoder.channels) == 2
