"""Which series of a source a model takes: what the person asked for, or a rule.

Without a wish, what cannot be segmented and what is of another modality than the model's is left
out, and what says in its description to be another kind of image than the model's channel (T1,
T2, FLAIR, ADC, ...). Then, while several remain and if it leaves at least one: series not named
like the model's data set or channel, and series whose extent in mm is unlike what the model was
trained on. When several remain, or the source holds several patients, nothing is guessed:
UsageError lists them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.medical.dicom.series import SeriesInfo
from core.errors import DataError, UsageError

if TYPE_CHECKING:
    from apps.medical.data.plan import Plan

EXTENT_RATIO = 1.75  # of an axis, beyond which a field of view is another than in training
SHOWN = 6  # candidates named in a message

# The first that matches decides: an ADC map's description often says DWI as well, a FLAIR's T2.
KINDS = (
    ("ADC", r"\badc\b|apparent.?diff|_adc"),
    ("DWI", r"\bdwi|diff|trace|b.?val|\bhbv\b|ep2d"),
    ("FLAIR", r"flair|dark.?fluid"),
    ("T2*", r"t2\s?\*|t2_?star|\bswi\b|\bgre\b"),
    ("T2", r"t2"),
    ("T1", r"t1|mp.?rage|spgr|bravo"),
    ("PD", r"\bpd\b|proton.?dens"),
)
_MR = r"\b(mr|mri|t1|t1w|t2|t2w|pd|pdw|flair|adc|dwi|swi|hbv)\b"


def choose_series(
    found: Sequence[SeriesInfo],
    wanted: str | None = None,
    plan: Plan | None = None,
    channel: int = 0,
) -> SeriesInfo:
    """The series that ``wanted`` names, or the one that fits ``plan``'s ``channel``.

    ``wanted`` is a series UID, a series number, or a part of one series' description in any case.
    Raises UsageError listing the candidates where none or several fit, DataError where the chosen
    one cannot be segmented or is of another modality than the model's.
    """
    if not found:
        raise DataError("no DICOM series to choose from")
    chosen = _named(found, wanted) if wanted is not None else _by_rule(found, plan, channel)
    if chosen.refusal:
        raise DataError(f"{chosen.label} {chosen.refusal}")
    want, got = modality_of(plan, channel), chosen.modality
    if want and got and got != want and got not in ("OT", "SC"):
        raise DataError(
            f"{chosen.label} is {got}, the model was trained on {want}; choose another model"
        )
    return chosen


def kind_of(text: str) -> str:
    """What kind of MR image a description or a channel's name says: T1, T2, FLAIR, ADC, ... or ""."""
    lower = text.lower().replace("_", " ")
    return next((kind for kind, words in KINDS if re.search(words, lower)), "")


def modality_of(plan: Plan | None, channel: int = 0) -> str:
    """CT, MR or PT where the plan's channel says so, else ""."""
    if plan is None:
        return ""
    name = plan.channels[channel].lower().replace("_", " ")
    if plan.normalisation[channel] == "ct" or re.search(r"\bct\b", name):
        return "CT"
    if re.search(_MR, name):
        return "MR"
    return "PT" if re.search(r"\b(pet|pt|suv)\b", name) else ""


def _named(found: Sequence[SeriesInfo], wanted: str) -> SeriesInfo:
    text = wanted.strip().casefold()
    matches: list[SeriesInfo] = []
    for fits in (
        lambda info: info.uid == wanted.strip(),
        lambda info: info.number is not None and str(info.number) == text,
        lambda info: info.title.casefold() == text,
        lambda info: text != "" and text in info.title.casefold(),
    ):
        matches = [info for info in found if fits(info)]
        if matches:
            break
    if len(matches) == 1:
        return matches[0]
    source = found[0].source
    if not matches:
        raise UsageError(f"{source}: no series '{wanted}'; there are {_listed(found)}")
    raise UsageError(f"{source}: '{wanted}' fits {len(matches)} series: {_listed(matches)}")


def _by_rule(found: Sequence[SeriesInfo], plan: Plan | None, channel: int) -> SeriesInfo:
    source = found[0].source
    usable = [info for info in found if not info.refusal]
    if not usable:
        if len(found) == 1:
            raise DataError(f"{found[0].label} {found[0].refusal}")
        reasons = "; ".join(f"'{i.title}' {i.refusal}" for i in found[:3])
        raise DataError(
            f"{source}: none of the {len(found)} series can be segmented: {reasons}"
            + ("; ..." if len(found) > 3 else "")
        )
    want = modality_of(plan, channel)
    fitting = [i for i in usable if not want or i.modality in (want, "", "OT", "SC")]
    if not fitting:
        held = ", ".join(sorted({info.modality for info in usable}))
        raise DataError(
            f"{source}: holds {held}, the model was trained on {want}; choose another model or study"
        )
    kinds = [kind_of(info.title) for info in fitting]
    kind = kind_of(plan.channels[channel]) if plan is not None else ""
    if kind and kind not in kinds and all(kinds):
        raise DataError(
            f"{source}: holds {', '.join(sorted(set(kinds)))}, the model takes"
            f" '{plan.channels[channel]}'; choose another study, or insist with --series:"  # type: ignore[union-attr]
            f" {_listed(fitting)}"
        )
    patients = len({info.patient_id for info in fitting})
    if patients > 1:
        raise UsageError(
            f"{source}: holds series of {patients} patients; give one patient's folder, or choose"
            f" with --series: {_listed(fitting)}"
        )
    for rule in (_of_kind, _of_name, _of_extent):
        if len(fitting) > 1 and plan is not None:
            fitting = rule(fitting, plan, channel) or fitting
    if len(fitting) == 1:
        return fitting[0]
    raise UsageError(f"{source}: several series fit; choose with --series: {_listed(fitting)}")


def _of_kind(found: Sequence[SeriesInfo], plan: Plan, channel: int) -> list[SeriesInfo]:
    """Series that say the channel's kind, or else none that say another."""
    want = kind_of(plan.channels[channel])
    kinds = [kind_of(info.title) for info in found]
    same = [info for info, kind in zip(found, kinds) if kind == want]
    unsaid = [info for info, kind in zip(found, kinds) if not kind]
    return same + unsaid if want else []


def _of_name(found: Sequence[SeriesInfo], plan: Plan, channel: int) -> list[SeriesInfo]:
    """Series whose description shares a word's first five letters with the data set or channel."""
    text = f"{plan.dataset} {plan.channels[channel]}".lower()
    stems = {word[:5] for word in re.findall(r"[a-z]{5,}", text)}
    return [i for i in found if any(stem in i.title.lower() for stem in stems)]


def _of_extent(found: Sequence[SeriesInfo], plan: Plan, channel: int) -> list[SeriesInfo]:
    """Series about as large as the images of training, axis by axis in order of length."""
    if plan.spacing is None or len(plan.median_shape) != 3:
        return []
    usual = sorted(n * d for n, d in zip(plan.median_shape, plan.spacing))
    near = []
    for info in found:
        size = sorted(n * d for n, d in zip(info.shape, info.spacing))
        if all(max(a / b, b / a) <= EXTENT_RATIO for a, b in zip(size, usual)):
            near.append(info)
    return near


def _listed(found: Sequence[SeriesInfo]) -> str:
    parts = []
    for info in found[:SHOWN]:
        number = "" if info.number is None else f"{info.number} "
        what = (info.refusal and "not usable") or f"{info.orientation}, {info.slices} slices"
        parts.append(f"{number}'{info.title}' ({what})")
    more = f" and {len(found) - SHOWN} more, see `info`" if len(found) > SHOWN else ""
    return ", ".join(parts) + more
