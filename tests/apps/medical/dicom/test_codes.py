"""Codes of labels: each is PS3.16's, and a name without one says so."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from apps.medical.dicom.codes import (
    ABNORMAL,
    ANATOMY,
    MODIFIERS,
    PRIVATE,
    SKIN,
    STRUCTURES,
    SYNONYMS,
    TISSUE,
    Code,
    LabelCode,
    codes_for,
    notes,
)
from apps.medical.store import ModelSpec

CODES = {ABNORMAL, ANATOMY, TISSUE, SKIN, *MODIFIERS.values()}
CODES |= {part for structure in STRUCTURES.values() for part in structure if part is not None}


@pytest.mark.parametrize("code", sorted(CODES, key=lambda c: c.value), ids=lambda c: c.meaning)
def test_every_code_is_the_standards(code: Code) -> None:
    """pydicom carries the SNOMED CT concepts that PS3.16 uses: value and meaning must agree."""
    from pydicom.sr import _concepts_dict

    meanings = {
        meaning
        for concept in _concepts_dict.concepts["SCT"].values()
        for value, (meaning, _) in concept.items()
        if value == code.value
    }
    assert code.scheme == "SCT"
    assert code.meaning in meanings


def test_categories_are_of_the_standards_list() -> None:
    from pydicom.sr import _concepts_dict

    listed = {
        value
        for concept in _concepts_dict.concepts["SCT"].values()
        for value, (_, groups) in concept.items()
        if 7150 in groups
    }
    assert {category.value for category, _, _ in STRUCTURES.values()} <= listed


def test_synonyms_lead_somewhere() -> None:
    assert set(SYNONYMS.values()) <= set(STRUCTURES)


@pytest.mark.parametrize(
    ("name", "context", "meaning", "modifier", "region"),
    [
        ("anterior", "hippocampus", "Hippocampus", "Anterior", "Brain"),
        ("posterior", "my hippocampus model", "Hippocampus", "Posterior", "Brain"),
        ("Left Hippocampus", "", "Hippocampus", "Left", "Brain"),
        ("right_kidney", "abdomen", "Kidney", "Right", None),
        ("left atrium", "heart", "Left atrium", None, None),
        ("lesion", "prostate-csPCa", "Lesion", None, "Prostate"),
        ("lesion", "", "Lesion", None, None),
        ("csPCa", "", "Neoplasm", None, "Prostate"),
        ("PZ", "prostate", "Peripheral zone of the prostate", None, "Prostate"),
        ("nuclei", "nuclei", "Nucleus", None, None),
    ],
)
def test_names(name, context, meaning, modifier, region) -> None:
    (code,) = codes_for({0: "background", 3: name}, context).values()
    assert code.type.meaning == meaning
    assert (code.modifier.meaning if code.modifier else None) == modifier
    assert (code.region.meaning if code.region else None) == region
    assert not code.private


def test_unknown_names_get_private_codes_that_differ_and_stay() -> None:
    names = {0: "background", 1: "gizmo of the left widget", 2: "gizmo of the left wodget", 4: "é"}
    found = codes_for(names)
    assert set(found) == {1, 2, 4}
    values = [code.type.value for code in found.values()]
    assert len(set(values)) == 3
    assert all(code.private and code.type.scheme == PRIVATE for code in found.values())
    assert [code.type.meaning for code in found.values()] == [names[1], names[2], names[4]]
    assert found == codes_for(names)
    (said,) = notes(found, names)
    assert "gizmo of the left widget" in said
    assert notes(codes_for({1: "liver"}), {1: "liver"}) == []


@pytest.mark.parametrize("name", ["x" * 200, "a\\b", "line\nbreak", "", "***"])
def test_any_name_makes_a_code_that_dicom_can_hold(name: str) -> None:
    (code,) = codes_for({1: name}).values()
    assert 0 < len(code.type.value) <= 16
    assert 0 < len(code.type.meaning) <= 64
    assert "\\" not in code.type.meaning


def test_a_code_too_long_for_dicom_is_refused() -> None:
    with pytest.raises(ValidationError):
        Code(value="12345678901234567", scheme="SCT", meaning="Seventeen")
    with pytest.raises(ValidationError):
        LabelCode(category=ANATOMY, type=ANATOMY, colour="red")


def test_a_model_keeps_its_codes(make_plan) -> None:
    plan = make_plan()
    network = {"name": "unet", "rank": 3, "in_channels": 1, "out_channels": 3}
    values = {"name": "m", "network": network, "plan": plan, "labels": plan.labels}
    spec = ModelSpec.model_validate(values | {"codes": codes_for({2: "liver", 5: "spleen"})})
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again.codes[5].type.meaning == "Spleen"
    assert ModelSpec.model_validate(values).codes == {}
