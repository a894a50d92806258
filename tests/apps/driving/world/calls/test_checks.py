"""Numbers from clients."""

from __future__ import annotations

import math

import pytest

from apps.driving.world.calls.checks import FARTHEST, finite, place, vector
from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_a_number(value: float) -> None:
    with pytest.raises(SimulationError, match=r"the speed is .*finite number"):
        finite("the speed", 1.0, value)
    with pytest.raises(SimulationError):
        vector("the force", (0.0, 0.0, value))
    with pytest.raises(SimulationError):
        place("the place", (0.0, 0.0, 0.0, 0.0, value, 0.0))


def test_too_few_or_too_far() -> None:
    with pytest.raises(SimulationError, match="needs three"):
        vector("the force", (0.0, 1.0))
    with pytest.raises(SimulationError, match="needs six"):
        place("the place", (0.0, 1.0))
    with pytest.raises(SimulationError, match="beyond"):
        place("the place", (2 * FARTHEST, 0.0, 0.0, 0.0, 0.0, 0.0))


def test_what_is_good_comes_back() -> None:
    assert vector("the force", [1, 2, 3]) == (1.0, 2.0, 3.0)
    found = place("the place", [1, 2, 3, 4, 5, 6])
    assert found == Transform(1, 2, 3, 4, 5, 6)
    assert all(type(v) is float for v in found)


def test_an_error_is_one_line() -> None:
    assert str(SimulationError("a\n  b\n")) == "a b"
