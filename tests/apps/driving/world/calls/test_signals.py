"""Traffic lights and signs as actors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.world.calls.signals import GREEN, OFF, RED, YELLOW
from apps.driving.world.errors import SimulationError
from apps.driving.world.simulation.world import World


def states(world: World) -> dict[int, int]:
    rows = world.snapshot()
    ids = world.signals.light_ids
    return {i: int(rows["light_state"][rows["id"] == i][0]) for i in ids}


def test_every_light_belongs_to_the_group_of_its_members(world: World) -> None:
    for light in world.signals.light_ids:
        group = world.signals.group(light)
        assert light in group
        assert all(world.signals.group(other) == group for other in group)


def test_one_turn_after_the_other(world: World) -> None:
    group = world.signals.group(world.signals.light_ids[0])
    seen = set()
    for _ in range(1200):
        world.tick()
        now = states(world)
        going = [i for i in group if now[i] in (GREEN, YELLOW)]
        network = world.town.network
        phases = {network.lights[world.signals.light_ids.index(i)].group for i in going}
        assert len(phases) <= 1
        seen |= {now[i] for i in group}
    assert seen == {RED, YELLOW, GREEN}


def test_a_state_is_set_and_frozen(world: World) -> None:
    light = world.signals.light_ids[0]
    world.signals.freeze_all(True)
    for state in (GREEN, RED, YELLOW, OFF):
        world.signals.set_state(light, state)
        for _ in range(20):
            world.tick()
        assert states(world)[light] == state
    before = states(world)
    for _ in range(400):
        world.tick()
    assert states(world) == before
    world.signals.freeze_all(False)
    for _ in range(400):
        world.tick()
    assert states(world) != before


def test_times_are_told_back_and_kept(world: World) -> None:
    light = world.signals.light_ids[0]
    world.signals.set_green_time(light, 4.0)
    world.signals.set_yellow_time(light, 1.0)
    world.signals.set_red_time(light, 0.5)
    rows = world.snapshot()
    row = rows[rows["id"] == light][0]
    assert (row["green_time"], row["yellow_time"], row["red_time"]) == (4.0, 1.0, 0.5)
    world.signals.reset_all()
    start = states(world)
    world.signals.reset_group(light)
    assert states(world) == start


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_no_such_time(world: World, seconds: float) -> None:
    light = world.signals.light_ids[0]
    for call in (
        world.signals.set_green_time, world.signals.set_yellow_time, world.signals.set_red_time
    ):  # fmt: skip
        with pytest.raises(SimulationError):
            call(light, seconds)


def test_no_such_state_and_no_such_light(world: World) -> None:
    with pytest.raises(SimulationError, match="want 0 to 4"):
        world.signals.set_state(world.signals.light_ids[0], 7)
    with pytest.raises(SimulationError, match="not a traffic light"):
        world.signals.freeze(world.spectator.id, True)
    with pytest.raises(SimulationError, match="not found"):
        world.signals.group(10**6)


def test_the_trigger_lies_over_the_lanes_that_stop(world: World) -> None:
    network = world.town.network
    for light, site in zip(world.signals.light_ids, network.lights, strict=True):
        actor = world.actor(light)
        centre = actor.transform.apply(np.array(actor.box.centre))
        assert centre[:2] == pytest.approx((site.trigger[0].x, site.trigger[0].y), abs=1e-6)
        if site.stop_nodes:
            assert np.hypot(*(network.position[site.stop_nodes] - centre[:2]).T).min() < 12.0


def test_heads_have_boxes_and_colours(world: World) -> None:
    light = world.signals.light_ids[0]
    heads = world.signals.light_boxes(light)
    assert heads
    assert all(head.tag == 7 for head in heads)
    scene = world.scene()
    assert (scene.fixed.tag[scene.light_rows] == 7).all()
    world.signals.set_state(light, RED)
    red = world.scene().light_rgb.copy()
    world.signals.set_state(light, GREEN)
    green = world.scene().light_rgb
    assert (red != green).any(1).sum() == len(heads)


def test_signs_tell_their_kind(world: World) -> None:
    names = {a.type_id for a in world.actors.values() if a.kind == "traffic_sign"}
    assert names
    assert all(n.split(".")[0] == "traffic" for n in names)
    assert any(n.startswith("traffic.speed_limit.") for n in names)
