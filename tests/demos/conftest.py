"""Pages without a browser: Streamlit's AppTest runs a page's script and keeps what it drew."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120  # s: the first use of a model imports torch


@pytest.fixture
def open_page() -> Callable[[str], AppTest]:
    """``open_page("medical")``: the first paint of ``demos/medical.py``, alone, without errors."""
    testing = pytest.importorskip("streamlit.testing.v1", reason="needs the extra 'demos'")

    def open_(name: str) -> AppTest:
        app = testing.AppTest.from_file(str(ROOT / "demos" / f"{name}.py"), default_timeout=TIMEOUT)
        return clean(app.run())

    return open_


@pytest.fixture
def settle() -> Callable[..., AppTest]:
    """``settle(app)``: run the page until its jobs have ended and it shows what came of them.

    A browser's fragments rerun by themselves while a job works; AppTest's must be asked to.
    """

    def settle_(app: AppTest, seconds: float = TIMEOUT) -> AppTest:
        from demos.shared import jobs

        deadline = time.monotonic() + seconds
        while jobs.busy():
            assert time.monotonic() < deadline, f"still working after {seconds:g} s"
            time.sleep(0.05)
        return clean(app.run())

    return settle_


def clean(app: AppTest) -> AppTest:
    """The page, once it is sure that it drew no traceback."""
    assert not app.exception, [element.message for element in app.exception]
    return app
