"""A trained network at the wheel: pictures to controls, ``interval`` after ``interval``.

The network's waypoints go through LeTFuser's PIDs, and ``control.blend`` puts these and the network's
own controls together. Deviates from the authors' agent: its brake is 0.5 or more of a probability
as there, but the wheel is not scaled, because this network's is in [-1, 1] already.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.control.blend import Blend, Controls, Mode
from apps.driving.control.pid import WaypointController
from apps.driving.models.base import Driver, Inputs
from apps.driving.models.store import load_driver, require_rig
from apps.driving.recordings.tags import GROUP_NAMES, GROUP_TAGS
from apps.driving.rig import Rig
from core.errors import DataError

SECONDS = 0.5  # between two of the network's waypoints

# What a cell of the bird's-eye view is drawn as when several classes are in it: the last of these.
DRAWN_OVER = (
    *("other", "sky", "road", "vegetation", "sidewalk", "line", "structure", "pole", "sign"),
    *("traffic_light", "vehicle", "two_wheeler", "pedestrian"),
)


class LearnedAgent:
    """``network`` drives; ``mode`` says how its two controllers share the car.

    ``threads`` sets how many torch uses in this process (None: as it is).
    """

    cameras = frozenset({"rgb", "depth"})
    privileged = False

    def __init__(
        self,
        network: Driver,
        *,
        name: str | None = None,
        mode: Mode = "one_of",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.network = network.to(device).eval()
        self.device = torch.device(device)
        self.name = name or network.config.name
        self.rig: Rig = network.config.rig
        self.blend = Blend(mode=mode)
        classes = network.config.classes
        self._tags = _tags(classes)
        self._rank = np.array([1 + DRAWN_OVER.index(name) for name in classes])[:, None, None]

    @classmethod
    def load(
        cls,
        ref: str | Path,
        *,
        mode: Mode = "one_of",
        device: str = "cpu",
        threads: int | None = None,
    ) -> LearnedAgent:
        """From a shipped model's name or a model folder; raises what ``load_driver`` does."""
        loaded = load_driver(ref, device=device)
        name = Path(loaded.folder).name
        return cls(loaded.network, name=name, mode=mode, device=device, threads=threads)

    def begin(self, drive: Drive) -> None:
        """DataError where the car's cameras are not those that the network knows."""
        require_rig(self.network.config, drive.rig, f"driver {self.name!r}")
        self._controller = WaypointController(dt=drive.interval)

    @torch.inference_mode()
    def act(self, observation: Observation) -> Decision:
        """Where the network gives no numbers, a decision of none.

        DataError where a camera's picture is missing or has another size.
        """
        out = self.network(self._inputs(observation))
        waypoints = out.waypoints[0].double().cpu().numpy()
        steer, throttle, brake = (float(value) for value in out.control[0])
        if not np.isfinite([steer, throttle, brake, *waypoints.flat]).all():
            return Decision(np.nan, np.nan, np.nan, waypoints=waypoints)
        pid = Controls(*self._controller.step(waypoints, observation.speed))
        own = Controls(throttle, steer, brake)
        controls = self.blend(pid, own)
        rank = (out.birdseye[0] > 0).cpu().numpy() * self._rank  # (K, h, w), 0 where nothing is
        birdseye = np.where(rank.any(0), self._tags[rank.argmax(0)], 0).astype(np.uint8)
        return Decision(
            *controls,
            waypoints=waypoints,
            target_speed=float(np.hypot(*(waypoints[1] - waypoints[0]))) / SECONDS,
            red_light=float(out.red_light[0].sigmoid()),
            stop_sign=float(out.stop_sign[0].sigmoid()),
            semantics=self._tags[out.semantics.argmax(1).cpu().numpy()],
            birdseye=birdseye,
            parts={"waypoints": pid, "network": own},
        )

    def end(self) -> None:
        pass

    def _inputs(self, observation: Observation) -> Inputs:
        views = (len(self.rig.cameras), *self.rig.size)
        rgb = self._picture("rgb", observation.rgb, (*views, 3))
        depth = self._picture("depth", observation.depth, views)
        # the network learns from commands 1 to 6; before the first point there may be none
        command = observation.command if observation.command >= 1 else Command.LANE_FOLLOW
        inputs = Inputs(
            rgb=torch.from_numpy(np.ascontiguousarray(rgb.transpose(0, 3, 1, 2)))[None],
            depth=torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None],
            speed=torch.tensor([observation.speed], dtype=torch.float32),
            target=torch.from_numpy(np.asarray(observation.target, np.float32))[None],
            command=torch.tensor([int(command)]),
        )
        return inputs.to(self.device)

    def _picture(self, kind: str, picture: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        wanted = f"driver {self.name!r} needs {kind} of {_words(self.rig)}"
        if picture is None:
            raise DataError(f"{wanted}, and got none; attach these cameras")
        if picture.shape != shape:
            raise DataError(f"{wanted}: an array of shape {shape}, and got {picture.shape}")
        return picture


def _words(rig: Rig) -> str:
    """``3 cameras of 320 x 160 pixels (left -60, front 0, right 60)``."""
    height, width = rig.size
    places = ", ".join(f"{camera.name} {camera.yaw:g}°" for camera in rig.cameras)
    many = "cameras" if len(rig.cameras) > 1 else "camera"
    return f"{len(rig.cameras)} {many} of {width} x {height} pixels ({places})"


def _tags(classes: tuple[str, ...]) -> np.ndarray:
    """(K,) uint8: a CARLA tag for each of the network's classes; DataError for an unknown one."""
    known = dict(zip(GROUP_NAMES, GROUP_TAGS))
    strange = [name for name in classes if name not in known]
    if strange:
        raise DataError(f"network of unknown classes {strange}; want of {', '.join(GROUP_NAMES)}")
    return np.array([known[name] for name in classes], np.uint8)
