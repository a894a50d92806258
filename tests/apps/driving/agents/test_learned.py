"""A network at the wheel: what it is given, what becomes of what it says, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.agents.catalog import make_agent, names
from apps.driving.agents.learned import LearnedAgent
from apps.driving.agents.supervisor import Supervised
from apps.driving.models.base import Driver, Inputs, Outputs
from apps.driving.models.config import PRESETS
from apps.driving.models.letfuser import build
from apps.driving.models.store import save_model
from apps.driving.recordings.tags import GROUP_TAGS, GROUPS
from apps.driving.rig import LETFUSER, Camera, Rig
from core.errors import DataError, UsageError

CONFIG = PRESETS["small"]


class Scripted(Driver):
    """Says what the test wants and keeps what it was given."""

    def __init__(self, **said: Any) -> None:
        super().__init__(CONFIG)
        k = len(CONFIG.classes)
        self.said = {
            "semantics": torch.zeros(1, k, 40, 240),
            "birdseye": torch.zeros(1, k, 80, 128),
            "waypoints": torch.tensor([[[4.0, 0.0], [8.0, 0.0], [12.0, 0.0], [16.0, 0.0]]]),
            "control": torch.tensor([[0.2, 0.8, 0.0]]),
            "red_light": torch.zeros(1),
            "stop_sign": torch.full((1,), -100.0),
            "speed": torch.zeros(1),
            **said,
        }
        self.given: Inputs | None = None

    def forward(self, inputs: Inputs) -> Outputs:
        self.given = inputs
        self.check(inputs)
        return Outputs(**self.said)

    def fusion_parameters(self) -> list[Any]:
        return []


def drive(rig: Rig = LETFUSER) -> Drive:
    plan: Any = None
    return Drive(None, None, None, None, plan, rig)


def seen(**other: Any) -> Observation:
    rng = np.random.default_rng(0)
    values = {
        "frame": 1,
        "time": 0.1,
        "speed": 4.0,
        "position": np.zeros(2),
        "heading": 0.0,
        "target": np.array([20.0, 3.0], np.float32),
        "command": Command.RIGHT,
        "rgb": rng.integers(0, 256, (3, 160, 320, 3), dtype=np.uint8),
        "depth": rng.uniform(5, 50, (3, 160, 320)).astype(np.float32),
    }
    return Observation(**{**values, **other})


def ask(network: Driver, observation: Observation, **options: Any) -> Decision:
    agent = LearnedAgent(network, **options)
    agent.begin(drive())
    return agent.act(observation)


def test_the_network_gets_what_was_seen() -> None:
    network, observation = Scripted(), seen()
    ask(network, observation)
    given = network.given
    assert given is not None
    assert observation.rgb is not None
    assert given.rgb.shape == (1, 3, 3, 160, 320)
    assert int(given.rgb[0, 2, 1, 7, 9]) == observation.rgb[2, 7, 9, 1]
    np.testing.assert_array_equal(given.depth[0].numpy(), observation.depth)
    assert given.speed.tolist() == [4.0]
    assert given.target.tolist() == [[20.0, 3.0]]
    assert given.command.tolist() == [2]
    ask(network, seen(command=Command.VOID))
    assert network.given is not None
    assert network.given.command.tolist() == [4]


def test_what_the_network_says_is_what_it_decides() -> None:
    k = len(CONFIG.classes)
    semantics, birdseye = torch.zeros(1, k, 40, 240), torch.zeros(1, k, 80, 128)
    semantics[0, CONFIG.classes.index("vehicle"), :, 120:] = 5.0
    birdseye[0, CONFIG.classes.index("road"), 40:] = 1.0
    birdseye[0, CONFIG.classes.index("pedestrian"), 50, 60] = 1.0
    network = Scripted(
        semantics=semantics, birdseye=birdseye, red_light=torch.full((1,), 1.0986123)
    )
    decision = ask(network, seen(), mode="mlp_only")
    assert (decision.throttle, decision.steer, decision.brake) == pytest.approx((0.6, 0.2, 0.0))
    assert decision.parts["network"] == pytest.approx((0.8, 0.2, 0.0))
    assert decision.parts["waypoints"] == ask(network, seen(), mode="pid_only").parts["waypoints"]
    assert decision.red_light == pytest.approx(0.75)
    assert decision.stop_sign == pytest.approx(0.0)
    assert decision.target_speed == pytest.approx(8.0)
    assert decision.waypoints is not None
    assert decision.waypoints[-1].tolist() == [16.0, 0.0]
    assert decision.semantics is not None
    assert GROUPS[decision.semantics[0, 0, 200]] == CONFIG.classes.index("vehicle")
    assert decision.birdseye is not None
    assert decision.birdseye[0, 0] == 0  # nothing seen there
    assert decision.birdseye[60, 60] == GROUP_TAGS[CONFIG.classes.index("road")]
    assert (
        decision.birdseye[50, 60] == GROUP_TAGS[CONFIG.classes.index("pedestrian")]
    )  # on the road


def test_modes_choose_the_controller() -> None:
    stop = torch.tensor([[0.0, 0.0, 1.0]])
    assert ask(Scripted(control=stop), seen(), mode="pid_only").throttle > 0.2
    assert ask(Scripted(control=stop), seen(), mode="mlp_only").brake == 1.0
    assert ask(Scripted(control=stop), seen(), mode="one_of").throttle > 0.2
    assert ask(Scripted(control=stop), seen(), mode="both_must").throttle == 0.0


@pytest.mark.parametrize("name", ["waypoints", "control"])
def test_no_numbers_are_no_decision_and_the_supervisor_brakes(name: str) -> None:
    spoiled: Tensor = torch.full_like(Scripted().said[name], float("nan"))
    agent = LearnedAgent(Scripted(**{name: spoiled}))
    agent.begin(drive())
    assert np.isnan(agent.act(seen()).throttle)
    watched = Supervised(agent)
    watched.begin(drive())
    decision = watched.act(seen())
    assert (decision.brake, decision.interventions) == (1.0, ("decision: not a number",))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rgb": None}, r"needs rgb of 3 cameras of 320 x 160 .*got none"),
        ({"depth": None}, r"needs depth of 3 cameras .*left -60°.*got none"),
        ({"rgb": np.zeros((2, 160, 320, 3), np.uint8)}, r"\(2, 160, 320, 3\)"),
        ({"rgb": np.zeros((3, 120, 160, 3), np.uint8)}, r"got \(3, 120, 160, 3\)"),
        ({"depth": np.zeros((3, 160, 321), np.float32)}, r"got \(3, 160, 321\)"),
    ],
)
def test_missing_and_wrong_cameras_are_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        ask(Scripted(), seen(**change))


def test_depth_that_is_no_number_is_driven_with() -> None:
    observation = seen()
    assert observation.depth is not None
    depth = observation.depth.copy()
    depth[0], depth[1, :50], depth[2, ::3] = np.nan, np.inf, 0.0
    torch.manual_seed(0)
    decision = ask(build(CONFIG), replace(observation, depth=depth))
    assert np.isfinite([decision.throttle, decision.steer, decision.brake]).all()
    assert decision.waypoints is not None
    assert np.isfinite(decision.waypoints).all()


def test_other_cameras_than_trained_with_are_refused() -> None:
    agent = LearnedAgent(Scripted())
    turned = Rig(tuple(Camera(c.name, c.yaw / 2) for c in LETFUSER.cameras))
    with pytest.raises(
        DataError, match=r"'small'.* other cameras .*'left' with yaw -60.0, not -30"
    ):
        agent.begin(drive(turned))


def test_a_saved_model_drives_by_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(CONFIG)
    save_model(tmp_path / "mine", network)
    agent = make_agent(tmp_path / "mine")
    assert (agent.name, agent.rig, agent.privileged) == ("mine", LETFUSER, False)
    agent.begin(drive())
    straight = LearnedAgent(network)
    straight.begin(drive())
    for k in range(3):
        observation = seen(frame=k)
        assert agent.act(observation).steer == straight.act(observation).steer
    assert make_agent(str(tmp_path / "mine"), supervisor=True).name == "mine+supervisor"


def test_names_and_what_is_none_of_them(tmp_path: Path) -> None:
    assert {"expert", "constant", "blind"} <= set(names())
    assert make_agent("constant").name == "constant"
    assert make_agent("blind", supervisor=True).cameras == {"depth"}
    assert make_agent("expert").privileged
    with pytest.raises(UsageError, match=r"driver 'exprt'\. Did you mean 'expert'"):
        make_agent("exprt")
    with pytest.raises(UsageError, match="no such model folder"):
        make_agent(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"model\.json"):
        make_agent(tmp_path / "empty")
