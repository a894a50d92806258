"""Towns that the tests of maps share, with what ``carla.Map`` makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import carla
import pytest

from apps.driving.world.maps.network import Network
from apps.driving.world.maps.procedural import generate


def _build(text: str) -> tuple[Network, carla.Map]:
    seen = carla.Map("town", text)
    return Network(seen, text), seen


@pytest.fixture(scope="session")
def build() -> Callable[[str], tuple[Network, carla.Map]]:
    """The network of a text, and CARLA's map of it."""
    return _build


@pytest.fixture(scope="module", params=["Town01", "generated"])
def towns(request: pytest.FixtureRequest, samples: Path) -> tuple[Network, carla.Map]:
    if request.param == "Town01":
        return _build((samples / "Town01.xodr").read_text())
    return _build(generate(8))


@pytest.fixture(scope="module")
def network(towns: tuple[Network, carla.Map]) -> Network:
    return towns[0]
