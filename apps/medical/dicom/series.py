"""The series of a DICOM source: what each is, whether it can be segmented, and if not, why.

A series is what shares a Series Instance UID. Where several volumes do (b-values, echoes, time
points, or several multi-frame files), each becomes an entry of its own, told apart by the first
attribute that splits the slices into whole stacks. Only headers are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import DataError

if TYPE_CHECKING:
    from apps.medical.dicom.geometry import Stack
    from apps.medical.dicom.headers import Frame, Instance
    from apps.medical.dicom.sources import Source


# What may lie beside the slices under their UID, and is no slice: scouts, screenshots, objects.
BESIDE = ("is a localizer", "is in colour", "holds no image", "is a segmentation", "is an RT dose")


@dataclass(frozen=True)
class SeriesInfo:
    """One volume of a source, or something else that lies there and cannot be segmented.

    ``shape`` (x, y, z) and ``spacing`` in mm count columns, rows and slices; of a series without a
    grid they are what is known, else 0. ``refusal`` is why it cannot be segmented, "" if it can.
    ``part`` tells apart volumes that share ``uid``. ``patient_id`` is for comparing, not for showing.
    """

    uid: str
    description: str
    number: int | None
    modality: str
    patient_id: str
    study_uid: str
    body_part: str
    orientation: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    slices: int
    frames: int
    transfer_syntax: str
    notes: tuple[str, ...]
    refusal: str
    files: tuple[Path, ...]
    source: Path = Path()
    part: str = ""
    stack: Stack | None = field(default=None, repr=False, compare=False)
    instances: tuple[Instance, ...] = field(default=(), repr=False, compare=False)

    @property
    def label(self) -> str:
        """How messages call it: ``study.zip: series 4 't2_tse_tra'``."""
        number = f" {self.number}" if self.number is not None else ""
        return f"{self.source}: series{number} '{self.title}'"

    @property
    def title(self) -> str:
        """The description and, where volumes share a UID, which of them."""
        return " ".join(text for text in (self.description, self.part and f"[{self.part}]") if text)


def list_series(source: Path | str) -> list[SeriesInfo]:
    """Every series of a folder (all levels), zip, DICOMDIR or single file, by study and number.

    Raises DataError where nothing there is DICOM, and as ``open_source``. Files that cannot be
    parsed are named in the notes of every entry; when there are no others, DataError.
    """
    from apps.medical.dicom.headers import read_instance
    from apps.medical.dicom.refusals import DIRECTORY, HEADLESS
    from apps.medical.dicom.sources import open_source

    opened = open_source(source)
    instances: list[Instance] = []
    damaged: list[str] = []
    for file in opened.files:
        try:
            instance = read_instance(file)
            if instance.refusal == HEADLESS and not instance.series_uid:
                damaged.append(f"{opened.name_of(file)} {HEADLESS}")
            elif instance.sop_class != DIRECTORY:
                instances.append(instance)
        except DataError as error:
            damaged.append(str(error).replace(str(file), opened.name_of(file)))
    if not instances:
        empty = f"{source}: no DICOM image in it, only a directory of others"
        raise DataError(damaged[0] if damaged else empty)
    notes = list(opened.notes)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        notes.append(f"a file that may belong here could not be read{more}: {damaged[0]}")
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        # Without a UID nothing says which files belong together but the study and the number.
        key = instance.series_uid or f"{instance.study_uid}/{instance.number}"
        groups.setdefault(key, []).append(instance)
    found = [entry for group in groups.values() for entry in _entries(group, opened, notes)]
    return sorted(found, key=_order)


def _order(info: SeriesInfo) -> tuple[str, bool, int, str, str]:
    return info.study_uid, info.number is None, info.number or 0, info.uid, info.part


def _entries(group: list[Instance], source: Source, notes: Sequence[str]) -> list[SeriesInfo]:
    """The volumes of what shares one series UID, or one entry that says why there is none."""
    from apps.medical.dicom import geometry

    refusals = Counter(instance.refusal for instance in group if instance.refusal)
    usable = [instance for instance in group if not instance.refusal]
    trouble = _unlike(group, usable or group)
    if trouble:
        return [_refused(group, source, notes, trouble)]
    if not usable:
        return [_refused(group, source, notes, refusals.most_common(1)[0][0])]
    faults = [(text, n) for text, n in refusals.most_common() if not text.startswith(BESIDE)]
    if faults:  # a slice that cannot be read would leave a hole, at the end of a stack unseen
        text, count = faults[0]
        text = f"cannot be used whole: of {len(group)} files {count} say: {text}"
        return [_refused(group, source, notes, text)]
    if refusals:
        text, count = refusals.most_common(1)[0]
        notes = [*notes, f"{sum(refusals.values())} files left out: the first {text}"]
    usable, same, trouble = _distinct(usable)
    if trouble:
        return [_refused(group, source, notes, trouble)]
    if same:
        notes = [*notes, f"{same} files are copies of others and left out"]
    volumes = [[i] for i in usable if len(i.frames) > 1]  # a multi-frame file is a volume by itself
    several = len(volumes) + any(len(i.frames) == 1 for i in usable) > 1
    volumes += [single] if (single := [i for i in usable if len(i.frames) == 1]) else []
    entries = []
    for number, members in enumerate(volumes, 1):
        file_part = f"file {number}" if several else ""
        frames = [frame for instance in members for frame in instance.frames]
        if trouble := _uneven(members):
            entries.append(_refused(members, source, notes, trouble, file_part))
            continue
        try:
            geometry.one_plane(frames)
            parts = split(frames)
        except geometry.NoGrid as why:
            entries.append(_refused(members, source, notes, str(why), file_part))
            continue
        for part, chosen in parts:
            name = ", ".join(text for text in (file_part, part) if text)
            try:
                grid = geometry.stack(chosen)
            except geometry.NoGrid as why:
                entries.append(_refused(members, source, notes, str(why), name, chosen))
            else:
                entries.append(_accepted(members, source, notes, name, grid))
    if len(entries) > 1:
        text = f"one of {len(entries)} volumes that share a series UID"
        entries = [replace(entry, notes=(*entry.notes, text)) for entry in entries]
    return entries


def _unlike(group: list[Instance], images: list[Instance]) -> str:
    """What shows that files of one series UID do not belong together, or ""."""
    if len({instance.patient for instance in group}) > 1:
        return "mixes several patients under one series UID; export each patient again"
    for what, values in (
        ("study", {i.study_uid for i in group}),
        ("modality", {i.modality for i in images}),
        ("series number", {i.number for i in images}),
        ("frame of reference", {i.frame_of_reference_uid for i in images}),
    ):
        if len(values) > 1:
            return (
                f"is {len(values)} series with one UID (they differ in {what}); "
                "give them in separate folders"
            )
    return ""


def _uneven(images: list[Instance]) -> str:
    """What shows that images are not slices of one volume, or ""."""
    for what, kinds in (
        ("sizes", {(i.rows, i.columns) for i in images}),
        ("pixel formats", {(i.photometric, i.bits) for i in images}),
    ):
        if len(kinds) > 1:
            return f"has images of {len(kinds)} {what}; give those of one {what[:-1]} alone"
    return ""


def _distinct(instances: list[Instance]) -> tuple[list[Instance], int, str]:
    """Without files that are copies of others. Two images under one UID are no copies."""
    from core.files import sha256

    kept: dict[str, Instance] = {}
    anonymous: list[Instance] = []
    same = 0
    for instance in instances:
        other = kept.get(instance.sop_uid)
        if not instance.sop_uid:
            anonymous.append(instance)
        elif other is None:
            kept[instance.sop_uid] = instance
        elif other.frames[0].position != instance.frames[0].position or (
            sha256(other.file) != sha256(instance.file)
        ):
            return [], 0, "has two different images with one SOP Instance UID; export it again"
        else:
            same += 1
    return [*kept.values(), *anonymous], same, ""


def split(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]]:
    """Volumes among parallel frames as (name, frames); one without a name if places are distinct.

    Where places repeat, the first fact that splits the frames into stacks of about equal size, in
    the order the headers list them, does so; again within each where places still repeat. Frames
    that nothing tells apart stay together, for ``geometry.stack`` to refuse.
    """
    from apps.medical.dicom.geometry import places

    count = places(frames)
    if count == len(frames) or count < 2:
        return [("", list(frames))]
    names = list(dict.fromkeys(name for frame in frames for name in frame.facts))
    for name in names:
        groups: dict[str, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(frame.facts.get(name, ""), []).append(frame)
        whole = all(places(group) >= max(2, 0.5 * count) for group in groups.values())
        if len(groups) < 2 or not whole:
            continue
        found = []
        for value, group in sorted(groups.items(), key=lambda item: _natural(item[0])):
            for inner, members in split(group):
                text = f"{name} {value or 'none'}"
                found.append((f"{text}, {inner}" if inner else text, members))
        return found
    return [("", list(frames))]


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _accepted(
    members: list[Instance], source: Source, notes: Sequence[str], part: str, grid: Stack
) -> SeriesInfo:
    from apps.medical.data.volume import check_voxels
    from apps.medical.dicom.geometry import normal, orientation_name

    first, count = members[0], len(grid.frames)
    by_file = {instance.file: instance for instance in members}
    refusal = ""
    if not all(frame.slope and isfinite(frame.slope * frame.intercept) for frame in grid.frames):
        refusal = "has a Rescale Slope or Intercept that is 0 or no number"
    shape = (first.columns, first.rows, count)
    try:
        check_voxels(source.path, shape)
    except DataError as error:
        refusal = str(error).removeprefix(f"{source.path}: ")
    declared = first.slice_spacing
    own = [*notes, *grid.notes]
    if declared is not None and abs(grid.spacing[2] / max(declared, 1e-6) - 2) < 0.02:
        own.append(
            f"slices are {grid.spacing[2]:.3g} mm apart, the header says {declared:.3g} mm: "
            "is every second one missing?"
        )
    if any(by_file[frame.file].lossy for frame in grid.frames):
        own.append("the images were compressed with loss")
    info = _info(members, source, own, refusal, part)
    return replace(
        info,
        orientation=orientation_name(normal(grid.frames[0])),
        shape=shape,
        spacing=grid.spacing,
        slices=count,
        frames=count,
        files=tuple(dict.fromkeys(frame.file for frame in grid.frames)),
        stack=None if refusal else grid,
    )


def _refused(
    members: list[Instance],
    source: Source,
    notes: Sequence[str],
    refusal: str,
    part: str = "",
    frames: Sequence[Frame] | None = None,
) -> SeriesInfo:
    from apps.medical.dicom.geometry import NoGrid, normal, orientation_name

    info = _info(members, source, notes, refusal, part)
    chosen = frames or [frame for instance in members for frame in instance.frames]
    first = chosen[0] if chosen else None
    if first is None:
        return info
    try:
        name = orientation_name(normal(first))
    except NoGrid:
        name = "unknown"
    rows, columns = first.spacing or (0.0, 0.0)
    return replace(info, orientation=name, spacing=(columns, rows, 0.0), frames=len(chosen))


def _info(
    members: list[Instance], source: Source, notes: Sequence[str], refusal: str, part: str
) -> SeriesInfo:
    from apps.medical.dicom.refusals import transfer_syntax_name

    first = next((i for i in members if i.rows > 0), members[0])
    count = sum(len(instance.frames) for instance in members)
    return SeriesInfo(
        uid=first.series_uid,
        description=first.description,
        number=first.number,
        modality=first.modality,
        patient_id=first.patient[0],
        study_uid=first.study_uid,
        body_part=first.body_part,
        orientation="unknown",
        shape=(first.columns, first.rows, count if first.rows > 0 else 0),
        spacing=(0.0, 0.0, 0.0),
        slices=0,
        frames=count if first.rows > 0 else 0,
        transfer_syntax=transfer_syntax_name(first.transfer_syntax),
        notes=tuple(notes),
        refusal=refusal,
        files=tuple(instance.file for instance in members),
        source=source.path,
        part=part,
        instances=tuple(members),
    )
