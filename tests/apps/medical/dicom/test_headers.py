"""Headers of one file: vendors' private values, odd encodings, and bytes that are no sense."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from apps.medical.dicom.headers import read_instance
from apps.medical.dicom.refusals import transfer_syntax_name
from apps.medical.dicom.series import list_series
from apps.medical.dicom.volume import read_series
from core.errors import TriptychError


@pytest.fixture
def slice_file(tmp_path, series):
    """`slice_file(edit)`: one slice as a file, its header changed by edit(dataset)."""

    def make(edit=lambda dataset: None) -> Path:
        return series(tmp_path / "one", (8, 6, 1), edit=lambda dataset, k: edit(dataset)).files[0]

    return make


def siemens(dataset) -> None:
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "800")


def ge(dataset) -> None:
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", ["1000000800", "8", "0", "0"])


def philips(dataset) -> None:
    block = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x03, "FL", 800.0)


def standard(dataset) -> None:
    dataset.DiffusionBValue = 800.0


def stranger(dataset) -> None:
    block = dataset.private_block(0x0019, "SOMEBODY ELSE", create=True)
    block.add_new(0x0C, "IS", "800")


@pytest.mark.parametrize("vendor", [siemens, ge, philips, standard])
def test_b_values_of_each_vendor(slice_file, vendor) -> None:
    (frame,) = read_instance(slice_file(vendor)).frames
    assert frame.facts["b"] == "800"


def test_a_private_element_of_another_creator_is_not_read(slice_file) -> None:
    assert "b" not in read_instance(slice_file(stranger)).frames[0].facts


def test_siemens_mosaic_by_its_private_count(slice_file) -> None:
    def edit(dataset) -> None:
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", 36)

    assert "mosaic" in read_instance(slice_file(edit)).refusal


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_meta(tmp_path, series, implicit) -> None:
    import pydicom

    made = series(tmp_path / "s", (8, 6, 4))
    for file in made.files:
        dataset = pydicom.dcmread(file)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=implicit, little_endian=True)
        assert file.read_bytes()[128:132] != b"DICM"
    (info,) = list_series(made.folder)
    assert info.transfer_syntax.startswith("Implicit" if implicit else "Explicit")
    np.testing.assert_array_equal(read_series(info).array, made.array)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", "nan\\0\\0"),
        ("ImagePositionPatient", "0\\0"),
        ("ImageOrientationPatient", "1\\0\\0\\0\\inf\\0"),
        ("PixelSpacing", "one\\two"),
        ("PixelSpacing", ""),
        ("RescaleSlope", "1\\2"),
        ("RescaleSlope", "nan"),
        ("RescaleIntercept", "none"),
    ],
)
def test_malformed_numbers_are_refused(tmp_path, series, keyword, value) -> None:
    """Written as the text they are: what a broken exporter leaves in a file."""
    import pydicom
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    made = series(tmp_path / "s", (8, 6, 3))
    for file in made.files:
        dataset = pydicom.dcmread(file)
        tag = Tag(tag_for_keyword(keyword))
        data = value.encode() + b" " * (len(value) % 2)
        dataset._dict[tag] = RawDataElement(tag, "DS", len(data), data, 0, False, True)
        dataset.save_as(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is complained about on standard error either
        (info,) = list_series(made.folder)
    assert any(word in info.refusal for word in ("unknown", "Pixel Spacing", "no number"))


def test_control_characters_never_reach_the_terminal(slice_file) -> None:
    def edit(dataset) -> None:
        dataset.SeriesDescription = "T1\x1b[2Jpost" + "x" * 200

    description = read_instance(slice_file(edit)).description
    assert description.startswith("T1 [2Jpost")
    assert len(description) <= 64
    assert description.isprintable()


def test_names_of_syntaxes() -> None:
    assert transfer_syntax_name("1.2.840.10008.1.2.4.90").startswith("JPEG 2000")
    assert transfer_syntax_name("1.2.3.4") == "1.2.3.4"


def test_damaged_bytes_are_refused_or_read_but_never_crash(tmp_path, series) -> None:
    """A few hundred files with random bytes changed, cut or doubled, classic and multi-frame."""
    rng = np.random.default_rng(0)
    said: list[str] = []
    outcomes = {"refused": 0, "listed": 0, "read": 0}
    for multiframe in (False, True):
        made = series(tmp_path / f"{multiframe}", (6, 5, 3), multiframe=multiframe)
        file = made.files[-1]
        original = file.read_bytes()
        for trial in range(150):
            data = bytearray(original)
            for _ in range(int(rng.integers(1, 8))):
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
            if trial % 5 == 0:
                data = data[: int(rng.integers(len(data)))]
            if trial % 7 == 0:
                at = int(rng.integers(len(data) or 1))
                data[at:at] = rng.bytes(int(rng.integers(1, 300)))
            file.write_bytes(data)
            try:
                warnings.simplefilter("error")
                for info in list_series(made.folder):
                    assert all(math.isfinite(edge) for edge in info.spacing)
                    outcomes["listed"] += 1
                    if not info.refusal:
                        volume = read_series(info)
                        assert np.isfinite(volume.affine).all()
                        outcomes["read"] += 1
            except TriptychError as error:
                outcomes["refused"] += 1
                said.append(str(error))
            finally:
                warnings.resetwarnings()
        file.write_bytes(original)
    assert not [text for text in said if "\n" in text]
    assert all(outcomes.values()), outcomes
