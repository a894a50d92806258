"""Gymnasium's own checks, and episodes that repeat, pay and end as they should.

One program in a process of its own drives them all: CARLA's client may take a process with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import UsageError

pytest.importorskip("gymnasium")
pytest.importorskip("carla")
ROOT = Path(__file__).parents[4]

PROGRAM = """
import json, sys, warnings
sys.path.insert(0, {root!r})
import gymnasium, numpy as np
from gymnasium.utils.env_checker import check_env
from apps.driving.agents.catalog import make_agent
from apps.driving.agents.base import Drive
from core.errors import UsageError

town = {town!r}
env = gymnasium.make("apps.driving.agents.environment:triptych/Driving-v0", town=town, traffic=3,
                     length=(80.0, 160.0), render_mode="rgb_array").unwrapped
found = {{}}
with warnings.catch_warnings():
    warnings.simplefilter("error")
    check_env(env, skip_render_check=True, skip_close_check=True)

def episode(seed, act, limit=400):
    observation, info = env.reset(seed=seed)
    route, rewards, sums = info["route"], [], [int(observation["rgb"].sum(dtype=np.int64))]
    over = False
    while not over and len(rewards) < limit:
        observation, reward, terminated, truncated, info = env.step(act(observation))
        assert env.observation_space.contains(observation)
        rewards.append(reward)
        sums.append(int(observation["rgb"].sum(dtype=np.int64)))
        over = terminated or truncated
    return dict(route=route, rewards=rewards, sums=sums, over=over, terminated=over and terminated,
                length=env.plan.length, **{{k: info[k] for k in ("completion", "infractions", "status")}})

forward = lambda observation: np.array([0.5, 0.0], np.float32)
found["first"] = episode(5, forward, 25)
found["again"] = episode(5, forward, 25)
found["other"] = episode(6, forward, 3)
found["away"] = episode(6, lambda observation: np.array([0.7, 0.6], np.float32))
found["picture"] = list(env.render().shape)

# the privileged driver earns the route's length
expert = make_agent("expert")
observation, info = env.reset(seed=7)
expert.begin(Drive(env._session.client, env._session.world, env._session.map, env._ego, env.plan, env.rig))
rewards, over = [], False
while not over and len(rewards) < 900:
    decision = expert.act(env._seen)
    pedals = decision.throttle - decision.brake
    observation, reward, terminated, truncated, info = env.step(np.array([pedals, decision.steer]))
    rewards.append(reward)
    over = terminated or truncated
found["expert"] = dict(sum=sum(rewards), length=env.plan.length, **info)

def refused(call):
    try:
        call()
    except UsageError as error:
        return str(error)

found["after"] = refused(lambda: env.step(np.zeros(2)))
found["option"] = refused(lambda: env.reset(options={{"twon": "x"}}))
found["route"] = refused(lambda: env.reset(options={{"route": "x"}}))
env.reset(seed=1)
found["shape"] = refused(lambda: env.step(np.zeros(3)))
found["nan"] = refused(lambda: env.step(np.array([np.nan, 0.0])))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    program = PROGRAM.format(root=str(ROOT), town=str(ROOT / "samples" / "Town01.xodr"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]  # check_env passed, and no close() was needed
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_same_seed_same_episode_to_the_pixel(found: dict[str, Any]) -> None:
    assert found["first"] == found["again"]
    assert len(set(found["first"]["sums"])) > 10  # and something moves in it
    assert found["other"]["route"] != found["first"]["route"]
    assert found["other"]["sums"][0] != found["first"]["sums"][0]


def test_progress_is_the_reward(found: dict[str, Any]) -> None:
    episode = found["first"]
    assert episode["infractions"] == []
    metres = episode["completion"] / 100 * episode["length"]
    assert metres > 2.0
    assert sum(episode["rewards"]) == pytest.approx(metres, abs=0.5)


def test_a_crash_costs_and_ends(found: dict[str, Any]) -> None:
    episode = found["away"]
    assert episode["terminated"]
    assert episode["infractions"] or episode["status"].startswith("failed")
    assert episode["rewards"][-1] < -25.0
    assert found["picture"] == [160, 960, 3]


def test_the_expert_earns_the_route(found: dict[str, Any]) -> None:
    expert = found["expert"]
    assert expert["status"] == "perfect"
    assert expert["sum"] == pytest.approx(expert["length"], rel=0.06)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("after", "call reset"),
        ("option", "Did you mean 'town'"),
        ("route", "give 'routes'"),
        ("shape", "two numbers"),
        ("nan", "two numbers"),
    ],
)
def test_misuse_is_named(found: dict[str, Any], what: str, text: str) -> None:
    assert text in found[what]


def test_cameras_and_render_modes_that_are_none() -> None:
    from apps.driving.agents.environment import DrivingEnv

    with pytest.raises(UsageError, match="kind of camera 'lidar'"):
        DrivingEnv(cameras=("rgb", "lidar"))
    with pytest.raises(UsageError, match=r"render mode 'humn'"):
        DrivingEnv(render_mode="humn")
    with pytest.raises(UsageError, match="ask for them too"):
        DrivingEnv(cameras=(), render_mode="rgb_array")
    env = DrivingEnv(cameras=())
    assert set(env.observation_space.spaces) == {"speed", "target", "command"}
    assert env.render() is None
    with pytest.raises(UsageError, match="call reset"):
        env.step(np.zeros(2))
    env.close()
