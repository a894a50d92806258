"""Numeric kernels behind the mixers, channels-last: recurrences over positions.

Each has a definition that is never optimised, a fast form, and a ``_step`` for streams.
"""

from core.ops.scan import selective_scan, selective_scan_step

__all__ = ["selective_scan", "selective_scan_step"]
