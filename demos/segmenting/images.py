"""The image to segment: one of the samples, or a person's own, and the reference that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.medical.data.volume import DICOM, SUFFIXES, Volume, case_name, is_volume_file, read_image
from apps.medical.dicom.sources import HEAD, looks_like_dicom
from core.errors import DataError, UsageError
from core.files import atomic_path
from core.shipped import ROOT
from demos.shared import uploads
from demos.shared.keys import key_of
from demos.shared.words import escaped, guarded
from demos.shared.workspace import on_removal, workspace

if TYPE_CHECKING:
    from apps.medical.dicom.series import SeriesInfo

LIMIT_MB = 500
SAMPLE, OWN = "A sample", "Your own"
TAKEN = (*SUFFIXES, ".raw", ".zraw", ".zip", *DICOM)


@dataclass(frozen=True)
class Image:
    """What is to be segmented. ``path`` is a file, a zip or a folder as ``predict`` takes it, ``series``
    chooses from DICOM, and ``content`` is all that was given, for the key."""

    path: Path
    title: str
    content: tuple[Path, ...]
    series: str = ""
    reference: Path | None = None

    @property
    def key(self) -> str:
        """Of everything that is made of this image: other bytes or another series give another."""
        return key_of("image", self.content, self.path.name, self.series)


@dataclass(frozen=True)
class Sample:
    """A file of samples/ and what it is, in a few words."""

    title: str
    path: Path
    reference: Path | None = None


def samples(root: Path = ROOT / "samples") -> list[Sample]:
    """The real images that come with the program, the first one to begin with."""
    found = []
    for path in sorted((root / "hippocampus" / "imagesTr").glob("*.nii.gz")):
        number = case_name(path).rsplit("_", 1)[-1]
        reference = root / "hippocampus" / "labelsTr" / path.name
        found.append(Sample(f"Brain MR around a hippocampus, case {number}", path, reference))
    for count, path in enumerate(sorted((root / "nuclei" / "images").glob("*.png")), 1):
        reference = root / "nuclei" / "instances" / path.name
        found.append(Sample(f"Microscopy of cell nuclei, picture {count}", path, reference))
    odd = root / "odd" / "CT_AVM.nii.gz"
    found.append(Sample("CT angiogram of a head, which no model here knows", odd))
    return [sample for sample in found if sample.path.is_file()]


def choose() -> Image | None:
    """Ask for the image; None until there is one. What is wrong with it is told here."""
    source = st.radio("Image", [SAMPLE, OWN], horizontal=True, key="image source")
    if source == SAMPLE:
        known = samples()
        if not known:
            st.info("This installation has no samples; take an image of your own.")
            return None
        titles = [one.title for one in known]
        sample = known[titles.index(st.selectbox("Sample", titles, key="sample"))]
        return Image(sample.path, sample.title, (sample.path,), reference=sample.reference)
    given = st.file_uploader(
        "Image, or a DICOM study",
        accept_multiple_files=True,
        max_upload_size=LIMIT_MB,
        key="image upload",
        help=f"One image ({' '.join(SUFFIXES)}), a zip of a DICOM study, or all slices of a series. "
        f"Up to {LIMIT_MB} MB. It stays on this machine.",
    )
    if not given:
        st.caption(
            "NIfTI, MetaImage, NRRD, a picture, a zip of a DICOM study or all slices of a series. "
            "Nothing leaves this machine."
        )
        return None
    with guarded("Reading the upload"):
        image = _series(_received(given))
        return image and _with_reference(image)
    return None


def _received(given: Sequence[Any]) -> Image:
    """What was uploaded, as one image: a file, or a folder of files that belong together."""
    total = sum(one.size for one in given) / 2**20
    if total > LIMIT_MB:
        raise DataError(
            f"{len(given)} files of {total:.0f} MiB together are more than the {LIMIT_MB} MiB that "
            "this page takes; use the command line for larger studies"
        )
    if len(given) == 1 and (uploads.safe_name(given[0].name).lower().endswith(TAKEN)):
        path = uploads.receive(given[0], suffixes=TAKEN, limit_mb=LIMIT_MB)
        return Image(path, path.name, (path,))
    folder = _together(given)
    images = [file for file in sorted(folder.iterdir()) if is_volume_file(file)]
    if not images:
        title = given[0].name if len(given) == 1 else f"{len(given)} files"
        return Image(folder, title, (folder,))
    names = [file.name for file in images]
    chosen = images[0]
    if len(images) > 1:
        name = st.selectbox("Which of the images", names, key=f"which-{folder.name}")
        chosen = images[names.index(name)]
    return Image(chosen, chosen.name, (folder,))


def _together(given: Sequence[Any]) -> Path:
    """A folder with all of ``given``: the slices of a series, whatever their names, or a header and
    its data. One folder for all, for a series has more files than the server keeps folders.

    Raises UsageError for a file of another kind and for two of one name, DataError for an empty one.
    """
    known: dict[tuple[str, ...], str] = st.session_state.setdefault("upload sets", {})
    ids = tuple(str(one.file_id) for one in given)
    if ids not in known:  # not at every run: it reads all bytes
        known[ids] = key_of(
            sorted((one.name, sha256(one.getbuffer()).hexdigest()) for one in given)
        )
    folder = workspace(f"set-{known[ids]}")
    names: set[str] = set()
    for one in given:
        name = uploads.safe_name(one.name)
        if not one.size:
            raise DataError(f"{name}: the file is empty; choose another")
        if not (name.lower().endswith(TAKEN) or looks_like_dicom(bytes(one.getbuffer()[:HEAD]))):
            raise UsageError(f"{name}: this page does not read such files; give images or DICOM")
        if name in names:
            raise UsageError(f"{name}: two files of this name; give them as a zip")
        names.add(name)
        if not (folder / name).exists():
            with atomic_path(folder / name, force=True) as temporary:
                temporary.write_bytes(one.getbuffer())
    return folder


def _series(image: Image) -> Image | None:
    """The image, or of a DICOM study the series that is asked for."""
    if is_volume_file(image.path):
        return image
    found = list_series(image.key, image)
    usable = [info for info in found if not info.refusal]
    refused = [info for info in found if info.refusal]
    if refused:
        with st.expander(f"{len(refused)} of {len(found)} series cannot be segmented"):
            for info in refused:
                st.write(f"{escaped(_titled(info))}: {escaped(info.refusal)}")
    if not usable:
        raise DataError(
            f"{image.title}: no series in it can be segmented"
            + (f": {refused[0].refusal}" if len(refused) == 1 else "; the list above says why")
        )
    chosen = usable[0]
    if len(usable) > 1:
        titles = [
            f"{_titled(info)}, {place} of {len(usable)}" for place, info in enumerate(usable, 1)
        ]
        title = st.selectbox("Series", titles, key=f"series-{image.key}")
        chosen = usable[titles.index(title)]
    return Image(image.path, image.title, image.content, _wanted(found, chosen))


def _wanted(found: Sequence[SeriesInfo], info: SeriesInfo) -> str:
    """What tells ``choose_series`` this one: its UID, or where volumes share that, its title."""
    from apps.medical.dicom.choose import choose_series

    for text in (info.uid, info.title):
        try:
            if text and choose_series(found, text) is info:
                return text
        except (DataError, UsageError):
            continue
    raise DataError(
        f"'{info.title}': several volumes share this series' UID and description; give the files of "
        "one of them"
    )


def _titled(info: SeriesInfo) -> str:
    number = "" if info.number is None else f"{info.number}: "
    size = " × ".join(map(str, info.shape))
    return f"{number}{info.title or 'no description'} ({info.modality}, {info.orientation}, {size})"


def _with_reference(image: Image) -> Image:
    given = st.file_uploader(
        "Reference segmentation, if you have one (optional)",
        max_upload_size=LIMIT_MB,
        key=f"reference-{image.key}",
        help="Labels on the same grid, with the numbers that the model uses. The result is measured "
        "against them.",
    )
    if given is None:
        return image
    reference = uploads.receive(given, suffixes=SUFFIXES, limit_mb=LIMIT_MB)
    return Image(image.path, image.title, image.content, image.series, reference)


@st.cache_resource(max_entries=8, show_spinner="Looking through the DICOM files ...")
def list_series(key: str, _image: Image) -> list[SeriesInfo]:
    """The series of a DICOM source. DataError where there is none."""
    from apps.medical.dicom import series

    if _image.path.is_file():
        _ARCHIVES[_image.path.parent.name] = _image.path
    return series.list_series(_image.path)


_ARCHIVES: dict[str, Path] = {}  # uploads that may have been unpacked, by their folder's key


def _release(key: str) -> None:
    """Remove what was unpacked from an upload that is removed itself."""
    archive = _ARCHIVES.pop(key, None)
    if archive is not None:
        from apps.medical.dicom.sources import release

        release(archive)
        list_series.clear()


on_removal(_release)


@st.cache_resource(max_entries=3, show_spinner="Reading the image ...")
def read(key: str, _image: Image) -> Volume:
    """The image's values, shared by all sessions and therefore read-only. Raises DataError."""
    if _image.series:
        from apps.medical.dicom.choose import choose_series
        from apps.medical.dicom.volume import read_series

        volume = read_series(
            choose_series(list_series(_unchosen(_image).key, _image), _image.series)
        )
    else:
        volume = read_image(_image.path)
    volume.array.flags.writeable = False
    return volume


@st.cache_resource(max_entries=4, show_spinner="Reading the reference ...")
def reference_of(key: str, _image: Image) -> Volume:
    """The reference on the image's grid, read-only. ``key`` is of both. Raises DataError."""
    from apps.medical.evaluate import read_reference

    assert _image.reference is not None
    reference = read_reference(_image.reference, read(_image.key, _image))
    reference.array.flags.writeable = False
    return reference


def _unchosen(image: Image) -> Image:
    return Image(image.path, image.title, image.content)
