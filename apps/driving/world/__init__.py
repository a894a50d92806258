"""A world that CARLA 0.9.16's Python client can drive, without Unreal and without a GPU.

>>> from apps.driving.world import serve
>>> with serve("samples/Town01.xodr") as port:
...     client = carla.Client("127.0.0.1", port)

Importing this package costs nothing: the first use of ``serve`` imports what is behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.driving.world.server import serve

__all__ = ["serve"]

lazy_functions(__name__, {"serve": "apps.driving.world.server"})
