"""Any of our drivers in the CARLA Leaderboard 2.1: what its evaluator imports.

    leaderboard_evaluator.py --agent=apps/driving/agents/leaderboard_agent.py --agent-config=drive.yaml ...

with this project on ``PYTHONPATH`` and, in ``drive.yaml``,

    agent: small              # or expert, constant, blind, the folder of a model
    supervisor: false
    depth_cameras: true       # the Leaderboard has none: without this, drivers that need them stop

The file may be left out, or a driver's name given in its place.

The Leaderboard allows no depth cameras; LeTFuser needs them. ``depth_cameras: true`` lets the
evaluator of *this process* have them, as LeTFuser's own copy of the evaluator does, so results are
for local comparison and are none of the official Leaderboard. The evaluator's downsampled route has a
point every 200 m; LeTFuser learnt with one every 50 m (TransFuser's too), which is what ``spacing``
is; 200 is the Leaderboard's rule.

Run with the Leaderboard's unchanged evaluator on the embedded world (Town01, 743 m, its traffic): the
blind driver under supervision, by noisy GNSS and with depth cameras, completed the route within its
lanes.

Named ``leaderboard_agent`` because the evaluator imports this file by its bare name, and a module
``leaderboard`` is its own.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.agents.catalog import make_agent
from apps.driving.agents.localizer import Localizer, find_origin
from apps.driving.rig import Camera
from apps.driving.routes.plan import Navigator, Plan, to_ego
from core.config import StrictModel, load_config
from core.errors import DataError, UsageError

DEPTH = "sensor.camera.depth"
TURNS = (Command.LEFT, Command.RIGHT, Command.STRAIGHT)
LIMIT_M_S = 30 / 3.6  # CARLA's towns have signs, the Leaderboard's route has no limits


class Settings(StrictModel):
    """What ``--agent-config`` may say. ``interval`` s between decisions, ``spacing`` m of the route."""

    agent: str = "small"
    supervisor: bool = False
    depth_cameras: bool = False
    device: str = "cpu"
    threads: int | None = Field(default=None, ge=1)
    interval: float = Field(default=0.1, gt=0, le=1)
    spacing: float = Field(default=50.0, gt=1)
    seed: int = 0


class _Alone:
    """Stands in for the Leaderboard's base class where that is not installed."""

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self.track: Any = "SENSORS"
        self._global_plan: Any = None
        self._global_plan_world_coord: Any = None

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        """Nothing to do without the Leaderboard."""

    @staticmethod
    def get_ros_version() -> int:
        return -1


def _base() -> type:
    try:
        found = import_module("leaderboard.autoagents.autonomous_agent").AutonomousAgent
    except (ImportError, AttributeError):
        return _Alone
    return found if isinstance(found, type) else _Alone


def get_entry_point() -> str:
    """The name of the class below; the evaluator asks for it."""
    return "LeaderboardAgent"


class LeaderboardAgent(_base()):  # type: ignore[misc]
    """The Leaderboard's ``AutonomousAgent``: sensors in, a ``carla.VehicleControl`` out."""

    def setup(self, path_to_conf_file: str) -> None:
        """Choose the driver. UsageError, in one line, for a setting or a driver that is none."""
        self.settings = read_settings(path_to_conf_file)
        base = sys.modules.get("leaderboard.autoagents.autonomous_agent")
        if base is not None:
            self.track = base.Track.SENSORS
        self.driver = make_agent(
            self.settings.agent,
            supervisor=self.settings.supervisor,
            device=self.settings.device,
            threads=self.settings.threads,
        )
        if "depth" in self.driver.cameras:
            if not self.settings.depth_cameras:
                raise UsageError(
                    f"driver '{self.driver.name}' needs depth cameras, which the Leaderboard does not "
                    "have; for runs of your own put 'depth_cameras: true' into the agent's config"
                )
            allow_depth_cameras()
        self._begun = False
        self._decided = -np.inf
        self._decision = Decision(0.0, 0.0, 1.0)

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        """Keeps the whole route; it is thinned out by ``spacing`` before the driver sees it."""
        super().set_global_plan(global_plan_gps, global_plan_world_coord)
        self._plan = plan_of(global_plan_world_coord)
        gps = [(float(point["lat"]), float(point["lon"])) for point, _ in global_plan_gps]
        xy = [(pose.location.x, pose.location.y) for pose, _ in global_plan_world_coord]
        self._origin = find_origin(gps, np.array(xy))

    def sensors(self) -> list[dict[str, Any]]:
        """The driver's cameras, GNSS and IMU at the car's origin, the speedometer."""
        middle = {"x": 0.0, "y": 0.0, "z": 0.0, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
        found: list[dict[str, Any]] = [
            {"type": "sensor.other.gnss", "id": "gnss", **middle},
            {"type": "sensor.other.imu", "id": "imu", **middle},
            {"type": "sensor.speedometer", "id": "speed", "reading_frequency": 20},
        ]
        for kind in ("rgb", "depth"):
            if kind in self.driver.cameras:
                found += [_camera(kind, camera) for camera in self.driver.rig.cameras]
        return found

    def run_step(self, input_data: dict[str, tuple[int, Any]], timestamp: float) -> Any:
        """``carla.VehicleControl`` of the driver's last decision, a new one every ``interval``."""
        import carla

        if not self._begun:
            self._begin()
        gnss, imu = input_data["gnss"][1], input_data["imu"][1]
        speed = input_data["speed"][1]["speed"]
        position, heading, speed = self._localizer.step(gnss[0], gnss[1], imu[-1], speed, timestamp)
        target, command = self._navigator.update(position)
        if timestamp - self._decided >= self.settings.interval - 1e-3:
            self._decided = timestamp
            self._decision = self.driver.act(
                Observation(
                    frame=int(input_data["gnss"][0]),
                    time=float(timestamp),
                    speed=speed,
                    position=position,
                    heading=heading,
                    target=to_ego(target, position, heading).astype(np.float32),
                    command=command,
                    rgb=self._pictures("rgb", input_data),
                    depth=self._pictures("depth", input_data),
                )
            )
        numbers = np.array([self._decision.throttle, self._decision.steer, self._decision.brake])
        if not np.isfinite(numbers).all():
            raise DataError(f"driver '{self.driver.name}' decided {numbers.tolist()}: not numbers")
        throttle, steer, brake = (float(v) for v in np.clip(numbers, (0, -1, 0), (1, 1, 1)))
        return carla.VehicleControl(throttle=throttle, steer=steer, brake=brake)

    def destroy(self) -> None:
        """The route is over; safe to call before ``setup`` has succeeded."""
        if getattr(self, "_begun", False):
            self._begun = False
            self.driver.end()

    def _begin(self) -> None:
        client, world, map_, ego = None, None, None, None
        if self.driver.privileged:
            provider = import_module(
                "srunner.scenariomanager.carla_data_provider"
            ).CarlaDataProvider
            client, world, map_ = provider.get_client(), provider.get_world(), provider.get_map()
            ego = provider.get_hero_actor()
        self._navigator = Navigator(*self._plan.sparse(self.settings.spacing))
        self._localizer = Localizer(self._origin, self._plan.xy[0], mirrored=_is_mirrored())
        self.driver.begin(
            Drive(
                client=client,
                world=world,
                map=map_,
                ego=ego,
                plan=self._plan,
                rig=self.driver.rig,
                seed=self.settings.seed,
                interval=self.settings.interval,
            )
        )
        self._begun = True

    def _pictures(self, kind: str, data: dict[str, tuple[int, Any]]) -> np.ndarray | None:
        """(V, H, W, 3) RGB or (V, H, W) metres; None where a camera is missing.

        DataError, naming the camera, where one has another size.
        """
        if kind not in self.driver.cameras:
            return None
        from apps.driving.simulator.cameras import decode_depth

        pictures = []
        for camera in self.driver.rig.cameras:
            name = f"{kind}_{camera.name}"
            if name not in data:
                return None
            picture = np.asarray(data[name][1])
            if picture.shape[:2] != (camera.height, camera.width) or picture.ndim != 3:
                raise DataError(
                    f"camera '{name}' sent an array of shape {picture.shape}; want "
                    f"{camera.height} x {camera.width} pixels of blue, green, red, alpha"
                )
            pictures.append(picture[..., 2::-1] if kind == "rgb" else decode_depth(picture))
        return np.stack(pictures)


def read_settings(config: str) -> Settings:
    """From a YAML file, a driver's name, or nothing. UsageError where it is none of these."""
    if not config:
        return Settings()
    if Path(config).suffix in (".yaml", ".yml"):
        return load_config(Settings, Path(config))
    return Settings(agent=config)


def plan_of(route: Any) -> Plan:
    """The route as a plan, from the evaluator's [(carla.Transform, RoadOption), ...].

    Raises DataError where it has fewer than two places.
    """
    rows: list[tuple[float, float, float, float, int]] = []
    for pose, option in route:
        at = pose.location
        row = (at.x, at.y, at.z, pose.rotation.yaw, int(getattr(option, "value", option)))
        if rows and np.hypot(row[0] - rows[-1][0], row[1] - rows[-1][1]) < 0.05:
            continue  # the evaluator's legs begin where the last ones end
        rows.append(row)
    if len(rows) < 2:
        raise DataError(f"the Leaderboard's route has {len(rows)} places; want two or more")
    x, y, z, yaw, command = np.array(rows, np.float64).T
    xy = np.stack([x, y], axis=1)
    command = command.astype(np.int8)
    command[command == Command.VOID] = Command.LANE_FOLLOW
    return Plan(
        town="leaderboard",
        xy=xy,
        yaw=yaw,
        command=command,
        junction=np.isin(command, TURNS),
        speed_limit=np.full(len(xy), LIMIT_M_S),
        s=np.r_[0.0, np.cumsum(np.hypot(*np.diff(xy, axis=0).T))],
        z=z,
    )


def allow_depth_cameras() -> None:
    """Let the evaluator in this process spawn depth cameras; nothing where there is none.

    It keeps a list of allowed sensors and their limits, knows the attributes of each type by its
    name, and has a table of icons: depth cameras are entered as rgb cameras are.
    """
    wrapper: Any = sys.modules.get("leaderboard.autoagents.agent_wrapper")
    if wrapper is None:
        return
    for limits in (wrapper.SENSORS_LIMITS, wrapper.QUALIFIER_SENSORS_LIMITS):
        limits.setdefault(DEPTH, limits["sensor.camera.rgb"])
    for name in ("__main__", "leaderboard.leaderboard_evaluator"):
        icons = getattr(sys.modules.get(name), "sensors_to_icons", None)
        if isinstance(icons, dict):
            icons.setdefault(DEPTH, icons.get("sensor.camera.rgb", "carla_camera"))
    original = wrapper.AgentWrapper._preprocess_sensor_spec
    if getattr(original, "knows_depth", False):
        return

    def preprocess(self: Any, spec: dict[str, Any]) -> Any:
        if spec["type"] != DEPTH:
            return original(self, spec)
        _, name, pose, attributes = original(self, {**spec, "type": "sensor.camera.rgb"})
        return DEPTH, name, pose, attributes

    preprocess.knows_depth = True  # type: ignore[attr-defined]
    wrapper.AgentWrapper._preprocess_sensor_spec = preprocess


def _camera(kind: str, camera: Camera) -> dict[str, Any]:
    place = {key: getattr(camera, key) for key in ("x", "y", "z", "roll", "pitch", "yaw")}
    size = {key: getattr(camera, key) for key in ("width", "height", "fov")}
    return {"type": f"sensor.camera.{kind}", "id": f"{kind}_{camera.name}", **place, **size}


def _is_mirrored() -> bool:
    """Whether latitude grows with y in the CARLA whose client is installed."""
    try:
        numbers = version("carla").split(".")[:3]
        return tuple(int(number) for number in numbers) >= (0, 9, 16)
    except (PackageNotFoundError, ValueError):
        return True
