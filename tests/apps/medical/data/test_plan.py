from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.medical.data.datasets import open_dataset
from apps.medical.data.measure import CaseFacts, Fingerprint, Intensity
from apps.medical.data.plan import (
    PATCH_VOXELS,
    fingerprint,
    make_plan,
    network_strides,
    read_plan,
    write_plan,
)
from core.errors import DataError, UsageError


def measured(shapes, spacings, rank=3, physical=True) -> Fingerprint:
    cases = [
        CaseFacts(
            id=f"c{i}",
            shape=list(shape),
            cropped=list(shape),
            spacing=list(spacing),
            orientation="RAS",
            voxels={0: 1, 1: 1},
            objects=1,
        )
        for i, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
    ]
    stats = [Intensity(mean=0, std=1, low=-1, high=1)]
    return Fingerprint(
        dataset="d", rank=rank, physical=physical, cases=cases, intensity=stats, problems=[]
    )


@pytest.fixture
def dataset(dataset_folder):
    return open_dataset(dataset_folder(3, (35, 50, 35)))


def test_small_volumes_get_a_patch_that_covers_the_median(dataset) -> None:
    plan = make_plan(dataset, measured([(35, 50, 35)] * 3, [(1, 1, 1)] * 3))
    assert plan.patch == [40, 56, 40]
    assert plan.strides == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert plan.batch == 4


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((512, 512, 300), (0.8, 0.8, 1.0)),
        ((320, 320, 20), (0.6, 0.6, 3.6)),
        ((24, 500, 500), (5, 0.5, 0.5)),
    ],
)
def test_large_volumes_get_a_patch_within_the_budget(dataset, shape, spacing) -> None:
    plan = make_plan(dataset, measured([shape] * 3, [spacing] * 3))
    assert 0.5 * PATCH_VOXELS[3] <= np.prod(plan.patch) <= PATCH_VOXELS[3]
    total = np.prod(plan.strides, axis=0)
    assert all(p % t == 0 for p, t in zip(plan.patch, total, strict=True))
    assert all(p <= n + 16 for p, n in zip(plan.patch, shape, strict=True))


def test_coarse_axis_is_not_downsampled_before_the_others_caught_up() -> None:
    strides = network_strides([128, 128, 16], [0.6, 0.6, 3.6])
    assert strides[:4] == [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert network_strides([96, 96, 96], [1, 1, 1])[-1] == [2, 2, 2]
    edges = np.array([96, 96, 96]) / np.prod(network_strides([96] * 3, [1] * 3), axis=0)
    assert edges.min() >= 4


def test_anisotropic_spacing_takes_the_tenth_percentile_of_the_coarse_axis(dataset) -> None:
    spacings = [(1, 1, z) for z in (2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5)]
    plan = make_plan(dataset, measured([(64, 64, 20)] * 11, spacings))
    assert plan.spacing == [1, 1, 5]
    plan = make_plan(dataset, measured([(64, 64, 20)] * 5, [(1, 1, z) for z in (2, 2, 5, 5, 6)]))
    assert plan.spacing == [1, 1, 2]
    isotropic = [(1, 1, z) for z in (0.9, 1.1, 1.2)]
    plan = make_plan(dataset, measured([(64, 64, 20)] * 3, isotropic))
    assert plan.spacing == [1, 1, 1.1]


@pytest.mark.parametrize(("name", "rule"), [("CT", "ct"), ("T2w", "zscore"), ("noNorm", "none")])
def test_normalisation_follows_the_channel_name(dataset, name: str, rule: str) -> None:
    from dataclasses import replace

    named = replace(dataset, channels=(name,))
    plan = make_plan(named, measured([(9, 9, 9)], [(1, 1, 1)]))
    assert plan.normalisation == [rule]


def test_left_and_right_labels_switch_off_mirroring_across_the_midline(dataset) -> None:
    from dataclasses import replace

    lateral = replace(dataset, labels={0: "background", 1: "Left_Kidney", 2: "right kidney"})
    facts = measured([(9, 9, 9)], [(1, 1, 1)])
    assert make_plan(lateral, facts).flip == [False, True, True]
    assert make_plan(dataset, facts).flip == [True, True, True]


def test_fingerprint_measures_in_ras_axes(dataset_folder) -> None:
    # stored as (z, x, y) with x pointing left: RAS axes are (x, y, z)
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 3, 0], [5, 0, 0, 0], [0, 0, 0, 1]])
    facts = fingerprint(open_dataset(dataset_folder(2, (10, 12, 14), affine)))
    assert facts.cases[0].shape == [12, 14, 10]
    assert facts.cases[0].spacing == [2.0, 3.0, 5.0]
    assert facts.cases[0].orientation == "SLA"
    assert facts.intensity[0].mean == pytest.approx(157, abs=8)


def test_fingerprint_reports_unusable_cases_and_goes_on(dataset_folder, save_nifti) -> None:
    root = dataset_folder(5)
    shape = (12, 14, 10)
    save_nifti("set/images/case0.nii.gz", np.full(shape, np.nan, np.float32))
    save_nifti("set/images/case1.nii.gz", np.full(shape, 7, np.float32))
    (root / "images/case2.nii.gz").write_bytes(b"\x1f\x8bnonsense")
    save_nifti("set/labels/case3.nii.gz", np.zeros((12, 14, 9), np.uint8))
    facts = fingerprint(open_dataset(root))
    assert [case.id for case in facts.cases] == ["case4"]
    said = dict(p.split(": ", 1) for p in facts.problems)
    for case, words in enumerate(("NaN", "constant", "case2.nii.gz", "pair")):
        assert words in said[f"case{case}"]


def test_no_usable_case_is_an_error(dataset_folder, save_nifti) -> None:
    root = dataset_folder(1)
    save_nifti("set/images/case0.nii.gz", np.full((12, 14, 10), 7, np.float32))
    with pytest.raises(DataError, match=r"no usable case.*constant"):
        fingerprint(open_dataset(root))


def test_plan_survives_yaml_and_is_editable(dataset, tmp_path: Path) -> None:
    plan = make_plan(dataset, fingerprint(dataset))
    path = tmp_path / "plan.yaml"
    write_plan(plan, path)
    assert read_plan(path) == plan
    changed = read_plan(path, ["patch=[32,32,32]", "network.name=swin_unetr"])
    assert changed.patch == [32, 32, 32]
    assert changed.network.name == "swin_unetr"
    with pytest.raises(UsageError, match="exists"):
        write_plan(plan, path)
    with pytest.raises(UsageError, match="patch"):
        read_plan(path, ["pach=[32,32,32]"])
    for override in ("patch=[32,32]", "batch=0", "spacing=[1,0,1]", "labels={0: background}"):
        with pytest.raises(UsageError, match=r"plan\.yaml"):
            read_plan(path, [override])


def test_fingerprint_digest_follows_the_data(dataset_folder, save_nifti, blob) -> None:
    root = dataset_folder(2)
    first = fingerprint(open_dataset(root)).digest
    assert fingerprint(open_dataset(root)).digest == first
    save_nifti("set/images/case0.nii.gz", blob((12, 14, 10), 9)[0])
    assert fingerprint(open_dataset(root)).digest != first
