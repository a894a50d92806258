"""The viewer in a real browser: pointer, keys, layers, the rotating view."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from apps.medical.overlay import colour_of

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SCRIPT = "tests/demos/viewer_page.py"
ORANGE, BLUE = (tuple(int(colour_of(n)[i : i + 2], 16) for i in (1, 3, 5)) for n in (1, 2))
START = "voxel 14, 27, 15"  # the middle of the largest axial section
SIZE = (34, 52, 35)
PATIENCE = 20_000


@pytest.fixture
def view(serve: Callable, settle: Callable) -> Callable[..., None]:
    """``view(page, "picture")``: the test page with the viewer on it."""

    def view_(page: Page, what: str = "hippocampus") -> None:
        page.goto(f"{serve(SCRIPT).url}/?show={what}")
        frame(page, "picture" if what == "picture" else "axial").wait_for()
        settle(page)

    return view_


def frame(page: Page, plane: str) -> Locator:
    return page.locator(f'.frame[data-plane="{plane}"]')


def read(page: Page, text: str) -> None:
    """Wait until the line below the planes says ``text``."""
    line = page.get_by_test_id("stMarkdown").filter(has_text=re.compile(" · "))
    line.filter(has_text=text).wait_for(timeout=PATIENCE)


def answered(page: Page, *position: int) -> None:
    """Wait until the pictures are those of ``position``."""
    at = ",".join(map(str, position))
    page.locator(f'.planes[data-at="{at}"]').wait_for(timeout=PATIENCE)


def click(page: Page, plane: str, u: float, v: float) -> None:
    box = frame(page, plane).bounding_box()
    assert box is not None
    frame(page, plane).click(position={"x": box["width"] * u, "y": box["height"] * v})


def share_of(picture: np.ndarray, colour: tuple[int, ...]) -> float:
    return float((np.abs(picture.astype(int) - np.array(colour)).sum(-1) < 90).mean())


def toggle(page: Page, label: str) -> None:
    # The switch itself is hidden behind its drawing; a person presses the label.
    page.locator('[data-testid="stCheckbox"] label').filter(has_text=label).click()


def test_a_click_moves_every_plane(
    page: Page, view: Callable, pixels: Callable, shoot: Callable
) -> None:
    view(page)
    read(page, START)
    coronal = pixels(frame(page, "coronal").locator("img"))
    # The patient's right is on the left: column 3 of 34 is the fourth voxel from the right.
    click(page, "axial", 3.5 / SIZE[0], 10.5 / SIZE[1])
    answered(page, SIZE[0] - 1 - 3, SIZE[1] - 1 - 10, 15)
    read(page, "voxel 30, 41, 15")
    read(page, "R 31.0, A 42.0, S 16.0 mm")
    assert np.abs(pixels(frame(page, "coronal").locator("img")).astype(int) - coronal).mean() > 3
    page.get_by_text("Coronal, slice 42 of 52").wait_for()
    # What hangs below the viewer followed without a run of the page; the page learns of it later.
    page.get_by_text("Followed to (30, 41, 15)").wait_for()
    page.get_by_text("The page knows (14, 27, 15)").wait_for()
    click(page, "sagittal", 0.99, 0.99)
    read(page, "voxel 30, 0, 0")
    shoot(page, "corner")
    box = frame(page, "sagittal").bounding_box()
    line = frame(page, "sagittal").locator(".line.down").bounding_box()
    assert box is not None
    assert line is not None
    assert line["x"] > box["x"] + 0.97 * box["width"]


def test_the_keyboard_alone(page: Page, view: Callable, pixels: Callable) -> None:
    view(page)
    picture = pixels(frame(page, "axial").locator("img"))
    frame(page, "axial").focus()
    for _ in range(9):  # faster than any server answers: none may be lost
        page.keyboard.press("ArrowLeft")
    read(page, "voxel 23, 27, 15")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    read(page, "voxel 23, 28, 17")
    answered(page, 23, 28, 17)
    page.keyboard.press("Shift+PageDown")
    read(page, "voxel 23, 28, 7")
    assert np.abs(pixels(frame(page, "axial").locator("img")).astype(int) - picture).mean() > 3
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # coronal now: its columns are those of the axial plane
    read(page, "voxel 22, 28, 7")
    slider = page.get_by_role("slider", name=re.compile("Axial slice"))
    slider.focus()
    page.keyboard.press("ArrowRight")
    read(page, "voxel 22, 28, 8")
    # The pictures say what they show to those who cannot see them.
    alt = frame(page, "axial").locator("img").get_attribute("alt")
    assert alt is not None
    assert alt.startswith("Axial, slice 9 of 35; background under the crosshair")


def test_the_wheel_turns_slices_only_of_the_plane_in_use(page: Page, view: Callable) -> None:
    view(page)
    frame(page, "axial").hover()
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(300)
    read(page, START)
    click(page, "axial", 17.5 / SIZE[0], 26.5 / SIZE[1])
    read(page, "voxel 16, 25, 15")
    page.mouse.wheel(0, -100)
    read(page, "voxel 16, 25, 16")
    # Dragging goes along.
    box = frame(page, "axial").bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.2, steps=4)
    page.mouse.up()
    read(page, "voxel 6, 41, 16")


def test_layers_and_sides_are_really_drawn(
    page: Page, view: Callable, pixels: Callable, shoot: Callable
) -> None:
    view(page)
    axial = frame(page, "axial").locator("img")
    toggle(page, "Reference")
    expect_share(page, axial, pixels, BLUE, above=0.002)
    expect_share(page, axial, pixels, ORANGE, above=0.002)
    toggle(page, "posterior")
    expect_share(page, axial, pixels, BLUE, below=0.0005)
    expect_share(page, axial, pixels, ORANGE, above=0.002)
    toggle(page, "Segmentation")
    expect_share(page, axial, pixels, ORANGE, below=0.0005)
    plain = pixels(axial)
    toggle(page, "Uncertainty")
    page.get_by_role("img", name=re.compile("Colours of the uncertainty")).wait_for()
    shoot(page, "uncertainty")
    assert (np.ptp(pixels(axial).astype(int), axis=-1) > 40).mean() > 0.01
    toggle(page, "Uncertainty")
    toggle(page, "Radiological convention")
    frame(page, "axial").locator(".letter.left", has_text="L").wait_for()
    shoot(page, "neurological")
    assert frame(page, "axial").locator(".letter").all_inner_texts() == ["L", "R", "A", "P"]
    mirrored = pixels(axial).astype(int)
    assert np.abs(mirrored[:, ::-1] - plain).mean() < np.abs(mirrored - plain).mean() / 2


def expect_share(
    page: Page, picture: Locator, pixels: Callable, colour: tuple[int, ...], **limits: float
) -> None:
    """Wait until a colour fills more, or less, of a picture."""
    for _ in range(50):
        share = share_of(pixels(picture), colour)
        if limits.get("above", -1) < share < limits.get("below", 2):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{colour} fills {share:.4f} of the picture, expected {limits}")


def test_windows_by_keyboard_and_one_plane_large(
    page: Page, view: Callable, shoot: Callable
) -> None:
    view(page)
    small = frame(page, "coronal").bounding_box()
    page.get_by_role("slider", name=re.compile("^Level")).focus()
    page.keyboard.press("ArrowRight")
    expect_value(page.get_by_role("combobox", name="Grey window"), "Own")
    page.get_by_role("radio", name="Coronal").or_(
        page.get_by_role("button", name="Coronal")
    ).click()
    frame(page, "axial").wait_for(state="detached")
    large = frame(page, "coronal").bounding_box()
    assert small is not None
    assert large is not None
    assert large["width"] > 2 * small["width"]
    shoot(page, "coronal")
    page.get_by_role("button", name="Go to").click()
    field = page.get_by_label("mm superior")
    field.fill("5")
    field.press("Enter")
    read(page, "S 5.0 mm")


def expect_value(field: Locator, value: str) -> None:
    from playwright.sync_api import expect

    expect(field).to_have_value(value, timeout=PATIENCE)


def test_zoomed_in_a_click_still_hits(page: Page, view: Callable, shoot: Callable) -> None:
    view(page)
    page.get_by_role("slider", name=re.compile("^Zoom")).focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.locator('.frame[data-plane="axial"][data-columns="9"]').wait_for(timeout=PATIENCE)
    shoot(page, "zoomed")
    # Beside the crosshair by one voxel to the patient's left: 9 columns are seen.
    line = frame(page, "axial").locator(".line.down").bounding_box()
    box = frame(page, "axial").bounding_box()
    assert line is not None
    assert box is not None
    u = (line["x"] - box["x"]) / box["width"] + 1 / 9
    click(page, "axial", u, 0.5)
    read(page, "voxel 13, ")
    # One more step does not move the part that is seen, so that dragging does not run away.
    before = frame(page, "axial").locator(".line.down").bounding_box()
    page.keyboard.press("ArrowLeft")
    read(page, "voxel 14, ")
    after = frame(page, "axial").locator(".line.down").bounding_box()
    assert before is not None
    assert after is not None
    assert before["x"] - after["x"] == pytest.approx(box["width"] / 9, abs=2)


def test_on_a_telephone(narrow: Page, view: Callable) -> None:
    view(narrow)
    boxes = [frame(narrow, plane).bounding_box() for plane in ("axial", "coronal", "sagittal")]
    tops = [box["y"] for box in boxes if box is not None]
    assert len(tops) == 3
    assert tops == sorted(tops)
    assert tops[1] > tops[0] + 100  # one below the other
    assert all(box is not None and box["x"] + box["width"] <= 390 for box in boxes)
    wide = narrow.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    click(narrow, "axial", 3.5 / SIZE[0], 10.5 / SIZE[1])
    read(narrow, "voxel 30, 41, 15")


def test_an_object_of_a_picture_is_named(page: Page, view: Callable, shoot: Callable) -> None:
    view(page, "picture")
    read(page, "object ")
    click(page, "picture", 76.5 / 256, 128.5 / 256)
    read(page, "row, column 128, 76")
    read(page, "background")
    shoot(page, "background")


def test_a_mask_of_another_image_is_one_sentence(
    page: Page, serve: Callable, settle: Callable
) -> None:
    page.goto(f"{serve(SCRIPT).url}/?show=wrong")
    page.get_by_text("they belong to another image").wait_for()
    settle(page)
    assert page.locator(".frame").count() == 0


def test_turning_it_in_three_dimensions(
    page: Page, view: Callable, pixels: Callable, shoot: Callable
) -> None:
    pytest.importorskip("niivue_component", reason="needs niivue-streamlit")
    view(page)
    page.get_by_role("tab", name="Rotate in 3-D").click()
    canvas = page.frame_locator("iframe").locator("canvas").first
    canvas.wait_for(timeout=60_000)
    deadline = time.monotonic() + 60  # drawn in software here: it takes seconds
    orange = blue = 0.0
    while min(orange, blue) < 0.005 and time.monotonic() < deadline:
        page.wait_for_timeout(500)
        red, green, rest = np.moveaxis(pixels(canvas).astype(int), -1, 0)
        orange = float(((red - rest > 80) & (red > green)).mean())
        blue = float(((rest - red > 50) & (rest > green)).mean())
    shoot(page, "panes")
    assert orange > 0.005
    assert blue > 0.005
    page.get_by_role("tab", name="Slices").click()
    read(page, START)


def test_a_browser_without_webgl_is_told_so(page: Page, view: Callable) -> None:
    pytest.importorskip("niivue_component", reason="needs niivue-streamlit")
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind === 'webgl2' ? null : get.call(this, kind, ...rest); };"
    )
    view(page)
    page.get_by_role("tab", name="Rotate in 3-D").click()
    page.get_by_text("This browser has no WebGL 2").wait_for(timeout=PATIENCE)
    assert page.locator("iframe").count() == 0
