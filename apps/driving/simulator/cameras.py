"""The cameras of one car: pictures that belong to one frame, whole or not at all.

Encodings are those of CARLA's sensor reference: pictures come as blue, green, red, alpha; depth has 24
bits, least significant in red, of 1000 m along the optical axis; a semantic tag stands in red.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.agents.base import Observation
from apps.driving.rig import Rig
from apps.driving.routes.plan import Navigator, to_ego
from apps.driving.simulator.connection import SimulatorGone
from apps.driving.simulator.session import Session
from core.errors import ResourceError, UsageError, unknown

if TYPE_CHECKING:
    import carla

KINDS = {
    "rgb": "sensor.camera.rgb",
    "depth": "sensor.camera.depth",
    "semantic": "sensor.camera.semantic_segmentation",
}
DEPTH_STEPS = (1 << 24) - 1
FAR_M = 1000.0
_KEPT = 8  # pictures of a camera that wait to be read
_WARM_UP_TICKS = 20


class SensorMissing(ResourceError):
    """A camera sent no picture for a frame, or one of the wrong size."""


@dataclass(frozen=True)
class Frames:
    """The pictures of one frame, V cameras in the rig's order; None for what was not asked for.

    ``rgb`` (V, H, W, 3) uint8, ``depth`` (V, H, W) float32 metres along the optical axis,
    ``semantics`` (V, H, W) uint8 CARLA tags.
    """

    frame: int
    rgb: np.ndarray | None = None
    depth: np.ndarray | None = None
    semantics: np.ndarray | None = None


class Cameras:
    """Every camera of ``rig`` once for each of ``kinds``, rigidly on ``ego``.

    Pictures come every ``every`` seconds of the world's time, or at every tick where that is less.
    The first ones belong to the tick after this is made; ``due`` says which frames follow. A real
    CARLA starts to send some ticks after it is asked to, and so many pass in here.

    Raises UsageError for an unknown kind or an interval that is no multiple of the session's step,
    ResourceError where a camera cannot be had.
    """

    def __init__(
        self,
        session: Session,
        ego: carla.Actor,
        rig: Rig,
        kinds: Collection[str] = ("rgb", "depth", "semantic"),
        every: float = 0.1,
    ) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise UsageError(unknown("kind of camera", kind, KINDS))
        self.rig = rig
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.period = max(1, round(every / session.step))
        if every > session.step and abs(self.period * session.step - every) > 1e-6:
            raise UsageError(
                f"cameras every {every} s in steps of {session.step} s: give a multiple of the step"
            )
        self._session = session
        self._first = 0
        self._pictures: dict[tuple[str, str], dict[int, Any]] = {}
        self._came = threading.Condition()
        self._sensors: list[Any] = []
        try:
            for kind in self.kinds:
                for camera in rig.cameras:
                    self._attach(kind, camera.name, ego)
            self._start()
        except BaseException:
            self.destroy()
            raise

    def _attach(self, kind: str, name: str, ego: carla.Actor) -> None:
        import carla

        camera = next(c for c in self.rig.cameras if c.name == name)
        # A real CARLA may let a sensor_tick slip by a frame: there every tick is drawn and those not
        # due are dropped here. The embedded world keeps to it, and drawing costs it most of a tick.
        tick = self.period * self._session.step if self._session.embedded else 0.0
        sensor = self._session.spawn(
            KINDS[kind],
            carla.Transform(
                carla.Location(camera.x, camera.y, camera.z),
                carla.Rotation(pitch=camera.pitch, yaw=camera.yaw, roll=camera.roll),
            ),
            ego,
            image_size_x=camera.width,
            image_size_y=camera.height,
            fov=camera.fov,
            sensor_tick=tick if self.period > 1 else 0.0,
        )
        self._sensors.append(sensor)
        self._pictures[kind, name] = {}

    def _start(self) -> None:
        session = self._session
        for sensor, key in zip(self._sensors, self._pictures):
            session.ask(sensor.listen, lambda image, key=key: self._receive(key, image))
        frame = session.ask(session.world.get_snapshot).frame
        if not session.embedded:
            # Listening is not acknowledged there; the embedded world waits for it before it ticks.
            for _ in range(_WARM_UP_TICKS):
                frame = session.tick().frame
                if self._all(frame, 1.0):
                    break
        self._first = frame + 1

    def _all(self, frame: int, timeout: float) -> bool:
        """Whether every picture of a frame has come within ``timeout`` s."""
        with self._came:
            return self._came.wait_for(
                lambda: all(frame in kept for kept in self._pictures.values()), timeout
            )

    def _receive(self, key: tuple[str, str], image: Any) -> None:
        """Called by CARLA's threads."""
        with self._came:
            kept = self._pictures[key]
            kept[image.frame] = image
            while len(kept) > _KEPT:
                del kept[min(kept)]
            self._came.notify_all()

    def due(self, frame: int) -> bool:
        """Whether pictures of this frame come."""
        return frame >= self._first and (frame - self._first) % self.period == 0

    def read(self, frame: int, timeout: float | None = None) -> Frames:
        """The pictures of a frame that is due, once they are all there.

        Raises SensorMissing, naming the camera, when one does not come within ``timeout`` s (the
        session's by default) or is of another size than asked for.
        """
        self._all(frame, self._session.timeout if timeout is None else timeout)
        with self._came:
            missing = [key for key, kept in self._pictures.items() if frame not in kept]
            if missing:
                kind, name = missing[0]
                newest = max(self._pictures[kind, name], default=None)
                raise SensorMissing(
                    f"camera '{name}' ({kind}) sent no picture for frame {frame}; "
                    f"{'it has none' if newest is None else f'its last is of frame {newest}'}: "
                    "check the simulator, or allow it more time"
                )
            images = {key: kept.pop(frame) for key, kept in self._pictures.items()}
            for kept in self._pictures.values():
                for old in [number for number in kept if number < frame]:
                    del kept[old]
        return Frames(
            frame,
            self._stack("rgb", images, lambda bgra: bgra[..., 2::-1]),
            self._stack("depth", images, decode_depth),
            self._stack("semantic", images, lambda bgra: bgra[..., 2]),
        )

    def _stack(self, kind: str, images: dict[tuple[str, str], Any], decode: Any) -> Any:
        if kind not in self.kinds:
            return None
        found = []
        for camera in self.rig.cameras:
            image = images[kind, camera.name]
            if (image.width, image.height) != (camera.width, camera.height):
                raise SensorMissing(
                    f"camera '{camera.name}' ({kind}) sent {image.width} x {image.height} pixels; "
                    f"want {camera.width} x {camera.height}"
                )
            bgra = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
            found.append(decode(bgra))
        return np.stack(found)

    def destroy(self) -> None:
        """Stop and remove the cameras; a second call does nothing."""
        self._session.destroy(self._sensors)
        self._sensors = []


def decode_depth(bgra: np.ndarray) -> np.ndarray:
    """(..., 4 or 3) uint8 as CARLA sends it (blue first) to (...) float32 metres."""
    wide = bgra[..., :3].astype(np.float32)
    # float32 holds 24 bits exactly, so the sum does not round.
    steps = wide[..., 2] + 256.0 * wide[..., 1] + 65536.0 * wide[..., 0]
    metres: np.ndarray = (steps * np.float32(FAR_M / DEPTH_STEPS)).astype(np.float32)
    return metres


def encode_depth(metres: np.ndarray) -> np.ndarray:
    """(...) metres to (..., 3) uint8 red, green, blue, least significant in red; NaN is 1000 m.

    ``decode_depth(encode_depth(d)[..., ::-1])`` is d within half of 0.06 mm and float32's rounding.
    """
    far = np.nan_to_num(np.asarray(metres, np.float64), nan=FAR_M, posinf=FAR_M, neginf=0.0)
    steps = np.clip(far * (DEPTH_STEPS / FAR_M) + 0.5, 0, DEPTH_STEPS).astype(np.uint32)
    return np.stack([steps & 255, (steps >> 8) & 255, steps >> 16], axis=-1).astype(np.uint8)


def observe(
    session: Session,
    ego: carla.Vehicle,
    navigator: Navigator,
    frames: Frames | None = None,
    snapshot: carla.WorldSnapshot | None = None,
) -> Observation:
    """What a driver sees at the last tick; ``frames`` are its pictures, of the same frame.

    Raises SimulatorGone where the car is no longer in the world.
    """
    now = snapshot if snapshot is not None else session.ask(session.world.get_snapshot)
    actor = now.find(ego.id)
    if actor is None:
        raise SimulatorGone(f"the car has gone from the simulator at {session.address}")
    pose, velocity = actor.get_transform(), actor.get_velocity()
    forward = pose.get_forward_vector()
    position = np.array([pose.location.x, pose.location.y])
    heading = float(pose.rotation.yaw)
    target, command = navigator.update(position)
    return Observation(
        frame=now.frame,
        time=float(now.timestamp.elapsed_seconds),
        speed=float(velocity.x * forward.x + velocity.y * forward.y + velocity.z * forward.z),
        position=position,
        heading=heading,
        target=to_ego(target, position, heading).astype(np.float32),
        command=command,
        rgb=None if frames is None else frames.rgb,
        depth=None if frames is None else frames.depth,
    )
