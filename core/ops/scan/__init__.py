"""The selective scan: one definition (``reference``), and implementations that are tested against it.

``api`` is the public face, ``choice`` decides which implementation runs, ``op`` makes it an
operator of PyTorch's; ``blocked`` is plain torch, ``native`` C++, ``cuda`` Triton.
"""

from core.ops.scan.api import selective_scan, selective_scan_step
from core.ops.scan.choice import BACKENDS, backend_for

__all__ = ["BACKENDS", "backend_for", "selective_scan", "selective_scan_step"]
