"""Outlines of painted marks: sizes, places and sides."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.townscape.stencils import arrow, bars, sides, teeth, zebra


def test_bars_of_a_zebra_are_half_a_metre_wide_whatever_its_turn() -> None:
    outline = np.array([[0, 0], [12, 0], [12, 3], [0, 3]], float)
    for angle in (0.0, 0.4, 2.0, -1.2):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        quads = zebra(outline @ turn.T + 7.0)
        assert len(quads) == 12
        sides = np.linalg.norm(quads - np.roll(quads, -1, 1), axis=2)
        np.testing.assert_allclose(np.sort(sides, axis=1), [[0.5, 0.5, 3.0, 3.0]] * 12, atol=1e-9)


def test_bars_have_the_width_asked_for() -> None:
    quad = bars(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), 2.0)[0]
    sides = np.linalg.norm(quad - np.roll(quad, -1, 0), axis=1)
    np.testing.assert_allclose(sides, [5.0, 2.0, 5.0, 2.0])


def test_sides_of_a_crosswalk_are_its_long_edges() -> None:
    found = sides(np.array([[0, 0], [12, 0], [12, 3], [0, 3]], float), 0.3)
    assert len(found) == 2
    heights = sorted((q[:, 1].min().round(9), q[:, 1].max().round(9)) for q in found)
    assert heights == [(0.0, 0.3), (2.7, 3.0)]
    assert found[..., 0].min() == pytest.approx(0)
    assert found[..., 0].max() == pytest.approx(12)


def test_teeth_point_to_the_left_of_their_line_and_stay_on_it() -> None:
    found = teeth(np.array([0.0, 0.0]), np.array([3.0, 0.0]))
    assert len(found) == 4
    # The frame is left-handed: left of +x is -y.
    np.testing.assert_allclose(found[:, 2:, 1], -0.6)
    np.testing.assert_allclose(found[:, :2, 1], 0.0)
    assert 0 <= found[..., 0].min() < found[..., 0].max() <= 3.0
    assert found[..., 0].mean() == pytest.approx(1.5)


@pytest.mark.parametrize("yaw", [0.0, 1.0, -2.5])
def test_an_arrow_points_where_its_lane_leads(yaw: float) -> None:
    place = np.array([10.0, -4.0])
    ahead, right = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])

    def reach(turns: set[int]) -> tuple[float, float, float]:
        off = arrow(place, yaw, turns).reshape(-1, 2) - place
        return (off @ ahead).max(), (off @ right).min(), (off @ right).max()

    assert reach({0}) == pytest.approx((5.0, -0.32, 0.32))
    assert reach({1}) == pytest.approx((3.2, -0.1, 1.15))
    assert reach({-1}) == pytest.approx((3.2, -1.15, 0.1))
    assert reach({-1, 0, 1}) == pytest.approx((5.0, -1.15, 1.15))
