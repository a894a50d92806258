"""Grey windows: which values of an image are drawn black and which white.

A window is a level (its middle) and a width, in the image's own values. Where the file names one, a
DICOM series by Window Center and Width (PS3.3 C.11.2.1.2) or a NIfTI file by cal_min and cal_max,
that is what whoever made the image wanted it seen with. CT values are Hounsfield units everywhere,
so CT has customary windows; anything else is spread between percentiles of its values.

Deviates from PS3.3: a linear window runs from level - width / 2 to level + width / 2, half a grey
step from the standard's LINEAR; VOI lookup tables and sigmoids are not used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.data.volume import Volume
from apps.medical.overlay import grey_window, thinned

if TYPE_CHECKING:
    from apps.medical.dicom.volume import DicomStore

AUTOMATIC = "Automatic"
OF_THE_FILE = 4  # windows taken from one file at most


@dataclass(frozen=True)
class Window:
    """``level`` ± ``width`` / 2 goes from black to white."""

    name: str
    level: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        return self.level - self.width / 2, self.level + self.width / 2

    @classmethod
    def between(cls, name: str, low: float, high: float) -> Window:
        return cls(name, (low + high) / 2, max(high - low, 1e-6))


# Hounsfield units; the windows of 3D Slicer's and most workstations' presets.
CT = (
    Window("CT soft tissue", 40, 400),
    Window("CT lung", -600, 1500),
    Window("CT bone", 400, 1800),
    Window("CT brain", 40, 80),
)


def windows_of(volume: Volume, channel: int = 0) -> list[Window]:
    """The windows that make sense for one channel, the one to begin with first."""
    values = volume.channel_first[channel]
    found = [*_of_series(volume), *_of_nifti(volume)]
    automatic = Window.between(AUTOMATIC, *grey_window(values))
    low, high = value_range(values)
    everything = Window.between("All values", low, high)
    if _hounsfield(volume, low, high):
        return [*found, *CT, automatic, everything]
    return [*found, automatic, everything]


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest finite value; of an even subset of a large array (*S)."""
    sample = thinned(values)
    finite = sample[np.isfinite(sample)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def _hounsfield(volume: Volume, low: float, high: float) -> bool:
    """Whether the values are CT's: the series says so, or they reach from air to bone."""
    series = getattr(volume.store, "series", None)
    if series is not None:
        return str(series.modality).upper() == "CT"
    return volume.physical and low < -500 and 200 < high < 32768


def _of_nifti(volume: Volume) -> list[Window]:
    header = getattr(volume.store, "header", None)
    try:
        low, high = float(header["cal_min"]), float(header["cal_max"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return []
    usable = np.isfinite([low, high]).all() and high > low
    return [Window.between("As the file says", low, high)] if usable else []


def _of_series(volume: Volume) -> list[Window]:
    """Windows of the middle slice's headers; none where they no longer fit or cannot be read."""
    from_dicom = hasattr(volume.store, "sop_uids")
    if not from_dicom or "monochrome1" in volume.notes:  # values were turned over, windows not
        return []
    try:
        levels, widths, names = _voi(volume.store)
    except Exception:  # a moved file or a damaged header: the image can still be seen
        return []
    found: list[Window] = []
    for n, (level, width) in enumerate(zip(levels, widths)):
        if np.isfinite([level, width]).all() and width > 0 and len(found) < OF_THE_FILE:
            name = names[n] if n < len(names) and names[n] else f"{n + 1}"
            found.append(Window(f"DICOM {name}"[:40], level, width))
    return found


def _voi(store: DicomStore) -> tuple[list[float], list[float], list[str]]:
    import pydicom

    from apps.medical.dicom.values import quiet_reading

    middle = len(store.frames) // 2
    source = store.sources[0] if store.multiframe else store.sources[middle]
    with quiet_reading():
        dataset = pydicom.dcmread(source, stop_before_pixels=True, force=True)
        about: Any = dataset
        if "WindowCenter" not in dataset:
            shared = dataset.get("SharedFunctionalGroupsSequence") or []
            each = dataset.get("PerFrameFunctionalGroupsSequence") or []
            own = [each[store.frames[middle]]] if len(each) > store.frames[middle] else []
            groups = [g for g in (*shared, *own) if "FrameVOILUTSequence" in g]
            if not groups:
                return [], [], []
            about = groups[0].FrameVOILUTSequence[0]
        levels = _many(about.get("WindowCenter"))
        widths = _many(about.get("WindowWidth"))
        names = _many(about.get("WindowCenterWidthExplanation"))
        return [float(v) for v in levels], [float(v) for v in widths], [str(n) for n in names]


def _many(value: Any) -> list[Any]:
    """The values of an element that may hold none, one or several."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
