"""Published figures are the committed results, and their helpers compute what they say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.evaluate import evaluate
from core.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_committed_results():
    tables = script("tables")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.inserted(readme, tables.tables()) == readme, (
        "run: python benchmarks/tables.py --write"
    )


def test_the_document_lists_the_calls_as_the_server_knows_them():
    """So far as it comes from the code; what the checks use is measured."""
    document = (ROOT / "docs" / "carla-coverage.md").read_text(encoding="utf-8")
    assert script("carla_coverage").server_calls() in document, (
        "run: python benchmarks/carla_coverage.py"
    )


def test_every_backbone_is_counted_as_it_is_now():
    """The demo shows these without importing torch."""
    counted = script("backbones").counted()
    assert script("tables").load(ROOT / "benchmarks" / "results", "backbones")["backbones"] == (
        counted
    ), "run: python benchmarks/backbones.py"


def test_every_result_names_its_commit_seed_and_machine():
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        environment = script("tables").load(file.parent, file.stem)["environment"]
        for key in ("commit", "seed", "platform", "cpu", "cores", "packages"):
            assert key in environment, f"{file.name} lacks {key}"


def test_bootstrap_interval_holds_the_mean_and_narrows():
    bootstrap = script("segmentation_cv").bootstrap
    values = [i / 10 for i in range(10)]
    few, many = bootstrap(values, 12), bootstrap(values * 50, 500)
    assert bootstrap([], 3) == {"mean": None, "low": None, "high": None, "undefined": 3}
    assert few["mean"] == pytest.approx(0.45)
    assert few["low"] < few["mean"] < few["high"]
    assert few["undefined"] == 2
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 3


# ---- variants of networks, and results that grow ---------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "title", "ablation"),
    [
        ("dynunet", "dynunet", "DynUNet", None),
        (
            "umamba_bot", "umamba_bot", "U-Mamba Bot", "umamba_bot:mixer=none",
        ),
        (
            "umamba_bot:mixer=None", "umamba_bot:mixer=none", "U-Mamba Bot, Mamba layer removed",
            None,
        ),
        (
            "umamba_enc:residual=True", "umamba_enc:residual=true",
            "U-Mamba Enc, with a residual around Mamba", "umamba_bot:mixer=none",
        ),
        (
            "segmamba:path=bidirectional,feature_size=8", "segmamba:feature_size=8,path=bidirectional",
            "SegMamba-style, path=bidirectional, feature_size=8",
            "segmamba:feature_size=8,mixer=none",
        ),
        (
            "vm_unet:depths=[1,2,2],mixer=depthwise", "vm_unet:depths=[1,2,2],mixer=depthwise",
            "VM-UNet, depths=[1,2,2], depthwise in Mamba's place",
            "vm_unet:depths=[1,2,2],mixer=none",
        ),
    ],
)  # fmt: skip
def test_variants(text: str, key: str, title: str, ablation: str | None) -> None:
    Variant = script("segmentation_cv").Variant
    variant = Variant.parse(text)
    assert (variant.key, variant.title) == (key, title)
    assert Variant.parse(variant.key) == variant
    assert ":" not in variant.folder
    assert (None if variant.ablation is None else variant.ablation.key) == ablation


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("umamba_boot", "Did you mean 'umamba_bot'"),
        ("umamba_bot:mixr=none", "Did you mean 'mixer'"),
        ("umamba_bot:mixer", "name:option=value"),
    ],
)
def test_unknown_variants_are_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        script("segmentation_cv").Variant.parse(text)


CASES = ["a", "b", "c"]


def result(**dice: list[float | None]) -> dict[str, Any]:
    """A result of three cases and one label."""
    return {
        "dataset": "d", "cases": 3, "folds": [0], "steps": 4, "batch": 2, "patch": [8, 8],
        "peak_learning_rate": 0.1, "seed": 0, "note": None, "environment": {"commit": "c"},
        "models": {k: {"title": k, "ablation": None, "labels": {"x": {}}} for k in dice},
        "case_ids": CASES, "dice": {k: {"x": v} for k, v in dice.items()},
    }  # fmt: skip


def test_networks_are_compared_case_by_case() -> None:
    made = result(dynunet=[0.5, 0.6, 0.7], m=[0.6, 0.6, None], m_without=[0.3, 0.3, 0.3])
    made["models"]["m"]["ablation"] = "m_without"
    made["models"]["m_without"]["ablation"] = "not there"
    script("segmentation_cv").compare(made)
    models = made["models"]
    assert models["m"]["dice_minus_dynunet"]["x"]["mean"] == pytest.approx(0.05)
    assert models["m"]["dice_minus_dynunet"]["x"]["undefined"] == 1
    assert models["m"]["dice_minus_ablation"]["x"]["mean"] == pytest.approx(0.3)
    assert "dice_minus_dynunet" not in models["dynunet"]
    assert "dice_minus_ablation" not in models["m_without"]
    assert models["m_without"]["dice_minus_dynunet"]["x"]["mean"] == pytest.approx(-0.3)


def test_a_result_grows_and_keeps_what_it_had() -> None:
    module = script("segmentation_cv")
    old, new = result(dynunet=[0.5] * 3, unet=[0.4] * 3), result(m=[0.6] * 3, unet=[0.3] * 3)
    grown = module.added(old, new)
    assert list(grown["models"]) == ["dynunet", "unet", "m"]
    assert grown["dice"]["unet"]["x"] == [0.3] * 3  # the later training
    assert grown["additions"][0]["models"] == ["m", "unet"]
    assert grown["environment"] == old["environment"]
    module.compare(grown)
    assert grown["models"]["m"]["dice_minus_dynunet"]["x"]["mean"] == pytest.approx(0.1)

    before = {k: v for k, v in old.items() if k not in ("case_ids", "dice")}  # of an older script
    before["models"]["unet"]["dice_minus_dynunet"] = "as it was"
    grown = module.added(before, result(m=[0.6] * 3))
    module.compare(grown)
    assert grown["models"]["unet"]["dice_minus_dynunet"] == "as it was"
    assert "dice_minus_dynunet" not in grown["models"]["m"]  # nothing to pair it with


@pytest.mark.parametrize("key", ["dataset", "cases", "folds", "steps", "batch", "patch", "seed"])
def test_results_of_another_budget_are_not_mixed(key: str) -> None:
    old, new = result(dynunet=[0.5] * 3), result(m=[0.6] * 3)
    old[key] = "another"
    with pytest.raises(UsageError, match=f"--add: {key} is"):
        script("segmentation_cv").added(old, new)


def test_results_are_written_compactly_and_read_back() -> None:
    made = result(m=[0.25, None, 1.0])
    text = script("segmentation_cv").written(made)
    assert json.loads(text) == made
    assert "[ 0.25, null, 1.0 ]" in text


def test_forecasting_cells_become_rows_and_a_result_grows(tmp_path: Path) -> None:
    forecasting = script("forecasting")
    training = {"parameters": 5, "changes": {}, "steps": 7}

    def cell(seed: int, mse: float, model: str = "dlinear") -> None:
        values = {
            **{"dataset": "ETTh1", "horizon": 96, "model": model, "seed": seed, "windows": 3},
            **{"mse": mse, "mae": mse / 2, "cpu_seconds": 1.0, "file_sha256": "a"},
            "training": training if model == "dlinear" else {},
        }
        (tmp_path / f"{model}-{seed}.json").write_text(json.dumps(values))

    cell(0, 0.5)
    cell(0, 0.9, "last-value")
    first = forecasting.collect(tmp_path)
    assert [row["model"] for row in first["rows"]] == ["last-value", "dlinear"]
    (tmp_path / "dlinear-0.json").unlink()
    cell(1, 0.7)
    grown = forecasting.collect(tmp_path, first)
    row = grown["rows"][1]
    assert (row["seeds"], row["mse"], row["mse_by_seed"]) == ([0, 1], 0.6, [0.5, 0.7])
    assert (row["steps"], row["parameters"]) == ([7, 7], 5)
    (tmp_path / "dlinear-1.json").unlink()
    (tmp_path / "last-value-0.json").unlink()
    assert forecasting.collect(tmp_path, grown)["rows"] == grown["rows"]


@pytest.fixture
def exchange(tmp_path: Path) -> Path:
    """A folder with a random walk under the name of the exchange rates."""
    data = tmp_path / "data"
    data.mkdir()
    values = np.random.default_rng(0).normal(size=(600, 2)).cumsum(0)
    stamps = pd.date_range("2020-01-01", periods=600, freq="D").strftime("%Y-%m-%d")
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame.insert(0, "date", stamps)
    frame.to_csv(data / "exchange_rate.csv", index=False)
    return data


def test_a_killed_forecasting_cell_goes_on(exchange: Path, tmp_path: Path) -> None:
    forecasting, work = script("forecasting"), tmp_path / "work"
    cell = forecasting.Cell("Exchange", 6, "dlinear", 0)
    run = work / "runs" / "Exchange-6-dlinear-0"
    options: dict[str, Any] = {"horizon": 6, "naive": False}
    file = exchange / "exchange_rate.csv"
    whole = evaluate(file, "7-1-2", "dlinear", **options)
    evaluate(file, "7-1-2", "dlinear", **options, out=run, max_steps=3)
    state = run / "checkpoints" / "last" / "state.json"
    assert json.loads(state.read_text())["step"] == 3
    state.write_text(json.dumps(json.loads(state.read_text()) | {"cpu_seconds": 1000.0}))
    forecasting.compute([cell], exchange, work)
    made = json.loads((work / cell.file).read_text())
    assert made["cpu_seconds"] > 1000  # it did not begin again, and what was spent counts
    assert made["training"]["steps"] == whole["training"]["steps"]
    assert {k: made[k] for k in ("mse", "mae")} == pytest.approx(
        {k: whole[k] for k in ("mse", "mae")}
    )
    assert not run.exists()


def test_horizons_of_a_baseline_are_one_process_and_score_as_evaluate_does(
    exchange: Path, tmp_path: Path
) -> None:
    forecasting, data, work = script("forecasting"), exchange, tmp_path / "work"
    work.mkdir()
    Cell = forecasting.Cell
    cells = [Cell("Exchange", h, m, 0) for h in (6, 24) for m in ("last-value", "dlinear")]
    groups = forecasting.processes(cells)
    assert [len(group) for group in groups] == [2, 1, 1]
    forecasting.compute(groups[0], data, work)
    assert {path.name for path in work.iterdir()} == {cell.file for cell in groups[0]}
    for cell in groups[0]:
        made = json.loads((work / cell.file).read_text())
        alone = evaluate(
            data / "exchange_rate.csv", "7-1-2", "last-value", horizon=cell.horizon, naive=False
        )
        assert made["together"] == [6, 24]
        assert {k: made[k] for k in ("mse", "mae")} == pytest.approx(
            {k: alone[k] for k in ("mse", "mae")}
        )
        for key in ("dataset", "horizon", "seed", "windows", "file_sha256"):
            assert made[key] == alone[key], key
    row = forecasting.collect(work)["rows"][0]
    assert (row["model"], row["together"]) == ("last-value", [6, 24])
