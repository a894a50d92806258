"""Which series is which: by file name, by description, by wish; and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.medical.detection.grid import Grid, covered
from apps.medical.detection.inputs import b_value, choose, fits, read_study
from apps.medical.detection.synthetic import write_image
from core.errors import DataError, UsageError


def series(title: str, number: int = 1, **changes: Any) -> SimpleNamespace:
    """What the rule looks at of a DICOM series."""
    values = {
        "title": title, "description": title, "number": number, "uid": f"1.2.{number}",
        "modality": "MR", "orientation": "oblique axial", "slices": 19, "refusal": "",
        "spacing": (0.5, 0.5, 3.0), "stack": None, "label": f"x: series {number} '{title}'",
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("t2_tse_tra", "t2w"),
        ("T2W_TSE_ax", "t2w"),
        ("Ax T2 FRFSE hi-res", "t2w"),
        ("T2* axial", ""),
        ("t2_flair_tra", ""),
        ("T2 map", ""),
        ("ep2d_diff_tra_DYNDIST_ADC", "adc"),
        ("Apparent Diffusion Coefficient (mm2/s)", "adc"),
        ("eADC", ""),
        ("ep2d_diff_tra_DYNDISTCALC_BVAL", "hbv"),
        ("ep2d_diff_tra_DYNDIST_MIXCALC_BVAL", "hbv"),
        ("DWI b1400", "hbv"),
        ("ep2d_diff_tra [b 1000]", "hbv"),
        ("ep2d_diff_tra [b 800]", ""),
        ("DWI b=50", ""),
        ("ep2d_diff_tra_DYNDIST", ""),
        ("dwi_hbv", "hbv"),
        ("localizer t2", ""),
        ("t1_vibe_tra", ""),
        ("DCE_sub", ""),
    ],
)
def test_a_description_is_of_one_role_or_none(title, role) -> None:
    said = [r for r in ("t2w", "adc", "hbv") if fits(r, series(title))]
    assert said == ([role] if role else [])


def test_a_role_is_an_axial_mr_volume() -> None:
    for change in ({"modality": "CT"}, {"orientation": "sagittal"}, {"slices": 1}):
        assert not fits("t2w", series("t2_tse", **change))
    assert fits("t2w", series("t2_tse"))


def test_b_values_are_read_from_titles_and_headers() -> None:
    assert b_value(series("DWI b50_400_800")) == 50  # a list of three is no single b-value
    assert b_value(series("DWI b1400")) == 1400
    assert b_value(series("BVAL=2000")) == 2000
    frames = [SimpleNamespace(facts={"b": "1500"})]
    assert b_value(series("ep2d", stack=SimpleNamespace(frames=frames))) == 1500
    assert fits("hbv", series("ep2d_diff", stack=SimpleNamespace(frames=frames)))
    assert b_value(series("t2_tse")) == 0


def test_the_highest_b_value_and_the_last_repeat_win() -> None:
    found = [series("DWI b1000", 5), series("DWI b2000", 3), series("DWI b1400", 9)]
    best, others = choose(found, "hbv", None, "study")
    assert (best.number, len(others)) == (3, 2)
    found = [
        series("t2_tra", 2), series("t2_tra", 8), series("t2_tra", 11, spacing=(0.8, 0.8, 3.0)),
    ]  # fmt: skip
    assert choose(found, "t2w", None, "study")[0].number == 8


def test_a_wish_names_one_series() -> None:
    found = [
        series("t2_tse_tra", 4),
        series("t2_tse_sag", 5),
        series("adc", 7, refusal="is broken"),
    ]
    assert choose(found, "t2w", "SAG", "study")[0].number == 5
    assert choose(found, "t2w", "4", "study")[0].number == 4
    assert choose(found, "t2w", "1.2.5", "study")[0].number == 5
    with pytest.raises(UsageError, match=r"fits 2 series.*4: t2_tse_tra"):
        choose(found, "t2w", "t2", "study")
    with pytest.raises(UsageError, match="fits 0 series"):
        choose(found, "t2w", "dce", "study")
    with pytest.raises(DataError, match="is broken"):
        choose(found, "adc", "adc", "study")
    with pytest.raises(DataError, match=r"no ADC map series \(series 7 'adc' is broken\)"):
        choose(found, "adc", None, "study")
    with pytest.raises(DataError, match=r"no high b-value series; name one with --hbv"):
        choose(found, "hbv", None, "study")


def test_files_are_known_by_their_names(tmp_path, study, write_study) -> None:
    found = read_study(write_study(tmp_path / "a", "10001_1000001"))
    assert found.case == "10001_1000001"
    assert found.chosen["hbv"] == "10001_1000001_hbv.mha"
    for mine, theirs in zip(found.volumes, study.volumes, strict=True):
        assert mine.affine == pytest.approx(theirs.affine)
        assert np.array_equal(mine.array, theirs.array)
    nnunet = tmp_path / "b"
    for i, volume in enumerate(study.volumes):
        write_image(volume, nnunet / f"case_{i:04d}.mha")
    assert np.array_equal(read_study(nnunet).adc.array, study.adc.array)


def test_files_may_be_named_one_by_one(tmp_path, study, write_study) -> None:
    folder = write_study(tmp_path / "a")
    write_image(study.hbv, tmp_path / "other.mha")
    found = read_study(folder, hbv=str(tmp_path / "other.mha"))
    assert found.chosen["hbv"] == "other.mha"
    names = {role: f"case_{role}.mha" for role in ("t2w", "adc", "hbv")}
    assert read_study(folder, **names).case == "a"
    places = {role: tmp_path / role / "image.mha" for role in names}  # one name in three folders
    for role, place in places.items():
        write_image(getattr(study, role), place)
    found = read_study(folder, **{role: str(place) for role, place in places.items()})
    assert found.source.files == tuple(places.values())
    with pytest.raises(UsageError, match="given as T2-weighted and as ADC map"):
        read_study(folder, **(names | {"adc": "case_t2w.mha"}))
    with pytest.raises(UsageError, match="no such file"):
        read_study(folder, hbv="gone.mha")


def test_no_case_is_called_like_a_way_out(tmp_path, study, write_study, monkeypatch) -> None:
    """`detect ..` must not write into, let alone replace, the folder above."""
    folder = tmp_path / "a"
    for role in ("t2w", "adc", "hbv"):
        write_image(getattr(study, role), folder / f"{role}.mha")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert read_study(Path("..")).case == "a"


def test_missing_and_twofold_images_are_named(tmp_path, write_study) -> None:
    with pytest.raises(DataError, match=r"no high b-value image \(case_hbv"):
        read_study(write_study(tmp_path / "a", roles=("t2w", "adc")))
    write_study(tmp_path / "b", "one")
    write_study(tmp_path / "b", "two")
    with pytest.raises(UsageError, match="holds 2 cases"):
        read_study(tmp_path / "b")
    with pytest.raises(DataError, match="no such study"):
        read_study(tmp_path / "c")


def test_series_of_another_place_are_refused(tmp_path, study, write_study) -> None:
    from dataclasses import replace

    folder = write_study(tmp_path / "a", roles=("t2w", "hbv"))
    affine = study.adc.affine.copy()
    affine[0, 3] += 400
    write_image(replace(study.adc, affine=affine), folder / "case_adc.mha")
    with pytest.raises(DataError, match=r"ADC map image covers 0% .* of one study"):
        read_study(folder)
    affine[0, 3] -= 370
    (folder / "case_adc.mha").unlink()
    write_image(replace(study.adc, affine=affine), folder / "case_adc.mha")
    assert any("ADC map image covers" in note for note in read_study(folder).notes)


def test_a_constant_image_is_refused(tmp_path, study, write_study) -> None:
    from dataclasses import replace

    folder = write_study(tmp_path / "a", roles=("t2w", "adc"))
    write_image(replace(study.hbv, array=np.ones_like(study.hbv.array)), folder / "case_hbv.mha")
    with pytest.raises(DataError, match="every voxel of the high b-value image is 1"):
        read_study(folder)


def write_dicom(write_dicom_series, folder: Path, **changes: dict[str, Any]) -> Path:
    """T2W, ADC, high b-value and a sagittal T2 of one patient, on two grids."""
    wanted: dict[str, dict[str, Any]] = {
        "t2w": {"description": "t2_tse_tra", "number": 4, "shape": (40, 40, 12),
                "spacing": (1.0, 1.0, 3.0)},
        "sag": {"description": "t2_tse_sag", "number": 5, "plane": "sagittal"},
        "adc": {"description": "ep2d_diff_tra_ADC", "number": 7, "shape": (24, 24, 14),
                "spacing": (2.0, 2.0, 3.0)},
        "hbv": {"description": "ep2d_diff_traCALC_BVAL", "number": 8, "shape": (24, 24, 14),
                "spacing": (2.0, 2.0, 3.0)},
    }  # fmt: skip
    for name, values in wanted.items():
        write_dicom_series(folder / name, **(values | changes.get(name, {})))
    return folder


def test_a_dicom_study_is_found_by_rule(tmp_path, write_dicom_series) -> None:
    found = read_study(write_dicom(write_dicom_series, tmp_path / "study 7"))
    assert found.case == "study 7"
    assert found.chosen == {
        "t2w": "series 4, t2_tse_tra",
        "adc": "series 7, ep2d_diff_tra_ADC",
        "hbv": "series 8, ep2d_diff_traCALC_BVAL",
    }
    assert found.t2w.shape == (40, 40, 12)
    assert [len(info.files) for info in found.source.series] == [12, 14, 14]


def test_a_zip_is_a_study(tmp_path, write_dicom_series) -> None:
    import shutil

    folder = write_dicom(write_dicom_series, tmp_path / "raw")
    file = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", folder))
    found = read_study(file)
    assert found.case == "scan"
    assert found.source.series[0].source == file


def test_series_of_two_patients_are_refused(tmp_path, write_dicom_series) -> None:
    folder = write_dicom(write_dicom_series, tmp_path / "s", adc={"patient": "78", "study": 2})
    with pytest.raises(DataError, match="of 2 patients"):
        read_study(folder)


def test_a_dicom_study_without_adc_says_what_there_is(tmp_path, write_dicom_series) -> None:
    folder = write_dicom(write_dicom_series, tmp_path / "s", adc={"description": "something"})
    with pytest.raises(DataError, match=r"no ADC map series; name one with --adc.*7: something"):
        read_study(folder)
    assert read_study(folder, adc="something").chosen["adc"] == "series 7, something"
    with pytest.raises(UsageError, match=r"BVAL is given as ADC map and as high b-value"):
        read_study(folder, adc="BVAL")


@pytest.fixture(scope="session")
def prostate() -> Path:
    place = os.environ.get("TRIPTYCH_DICOM_DATA")
    if not place or not (Path(place) / "prostate-study").is_dir():
        pytest.skip("TRIPTYCH_DICOM_DATA names no folder with a prostate-study")
    return Path(place) / "prostate-study"


def test_a_real_study_is_found_by_rule(prostate) -> None:
    found = read_study(prostate)
    assert [found.chosen[role].split(",")[0] for role in ("t2w", "adc", "hbv")] == [
        "series 4", "series 7", "series 8",
    ]  # fmt: skip
    assert found.t2w.shape == (384, 384, 19)
    assert found.adc.shape == found.hbv.shape == (84, 128, 19)
    assert covered(found.adc, Grid.of(found.t2w)).mean() > 0.8
