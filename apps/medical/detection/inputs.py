"""The three series that csPCa detection reads: T2W, ADC and high b-value (PI-RADS v2.1 terms).

Files.  A folder with one case's CASE_t2w.*, CASE_adc.*, CASE_hbv.* (PI-CAI), or CASE_0000.*,
CASE_0001.*, CASE_0002.* (nnU-Net, in the order T2W, ADC, HBV).

DICOM.  Of the MR series that can be read, chosen by description (0008,103E), words in any case:
    t2w  axial, says T2, and not ADC, DWI, FLAIR, a map, or a localizer
    adc  axial, says ADC or apparent diffusion, and not exponential ADC
    hbv  axial, says a b-value of 1000 s/mm2 or more (the highest wins), high b or HBV, or a calculated
         b-value (Siemens: CALC_BVAL), and is neither an ADC map nor T2
Of several candidates the finest in the slice plane is taken, of those the last acquired (highest
series number): a repeated series replaces one that moved.  What was chosen, and what else fitted, is
in ``chosen`` and ``notes``.  A diffusion series of several b-values comes as several volumes, each
with its own; their b-values may also stand in the headers alone.

PI-RADS v2.1 asks for b >= 1400; PI-CAI takes b >= 1000 (pi-cai.grand-challenge.org/DATA).  The words
are those of DIAGNijmegen/picai_prep's mappings for ProstateX, and vendors' usual ones.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.medical.cases import CaseInput
from apps.medical.data.volume import Volume, case_name, is_volume_file, read_image
from apps.medical.detection.grid import covered, detection_grid
from apps.medical.ood import BODY_PARTS
from core.errors import DataError, UsageError

if TYPE_CHECKING:
    from apps.medical.dicom.series import SeriesInfo

ROLES = ("t2w", "adc", "hbv")
TITLES = {"t2w": "T2-weighted", "adc": "ADC map", "hbv": "high b-value"}
HIGH_B = 1000
# Below this share of the T2W image's middle a series shows another part of the body, or nearly so.
ENOUGH, FULL = 0.25, 0.85


@dataclass(frozen=True, eq=False, kw_only=True)
class Biparametric:
    """One study: three volumes on their own grids, what each was made from, what a reader must know."""

    case: str
    t2w: Volume
    adc: Volume
    hbv: Volume
    chosen: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def volumes(self) -> tuple[Volume, Volume, Volume]:
        """In the order of ``ROLES``, which is the network's channel order."""
        return self.t2w, self.adc, self.hbv

    @property
    def source(self) -> CaseInput:
        """What was read, for the manifest: files, and DICOM series."""
        series = [getattr(volume.store, "series", None) for volume in self.volumes]
        files = [v.path for v, s in zip(self.volumes, series, strict=True) if s is None]
        return CaseInput(
            name=self.case, files=tuple(files), series=tuple(s for s in series if s is not None)
        )


def read_study(
    source: Path,
    *,
    t2w: str | None = None,
    adc: str | None = None,
    hbv: str | None = None,
    case: str | None = None,
) -> Biparametric:
    """Find and read the three series of ``source``: a folder of images, or a DICOM folder, zip or
    DICOMDIR.

    ``t2w``, ``adc`` and ``hbv`` override the rule: an image file, or a series' UID, or a part of its
    description that fits one only.  Raises DataError where a series is missing or not readable, where
    the series are of different patients, or hardly overlap; UsageError for an override that fits none.
    """
    wanted = {"t2w": t2w, "adc": adc, "hbv": hbv}
    if not source.exists():
        raise DataError(f"{source}: no such study")
    as_files = {role: _as_file(text, source) for role, text in wanted.items() if text}
    if all(as_files.get(role) for role in ROLES):
        files = {role: file for role, file in as_files.items() if file is not None}
        return _from_files(files, case or _case_of(source))
    named = {} if source.is_file() else find_files(source)
    if named:
        name, files = _only(named, source)
        files |= {role: file for role, file in as_files.items() if file is not None}
        strange = [role for role in as_files if as_files[role] is None]
        if strange:
            raise UsageError(f"--{strange[0]} {wanted[strange[0]]}: no such file")
        missing = [role for role in ROLES if role not in files]
        if missing:
            raise DataError(
                f"{source}: no {TITLES[missing[0]]} image ({name}_{missing[0]}.*); add it, or name "
                f"it with --{missing[0]}"
            )
        return _from_files(files, case or name)
    return _from_dicom(source, wanted, as_files, case or _case_of(source))


def find_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Role -> file of each case among the images of ``folder``, by the names that say so."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        if not is_volume_file(file):
            continue
        match = re.fullmatch(r"(.*?)_?(t2w|adc|hbv|000[012])", case_name(file), re.IGNORECASE)
        if match is None:
            continue
        word = match[2].lower()
        role = ROLES[int(word)] if word.isdigit() else word
        held = found.setdefault(match[1] or _case_of(folder), {})
        if role in held:
            raise DataError(f"{held[role]} and {file}: both are the {TITLES[role]} image; keep one")
        held[role] = file
    return found


def _only(named: Mapping[str, dict[str, Path]], source: Path) -> tuple[str, dict[str, Path]]:
    if len(named) > 1:
        names = sorted(named)
        raise UsageError(
            f"{source}: holds {len(named)} cases, {names[0]}, {names[1]}{', ...' * (len(names) > 2)}; "
            "name one's images with --t2w, --adc and --hbv"
        )
    name, files = next(iter(named.items()))
    return name, dict(files)


def _as_file(text: str | None, source: Path) -> Path | None:
    if text is None:
        return None
    for path in (Path(text), source / text):
        if path.is_file() and is_volume_file(path):
            return path
    return None


def _case_of(source: Path) -> str:
    source = source.resolve()  # so that ".." never names a folder of results
    name = source.parent.name if source.name.upper() == "DICOMDIR" else source.name
    return name.removesuffix(".zip").removesuffix(".ZIP") or "study"


def _from_files(files: Mapping[str, Path], case: str) -> Biparametric:
    volumes = {role: read_image(files[role]) for role in ROLES}
    return _checked(volumes, {role: files[role].name for role in ROLES}, (), case)


def _from_dicom(
    source: Path,
    wanted: Mapping[str, str | None],
    as_files: Mapping[str, Path | None],
    case: str,
) -> Biparametric:
    from apps.medical.dicom.series import list_series
    from apps.medical.dicom.volume import read_series

    found = list_series(source)
    volumes: dict[str, Volume] = {}
    chosen: dict[str, str] = {}
    notes: list[str] = []
    picked: list[SeriesInfo] = []
    for role in ROLES:
        file = as_files.get(role)
        if file is not None:
            volumes[role], chosen[role] = read_image(file), file.name
            continue
        info, others = choose(found, role, wanted[role], str(source))
        picked.append(info)
        volumes[role] = read_series(info)
        chosen[role] = _named(info)
        if others:
            more = "; ".join(map(_named, others))
            notes.append(f"{TITLES[role]}: took {chosen[role]}; also fitting: {more}")
    patients = {info.patient_id for info in picked}
    if len(patients) > 1:
        raise DataError(f"{source}: the chosen series are of {len(patients)} patients; give one")
    frames = {getattr(v.store, "frame_of_reference_uid", None) for v in volumes.values()} - {None}
    parts = {info.body_part.upper() for info in picked} - {""}
    if parts and not parts & BODY_PARTS["prostate"]:
        notes.append(
            f"the headers say {', '.join(sorted(parts))}: is this a study of the prostate?"
        )
    if len(frames) > 1:
        notes.append(
            "the series have different frames of reference: whether they are aligned is not known"
        )
    return _checked(volumes, chosen, tuple(notes), case)


def choose(
    found: Sequence[SeriesInfo], role: str, wanted: str | None, source: str
) -> tuple[SeriesInfo, list[SeriesInfo]]:
    """The series for a role and the others that fit it too; see the module's docstring."""
    if wanted is not None:
        text = wanted.casefold()
        fitting = [s for s in found if wanted in (s.uid, str(s.number))]
        fitting = fitting or [s for s in found if text in s.title.casefold()]
        if len(fitting) != 1:
            raise UsageError(
                f"--{role} {wanted}: fits {len(fitting)} series of {source}; {_listed(found)}"
            )
        if fitting[0].refusal:
            raise DataError(f"{fitting[0].label} {fitting[0].refusal}")
        return fitting[0], []
    fitting = [s for s in found if not s.refusal and fits(role, s)]
    if not fitting:
        refused = next((s for s in found if s.refusal and says(role, s.title, b_value(s))), None)
        why = f" (series {refused.number} '{refused.title}' {refused.refusal})" if refused else ""
        raise DataError(
            f"{source}: no {TITLES[role]} series{why}; name one with --{role}; {_listed(found)}"
        )
    best = max(fitting, key=lambda s: (b_value(s) if role == "hbv" else 0, *_preference(s)))
    return best, [s for s in fitting if s is not best]


def fits(role: str, series: SeriesInfo) -> bool:
    """Whether a series is an axial MR volume whose description says it is one of a role's."""
    volume = series.modality == "MR" and series.slices >= 3 and "axial" in series.orientation
    return volume and says(role, series.title, b_value(series))


def says(role: str, description: str, b: int = 0) -> bool:
    """Whether a description is one of a role's; ``b`` is its b-value in s/mm2, 0 if not known."""
    text = description.lower()
    words = set(re.split(r"[^a-z0-9]+", text))
    if words & {"loc", "localizer", "localiser", "scout", "survey", "sub", "subtraction"}:
        return False
    adc = re.search(r"adc|apparent", text) is not None
    if role == "adc":
        return adc and not re.search(r"eadc|expon", text)
    if adc:
        return False
    t2 = "t2" in text
    if role == "t2w":
        return t2 and not re.search(r"flair|dwi|diff|map|bval|b_val|t2\*|t2.?star", text)
    high = re.search(r"hbv|high.?b|calc.?b|bval|b.?value", text) is not None
    return not t2 and (b >= HIGH_B or (high and not 0 < b < HIGH_B))


def b_value(series: SeriesInfo) -> int:
    """The highest b-value that the title names (b1400, b=1400, BVAL_1400), or the headers; else 0."""
    text = series.title.lower()
    numbers = re.findall(r"(?<![a-z])b(?:.?val(?:ue)?)?[\s_=]*(\d{2,4})(?!\d)", text)
    frames = series.stack.frames if series.stack is not None else ()
    headers = [float(frame.facts["b"]) for frame in frames if "b" in frame.facts]
    return max((int(n) for n in (*numbers, *headers)), default=0)


def _preference(series: SeriesInfo) -> tuple[float, int]:
    """Finer first, then later."""
    return -round(float(np.prod(series.spacing[:2])), 3), series.number or -1


def _named(series: SeriesInfo) -> str:
    number = "a series" if series.number is None else f"series {series.number}"
    return f"{number}, {series.title or series.uid}"


def _listed(found: Sequence[SeriesInfo]) -> str:
    names = [(f"{s.number}: " if s.number is not None else "") + (s.title or s.uid) for s in found]
    return "the study has " + "; ".join(names[:12]) + ("; ..." if len(names) > 12 else "")


def _checked(
    volumes: Mapping[str, Volume], chosen: Mapping[str, str], notes: tuple[str, ...], case: str
) -> Biparametric:
    """The study, after what would make its channels meaningless is ruled out."""
    said = list(notes)
    for first, second in itertools.combinations(ROLES, 2):
        same = volumes[first].path == volumes[second].path
        if same and chosen[first] == chosen[second]:
            raise UsageError(
                f"{chosen[first]} is given as {TITLES[first]} and as {TITLES[second]}; name another "
                f"with --{second}"
            )
    for role, volume in volumes.items():
        if volume.rank != 3 or not volume.physical or volume.channels != 1:
            raise DataError(f"{volume.path}: {TITLES[role]} must be one volume in space")
        if volume.array.min() == volume.array.max():
            raise DataError(
                f"{volume.path}: every voxel of the {TITLES[role]} image is "
                f"{volume.array.flat[0]:g}; was it exported correctly?"
            )
        said += [f"{TITLES[role]}: {note}" for note in volume.notes.values()]
        if role == "t2w":
            grid = detection_grid(volume, (2, 2, 3), (64, 64, 20))
            middle = covered(volume, grid)
            continue
        share = float((covered(volume, grid) & middle).sum() / max(1, middle.sum()))
        if share < ENOUGH:
            raise DataError(
                f"{volume.path}: the {TITLES[role]} image covers {share:.0%} of the middle of the "
                "T2W image; are they of one study?"
            )
        if share < FULL:
            said.append(f"the {TITLES[role]} image covers {share:.0%} of the T2W image's middle")
    if volumes["adc"].array.min() < 0:
        said.append("the ADC map has negative values; is it an ADC map?")
    return Biparametric(case=case, chosen=dict(chosen), notes=tuple(said), **volumes)
