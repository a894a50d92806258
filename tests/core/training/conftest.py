from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_toy", HERE / "toy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_toy"] = module  # loader workers may have to import it by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def in_process() -> Iterator[Callable[..., int]]:
    """Train in a new process; returns its wait status: 0, or the number of the signal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(HERE / "toy.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def ask(**command: object) -> int:
        print(json.dumps(command), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield ask
    server.stdin.close()
    assert server.wait(30) == 0
