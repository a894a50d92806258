"""Cameras of the driving world: RGB, depth, semantic and instance pictures in CARLA's encodings.

    renderer = open_renderer("numpy")
    picture = renderer.render(scene, Transform(x, y, 2.4, 0, yaw, 0), Lens(320, 160, 60.0))
    data = encode_depth(picture)     # BGRA bytes as CARLA's depth camera sends them

"numpy" needs nothing else and is the reference; "egl" draws the same scene with OpenGL (package
moderngl; libEGL and a driver, of which Mesa's llvmpipe needs no GPU).
"""

from __future__ import annotations

from typing import Protocol

from apps.driving.world.geometry import Transform
from apps.driving.world.render.encoding import (
    encode_depth,
    encode_instance,
    encode_rgb,
    encode_semantic,
)
from apps.driving.world.render.scene import FAR, Lens, Picture, Scene
from core.errors import UsageError, unknown

__all__ = [
    "FAR",
    "RENDERERS",
    "Lens",
    "Picture",
    "Renderer",
    "Scene",
    "encode_depth",
    "encode_instance",
    "encode_rgb",
    "encode_semantic",
    "open_renderer",
]

RENDERERS = ("numpy", "egl")


class Renderer(Protocol):
    """What takes pictures of a scene."""

    def render(self, scene: Scene, pose: Transform, lens: Lens, rgb: bool = True) -> Picture:
        """The scene from ``pose``; without colours, which cost about half, if not ``rgb``."""

    def close(self) -> None:
        """Give back what the renderer holds; it must not be used afterwards."""


def open_renderer(name: str) -> Renderer:
    """The renderer "numpy" or "egl".

    UsageError for another name or where the package moderngl is missing, ResourceError where EGL
    gives no context.
    """
    if name == "numpy":
        from apps.driving.world.render.software import SoftwareRenderer

        return SoftwareRenderer()
    if name == "egl":
        from apps.driving.world.render.gpu import GpuRenderer

        return GpuRenderer()
    raise UsageError(unknown("renderer", name, RENDERERS))
