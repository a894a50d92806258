"""A DICOM series as a ``Volume``: values in the scanner's units, on the grid its headers say.

The array is (column, row, slice), slices in order along the normal, so that the affine is that of
PS3.3 C.7.6.2.1.1 with LPS turned to RAS (see ``geometry``). Values are stored * Rescale Slope +
Rescale Intercept, of each slice its own, in the smallest integers that hold every possible value
where slope is 1, else float32. MONOCHROME1 is turned over, except where values are quantities (CT,
PET): its brightest is the lowest stored value. Padding (PS3.3 C.7.5.1.1.2) is no measurement; it
becomes the lowest measured value in CT, and 0 elsewhere where nothing measured is negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.medical.data.volume import Volume, check_voxels
from apps.medical.dicom.codestream import declared_size
from apps.medical.dicom.geometry import Stack
from apps.medical.dicom.headers import Frame, Instance, read_instance
from apps.medical.dicom.refusals import NATIVE
from apps.medical.dicom.series import SeriesInfo
from apps.medical.dicom.stream import DEFLATED
from apps.medical.dicom.values import quiet_reading
from core.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

QUANTITIES = {"CT", "PT", "NM"}


@dataclass(frozen=True, eq=False)
class DicomStore:
    """What it takes to write DICOM that refers to the series a Volume was read from.

    ``sources`` are the files along the array's last axis: one per slice, or the one multi-frame
    file. ``frames`` (0-based number in its file) and ``sop_uids`` have an entry per slice.
    """

    series: SeriesInfo
    sources: tuple[Path, ...]
    frames: tuple[int, ...]
    sop_uids: tuple[str, ...]
    sop_class: str
    frame_of_reference_uid: str

    @property
    def multiframe(self) -> bool:
        """Whether all slices are frames of one file."""
        return len(self.sources) == 1 and len(self.frames) > 1

    def read_headers(self) -> list[Dataset]:
        """The datasets of ``sources`` without pixels, read now. DataError where a file is gone."""
        import pydicom

        found: list[Dataset] = []
        for file in self.sources:
            try:
                with quiet_reading():
                    found.append(pydicom.dcmread(file, stop_before_pixels=True, force=True))
            except Exception as error:
                raise DataError(
                    f"{file}: cannot be read again ({_reason(error)}); was it moved?"
                ) from error
        return found


def read_series(info: SeriesInfo) -> Volume:
    """The values of a series that ``list_series`` found.

    Raises DataError with its refusal where it has one, and for pixels that cannot be decoded, are
    cut short or changed since.
    """
    if info.refusal or info.stack is None:
        raise DataError(f"{info.label} {info.refusal or 'was not read from files'}")
    stack, members = info.stack, {instance.file: instance for instance in info.instances}
    check_voxels(info.source, info.shape)
    columns, rows, count = info.shape
    notes = {f"dicom {n}": note for n, note in enumerate(info.notes)}
    dtype = _dtype(stack, members)
    try:
        slices = np.empty((count, rows, columns), dtype)  # (k, j, i): frames are written whole
    except MemoryError as error:
        raise DataError(f"{info.label} does not fit this machine's memory") from error
    padded = np.zeros(slices.shape, bool) if _any_padding(members) else None
    unused = 0
    where = {(f.file, f.number): k for k, f in enumerate(stack.frames)}
    with quiet_reading():
        for instance, frame, words in _pixels(stack, members, info):
            k = where[frame.file, frame.number]
            stored = _stored(instance, words)
            beyond = words != stored
            if padded is not None and instance.padding is not None:
                # Compared before the unused bits go: -2000 in a file of 12 bits is common.
                low, high = instance.padding
                padded[k] = (words >= low) & (words <= high)
                beyond &= ~padded[k]
            unused += int(beyond.sum())
            slices[k] = _values(instance, frame, stored, dtype)
    if padded is not None and padded.any():
        notes |= _fill(slices, padded, info.modality)
    if unused:
        notes["bits"] = f"{unused} voxels have bits set above Bits Stored, which were ignored"
    if any(_turned(instance) for instance in members.values()):
        notes["monochrome1"] = "MONOCHROME1: values were turned over, so that more is brighter"
    multiframe = len(info.files) == 1
    first = info.instances[0]
    return Volume(
        array=slices.T,
        affine=stack.affine.copy(),
        spacing=stack.spacing,
        rank=3,
        path=info.source,
        notes=notes,
        store=DicomStore(
            series=info,
            sources=info.files if multiframe else tuple(f.file for f in stack.frames),
            frames=tuple(f.number for f in stack.frames),
            sop_uids=tuple(f.sop_uid for f in stack.frames),
            sop_class=first.sop_class,
            frame_of_reference_uid=first.frame_of_reference_uid,
        ),
    )


def _pixels(
    stack: Stack, members: dict[Path, Instance], info: SeriesInfo
) -> Iterator[tuple[Instance, Frame, np.ndarray]]:
    """Words (rows, columns) of every frame of the stack, file by file: ``_stored`` makes values."""
    by_file: dict[Path, list[Frame]] = {}
    for frame in stack.frames:
        by_file.setdefault(frame.file, []).append(frame)
    for file, frames in by_file.items():
        instance = members[file]
        try:
            for frame, words in zip(frames, _decode(instance, frames)):
                if words.shape != (instance.rows, instance.columns):
                    raise DataError(
                        f"{file}: decodes to {words.shape}, the header says"
                        f" {(instance.rows, instance.columns)}"
                    )
                yield instance, frame, words
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(f"{file}: too large for this machine's memory") from error
        except Exception as error:  # a decoder's own error on damaged data, of any class
            raise DataError(
                f"{info.label}: the pixels of {file.name} cannot be decoded ({_reason(error)}); "
                "truncated or damaged, copy it again"
            ) from error


def _decode(instance: Instance, frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    import pydicom
    from pydicom.encaps import generate_frames
    from pydicom.pixels import iter_pixels
    from pydicom.uid import UID

    if instance.transfer_syntax == DEFLATED:
        read_instance(instance.file)  # bounds what it inflates to
    dataset = pydicom.dcmread(instance.file, force=True)
    if str(dataset.get("SOPInstanceUID", "")) != instance.sop_uid:
        raise DataError(f"{instance.file}: changed while it was read; start again")
    if not getattr(dataset, "file_meta", {}).get("TransferSyntaxUID"):
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = UID(instance.transfer_syntax)
    if instance.transfer_syntax not in NATIVE:
        for data in generate_frames(dataset.PixelData, number_of_frames=len(instance.frames)):
            size = declared_size(data)
            if size is not None and size != (instance.rows, instance.columns):
                raise DataError(
                    f"{instance.file}: its compressed pixels declare {size[0]} x {size[1]}, the header"
                    f" {instance.rows} x {instance.columns}; damaged or hostile, export it again"
                )
    yield from iter_pixels(
        dataset,
        indices=[frame.number for frame in frames],
        raw=True,
        correct_unused_bits=False,
    )


def _stored(instance: Instance, words: np.ndarray) -> np.ndarray:
    """The values in Bits Stored of each word, sign extended; the others are not theirs (PS3.5 8.1.1)."""
    unused = words.dtype.itemsize * 8 - instance.bits[1]
    return words << unused >> unused if unused else words


def _range(instance: Instance) -> tuple[int, int]:
    """Lowest and highest value that Bits Stored and Pixel Representation allow."""
    _, stored, _, signed = instance.bits
    return (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)


def _dtype(stack: Stack, members: dict[Path, Instance]) -> np.dtype:
    """The smallest integers that hold every possible value, or float32 where values are scaled."""
    low, high = 0, 0
    for frame in stack.frames:
        if frame.slope != 1 or frame.intercept != int(frame.intercept):
            return np.dtype(np.float32)
        smallest, largest = _range(members[frame.file])
        low = min(low, smallest + int(frame.intercept))
        high = max(high, largest + int(frame.intercept))
    for kind in (np.int16, np.uint16, np.int32, np.uint32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def _values(instance: Instance, frame: Frame, stored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    exact = stored.astype(np.int64 if dtype.kind in "iu" else np.float64)
    if _turned(instance):
        exact = sum(_range(instance)) - exact
    if dtype.kind in "iu":
        return exact + int(frame.intercept)
    return exact * frame.slope + frame.intercept


def _turned(instance: Instance) -> bool:
    return instance.photometric == "MONOCHROME1" and instance.modality not in QUANTITIES


def _any_padding(members: dict[Path, Instance]) -> bool:
    return any(instance.padding is not None for instance in members.values())


def _fill(slices: np.ndarray, padded: np.ndarray, modality: str) -> dict[str, str]:
    """Replace padding in place; returns the note."""
    count = int(padded.sum())
    if count == padded.size:
        return {"padding": "every voxel is padding"}
    highest = np.inf if slices.dtype.kind == "f" else np.iinfo(slices.dtype).max
    lowest = slices.min(where=~padded, initial=highest)
    fill = lowest if modality == "CT" or lowest < 0 else slices.dtype.type(0)
    if (slices[padded] == fill).all():
        return {}
    slices[padded] = fill
    return {"padding": f"{count} padding voxels (outside what was scanned) were set to {fill:g}"}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
