"""pull and push against a real archive, over both protocols, as a person types them."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

# The smallest file that readers take for a PDF.
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def same(left, right) -> bool:
    """Whether two files hold the same data set, whatever their file meta information says."""
    return pydicom.dcmread(left) == pydicom.dcmread(right)


@pytest.fixture(params=["web", "get", "move"])
def reach(request, archive, login) -> tuple[str, ...]:
    """The options that reach the archive in each of the three ways."""
    if request.param == "web":
        archive.need_web()
        return ("--url", archive.web)
    listen = ("--listen", f"127.0.0.1:{archive.move_port}") if request.param == "move" else ()
    return ("--url", archive.dimse, *listen)


def test_pull_brings_exactly_what_was_asked_for(
    command, archive, reach, make_series, pulled, tmp_path
) -> None:
    wanted, other = make_series("wanted"), make_series("other", patient="P2")
    archive.load(tmp_path / "made")
    out = tmp_path / "out"
    code, report, errors = command("pull", *reach, "--patient", "P1", "--out", out)
    assert code == 0, errors
    found = pulled(out)
    assert set(found) == set(wanted.files)
    assert not set(found) & set(other.files)
    assert all(same(found[uid], wanted.files[uid]) for uid in found)
    assert (report["received"], report["missing"], report["there"]) == (3, 0, 0)
    (series,) = report["series"]
    assert (series["study"], series["series"]) == (wanted.study, wanted.series)
    assert "Doe" not in str(report)


def test_a_second_pull_fetches_only_what_is_not_there(
    command, archive, reach, make_series, pulled, tmp_path
) -> None:
    made = make_series(slices=4)
    archive.load(made.folder)
    line = ("pull", *reach, "--series", made.series, "--study", made.study)
    line += ("--out", tmp_path / "out")
    assert command(*line)[0] == 0
    found = pulled(tmp_path / "out")
    gone, damaged, kept, _ = sorted(found)
    found[gone].unlink()
    found[damaged].write_bytes(b"half")
    before = found[kept].stat()
    code, report, _ = command(*line)
    assert (code, report["there"], report["received"]) == (0, 2, 2)
    assert set(pulled(tmp_path / "out")) == set(made.files)
    assert found[kept].stat().st_mtime_ns == before.st_mtime_ns
    assert found[kept].stat().st_ino == before.st_ino


def test_compressed_images_stay_as_they_are(
    command, archive, reach, make_series, pulled, tmp_path
) -> None:
    made = make_series(syntax=RLELossless, slices=2)
    archive.load(made.folder)
    code, _, errors = command("pull", *reach, "--study", made.study, "--out", tmp_path / "out")
    assert code == 0, errors
    for uid, path in pulled(tmp_path / "out").items():
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == RLELossless
        assert same(path, made.files[uid])


@pytest.mark.parametrize(
    ("criteria", "count"),
    [
        (("--patient", "P*"), 5),
        (("--patient", "P?", "--modality", "CT"), 2),
        (("--date", "20240101-20240201"), 3),
        (("--date", "20250101"), 2),
        (("--accession", "A-P1"), 3),
        (("--patient", "nobody"), None),
    ],
)
def test_a_dry_run_lists_and_fetches_nothing(
    command, archive, reach, make_series, tmp_path, criteria, count
) -> None:
    make_series("one", patient="P1", date="20240131", slices=3)
    make_series("two", patient="P2", date="20250101", slices=2, modality="CT")
    archive.load(tmp_path / "made")
    line = ("pull", *reach, *criteria, "--dry-run", "--out", tmp_path / "out")
    code, report, errors = command(*line)
    if count is None:
        assert (code, report["error"]["type"]) == (3, "DataError")
    else:
        assert code == 0, errors
        assert report["instances"] == report["missing"] == count
        assert report["received"] == 0
    assert not (tmp_path / "out").exists()


def test_push_and_pull_back(command, archive, reach, make_series, pulled, tmp_path) -> None:
    made = make_series(slices=2)
    squeezed = make_series("squeezed", slices=1, study=made.study, syntax=RLELossless, number=5)
    (made.folder / "stats.json").write_text("{}")
    web_or_dicom = reach[:2]
    code, report, errors = command("push", tmp_path / "made", *web_or_dicom)
    assert code == 0, errors
    assert (report["stored"], report["ignored"], report["failed"]) == (3, 1, {})
    everything = made.files | squeezed.files
    assert archive.uids() == set(everything)
    assert command("pull", *reach, "--study", made.study, "--out", tmp_path / "out")[0] == 0
    found = pulled(tmp_path / "out")
    assert all(same(found[uid], path) for uid, path in everything.items())
    assert command("push", tmp_path / "made", *web_or_dicom)[0] == 0  # twice does no harm
    assert archive.uids() == set(everything)


def test_push_dry_run_sends_nothing(command, archive, reach, make_series) -> None:
    made = make_series()
    code, report, _ = command("push", made.folder, *reach[:2], "--dry-run")
    assert (code, len(report["files"]), report["stored"]) == (0, 3, 0)
    assert archive.uids() == set()


def test_a_wrong_password_is_said(command, archive, make_series, monkeypatch, tmp_path) -> None:
    archive.need_web()
    monkeypatch.setenv("TRIPTYCH_PACS_USER", "reader")
    monkeypatch.setenv("TRIPTYCH_PACS_PASSWORD", "guess-1234")
    line = ("--url", archive.web)
    code, report, errors = command("pull", *line, "--patient", "P1", "--out", tmp_path / "out")
    assert code == 4
    assert "TRIPTYCH_PACS_PASSWORD" in report["error"]["message"]
    assert "guess-1234" not in errors
    code, report, errors = command("push", make_series().folder, *line)
    assert code == 4
    assert "HTTP 401" in report["stopped"]
    assert "guess-1234" not in errors


def test_a_wrong_title_is_said(command, archive, tmp_path) -> None:
    url = archive.dimse.replace("ORTHANC@", "OTHER@")
    code, report, _ = command("pull", "--url", url, "--patient", "P1", "--out", tmp_path / "out")
    assert code == 4
    assert "AE title" in report["error"]["message"]


def test_move_to_a_title_that_the_archive_does_not_know(
    command, archive, make_series, tmp_path
) -> None:
    made = make_series()
    archive.load(made.folder)
    line = ("--url", archive.dimse, "--listen", f"127.0.0.1:{archive.move_port}")
    line += ("--aet", "STRANGER", "--patient", "P1", "--out", tmp_path / "out")
    code, report, errors = command("pull", *line)
    assert code == 4
    assert report["missing"] == 3
    assert "C-MOVE" in " ".join(report["series"][0]["why"])
    assert "3 of 3 images are missing" in errors


def test_a_series_its_segmentation_and_its_report_make_the_round(
    command, archive, reach, make_series, pulled, tmp_path
) -> None:
    """What the program writes, the archive takes and gives back, and it can still be read."""
    from apps.medical.dicom.encapsulate import write_pdf
    from apps.medical.dicom.segmentation import Algorithm, read_seg, write_seg
    from apps.medical.dicom.series import list_series
    from apps.medical.dicom.volume import read_series

    made, out = make_series(slices=4, size=32), tmp_path / "case"
    (info,) = list_series(made.folder)
    volume = read_series(info)
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[3:9, 5:20, 1:3], labels[20:, 2:5, 2:] = 1, 2
    out.mkdir()
    algorithm = Algorithm(name="test", version="1")
    write_seg(out / "seg.dcm", labels, volume, {1: "one", 2: "two"}, algorithm=algorithm)
    write_pdf(out / "report.dcm", PDF, volume, "Report")
    code, report, errors = command("push", out, made.folder, *reach[:2])
    assert code == 0, errors
    assert report["stored"] == 6
    line = ("pull", *reach, "--study", made.study, "--out", tmp_path / "back")
    code, report, errors = command(*line)
    assert code == 0, errors
    assert report["received"] == 6
    assert {series["modality"] for series in report["series"]} == {"MR", "SEG", "DOC"}
    found = {path.stem: path for path in (tmp_path / "back").rglob("*.dcm")}
    for path in out.iterdir():
        assert same(path, found[pydicom.dcmread(path).SOPInstanceUID])
    (seg,) = (path for path in found.values() if pydicom.dcmread(path).Modality == "SEG")
    again = read_seg(seg, like=volume)
    assert again.names == {1: "one", 2: "two"}
    assert np.array_equal(again.volume.array, labels)
