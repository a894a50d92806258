"""Driving as a Gymnasium environment: the same cars, routes and criteria as the evaluation's.

>>> import gymnasium
>>> env = gymnasium.make("apps.driving.agents.environment:triptych/Driving-v0", traffic=20)
>>> observation, info = env.reset(seed=0)
>>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

A world of its own starts with the first ``reset`` (about 6 s) and is begun anew with each further
one (0.1 s); the same seed gives the same episode, byte for byte, on one machine. With ``host`` it is
a real CARLA, which repeats an episode as well as its Traffic Manager does.

    observation   rgb (V, H, W, 3) uint8, depth (V, H, W) metres up to 1000, speed (1,) m/s,
                  target (2,) m in the ego frame, command 1 to 6 (``agents.base.Command``)
    action        (2,): above 0 throttle, below 0 brake; the wheel, right is positive
    reward        metres of the route driven since the last step, less ``COST_M`` metres for each
                  infraction times its coefficient in the Leaderboard's 2.1 formula; as much for
                  leaving the route and for standing too long
    terminated    the route's end, a collision (``end_on_collision``), off the route, blocked
    truncated     the Leaderboard's time for the route is up
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.agents.base import Observation
from apps.driving.evaluation.criteria import Criteria, CriteriaOptions
from apps.driving.evaluation.scores import COEFFICIENTS_2_1, Infraction
from apps.driving.rig import LETFUSER, Rig
from apps.driving.routes.files import RouteSpec, read_routes
from apps.driving.routes.plan import Navigator, Plan
from apps.driving.routes.planner import Planner
from apps.driving.routes.sampling import sample_routes, sample_weather
from apps.driving.simulator.cameras import FAR_M, Cameras, observe
from apps.driving.simulator.session import Session, open_session, synchronous
from core.errors import ResourceError, UsageError, need, unknown

need("gymnasium", "gym")
import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402

COST_M = 50.0
FAST_M_S = 100.0
ENDED = ("route_dev", "vehicle_blocked")  # by the driver's fault; the time may just be up
OPTIONS = ("town", "route", "weather")


class DrivingEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One car on one route after another in ``town`` (an .xodr file or ``procedural:SEED``).

    ``routes`` are a leaderboard file's, or drawn with each episode's seed and ``length`` metres long.
    ``weather`` is drawn likewise, or CARLA's fields. ``cameras``: of "rgb" and "depth".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        town: str | Path = "procedural:1",
        *,
        routes: str | Path | Sequence[RouteSpec] | None = None,
        length: tuple[float, float] = (150.0, 400.0),
        weather: Mapping[str, float] | None = None,
        traffic: int = 0,
        walkers: int = 0,
        world_seed: int = 0,
        cameras: Collection[str] = ("rgb", "depth"),
        rig: Rig = LETFUSER,
        interval: float = 0.1,
        end_on_collision: bool = True,
        criteria: CriteriaOptions | None = None,
        render_mode: str | None = None,
        host: str | None = None,
        port: int = 2000,
    ) -> None:
        for kind in cameras:
            if kind not in ("rgb", "depth"):
                raise UsageError(unknown("kind of camera", kind, ("rgb", "depth")))
        if render_mode not in (None, "rgb_array"):
            raise UsageError(unknown("render mode", str(render_mode), ("rgb_array",)))
        if render_mode is not None and "rgb" not in cameras:
            raise UsageError("render mode 'rgb_array' shows the rgb cameras; ask for them too")
        self.town, self.length, self.weather = str(town), length, weather
        self.traffic, self.walkers, self.world_seed = traffic, walkers, world_seed
        self.host, self.port = host, port
        self.cameras, self.rig, self.interval = frozenset(cameras), rig, interval
        self.end_on_collision, self.options = end_on_collision, criteria or CriteriaOptions()
        self.render_mode = render_mode
        self.routes = None if routes is None else _routes(routes)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(self._spaces())
        self._stack = ExitStack()
        # a program that ends without close() must not leave the world to the interpreter's last steps
        weakref.finalize(self, self._stack.close)
        self._session: Session | None = None
        self._town: str | None = None  # that the session is of
        self._cameras: Cameras | None = None
        self.criteria: Criteria | None = None
        self._seen: Observation | None = None
        self._last: dict[str, Any] = {}  # what was observed; a picture holds until the next
        self._over = True

    def _spaces(self) -> dict[str, spaces.Space[Any]]:
        views = (len(self.rig.cameras), *self.rig.size)
        found: dict[str, spaces.Space[Any]] = {
            "speed": spaces.Box(-FAST_M_S, FAST_M_S, (1,), np.float32),
            "target": spaces.Box(-FAR_M, FAR_M, (2,), np.float32),
            "command": spaces.Discrete(6, start=1),
        }
        if "rgb" in self.cameras:
            found["rgb"] = spaces.Box(0, 255, (*views, 3), np.uint8)
        if "depth" in self.cameras:
            found["depth"] = spaces.Box(0.0, FAR_M, views, np.float32)
        return found

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode. ``options``: "town", "route" (an id, a number or a RouteSpec), "weather".

        Raises UsageError for another option or a route that is none, DataError where a route cannot
        be planned, ResourceError where the simulator does not answer.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        for key in options:
            if key not in OPTIONS:
                raise UsageError(unknown("option of reset", key, OPTIONS))
        drawn = int(self.np_random.integers(2**31))
        session = self._world(str(options.get("town", self.town)))
        spec = self._route(options.get("route"), drawn)
        self.plan: Plan = self._planner.plan_route(spec)
        self.route = spec
        weather = options.get("weather", self.weather)
        if weather is None:
            weather = spec.weather or sample_weather(drawn)
        session.set_weather(weather)
        start = (*self.plan.xy[0].tolist(), float(self.plan.z[0]), float(self.plan.yaw[0]))
        self._ego = session.spawn_ego(start)
        self.criteria = Criteria(session.world, session.map, self._ego, self.plan, self.options)
        self._navigator = Navigator(*self.plan.sparse())
        if self.cameras:
            self._cameras = Cameras(session, self._ego, self.rig, self.cameras, self.interval)
        self._over = False
        self._look(1)
        return self._observation(), self._info([])

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """``interval`` seconds under ``action``. UsageError for one that is none, or before reset."""
        import carla

        if self._over or self._session is None or self.criteria is None:
            raise UsageError("this episode is over; call reset() first")
        given = np.asarray(action, np.float64)
        if given.shape != (2,) or not np.isfinite(given).all():
            raise UsageError(f"action {action!r}: want two numbers, pedals and wheel, of -1 to 1")
        pedals, steer = (float(v) for v in np.clip(given, -1.0, 1.0))
        control = carla.VehicleControl(
            throttle=max(pedals, 0.0), brake=max(-pedals, 0.0), steer=steer
        )
        self._session.ask(self._ego.apply_control, control)
        criteria = self.criteria
        before = criteria.completion
        new = self._look(max(1, round(self.interval / self._session.step)))
        progress = (criteria.completion - before) / 100 * self.plan.length
        ended_by = criteria.ended_by
        reward = progress - COST_M * sum(
            COEFFICIENTS_2_1.get(one.kind, float(one.kind in ENDED)) for one in new
        )
        collided = any(one.kind.startswith("collisions") for one in new)
        truncated = ended_by == "route_timeout"
        terminated = not truncated and (criteria.over or (collided and self.end_on_collision))
        self._over = terminated or truncated
        return self._observation(), float(reward), terminated, truncated, self._info(new)

    def render(self) -> np.ndarray | None:
        """(H, V * W, 3) uint8: the cameras side by side."""
        if self.render_mode is None or "rgb" not in self._last:
            return None
        return np.concatenate(list(self._last["rgb"]), axis=1)

    def close(self) -> None:
        """End the world, or leave the real CARLA as it was found."""
        self._leave()
        self._session, self._town = None, None
        self._stack.close()

    def _leave(self) -> None:
        """End the episode: its sensors stop."""
        self._over = True
        with suppress(ResourceError, RuntimeError):  # of a simulator that has gone
            if self._cameras is not None:
                self._cameras.destroy()
            if self.criteria is not None:
                self.criteria.finish()
        self._cameras, self.criteria = None, None

    def _world(self, town: str) -> Session:
        """The world of ``town`` as it was when it was new."""
        self._leave()
        session = self._session
        if session is not None and session.embedded and self._town == town:
            session.close()
            session.ask(session.client.reload_world, False)
            session.world = session.ask(session.client.get_world)
            synchronous(session, session.step)
            return session
        self.close()
        session = self._stack.enter_context(
            open_session(
                town,
                host=self.host,
                port=self.port,
                seed=self.world_seed,
                traffic=self.traffic,
                walkers=self.walkers,
            )
        )
        self._session, self._town, self._planner = session, town, Planner(session.map)
        return session

    def _route(self, wanted: Any, drawn: int) -> RouteSpec:
        assert self._session is not None
        if isinstance(wanted, RouteSpec):
            return wanted
        if self.routes is None:
            if wanted is not None:
                raise UsageError("option 'route': this environment draws its routes; give 'routes'")
            sampled = sample_routes(
                self._session.map, self._session.town, 1, drawn, self.length, self._planner
            )
            return sampled[0]
        here = [spec for spec in self.routes if spec.town == self._session.town]
        if not here:
            towns = ", ".join(sorted({spec.town for spec in self.routes}))
            raise UsageError(f"routes of {towns}, but the town is {self._session.town}")
        if wanted is None:
            return here[drawn % len(here)]
        by_name = {spec.id: spec for spec in here}
        if isinstance(wanted, int) and 0 <= wanted < len(here):
            return here[wanted]
        if str(wanted) not in by_name:
            raise UsageError(unknown("route", str(wanted), by_name))
        return by_name[str(wanted)]

    def _look(self, ticks: int) -> list[Infraction]:
        """Go on by ``ticks`` and observe; the infractions on the way."""
        assert self._session is not None
        assert self.criteria is not None
        session, new = self._session, list[Infraction]()
        for _ in range(ticks):
            snapshot = session.tick()
            new += self.criteria.update(snapshot)
            frames = None
            if self._cameras is not None and self._cameras.due(snapshot.frame):
                frames = self._cameras.read(snapshot.frame)
            self._seen = observe(session, self._ego, self._navigator, frames, snapshot)
            if self.criteria.over:
                break
        return new

    def _observation(self) -> dict[str, Any]:
        seen = self._seen
        assert seen is not None
        found: dict[str, Any] = {
            "speed": np.clip(np.array([seen.speed], np.float32), -FAST_M_S, FAST_M_S),
            "target": np.clip(np.asarray(seen.target, np.float32), -FAR_M, FAR_M),
            "command": np.int64(seen.command if seen.command >= 1 else 4),
        }
        for kind in self.cameras:
            picture = getattr(seen, kind)
            found[kind] = self._last[kind] if picture is None else picture
        self._last = found
        return found

    def _info(self, new: list[Infraction]) -> dict[str, Any]:
        assert self.criteria is not None
        return {
            "route": self.route.id,
            "completion": self.criteria.completion,
            "infractions": [one.kind for one in new],
            "status": self.criteria.status,
        }


def _routes(routes: str | Path | Sequence[RouteSpec]) -> list[RouteSpec]:
    if isinstance(routes, str | Path):
        return read_routes(routes)
    return list(routes)


gymnasium.register("triptych/Driving-v0", entry_point=f"{__name__}:DrivingEnv")
