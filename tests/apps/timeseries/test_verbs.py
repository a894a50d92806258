"""What each verb does with what the others left: text for people, repeated, killed and resumed runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

VERBS = {
    "models", "check", "fit", "forecast", "backtest", "compare", "detect", "report", "evaluate",
    "tune", "classify", "export",
}  # fmt: skip
SIZES = ("--lookback", 24, "--horizon", 6)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_models(command) -> None:
    code, report, errors = command("models")
    assert (code, errors) == (0, "")
    assert set(report["verbs"]) >= VERBS
    assert set(report["models"]) == {
        "itransformer", "s-mamba", "bimamba", "patchtst", "dlinear", "olinear", "autoformer",
        "timelygpt", "gpht",
    }  # fmt: skip
    assert set(report["baselines"]) == {
        "last-value", "seasonal-naive", "seasonal-mean", "drift", "ets",
    }  # fmt: skip
    assert set(report["protocols"]) == {"ett-hour", "ett-minute", "7-1-2"}
    assert report["exit_codes"].keys() >= {"0", "2", "3", "4", "130"}
    for about in report["models"].values():
        assert about["paper"]


def test_every_verb_has_help(text) -> None:
    code, out, _ = text("--help")
    assert code == 0
    for verb in VERBS:
        assert f" {verb} " in out
        code, told, _ = text(verb, "--help")
        assert code == 0
        assert "--json" in told


def test_no_verb_at_all_is_help(text) -> None:
    code, out, errors = text()
    assert (code, errors) == (0, "")
    assert "forecast" in out


def test_people_get_text(text, table, csv, small_model, tmp_path) -> None:
    """Each verb says what it did in units and words, and where it lies."""
    file, out = csv(table()), tmp_path / "out"
    for line, *words in (
        (("check", file), "load.csv: 200 rows", "season 24", "ready to fit"),
        (("models",), "iTransformer", "seasonal-naive", "ett-hour"),
        (("forecast", file, "--model", small_model, "--out", out), "6 steps after", "pointwise",
         "forecast.csv (12 rows)"),
        (("report", small_model, "--out", out), "report.html"),
        (("detect", file, "--rate", 0.05, "--out", out), "alarm", "alarms.csv"),
        (("evaluate", file, *SIZES, "--model", "drift"), "MSE", "seasonal-naive"),
        (("compare", file, "--model", "drift", "--model", "seasonal-naive", "--horizon", 6,
          "--windows", 2, "--out", out), "verdict:", "rank", "report.md"),
    ):  # fmt: skip
        shutil.rmtree(out, ignore_errors=True)
        code, said, errors = text(*line, *(["--quiet"] if len(line) > 2 else []))
        assert (code, errors) == (0, ""), line
        for word in words:
            assert word in said, (line[0], word, said)


def test_check_of_a_bad_file_says_what_repairs_it(text, table, csv) -> None:
    file = csv(table().drop(index=range(50, 80)))
    code, said, errors = text("check", file)
    assert (code, errors) == (3, "")
    assert "30 stamps are missing" in said
    assert "--fill" in said


def test_progress_goes_to_standard_error_and_quiet_stops_it(text, table, csv, small, tmp_path):
    line = ("fit", csv(table()), *SIZES, "--max-steps", 1, *small, "--out")
    code, said, errors = text(*line, tmp_path / "a")
    assert code == 0
    assert "MSE" in said
    assert errors
    assert text(*line, tmp_path / "b", "--quiet")[::2] == (0, "")


def test_a_seed_gives_the_same_model_and_forecast(command, table, csv, small, tmp_path) -> None:
    file, found = csv(table()), {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        line = ("fit", file, *SIZES, "--max-steps", 3, *small, "--seed", seed)
        assert command(*line, "--out", tmp_path / name)[0] == 0
        out = tmp_path / f"out-{name}"
        assert command("forecast", file, "--model", tmp_path / name, "--out", out)[0] == 0
        found[name] = weights(tmp_path / name), (out / "forecast.csv").read_bytes()
    assert found["a"] == found["b"]
    assert found["a"][0] != found["c"][0]
    assert found["a"][1] != found["c"][1]


def test_a_backtest_is_the_same_again(command, table, csv, small, tmp_path) -> None:
    line = ("backtest", csv(table()), "--model", "itransformer", "--horizon", 6, "--windows", 2)
    for name in "ab":
        assert command(*line, "--lookback", 24, "--max-steps", 2, *small, "--out", tmp_path / name)[0] == 0  # fmt: skip
    first, second = ((tmp_path / name / "backtest.csv").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_run_that_resumes_to_the_same_model(
    command, text, table, csv, small, tmp_path, monkeypatch, kind
) -> None:
    from apps.timeseries.data.windows import WindowBatches

    original = WindowBatches.batch_at

    def interrupt(self, index):
        if index == 2:
            os.kill(os.getpid(), kind)
        return original(self, index)

    line = ("fit", csv(table()), *SIZES, "--max-steps", 6, *small)
    assert command(*line, "--out", tmp_path / "whole")[0] == 0
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(WindowBatches, "batch_at", interrupt)
        code, said, errors = text(*line, "--out", run, "--quiet")
    assert (code, said) == (130, "")
    assert "--resume" in errors
    assert not (run / "model.json").exists()
    code, report, errors = command(*line, "--out", run)
    assert code == 2
    assert "--resume" in errors
    code, report, errors = command(*line, "--out", run, "--resume")
    assert code == 0, errors
    assert report["training"]["steps"] == 6
    assert weights(run) == weights(tmp_path / "whole")


def test_resume_of_other_data_is_refused(command, table, csv, small, tmp_path) -> None:
    line = ("--max-steps", 2, *SIZES, *small, "--out", tmp_path / "run")
    assert command("fit", csv(table()), *line)[0] == 0
    kept = weights(tmp_path / "run")
    code, _, errors = command("fit", csv(table(210), "other.csv"), *line, "--resume")
    assert code in (2, 3)
    assert errors.count("error: ") == 1
    assert weights(tmp_path / "run") == kept


def test_force_replaces_results_and_leaves_other_files(command, table, csv, tmp_path) -> None:
    out = tmp_path / "out"
    line = ("forecast", csv(table()), "--model", "drift", "--horizon", 6, "--out", out)
    assert command(*line)[0] == 0
    before = (out / "forecast.csv").read_bytes()
    (out / "notes.txt").write_text("mine")
    assert command(*line, "--horizon", 7, "--force")[0] == 0
    assert (out / "forecast.csv").read_bytes() != before
    assert (out / "notes.txt").read_text() == "mine"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_one_series_alone_is_forecast_as_among_others(command, long_table, csv, tmp_path) -> None:
    line = ("forecast", csv(long_table(3)), "--model", "ets", "--horizon", 6)
    assert command(*line, "--out", tmp_path / "all")[0] == 0
    assert command(*line, "--series", "s1", "--out", tmp_path / "one")[0] == 0
    every, one = (pd.read_csv(tmp_path / name / "forecast.csv") for name in ("all", "one"))
    pd.testing.assert_frame_equal(one, every.query("unique_id == 's1'").reset_index(drop=True))


def test_joint_bands_hold_the_path_and_say_so(command, table, csv, tmp_path) -> None:
    line = ("forecast", csv(table(900)), "--model", "seasonal-mean", "--horizon", 12)
    assert command(*line, "--out", tmp_path / "steps")[0] == 0
    code, report, _ = command(*line, "--joint", "--out", tmp_path / "path")
    assert code == 0
    assert report["intervals"]["kind"] == "joint path"
    steps, path = (pd.read_csv(tmp_path / name / "forecast.csv") for name in ("steps", "path"))
    width = [(frame["hi-80"] - frame["lo-80"]).mean() for frame in (steps, path)]
    assert width[1] > 1.2 * width[0]
    pd.testing.assert_series_equal(steps["yhat"], path["yhat"])


def test_a_fit_with_quantiles_forecasts_with_its_own(command, table, csv, small, tmp_path) -> None:
    model, out, file = tmp_path / "model", tmp_path / "out", csv(table(400))
    line = ("fit", file, *SIZES, "--max-steps", 3, *small, "--out", model)
    code, _, errors = command(*line, "--quantile", 0.1, "--quantile", 0.5, "--quantile", 0.9)
    assert code == 0, errors
    code, report, errors = command("forecast", file, "--model", model, "--level", 80, "--out", out)
    assert code == 0, errors
    found = pd.read_csv(out / "forecast.csv")
    assert (found["lo-80"] <= found["hi-80"]).all()
    assert abs(report["coverage"][0]["measured"] - 80) < 10


def test_a_model_that_was_fitted_is_backtested_on_what_it_has_not_seen(
    command, table, csv, small_model, tmp_path
) -> None:
    """Rows that it learnt from prove nothing: there is no verdict, in so many words."""
    naive = ("--baseline", "seasonal-naive", "--horizon", 6)
    line = ("backtest", csv(table(300)), "--model", small_model, *naive)
    code, report, errors = command(*line, "--windows", 3, "--out", tmp_path / "late")
    assert code == 0, errors
    assert "learnt from" not in report["verdict"]
    until = json.loads((small_model / "model.json").read_text())["data"]["trained_until"]
    assert min(report["cutoffs"]) >= until
    code, report, _ = command(*line, "--windows", 25, "--out", tmp_path / "early")
    assert code == 0
    assert min(report["cutoffs"]) < until
    assert f"small has learnt from data up to {until}" in report["verdict"]
    assert "no verdict" in report["verdicts"]["small"]


def test_detect_finds_what_was_planted(command, table, csv, tmp_path) -> None:
    rows = table(600, 1)
    rows.loc[500, "v0"] += 8
    out = tmp_path / "out"
    code, report, errors = command("detect", csv(rows), "--rate", 0.02, "--mend", "--out", out)
    assert code == 0, errors
    alarms = pd.read_csv(out / "alarms.csv")
    assert rows["date"][500] in alarms["ds"].tolist()
    assert report["alarms"] == len(alarms) < 30


def test_compare_tests_every_pair(command, table, csv, tmp_path) -> None:
    line = ("compare", csv(table(400)), "--horizon", 6, "--windows", 6, "--out", tmp_path / "out")
    names = ("last-value", "seasonal-naive", "seasonal-mean")
    code, report, errors = command(*line, *(w for name in names for w in ("--model", name)))
    assert code == 0, errors
    assert len(report["pairs"]) == 3
    assert len(pd.read_csv(tmp_path / "out" / "compare.csv")) == 3


def test_tune_ends_with_a_command_that_works(command, text, table, csv, small, tmp_path) -> None:
    pytest.importorskip("optuna")
    file, out = csv(table()), tmp_path / "out"
    line = ("tune", file, *SIZES, "--trials", 2, "--max-steps", 1, *small[:2], *small[4:])
    code, report, errors = command(*line, "--search", "depth=1,2", "--out", out)
    assert code == 0, errors
    assert {path.name for path in out.iterdir()} == {
        "best.yaml", "report.json", "trials.csv", "study.log",
    }  # fmt: skip
    assert report["counts"]
    words = shlex.split(report["fit"])
    place = {"load.csv": file}
    at = words.index("fit")
    code, _, errors = text(*(place.get(word, word) for word in words[at:]), "--quiet")
    assert code == 0, errors
    assert (Path(words[words.index("--out") + 1]) / "model.json").exists()
    code, _, errors = command(*line, "--search", "depth=1,2", "--out", out)
    assert code == 2
    assert "--resume" in errors or "--force" in errors


def test_classify(command, samples, tmp_path) -> None:
    out = tmp_path / "out"
    train, test = (samples / "basicmotions" / f"BasicMotions_{part}.ts" for part in ("TRAIN", "TEST"))  # fmt: skip
    line = ("classify", train, "--test", test, "--set", "epochs=2", "--set", "per_class=1")
    code, report, errors = command(*line, "--out", out)
    assert code == 0, errors
    assert set(report["classes"]) == {"Standing", "Running", "Walking", "Badminton"}
    assert 0 <= report["scores"]["accuracy"] <= 1
    assert report["baselines"]
    assert {path.name for path in out.iterdir()} >= {"model.json", "model.safetensors"}
    code, _, errors = command(*line, "--out", out)
    assert code == 2
    assert "--force" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["GONE"], 3, ["none.ts", "no such file"]),
        (["CSV"], 3, ["load.csv", "line 1", "no .ts file"]),
        (["TRAIN", "--set", "epoch=1"], 2, ["'epoch'", "'epochs'"]),
        (["TRAIN", "--set", "epochs=0"], 2, ["epochs", "0"]),
        (["TRAIN", "--test", "GONE"], 3, ["none.ts", "no such file"]),
    ],
)
def test_classify_explains_mistakes(command, samples, table, csv, tmp_path, arguments, code, words):
    places = {
        "GONE": tmp_path / "none.ts",
        "CSV": csv(table(30)),
        "TRAIN": samples / "basicmotions" / "BasicMotions_TRAIN.ts",
    }
    line = ("classify", *(places.get(word, word) for word in arguments), "--out", tmp_path / "out")
    got, report, errors = command(*line)
    assert (got, errors.count("error: ")) == (code, 1)
    for word in words:
        assert word in report["error"]["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_export_forecasts_as_the_model(command, small_model, tmp_path, format) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    code, report, errors = command("export", small_model, "--format", format, "--out", out)
    assert code == 0, errors
    assert report["check"]["max_abs_difference"] < 1e-4
    assert (out / report["file"]).stat().st_size > 1000


def test_report_of_everything_that_was_made(command, table, csv, small_model, tmp_path) -> None:
    file = csv(table())
    naive = ("--model", "seasonal-naive", "--horizon", 6)
    assert command("forecast", file, *naive, "--out", tmp_path / "forecast")[0] == 0
    assert command("backtest", file, *naive, "--windows", 2, "--out", tmp_path / "backtest")[0] == 0
    for source in (small_model, tmp_path / "forecast", tmp_path / "backtest"):
        out = tmp_path / f"report-{source.name}"
        code, _, errors = command("report", source, "--out", out)
        assert code == 0, errors
        page = (out / "report.html").read_text(encoding="utf-8")
        assert "<html" in page
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert (out / "report.md").read_text(encoding="utf-8").startswith("#")


def test_a_shipped_name_works_as_a_folder_does(
    command, table, csv, small_model, tmp_path, monkeypatch
):
    shutil.copytree(small_model, tmp_path / "weights" / "my-load")
    monkeypatch.setenv("TRIPTYCH_WEIGHTS", str(tmp_path / "weights"))
    assert "my-load" in command("models")[1]["weights"]
    file = csv(table())
    for name, model in (("a", "my-load"), ("b", small_model)):
        assert command("forecast", file, "--model", model, "--out", tmp_path / name)[0] == 0
    first, second = (pd.read_csv(tmp_path / name / "forecast.csv") for name in "ab")
    np.testing.assert_array_equal(first["yhat"], second["yhat"])
    code, _, errors = command("forecast", file, "--model", "my-laod", "--out", tmp_path / "c")
    assert code == 2
    assert "Did you mean 'my-load'?" in errors


def test_threads_and_spaces_in_names(command, table, csv, tmp_path) -> None:
    file = csv(table(60), "the load, März (1).csv")
    out = tmp_path / "my results" / "a.b"
    line = ("forecast", file, "--model", "drift", "--horizon", 2, "--threads", 1, "--out", out)
    code, report, errors = command(*line)
    assert code == 0, errors
    assert report["data"]["file"] == file.name
    assert (out / "forecast.html").exists()
