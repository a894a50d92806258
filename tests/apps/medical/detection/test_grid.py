"""Resampling in world space: against the scene itself, and against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from nibabel import orientations

from apps.medical.detection.grid import Grid, covered, detection_grid, sample
from core.errors import DataError


def points(grid: Grid) -> np.ndarray:
    indices = np.moveaxis(np.indices(grid.shape), 0, -1)
    return indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def to_itk(volume) -> sitk.Image:
    matrix = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def test_the_grid_lies_around_the_middle_along_the_images_own_directions(study) -> None:
    grid = detection_grid(study.t2w, (0.5, 0.5, 3.0), (128, 120, 20))
    assert grid.shape == (128, 120, 20)
    assert grid.spacing == pytest.approx((0.5, 0.5, 3.0))
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    assert middle == pytest.approx((4, -6, 10))
    assert orientations.aff2axcodes(grid.affine) == ("R", "A", "S")
    directions = grid.affine[:3, :3] / grid.spacing
    own = study.t2w.affine[:3, :3] / study.t2w.spacing
    assert directions == pytest.approx(own * (-1, -1, 1))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_grid_does_not_depend_on_how_the_image_is_stored(study, make_volume, order) -> None:
    """A T2W image with its axes swapped and turned about is the same image."""
    from dataclasses import replace

    t2w = study.t2w
    array = t2w.array.transpose(order)[::-1]
    affine = t2w.affine[:, [*order, 3]].copy()
    affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
    affine[:3, 0] *= -1
    stored = replace(t2w, array=array, affine=affine, spacing=tuple(t2w.spacing[a] for a in order))
    size = ((0.9, 0.9, 3.0), (60, 60, 12))
    grid, other = detection_grid(t2w, *size), detection_grid(stored, *size)
    assert other.affine == pytest.approx(grid.affine, abs=1e-9)
    assert sample(stored, other) == pytest.approx(sample(t2w, grid), abs=1e-2)


@pytest.mark.parametrize("role", ["t2w", "adc", "hbv"])
@pytest.mark.parametrize(("order", "tolerance"), [(3, 0.01), (1, 0.03)])
def test_every_series_shows_the_scene_at_its_place(study, scene, role, order, tolerance) -> None:
    """The scene is known: whatever grid it was sampled on, it must come back where it is."""
    scale = {"t2w": 1, "adc": 4, "hbv": 0.2}[role]
    volume = getattr(study, role)
    grid = detection_grid(study.t2w, (1.0, 1.0, 3.0), (50, 50, 12))
    wanted = scene(points(grid)) * scale
    assert covered(volume, grid).all()
    found = sample(volume, grid, order=order)
    assert found.dtype == np.float32
    inner = (slice(2, -2),) * 3
    assert np.abs(found / wanted - 1)[inner].max() < tolerance


def test_linear_and_nearest_equal_simpleitk(study) -> None:
    """Including the outside: ITK's buffer also ends at the outer voxel faces."""
    grid = detection_grid(study.t2w, (1.3, 1.1, 2.7), (90, 90, 24))  # reaches beyond the ADC map
    reference = to_itk(
        type(study.t2w)(
            array=np.zeros(grid.shape, np.float32), affine=grid.affine, spacing=grid.spacing,
            rank=3, path=study.t2w.path,
        )
    )  # fmt: skip
    for order, theirs in ((1, sitk.sitkLinear), (0, sitk.sitkNearestNeighbor)):
        wanted = sitk.Resample(to_itk(study.adc), reference, sitk.Transform(), theirs, -5.0)
        found = sample(study.adc, grid, order=order, outside=-5.0)
        wanted_array = sitk.GetArrayFromImage(wanted).T
        assert (found == -5).any()
        assert np.mean((found == -5) == (wanted_array == -5)) > 0.9999
        both = (found != -5) & (wanted_array != -5)
        off = np.abs(found - wanted_array)[both]
        # nearest may round a tie the other way
        assert np.mean(off < 0.05) > (0.9999 if order else 0.99)


def test_a_spline_never_leaves_the_range_of_the_image(make_volume) -> None:
    step = make_volume((20, 20, 10), np.diag([2.0, 2, 3, 1]), "step.mha")
    step.array[:] = 0
    step.array[10:] = 1000
    grid = Grid(np.diag([0.5, 0.5, 3, 1]), (78, 78, 10))
    found = sample(step, grid)
    assert found.min() >= 0
    assert found.max() <= 1000
    assert 0 < found.mean() < 1000


def test_the_same_grid_gives_the_same_values(study) -> None:
    assert sample(study.t2w, Grid.of(study.t2w)) == pytest.approx(study.t2w.array, rel=1e-5)


def test_what_cannot_be_resampled_is_refused(study) -> None:
    from dataclasses import replace

    bad = replace(study.adc, array=np.where(study.adc.array > 1300, np.nan, study.adc.array))
    with pytest.raises(DataError, match="NaN"):
        sample(bad, Grid.of(study.t2w))
    picture = replace(study.t2w, physical=False)
    with pytest.raises(DataError, match="not a volume in space"):
        detection_grid(picture)
