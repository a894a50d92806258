"""Segment medical images in two and three dimensions. Research use only; not a medical device.

>>> from apps.medical import load_model, predict
>>> model = load_model("hippocampus")
>>> results = predict(["scan.nii.gz"], model, "out")

Importing this package costs nothing: the first use of a name imports what is behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.medical.predict import predict
    from apps.medical.store import load_model

__all__ = ["load_model", "predict"]

lazy_functions(__name__, {"load_model": "apps.medical.store", "predict": "apps.medical.predict"})
