"""What a label means, in codes that a viewer understands: DICOM's Segmentation Property codes.

A segment of a DICOM segmentation says what it is by a category, a type and an optional modifier
(PS3.3 C.8.20.4, Segment Description Macro; PS3.16 CID 7150 categories, CID 7151 types, CID 2 and
CID 244 modifiers). The values here are SNOMED CT's as PS3.16 prints them; a test compares each with
pydicom's copy of PS3.16. Names that the table lacks get a code of the private scheme 99TRIPTYCH
(PS3.16 section 8.1: private designators begin with 99), which `notes` says in words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from apps.medical.dicom.derived import line
from core.config import StrictModel

PRIVATE = "99TRIPTYCH"
PRIVATE_NAME = "Triptych label names without a public code"


class Code(StrictModel):
    """Code value, coding scheme designator, meaning (PS3.3 section 8.2); VRs SH, SH and LO."""

    value: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")]
    scheme: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")]
    meaning: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]


class LabelCode(StrictModel):
    """What one label is. ``colour`` is #RRGGBB; None leaves the choice to the writer."""

    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None
    colour: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")] | None = None

    @property
    def private(self) -> bool:
        """Whether the type is one that only this program knows."""
        return self.type.scheme == PRIVATE


def _sct(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="SCT", meaning=meaning)


ANATOMY = _sct("91723000", "Anatomical Structure")
ABNORMAL = _sct("49755003", "Morphologically Abnormal Structure")
TISSUE = _sct("85756007", "Tissue")
BRAIN, PROSTATE = _sct("12738006", "Brain"), _sct("41216001", "Prostate")
SKIN = _sct("39937001", "Skin")
MODIFIERS = {
    "left": _sct("7771000", "Left"),
    "right": _sct("24028007", "Right"),
    "anterior": _sct("255549009", "Anterior"),
    "posterior": _sct("255551008", "Posterior"),
}
# Structures by name, in the singular: category, type, region. Longer names are tried first.
STRUCTURES: dict[str, tuple[Code, Code, Code | None]] = {
    "hippocampus": (ANATOMY, _sct("5366008", "Hippocampus"), BRAIN),
    "amygdala": (ANATOMY, _sct("4958002", "Amygdala"), BRAIN),
    "brain": (ANATOMY, BRAIN, None),
    "white matter": (TISSUE, _sct("68523003", "Cerebral White Matter"), BRAIN),
    "gray matter": (TISSUE, _sct("40146001", "Cerebral Gray Matter"), BRAIN),
    "prostate": (ANATOMY, PROSTATE, None),
    "peripheral zone": (ANATOMY, _sct("279706003", "Peripheral zone of the prostate"), PROSTATE),
    "transition zone": (ANATOMY, _sct("399384005", "Transition zone of the prostate"), PROSTATE),
    "prostate lesion": (ABNORMAL, _sct("52988006", "Lesion"), PROSTATE),
    "prostate cancer": (ABNORMAL, _sct("108369006", "Neoplasm"), PROSTATE),
    "brain lesion": (ABNORMAL, _sct("52988006", "Lesion"), BRAIN),
    "skin lesion": (ABNORMAL, _sct("52988006", "Lesion"), SKIN),
    "lesion": (ABNORMAL, _sct("52988006", "Lesion"), None),
    "tumor": (ABNORMAL, _sct("108369006", "Neoplasm"), None),
    "neoplasm": (ABNORMAL, _sct("108369006", "Neoplasm"), None),
    "mass": (ABNORMAL, _sct("4147007", "Mass"), None),
    "edema": (ABNORMAL, _sct("79654002", "Edema"), None),
    "necrosis": (ABNORMAL, _sct("6574001", "Necrosis"), None),
    "nucleus": (ANATOMY, _sct("84640000", "Nucleus"), None),
    "heart": (ANATOMY, _sct("80891009", "Heart"), None),
    "left atrium": (ANATOMY, _sct("82471001", "Left atrium"), None),
    "liver": (ANATOMY, _sct("10200004", "Liver"), None),
    "spleen": (ANATOMY, _sct("78961009", "Spleen"), None),
    "pancreas": (ANATOMY, _sct("15776009", "Pancreas"), None),
    "kidney": (ANATOMY, _sct("64033007", "Kidney"), None),
    "lung": (ANATOMY, _sct("39607008", "Lung"), None),
    "aorta": (ANATOMY, _sct("15825003", "Aorta"), None),
    "urinary bladder": (ANATOMY, _sct("89837001", "Bladder"), None),
}
# Other words for the same: plurals, spellings, abbreviations of the data sets read here.
SYNONYMS = {
    "hippocampi": "hippocampus", "nuclei": "nucleus", "lesions": "lesion", "tumour": "tumor",
    "tumors": "tumor", "tumours": "tumor", "oedema": "edema", "grey matter": "gray matter",
    "pz": "peripheral zone", "tz": "transition zone", "cspca": "prostate cancer",
    "cancer": "neoplasm", "bladder": "urinary bladder", "kidneys": "kidney", "lungs": "lung",
}  # fmt: skip


def codes_for(names: Mapping[int, str], context: str = "") -> dict[int, LabelCode]:
    """Codes of the labels ``names`` (id -> name; 0, background, has none).

    A name that is only a place ("anterior") means that part of what ``context`` names, such as the
    model's or data set's name ("hippocampus"); so does "lesion" in "prostate". Every other unknown
    name gets a private code, see ``notes``.
    """
    return {label: _code(name, context) for label, name in names.items() if label != 0}


def notes(codes: Mapping[int, LabelCode], names: Mapping[int, str]) -> list[str]:
    """What a reader should know: which labels no other program will know by their code."""
    private = [names[label] for label, code in codes.items() if code.private and label in names]
    if not private:
        return []
    return [
        f"no public code is known for {', '.join(private)}: written with the private scheme "
        f"{PRIVATE}, so other programs know only the name; give label codes in model.json"
    ]


def _code(name: str, context: str) -> LabelCode:
    words, about = _plain(name), _plain(context)
    found = STRUCTURES.get(words)  # "left atrium" is a structure, not the left of an atrium
    place = next((word for word in MODIFIERS if found is None and word in words.split()), None)
    rest = " ".join(word for word in words.split() if word != place)
    if found is None:
        found = STRUCTURES.get(SYNONYMS.get(rest, rest))
    if found is None and not rest:
        found = _inside(about)
    elif found is not None:  # "lesion" of a model named "prostate" lies in the prostate
        nearer = (f"{word} {SYNONYMS.get(rest, rest)}" for word in about.split())
        found = next((STRUCTURES[known] for known in nearer if known in STRUCTURES), found)
    if found is None:
        return LabelCode(category=ANATOMY, type=_private(name))
    category, kind, region = found
    modifier = MODIFIERS[place] if place else None
    return LabelCode(category=category, type=kind, modifier=modifier, region=region)


def _inside(text: str) -> tuple[Code, Code, Code | None] | None:
    """The structure with the longest name that ``text`` contains as whole words."""
    for known in sorted({**STRUCTURES, **SYNONYMS}, key=len, reverse=True):
        if re.search(rf"\b{known}\b", text):
            return STRUCTURES[SYNONYMS.get(known, known)]
    return None


def _plain(text: str) -> str:
    """Words in lower case, one space between them."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _private(name: str) -> Code:
    """A code of our own for a name: readable, and different for different names."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    readable = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")[:9].strip("_") or "LABEL"
    return Code(value=f"{readable}_{digest[:6]}", scheme=PRIVATE, meaning=line(name, "label"))
