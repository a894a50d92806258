"""The viewer of images and segmentations: three linked planes, drawn by the server.

>>> from demos.viewer import Layers, show
>>> crosshair = show(volume, Layers(labels=labels, names=names), key=key)
"""

from demos.viewer.panel import show
from demos.viewer.scene import Crosshair, Layers

__all__ = ["Crosshair", "Layers", "show"]
