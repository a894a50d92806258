"""Painted lesions: where they are in the world, in every series, and in the files."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from apps.medical.detection.inputs import ROLES, read_study
from apps.medical.detection.picai import list_cases
from apps.medical.detection.synthetic import (
    Lesion,
    gland_box,
    level_of,
    paint,
    random_lesions,
    synthesise,
    truth,
    write_dataset,
)
from core.errors import UsageError


def ball(centre, radius=7.0, **changes) -> Lesion:
    values = {
        "centre": np.asarray(centre, float), "radii": np.full(3, radius), "axes": np.eye(3),
        "strength": 1.0,
    }  # fmt: skip
    return Lesion(**(values | changes))


@pytest.mark.parametrize("role", ROLES)
def test_a_lesion_is_at_one_place_of_the_world_in_every_series(study, role) -> None:
    volume = getattr(study, role)
    centre = np.array([9.0, -11.0, 14.0])
    change = paint(volume, role, [ball(centre)], level_of(study, role)) - volume.array
    assert (change >= 0).all() if role == "hbv" else (change <= 0).all()
    weight = np.abs(change)
    at = np.array([(weight * axis).sum() for axis in np.indices(volume.shape)]) / weight.sum()
    assert volume.affine[:3, :3] @ at + volume.affine[:3, 3] == pytest.approx(centre, abs=0.3)
    cell = abs(np.linalg.det(volume.affine[:3, :3]))
    half = (weight > weight.max() / 2).sum() * cell
    assert half == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.1)


def test_truth_is_the_lesion_and_not_the_mimic(study) -> None:
    lesions = [ball((9, -11, 14)), ball((-12, 0, 8), roles=("adc",))]
    label = truth(study.t2w, lesions)
    assert ndimage.label(label)[1] == 1
    assert label.sum() * 3 == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.1)
    assert np.array_equal(paint(study.t2w, "t2w", lesions[1:], 100), study.t2w.array)
    assert not np.array_equal(paint(study.adc, "adc", lesions[1:], 100), study.adc.array)


def test_lesions_lie_in_the_gland_apart(study) -> None:
    middle, directions = gland_box(study.t2w)
    for seed in range(5):
        made = random_lesions(np.random.default_rng(seed), study.t2w, 3, 2)
        assert [lesion.real for lesion in made] == [True] * 3 + [False] * 2
        for i, lesion in enumerate(made):
            inside = directions.T @ (lesion.centre - middle)
            assert (np.abs(inside) < (24, 18, 20)).all()
            for other in made[:i]:
                apart = np.linalg.norm(lesion.centre - other.centre)
                assert apart >= 1.25 * (lesion.radii.max() + other.radii.max())


def test_a_case_depends_on_its_seed_alone(study) -> None:
    one, label, _ = synthesise(study, np.random.default_rng(3), real=2, mimics=1)
    two, again, _ = synthesise(study, np.random.default_rng(3), real=2, mimics=1)
    other, _, _ = synthesise(study, np.random.default_rng(4), real=2, mimics=1)
    assert np.array_equal(label, again)
    for role in ROLES:
        assert np.array_equal(getattr(one, role).array, getattr(two, role).array)
        assert not np.array_equal(getattr(one, role).array, getattr(other, role).array)
    assert ndimage.label(label, np.ones((3, 3, 3)))[1] == 2
    assert np.linalg.det(one.t2w.affine[:3, :3]) == pytest.approx(
        np.linalg.det(study.t2w.affine[:3, :3])
    )


def test_mirroring_turns_the_world_not_the_grid(study, scene) -> None:
    """All three series of a mirrored case still show one scene: the mirrored one."""
    from apps.medical.detection.synthetic import _vary

    middle, directions = gland_box(study.t2w)
    side = directions[:, 0]
    for role, scale in (("t2w", 1), ("adc", 4), ("hbv", 0.2)):
        volume = _vary(getattr(study, role), True, study.t2w)
        assert np.sign(np.linalg.det(volume.affine)) == np.sign(
            np.linalg.det(getattr(study, role).affine)
        )
        points = np.moveaxis(np.indices(volume.shape), 0, -1) @ volume.affine[:3, :3].T
        points = points + volume.affine[:3, 3]
        seen = points - 2 * ((points - middle) @ side)[..., None] * side
        assert volume.array == pytest.approx(scene(seen) * scale, rel=1e-4)


def test_the_files_are_picai_s(tmp_path, study) -> None:
    counts = write_dataset(study, tmp_path / "data", 7, seed=1)
    found = list_cases(tmp_path / "data" / "images", tmp_path / "data" / "labels")
    assert found.problems == ()
    assert len(found.cases) == counts["cases"] == 7
    assert sum(bool(c.positive) for c in found.cases) == counts["positive"] > 0
    assert len({c.patient for c in found.cases}) == 6  # one has two studies
    assert "SYNTHETIC" in (tmp_path / "data" / "SYNTHETIC.txt").read_text()
    case = found.cases[0]
    read = read_study(case.images["t2w"].parent)
    assert read.case == case.id
    with pytest.raises(UsageError, match="already exists"):
        write_dataset(study, tmp_path / "data", 7)
    again = write_dataset(study, tmp_path / "data", 3, seed=1, force=True)
    assert again["cases"] == 3
    first = read_study(case.images["t2w"].parent)
    assert np.array_equal(first.t2w.array, read.t2w.array)  # case i does not depend on how many
