"""Published figures are the committed results, and their helpers compute what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

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


def test_every_result_names_its_commit_seed_and_machine():
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        environment = script("tables").load(file.parent, file.stem)["environment"]
        for key in ("commit", "seed", "platform", "cpu", "cores", "packages"):
            assert key in environment, f"{file.name} lacks {key}"


def test_bootstrap_interval_holds_the_mean_and_narrows():
    bootstrap = script("segmentation_cv").bootstrap
    values = [i / 10 for i in range(10)]
    few, many = bootstrap(values, 12), bootstrap(values * 50, 500)
    assert few["mean"] == pytest.approx(0.45)
    assert few["low"] < few["mean"] < few["high"]
    assert few["undefined"] == 2
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 3
