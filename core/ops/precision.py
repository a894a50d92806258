"""In which types the recurrences of this package are computed."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums and states are held in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def log_decay_dtype(tensor: Tensor) -> torch.dtype:
    """What log decays are summed in: float64, but for MPS, which has none."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


def product_dtype(*tensors: Tensor) -> torch.dtype:
    """What a product of ``tensors`` of one device is computed in, under autocast or without."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    device = _autocast_device(tensors[0])
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which autocast does not round the matrix products of ``tensor``'s device.

    The device ``meta`` has no autocast, and torch refuses to turn it off there.
    """
    return torch.autocast(_autocast_device(tensor), enabled=False)


def _autocast_device(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "meta" else tensor.device.type
