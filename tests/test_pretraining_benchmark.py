"""The pre-training benchmark: who is labelled, who is seen, and what its intervals mean."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "benchmarks" / "pretraining.py"
    spec = importlib.util.spec_from_file_location("benchmark_pretraining", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "set"
    for number in range(20):
        array = np.random.default_rng(number).normal(size=(5, 6, 7)).astype(np.float32)
        for kind, values in (("imagesTr", array), ("labelsTr", (array > 1).astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / kind / f"case_{number}.nii")
    return folder


def settings(dataset: Path, work: Path, **given) -> argparse.Namespace:
    values = {
        "dataset": dataset, "work": work, "plan": Path("small.yaml"), "model": "cswin_unet",
        "arms": ["mae"], "sizes": [2, 4], "seeds": [0, 1], "steps": 3, "lr": 0.1, "reserve": 6,
        "pretrain_steps": 5, "pretrain_lr": 0.2, "pretrain_batch": 2, "partial": False,
        "init_lr": 1.0, "note": None, "out": work / "result.json", "kept": {},
    }  # fmt: skip
    return argparse.Namespace(**(values | given))


def test_the_rest_is_neither_labelled_nor_test(script, dataset, tmp_path) -> None:
    args = settings(dataset, tmp_path)
    pool, rest, test = script.deal(args, 0)
    assert len(pool) == 6
    assert not set(pool) & set(rest)
    assert not set(test) & {*pool, *rest}
    assert {*pool, *rest, *test} == {f"case_{n}" for n in range(20)}
    assert script.deal(args, 0) == (pool, rest, test)
    other = script.deal(args, 1)
    assert other[0] != pool
    assert other[2] == test
    with pytest.raises(SystemExit, match="no unlabelled rest"):
        script.deal(settings(dataset, tmp_path, reserve=14), 0)


def test_a_subset_holds_the_cases_named_as_its_fold_0(script, dataset, tmp_path) -> None:
    from apps.medical.data.datasets import open_dataset
    from apps.medical.data.splits import folds

    made = script.subset(dataset, tmp_path / "data", ["case_3", "case_1"], ["case_7"])
    script.subset(dataset, tmp_path / "data", ["case_3", "case_1"], ["case_7"])  # again, resumed
    data = open_dataset(made)
    assert folds(data) == [(["case_1", "case_3"], ["case_7"])]
    assert [case.id for case in data.cases] == ["case_1", "case_3", "case_7"]
    original = open_dataset(dataset)
    assert np.array_equal(
        data.read_label(data.case("case_3")).array,
        original.read_label(original.case("case_3")).array,
    )


def test_cells_and_their_folders(script, dataset, tmp_path) -> None:
    before, after = script.cells(settings(dataset, tmp_path), 1)
    assert [c.name for c in before] == ["pretraining/mae/seed-1"]
    assert len(after) == 2 * 2
    for cell in (*before, *after):
        assert script.Cell.parse(cell.name) == cell


def finish(script, args, dice) -> None:
    """Records as if every cell had run; ``dice(arm, seed, size)`` of each of three cases."""
    made = {"commit": "abc", "modified": False}
    for cell in (
        cell for seed in args.seeds for group in script.cells(args, seed) for cell in group
    ):
        if cell.size is None:
            result = {"metrics": {"gain": 0.25}, "images": 9}
        else:
            values = dice(cell.arm, cell.seed, cell.size)
            result = {"dice": {f"c{i}": {"a": v, "b": None} for i, v in enumerate(values)}}
        record = {"settings": script.settings_of(args, cell), "cpu_seconds": 10.0,
                  "environment": made, **result}  # fmt: skip
        file = script.record_of(args, cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))


def test_collect_compares_on_the_same_seeds_and_cases(script, dataset, tmp_path) -> None:
    args = settings(dataset, tmp_path)
    gain = {2: 0.2, 4: 0.0}

    def dice(arm: str, seed: int, size: int) -> list[float]:
        base = [0.3 + 0.1 * seed, 0.5, 0.7]
        return base if arm == "scratch" else [v + gain[size] for v in base]

    finish(script, args, dice)
    result = script.collect(args)
    # A label that neither reference nor prediction has counts as 0: half of each mean here.
    few, more = (result["labelled_cases"][size]["mae"] for size in ("2", "4"))
    assert few["minus_scratch"]["mean"] == pytest.approx(0.1)
    assert few["minus_scratch"]["low"] == pytest.approx(0.1)  # the gain never varies
    assert more["minus_scratch"]["mean"] == pytest.approx(0)
    scratch = result["labelled_cases"]["2"]["scratch"]["labels"]["a"]
    assert scratch["by_seed"] == pytest.approx([0.5, 0.53333], abs=1e-5)
    assert scratch["low"] < scratch["mean"] < scratch["high"]
    assert result["pretraining"]["mae"]["reconstruction_gain"] == 0.25
    assert result["seeds"] == [0, 1]


def test_missing_cells_and_other_settings_are_named(script, dataset, tmp_path) -> None:
    args = settings(dataset, tmp_path)
    finish(script, args, lambda *cell: [0.5, 0.6])
    missing = script.Cell("mae", 1, 4)
    script.record_of(args, missing).unlink()
    with pytest.raises(SystemExit, match="1 cells are missing, first 4-labelled/mae/seed-1"):
        script.collect(args)
    result = script.collect(settings(dataset, tmp_path, partial=True))
    assert (result["seeds"], result["missing"]) == ([0], 1)  # seed 1 lacks a part: all of it is out
    with pytest.raises(SystemExit, match="made with steps 3, now it is 4"):
        script.collect(settings(dataset, tmp_path, steps=4))


def test_seeds_are_added_to_a_result_on_another_machine(script, dataset, tmp_path) -> None:
    random = np.random.default_rng(0)
    values = {(arm, seed, size): [0.1, float(random.uniform()), 0.7]
              for arm in ("scratch", "mae") for seed in (0, 1) for size in (2, 4)}  # fmt: skip

    def dice(*cell) -> list[float]:
        return values[cell]

    whole = settings(dataset, tmp_path / "one")
    finish(script, whole, dice)
    first = settings(dataset, tmp_path / "first", seeds=[0], out=tmp_path / "result.json")
    finish(script, first, dice)
    first.out.write_text(json.dumps(script.collect(first)))
    kept = script.kept(first.out)
    second = settings(dataset, tmp_path / "second", seeds=[1], out=first.out, kept=kept)
    finish(script, second, dice)
    added = script.collect(second)
    assert added["seeds"] == [0, 1]
    for size, arms in script.collect(whole)["labelled_cases"].items():
        for arm, row in arms.items():
            got = added["labelled_cases"][size][arm]["dice"]
            assert got["by_seed"] == pytest.approx(row["dice"]["by_seed"], abs=2e-5)
    again = settings(dataset, tmp_path / "empty", out=first.out, kept=kept, seeds=[0])
    assert (
        script.collect(again)["labelled_cases"]["2"] == script.collect(first)["labelled_cases"]["2"]
    )
    other = settings(dataset, tmp_path / "empty", out=first.out, kept=kept, seeds=[0], steps=4)
    with pytest.raises(SystemExit, match="made with steps 3, now it is 4; give another --out"):
        script.collect(other)
    with pytest.raises(SystemExit, match="leave out --add"):
        script.kept(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.001, 0.005), "mae helps."), ((-0.005, -0.001), "mae harms."),
     ((0.0, 0.005), "mae does not help clearly."), ((-0.005, 0.005), "mae does not help clearly.")],
)  # fmt: skip
def test_the_verdict_is_the_intervals(interval, verdict) -> None:
    from benchmarks.tables import pretraining_again

    low, high = interval
    gain = {"mean": (low + high) / 2, "low": low, "high": high, "by_seed": [0.004, -0.001, 0.0]}
    dice = {"dice": {"mean": 0.8, "low": 0.7, "high": 0.9}}
    arms = {"scratch": dice, "mae": dice | {"minus_scratch": gain}}
    text = pretraining_again({"labelled_cases": {"5": arms}, "seeds": [5, 6, 7]})
    assert verdict in text
    assert text.endswith("| 1 of 3 |")


def test_intervals_widen_with_the_seeds_and_the_cases(script) -> None:
    random = np.random.default_rng(0)
    still = script.summary(np.full((5, 40), 0.5))
    assert (still["low"], still["mean"], still["high"]) == (0.5, 0.5, 0.5)
    by_case = script.summary(np.tile(random.normal(0, 0.1, 40), (5, 1)))
    by_seed = script.summary(np.tile(random.normal(0, 0.1, (5, 1)), (1, 40)))
    width = {k: v["high"] - v["low"] for k, v in (("case", by_case), ("seed", by_seed))}
    assert 0.03 < width["case"] < 0.09  # 2 x 1.96 x 0.1 / sqrt(40) = 0.06
    assert width["seed"] > 1.3 * width["case"]
