"""Parts fill their boxes; lenses refuse nonsense; what is culled is not on the picture."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.render import Lens, Scene, open_renderer
from apps.driving.world.render.scene import Camera, Solids, Style, solids_of
from apps.driving.world.tags import Tag


def corners(solids: Solids) -> np.ndarray:
    """(K, 8, 3)."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    local = signs * solids.half[:, None]
    c, s = solids.turn[:, 0, None], solids.turn[:, 1, None]
    turned = np.stack(
        [
            c * local[..., 0] - s * local[..., 1],
            s * local[..., 0] + c * local[..., 1],
            local[..., 2],
        ],
        axis=2,
    )
    moved: np.ndarray = solids.centre[:, None] + turned
    return moved


@pytest.mark.parametrize("tag", list(Tag))
def test_parts_fill_the_bounds_of_their_box(tag: Tag) -> None:
    box = Boxes.empty(1)
    box.centre[:], box.half[:], box.tag[:] = (3, -2, 1), (2, 1.0, 1.5), tag
    box.rgb[:], box.instance[:] = (100, 150, 200), 77
    parts = Solids.of(box)
    found = corners(parts).reshape(-1, 3)
    np.testing.assert_allclose(found.min(0), box.centre[0] - box.half[0], atol=1e-6)
    np.testing.assert_allclose(found.max(0), box.centre[0] + box.half[0], atol=1e-6)
    assert (parts.instance == 77).all()
    assert set(parts.tag.tolist()) <= {int(tag), int(Tag.RIDER)}
    assert (parts.owner == 0).all()
    assert (parts.radius > 0).all()


def test_parts_turn_with_their_box() -> None:
    box = Boxes.empty(1)
    box.half[:], box.tag[:], box.yaw[:] = (2.3, 0.9, 0.75), Tag.CAR, 0.7
    straight = corners(Solids.of(Boxes(**{**vars(box), "yaw": np.zeros(1, np.float32)})))
    turned = corners(Solids.of(box))
    c, s = np.cos(np.float32(0.7)), np.sin(np.float32(0.7))
    expected = straight @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_owners_ascend_and_lights_take_their_colours(crossroads: Scene) -> None:
    solids = crossroads.solids
    assert (np.diff(solids.owner) >= 0).all()
    assert len(solids) > len(crossroads.fixed) + len(crossroads.moving)
    assert crossroads.light_rows is not None
    heads = np.isin(solids.owner, crossroads.light_rows)
    assert (solids.style[heads] == Style.SIGNAL).all()
    np.testing.assert_array_equal(solids.rgb[heads], crossroads.light_rgb)
    assert (solids_of(crossroads.fixed).style != Style.SIGNAL).all()  # what is kept stays


def test_a_tag_that_no_version_has_is_a_plain_box() -> None:
    box = Boxes.empty(1)
    box.tag[:] = 200
    assert Solids.of(box).style.tolist() == [Style.PLAIN]


@pytest.mark.parametrize("given", [(0, 10, 90.0), (10, 0, 90.0), (10, 10, 0.0), (10, 10, 180.0)])
def test_a_lens_says_what_is_wrong(given: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="field of view between 0 and 180"):
        Lens(*given)


def test_what_is_culled_is_not_on_the_picture(crossroads: Scene) -> None:
    lens = Lens(80, 60, 60.0)
    renderer = open_renderer("numpy")
    rng = np.random.default_rng(0)
    for _ in range(5):
        pose = Transform(*rng.uniform(-50, 50, 2), 4.0, *rng.uniform(-25, 25, 2), 10.0)
        seen = Camera.at(pose, lens).sees(crossroads.solids)
        assert 0 < len(seen) < len(crossroads.solids)
        shown = np.unique(renderer.render(crossroads, pose, lens, rgb=False).instance)
        assert set(shown.tolist()) - {0} <= set(crossroads.solids.instance[seen].tolist())
