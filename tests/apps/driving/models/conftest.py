"""Networks small enough to build and differentiate in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apps.driving.models.config import PRESETS, ModelConfig
from apps.driving.rig import Camera, Rig

RIG = Rig(tuple(Camera(name, yaw, width=64, height=32) for name, yaw in (
    ("left", -60.0), ("front", 0.0), ("right", 60.0)
)))  # fmt: skip

_BACKBONE = {"dims": (8, 16, 24), "depths": (1, 1, 1), "heads": (1, 2, 3)}
_CLOUD = {"ahead": (-2.0, 14.0), "right": (-16.0, 16.0), "cell": 1.0, "step": (1, 2)}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelConfig]:
    """``tiny("small", steps=3)``: that preset on little pictures and with narrow layers."""

    def make(name: str, **changes: object) -> ModelConfig:
        values = PRESETS[name].model_dump()
        options = values["backbone"]["options"]
        values |= {
            "rig": RIG, "width": 192, "stem": tuple(8 for _ in values["stem"]), "neck": 24,
            "hidden": 112, "cloud": {**values["cloud"], **_CLOUD}, "depth": (4, 6, 8, 8),
            "backbone": {**values["backbone"], "options": {**options, **_BACKBONE}},
        }  # fmt: skip
        return ModelConfig.model_validate(values | changes)

    return make
