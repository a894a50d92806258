"""The command lines that scripts rely on, as they are written down, from a data set to metrics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import apps.medical
from apps.medical.run import app
from core.cli import main
from core.errors import UsageError

VERBS = {
    "info", "check", "plan", "train", "predict", "evaluate", "ensemble", "postprocess", "export",
    "calibrate", "deidentify", "pull", "push",
}  # fmt: skip
# Keeps a test's training to a few steps of a few milliseconds.
SMALL = (
    "--set", "patch=[8, 8, 8]", "--set", "batch=2", "--precision", "float32", "--device", "cpu",
)  # fmt: skip
TINY = ("--model", "unet", "--option", "channels=[4, 8]", "--option", "strides=[2]")
RESULT = {
    "seg.nii.gz", "uncertainty.nii.gz", "stats.json", "overlay.png", "report.html", "report.pdf",
    "manifest.json",
}  # fmt: skip


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon data set of six small volumes with two labels."""
    folder = tmp_path_factory.mktemp("data") / "Task99_Blobs"
    listed = []
    for number in range(6):
        centre = np.random.default_rng(number).uniform(4, 6, 3)[:, None, None, None]
        radius = np.sqrt((((np.indices((11, 10, 12)) - centre) / 3.5) ** 2).sum(0))
        label = ((radius < 1).astype(np.uint8) + (radius < 0.6)).astype(np.uint8)
        noise = np.random.default_rng(number).normal(0, 5, label.shape)
        for kind, array in (("imagesTr", 100 + 50 * label + noise), ("labelsTr", label)):
            path = folder / kind / f"blob_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), path)
        names = {k: f"./{d}/blob_{number}.nii.gz" for k, d in
                 (("image", "imagesTr"), ("label", "labelsTr"))}  # fmt: skip
        listed.append(names)
    spec = {
        "name": "Blobs", "modality": {"0": "MRI"}, "training": listed,
        "labels": {"0": "background", "1": "shell", "2": "core"},
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture
def text(capsys: pytest.CaptureFixture[str]):
    """Run a verb as a person does: (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(app, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def test_info(command) -> None:
    code, report, errors = command("info")
    assert (code, errors) == (0, "")
    assert set(report["verbs"]) >= VERBS
    assert {
        "swin_unetr", "swin_unet", "cswin_unet", "att_swin_unet", "umamba_bot", "umamba_enc",
        "vm_unet", "segmamba", "swin_umamba", "dynunet", "unet",
    } == set(report["models"])  # fmt: skip
    assert {"deit_t", "cswin_xs", "r2t_mil"} <= set(report["classifiers"])
    assert ".nii.gz" in report["inputs"]["volumes"]
    assert report["exit_codes"].keys() >= {"0", "2", "3", "4"}
    assert "Not a medical device" in report["disclaimer"]


def test_every_verb_has_help(text) -> None:
    code, out, _ = text("--help")
    assert code == 0
    for verb in VERBS:
        assert f" {verb} " in out
        code, help_text, _ = text(verb, "--help")
        assert code == 0
        assert "--json" in help_text


def test_from_data_set_to_metrics(command, text, dataset, tmp_path) -> None:
    """check, train, resume, predict, evaluate: the lines of the manual with a small budget."""
    run, out, metrics = tmp_path / "run", tmp_path / "out", tmp_path / "metrics.json"
    code, report, _ = command("check", dataset)
    assert code == 0
    assert report["counts"]["error"] == 0

    line = ("train", dataset, "--model", "swin_unetr", "--fold", 0, "--out", run)
    code, report, _ = command(*line, "--max-minutes", 0.02, *SMALL)
    assert code == 0
    (fold,) = report["folds"]
    assert fold["fold"] == "0"
    assert fold["steps"] > 0
    assert fold["stopped_because"]
    assert set(fold["metrics"]) == {"shell", "core"}
    assert Path(fold["folder"]) == run / "fold_0"

    code, _, errors = command(*line, "--max-minutes", 0.02, *SMALL)
    assert code == 2
    assert "--resume" in errors
    code, again, _ = command(*line, "--max-minutes", 0.02, *SMALL, "--resume")
    assert code == 0
    assert again["folds"][0]["metrics"] == fold["metrics"]

    images = sorted((dataset / "imagesTr").iterdir())[:2]
    code, report, _ = command("predict", *images, "--model", run, "--out", out)
    assert code == 0
    assert report["done"] == 2
    for image in images:
        case = out / image.name.removesuffix(".nii.gz")
        assert {path.name for path in case.iterdir()} == RESULT
        assert nib.load(case / "seg.nii.gz").affine.tobytes() == nib.load(image).affine.tobytes()

    refs = tmp_path / "refs"
    refs.mkdir()
    for image in images:
        shutil.copy(dataset / "labelsTr" / image.name, refs)
    code, said, _ = text("evaluate", "--pred", out, "--ref", refs, "--out", metrics)
    assert code == 0
    assert "shell" in said
    written = json.loads(metrics.read_text())
    for label in ("shell", "core"):
        assert {"dice", "iou", "hd95", "nsd"} <= set(written["labels"][label])
    assert metrics.with_suffix(".csv").is_file()


def test_the_python_interface(dataset, tmp_path, model_3d) -> None:
    model = apps.medical.load_model(model_3d)
    image = dataset / "imagesTr" / "blob_0.nii.gz"
    (result,) = apps.medical.predict(image, model)
    assert result.labels.shape == (11, 10, 12)
    (result,) = apps.medical.predict([image], model, tmp_path / "out")
    assert (tmp_path / "out" / "blob_0" / "seg.nii.gz").is_file()
    with pytest.raises(UsageError):
        apps.medical.load_model("no-such-model")


def test_a_shipped_name_is_a_model(command, dataset, tmp_path, model_3d, monkeypatch) -> None:
    shutil.copytree(model_3d, tmp_path / "weights" / "hippocampus")
    monkeypatch.setenv("TRIPTYCH_WEIGHTS", str(tmp_path / "weights"))
    assert "hippocampus" in command("info")[1]["weights"]
    image = dataset / "imagesTr" / "blob_1.nii.gz"
    code, report, _ = command("predict", image, "--model", "hippocampus", "--out", tmp_path / "out")
    assert (code, report["done"]) == (0, 1)


def test_plan_is_written_and_used(command, text, dataset, tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    options = ("--set", "patch=[8, 8, 8]", "--set", "network.name=unet")
    code, report, _ = command("plan", dataset, "--out", path, *options)
    assert code == 0
    assert report["plan"]["patch"] == [8, 8, 8]
    code, _, errors = text("plan", dataset, "--out", path)
    assert code == 2
    assert "--force" in errors
    code, _, errors = text("plan", dataset, "--out", tmp_path / "b.yaml", "--set", "batchh=2")
    assert code == 2
    assert f"plan of {dataset}: unknown key 'batchh'. Did you mean 'batch'?" in errors
    assert not (tmp_path / "b.yaml").exists()
    code, out, _ = text("plan", dataset, "--out", path, *options, "--force")
    assert code == 0
    assert f"--plan {path}" in out
    line = ("train", dataset, "--plan", path, "--max-steps", 1, "--precision", "float32")
    code, _, errors = text(*line, *TINY[2:], "--out", tmp_path / "run")
    assert code == 0, errors
    spec = json.loads((tmp_path / "run" / "fold_0" / "model.json").read_text())
    assert spec["network"]["name"] == "unet"
    assert spec["plan"]["patch"] == [8, 8, 8]


@pytest.mark.parametrize("fold", ["2", "full"])
def test_the_next_command_that_train_names_works(text, dataset, tmp_path, fold) -> None:
    line = ("train", dataset, *TINY, *SMALL, "--fold", fold, "--max-steps", 2)
    code, out, _ = text(*line, "--out", tmp_path / "run", "--quiet")
    assert code == 0
    advice = out.split("next: python apps/medical/run.py ")[1].split()
    place = {"IMAGE": dataset / "imagesTr" / "blob_3.nii.gz", "OUTDIR": tmp_path / "out"}
    code, _, errors = text(*(place.get(word, word) for word in advice))
    assert code == 0, errors
    assert (tmp_path / "out" / "blob_3" / "seg.nii.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predikt"], 2, ["predict"]),
        (["train", "DATA", "--out", "OUT", "--fold", "7"], 2, ["--fold 7"]),
        (["train", "DATA", "--out", "OUT", "--model", "swin_unet_r"], 2, ["'swin_unetr'"]),
        (["train", "DATA", "--out", "OUT", "--set", "patchh=[8,8,8]"], 2, ["patchh", "'patch'"]),
        (["train", "DATA", "--out", "OUT", "--option", "depth"], 2, ["name=value"]),
        (["train", "DATA", "--out", "OUT", "--precision", "half"], 2, ["precision"]),
        (["train", "DATA", "--out", "OUT", "--lr", "0"], 2, ["lr"]),
        (["train", "DATA", "--out", "OUT", "--max-minutes", "0"], 2, ["max_minutes"]),
        (["train", "DATA", "--out", "OUT", "--preset", "tiny"], 2, ["preset"]),
        (["train", "DATA", "--out", "OUT", "--plan", "GONE"], 2, ["plan.yaml"]),
        (["train", "DATA", "--out", "OUT", "--resume", "--force"], 2, ["one of them"]),
        (["train", "DATA"], 2, ["--out"]),
        (["train", "GONE", "--out", "OUT"], 3, ["no such data set"]),
        (["check", "GONE"], 3, ["no such data set"]),
        (["plan", "GONE", "--out", "OUT"], 3, ["no such data set"]),
        (["predict", "DATA", "--out", "OUT", "--model", "GONE"], 2, ["no such model folder"]),
        (["evaluate", "--pred", "GONE", "--ref", "REFS", "--out", "OUT.json"], 3, ["no such"]),
        (["train", "DATA", "--out", "OUT", "--device", "cuda:99"], 4, ["cuda:99"]),
    ],
)
def test_errors_are_one_line_one_object_and_a_code(
    command, dataset, tmp_path, arguments, code, words
) -> None:
    places = {
        "DATA": dataset,
        "REFS": dataset / "labelsTr",
        "OUT": tmp_path / "out",
        "OUT.json": tmp_path / "m.json",
        "GONE": tmp_path / "gone" / "plan.yaml",
    }
    got, report, errors = command(*(places.get(a, a) for a in arguments))
    assert got == code == report["error"]["exit_code"]
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert line == f"error: {report['error']['message']}"
    for word in words:
        assert word in line
    assert not (tmp_path / "out" / "fold_0").exists()


def test_a_signal_is_exit_code_130_with_a_checkpoint(text, dataset, tmp_path, monkeypatch) -> None:
    """And the command it names goes on from there."""
    import os
    import signal

    from apps.medical.train import SegmentationBatches

    original = SegmentationBatches.batch_at

    def interrupt(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, index)

    line = ("train", dataset, *TINY, *SMALL, "--max-steps", 5, "--out", tmp_path / "run")
    monkeypatch.setattr(SegmentationBatches, "batch_at", interrupt)
    code, _, errors = text(*line, "--quiet")
    assert code == 130
    assert "--resume" in errors
    monkeypatch.undo()
    code, out, _ = text(*line, "--quiet", "--resume")
    assert code == 0
    assert "5 steps" in out


def test_check_of_the_samples_as_a_process(python, samples) -> None:
    done = python("apps/medical/run.py", "check", str(samples / "hippocampus"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["error"] == 0
