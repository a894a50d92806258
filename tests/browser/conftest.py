"""Journeys in a real browser: Debian's Chromium, headless, driven by Playwright.

A test takes ``page`` (1280 px wide) or ``narrow`` (390 px) and ``visit``:

    def test_it(page, visit, settle, shoot):
        visit(page, "medical")               # demos/medical.py inside demos/app.py, settled
        page.get_by_role("button", name="Segment").click()
        settle(page, seconds=60)
        shoot(page, "result")                # out/screenshots/<test>-result.png

Every test keeps a screenshot of its end and fails if the page raised an error in JavaScript, showed
an exception, or asked for anything that is not on this machine; the browser cannot reach it.
Where Chromium or Playwright is missing these tests are skipped, or fail if REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from core.errors import UsageError
from demos.shared import browsing
from demos.shared.browsing import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Locator, Page

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", ROOT / "out" / "screenshots"))
PATIENCE = 30_000  # ms for one element: the first paint of a page on a busy machine takes seconds
HERE = ("127.0.0.1", "localhost")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browsers last: Playwright keeps an event loop in this thread, and others want their own."""
    items.sort(key=lambda item: item.path.parent.name == "browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless Chromium for all tests; each test gets a profile of its own from it."""
    opened = browsing.chromium()
    try:
        browser = opened.__enter__()
    except UsageError as error:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield browser
    opened.__exit__(None, None, None)


@pytest.fixture(scope="session")
def serve(
    tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[Callable[[str], Server]]:
    """``serve("tests/browser/viewer_page.py").url``: a server of that script, started once.

    Takes ``browser`` so that nothing is started where there is none.
    """
    servers: dict[str, Server] = {}

    def serve_(script: str) -> Server:
        if script not in servers or servers[script].ended():
            log = tmp_path_factory.mktemp("server") / "log.txt"
            servers[script] = Server(ROOT / script, log)
        return servers[script]

    yield serve_
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def server(serve: Callable[[str], Server]) -> Server:
    """The one server of ``demos/app.py``; its address is ``server.url``."""
    return serve("demos/app.py")


class Watch:
    """What a browser did that it should not have done."""

    def __init__(self) -> None:
        self.outside: list[str] = []
        self.errors: list[str] = []

    def request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and parts.hostname not in HERE:
            self.outside.append(url)

    def page(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", lambda socket: self.request(socket.url))


@pytest.fixture
def watch() -> Watch:
    """Requests to elsewhere (``.outside``) and errors in JavaScript (``.errors``) of this test.

    Both must be empty when it ends: a test that provokes one looks at it and clears it.
    """
    return Watch()


@pytest.fixture
def open_window(
    browser: Browser, request: pytest.FixtureRequest, watch: Watch
) -> Iterator[Callable[[int, int], Page]]:
    """``open_window(width, height)``: a fresh profile with one page, watched until the test ends."""
    pages: list[Page] = []

    def open_(width: int, height: int) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            accept_downloads=True,
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE)
        # Without it a page's table asks where to save its CSV; then it simply downloads it.
        context.add_init_script("delete window.showSaveFilePicker")
        context.on("request", lambda sent: watch.request(sent.url))
        context.on("page", watch.page)
        page = context.new_page()
        pages.append(page)
        return page

    yield open_
    traces = []
    for index, page in enumerate(pages):
        if not page.is_closed():
            traces += page.locator('[data-testid="stException"]').all_inner_texts()
            keep(page, request.node.name, f"end{index or ''}")
        page.context.close()
    assert watch.outside == [], "asked for something that is not on this machine"
    assert watch.errors == [], "errors in the page's JavaScript"
    assert traces == [], "the page shows an exception"


@pytest.fixture
def page(open_window: Callable[[int, int], Page]) -> Page:
    """A desktop's window."""
    return open_window(1280, 900)


@pytest.fixture
def narrow(open_window: Callable[[int, int], Page]) -> Page:
    """A telephone's window."""
    return open_window(390, 844)


def keep(page: Page, test: str, name: str) -> Path:
    """Save a screenshot of the whole page; returns where."""
    return browsing.photograph(
        page, SCREENSHOTS / (re.sub(r"[^\w.-]+", "_", f"{test}-{name}") + ".png")
    )


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Callable[[Page, str], Path]:
    """``shoot(page, "name")``: a screenshot of the whole page, for people to look at."""
    return lambda page, name: keep(page, request.node.name, name)


@pytest.fixture(scope="session")
def settle() -> Callable[..., None]:
    """``settle(page, seconds=30)``: wait until the script has run and no job is being watched.

    After a click it waits a moment for the script to begin; what a test expects to appear it had
    better wait for by itself (``expect(...).to_be_visible()``).
    """
    return browsing.settle


@pytest.fixture
def visit(server: Server, settle: Callable[..., None]) -> Callable[..., None]:
    """``visit(page, "medical")``: open that page of the application (default: home), settled."""

    def visit_(page: Page, name: str = "", seconds: float = 30) -> None:
        page.goto(f"{server.url}/{name}")
        settle(page, seconds)

    return visit_


@pytest.fixture(scope="session")
def pixels() -> Callable[[Locator], np.ndarray]:
    """``pixels(page.locator("img"))``: what an element shows on the screen, (H, W, 3) uint8."""

    def pixels_(locator: Locator) -> np.ndarray:
        from PIL import Image

        shot = locator.screenshot(animations="disabled")
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    return pixels_


@pytest.fixture(scope="session")
def upload() -> Callable[..., None]:
    """``upload(page, path, nth=0)``: hand a file to the page's upload field number ``nth``."""

    def upload_(page: Page, *paths: Any, nth: int = 0) -> None:
        field = page.locator('[data-testid="stFileUploaderDropzoneInput"]').nth(nth)
        field.set_input_files([str(path) for path in paths])

    return upload_


@pytest.fixture
def download(tmp_path: Path) -> Callable[..., Path]:
    """``download(page, "Mask (NIfTI)")``: press that download button; the file that came."""

    def download_(page: Page, name: str, seconds: float = 60) -> Path:
        with page.expect_download(timeout=seconds * 1000) as waiting:
            page.get_by_role("button", name=name).click()
        got: Download = waiting.value
        path = tmp_path / got.suggested_filename
        got.save_as(path)
        return path

    return download_
