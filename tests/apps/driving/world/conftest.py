"""A town that the tests of the world share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from apps.driving.world.render import open_renderer
from apps.driving.world.simulation.actors import Settings
from apps.driving.world.simulation.world import World
from apps.driving.world.town import Town, build_town


@pytest.fixture(scope="session")
def town01(samples: Path) -> Town:
    """CARLA's Town01, its ground coarse: built in a third of the time."""
    return build_town(samples / "Town01.xodr", 0, resolution=0.5)


@pytest.fixture
def new_world(town01: Town) -> Callable[..., World]:
    """A world in Town01 that ticks 0.05 s at a call; ``render=True`` gives it cameras."""

    def build(*, render: bool = False, **options: int) -> World:
        world = World(town01, renderer=open_renderer("numpy") if render else None, **options)
        world.set_settings(Settings(synchronous_mode=True, fixed_delta_seconds=0.05))
        return world

    return build


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """An empty one."""
    return new_world()
