"""A drive as an MP4: what the cameras and the driver saw, where it meant to go, what it did.

    rgb of the cameras side by side, waypoints in them        960 x 160
    the driver's semantics, or depth                          960 x 160
    bird's-eye view | waypoints from above | text and pedals  960 x 200

One picture takes about 8 ms on one core (3 cameras of 320 x 160, x264), measured with PyAV 18.
PyAV and Pillow are imported when a video is begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from apps.driving.agents.base import Decision, Observation
from apps.driving.evaluation.palette import PALETTE
from apps.driving.rig import LETFUSER, Rig
from core.errors import UsageError, need
from core.files import atomic_path

WIDTH, STRIP, PANEL = 960, 160, 200
BIRDSEYE = 320  # pixels of width: the networks' grids are 64 m x 40 m
HEIGHT = 2 * STRIP + PANEL
FAR_M = 40.0  # of the view from above
BACK, INK, DIM = (18, 18, 22), (235, 235, 235), (95, 95, 105)
PATH, GOAL, GAS, BRAKE = (80, 220, 120), (255, 190, 60), (80, 200, 110), (235, 80, 70)
CODECS = ("libx264", "mpeg4")  # the first that PyAV's FFmpeg has
OPTIONS = {"libx264": {"preset": "veryfast", "crf": "23"}, "mpeg4": {"qscale": "4"}}


class VideoWriter:
    """Pictures of a drive into ``path``, which appears when the block ends without an error.

    >>> with VideoWriter(path, fps=10) as video:
    ...     video.write(observation, decision)

    A drive of no picture leaves no file. Raises UsageError where PyAV is not installed or ``path``
    exists and ``force`` is false, ResourceError when the disk is full.
    """

    def __init__(
        self, path: Path, fps: float = 10.0, *, rig: Rig = LETFUSER, force: bool = False
    ) -> None:
        if not 0 < fps <= 240:
            raise UsageError(f"{path}: {fps} pictures a second; give above 0 and at most 240")
        self.path, self.rate, self.rig = Path(path), Fraction(fps).limit_denominator(1000), rig
        self.force, self.frames = force, 0
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        self._av = need("av", "driving")
        need("PIL.ImageDraw", "driving")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return bool(self._stack.__exit__(kind, error, trace))

    def write(
        self,
        observation: Observation,
        decision: Decision,
        *,
        title: str = "",
        lines: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ) -> None:
        """Add a picture. ``lines`` stand in the panel, ``warnings`` (infractions so far) in red."""
        picture = draw(observation, decision, self.rig, title=title, lines=lines, warnings=warnings)
        if self.frames == 0:
            self._open()
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = self.frames, 1 / self.rate
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.frames += 1

    def _open(self) -> None:
        temporary = self._stack.enter_context(atomic_path(self.path, force=self.force))
        # the name may end in anything; the container is MP4
        container = self._av.open(str(temporary), "w", format="mp4")
        self._stack.push(self._finish)
        codec = next(name for name in CODECS if name in self._av.codecs_available)
        stream = container.add_stream(codec, rate=self.rate, options=OPTIONS[codec])
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        self._container, self._stream = container, stream

    def _finish(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                for packet in self._stream.encode(None):
                    self._container.mux(packet)
        finally:
            self._container.close()


def draw(
    observation: Observation,
    decision: Decision,
    rig: Rig = LETFUSER,
    *,
    title: str = "",
    lines: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: one picture of the video."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), BACK)
    pen = ImageDraw.Draw(image)
    if observation.rgb is not None:
        image.paste(_strip(observation.rgb), (0, 0))
        _waypoints_in_pictures(pen, decision, rig)
    else:
        _label(pen, (8, 70), "no camera", DIM)
    if decision.semantics is not None:
        strip = _strip(PALETTE[decision.semantics])
        image.paste(strip, ((WIDTH - strip.width) // 2, STRIP))  # some networks cut off the sides
        _label(pen, (6, STRIP + 4), "semantics")
    elif observation.depth is not None:
        image.paste(_strip(shaded(observation.depth)), (0, STRIP))
        _label(pen, (6, STRIP + 4), "depth")
    if decision.birdseye is not None:
        image.paste(_fitted(PALETTE[decision.birdseye], BIRDSEYE, PANEL), (0, 2 * STRIP))
        _label(pen, (6, 2 * STRIP + 4), "bird's eye")
    _from_above(pen, observation, decision, (BIRDSEYE + 10, 2 * STRIP))
    _panel(pen, observation, decision, title, lines, warnings)
    return np.asarray(image)


def _strip(views: np.ndarray) -> Any:
    """(V, h, w, 3) side by side, as a picture at most WIDTH wide and STRIP high."""
    return _fitted(np.concatenate(list(views), axis=1), WIDTH, STRIP)


def _fitted(pixels: np.ndarray, width: int, height: int) -> Any:
    """As large as fits, square pixels."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = min(width / image.width, height / image.height)
    if scale == 1:
        return image
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    return image.resize(size, Image.Resampling.NEAREST)


def shaded(depth: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 of (...) metres. Near is bright; 1 m and 100 m are a logarithm's ends. What is no number is red."""
    with np.errstate(invalid="ignore", divide="ignore"):
        level = 255 * (1 - np.clip(np.log10(np.maximum(depth, 1.0)) / 2, 0, 1))
    grey = np.nan_to_num(level).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    picture[~np.isfinite(depth)] = BRAKE
    return picture


def _waypoints_in_pictures(pen: Any, decision: Decision, rig: Rig) -> None:
    """Discs where the waypoints are on the road, in every camera that sees them."""
    if decision.waypoints is None or not len(decision.waypoints):
        return
    height, width = rig.size
    points = np.pad(np.asarray(decision.waypoints, np.float64), ((0, 0), (0, 1)))
    cell = WIDTH / len(rig.cameras)
    for view, camera in enumerate(rig.cameras):
        pixels, depth = camera.project(points)
        for (u, v), far in zip(pixels, depth):
            if far > 0.5 and 0 <= u < width and 0 <= v < height:
                x, y = view * cell + u * cell / width, v * STRIP / height
                size = float(np.clip(40 / far, 2, 6))
                pen.ellipse((x - size, y - size, x + size, y + size), fill=PATH, outline=BACK)


def _from_above(
    pen: Any, observation: Observation, decision: Decision, at: tuple[int, int]
) -> None:
    """The ego frame, forward up: rings of 10 m, the next point of the route, the waypoints."""
    left, top = at
    scale = (PANEL - 20) / FAR_M
    x0, y0 = left + PANEL / 2, top + PANEL - 12
    for ring in (10, 20, 30, 40):
        r = ring * scale
        pen.arc((x0 - r, y0 - r, x0 + r, y0 + r), 210, 330, fill=DIM)
    pen.rectangle((x0 - 1 * scale, y0 - 2.4 * scale, x0 + 1 * scale, y0 + 2.4 * scale), fill=INK)
    target = np.asarray(observation.target, np.float64)
    if np.isfinite(target).all():
        target = target * min(1.0, FAR_M / max(float(np.hypot(*target)), 1e-6))
        x, y = x0 + scale * target[1], y0 - scale * target[0]
        x = min(max(x, left), left + PANEL)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=GOAL, width=2)
    if decision.waypoints is not None and np.isfinite(decision.waypoints).all():
        trail = [(x0, y0), *((x0 + scale * y, y0 - scale * x) for x, y in decision.waypoints)]
        pen.line(trail, fill=PATH, width=2)
        for x, y in trail[1:]:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=PATH)


def _panel(
    pen: Any,
    observation: Observation,
    decision: Decision,
    title: str,
    lines: Sequence[str],
    warnings: Sequence[str],
) -> None:
    left, top = BIRDSEYE + PANEL + 25, 2 * STRIP
    wanted = "" if decision.target_speed is None else f" of {3.6 * decision.target_speed:.0f}"
    command = observation.command.name.lower().replace("_", " ")
    speed = f"{3.6 * observation.speed:5.1f}{wanted} km/h"
    told = [title] if title else []
    told += [f"{observation.time:6.1f} s   {speed}   {command}"]
    for name, value in (("red light", decision.red_light), ("stop sign", decision.stop_sign)):
        if value is not None:
            told.append(f"{name} {value:.2f}")
    held = [name for name, on in decision.hazards.items() if on]
    told += [f"waits for {', '.join(held)}"] if held else []
    told += lines
    for row, text in enumerate(told[:7]):
        _label(pen, (left, top + 8 + 17 * row), text)
    red = [*decision.interventions, *warnings]
    for row, text in enumerate(red[-9:]):
        _label(pen, (left + 270, top + 40 + 17 * row), text, BRAKE)
    bars = (("throttle", decision.throttle, GAS), ("brake", decision.brake, BRAKE))
    for row, (name, value, colour) in enumerate(bars):
        y = top + 137 + 20 * row
        _label(pen, (left, y - 3), name)
        pen.rectangle((left + 60, y, left + 260, y + 10), outline=DIM)
        pen.rectangle((left + 60, y, left + 60 + 200 * _unit(value, 0.0), y + 10), fill=colour)
    y, middle = top + 177, left + 160
    end = middle + 100 * _unit(decision.steer, -1.0)
    _label(pen, (left, y - 3), "steer")
    pen.rectangle((left + 60, y, left + 260, y + 10), outline=DIM)
    pen.rectangle((min(middle, end), y, max(middle, end), y + 10), fill=GOAL)


def _unit(value: float, low: float) -> float:
    return float(np.clip(value, low, 1.0)) if np.isfinite(value) else 0.0


def _label(pen: Any, at: tuple[float, float], text: str, colour: Any = INK) -> None:
    pen.text(at, text[:60], fill=colour, font=_font())


def _font() -> Any:
    global _FONT
    if _FONT is None:
        from PIL import ImageFont

        _FONT = ImageFont.load_default(12)
    return _FONT


_FONT: Any = None
