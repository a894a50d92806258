"""Segment medical images in two and three dimensions. Research use only; not a medical device.

>>> from apps.medical import load_model, predict
>>> model = load_model("hippocampus")
>>> results = predict(["scan.nii.gz"], model, "out")

Importing this package costs nothing: the first use of a name imports what is behind it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.medical.predict import predict
    from apps.medical.store import load_model

__all__ = ["load_model", "predict"]


def _lazy(name: str, home: str) -> property:
    """An attribute of this package that is looked up in module ``home`` when it is used."""

    def get(package: ModuleType) -> Any:
        return getattr(import_module(home), name)

    def set_(package: ModuleType, value: Any) -> None:
        if not isinstance(value, ModuleType):
            raise AttributeError(f"{package.__name__}.{name} is read-only")

    return property(get, set_)


class _Package(ModuleType):
    """This package's own class, because ``predict`` names both a function and a submodule.

    Importing the submodule sets ``apps.medical.predict`` to it, and a module-level ``__getattr__``
    would never be asked again. A property wins in either order of imports.
    """

    load_model = _lazy("load_model", "apps.medical.store")
    predict = _lazy("predict", "apps.medical.predict")


sys.modules[__name__].__class__ = _Package
