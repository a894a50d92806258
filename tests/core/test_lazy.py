from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

import core


def test_importing_core_imports_no_torch(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = (
        "import sys, core; core.__version__; print([m in sys.modules for m in ('torch', 'numpy')])"
    )
    assert python("-c", code).stdout.strip() == "[False, False]"


def test_unknown_attributes_of_core_are_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat'"):
        core.creat  # noqa: B018
