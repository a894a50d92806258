"""From frames with places to a grid: order along the normal, spacing, and what is no grid.

PS3.3 C.7.6.2.1.1: the centre of the voxel in column i and row j of a frame lies at
p = position + row * spacing_columns * i + column * spacing_rows * j, in LPS+ mm, where ``row`` and
``column`` are the direction cosines. Frames are ordered by p . n, n = row x column, so the array's
last axis runs along n and the first three form a right-handed system in LPS. The step from frame to
frame is measured from the positions; Slice Thickness and Spacing Between Slices are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apps.medical.dicom.headers import Frame

SAME_DIRECTION = 1e-3  # direction cosines are often written with 4 digits
SAME_PLACE = 0.01  # mm
UNEVEN = 0.1  # of a step, by which a frame may miss its place: positions rounded to 0.1 mm pass
SHIFTED = 0.5  # of a voxel, by which a frame may lie beside the line through the first and last
TILTED = 0.5  # degrees between the stack's direction and the frames' normal
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NoGrid(Exception):
    """Why frames make no volume, in words that follow "series ...: "."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames in order along the normal, and the grid they make: 4 x 4 to RAS+ mm, spacing (x, y, z)."""

    frames: tuple[Frame, ...]
    affine: np.ndarray
    spacing: tuple[float, float, float]
    notes: tuple[str, ...] = ()


def normal(frame: Frame) -> np.ndarray:
    """Unit vector (3) of the frame's plane, row x column, in LPS. NoGrid where there is none."""
    if frame.orientation is None or frame.position is None:
        raise NoGrid("has no Image Position and Orientation (Patient): its place is unknown")
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise NoGrid("has an Image Orientation (Patient) that is no pair of perpendicular units")
    across = np.cross(row, column)
    return across / np.linalg.norm(across)


def orientation_name(direction: np.ndarray) -> str:
    """axial, coronal or sagittal by the nearest axis; "oblique ..." beyond 1 degree from it."""
    axis = int(np.abs(direction).argmax())
    name = ("sagittal", "coronal", "axial")[axis]
    return name if abs(direction[axis]) > np.cos(np.radians(1)) else f"oblique {name}"


def one_plane(frames: Sequence[Frame]) -> None:
    """NoGrid unless all frames are parallel, turned alike, and have voxels of one size."""
    for frame in frames:
        normal(frame)
    directions = np.array([frame.orientation for frame in frames])
    if np.abs(directions - directions[0]).max() > SAME_DIRECTION:
        found = len(np.unique(directions.round(2), axis=0))
        raise NoGrid(
            f"has slices in {found} orientations (a localizer or a radial scan), not one volume"
        )
    if any(frame.spacing is None for frame in frames):
        raise NoGrid("has no Pixel Spacing: its size is unknown")
    sizes = np.array([frame.spacing for frame in frames])
    if (sizes <= 0).any():
        raise NoGrid(f"has a Pixel Spacing of {sizes.min():g} mm")
    if np.abs(sizes / sizes[0] - 1).max() > 1e-3:
        raise NoGrid(
            f"has slices of different Pixel Spacing ({sizes.min():g} to {sizes.max():g} mm)"
        )


def heights(frames: Sequence[Frame]) -> np.ndarray:
    """Each frame's place along the first one's normal, in mm."""
    return np.array([frame.position for frame in frames]) @ normal(frames[0])


def places(frames: Sequence[Frame]) -> int:
    """How many different places along the normal the frames have."""
    return int((np.diff(np.sort(heights(frames))) > SAME_PLACE).sum()) + 1


def stack(frames: Sequence[Frame]) -> Stack:
    """The grid of frames that ``one_plane`` lets pass. NoGrid where slices are missing, doubled,
    unequally spaced, shifted or tilted, or where there is only one."""
    if len(frames) < 2:
        raise NoGrid("has one slice only, a volume needs a stack; give the whole series")
    height = heights(frames)
    order = np.argsort(height, kind="stable")
    ordered, height = [frames[k] for k in order], height[order]
    steps = np.diff(height)
    if steps.min() <= SAME_PLACE:
        count = int((steps <= SAME_PLACE).sum())
        raise NoGrid(
            f"has {len(steps) + 1} slices at {len(steps) + 1 - count} places"
            " (duplicate slices, or several volumes in one series that nothing tells apart)"
        )
    notes = _even(steps, height)
    positions = np.array([frame.position for frame in ordered])
    row, column = np.array(ordered[0].orientation).reshape(2, 3)
    across = normal(ordered[0])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    beside = step - (step @ across) * across
    between_rows, between_columns = ordered[0].spacing or (1.0, 1.0)
    smallest = min(between_rows, between_columns)
    angle = float(np.degrees(np.arctan2(np.linalg.norm(beside), step @ across)))
    if angle > TILTED and np.linalg.norm(beside) * (len(ordered) - 1) > SHIFTED * smallest:
        raise NoGrid(
            f"is sheared by a gantry tilt of {angle:.1f} degrees; correct it first, for example with"
            " dcm2niix, and give the corrected NIfTI"
        )
    line = positions[0] + np.arange(len(ordered))[:, None] * step
    missed = positions - line
    missed -= np.outer(missed @ across, across)
    worst = float(np.linalg.norm(missed, axis=1).max())
    if worst > SHIFTED * smallest:
        raise NoGrid(f"has slices shifted beside each other by up to {worst:.3g} mm")
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    return Stack(
        frames=tuple(ordered),
        affine=LPS_TO_RAS @ affine,
        spacing=(float(edges[0]), float(edges[1]), float(edges[2])),
        notes=notes,
    )


def _even(steps: np.ndarray, height: np.ndarray) -> tuple[str, ...]:
    """NoGrid unless the steps are equal; a note where they are nearly so."""
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    times = steps / usual
    missing = int((times[gaps].round() - 1).sum())
    if 0 < missing <= len(steps) and np.abs(times - times.round()).max() <= 2 * UNEVEN:
        first = int(gaps[0])
        raise NoGrid(
            f"lacks {missing} slice{'s' * (missing > 1)}: {steps[first]:.3g} mm between slices"
            f" {first + 1} and {first + 2} where others are {usual:.3g} mm apart; export it whole"
        )
    mean = (height[-1] - height[0]) / len(steps)
    off = float(np.abs(height - height[0] - mean * np.arange(len(height))).max() / mean)
    if off > UNEVEN or np.abs(steps / mean - 1).max() > 2 * UNEVEN:
        raise NoGrid(
            f"has unequal steps between slices, {steps.min():.3g} to {steps.max():.3g} mm;"
            " resample it to equal steps first"
        )
    if off > 0.01:
        return (f"slices lie up to {off * mean:.2g} mm from even places; even ones are assumed",)
    return ()
