"""A traced drive from above: around the car at one decision, or its whole route.

    roads      grey, junctions without lines; the line at which a traffic light holds cars in the
               light's colour; outlines of stop signs red, of crosswalks white
    route      blue, what is driven of it darker; the car's own way white
    driver     green: where it means to be, every half second; amber ring: the next point it is told
    others     vehicles cyan, bicycles violet, walkers yellow; their noses are marked
    crosses    infractions up to then

Drawn twice as large and made smaller, which takes 8 ms a picture of 480 x 480 on one core. Pillow is imported
when something is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.routes.plan import to_ego
from core.errors import UsageError, need

if TYPE_CHECKING:
    from apps.driving.evaluation.scores import Infraction
    from apps.driving.evaluation.trace import Tick, Trace

Colour = tuple[int, int, int]
GROUND, ROAD, EDGE, INK = (47, 53, 49), (92, 95, 101), (128, 131, 137), (238, 238, 238)
ROUTE, DRIVEN, WAY = (66, 135, 245), (44, 72, 118), (235, 235, 235)
MEANS, TOLD, WRONG = (80, 220, 120), (255, 190, 60), (255, 59, 48)
CAR: Colour = (255, 255, 255)
OTHERS: dict[str, Colour] = {
    "vehicle": (64, 200, 224),
    "bicycle": (190, 132, 255),
    "walker": (255, 221, 64),
}
LIGHTS: dict[str, Colour] = {"Red": WRONG, "Yellow": TOLD, "Green": (52, 199, 89)}
DARK: Colour = (20, 20, 22)

FINER = 2
CAR_M = (4.8, 2.1)  # length and width drawn for our car
SEEN_M = 1.1  # a walker of 0.4 m would be a dot
MARGIN_M = 15.0
LARGEST = 4096  # pixels along a side

Place = Callable[[Any], np.ndarray]
"""World points (..., 2) to pixels (..., 2)."""


def draw_above(
    trace: Trace, index: int, size: tuple[int, int] = (480, 480), reach: float = 40.0
) -> np.ndarray:
    """(height, width, 3) uint8 around the car at decision ``index``, its heading up.

    ``size`` (width, height) pixels; ``reach`` m from the car to the upper edge. UsageError for a size
    or a reach that will not do, IndexError where there is no such decision.
    """
    sheet = _Sheet(size)
    if not 5 <= reach <= 500:
        raise UsageError(f"reach {reach} m: give 5 to 500")
    tick = trace[index]
    index = range(len(trace))[index]
    scale = 0.7 * sheet.height / reach
    middle = np.array([sheet.width / 2, 0.7 * sheet.height])

    def place(points: Any) -> np.ndarray:
        local = to_ego(points, tick.position, tick.yaw)
        return middle + scale * np.stack([local[..., 1], -local[..., 0]], axis=-1)

    _roads(sheet, trace, place, scale)
    _signals(sheet, trace, tick, place, scale)
    _route(sheet, trace, index, place, scale)
    for other in tick.neighbours:
        box = _box(other.x, other.y, other.yaw, max(other.length, SEEN_M), max(other.width, SEEN_M))
        sheet.body(place(box), OTHERS.get(other.kind, INK))
    sheet.body(place(_box(*tick.position, tick.yaw, *CAR_M)), CAR)

    ahead = middle + scale * np.stack([tick.waypoints[:, 1], -tick.waypoints[:, 0]], axis=-1)
    sheet.line([middle, *ahead], MEANS, 2)
    for point in ahead:
        sheet.disc(point, 3.5, MEANS)
    target = middle + scale * np.array([tick.target[1], -tick.target[0]])
    sheet.ring(_inside(target, middle, sheet), 6, TOLD)
    _marks(sheet, [one for one in trace.infractions if one.time <= tick.time + 1e-6], place)
    sheet.measure(10.0, scale)
    return sheet.picture()


def draw_route(
    trace: Trace, index: int | None = None, size: tuple[int, int] = (480, 480)
) -> np.ndarray:
    """(height, width, 3) uint8: the whole route, and the car at decision ``index`` where given.

    The world's x points to the right and its y downwards. Infractions are those up to that decision,
    or all. Raises as ``draw_above``.
    """
    sheet = _Sheet(size)
    seen = np.concatenate([trace.meta.plan, _ways(trace)])
    low, high = seen.min(0) - MARGIN_M, seen.max(0) + MARGIN_M
    room = np.array([sheet.width, sheet.height])
    scale = float((room / (high - low)).min())
    corner = (room - scale * (high - low)) / 2

    def place(points: Any) -> np.ndarray:
        return corner + scale * (np.asarray(points, np.float64) - low)

    last = len(trace) - 1 if index is None else range(len(trace))[index]
    _roads(sheet, trace, place, scale)
    _route(sheet, trace, last, place, scale)
    for point, colour in ((trace.meta.plan[0], ROUTE), (trace.meta.plan[-1], ROUTE)):
        sheet.ring(place(point), 5, colour)
    found: Sequence[Infraction] = trace.infractions
    if index is not None:
        tick = trace[index]
        found = [one for one in found if one.time <= tick.time + 1e-6]
        sheet.arrow(place(tick.position), tick.yaw, CAR)
    _marks(sheet, found, place)
    sheet.measure(50.0, scale)
    return sheet.picture()


def _roads(sheet: _Sheet, trace: Trace, place: Place, scale: float) -> None:
    """Lanes with lines between them, and over these the junctions, which have none."""
    meta = trace.meta
    lanes = [(lane, place(lane.points)) for lane in meta.lanes]
    lanes = [(lane, at) for lane, at in lanes if sheet.sees(at, scale * lane.width)]
    for lane, at in lanes:
        sheet.line(at, EDGE, scale * (lane.width + 0.15))
    for junction in (False, True):
        for lane, at in lanes:
            if lane.junction == junction:
                sheet.line(at, ROAD, scale * (lane.width + (0.3 if junction else -0.15)))
    for outline in meta.crosswalks:
        sheet.outline(place(outline), INK)
    for outline in meta.stops:
        sheet.outline(place(outline), WRONG)


def _signals(sheet: _Sheet, trace: Trace, tick: Tick, place: Place, scale: float) -> None:
    for number, lines in trace.meta.lights.items():
        colour = LIGHTS.get(tick.lights.get(number, ""))
        for line in lines if colour else ():
            assert colour is not None
            sheet.line(place(line), colour, max(0.6 * scale, 3))


def _route(sheet: _Sheet, trace: Trace, index: int, place: Place, scale: float) -> None:
    """The plan, what is passed of it, and the car's way up to a decision."""
    plan = place(trace.meta.plan)
    passed = trace[index].index if len(trace) else 0
    wide = float(np.clip(0.5 * scale, 2.5, 5))
    sheet.line(plan[passed:], ROUTE, wide)
    sheet.line(plan[: passed + 1], DRIVEN, wide)
    sheet.line(place(_ways(trace)[: index + 1]), WAY, 1.5)


def _marks(sheet: _Sheet, infractions: Sequence[Infraction], place: Place) -> None:
    for one in infractions:
        sheet.cross(place(one.position), 6, WRONG)


def _ways(trace: Trace) -> np.ndarray:
    """(n, 2): where the car has been."""
    return np.stack([trace.columns["x"], trace.columns["y"]], axis=-1)


def _box(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """(6, 2) in the world: four corners from the left front on, then the nose and the middle."""
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    local = 0.5 * np.array([[1, -1], [1, 1], [-1, 1], [-1, -1], [1, 0], [0.2, 0]])
    local = local * (length, width)
    return np.array([x, y]) + local @ np.array([[c, s], [-s, c]])


def _inside(point: np.ndarray, middle: np.ndarray, sheet: _Sheet, edge: float = 10) -> np.ndarray:
    """A point, or where the way to it leaves the picture."""
    way = point - middle
    room = np.where(way > 0, [sheet.width - edge, sheet.height - edge], edge) - middle
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(way != 0, room / way, np.inf)
    return np.asarray(middle + min(1.0, float(np.min(share))) * way)


class _Sheet:
    """Paper of ``size`` (width, height); everything is given in its pixels, and may lie outside."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.width, self.height = (int(side) for side in size)
        if not (32 <= self.width <= LARGEST and 32 <= self.height <= LARGEST):
            raise UsageError(f"size {size}: give 32 to {LARGEST} pixels along each side")
        image, drawing = need("PIL.Image", "driving"), need("PIL.ImageDraw", "driving")
        self._image = image.new("RGB", (FINER * self.width, FINER * self.height), GROUND)
        self._pen: Any = drawing.Draw(self._image)

    def sees(self, points: np.ndarray, margin: float) -> bool:
        """Whether a bounding box with a margin meets the sheet."""
        low, high = points.min(0) - margin, points.max(0) + margin
        return bool((high > 0).all() and (low < (self.width, self.height)).all())

    def line(self, points: Any, colour: Colour, width: float) -> None:
        found = _drawable(points)
        if len(found) >= 2:
            self._pen.line(found, fill=colour, width=max(1, round(FINER * width)), joint="curve")

    def outline(self, points: np.ndarray, colour: Colour) -> None:
        self.line([*points, points[0]], colour, 1)

    def body(self, box: np.ndarray, colour: Colour) -> None:
        """A box with a line from its middle to its nose."""
        corners = _drawable(box[:4])
        if len(corners) == 4:
            self._pen.polygon(corners, fill=colour, outline=DARK)
            self.line(box[4:], DARK, 1)

    def disc(self, at: np.ndarray, radius: float, colour: Colour) -> None:
        self._round(at, radius, fill=colour, outline=DARK)

    def ring(self, at: np.ndarray, radius: float, colour: Colour) -> None:
        self._round(at, radius, outline=colour, width=round(2 * FINER))

    def _round(self, at: np.ndarray, radius: float, **style: Any) -> None:
        for x, y in _drawable([at]):
            r = FINER * radius
            self._pen.ellipse((x - r, y - r, x + r, y + r), **style)

    def cross(self, at: np.ndarray, reach: float, colour: Colour) -> None:
        """Two strokes with a dark rim, which is seen on everything."""
        for fill, width in ((DARK, 6.0), (colour, 3.0)):
            for dx, dy in ((reach, reach), (reach, -reach)):
                self.line([at - (dx, dy), at + (dx, dy)], fill, width)

    def arrow(self, at: np.ndarray, yaw: float, colour: Colour) -> None:
        """A dart that points along ``yaw`` (degrees)."""
        c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
        local = np.array([[10, 0], [-6, -6], [-3, 0], [-6, 6]]) @ np.array([[c, s], [-s, c]])
        corners = _drawable(at + local)
        if len(corners) == 4:
            self._pen.polygon(corners, fill=colour, outline=DARK)

    def measure(self, metres: float, scale: float) -> None:
        """A bar of so many metres in the lower left corner."""
        y, long = self.height - 12, metres * scale
        self.line([(12, y), (12 + long, y)], INK, 2)
        for x in (12, 12 + long):
            self.line([(x, y - 4), (x, y + 4)], INK, 2)
        font = need("PIL.ImageFont", "driving").load_default(12 * FINER)
        self._pen.text((FINER * 12, FINER * (y - 20)), f"{metres:g} m", fill=INK, font=font)

    def picture(self) -> np.ndarray:
        """(height, width, 3) uint8."""
        return np.asarray(self._image.reduce(FINER))


def _drawable(points: Any) -> list[tuple[float, float]]:
    """What is a number and not absurdly far away, in the finer pixels."""
    found = FINER * np.asarray(points, np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        found = found[np.isfinite(found).all(-1) & (np.abs(found) < 1e5).all(-1)]
    return [(float(x), float(y)) for x, y in found]
