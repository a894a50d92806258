"""What a driving network is made of, as data; ``PRESETS`` is the table of sizes.

``small``       LeTFuser for a CPU: a CvT of three stages behind a convolutional stem.
``small-mamba`` the same with Mamba mixers in place of CvT's attention.
``cvt13``       LeTFuser's sizes: CvT-13, a U-Net decoder, EfficientNet-B1 on the bird's eye.
``late-fusion`` the baseline: a narrow ResNet-18 on RGB, a small CNN on depth, joined at their ends.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from apps.driving.recordings.tags import GROUP_NAMES
from apps.driving.rig import LETFUSER, Rig
from core.config import StrictModel
from core.errors import UsageError, unknown

Positive = Annotated[int, Field(gt=0, le=4096)]

# What a pixel is sorted into, in the order of the logits.
CLASSES = GROUP_NAMES


class BackboneConfig(StrictModel):
    """Transformer over the panorama: a name of ``core.list()`` and options of ``core.create``.

    ``feed`` says what it sees: the picture, as in the paper, or what the stem makes of it.
    ``options["mixer"]`` puts another of the core's mixers in place of the backbone's own: a name,
    or a mapping with ``name`` and that mixer's options.
    """

    name: str = "cvt_13"
    options: dict[str, Any] = {}
    feed: Literal["picture", "stem"] = "picture"

    @field_validator("options")
    @classmethod
    def _as_written(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {name: _frozen(value) for name, value in options.items()}


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that what JSON gives back equals what it was given."""
    if isinstance(value, dict):
        return {name: _frozen(inner) for name, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


class DecoderConfig(StrictModel):
    """Semantic decoder: ``widths`` of its levels, coarsest first; ``stride`` of its logits."""

    widths: tuple[Positive, ...]
    stride: Literal[1, 2, 4] = 4
    separable: bool = True  # depthwise convolutions in place of full ones


class CloudConfig(StrictModel):
    """The semantic depth cloud's grid in the ego frame, and which points enter it.

    ``ahead`` and ``right`` are (from, to) in metres along x and y; ``cell`` the side of a cell.
    Points of ``height`` (from, to) metres above the road are kept. ``step`` is every how many rows
    and columns of the depth picture a point is taken: across, pixels lie closer than cells as far as
    the grid reaches (0.14 m at 40 m), along the road they do not.
    """

    ahead: tuple[float, float] = (-2.0, 38.0)
    right: tuple[float, float] = (-32.0, 32.0)
    cell: Annotated[float, Field(gt=0)] = 0.5
    height: tuple[float, float] = (-0.5, 4.0)
    step: tuple[Positive, Positive] = (1, 4)

    @model_validator(mode="after")
    def _spans(self) -> CloudConfig:
        for name in ("ahead", "right", "height"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name} ({low}, {high}): want (from, to) with from < to")
        for name in ("ahead", "right"):
            low, high = getattr(self, name)
            cells = (high - low) / self.cell
            if abs(cells - round(cells)) > 1e-6 or not 4 <= round(cells) <= 1024:
                raise ValueError(
                    f"{name} ({low}, {high}): want 4 to 1024 whole cells of {self.cell} m"
                )
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns): rows from far to near, columns from left to right."""
        return tuple(round((b - a) / self.cell) for a, b in (self.ahead, self.right))  # type: ignore[return-value]


class ModelConfig(StrictModel):
    """A driving network. ``width`` columns of the panorama are kept, as many left as right.

    ``birdseye`` are the widths of the bird's eye's encoder, each at half the grid of the one before,
    or "efficientnet-b1". ``fusion`` joins pictures and bird's eye by their means (the paper's), or by
    attention, which keeps where things are. ``steps`` waypoints are 0.5 s apart.
    """

    name: str
    architecture: Literal["letfuser", "late-fusion"] = "letfuser"
    rig: Rig = LETFUSER
    width: Positive = 960
    classes: tuple[str, ...] = CLASSES
    steps: Annotated[int, Field(ge=2, le=20)] = 4
    stem: tuple[Positive, ...] = (16, 32)
    backbone: BackboneConfig = BackboneConfig()
    neck: Positive = 128
    decoder: DecoderConfig = DecoderConfig(widths=(96, 64, 48))
    cloud: CloudConfig = CloudConfig()
    birdseye: tuple[Positive, ...] | Literal["efficientnet-b1"] = (24, 48, 96)
    resnet: Positive = 64  # channels of late fusion's ResNet-18 at its first level
    depth: tuple[Positive, ...] = (16, 32, 64, 96)  # of late fusion's CNN on depth
    fusion: Literal["mean", "attention"] = "attention"
    hidden: Positive = 160

    @field_validator("rig", mode="before")
    @classmethod
    def _read_rig(cls, value: Any) -> Any:
        try:
            rig = value if isinstance(value, Rig) else Rig.from_dict(value)
        except (UsageError, TypeError) as error:
            raise ValueError(str(error)) from error
        for camera in rig.cameras:
            for name, number in vars(camera).items():
                if name != "name" and not (isinstance(number, int | float) and abs(number) <= 4096):
                    raise ValueError(
                        f"camera {camera.name!r} with {name} {number!r}: want a number up to 4096"
                    )
            if min(camera.width, camera.height) < 1 or not 0 < camera.fov < 180:
                raise ValueError(
                    f"camera {camera.name!r} of {camera.width} x {camera.height} pixels over "
                    f"{camera.fov} degrees: want at least one pixel and less than 180 degrees"
                )
        return rig

    @field_serializer("rig")
    def _write_rig(self, rig: Rig) -> dict[str, Any]:
        return rig.as_dict()

    @model_validator(mode="after")
    def _agree(self) -> ModelConfig:
        height, width = self.rig.size
        full = width * len(self.rig.cameras)
        if self.width > full or (full - self.width) % 2 or self.width % 32 or height % 32:
            raise ValueError(
                f"panorama of {height} rows and {self.width} of {full} columns: want multiples of 32, "
                "and as many columns cut off left as right"
            )
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError("classes: want two or more different names")
        return self


_STAGES: dict[str, Any] = {
    "dims": (48, 96, 160),
    "depths": (1, 2, 2),
    "heads": (2, 4, 5),
    "patch": 2,
}

PRESETS: Mapping[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(
            name="small",
            backbone=BackboneConfig(
                options={**_STAGES, "kv_strides": (4, 2, 1), "class_token": False}, feed="stem"
            ),
        ),
        ModelConfig(
            name="small-mamba",
            backbone=BackboneConfig(
                options={
                    **_STAGES,
                    "mixer": {"name": "mamba", "d_state": 8, "path": "bidirectional"},
                },
                feed="stem",
            ),
        ),
        ModelConfig(
            name="cvt13",
            width=768,
            stem=(24,),
            backbone=BackboneConfig(options={"class_token": False}),
            neck=384,
            decoder=DecoderConfig(widths=(192, 64, 32), stride=1, separable=False),
            birdseye="efficientnet-b1",
            fusion="mean",
            hidden=232,
        ),
        ModelConfig(name="late-fusion", architecture="late-fusion", resnet=32, fusion="mean"),
    )
}


def preset(name: str) -> ModelConfig:
    """The configuration ``name`` of ``PRESETS``. Raises UsageError naming the nearest."""
    if name not in PRESETS:
        raise UsageError(unknown("driving model", name, PRESETS))
    return PRESETS[name]
