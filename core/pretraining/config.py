"""Settings of the pretext tasks at their published values.  No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from core.config import StrictModel, validate
from core.errors import UsageError, unknown

Scale = tuple[float, float]


class PretextConfig(StrictModel):
    """What every pretext task has.

    ``crop`` is the range a random crop's share of the image's area or volume is drawn from; the
    crop is then resized.  Cropping is the work of whoever makes the batches.
    """

    task: str
    crop: Scale = (0.5, 1.0)

    @model_validator(mode="after")
    def _in_order(self) -> PretextConfig:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError("crop must be two shares with 0 < low <= high <= 1")
        return self


class MaeConfig(PretextConfig):
    """Masked autoencoder (He et al. 2021, arXiv:2111.06377) with the settings for chest X-rays.

    Of Xiao et al. 2022 (arXiv:2210.12843; lambert-x/medical_mae, PRETRAIN.md) are ``ratio`` (0.9,
    where natural images want 0.75), ``crop`` (0.5 to 1, there 0.2 to 1) and unnormalised targets.
    ``unit`` is the edge in voxels of what is masked together (None: the encoder's coarsest stride,
    32 in a Swin of four stages, as in SimMIM, arXiv:2111.09886).  ``normalise`` scales each unit's
    target to mean 0 and variance 1, which He et al. found better on natural images.
    """

    task: Literal["mae"] = "mae"
    ratio: float = Field(0.9, gt=0, lt=1)
    unit: int | tuple[int, ...] | None = None
    normalise: bool = False
    error: Literal["l2", "l1"] = "l2"


class GmmlConfig(PretextConfig):
    """Group masked model learning (Atito et al. 2022, arXiv:2205.14986; Sara-Ahmed/GMML, main.py).

    Boxes of connected patches, each edge at most ``max_box`` of the image's, are corrupted until a
    share drawn from ``noise`` is, by noise; or until the share ``alien`` is, by another image of
    the batch, in half of the images.  ``levels``: the head reads all of the encoder's maps, as
    theirs reads several blocks, or the last alone.
    """

    task: Literal["gmml"] = "gmml"
    crop: Scale = (0.25, 1.0)
    noise: Scale = (0.5, 0.75)
    alien: float = Field(0.3, ge=0, lt=1)
    max_box: float = Field(0.3, gt=0, le=1)
    levels: Literal["all", "last"] = "all"

    @model_validator(mode="after")
    def _possible(self) -> GmmlConfig:
        if not 0 < self.noise[0] <= self.noise[1] < 1:
            raise ValueError("noise must be two shares with 0 < low <= high < 1")
        return self


class MultitaskConfig(PretextConfig):
    """Restoration, rotation and contrast (Tang et al. 2021, arXiv:2111.14791; MONAI's code of it).

    Published: at most 0.3 of a view in boxes of at most 0.25 of its edges is replaced by noise, and
    as much again by another image; temperature 0.5; embeddings of 512.  ``weights="learned"`` is
    the automatic weighted loss of Li et al. 2023 (arXiv:2305.00385) for csPCa; ``"equal"`` Tang's
    1 : 1 : 1.
    """

    task: Literal["multitask"] = "multitask"
    max_share: float = Field(0.3, gt=0, lt=1)
    max_box: float = Field(0.25, gt=0, le=1)
    temperature: float = Field(0.5, gt=0)
    embedding: int = Field(512, ge=1)
    weights: Literal["learned", "equal"] = "learned"


PRETEXTS: dict[str, type[PretextConfig]] = {
    "mae": MaeConfig,
    "gmml": GmmlConfig,
    "multitask": MultitaskConfig,
}

OPTIMISER: dict[str, dict[str, Any]] = {
    "mae": {"betas": (0.9, 0.95), "weight_decay": 0.05, "warmup": 0.05},
    "gmml": {"weight_decay": 0.04, "grad_clip": 3.0, "warmup": 0.0125},
    "multitask": {"weight_decay": 0.1, "warmup": 0.05},
}
"""Published settings of AdamW, ``warmup`` as a share of the steps (cosine decay follows it).

mae: 40 of 800 epochs; gmml: 10 of 800 (its decay grows to 0.4 by a cosine, here it stays);
multitask: MONAI's research-contributions, SwinUNETR/Pretrain.
"""


def pretext_config(task: str, options: Mapping[str, Any] | None = None) -> PretextConfig:
    """The settings of ``task`` with ``options`` changed.

    Raises UsageError naming the nearest task or setting, and for a value out of range.
    """
    if task not in PRETEXTS:
        raise UsageError(unknown("pretext task", task, PRETEXTS))
    return validate(PRETEXTS[task], {**(options or {}), "task": task}, f"pretext task {task}")
