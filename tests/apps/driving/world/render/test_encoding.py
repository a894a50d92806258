"""CARLA's encodings decode back, by its client's formulas, to what was encoded."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.render import (
    FAR,
    Picture,
    encode_depth,
    encode_instance,
    encode_rgb,
    encode_semantic,
)


@pytest.fixture
def picture() -> Picture:
    rng = np.random.default_rng(0)
    depth = np.concatenate([10 ** rng.uniform(-1, 3, 61), [0.0, FAR]]).astype(np.float32)
    return Picture(
        np.minimum(depth, FAR).reshape(7, 9).astype(np.float32),
        rng.integers(0, 29, (7, 9)).astype(np.uint8),
        rng.integers(0, 65_536, (7, 9)).astype(np.int32),
        rng.integers(0, 256, (7, 9, 3)).astype(np.uint8),
    )


def bgra(data: bytes) -> np.ndarray:
    """(7, 9, 4) as a client reads ``carla.Image.raw_data``."""
    pixels = np.frombuffer(data, np.uint8).reshape(7, 9, 4)
    assert (pixels[..., 3] == 255).all()
    return pixels.astype(np.int64)


def test_depth_decodes_to_metres(picture: Picture) -> None:
    """As carla.ColorConverter.Depth: (R + 256 G + 65536 B) / (2^24 - 1), times 1000 m."""
    pixels = bgra(encode_depth(picture))
    steps = pixels[..., 2] + 256 * pixels[..., 1] + 65_536 * pixels[..., 0]
    metres = steps / (2**24 - 1) * 1000.0
    assert np.abs(metres - picture.depth.astype(float)).max() <= 0.5 * 1000 / (2**24 - 1) + 1e-9
    assert steps.reshape(-1)[-2:].tolist() == [0, 2**24 - 1]


def test_tags_stand_in_red(picture: Picture) -> None:
    pixels = bgra(encode_semantic(picture))
    np.testing.assert_array_equal(pixels[..., 2], picture.tags)
    assert not pixels[..., :2].any()


def test_instances_are_two_bytes_beside_the_tag(picture: Picture) -> None:
    pixels = bgra(encode_instance(picture))
    np.testing.assert_array_equal(pixels[..., 2], picture.tags)
    np.testing.assert_array_equal(pixels[..., 1] + 256 * pixels[..., 0], picture.instance)


def test_colours_are_blue_green_red(picture: Picture) -> None:
    np.testing.assert_array_equal(bgra(encode_rgb(picture))[..., 2::-1], picture.rgb)
    with pytest.raises(ValueError, match="rgb=True"):
        encode_rgb(Picture(picture.depth, picture.tags, picture.instance, None))
