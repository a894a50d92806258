"""Windows that a DICOM series brings with it (PS3.3 C.11.2.1.2)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.medical.data.volume import Volume
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from apps.medical.windowing import windows_of

SHAPE = (8, 8, 6)


@pytest.fixture
def read(tmp_path: Path, series: Callable) -> Callable[..., Volume]:
    def read_(edit: Callable[[Any, int], None] | None = None, **options: Any) -> Volume:
        written = series(tmp_path / "series", SHAPE, edit=edit, **options)
        [found] = list_series(written.folder)
        return read_series(found)

    return read_


def test_one_window_of_the_middle_slice(read: Callable) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.WindowCenter, dataset.WindowWidth = 100 + k, 50

    first, second = windows_of(read(edit))[:2]
    assert (first.name, first.level, first.width) == ("DICOM 1", 103, 50)
    assert second.name == "Automatic"  # MR: no Hounsfield units


def test_several_windows_by_name_before_those_of_ct(read: Callable) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.WindowCenter, dataset.WindowWidth = [40, -600, 0], [400, 1500, 0]
        dataset.WindowCenterWidthExplanation = ["ABDOMEN", "", "NONE"]

    found = windows_of(read(edit, modality="CT", intercept=-1024))
    assert [window.name for window in found[:3]] == ["DICOM ABDOMEN", "DICOM 2", "CT soft tissue"]
    assert found[0].limits == (-160, 240)


def test_ct_without_a_window_of_its_own(read: Callable) -> None:
    assert windows_of(read(modality="CT"))[0].name == "CT soft tissue"


def test_the_frames_of_one_file_share_a_window(read: Callable) -> None:
    from pydicom.dataset import Dataset

    def edit(dataset: Any, k: int) -> None:
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = 70, 20
        dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [voi]

    first = windows_of(read(edit, multiframe=True))[0]
    assert (first.level, first.width) == (70, 20)


def test_values_that_were_turned_over_do_not_fit_their_window(read: Callable) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.WindowCenter, dataset.WindowWidth = 100, 50

    assert windows_of(read(edit))[0].name == "Automatic"


def test_files_that_are_gone_bring_none(read: Callable, tmp_path: Path) -> None:
    def edit(dataset: Any, k: int) -> None:
        dataset.WindowCenter, dataset.WindowWidth = 100, 50

    volume = read(edit)
    shutil.rmtree(tmp_path / "series")
    assert windows_of(volume)[0].name == "Automatic"
