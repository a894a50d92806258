"""Reading DICOM Segmentation objects (PS3.3 A.51), our own and those of other programs.

The frames say where they lie and which segment they show (PS3.3 C.7.6.16, functional groups), in
any order and with empty ones left out. They are put on one grid: that of a given image, or the
smallest regular one that holds them. Nothing is resampled: a frame beside the grid is an error.

Read: BINARY, one bit per voxel, and LABELMAP (Supplement 243). Not read: FRACTIONAL, which holds
probabilities. The file is untrusted: its declared size is bounded before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.volume import MAX_VOXELS, Volume, check_voxels, smallest_unsigned
from core.errors import DataError, TriptychError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
MAX_FRAMES = 1_000_000
DEFLATED = "1.2.840.10008.1.2.1.99"
# Of a voxel's edge: how far a frame may lie beside the grid's slices.
TOLERANCE = 0.05
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False, kw_only=True)
class SegContent:
    """What a segmentation file holds.

    ``volume`` has label ids (column, row, slice) with ``affine`` to RAS+ mm; where segments overlap
    the one of the higher number won, and ``overlaps`` names the pairs. ``names`` maps ids to
    segment labels, ``types`` to (value, scheme, meaning) of the property type. ``instances`` are
    the SOP Instance UIDs it refers to, ``algorithm`` is "name version" or "".
    """

    volume: Volume
    names: dict[int, str]
    types: dict[int, tuple[str, str, str]]
    overlaps: tuple[tuple[str, str], ...]
    study: str
    series: tuple[str, ...]
    instances: tuple[str, ...]
    frame_of_reference: str
    algorithm: str


@dataclass(frozen=True, kw_only=True)
class _Frame:
    segment: int  # 0 in a label map
    position: np.ndarray  # (3,) LPS mm of the first voxel's centre


def read_seg(
    path: Path | str, *, like: Volume | None = None, names: Mapping[int, str] | None = None
) -> SegContent:
    """Read a segmentation; ids are the segment numbers, or those that ``names`` gives the labels.

    With ``like`` the result lies on that image's grid, in its array order; without, on the smallest
    grid that holds the frames. Raises DataError for a file that is no readable segmentation, holds
    probabilities, has frames on no regular grid, or does not lie on the grid of ``like``.
    """
    path = Path(path)
    try:
        dataset = _open(path)
        return _read(path, dataset, like, names)
    except TriptychError:
        raise
    except MemoryError as error:
        raise DataError(f"{path}: too large for this machine's memory") from error
    except Exception as error:  # a damaged file raises whatever its decoder thinks of
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: is no readable DICOM segmentation ({reason})") from error


def _open(path: Path) -> Dataset:
    import pydicom

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    meta = pydicom.filereader.read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
        raise DataError(f"{path}: deflated, so its size is unknown; store it uncompressed")
    dataset = pydicom.dcmread(path, defer_size=2**16)
    if str(dataset.get("SOPClassUID", "")) not in SEGMENTATIONS:
        kind = getattr(dataset.get("SOPClassUID"), "name", "an object without a class")
        raise DataError(f"{path}: is {kind}, not a DICOM segmentation")
    if dataset.get("SegmentationType") not in ("BINARY", "LABELMAP"):
        raise DataError(
            f"{path}: a {dataset.get('SegmentationType')} segmentation holds no label map; "
            "export it as BINARY"
        )
    return dataset


def _read(
    path: Path, dataset: Dataset, like: Volume | None, names: Mapping[int, str] | None
) -> SegContent:
    count = int(dataset.NumberOfFrames)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < count <= MAX_FRAMES or len(dataset.PerFrameFunctionalGroupsSequence) != count:
        raise DataError(f"{path}: declares {count} frames and describes another number of them")
    check_voxels(path, (columns, rows, count), 8 * MAX_VOXELS)
    frames, directions, spacing, between = _geometry(path, dataset)
    if like is None:
        affine, indices = _own_grid(path, frames, directions, spacing, between)
        shape: tuple[int, ...] = (columns, rows, max(indices) + 1)
    else:
        _same_reference(path, dataset, like)
        affine, shape = like.affine, like.shape
        indices = _on_grid(path, frames, directions, spacing, (columns, rows), like)
    check_voxels(path, shape)
    segments = {int(item.SegmentNumber): item for item in dataset.SegmentSequence}
    ids = _ids(segments, names)
    array = np.zeros(shape, smallest_unsigned(max(ids.values(), default=1)))
    overlaps: set[tuple[int, int]] = set()
    order = sorted(range(count), key=lambda k: frames[k].segment)
    planes = _pixels(path, dataset, order)
    for k, plane in zip(order, planes):
        _paint(path, array[:, :, indices[k]], plane.T, frames[k].segment, ids, overlaps)
    labels = {number: _text(item.get("SegmentLabel")) for number, item in segments.items()}
    volume = Volume(
        array=array,
        affine=affine,
        spacing=tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0)),
        rank=3,
        path=path,
    )
    by_id = {label: number for number, label in ids.items()}
    return SegContent(
        volume=volume,
        names={ids[number]: labels[number] for number in segments},
        types={ids[number]: _type(item) for number, item in segments.items()},
        overlaps=tuple((labels[by_id[a]], labels[by_id[b]]) for a, b in sorted(overlaps)),
        algorithm=_algorithm(segments),
        **_references(dataset),
    )


def _geometry(
    path: Path, dataset: Dataset
) -> tuple[list[_Frame], np.ndarray, tuple[float, float], float | None]:
    """Frames; directions (3, 2) of columns' and rows' index, LPS; step along them; between slices."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames, seen, between = [], None, None
    for group in dataset.PerFrameFunctionalGroupsSequence:

        def item(sequence: str, group: Dataset = group) -> Dataset:
            items = group.get(sequence) or shared.get(sequence)
            if not items:
                raise DataError(f"{path}: its frames have no {sequence}; their place is unknown")
            return items[0]

        orientation = item("PlaneOrientationSequence").ImageOrientationPatient
        measures = item("PixelMeasuresSequence")
        here = np.array([*orientation, *measures.PixelSpacing], float)
        if seen is None:
            seen = here
            gap = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
            between = float(gap) if gap else None
        elif not np.allclose(seen, here, atol=1e-5):
            raise DataError(f"{path}: its frames differ in orientation or spacing; split it first")
        position = np.array(item("PlanePositionSequence").ImagePositionPatient, float)
        segment = 0
        if dataset.SegmentationType == "BINARY":
            segment = int(item("SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames.append(_Frame(segment=segment, position=position))
    assert seen is not None
    if not np.isfinite(seen).all() or (seen[6:] <= 0).any():
        raise DataError(f"{path}: its pixel spacing or orientation is not valid")
    directions = seen[:6].reshape(2, 3).T
    if np.abs(directions.T @ directions - np.eye(2)).max() > 1e-3:
        raise DataError(f"{path}: rows and columns of its frames are not perpendicular")
    return frames, directions, (float(seen[7]), float(seen[6])), between


def _own_grid(
    path: Path,
    frames: list[_Frame],
    directions: np.ndarray,
    spacing: tuple[float, float],
    between: float | None,
) -> tuple[np.ndarray, list[int]]:
    """The smallest regular grid that holds every frame: affine to RAS+, slice of each frame."""
    normal = np.cross(directions[:, 0], directions[:, 1])
    along = np.array([frame.position @ normal for frame in frames])
    levels = np.unique(np.round(along, 3))
    step = between or 1.0
    if len(levels) > 1:
        gaps = np.diff(levels)
        if between is None or not _multiples(gaps, between):
            step = float(gaps.min())
        if not _multiples(gaps, step):
            raise DataError(
                f"{path}: its frames lie at unequal distances ({gaps.min():.4g} to "
                f"{gaps.max():.4g} mm); give the image it belongs to"
            )
        # The mean is exacter than one rounded gap.
        step = float((levels[-1] - levels[0]) / np.rint((levels[-1] - levels[0]) / step))
    first = int(along.argmin())
    origin = frames[first].position
    offsets = np.array([frame.position - origin for frame in frames]) @ directions
    if np.abs(offsets).max() > TOLERANCE * min(spacing):
        raise DataError(f"{path}: its frames are shifted against each other; no grid holds them")
    lps = np.eye(4)
    lps[:3, 0] = directions[:, 0] * spacing[0]
    lps[:3, 1] = directions[:, 1] * spacing[1]
    lps[:3, 2] = normal * step
    lps[:3, 3] = origin
    return _TO_RAS @ lps, np.rint((along - along[first]) / step).astype(int).tolist()


def _multiples(gaps: np.ndarray, step: float) -> bool:
    steps = gaps / step
    return bool(np.abs(steps - np.rint(steps)).max() < TOLERANCE and np.rint(steps).min() >= 1)


def _on_grid(
    path: Path,
    frames: list[_Frame],
    directions: np.ndarray,
    spacing: tuple[float, float],
    size: tuple[int, int],
    like: Volume,
) -> list[int]:
    """The slice of ``like`` on which each frame lies."""
    where = f"{path}: does not lie on the grid of {like.path}"
    if like.rank != 3 or size != like.shape[:2]:
        raise DataError(f"{where}: frames of {size} voxels against slices of {like.shape[:2]}")
    lps = _TO_RAS @ like.affine
    axes = directions * np.array(spacing)
    tolerance = TOLERANCE * min(like.spacing)
    # The farthest corner of a slice, if both start at the same voxel.
    drift = float(np.abs((axes - lps[:3, :2]) * (np.array(size) - 1)).sum(1).max())
    if drift > tolerance:
        raise DataError(f"{where}: its slices are turned or scaled, {drift:.3g} mm at the corner")
    inverse = np.linalg.inv(lps)
    found = []
    for frame in frames:
        index = (inverse @ [*frame.position, 1.0])[:3]
        nearest = int(np.rint(index[2]))
        off = float(np.linalg.norm(lps[:3, :3] @ (index - [0, 0, nearest])))
        if off > tolerance or not 0 <= nearest < like.shape[2]:
            raise DataError(f"{where}: a frame lies {off:.3g} mm from the nearest slice")
        found.append(nearest)
    return found


def _same_reference(path: Path, dataset: Dataset, like: Volume) -> None:
    """Two coordinate systems have nothing to do with each other, however alike the numbers are."""
    mine = str(dataset.get("FrameOfReferenceUID") or "")
    theirs = str(getattr(like.store, "frame_of_reference_uid", "") or "")
    if mine and theirs and mine != theirs:
        raise DataError(
            f"{path}: belongs to another frame of reference than {like.path}; it was made from "
            "another examination"
        )


def _ids(segments: Mapping[int, Any], names: Mapping[int, str] | None) -> dict[int, int]:
    """Segment number -> label id."""
    by_name = {name: label for label, name in (names or {}).items() if label != 0}
    ids = {n: by_name.get(_text(item.get("SegmentLabel")), n) for n, item in segments.items()}
    if len(set(ids.values())) != len(ids):
        return {number: number for number in ids}
    return ids


def _pixels(path: Path, dataset: Dataset, order: list[int]) -> Iterator[np.ndarray]:
    """Frames (row, column) in the given order; bits are unpacked one frame at a time."""
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), len(order)
    size = rows * columns
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if dataset.BitsAllocated == 1 and not compressed:
        # PS3.5 section 8.1.1: frames follow each other without padding, first voxel in bit 0.
        data = np.frombuffer(dataset.PixelData, np.uint8)
        if data.size * 8 < size * count:
            raise DataError(f"{path}: truncated, its pixel data end before its frames")
        for k in order:
            begin, end = k * size, (k + 1) * size
            bits = np.unpackbits(data[begin // 8 : -(-end // 8)], bitorder="little")
            yield bits[begin % 8 : begin % 8 + size].reshape(rows, columns)
        return
    if dataset.BitsAllocated not in (1, 8, 16):
        raise DataError(f"{path}: {dataset.BitsAllocated} bits per voxel is no segmentation")
    pixels = dataset.pixel_array.reshape(count, rows, columns)
    yield from (pixels[k] for k in order)


def _paint(
    path: Path,
    target: np.ndarray,
    plane: np.ndarray,
    segment: int,
    ids: Mapping[int, int],
    overlaps: set[tuple[int, int]],
) -> None:
    """Write a frame (column, row) into its slice; note which labels it covers."""
    if segment:
        numbers = [segment]
        masks = [plane != 0]
    else:
        numbers = [int(n) for n in np.unique(plane) if n != 0]
        masks = [plane == n for n in numbers]
    for number, mask in zip(numbers, masks):
        if number not in ids:
            raise DataError(f"{path}: a frame shows segment {number}, which is not described")
        label = ids[number]
        overlaps |= {(int(old), label) for old in np.unique(target[mask]) if old not in (0, label)}
        target[mask] = label


def _text(value: Any) -> str:
    return str(value or "").strip()


def _type(segment: Dataset) -> tuple[str, str, str]:
    items = segment.get("SegmentedPropertyTypeCodeSequence")
    if not items:
        return ("", "", "")
    code = items[0]
    value = code.get("CodeValue") or code.get("LongCodeValue")
    return (_text(value), _text(code.get("CodingSchemeDesignator")), _text(code.get("CodeMeaning")))


def _algorithm(segments: Mapping[int, Any]) -> str:
    for item in segments.values():
        for about in item.get("SegmentationAlgorithmIdentificationSequence") or ():
            parts = (about.get("AlgorithmName"), about.get("AlgorithmVersion"))
            return " ".join(_text(part) for part in parts).strip()
        if item.get("SegmentAlgorithmName"):
            return _text(item.SegmentAlgorithmName)
    return ""


def _references(dataset: Dataset) -> dict[str, Any]:
    """Study, referenced series and instances, frame of reference."""
    series = dataset.get("ReferencedSeriesSequence") or ()
    instances = [
        str(reference.ReferencedSOPInstanceUID)
        for item in series
        for reference in item.get("ReferencedInstanceSequence") or ()
    ]
    return {
        "study": str(dataset.get("StudyInstanceUID") or ""),
        "series": tuple(str(item.get("SeriesInstanceUID") or "") for item in series),
        "instances": tuple(dict.fromkeys(instances)),
        "frame_of_reference": str(dataset.get("FrameOfReferenceUID") or ""),
    }
