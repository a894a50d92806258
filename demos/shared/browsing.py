"""A real browser on the demo's own server, for its tests and for the README's pictures.

The browser is the system's Chromium, driven by Playwright; it cannot reach anything but this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UsageError, need
from core.reporting import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Locator, Page

TALLEST = 6000  # px of a picture of a whole page
MARGIN = 10  # px above what a picture begins with, twice that at its sides
PADDING = 80  # px that Streamlit leaves at each side of a wide page
FLAGS = (
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    # Whatever a page asks for elsewhere fails at once.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium: $CHROMIUM, or the one on the path.

    Raises UsageError, saying what to install, where it or Playwright is missing.
    """
    api = need("playwright.sync_api", "dev")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None or not Path(found).exists():
        raise UsageError("no Chromium found (apt-get install -y chromium, or set CHROMIUM=/path)")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS, *root])
        yield browser
        browser.close()


class Server:
    """One Streamlit server of ``script`` on a free port; what it prints goes to ``log``."""

    def __init__(self, script: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        options = {
            "server.port": port,
            "server.address": "127.0.0.1",
            "server.headless": "true",
            "server.fileWatcherType": "none",
            "browser.gatherUsageStats": "false",
            "client.toolbarMode": "minimal",
            "client.showErrorDetails": "none",
            "runner.postScriptGC": "false",
        }
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streamlit", "run", str(script)]
                + [f"--{name}={value}" for name, value in options.items()],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(60)
        except BaseException:
            self.close()
            raise

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended():
            health = f"{self.url}/_stcore/health"
            with contextlib.suppress(OSError), urllib.request.urlopen(health, timeout=5) as answer:
                if answer.read() == b"ok":
                    return
            time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{self.printed()}")

    def printed(self) -> str:
        """Everything the server has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ask the process to end as a person does with Ctrl-C, and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def settle(page: Page, seconds: float = 30) -> None:
    """Wait until the script has run and no job is being watched.

    After a click it waits a moment for the script to begin; what is expected to appear had better be
    waited for by itself.
    """
    timeout = seconds * 1000
    page.wait_for_timeout(250)
    app = page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')
    app.wait_for(timeout=timeout)
    bars = page.locator('[class*="st-key-job-bars-"]')
    bars.first.wait_for(state="detached", timeout=timeout)
    app.wait_for(timeout=timeout)


def photograph(
    page: Page, path: Path, since: Locator | None = None, height: int | None = None
) -> Path:
    """A PNG of the whole page, or of ``height`` pixels of it from the top of ``since`` on.

    The latter is of the page itself, without the navigation beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Streamlit scrolls inside the page, so that a "full page" is what the window shows: make the
    # window as tall as what is in it for the moment of the picture.
    size = page.viewport_size or {"width": 1280, "height": 900}
    whole = page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('[data-testid=stMain], body')]"
        ".map(part => part.scrollHeight))"
    )
    tall = min(max(whole, size["height"]), TALLEST)
    page.set_viewport_size({"width": size["width"], "height": tall})
    page.wait_for_timeout(150)  # tables and charts draw themselves anew
    for part in page.get_by_test_id("stSkeleton").all():  # what is still being drawn
        with contextlib.suppress(Exception):
            part.wait_for(state="detached", timeout=5000)
    clip: FloatRect = {"x": 0, "y": 0, "width": size["width"], "height": tall}
    if since is not None:
        box, block = (
            since.bounding_box(),
            page.get_by_test_id("stMainBlockContainer").bounding_box(),
        )
        assert box is not None, "where the picture begins is not visible"
        assert block is not None
        top = max(0.0, box["y"] - MARGIN)
        clip = {
            "x": block["x"] + PADDING - 2 * MARGIN,
            "y": top,
            "width": block["width"] - 2 * PADDING + 4 * MARGIN,
            "height": min(tall, top + (height or tall)) - top,
        }
    page.screenshot(path=path, animations="disabled", clip=clip)
    page.set_viewport_size(size)
    return path
