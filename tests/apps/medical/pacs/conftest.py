"""A real archive on loopback, small synthetic series, and what a transfer should leave behind."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

ORTHANC = ("Orthanc", "/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc")
DICOMWEB = (
    "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    "/usr/local/share/orthanc/plugins/libOrthancDicomWeb.so",
)
USER, PASSWORD = "reader", "p\u00e4ss:word"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(what: str) -> None:
    """Skip, or fail where an archive is required (continuous integration)."""
    if os.environ.get("REQUIRE_ORTHANC", "") not in ("", "0"):
        pytest.fail(f"REQUIRE_ORTHANC is set, and {what}")
    pytest.skip(what)


@dataclass
class Archive:
    """A running Orthanc: how to reach it, and its own view of what it holds."""

    web: str
    dimse: str
    move_port: int
    http: int
    has_web: bool

    def need_web(self) -> None:
        if not self.has_web:
            missing("Orthanc lacks its DICOMweb plugin (Debian: apt-get install orthanc-dicomweb)")

    def rest(self, path: str, method: str = "GET", body: bytes | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}", data=body, method=method
        )
        login = f"{USER}:{PASSWORD}".encode()
        request.add_header("Authorization", "Basic " + base64.b64encode(login).decode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def uids(self) -> set[str]:
        """SOP instance UIDs in the archive."""
        return {item["MainDicomTags"]["SOPInstanceUID"] for item in self.rest("/instances?expand")}

    def load(self, folder: Path) -> None:
        """Put files in, past the protocols under test."""
        for file in sorted(folder.rglob("*.dcm")):
            self.rest("/instances", "POST", file.read_bytes())

    def empty(self) -> None:
        for patient in self.rest("/patients"):
            self.rest(f"/patients/{patient}", "DELETE")


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An Orthanc server with its own configuration and storage, for the whole session."""
    program = next((found for name in ORTHANC if (found := shutil.which(name))), None)
    if program is None:
        missing("no Orthanc server is installed (Debian: apt-get install orthanc)")
    assert program is not None
    plugin = next((path for path in DICOMWEB if Path(path).is_file()), None)
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom, move = free_port(), free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"triptych": ["TRIPTYCH", "127.0.0.1", move]},
        "Plugins": [plugin] if plugin else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    archive = Archive(
        web=f"http://127.0.0.1:{http}/dicom-web",
        dimse=f"dicom://ORTHANC@127.0.0.1:{dicom}",
        move_port=move,
        http=http,
        has_web=plugin is not None,
    )
    try:
        for _ in range(200):
            try:
                archive.rest("/system")
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        else:
            pytest.fail(f"Orthanc did not start: {(folder / 'log').read_text()[-2000:]}")
        yield archive
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def archive(orthanc: Archive) -> Archive:
    """The server, empty at the start of each test."""
    orthanc.empty()
    return orthanc


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive's user and password, where the programs look for them."""
    monkeypatch.setenv("TRIPTYCH_PACS_USER", USER)
    monkeypatch.setenv("TRIPTYCH_PACS_PASSWORD", PASSWORD)


@dataclass
class MadeSeries:
    """A series on disk."""

    folder: Path
    study: str
    series: str
    files: dict[str, Path]  # by SOP instance UID


@pytest.fixture
def make_series(tmp_path: Path) -> Callable[..., MadeSeries]:
    """Write a small axial MR series of noise (columns x rows = 24 x 20) as DICOM files."""

    def make(
        name: str = "series",
        *,
        slices: int = 3,
        study: str | None = None,
        patient: str = "P1",
        modality: str = "MR",
        date: str = "20240131",
        number: int = 4,
        syntax: str = ExplicitVRLittleEndian,
        size: int = 20,
        **extra: Any,
    ) -> MadeSeries:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        study, series = study or generate_uid(), generate_uid()
        frame, files = generate_uid(), {}
        rng = np.random.default_rng(number)
        for index in range(slices):
            image = pydicom.Dataset()
            image.file_meta = pydicom.dataset.FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.SOPClassUID, image.SOPInstanceUID = MR_IMAGE, generate_uid()
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.StudyInstanceUID, image.SeriesInstanceUID = study, series
            image.FrameOfReferenceUID = frame
            image.PatientName, image.PatientID = "Doe^Jane", patient
            image.PatientBirthDate, image.PatientSex = "19700101", "O"
            image.StudyDate, image.StudyTime, image.StudyID = date, "101010", "1"
            image.AccessionNumber, image.ReferringPhysicianName = f"A-{patient}", ""
            image.Modality, image.SeriesNumber = modality, number
            image.SeriesDescription = f"t2 {name}"
            image.InstanceNumber = index + 1
            image.ImagePositionPatient = [0, 0, 3 * index]
            image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            image.PixelSpacing, image.SliceThickness = [1, 1], 3
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.Rows, image.Columns = size, size + 4
            image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
            image.PixelRepresentation = 0
            values = rng.integers(0, 4096, (size, size + 4), dtype=np.uint16)
            image.PixelData = values.tobytes()
            for keyword, value in extra.items():
                setattr(image, keyword, value)
            if syntax != ExplicitVRLittleEndian:
                image.compress(syntax)
            path = folder / f"{index:03d}.dcm"
            image.save_as(path, enforce_file_format=True)
            files[str(image.SOPInstanceUID)] = path
        return MadeSeries(folder, study, series, files)

    return make


@pytest.fixture
def pulled() -> Callable[[Path], dict[str, Path]]:
    """What a pull left in a folder, by the SOP instance UID in each file; nothing else may be."""

    def read(folder: Path) -> dict[str, Path]:
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                header = pydicom.dcmread(path)
                assert path.stem == header.SOPInstanceUID
                assert path.parent.name == header.SeriesInstanceUID
                assert path.parent.parent.name == header.StudyInstanceUID
                assert len(header.pixel_array)
                found[path.stem] = path
        return found

    return read
