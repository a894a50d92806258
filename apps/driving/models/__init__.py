"""Networks that drive: ``config`` describes them, ``build`` makes them, ``store`` keeps them.

Importing this package costs nothing: torch is imported by the first ``build``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_functions

if TYPE_CHECKING:
    from apps.driving.models.letfuser import build

__all__ = ["build"]

lazy_functions(__name__, {"build": "apps.driving.models.letfuser"})
