"""Which series a model takes: by wish, by rule, or not without being told."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.medical.dicom.choose import choose_series, kind_of, modality_of
from apps.medical.dicom.series import SeriesInfo
from core.errors import DataError, UsageError


def series(description: str = "", number: int | None = 1, **changes) -> SeriesInfo:
    values = {
        "uid": f"1.2.{number}.{len(description)}",
        "description": description,
        "number": number,
        "modality": "MR",
        "patient_id": "77",
        "study_uid": "1.2",
        "body_part": "",
        "orientation": "axial",
        "shape": (20, 20, 20),
        "spacing": (1.0, 1.0, 1.0),
        "slices": 20,
        "frames": 20,
        "transfer_syntax": "Explicit VR Little Endian",
        "notes": (),
        "refusal": "",
        "files": (),
        "source": Path("study.zip"),
    }
    return SeriesInfo(**(values | changes))


def titles(*texts: str, **changes) -> list[SeriesInfo]:
    return [series(text, number, **changes) for number, text in enumerate(texts, 3)]


def test_a_wish_by_uid_number_or_part_of_the_description() -> None:
    found = titles("T1 post", "T2 FLAIR", "t2_tse_tra", "T2")
    assert choose_series(found, found[1].uid) is found[1]
    assert choose_series(found, "5") is found[2]
    assert choose_series(found, "tse") is found[2]
    assert choose_series(found, " flair ") is found[1]
    assert choose_series(found, "t2") is found[3]  # exactly so before a part of others
    with pytest.raises(UsageError, match=r"'T' fits 4 series: 3 'T1 post' .*, 4 'T2 FLAIR'"):
        choose_series(found, "T")
    with pytest.raises(UsageError, match="no series 'CT'; there are 3 'T1 post'"):
        choose_series(found, "CT")
    for nothing in ("", "  "):
        with pytest.raises(UsageError, match="no series"):
            choose_series(found, nothing)


def test_volumes_that_share_a_uid_are_chosen_by_their_part() -> None:
    found = [series("dwi", 8, uid="1.2.8", part=f"b {b}") for b in (0, 50, 800)]
    assert choose_series(found, "b 800") is found[2]
    with pytest.raises(UsageError, match="'8' fits 3 series"):
        choose_series(found, "8")


def test_a_wish_for_what_cannot_be_segmented() -> None:
    found = [series("ok", 1), series("scout", 2, refusal="is a localizer (scout), not a volume")]
    with pytest.raises(DataError, match=r"study\.zip: series 2 'scout' is a localizer"):
        choose_series(found, "scout")
    assert choose_series(found) is found[0]


def test_nothing_that_can_be_segmented_says_why() -> None:
    bad = [series(f"s{n}", n, refusal="has one slice only") for n in range(5)]
    with pytest.raises(
        DataError, match=r"none of the 5 series .* 's0' has one slice only; .*\.\.\."
    ):
        choose_series(bad)
    with pytest.raises(DataError, match="series 0 's0' has one slice only"):
        choose_series(bad[:1])
    with pytest.raises(DataError):
        choose_series([])


def test_wrong_modality(make_plan) -> None:
    mr = make_plan(channels=1).model_copy(update={"channels": ["T1w MR"]})
    ct = [series("abdomen", modality="CT")]
    with pytest.raises(DataError, match="holds CT, the model was trained on MR"):
        choose_series(ct, None, mr)
    with pytest.raises(DataError, match="is CT, the model was trained on MR"):
        choose_series(ct, "abdomen", mr)
    converted = [series("export", modality="OT")]
    assert choose_series(converted, None, mr) is converted[0]
    both = [*ct, series("head", 2)]
    assert choose_series(both, None, mr) is both[1]
    unsaid = make_plan(channels=1)
    assert choose_series(ct, None, unsaid) is ct[0]


def test_what_a_plan_says_of_its_modality(make_plan) -> None:
    plan = make_plan(channels=1)
    for name, expected in [("CT", "CT"), ("T2", "MR"), ("adc_map MRI", "MR"), ("PET SUV", "PT"),
                           ("channel 0", ""), ("intact", "")]:  # fmt: skip
        assert modality_of(plan.model_copy(update={"channels": [name]})) == expected
    assert modality_of(plan.model_copy(update={"normalisation": ["ct"]})) == "CT"
    assert modality_of(None) == ""


def test_the_kind_of_image_decides(make_plan) -> None:
    found = titles("t2_tse_tra", "ep2d_diff_tra_DYNDIST_ADC", "ep2d_diff_tra_DYNDISTCALC_BVAL")
    plan = make_plan(channels=3).model_copy(update={"channels": ["T2W", "ADC", "DWI b-value"]})
    assert [choose_series(found, None, plan, channel) for channel in range(3)] == found
    t1 = make_plan(channels=1).model_copy(update={"channels": ["T1w MR"]})
    with pytest.raises(DataError, match=r"holds ADC, DWI, T2, the model takes 'T1w MR'; .* insist"):
        choose_series(found, None, t1)
    assert choose_series(found, "tse", t1) is found[0]
    mixed = [*found, series("MPRAGE", 9)]
    assert choose_series(mixed, None, t1) is mixed[3]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("t2_tse_tra", "T2"),
        ("Ax T2 FLAIR", "FLAIR"),
        ("ep2d_diff_tra_DYNDIST_ADC", "ADC"),
        ("ep2d_diff_tra_DYNDISTCALC_BVAL", "DWI"),
        ("MPRAGE", "T1"),
        ("SAG 3D T1 post", "T1"),
        ("t2* gre", "T2*"),
        ("HippoCrop", ""),
        ("Trachea", ""),
        ("academic", ""),
        ("", ""),
    ],
)
def test_kinds_from_descriptions(text, kind) -> None:
    assert kind_of(text) == kind


def test_several_patients_are_never_chosen_between(make_plan) -> None:
    found = [series("a", 1), series("b", 2, patient_id="78")]
    with pytest.raises(UsageError, match="series of 2 patients") as error:
        choose_series(found, None, make_plan())
    assert "77" not in str(error.value)
    assert "78" not in str(error.value)
    assert choose_series(found, "b") is found[1]


def test_name_and_extent_decide_among_equals(make_plan) -> None:
    plan = make_plan(channels=1).model_copy(
        update={"dataset": "Task04_Hippocampus", "median_shape": [35, 50, 35]}
    )
    whole = series("T1", 1, shape=(256, 256, 160))
    crop = series("crop", 2, shape=(34, 52, 32))
    named = series("HippoCrop", 3, shape=(256, 256, 160))
    assert choose_series([whole, crop], None, plan) is crop
    assert choose_series([whole, named], None, plan) is named
    flat = series("other", 4, shape=(52, 32, 34), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="several series fit; choose with --series: 2 'crop'"):
        choose_series([crop, flat], None, plan)  # axes are compared in order of length
    with pytest.raises(UsageError, match="several series fit"):
        choose_series([whole, crop], None, None)


def test_long_lists_are_cut() -> None:
    found = titles(*[f"s{n:02d}" for n in range(20)])
    with pytest.raises(UsageError, match="and 14 more, see `info`"):
        choose_series(found)
