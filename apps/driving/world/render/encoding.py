"""Pictures as the bytes that CARLA's cameras send: four a pixel, blue, green, red, alpha, row by row.

The formats are those of CARLA's sensor reference (ref_sensors): depth has 24 bits, least significant
in red, of 1000 m; a semantic tag stands in red; an instance picture has the tag in red and the lower
16 bits of the instance in green (low) and blue (high).
"""

from __future__ import annotations

import numpy as np

from apps.driving.world.render.scene import FAR, Picture

DEPTH_STEPS = (1 << 24) - 1
_OPAQUE = np.uint32(0xFF000000)


def encode_rgb(picture: Picture) -> bytes:
    """ValueError where the picture was taken without colours."""
    if picture.rgb is None:
        raise ValueError("the picture was taken without colours; render it with rgb=True")
    out = np.empty((*picture.tags.shape, 4), np.uint8)
    for channel in range(3):  # one by one: 0.05 ms for 320 x 160 instead of 0.15
        out[..., 2 - channel] = picture.rgb[..., channel]
    out[..., 3] = 255
    return out.tobytes()


def encode_depth(picture: Picture) -> bytes:
    """Depth to the nearest of 2**24 - 1 steps of 1000 m, 0.06 mm each."""
    # float64: a float32 near 1000 m has steps of 0.06 mm itself, and scaling would round once more
    steps = picture.depth * (DEPTH_STEPS / np.float64(FAR))
    n = np.clip(steps + 0.5, 0, DEPTH_STEPS).astype(np.uint32)
    low = (n & 0xFF) << 16
    return (low | (n & 0xFF00) | (n >> 16) | _OPAQUE).astype("<u4").tobytes()


def encode_semantic(picture: Picture) -> bytes:
    """The tag in red."""
    return ((picture.tags.astype(np.uint32) << 16) | _OPAQUE).astype("<u4").tobytes()


def encode_instance(picture: Picture) -> bytes:
    """The tag in red, the instance's low byte in green and its next in blue."""
    n = picture.instance.astype(np.uint32)
    tag = picture.tags.astype(np.uint32) << 16
    return (tag | (n & 0xFF) << 8 | (n >> 8) & 0xFF | _OPAQUE).astype("<u4").tobytes()
