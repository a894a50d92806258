"""What the supervisor overrules, and that it leaves everything else alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.agents.supervisor import Rules, Supervised
from apps.driving.rig import LETFUSER, Rig

GO = Decision(0.7, 0.0, 0.0, red_light=0.0)
FREE = np.full((3, 160, 320), 1000.0, np.float32)


class Stub:
    """Always the same decision; remembers what it was asked."""

    name, privileged, rig = "stub", False, LETFUSER

    def __init__(self, decision: Decision = GO, cameras: frozenset[str] = frozenset()) -> None:
        self.decision, self.cameras = decision, cameras
        self.asked, self.begun, self.ended = 0, 0, 0

    def begin(self, drive: Drive) -> None:
        self.begun += 1

    def act(self, observation: Observation) -> Decision:
        self.asked += 1
        return self.decision

    def end(self) -> None:
        self.ended += 1


def drive() -> Drive:
    plan: Any = None
    return Drive(None, None, None, None, plan, LETFUSER)


def seen(
    k: int, *, speed: float = 5.0, depth: np.ndarray | None = FREE, **other: Any
) -> Observation:
    """Decision number k, 0.1 s after the last; the pictures change with k."""
    if depth is FREE:
        depth = FREE - k
    values: dict[str, Any] = {
        "frame": k,
        "time": 0.1 * k,
        "speed": speed,
        "position": np.zeros(2),
        "heading": 0.0,
        "target": np.array([20.0, 0.0], np.float32),
        "command": Command.LANE_FOLLOW,
        "depth": depth,
    }
    return Observation(**{**values, **other})


def wall(gap: float) -> np.ndarray:
    """Depth of a wall ``gap`` metres in front of the bumper (2.45 m), as the front camera sees it."""
    depth = FREE.copy()
    depth[1, 40:100] = gap + 2.45 - 1.3
    return depth


def supervised(decision: Decision = GO, **rules: Any) -> tuple[Supervised, Stub]:
    stub = Stub(decision)
    agent = Supervised(stub, Rules(**rules))
    agent.begin(drive())
    return agent, stub


def test_a_free_road_changes_nothing() -> None:
    agent, stub = supervised()
    for k in range(20):
        assert agent.act(seen(k)) is stub.decision
    agent.end()
    assert (stub.asked, stub.begun, stub.ended) == (20, 1, 1)


def test_it_asks_for_depth_only_to_brake() -> None:
    assert Supervised(Stub()).cameras == {"depth"}
    assert Supervised(Stub(), Rules(emergency_brake=False)).cameras == frozenset()
    assert Supervised(Stub(cameras=frozenset({"rgb"}))).cameras == {"rgb", "depth"}
    assert Supervised(Stub()).name == "stub+supervisor"


def test_emergency_brake_before_a_standing_wall() -> None:
    agent, stub = supervised()
    far = agent.act(seen(0, speed=8.0, depth=wall(15.0)))
    near = agent.act(seen(1, speed=8.0, depth=wall(9.0)))
    assert far.interventions == ()
    assert near.interventions == ("emergency brake",)
    assert (near.throttle, near.brake) == (0.0, 1.0)
    assert "driver" not in far.parts
    wanted = stub.decision
    assert near.parts["driver"] == (wanted.throttle, wanted.steer, wanted.brake)


def test_it_stops_in_time_from_every_speed() -> None:
    for speed in (3.0, 6.0, 9.0, 13.0):
        agent, _ = supervised()
        v, gap, k = speed, 60.0, 0
        while v > 0.05 and k < 400:
            decision = agent.act(seen(k, speed=v, depth=wall(gap)))
            v = max(0.0, v - 6.0 * 0.1) if decision.brake == 1.0 else v
            gap -= v * 0.1
            k += 1
        assert 1.0 < gap < 3.0


def test_it_follows_a_car_that_drives_as_fast() -> None:
    agent, _ = supervised()
    named = [
        agent.act(seen(k, speed=8.0, depth=wall(6.0) - 1e-4 * k)).interventions for k in range(12)
    ]
    assert named[0] == ("emergency brake",)  # not yet known to move
    assert named[6:] == [()] * 6


def test_it_holds_behind_what_stands_near() -> None:
    agent, _ = supervised()
    assert agent.act(seen(0, speed=0.0, depth=wall(1.5))).interventions == ("emergency brake",)
    assert agent.act(seen(1, speed=0.0, depth=wall(2.6))).interventions == ()


def test_red_light_holds_until_it_is_off_for_a_while() -> None:
    agent, stub = supervised()
    likely = [0.5, 0.7, 0.5, 0.4, 0.2, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5]
    held = []
    for k, probability in enumerate(likely):
        stub.decision = replace(GO, red_light=probability)
        held.append("red light" in agent.act(seen(k)).interventions)
    assert held == [False] + [True] * 10 + [False, False]


def test_a_red_light_slows_to_a_stop_as_a_person_would() -> None:
    agent, _ = supervised(replace(GO, red_light=0.9))
    v, way, fell = 8.0, 0.0, []
    for k in range(60):
        decision = agent.act(seen(k, speed=v))
        assert decision.throttle == 0.0
        slower = max(0.0, v - 0.1 * (8.0 * decision.brake + 0.1))
        fell.append((v - slower) / 0.1)
        v = slower
        way += 0.1 * v
    assert v == 0.0
    assert 8.0 < way < 13.0
    assert max(fell) < 6.0
    braking = replace(GO, throttle=0.0, brake=0.9, red_light=0.9)
    agent, stub = supervised(braking)
    assert agent.act(seen(0, speed=8.0)) is stub.decision  # it does so itself


def test_red_light_is_not_believed_for_ever() -> None:
    agent, _ = supervised(replace(GO, red_light=1.0), red_patience=3.0, red_pause=2.0, creep=False)
    held = [bool(agent.act(seen(k, speed=0.0)).interventions) for k in range(60)]
    assert held[:30] == [True] * 30
    assert not any(held[31:50])
    assert held[51]


def test_creep_when_stuck_and_only_where_there_is_room() -> None:
    still = Decision(0.0, 0.1, 1.0)
    for gap, creeps in ((np.inf, True), (3.0, False)):
        agent, _ = supervised(still, stuck=2.0)
        names = []
        for k in range(60):
            depth = FREE if np.isinf(gap) else wall(gap)
            decision = agent.act(seen(k, speed=0.0, depth=depth))
            names.append(decision.interventions)
            if decision.interventions:
                assert (decision.throttle, decision.steer, decision.brake) == (0.4, 0.1, 0.0)
        assert names[:20] == [()] * 20
        assert names[20:35] == [("creep",) if creeps else ()] * 15
        assert (("creep",) in names) == creeps
        assert names[36:53] == [()] * 17  # then it waits again


def test_it_does_not_creep_at_a_red_light() -> None:
    agent, _ = supervised(Decision(0.0, 0.0, 1.0, red_light=0.9), stuck=2.0)
    assert not any(agent.act(seen(k, speed=0.0)).interventions for k in range(60))


BROKEN = FREE.copy()
BROKEN[2] = np.nan


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"depth": None}, "no depth"),
        ({"depth": FREE[:2]}, "shape"),
        ({"depth": FREE[:, :80]}, "shape"),
        ({"depth": BROKEN}, "camera right"),
        ({"depth": np.zeros_like(FREE)}, "camera left"),
        ({"speed": float("nan")}, "not a number"),
        ({"target": np.array([np.nan, 0.0])}, "not a number"),
        ({"position": np.array([np.inf, 0.0])}, "not a number"),
        ({"frame": 3}, "same frame"),
    ],
)
def test_bad_sensors_brake_and_are_named(change: dict[str, Any], text: str) -> None:
    agent, stub = supervised()
    agent.act(seen(3))
    decision = agent.act(seen(4, **change))
    assert (decision.throttle, decision.brake) == (0.0, 1.0)
    assert decision.interventions[0].startswith("sensors: ")
    assert text in decision.interventions[0]
    assert stub.asked == 1  # the driver does not see what is broken
    assert agent.act(seen(5)) is stub.decision  # and drives on when it is whole


def test_missing_and_frozen_pictures() -> None:
    stub = Stub(cameras=frozenset({"rgb"}))
    agent = Supervised(stub, Rules())
    agent.begin(drive())
    assert "no rgb" in agent.act(seen(0)).interventions[0]
    rgb = np.zeros((3, 160, 320, 3), np.uint8)
    frozen = FREE.copy()
    named = [agent.act(seen(k, depth=frozen, rgb=rgb)).interventions for k in range(1, 5)]
    assert named[:2] == [(), ()]
    assert "do not change" in named[2][0]
    assert agent.act(seen(5, depth=frozen, rgb=rgb, speed=0.0)).interventions == ()  # it stands
    assert agent.act(seen(6, rgb=rgb)).interventions == ()


@pytest.mark.parametrize("name", ["throttle", "steer", "brake"])
def test_a_decision_that_is_no_number_brakes(name: str) -> None:
    agent, _ = supervised(replace(GO, **{name: float("nan")}))
    assert agent.act(seen(0)).interventions == ("decision: not a number",)


def test_every_rule_can_be_off() -> None:
    off = {"emergency_brake": False, "red_light": False, "creep": False, "sensors": False}
    agent, stub = supervised(replace(GO, red_light=1.0), **off)
    for _ in range(5):
        assert agent.act(seen(0, depth=wall(1.0), speed=8.0)) is stub.decision


def test_the_next_route_starts_afresh() -> None:
    agent, stub = supervised(replace(GO, red_light=0.9))
    assert agent.act(seen(7)).interventions == ("red light",)
    stub.decision = GO
    agent.begin(drive())
    assert agent.act(seen(0)) is stub.decision


def test_size_is_the_cars_own() -> None:
    stub = Stub()
    agent = Supervised(stub)
    long: Any = SimpleNamespace(bounding_box=SimpleNamespace(extent=SimpleNamespace(x=5.0, y=1.2)))
    agent.begin(replace(drive(), ego=long))
    assert agent.act(seen(0, speed=2.0, depth=wall(4.0))).interventions == ("emergency brake",)
    agent.begin(drive())
    assert agent.act(seen(0, speed=2.0, depth=wall(4.0))).interventions == ()


def test_rig_is_the_drivers() -> None:
    stub = Stub()
    stub.rig = Rig(LETFUSER.cameras[:1])  # type: ignore[misc]
    assert Supervised(stub).rig is stub.rig
