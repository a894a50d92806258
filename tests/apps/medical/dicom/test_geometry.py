"""Order, spacing and what is no grid, from positions alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.medical.dicom.geometry import NoGrid, one_plane, orientation_name, places, stack
from apps.medical.dicom.headers import Frame

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def frames(heights, orientation=(1, 0, 0, 0, 1, 0), spacing=(0.5, 0.8), beside=(0.0, 0.0, 0.0)):
    """Frames at these heights along the normal; each next one moved by ``beside`` (LPS mm)."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    across = np.cross(row, column)
    start = np.array([-30.0, 12.0, 5.0])
    return [
        Frame(
            file=Path(f"{k}.dcm"), number=0, sop_uid=str(k), spacing=spacing,
            position=tuple(start + h * across + k * np.array(beside)),
            orientation=tuple(float(v) for v in orientation),
        )
        for k, h in enumerate(heights)
    ]  # fmt: skip


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), OBLIQUE])
def test_the_affine_is_the_standards_equation(orientation) -> None:
    """PS3.3 equation C.7.6.2.1-1, term by term, for voxels of a shuffled series."""
    given = frames([4.0, 0.0, 2.0, 6.0], orientation)
    one_plane(given)
    grid = stack(given)
    assert [frame.sop_uid for frame in grid.frames] == ["1", "2", "0", "3"]
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for k, frame in enumerate(grid.frames):
        for i, j in ((0, 0), (7, 0), (0, 5), (3, 11)):
            # columns are 0.8 mm apart (second value of Pixel Spacing), rows 0.5 mm (the first)
            lps = np.array(frame.position) + row * 0.8 * i + column * 0.5 * j
            ras = grid.affine @ [i, j, k, 1]
            np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-9)
    np.testing.assert_allclose(grid.spacing, (0.8, 0.5, 2.0), rtol=1e-6)
    # LPS to RAS is a half turn, so row, column and slice stay right-handed.
    assert np.linalg.det(grid.affine[:3, :3]) > 0


def test_missing_slices_are_counted_and_placed() -> None:
    with pytest.raises(NoGrid, match=r"lacks 1 slice: 6 mm between slices 3 and 4 .* 3 mm apart"):
        stack(frames([0, 3, 6, 12, 15]))
    with pytest.raises(NoGrid, match="lacks 3 slices"):
        stack(frames([0, 3, 6, 12, 15, 24, 27, 30]))


def test_unequal_steps() -> None:
    with pytest.raises(NoGrid, match=r"unequal steps between slices, 2 to 4\.4 mm"):
        stack(frames([0, 2, 5, 9.4, 12]))
    with pytest.raises(NoGrid, match="unequal"):  # each step within a fifth, their sum far off
        stack(frames(np.cumsum([1.0] * 10 + [1.15] * 10)))


def test_positions_rounded_by_the_scanner_pass_with_a_note() -> None:
    heights = [round(1.25 * k, 1) for k in range(20)]
    grid = stack(frames(heights))
    assert grid.spacing[2] == pytest.approx(np.mean(np.diff(heights)))
    assert "from even places" in grid.notes[0]
    assert stack(frames([1.25 * k for k in range(20)])).notes == ()


def test_duplicates() -> None:
    with pytest.raises(NoGrid, match="5 slices at 4 places"):
        stack(frames([0, 1, 2, 2.001, 3]))
    assert places(frames([0, 1, 2, 2.001, 3])) == 4


def test_gantry_tilt_is_named_with_its_angle() -> None:
    step = 5.0
    tilt = np.radians(15)
    given = frames([step * k for k in range(20)], beside=(0, step * np.tan(tilt), 0))
    with pytest.raises(NoGrid, match=r"gantry tilt of 15\.0 degrees"):
        stack(given)
    # A drift of a tenth of a voxel over the whole stack is rounding, and is kept in the affine.
    grid = stack(frames([step * k for k in range(20)], beside=(0, 0.0025, 0)))
    np.testing.assert_allclose((grid.affine @ [0, 0, 19, 1])[:2], [30, -12 - 19 * 0.0025])


def test_slices_shifted_beside_each_other() -> None:
    given = frames([0, 1, 2, 3])
    moved = given[1].position
    given[1] = Frame(**{**vars(given[1]), "position": (moved[0] + 3, moved[1], moved[2])})
    with pytest.raises(NoGrid, match="shifted beside each other by up to 3 mm"):
        stack(given)


def test_one_slice() -> None:
    with pytest.raises(NoGrid, match="one slice only"):
        stack(frames([0]))


def test_what_has_no_place_or_several_planes() -> None:
    (lost,) = frames([0])
    for change in ({"position": None}, {"orientation": None}):
        with pytest.raises(NoGrid, match="its place is unknown"):
            one_plane([Frame(**{**vars(lost), **change})])
    with pytest.raises(NoGrid, match="no Pixel Spacing"):
        one_plane([Frame(**{**vars(lost), "spacing": None})])
    with pytest.raises(NoGrid, match="no pair of perpendicular units"):
        one_plane(frames([0], (1, 0, 0, 1, 0, 0)))
    with pytest.raises(NoGrid, match="no pair of perpendicular units"):
        one_plane(frames([0], (0, 0, 0, 0, 0, 0)))
    planes = frames([0]) + frames([0], (0, 1, 0, 0, 0, -1)) + frames([0], (1, 0, 0, 0, 0, -1))
    with pytest.raises(NoGrid, match="3 orientations"):
        one_plane(planes)
    with pytest.raises(NoGrid, match="different Pixel Spacing"):
        one_plane(frames([0]) + frames([1], spacing=(0.5, 0.9)))
    with pytest.raises(NoGrid, match="Pixel Spacing of 0 mm"):
        one_plane(frames([0, 1], spacing=(0.0, 0.9)))


@pytest.mark.parametrize(
    ("direction", "name"),
    [
        ((0, 0, 1), "axial"),
        ((0, 0, -1), "axial"),
        ((0, 1, 0), "coronal"),
        ((-1, 0, 0), "sagittal"),
        ((0, 0.3, 0.95), "oblique axial"),
        ((0.1, -0.9, 0.2), "oblique coronal"),
    ],
)
def test_names_of_orientations(direction, name) -> None:
    unit = np.array(direction) / np.linalg.norm(direction)
    assert orientation_name(unit) == name
