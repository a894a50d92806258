"""Numeric kernels behind the mixers, channels-last: recurrences over positions.

Each has a definition that is never optimised, a fast form, and a ``_step`` for streams.

    selective_scan    Mamba: a decay for every channel and state, chosen by the input
    ssd               Mamba-2: a decay for every head, chosen by the input
    retention         RetNet: a fixed decay for every head
"""

from core.ops.retention import retention, retention_step
from core.ops.scan import selective_scan, selective_scan_step
from core.ops.ssd import ssd, ssd_step

__all__ = [
    "retention",
    "retention_step",
    "selective_scan",
    "selective_scan_step",
    "ssd",
    "ssd_step",
]
