"""What every test may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Tensors here are small: a second thread gains nothing, and waits for the first on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Pictures are written to files; a window must never be asked for.
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def samples() -> Path:
    """The sample data that comes with the repository; skips where it does not (an sdist)."""
    folder = ROOT / "samples"
    if not folder.is_dir():
        pytest.skip("samples/ is not part of this copy")
    return folder


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run this interpreter with arguments, in the repository, and return what it printed."""

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="session")
def write_dicom_series() -> Callable:
    """``write_series`` of the DICOM tests' conftest, for tests elsewhere."""
    place = ROOT / "tests" / "apps" / "medical" / "dicom" / "conftest.py"
    spec = spec_from_file_location("synthetic_dicom", place)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.write_series


@pytest.fixture
def run_json(
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Callable[..., tuple[int, dict, str]]]:
    """For an application: runs its verbs with --json in this process.

    They give (exit code, the one JSON object, standard error).
    """
    from core.cli import main

    def of(app: Any) -> Callable[..., tuple[int, dict, str]]:
        def call(*arguments: object) -> tuple[int, dict, str]:
            capsys.readouterr()
            code = main(app, [*map(str, arguments), "--json"])
            captured = capsys.readouterr()
            assert captured.out.count("\n") == 1, captured.out
            assert "Traceback" not in captured.err, captured.err
            return code, json.loads(captured.out), captured.err

        return call

    return of
