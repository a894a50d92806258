"""The navigation mesh file: read back by a reader of its own here."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.driving.world.maps import navmesh
from apps.driving.world.maps.footways import find_crosswalks, find_footways
from apps.driving.world.maps.navmesh import file_name, navigation_mesh
from apps.driving.world.maps.roads import Roads
from apps.driving.world.maps.walkable import Area, walkable_areas
from apps.driving.world.town import Town
from core.errors import DataError


@dataclass
class Mesh:
    """What the file says, in CARLA's axes."""

    low: np.ndarray
    high: np.ndarray
    corners: np.ndarray  # (V, 3) as stored: x, height, y
    rings: list[list[int]]
    beyond: list[list[int]]  # per edge the neighbour, -1 a wall
    flags: np.ndarray
    area: np.ndarray
    nodes: list[tuple[int, ...]]
    steps: float

    def polygon(self, k: int) -> np.ndarray:
        return self.corners[self.rings[k]][:, [0, 2]]

    def depth(self, points: np.ndarray) -> np.ndarray:
        """(P, n) metres that points (n, 2) lie inside each polygon."""
        found = []
        for k in range(len(self.rings)):
            corners = self.polygon(k)
            ahead = np.roll(corners, -1, axis=0) - corners
            offset = points[:, None] - corners
            aside = ahead[:, 0] * offset[..., 1] - ahead[:, 1] * offset[..., 0]
            found.append((-aside / np.hypot(*ahead.T)).min(1))
        return np.array(found)


def read(data: bytes) -> Mesh:
    """Detour's layout, field by field (DetourNavMesh.h); fails on a byte too many or too few."""
    at = 0

    def take(layout: str) -> tuple[float, ...]:
        nonlocal at
        values = struct.unpack_from("<" + layout, data, at)
        at += struct.calcsize("<" + layout)
        return values

    def multi(text: bytes) -> int:
        return struct.unpack(">I", text)[0]

    magic, version, tiles, *params, most_tiles, most_polygons = take("Iii5fii")
    assert (magic, version, tiles, most_tiles) == (multi(b"MSET"), 1, 1, 1)
    reference, size = take("Ii")
    assert len(data) - at == size
    magic, version, x, y, layer, _, count, vertices, links, details, extra, triangles = take("12I")
    assert (magic, version, x, y, layer, details, extra) == (multi(b"DNAV"), 7, 0, 0, 0, count, 0)
    assert count <= most_polygons
    # Detour: salt above tile bits (none) above polygon bits; salt must not be 0.
    assert reference == most_polygons == 1 << (most_polygons.bit_length() - 1)
    tree, off_mesh, off_base = take("3I")
    assert (off_mesh, off_base) == (0, count)
    height, radius, _ = take("3f")
    assert (round(height, 3), round(radius, 3)) == (1.8, 0.3)
    low, high = np.array(take("3f")), np.array(take("3f"))
    (steps,) = take("f")
    np.testing.assert_allclose(params[:3:2], low[::2])
    np.testing.assert_allclose(params[3:], (high - low)[::2], rtol=1e-5)
    corners = np.array(take(f"{3 * vertices}f")).reshape(-1, 3)
    rings, beyond, flags, area = [], [], [], []
    for _ in range(count):
        _, *values, flag, n, kind = take("I12HHBB")
        rings.append([int(v) for v in values[:n]])
        beyond.append([int(v) - 1 for v in values[6 : 6 + int(n)]])
        assert not any(values[n:6])
        assert not any(values[6 + int(n) :])
        flags.append(flag)
        area.append(kind)
    assert links == sum(map(len, rings))
    at += 12 * links
    base = 0
    for ring in rings:
        assert take("IIBBH") == (0, base, 0, len(ring) - 2, 0)
        base += len(ring) - 2
    assert base == triangles
    for ring in rings:
        n = len(ring)
        for k in range(1, n - 1):
            edges = 4 | (1 if k == 1 else 0) | (16 if k == n - 2 else 0)
            assert take("4B") == (0, k, k + 1, edges)
    nodes = [take("6Hi") for _ in range(int(tree))]
    assert at == len(data)
    return Mesh(
        *(low, high, corners, rings, beyond, np.array(flags), np.array(area)),
        nodes,  # type: ignore[arg-type]
        steps,
    )


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


STREET: list[Area] = [
    ("sidewalk", box(0, 0, 20, 3)),
    ("sidewalk", box(0, 10, 20, 13)),
    ("crosswalk", box(8, 2, 12, 11)),
    ("road", box(0, 3, 20, 10)),
    ("grass", box(20, 0, 30, 13)),
]


@pytest.fixture(scope="module")
def town01_areas(samples: Path) -> list[Area]:
    roads = Roads.parse((samples / "Town01.xodr").read_text())
    crosswalks = find_crosswalks(roads)
    return walkable_areas(roads, crosswalks, find_footways(roads, crosswalks))


@pytest.fixture(scope="module")
def town01_mesh(town01_areas: list[Area]) -> Mesh:
    return read(navigation_mesh(town01_areas))


def test_a_street_reads_back() -> None:
    mesh = read(navigation_mesh(STREET))
    np.testing.assert_array_equal(mesh.corners[:, 1], 0.0)
    np.testing.assert_array_equal(mesh.flags, 1 << mesh.area)
    points = np.random.default_rng(0).uniform((-5, -5), (35, 20), (2000, 2))
    depth = mesh.depth(points)
    for (x, y), inside in zip(points, depth.T, strict=True):
        if np.abs(inside).min() < 1e-3:
            continue
        kind = 0
        if 0 < x < 20 and (0 < y < 3 or 10 < y < 13):
            kind = 1
        elif 8 < x < 12 and 3 < y < 10:
            kind = 2
        elif 0 < x < 20 and 3 < y < 10:
            kind = 3
        elif 20 < x < 30 and 0 < y < 13:
            kind = 4
        assert mesh.area[inside > 0].tolist() == ([kind] if kind else [])


def test_kinds_that_touch_are_joined() -> None:
    mesh = read(navigation_mesh(STREET))
    pairs = {
        (int(mesh.area[k]), int(mesh.area[m]))
        for k, row in enumerate(mesh.beyond)
        for m in row
        if m >= 0
    }
    assert {(1, 2), (2, 1), (1, 3), (3, 2), (1, 4), (4, 3)} <= pairs


def check_rings(mesh: Mesh) -> None:
    """Detour takes the inside to be to the right of each edge, and edges to be mutual."""
    for k, ring in enumerate(mesh.rings):
        corners = mesh.polygon(k)
        after = np.roll(corners, -1, axis=0)
        assert (corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum() < 0
        for edge, other in enumerate(mesh.beyond[k]):
            if other >= 0:
                theirs = mesh.rings[other]
                ends = (ring[(edge + 1) % len(ring)], ring[edge])
                assert ends in {
                    (theirs[i], theirs[(i + 1) % len(theirs)])
                    for i, back in enumerate(mesh.beyond[other])
                    if back == k
                }


def test_town_rings_run_one_way_and_edges_are_mutual(town01_mesh: Mesh) -> None:
    check_rings(town01_mesh)


def query(mesh: Mesh, low: np.ndarray, high: np.ndarray) -> set[int]:
    """The polygons that Detour's walk over the tree finds near a box (dtNavMesh's
    queryPolygonsInTile): quantised, low ends made even, high ends odd."""
    tile_low, tile_high = mesh.low, mesh.high
    a = (np.clip(low, tile_low, tile_high) - tile_low) * mesh.steps
    b = (np.clip(high, tile_low, tile_high) - tile_low) * mesh.steps
    first, last = a.astype(int) & ~1, (b + 1).astype(int) | 1
    found, at = set(), 0
    while at < len(mesh.nodes):
        node = np.array(mesh.nodes[at])
        overlap = (first <= node[3:6]).all() and (last >= node[:3]).all()
        if overlap and node[6] >= 0:
            found.add(int(node[6]))
        at += 1 if overlap or node[6] >= 0 else -int(node[6])
    return found


def test_the_tree_finds_every_polygon_near(town01_mesh: Mesh) -> None:
    mesh = town01_mesh
    bounds = np.array(
        [[mesh.polygon(k).min(0), mesh.polygon(k).max(0)] for k in range(len(mesh.rings))]
    )
    draw = np.random.default_rng(0)
    for _ in range(40):
        middle = draw.uniform(mesh.low[::2] - 20, mesh.high[::2] + 20)
        reach = draw.uniform(0, 20)
        low, high = middle - reach, middle + reach
        near = (bounds[:, 0] <= high).all(1) & (bounds[:, 1] >= low).all(1)
        up = draw.uniform(-1.0, 1.0)
        found = query(
            mesh, np.array([low[0], up - 2, low[1]]), np.array([high[0], up + 2, high[1]])
        )
        assert set(np.flatnonzero(near).tolist()) <= found
        assert len(found) <= near.sum() + 25


def test_the_tree_is_whole(town01_mesh: Mesh) -> None:
    """Every inner node is followed by its two children, holds their boxes and knows its end."""
    nodes, leaves = town01_mesh.nodes, []

    def end(at: int) -> int:
        *box, number = nodes[at]
        if number >= 0:
            leaves.append(number)
            return at + 1
        middle = end(at + 1)
        for child in (at + 1, middle):
            assert all(a <= b for a, b in zip(box[:3], nodes[child][:3], strict=True))
            assert all(a >= b for a, b in zip(box[3:], nodes[child][3:6], strict=True))
        last = end(middle)
        assert last == at - number
        return last

    assert end(0) == len(nodes)
    assert sorted(leaves) == list(range(len(town01_mesh.rings)))


def components(mesh: Mesh, kinds: set[int]) -> list[float]:
    """Areas (m^2) of what hangs together by edges among polygons of some kinds."""
    label = {k: k for k in range(len(mesh.rings)) if int(mesh.area[k]) in kinds}

    def root(k: int) -> int:
        while label[k] != k:
            label[k] = label[label[k]]
            k = label[k]
        return k

    for k in label:
        for other in mesh.beyond[k]:
            if other in label:
                label[root(k)] = root(other)
    total: dict[int, float] = {}
    for k in label:
        corners = mesh.polygon(k)
        after = np.roll(corners, -1, axis=0)
        size = (corners[:, 1] * after[:, 0] - corners[:, 0] * after[:, 1]).sum() / 2
        total[root(k)] = total.get(root(k), 0.0) + size
    return sorted(total.values(), reverse=True)


def test_one_can_walk_all_over_town01_without_a_roadway(town01_mesh: Mesh) -> None:
    walk = components(town01_mesh, {1, 2})
    assert len(walk) == 1
    assert 19_000 < walk[0] < 20_000
    assert len(components(town01_mesh, {1, 2, 3})) == 1
    assert len(components(town01_mesh, {1})) > 1  # so crossings are needed


def test_a_tile_holds_town01(town01_areas: list[Area]) -> None:
    data = navigation_mesh(town01_areas)
    assert navigation_mesh(town01_areas) == data
    assert len(data) < 400_000
    assert len(read(data).rings) < 2_500


def test_file_names_follow_the_contents() -> None:
    one, other = navigation_mesh(STREET), navigation_mesh(STREET[:3])
    assert file_name("Town01", one) == file_name("Town01", navigation_mesh(STREET))
    assert file_name("Town01", one) != file_name("Town01", other)
    assert file_name("../../etc", one).startswith("Carla/Maps/Nav/______etc-")


BAD = {
    "unknown kind": ("lawn", box(0, 0, 1, 1)),
    "wants .* shape": ("road", np.zeros((2, 2))),
    "shape .*3, 3": ("road", np.zeros((3, 3))),
    "not a convex polygon": ("road", np.array([(0, 0), (4, 0), (1, 1), (0, 4.0)])),
    "convex": ("road", np.array([(0, 0), (1, 1), (1, 0), (0, 1.0)])),
    "convex polygon; give": ("road", np.zeros((4, 2))),
    "finite": ("road", np.array([(0, 0), (1, 0), (1, np.nan)])),
    "100 km": ("road", box(0, 0, 1, 1e9)),
    "numbers": ("road", [("a", "b")] * 3),
}


@pytest.mark.parametrize("message", BAD)
def test_malformed_areas_are_refused(message: str) -> None:
    with pytest.raises(DataError, match=message):
        navigation_mesh([STREET[0], BAD[message]])  # type: ignore[list-item]


def test_a_star_is_no_convex_polygon() -> None:
    angles = np.arange(5) * 4 * np.pi / 5
    with pytest.raises(DataError, match=r"area 0 \(grass\)"):
        navigation_mesh([("grass", np.stack([np.cos(angles), np.sin(angles)], 1))])


def test_nothing_to_walk_on_is_refused() -> None:
    with pytest.raises(DataError, match="no area to walk on"):
        navigation_mesh([])
    with pytest.raises(DataError, match="no area to walk on"):
        navigation_mesh([("road", box(0, 0, 0.5, 0.5))])


def test_too_much_for_a_tile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(navmesh, "MOST_POLYGONS", 3)
    with pytest.raises(DataError, match="a tile holds 3 with"):
        navigation_mesh(STREET)


ACROSS = (84.2, 262.0, 96.6, 262.0)
"""Two places of Town01, one on each side of a street, 60 m from the nearest crossing: a roadway costs
ten times its width (Navigation.cpp: AREA_ROAD_COST), which is less than the way around."""


@pytest.fixture(scope="module")
def walked(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What CARLA's own client makes of the file: navmesh_client.py in a process of its own, since
    a bad file ends the client's process."""
    pytest.importorskip("carla")
    from apps.driving.world.server import serve

    program = Path(__file__).with_name("navmesh_client.py")
    cache = str(tmp_path_factory.mktemp("cache"))
    with serve(samples / "Town01.xodr", synchronous=True) as port:
        done = subprocess.run(
            [sys.executable, str(program), str(port), *map(str, ACROSS)],
            env=os.environ | {"CARLA_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, f"the client ended by {done.returncode}: {done.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_carla_finds_random_places_on_pavements(town01_mesh: Mesh, walked: dict[str, Any]) -> None:
    places = np.array(walked["random"])
    inside = town01_mesh.depth(places) > -1e-3
    assert inside[town01_mesh.area == 1].any(0).all()
    assert np.ptp(places, axis=0).min() > 250
    np.testing.assert_allclose(walked["height"], 0.0, atol=1e-6)
    assert walked["same_seed"] == walked["random"]
    assert walked["other_seed"] != walked["random"]


def test_carlas_walkers_reach_their_goals(walked: dict[str, Any]) -> None:
    for path, goal in zip(walked["paths"][:5], walked["goals"], strict=False):
        assert np.hypot(*(np.array(path) - goal).T).min() < 1.5
        assert np.hypot(*np.diff(path, axis=0).T).sum() > 0.9 * 1.5 * 40
    slow = np.hypot(*np.diff(walked["paths"][5], axis=0).T) / 0.05
    assert np.percentile(slow, 90) == pytest.approx(0.7, abs=0.05)
    assert walked["gone"]


def test_carlas_walkers_keep_to_what_they_may_walk_on(
    town01_mesh: Mesh, walked: dict[str, Any]
) -> None:
    for path in walked["paths"][:7]:
        inside = town01_mesh.depth(np.array(path)) > -0.1
        assert inside[town01_mesh.area <= 2].any(0).all()


def test_only_who_may_cross_crosses_a_roadway(town01_mesh: Mesh, walked: dict[str, Any]) -> None:
    goal = np.array(ACROSS[2:])
    ends = town01_mesh.depth(np.array(ACROSS).reshape(2, 2)) > 0
    assert ends[town01_mesh.area == 1].any(0).all()
    around, across = (np.array(path) for path in walked["paths"][6:])
    arrived = [int(np.argmax(np.hypot(*(p - goal).T) < 1.5)) for p in (around, across)]
    assert arrived[1] > 0
    assert arrived[0] == 0  # on its way around, 140 m, when 40 s are over
    on_road = town01_mesh.depth(across[: arrived[1]])[town01_mesh.area == 3] > 0.1
    assert on_road.any(0).sum() > 60


def test_a_town_too_large_gives_up_its_roadways(
    town01: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(navmesh.town_mesh(town01.network))
    assert set(whole.area.tolist()) == {1, 2, 3}
    monkeypatch.setattr(navmesh, "MOST_POLYGONS", len(whole.rings) - 1)
    part = read(navmesh.town_mesh(town01.network))
    assert set(part.area.tolist()) == {1, 2}
    assert components(part, {1, 2}) == pytest.approx(components(whole, {1, 2}), rel=1e-3)
    monkeypatch.setattr(navmesh, "MOST_POLYGONS", 100)
    with pytest.raises(DataError, match="a tile holds 100"):
        navmesh.town_mesh(town01.network)
