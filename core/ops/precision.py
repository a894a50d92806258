"""In which types the recurrences of this package are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums and states are held in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def log_decay_dtype(tensor: Tensor) -> torch.dtype:
    """What log decays are summed in: float64, but for MPS, which has none."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which autocast does not round the matrix products of ``tensor``'s device.

    The device ``meta`` has no autocast, and torch refuses to turn it off there.
    """
    device = tensor.device.type
    return torch.autocast("cpu" if device == "meta" else device, enabled=False)
