"""The navigation mesh that CARLA's client loads to walk pedestrians: a Recast/Detour file.

CARLA's client runs AI walkers itself (LibCarla/source/carla/nav/Navigation.cpp): it asks the server
for a file, loads it into Detour and from then on finds random places and paths on its own. The file
is a set header ("MSET", version 1) and one Detour tile ("DNAV", version 7), as in recastnavigation's
RecastDemo/Source/Sample.cpp and Detour/Include/DetourNavMesh.h; links and heights are found on
loading. Areas and flags are those of LibCarla/source/carla/nav/Navigation.h. Detour's axes are
x, up, y of CARLA's; the mesh lies at height 0.

There is one tile always: it holds 32,766 polygons and 65,534 corners, and Town01 takes 1,922 and
2,703 (295 kB, made in 0.4 s), Town04 3,049 and 4,917 (480 kB, 0.6 s). In one tile random places are
spread evenly over the pavements; of several tiles Detour takes each as often, whatever it holds.

Deviates from CARLA's own meshes, which Recast builds from a town's geometry: areas come from the
OpenDRIVE lanes and crosswalk outlines, so they are exact but know no obstacle on a pavement.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.maps.convex import Polygon, Ring, area, conform
from core.errors import DataError

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network

AREAS = {"sidewalk": 1, "crosswalk": 2, "road": 3, "grass": 4}
"""Detour's area number of each kind; its flag is the bit of that number (Navigation.h: NavAreas,
SamplePolyFlags). Random places lie on sidewalks; walkers that may not cross avoid roads."""

CORNERS = 6  # DT_VERTS_PER_POLYGON
MOST_POLYGONS = 0x7FFE  # a neighbour is stored as its number + 1, and bit 15 says "another tile"
MOST_CORNERS = 0xFFFE  # dtCreateNavMeshData refuses 65,535
AGENT_HEIGHT, AGENT_RADIUS, AGENT_CLIMB = 1.8, 0.3, 0.3
"""Metres. The first two are Navigation.cpp's; a flat mesh leaves nothing to climb."""
_REACH_M = 1e5
"""A corner farther from the origin than this is a mistake: float32 has 8 mm there."""

_POLYGON = np.dtype(
    [
        ("first_link", "<u4"),
        ("corners", "<u2", CORNERS),
        ("neighbours", "<u2", CORNERS),
        ("flags", "<u2"),
        ("count", "u1"),
        ("area_and_type", "u1"),
    ]
)
_DETAIL = np.dtype(
    [("corner_base", "<u4"), ("base", "<u4"), ("corners", "u1"), ("count", "u1"), ("pad", "<u2")]
)
_NODE = np.dtype([("low", "<u2", 3), ("high", "<u2", 3), ("i", "<i4")])
_LINK_BYTES = 12  # dtLink with 32-bit references; Detour fills them in
_SET_HEADER = struct.Struct("<4sii3fffii")
_TILE_PREFIX = struct.Struct("<Ii")
_TILE_HEADER = struct.Struct("<4s14i3f3f3ff")


def navigation_mesh(areas: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """The file for convex polygons (n, 2), in CARLA's metres, each with its kind.

    Where areas overlap the earlier one holds. Areas whose edges touch are joined, however many of
    them meet along an edge. Same areas, same bytes. Raises DataError naming the area that is not
    convex or not finite, and where there is nothing to walk on or too much for one tile.
    """
    polygons = [_checked(k, kind, polygon) for k, (kind, polygon) in enumerate(areas)]
    corners, rings, origin, beyond = conform(polygons, CORNERS) if polygons else _NOTHING
    if not rings:
        raise DataError("navigation mesh: no area to walk on; the town has neither roads nor paths")
    if len(rings) > MOST_POLYGONS or len(corners) > MOST_CORNERS:
        raise DataError(
            f"navigation mesh: {len(rings)} polygons with {len(corners)} corners, and a tile holds "
            f"{MOST_POLYGONS} with {MOST_CORNERS}; take a smaller part of the town"
        )
    numbers = np.array([AREAS[areas[k][0]] for k in origin])
    # The margin keeps queries at the rim inside the tile.
    low, high = corners.min(0) - 1.0, corners.max(0) + 1.0
    tile = _tile(corners, rings, beyond, numbers, low, high)
    # A reference is salt, tile, polygon; the only tile has number 0 of 0 bits, and salt 1.
    polygon_bits = max(len(rings) - 1, 1).bit_length()
    size = (high - low).tolist()
    header = _SET_HEADER.pack(
        b"TESM", 1, 1, float(low[0]), 0.0, float(low[1]), *size, 1, 1 << polygon_bits
    )
    return header + _TILE_PREFIX.pack(1 << polygon_bits, len(tile)) + tile


def town_mesh(network: Network) -> bytes:
    """The file for a town. A pure function of its roads: same town, same bytes.

    A town too large for one tile, some ten times Town04, gives up its roadways: its walkers keep
    to pavements and crossings. Raises DataError where that is not enough.
    """
    from apps.driving.world.maps.walkable import walkable_areas

    areas = walkable_areas(network.roads, network.crosswalks, network.sidewalk)
    # Cutting and splitting makes 1.1 polygons of an area in Town01, 1.4 in generated towns.
    if 1.6 * len(areas) > MOST_POLYGONS:
        areas = [(kind, polygon) for kind, polygon in areas if kind != "road"]
    return navigation_mesh(areas)


def file_name(town: str, data: bytes) -> str:
    """What the server calls the file. Clients keep a file by its name and never ask again, so the
    name changes with the contents."""
    safe = "".join(c if c.isalnum() or c in "_-" else "_" for c in town)
    return f"Carla/Maps/Nav/{safe}-{zlib.crc32(data):08x}.bin"


_NOTHING: tuple[np.ndarray, list[Ring], list[int], np.ndarray] = (
    np.zeros((0, 2)),
    [],
    [],
    np.zeros((0, CORNERS), np.int32),
)


def _checked(number: int, kind: str, polygon: np.ndarray) -> Polygon:
    """A polygon as (x, y) pairs in the order that rings have; DataError where it is none."""
    name = f"area {number} ({kind})"
    if kind not in AREAS:
        raise DataError(f"{name}: unknown kind; known are {', '.join(AREAS)}")
    try:
        points = np.asarray(polygon, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{name}: corners must be numbers, (n, 2)") from None
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise DataError(f"{name}: wants (n, 2) corners, n >= 3, got shape {points.shape}")
    if not np.isfinite(points).all() or np.abs(points).max() > _REACH_M:
        raise DataError(f"{name}: corners must be finite and within 100 km of the origin")
    corners = [(float(x), float(y)) for x, y in points]
    if area(corners) > 0:
        corners.reverse()
    size = -area(corners)
    ahead = np.roll(corners, -1, axis=0) - corners
    beyond = np.roll(ahead, -1, axis=0)
    turn = ahead[:, 0] * beyond[:, 1] - ahead[:, 1] * beyond[:, 0]
    # How far each corner lies inside the line between the corners beside it, in metres, and how
    # often the edge turns around: a star turns twice.
    dent = turn / np.maximum(np.hypot(*(ahead + beyond).T), 1e-9)
    turns = abs(np.arctan2(turn, (ahead * beyond).sum(1)).sum()) / (2 * np.pi)
    if size < 1e-4 or dent.max() > 1e-3 or turns > 1.1:
        raise DataError(f"{name}: not a convex polygon; give its corners in order, without dents")
    return corners


def _tile(
    corners: np.ndarray,
    rings: Sequence[Ring],
    beyond: np.ndarray,
    numbers: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> bytes:
    """One tile: header, corners, polygons, room for links, a fan of triangles per polygon and a
    tree of boxes."""
    counts = np.array([len(ring) for ring in rings])
    polygons = np.zeros(len(rings), _POLYGON)
    for row, ring in zip(polygons["corners"], rings, strict=True):
        row[: len(ring)] = ring
    polygons["neighbours"] = beyond + 1  # 0: a wall
    polygons["flags"] = 1 << numbers
    polygons["count"] = counts
    polygons["area_and_type"] = numbers  # type 0: ground

    triangles = counts - 2
    details = np.zeros(len(rings), _DETAIL)
    details["base"] = np.cumsum(triangles) - triangles
    details["count"] = triangles
    fans = np.zeros((int(triangles.sum()), 4), np.uint8)
    second = np.arange(len(fans)) - np.repeat(details["base"].astype(int), triangles) + 1
    fans[:, 1], fans[:, 2] = second, second + 1
    # Two bits per edge say which edges are the polygon's: always the outer one, and the two that
    # the first and last triangle add.
    fans[:, 3] = 4 + (second == 1) + 16 * (second == np.repeat(triangles, triangles))

    points = np.zeros((len(corners), 3), "<f4")
    points[:, [0, 2]] = corners
    extent = float((high - low).max())
    steps = min(10.0, 65000.0 / extent)  # 0.1 m, coarser for towns larger than 6.5 km
    tree = _tree(corners, rings, low, steps)
    links = int(counts.sum())
    header = _TILE_HEADER.pack(
        *(b"VAND", 7, 0, 0, 0, 0, len(rings), len(corners), links, len(rings), 0, len(fans)),
        *(len(tree), 0, len(rings)),
        *(AGENT_HEIGHT, AGENT_RADIUS, AGENT_CLIMB),
        *(float(low[0]), -1.0, float(low[1])),
        *(float(high[0]), 1.0, float(high[1])),
        steps,
    )
    parts = (points, polygons, b"\0" * (_LINK_BYTES * links), details, fans, tree)
    return header + b"".join(p if isinstance(p, bytes) else p.tobytes() for p in parts)


def _tree(corners: np.ndarray, rings: Sequence[Ring], low: np.ndarray, steps: float) -> np.ndarray:
    """Bounding boxes in preorder: leaves hold a polygon's number, inner nodes minus the number of
    nodes to skip where they are missed. Halved along the longer side, as dtCreateNavMeshData does.
    """
    flat = np.concatenate(rings)
    starts = np.cumsum([0, *(len(ring) for ring in rings[:-1])])
    scaled = (corners[flat] - low) * steps
    lows = np.floor(np.minimum.reduceat(scaled, starts)).astype(int)
    highs = np.ceil(np.maximum.reduceat(scaled, starts)).astype(int)
    nodes = np.zeros(2 * len(rings) - 1, _NODE)
    base = int(steps)  # height 0 is 1 m above the tile's floor
    nodes["low"][:, 1], nodes["high"][:, 1] = max(base - 1, 0), base + 1
    todo = [(0, np.arange(len(rings)))]
    while todo:
        at, items = todo.pop()
        bottom, top = lows[items].min(0), highs[items].max(0)
        nodes["low"][at, ::2], nodes["high"][at, ::2] = bottom, top
        if len(items) == 1:
            nodes["i"][at] = items[0]
            continue
        nodes["i"][at] = 1 - 2 * len(items)
        axis = int(top[1] - bottom[1] > top[0] - bottom[0])
        items = items[np.argsort(lows[items, axis], kind="stable")]
        half = len(items) // 2
        todo += [(at + 1, items[:half]), (at + 2 * half, items[half:])]
    return nodes
