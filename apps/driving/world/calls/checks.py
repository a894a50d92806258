"""Numbers from clients are finite, or the call changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform

FARTHEST = 1e5
"""m: beyond, float32 places on the wire are coarser than a centimetre."""


def finite(what: str, *values: float) -> None:
    """Raises SimulationError naming ``what`` unless all are numbers."""
    for value in values:
        if not math.isfinite(value):
            raise SimulationError(f"{what} is {value}; it must be a finite number")


def vector(what: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Three finite numbers. Raises SimulationError otherwise."""
    if len(values) != 3:
        raise SimulationError(f"{what} has {len(values)} numbers; it needs three")
    finite(what, *values)
    return float(values[0]), float(values[1]), float(values[2])


def place(what: str, transform: Sequence[float]) -> Transform:
    """A Transform of six finite numbers, its place within ``FARTHEST``. Raises SimulationError otherwise."""
    if len(transform) != 6:
        raise SimulationError(f"{what} has {len(transform)} numbers; it needs six")
    finite(what, *transform)
    if max(abs(v) for v in transform[:3]) > FARTHEST:
        raise SimulationError(f"{what} lies beyond {FARTHEST:.0f} m of the origin")
    return Transform(*(float(v) for v in transform))
