"""Segment medical images in two and three dimensions. Research use only; not a medical device.

>>> from apps.medical import load_model, predict
>>> model = load_model("hippocampus")
>>> results = predict(["scan.nii.gz"], model, "out")

Importing this package costs nothing: the first use of a name imports what is behind it. The names
below are the public interface; docs/python.md describes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.medical.calibrate import calibrate
    from apps.medical.cases import read, read_labels
    from apps.medical.data.check import check_dataset
    from apps.medical.evaluate import evaluate
    from apps.medical.overlay import draw_labels
    from apps.medical.predict import predict
    from apps.medical.shipped import list_models
    from apps.medical.store import load_model
    from apps.medical.train import train, training_config

__all__ = [
    "calibrate",
    "check_dataset",
    "draw_labels",
    "evaluate",
    "list_models",
    "load_model",
    "predict",
    "read",
    "read_labels",
    "train",
    "training_config",
]

lazy_functions(
    __name__,
    {
        "calibrate": "apps.medical.calibrate",
        "check_dataset": "apps.medical.data.check",
        "draw_labels": "apps.medical.overlay",
        "evaluate": "apps.medical.evaluate",
        "list_models": "apps.medical.shipped",
        "load_model": "apps.medical.store",
        "predict": "apps.medical.predict",
        "read": "apps.medical.cases",
        "read_labels": "apps.medical.cases",
        "train": "apps.medical.train",
        "training_config": "apps.medical.train",
    },
)
