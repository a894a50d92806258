"""Make the README's pictures of the demo anew, from the pages themselves.

    python demos/pictures.py                 # all, about three minutes
    python demos/pictures.py medical home    # some

Needs Chromium and the extra ``dev``. Each page is worked as a person works it: one click on the
built-in data, then a look at the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from core.errors import TriptychError, UsageError  # noqa: E402
from demos.shared.browsing import Server, chromium, photograph, settle  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FOLDER = ROOT / "docs" / "images"
PATIENCE_S = 240  # of one wait


def home(page: Page) -> Locator:
    """The first page."""
    title = page.get_by_role("heading", name="Triptych")
    title.wait_for()
    return title


def medical(page: Page) -> Locator:
    """The sample segmented, in three planes."""
    page.get_by_role("button", name="Segment", exact=True).click()
    result = page.get_by_role("heading", name="The result")
    result.wait_for()
    return result


def timeseries(page: Page) -> Locator:
    """The sample forecast, with its intervals."""
    page.get_by_role("button", name="Forecast", exact=True).click()
    result = page.get_by_role("tab", name="Past folds")
    result.wait_for()
    return result


def driving(page: Page) -> Locator:
    """A drive of the shipped driver, at a moment of its replay."""
    page.get_by_role("button", name="Drive", exact=True).click()
    result = page.get_by_role("heading", name="Replay")
    result.wait_for()
    for _ in range(6):  # where the car has begun to move
        page.get_by_role("button", name="1 s on").click()
        settle(page, PATIENCE_S)
    return result


PAGES: dict[str, tuple[Callable[[Page], Locator], int]] = {
    "home": (home, 560),
    "medical": (medical, 760),
    "timeseries": (timeseries, 810),
    "driving": (driving, 1312),
}
"""What works a page and gives where its picture begins; the picture's height in pixels."""


def main() -> int:
    """Make the pictures that were asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=", ".join(PAGES))
    wanted = parser.parse_args().pages or list(PAGES)
    if unknown := [name for name in wanted if name not in PAGES]:
        parser.error(f"no such page: {', '.join(unknown)}; there are {', '.join(PAGES)}")
    from playwright.sync_api import TimeoutError

    try:
        with tempfile.TemporaryDirectory() as folder, chromium() as browser:
            server = Server(ROOT / "demos" / "app.py", Path(folder) / "log.txt")
            try:
                for name in wanted:
                    page = browser.new_page(
                        viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
                    )
                    page.set_default_timeout(PATIENCE_S * 1000)
                    page.goto(f"{server.url}/{'' if name == 'home' else name}")
                    settle(page, PATIENCE_S)
                    work, height = PAGES[name]
                    try:
                        begins = work(page)
                        settle(page, PATIENCE_S)
                    except TimeoutError as error:
                        shown = photograph(page, Path("out") / f"demo-{name}.png")
                        raise UsageError(
                            f"{name}: waited too long; {shown} shows for what"
                        ) from error
                    page.wait_for_timeout(1000)
                    print(photograph(page, FOLDER / f"demo-{name}.png", begins, height), flush=True)
                    page.close()
            finally:
                server.close()
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
