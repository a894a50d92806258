"""Pre-training by the command line: which images it sees, what it leaves, what starts from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from apps.medical.catalog import MODELS, resolve
from apps.medical.data.datasets import open_dataset
from apps.medical.data.plan import plan_dataset, read_plan
from apps.medical.data.splits import folds
from apps.medical.data.unlabelled import PreparedImages, open_images
from apps.medical.initial import read_initial, start_from
from apps.medical.models import build
from apps.medical.pretrain import (
    HeldOut,
    ImageBatches,
    encoder_of,
    pretraining_config,
    random_crop,
)
from apps.medical.run import app
from apps.medical.store import NetworkSpec
from apps.medical.train import training_config
from core.errors import DataError, UsageError
from core.pretraining import build as build_pretext
from core.pretraining import load_matching, pretext_config

OPTIONS = (
    "feature_size=6", "depths=[1, 1]", "heads=[3, 3]", "stripes=[1, null]", "patch=2",
    "decoder=residual", "width=4",
)  # fmt: skip
SMALL = (
    "--model", "cswin_unet", "--set", "patch=[8, 8, 8]", "--set", "batch=2",
    "--precision", "float32", "--device", "cpu",
    *(part for option in OPTIONS for part in ("--option", option)),
)  # fmt: skip
EXTRA = ("seen 0", "seen 1")


def volume(seed: int, shape: tuple[int, ...] = (11, 10, 12)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (100 + 20 * rng.normal(size=shape)).astype(np.float32)


def save(array: np.ndarray, path: Path, spacing: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, spacing, 1])), path)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled cases, an image without label among them and one in imagesTs."""
    folder = tmp_path_factory.mktemp("pretrain") / "set"
    for number in range(6):
        image = volume(number)
        save(image, folder / "imagesTr" / f"case {number}.nii.gz")
        label = (image > np.quantile(image, 0.7)).astype(np.uint8)
        save(label, folder / "labelsTr" / f"case {number}.nii.gz")
    for number, place in enumerate(("imagesTr", "imagesTs")):
        save(volume(10 + number), folder / place / f"{EXTRA[number]}.nii.gz")
    return folder


@pytest.fixture
def command(run_json):
    return run_json(app)


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training that left out fold 0's validation cases. Read it, or copy it."""
    from core.cli import main

    out = tmp_path_factory.mktemp("runs") / "pre"
    arguments = ("pretrain", dataset, "--out", out, "--task", "mae", "--fold", 0,
                 "--max-steps", 4, *SMALL)  # fmt: skip
    assert main(app, [*map(str, arguments), "--quiet"]) == 0
    return out


def encoder_json(run: Path) -> dict:
    return json.loads((run / "encoder" / "model.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- what a run leaves -----------------------------------------------------------------------


def test_run_folder(finished, dataset) -> None:
    assert {p.name for p in finished.iterdir()} == {
        "plan.yaml", "config.yaml", "env.json", "log.jsonl", "metrics.csv", "checkpoints",
        "cache", "encoder",
    }  # fmt: skip
    about = encoder_json(finished)
    _, validation = folds(open_dataset(dataset))[0]
    everything = {case.id for case in open_images(dataset).cases}
    assert everything >= set(EXTRA)
    assert set(about["cases"]) == everything - set(validation)
    assert about["kind"] == "encoder"
    assert about["pretext"]["task"] == "mae"
    assert about["training"]["steps"] == 4
    assert about["training"]["images"] + about["training"]["held_out"] == len(about["cases"])
    assert about["metrics"]["floor"] > 0
    assert "Not a medical device" in about["intended_use"]
    names = load_file(finished / "encoder" / "model.safetensors")
    assert names
    assert all(name.startswith("encoder.stages.") for name in names)


@pytest.mark.parametrize("task", ["gmml", "multitask"])
def test_verb_and_report(command, dataset, tmp_path, task) -> None:
    code, report, _ = command(
        "pretrain", dataset, "--out", tmp_path / "run", "--task", task, "--max-steps", 2, *SMALL
    )
    assert code == 0
    assert report["task"] == task
    assert report["steps"] == 2
    assert report["metrics"]["reconstruction"] > 0
    assert (Path(report["encoder"]) / "model.safetensors").is_file()
    assert encoder_json(tmp_path / "run")["network"]["name"] == "cswin_unet"


def test_a_person_is_told_what_comes_next(dataset, tmp_path, capsys) -> None:
    from core.cli import main

    arguments = ("pretrain", dataset, "--out", tmp_path / "run", "--max-steps", 1, *SMALL)
    assert main(app, [*map(str, arguments), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "error on held-out images" in out
    assert f"--init {tmp_path / 'run'}" in out


def test_a_stopped_run_goes_on_to_the_same_encoder(command, dataset, finished, tmp_path) -> None:
    steps = ("pretrain", dataset, "--out", tmp_path / "run", "--task", "mae", "--fold", 0, *SMALL)
    assert command(*steps, "--max-steps", 4)[0] == 0
    assert (
        contents(tmp_path / "run" / "encoder")["model.safetensors"]
        == (finished / "encoder" / "model.safetensors").read_bytes()
    )
    code, report, _ = command(*steps, "--max-steps", 4)
    assert code == 2
    assert "--resume" in report["error"]["message"]
    before = contents(tmp_path / "run" / "encoder")
    assert command(*steps, "--max-steps", 4, "--resume")[0] == 0
    assert contents(tmp_path / "run" / "encoder") == before
    shutil.rmtree(tmp_path / "run" / "encoder")  # killed after its last step
    assert command(*steps, "--max-steps", 4, "--resume")[0] == 0
    again = contents(tmp_path / "run" / "encoder")
    assert again["model.safetensors"] == before["model.safetensors"]
    assert command(*steps, "--max-steps", 6, "--resume")[0] == 0
    assert encoder_json(tmp_path / "run")["training"]["steps"] == 6
    code, report, _ = command(*steps, "--max-steps", 6, "--resume", "--pretext", "ratio=0.5")
    assert code == 2
    assert "pretext" in report["error"]["message"]


def test_force_starts_over(command, dataset, finished, tmp_path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    steps = ("pretrain", dataset, "--out", out, "--task", "gmml", "--max-steps", 1, *SMALL)
    assert command(*steps, "--force")[0] == 0
    assert encoder_json(out)["pretext"]["task"] == "gmml"
    assert encoder_json(out)["training"]["steps"] == 1


# ---- starting from it ------------------------------------------------------------------------


def test_training_starts_from_the_encoder(command, dataset, finished, tmp_path) -> None:
    code, report, errors = command(
        "train", dataset, "--out", tmp_path / "run", "--init", finished, "--fold", 0,
        "--max-steps", 1, "--lr", 1e-9, *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    started = report["folds"][0]["initial"]
    given = load_file(finished / "encoder" / "model.safetensors")
    assert started["loaded"]["encoder"] == f"{len(given)} of {len(given)}"
    assert started["loaded"]["decoder"].startswith("0 of")
    assert "tensors loaded: encoder" in errors
    assert "too good" not in errors  # fold 0 was left out of pre-training
    trained = load_file(tmp_path / "run" / "fold_0" / "model.safetensors")
    for name, value in given.items():
        assert torch.allclose(trained[name], value, atol=1e-6), name
    card = json.loads((tmp_path / "run" / "fold_0" / "model.json").read_text())
    assert card["training"]["initial"]["sha256"] == started["sha256"]

    # It is a part of the run: another start cannot continue it.
    resume = ("train", dataset, "--out", tmp_path / "run", "--fold", 0, "--max-steps", 2,
              "--lr", 1e-9, *SMALL, "--resume")  # fmt: skip
    code, report, _ = command(*resume)
    assert code == 2
    assert "initial" in report["error"]["message"]
    assert command(*resume, "--init", finished)[0] == 0


def test_what_was_loaded_may_learn_slower_or_not_at_all(
    command, dataset, finished, tmp_path
) -> None:
    line = ("train", dataset, "--fold", 0, "--max-steps", 2, *SMALL)
    frozen = (*line, "--out", tmp_path / "frozen", "--init", finished, "--init-lr", 0)
    code, report, errors = command(*frozen)
    assert code == 0, errors
    assert report["folds"][0]["initial"]["learning_rate_share"] == 0
    trained = load_file(tmp_path / "frozen" / "fold_0" / "model.safetensors")
    given = load_file(finished / "encoder" / "model.safetensors")
    for name, value in given.items():
        assert torch.allclose(trained[name], value, atol=1e-7), name  # their average rounds
    code, report, _ = command(*frozen[:-1], 0.5, "--resume")
    assert code == 2
    assert "initial_rate" in report["error"]["message"]
    code, report, _ = command(*line, "--out", tmp_path / "afresh", "--init-lr", 0.5)
    assert code == 2
    assert "--init" in report["error"]["message"]


def test_seen_validation_cases_and_other_preprocessing_are_said(finished, dataset) -> None:
    initial = read_initial(finished)
    network = build(
        "cswin_unet", 3, 1, 2, feature_size=6, depths=[1, 1], heads=[3, 3], stripes=[1, None],
        patch=2, decoder="residual", width=4,
    )  # fmt: skip
    case = sorted(initial.cases)[0]
    _, notes = start_from(initial, network, initial.plan, [case, "another"])
    assert any("1 of the 2 validation cases were seen" in note for note in notes)
    coarser = initial.plan.model_copy(update={"spacing": [2.0, 2.0, 2.0]})
    _, notes = start_from(initial, network, coarser, ["another"])
    assert len(notes) == 2
    assert "spacing" in notes[1]


def test_a_trained_model_may_be_the_start(command, dataset, tmp_path) -> None:
    train = ("train", dataset, "--fold", 0, "--max-steps", 1, *SMALL)
    assert command(*train, "--out", tmp_path / "one")[0] == 0
    code, report, _ = command(*train, "--out", tmp_path / "two", "--init", tmp_path / "one/fold_0")
    assert code == 0
    loaded = report["folds"][0]["initial"]["loaded"]
    assert set(loaded) == {"encoder", "decoder", "heads"}
    assert all(len(set(count.split(" of "))) == 1 for count in loaded.values())
    code, report, _ = command(*train, "--out", tmp_path / "three", "--init", tmp_path / "one")
    assert code == 2
    assert "fold_0" in report["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--task", "maee"), 2, "'mae'"),
        (("--pretext", "ration=0.5"), 2, "'ratio'"),
        (("--fold", "7"), 2, "0 to 4"),
        (("--set", "patch=[4, 4, 4]"), 2, "cannot be partly hidden"),
        (("--set", "ptach=[8, 8, 8]"), 2, "'patch'"),
        (("--option", "depth=[1, 1]"), 2, "'depths'"),
    ],
)
def test_wrong_settings(command, dataset, tmp_path, arguments, code, said) -> None:
    found = command("pretrain", dataset, "--out", tmp_path / "run", *SMALL, *arguments)
    assert found[0] == code
    assert said in found[1]["error"]["message"]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("dynunet", "unet")])
def test_the_encoder_of_every_network_with_a_pyramid(model, rank) -> None:
    """And what it learns is what the network has: the names are those of its own tensors."""
    options = resolve(model, rank, "small")
    network = NetworkSpec(name=model, rank=rank, in_channels=2, out_channels=3, options=options)
    encoder = encoder_of(network)
    size = (34,) * rank if rank == 2 else (18, 16, 20)
    torch.manual_seed(0)
    x = torch.randn(2, 2, *size)
    for task in ("mae", "gmml"):
        found = build_pretext(pretext_config(task), encoder, size)(x)
        assert torch.isfinite(found["loss"])
    found["loss"].backward()
    whole = build(model, rank, 2, 3, **options)
    given = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    count = len(given)
    loaded = load_matching(whole, given, "it").report()["loaded"]
    assert loaded["encoder"] == f"{count} of {count}"


def test_networks_without_a_pyramid_are_refused(command, dataset, tmp_path) -> None:
    code, report, _ = command(
        "pretrain", dataset, "--out", tmp_path / "run", "--model", "dynunet", "--device", "cpu"
    )
    assert code == 2
    assert "no pyramid" in report["error"]["message"]


def test_starts_that_are_none(command, dataset, finished, tmp_path) -> None:
    train = ("train", dataset, "--out", tmp_path / "run", "--max-steps", 1, *SMALL)
    code, report, _ = command(*train, "--init", tmp_path / "absent")
    assert (code, "absent" in report["error"]["message"]) == (2, True)
    cut = Path(shutil.copytree(finished, tmp_path / "cut"))
    shutil.rmtree(cut / "encoder")
    code, report, _ = command(*train, "--init", cut)
    assert (code, "not finished" in report["error"]["message"]) == (2, True)
    damaged = Path(shutil.copytree(finished, tmp_path / "damaged"))
    (damaged / "encoder" / "model.safetensors").write_bytes(b"\x80\x04pickled")
    code, _, _ = command(*train, "--init", damaged)
    assert code == 3
    swin = ("train", dataset, "--out", tmp_path / "swin", "--max-steps", 1, "--model", "unet",
            "--set", "patch=[8, 8, 8]", "--device", "cpu", "--option", "channels=[4, 8]",
            "--option", "strides=[2]")  # fmt: skip
    code, report, _ = command(*swin, "--init", finished)
    assert (code, "none of its" in report["error"]["message"]) == (3, True)
    # A pre-trained encoder segments nothing.
    code, report, _ = command("predict", dataset / "imagesTs", "--model", finished, "--out",
                              tmp_path / "out")  # fmt: skip
    assert (code, "no trained model here" in report["error"]["message"]) == (3, True)


# ---- which images ----------------------------------------------------------------------------


def test_images_without_labels_are_found(dataset) -> None:
    found = open_images(dataset)
    assert {case.id for case in found.cases if case.label is None} == set(EXTRA)
    assert len(found.cases) == 8


def test_a_folder_of_images_alone(tmp_path) -> None:
    for number in range(4):
        for channel in range(2):
            save(volume(number), tmp_path / "scans" / f"p{number}_{channel:04d}.nii.gz")
    found = open_images(tmp_path / "scans")
    assert (found.rank, found.channels) == (3, ("channel 0", "channel 1"))
    assert [len(case.images) for case in found.cases] == [2] * 4
    plan = plan_dataset(found, tmp_path / "plan.yaml")
    assert plan.spacing == [1.0, 1.0, 1.0]
    prepared = PreparedImages(found, plan, tmp_path / "cache")
    prepared.prepare(["p0", "p1"])
    assert prepared["p1"]["image"].shape == (2, 11, 10, 12)
    assert not list((tmp_path / "cache").rglob("*.label.npy"))
    with pytest.raises(DataError, match="is damaged"):
        prepared["p2"]


def test_pictures_alone(command, tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    code, _, errors = command(
        "pretrain", folder, "--out", tmp_path / "run", "--model", "swin_unetr", "--max-steps", 1,
        "--set", "patch=[16, 16]", "--set", "batch=2", "--option", "feature_size=8",
        "--option", "depths=[1, 1]", "--option", "heads=[2, 2]", "--device", "cpu",
        "--precision", "float32",
    )  # fmt: skip
    assert code == 0, errors
    assert read_plan(tmp_path / "run" / "plan.yaml").channels == ["red", "green", "blue"]


def test_too_few_images_and_none(command, tmp_path) -> None:
    (tmp_path / "none").mkdir()
    code, report, _ = command("pretrain", tmp_path / "none", "--out", tmp_path / "run")
    assert (code, "no image" in report["error"]["message"]) == (3, True)
    save(volume(0), tmp_path / "few" / "a.nii.gz")
    code, report, _ = command("pretrain", tmp_path / "few", "--out", tmp_path / "run")
    assert (code, "three or more" in report["error"]["message"]) == (3, True)
    code, _, _ = command("pretrain", tmp_path / "absent", "--out", tmp_path / "run")
    assert code == 3
    code, report, _ = command("pretrain", tmp_path / "few", "--out", tmp_path / "run", "--fold", 0)
    assert (code, "with labels" in report["error"]["message"]) == (2, True)


# ---- crops -----------------------------------------------------------------------------------


def plan(make_plan, **changes):
    return make_plan(3, patch=[8, 6, 10], flip=[False] * 3, median_shape=[8, 6, 10], **changes)


def test_a_crop_of_full_scale_is_a_piece_of_the_image(make_plan) -> None:
    image = volume(0, (1, 12, 11, 13))
    for seed in range(5):
        values, inside = random_crop(
            image, plan(make_plan), (1.0, 1.0), np.random.default_rng(seed)
        )
        assert values.shape == (1, 8, 6, 10)
        assert inside.all()
        (start,) = [
            at for at in np.ndindex(5, 6, 4)
            if np.array_equal(
                image[:, at[0] : at[0] + 8, at[1] : at[1] + 6, at[2] : at[2] + 10], values
            )
        ]  # fmt: skip
        assert start is not None


def test_beyond_a_small_image_is_zero_and_outside(make_plan) -> None:
    image = volume(0, (1, 5, 6, 12))
    values, inside = random_crop(image, plan(make_plan), (1.0, 1.0), np.random.default_rng(0))
    assert int(inside.sum()) == 5 * 6 * 10
    assert (values[~inside] == 0).all()
    assert (values[inside] != 0).all()


def test_a_smaller_crop_is_magnified_but_not_along_a_coarse_axis(make_plan) -> None:
    ramp = np.stack([np.broadcast_to(np.arange(40.0).reshape(shape), (40, 40, 40))
                     for shape in ((40, 1, 1), (1, 40, 1), (1, 1, 40))]).astype(np.float32)  # fmt: skip
    random = np.random.default_rng(0)
    values, _ = random_crop(ramp, plan(make_plan), (0.125, 0.125), random)
    inner = values[:, 1:-1, 1:-1, 1:-1]
    steps = [float(inner[a].diff(dim=a).mean()) for a in range(3)]
    assert steps == pytest.approx([0.5] * 3)
    thick = plan(make_plan, spacing=[0.5, 0.5, 3.0])
    values, _ = random_crop(ramp, thick, (0.25, 0.25), random)
    inner = values[:, 1:-1, 1:-1, :]
    steps = [float(inner[a].diff(dim=a).mean()) for a in range(3)]
    assert steps == pytest.approx([0.5, 0.5, 1.0])


def test_batches_follow_their_index_and_held_out_ones_stay(dataset, tmp_path) -> None:
    found = open_images(dataset)
    made = plan_dataset(found, tmp_path / "plan.yaml", ["patch=[8, 8, 8]", "batch=2"])
    prepared = PreparedImages(found, made, tmp_path / "cache")
    ids = [case.id for case in found.cases]
    prepared.prepare(ids)
    one, two = (ImageBatches(prepared, ids, 3, (0.5, 1.0)) for _ in range(2))
    for index in (7, 0, 3):
        a, b = one.batch_at(index), two.batch_at(index)
        assert a["image"].shape == (2, 1, 8, 8, 8)
        assert torch.equal(a["image"], b["image"])
    assert not torch.equal(one.batch_at(0)["image"], one.batch_at(1)["image"])
    for count in range(2, 8):
        held = HeldOut(prepared, ids[:count], 0)
        sizes = [len(batch["image"]) for batch in held]
        assert sum(sizes) == count
        assert min(sizes) >= 2
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(held, held, strict=True))


def test_the_plan_is_the_one_that_training_makes(finished, dataset, tmp_path) -> None:
    made = plan_dataset(open_dataset(dataset), tmp_path / "plan.yaml")
    own = read_plan(finished / "plan.yaml")
    same = {"patch": own.patch, "batch": own.batch}
    assert made.model_copy(update=same) == own


def test_budgets_and_published_optimisers() -> None:
    config = pretraining_config("mae", max_steps=1000)
    assert (config.betas, config.weight_decay, config.warmup_steps) == ((0.9, 0.95), 0.05, 50)
    assert pretraining_config("gmml").max_steps == training_config().max_steps
    assert pretraining_config("multitask", max_minutes=1).max_steps is None
    with pytest.raises(UsageError, match="lr"):
        pretraining_config("mae", lr=-1)
