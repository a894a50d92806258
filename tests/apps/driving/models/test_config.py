from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from apps.driving.models.config import CLASSES, PRESETS, CloudConfig, ModelConfig, preset
from apps.driving.recordings.tags import GROUP_NAMES
from core.config import change, validate
from core.errors import UsageError


@pytest.mark.parametrize("name", PRESETS)
def test_json_gives_a_preset_back(name: str) -> None:
    text = json.dumps(PRESETS[name].model_dump(mode="json"))
    assert ModelConfig.model_validate(json.loads(text)) == PRESETS[name]


def test_classes_are_those_that_recordings_are_grouped_into() -> None:
    assert CLASSES == GROUP_NAMES == PRESETS["small"].classes


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'small'"):
        preset("smal")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hiden=4", "Did you mean 'hidden'"),
        ("width=500", "multiples of 32"),
        ("width=992", "of 960 columns"),
        ("width=928", None),
        ("cloud.cell=0.3", "whole cells"),
        ("cloud.ahead=[3,-3]", "from < to"),
        ("classes=[road,road]", "different names"),
        ("steps=1", "steps"),
        ("hidden=1000000", "hidden"),
    ],
)
def test_settings(setting: str, message: str | None) -> None:
    if message is None:
        change(PRESETS["small"], [setting], "settings")
        return
    with pytest.raises(UsageError, match=message):
        change(PRESETS["small"], [setting], "settings")


@pytest.mark.parametrize(
    "camera",
    [
        {"name": "a", "focus": 1},
        {"name": "a", "fov": "wide"},
        {"name": "a", "fov": math.nan},
        {"name": "a", "fov": 180.0},
        {"name": "a", "width": 10**9},
        {"name": "a", "height": 0},
        {"x": 1.0},
        3,
    ],
)
def test_cameras_of_a_file_are_checked(camera: object) -> None:
    values = PRESETS["small"].model_dump(mode="json") | {"rig": {"cameras": [camera]}}
    with pytest.raises(UsageError, match="'rig'"):
        validate(ModelConfig, values, "model.json")


def test_shape_of_the_cloud() -> None:
    assert CloudConfig(ahead=(-2.0, 38.0), right=(-32.0, 32.0), cell=0.5).shape == (80, 128)


def test_importing_the_configuration_imports_no_torch() -> None:
    code = (
        "import sys, apps.driving.models, apps.driving.models.config;"
        "assert not {'torch', 'carla', 'monai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
