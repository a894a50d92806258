"""The detection benchmark: its cells from files to figures, without the hours of training."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    file = ROOT / "benchmarks" / "detection.py"
    if not file.is_file():
        pytest.skip("benchmarks/ is not part of this copy")
    spec = importlib.util.spec_from_file_location("detection_benchmark", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a level, as three images of one small grid."""
    from apps.medical.data.volume import Volume
    from apps.medical.detection.synthetic import write_image

    folder = tmp_path_factory.mktemp("study")
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    for number, (role, level) in enumerate((("t2w", 150), ("adc", 1300), ("hbv", 20))):
        noise = np.random.default_rng(number).normal(level, level / 20, (44, 42, 20))
        volume = Volume(
            array=noise.astype(np.float32), affine=affine, spacing=(1.5, 1.5, 3.0), rank=3,
            path=folder,
        )  # fmt: skip
        write_image(volume, folder / f"case_{role}.mha")
    return folder


def test_from_a_study_to_figures_beside_a_floor(benchmark, study, tmp_path) -> None:
    pytest.importorskip("picai_eval")
    line = [
        "lesions", str(study), "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o.json"),
        "--cases", "12", "--models", "arithmetic", "--folds", "0", "--seed", "2",
        "--spacing", "2", "2", "3", "--shape", "30", "30", "20",
    ]  # fmt: skip
    args = benchmark.arguments(line)
    benchmark.data(args)
    benchmark.run_one(args, "arithmetic", 0)
    about = json.loads(benchmark.cell(args, "arithmetic", 0).read_text())
    result = benchmark.collect_lesions(args)
    figures = result["models"]["arithmetic"]
    assert set(figures["per_case"]) == set(about["cases"])
    assert figures["cases"] == len(about["cases"]) >= 2
    assert figures["lesions"] > 0
    # On noise, ellipsoids that are dark on ADC and bright at high b stand out.
    assert figures["found"] / figures["lesions"] > 0.6
    assert "SYNTHETIC" in result["warning"]

    with pytest.raises(SystemExit, match="other data; give a new --work"):
        benchmark.data(benchmark.arguments([*line[:7], "13", *line[8:]]))
    both = benchmark.arguments([*line[:9], "arithmetic", "unet", *line[10:]])
    with pytest.raises(SystemExit, match="not finished: unet fold 0"):
        benchmark.collect_lesions(both)
    both.partial = True
    assert benchmark.collect_lesions(both)["missing"] == ["unet fold 0"]
