"""DICOM peers that misbehave, made of pynetdicom's own services, on loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pydicom
import pynetdicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import (
    MRImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from apps.medical.pacs.config import Bounds, Query, parse_address
from apps.medical.pacs.dimse import MOST_CONTEXTS, _groups
from apps.medical.pacs.service import ConnectionLost, Item, connect
from apps.medical.pacs.transfer import pull, push
from core.errors import DataError, ResourceError, UsageError
from tests.apps.medical.pacs.conftest import free_port

QUICK = {"timeout": 3.0, "retries": 1, "pause": 0.01}
ALL = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless)


class Peer:
    """Finds, gives and takes ``made``; the attributes that follow make it misbehave."""

    def __init__(self, made: list) -> None:
        self.made = made
        self.services = ("FIND", "GET", "MOVE")
        self.syntaxes: tuple[str, ...] = ALL
        self.only_for: list[str] = []
        self.find_status = 0xFF00
        self.endless = False
        self.before_image: Callable[[evt.Event, int], None] = lambda event, count: None
        self.change: Callable[[pydicom.Dataset], pydicom.Dataset] = lambda image: image
        self.store: Callable[[evt.Event], int] = lambda event: 0x0000
        self.destination = ("127.0.0.1", 0)
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.taken: list[pydicom.Dataset] = []
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"dicom://PEER@127.0.0.1:{self.port}"

    def start(self) -> None:
        entity = pynetdicom.AE("PEER")
        entity.require_calling_aet = self.only_for
        models = {
            "FIND": StudyRootQueryRetrieveInformationModelFind,
            "GET": StudyRootQueryRetrieveInformationModelGet,
            "MOVE": StudyRootQueryRetrieveInformationModelMove,
        }
        for name in self.services:
            entity.add_supported_context(models[name])
        entity.add_supported_context(
            MRImageStorage, list(self.syntaxes), scu_role=False, scp_role=True
        )
        entity.add_requested_context(MRImageStorage)
        handlers = [
            (evt.EVT_C_FIND, self.find),
            (evt.EVT_C_GET, self.get),
            (evt.EVT_C_MOVE, self.move),
            (evt.EVT_C_STORE, self.take),
        ]
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers
        )

    def stop(self) -> None:
        self._server.shutdown()

    def find(self, event: evt.Event) -> Iterator:
        wanted = event.identifier
        level = wanted.QueryRetrieveLevel
        self.requests.append(("FIND", level))
        if self.find_status != 0xFF00:
            yield self.find_status, None
            return
        for made in self.made:
            images = [pydicom.dcmread(path) for path in made.files.values()]
            if level != "IMAGE":
                images = images[:1]
            for image in images:
                answer = pydicom.Dataset()
                answer.QueryRetrieveLevel = level
                for element in wanted:
                    if element.keyword in image:
                        answer[element.keyword] = image[element.keyword]
                if all(
                    not element.value or answer.get(element.keyword) == element.value
                    for element in wanted
                ):
                    yield 0xFF00, answer
        while self.endless:
            answer.StudyInstanceUID = generate_uid()
            yield 0xFF00, answer

    def _images(self, event: evt.Event) -> Iterator:
        wanted = event.identifier
        self.requests.append(("RETRIEVE", wanted.QueryRetrieveLevel))
        images = [
            pydicom.dcmread(path)
            for made in self.made
            for uid, path in sorted(made.files.items())
            if made.series == wanted.SeriesInstanceUID and wanted.get("SOPInstanceUID", uid) == uid
        ]
        yield len(images)
        for image in images:
            self.before_image(event, self.sent)
            if event.assoc.is_aborted or not event.assoc.is_established:
                return
            self.sent += 1
            yield 0xFF00, self.change(image)

    def get(self, event: evt.Event) -> Iterator:
        yield from self._images(event)

    def move(self, event: evt.Event) -> Iterator:
        yield self.destination
        yield from self._images(event)

    def take(self, event: evt.Event) -> int:
        status = self.store(event)
        if status in (0x0000, 0xB000):
            image = event.dataset
            image.file_meta = event.file_meta
            self.taken.append(image)
        return status

    def connect(self, listen=None, **bounds):
        bounds = Bounds(**{**QUICK, **bounds})
        return connect(parse_address(self.url), listen=listen, bounds=bounds)


@pytest.fixture
def peer(make_series) -> Iterator[Peer]:
    """Not started: a test may first change what it offers."""
    made = Peer([make_series(slices=4)])
    yield made
    if hasattr(made, "_server"):
        made.stop()


@pytest.fixture(params=["get", "move"])
def listen(request, peer):
    """Where images shall go: our own association, or a port of ours."""
    if request.param == "get":
        return None
    peer.destination = ("127.0.0.1", free_port())
    return peer.destination


def test_the_peer_is_a_peer(peer, listen, tmp_path, pulled) -> None:
    """Without misbehaviour all goes well, so that what follows is its doing."""
    peer.start()
    report = pull(peer.connect(listen), Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["missing"], report["stopped"]) == (4, 0, None)
    assert set(pulled(tmp_path / "out")) == set(peer.made[0].files)
    assert ("RETRIEVE", "SERIES") in peer.requests
    assert ("RETRIEVE", "IMAGE") not in peer.requests


def test_an_association_that_breaks_is_opened_again_for_the_rest(
    peer, listen, tmp_path, pulled
) -> None:
    def once(event: evt.Event, count: int) -> None:
        if count == 2:
            peer.before_image = lambda event, count: None
            event.assoc.abort()

    peer.before_image = once
    peer.start()
    report = pull(peer.connect(listen), Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["missing"], report["stopped"]) == (4, 0, None)
    assert set(pulled(tmp_path / "out")) == set(peer.made[0].files)
    assert peer.requests.count(("RETRIEVE", "IMAGE")) == 2
    assert peer.sent == 4  # nothing twice


def test_a_peer_that_goes_down_leaves_what_is_complete_and_the_next_run_goes_on(
    peer, command, tmp_path, pulled
) -> None:
    def down(event: evt.Event, count: int) -> None:
        if count == 2:
            peer._server.socket.close()  # no new connections
            event.assoc.abort()

    peer.before_image = down
    peer.start()
    line = ("pull", "--url", peer.url, "--patient", "P1", "--out", tmp_path / "out")
    line += ("--retries", 0, "--timeout", 2)
    code, report, errors = command(*line)
    assert code == 4
    assert "2 of 4 images are missing" in errors
    found = pulled(tmp_path / "out")
    assert len(found) == 2
    assert set(report["series"][0]["missing"]) == set(peer.made[0].files) - set(found)
    peer.stop()
    code, report, _ = command(*line)
    assert (code, report["error"]["type"]) == (4, "ConnectionLost")

    peer.before_image = lambda event, count: None
    peer.start()
    code, report, _ = command(*line)
    assert (code, report["there"], report["received"]) == (0, 2, 2)
    assert set(pulled(tmp_path / "out")) == set(peer.made[0].files)


def test_an_image_that_outgrows_the_bound_ends_the_transfer(peer, listen, tmp_path) -> None:
    def grow(image: pydicom.Dataset) -> pydicom.Dataset:
        image.PixelData = bytes(2**25)
        return image

    peer.change = grow
    peer.start()
    pacs = peer.connect(listen, instance_bytes=2**20)
    started = time.monotonic()
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    assert time.monotonic() - started < 10
    assert (report["received"], report["missing"]) == (0, 4)
    assert "more than 1048576 bytes" in " ".join(report["series"][0]["why"])
    assert [path for path in tmp_path.glob("out/**/*") if path.is_file()] == []


def test_an_image_that_nobody_asked_for_is_refused(peer, listen, tmp_path, pulled) -> None:
    first = sorted(peer.made[0].files)[0]

    def swap(image: pydicom.Dataset) -> pydicom.Dataset:
        if image.SOPInstanceUID == first:
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        return image

    peer.change = swap
    peer.start()
    report = pull(peer.connect(listen), Query(patient="P1"), tmp_path / "out")
    assert report["series"][0]["missing"] == [first]
    assert report["series"][0]["why"]
    assert set(pulled(tmp_path / "out")) == set(peer.made[0].files) - {first}


def test_an_intruder_at_our_port_is_refused(peer, tmp_path, pulled, make_series) -> None:
    peer.destination = ("127.0.0.1", free_port())
    foreign = pydicom.dcmread(next(iter(make_series("foreign").files.values())))
    answers = []

    def intrude(event: evt.Event, count: int) -> None:
        for title in ("TRIPTYCH", "OTHER"):
            entity = pynetdicom.AE("INTRUDER")
            entity.add_requested_context(MRImageStorage)
            association = entity.associate(*peer.destination, ae_title=title)
            if association.is_established:
                answers.append(association.send_c_store(foreign).Status)
                association.release()
            else:
                answers.append("rejected")

    peer.before_image = intrude
    peer.start()
    report = pull(peer.connect(peer.destination), Query(patient="P1"), tmp_path / "out")
    assert report["received"] == 4
    assert set(answers) == {0xC000, "rejected"}
    assert set(pulled(tmp_path / "out")) == set(peer.made[0].files)


def test_silence_ends(peer, listen, tmp_path) -> None:
    quiet = threading.Event()
    peer.before_image = lambda event, count: quiet.wait(20) and None
    peer.start()
    started = time.monotonic()
    pacs = peer.connect(listen, timeout=0.5, retries=0)
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    quiet.set()
    assert time.monotonic() - started < 8
    assert "lost while retrieving" in report["stopped"]
    assert report["missing"] == 4


@pytest.fixture
def slow_line(peer) -> Iterator[str]:
    """The peer's address behind a line of about 1 MB/s."""
    gate = socket.create_server(("127.0.0.1", 0))
    gate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # what it accepts inherits it
    ends: list[socket.socket] = []

    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(2**15):
                time.sleep(len(data) / 2**20)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def serve() -> None:
        while True:
            try:
                near, _ = gate.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", peer.port))
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
            ends.extend([near, far])
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"dicom://PEER@127.0.0.1:{gate.getsockname()[1]}"
    gate.close()
    for end in ends:
        end.close()


def test_a_slow_line_is_not_silence(peer, slow_line, make_series, tmp_path, pulled) -> None:
    """An image of 3 MB takes twice the timeout each way."""
    peer.made = [make_series("large", slices=1, size=1250)]
    peer.start()
    pacs = connect(parse_address(slow_line), bounds=Bounds(timeout=1.5, retries=0))
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["stopped"]) == (1, None)
    assert report["seconds"] > 1.5
    (path,) = pulled(tmp_path / "out").values()
    report = push(pacs, [path])
    assert (report["stored"], report["stopped"]) == (1, None)
    assert peer.taken[0].PixelData == pydicom.dcmread(path).PixelData


# Searches


def test_a_refused_search_is_said(peer, tmp_path) -> None:
    peer.find_status = 0xA700
    peer.start()
    with pytest.raises(DataError, match=r"refused the search .*0xA700"):
        pull(peer.connect(), Query(patient="P1"), tmp_path / "out")
    with pytest.raises(DataError, match="--study beside --series"):
        pull(peer.connect(), Query(series="1.2"), tmp_path / "out")


def test_an_endless_answer_ends(peer, tmp_path) -> None:
    peer.endless = True
    peer.start()
    with pytest.raises(UsageError, match="more than 5 studies"):
        pull(peer.connect(series=5), Query(patient="P1"), tmp_path / "out")


@pytest.mark.parametrize(("missing", "words"), [("FIND", "- FIND"), ("GET", "--listen")])
def test_a_service_that_is_not_offered_is_named(peer, tmp_path, missing, words) -> None:
    peer.services = tuple({"FIND", "GET"} - {missing})
    peer.start()
    try:
        stopped = pull(peer.connect(), Query(patient="P1"), tmp_path / "out")["stopped"]
    except ResourceError as error:
        stopped = str(error)
    assert words in stopped


def test_a_title_that_is_not_registered_is_said(peer, tmp_path) -> None:
    peer.only_for = ["OTHER"]
    peer.start()
    with pytest.raises(ResourceError, match=r"'TRIPTYCH'.*registered"):
        pull(peer.connect(), Query(patient="P1"), tmp_path / "out")


def test_nobody_there_is_said_at_once(peer, command, tmp_path) -> None:
    line = ("pull", "--url", peer.url, "--patient", "P1", "--out", tmp_path / "out")
    code, report, errors = command(*line, "--retries", 0)
    assert (code, report["error"]["type"]) == (4, "ConnectionLost")
    assert "is the PACS running" in errors
    assert not (tmp_path / "out").exists()


def test_a_server_of_another_kind_is_no_peer(tmp_path) -> None:
    """It answers, but not in DICOM."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _ = server.accept()
            link.recv(100)
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            link.close()

        threading.Thread(target=answer, daemon=True).start()
        address = parse_address(f"dicom://PEER@127.0.0.1:{server.getsockname()[1]}")
        pacs = connect(address, bounds=Bounds(timeout=1.0, retries=0))
        with pytest.raises(ConnectionLost):
            pull(pacs, Query(patient="P1"), tmp_path / "out")


def test_a_port_in_use_is_said(peer, tmp_path) -> None:
    peer.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = ("127.0.0.1", taken.getsockname()[1])
        report = pull(peer.connect(place), Query(patient="P1"), tmp_path / "out")
    assert "cannot listen there" in report["stopped"]


# Store


def test_push_keeps_files_as_they_are(peer, make_series) -> None:
    squeezed = make_series("squeezed", syntax=RLELossless, slices=1)
    peer.start()
    report = push(peer.connect(), [peer.made[0].folder, squeezed.folder])
    assert (report["stored"], report["failed"]) == (5, {})
    for image in peer.taken:
        path = (peer.made[0].files | squeezed.files)[image.SOPInstanceUID]
        original = pydicom.dcmread(path)
        assert image == original
        assert image.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID


def test_push_to_a_peer_that_takes_the_default_syntax_only(peer, make_series) -> None:
    squeezed = make_series("squeezed", syntax=RLELossless, slices=1)
    peer.syntaxes = (ImplicitVRLittleEndian,)
    peer.start()
    report = push(peer.connect(), [peer.made[0].folder, squeezed.folder])
    assert report["stored"] == 4
    ((path, why),) = report["failed"].items()
    assert path == str(next(iter(squeezed.files.values())))
    assert "RLE" in why
    for image in peer.taken:
        assert image.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert image == pydicom.dcmread(peer.made[0].files[image.SOPInstanceUID])


def test_push_of_a_class_that_the_peer_does_not_take(peer) -> None:
    path = next(iter(peer.made[0].files.values()))
    image = pydicom.dcmread(path)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    image.save_as(path)
    peer.start()
    report = push(peer.connect(), [peer.made[0].folder])
    assert report["stored"] == 3
    assert "Segmentation Storage" in report["failed"][str(path)]


@pytest.mark.parametrize(
    ("status", "count"), [(0x0000, 4), (0xB000, 4), (0xA700, 0), (0xC123, 0), (0x0124, 0)]
)
def test_what_the_peer_says_of_files(peer, command, status, count) -> None:
    peer.store = lambda event: status
    peer.start()
    code, report, _ = command("push", peer.made[0].folder, "--url", peer.url)
    assert (code, report["stored"]) == (0 if count else 4, count)
    said = {**report["failed"], **report["notes"]}
    assert len(said) == (4 if status else 0)
    assert all(f"0x{status:04X}" in text for text in said.values())


def test_a_push_that_is_cut_off_goes_on(peer) -> None:
    seen = []

    def cut(event: evt.Event) -> int:
        seen.append(event.request.AffectedSOPInstanceUID)
        if len(seen) == 3:
            event.assoc.abort()
            return 0xA700
        return 0x0000

    peer.store = cut
    peer.start()
    report = push(peer.connect(), [peer.made[0].folder])
    assert (report["stored"], report["failed"], report["stopped"]) == (4, {}, None)
    assert {image.SOPInstanceUID for image in peer.taken} == set(peer.made[0].files)
    assert len(seen) == 5


def test_many_kinds_of_files_take_several_associations(tmp_path) -> None:
    items = [
        Item(path=tmp_path / str(n), uid=f"1.{n}", sop_class=f"1.2.{n}",
             transfer_syntax=(ExplicitVRLittleEndian, RLELossless)[n % 2], bytes=1)
        for n in range(300)
    ]  # fmt: skip
    groups = list(_groups(items))
    assert [item for group, _ in groups for item in group] == items
    for group, contexts in groups:
        assert 0 < len(contexts) <= MOST_CONTEXTS
        offered = {(c.abstract_syntax, c.transfer_syntax[0]) for c in contexts}
        assert {(item.sop_class, item.transfer_syntax) for item in group} <= offered
    assert len(groups) == 4  # 150 x 2 + 150 contexts


@pytest.mark.parametrize("when", ["connecting", "retrieving"])
def test_an_interrupt_ends_the_process(peer, root, tmp_path, when) -> None:
    """pynetdicom's threads would keep it alive."""
    reached, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        if when == "connecting":
            url = f"dicom://PEER@127.0.0.1:{mute.getsockname()[1]}"
            links = []
            accept = lambda: (links.append(mute.accept()), reached.set())  # noqa: E731
            threading.Thread(target=accept, daemon=True).start()
        else:
            peer.before_image = lambda event, count: count == 2 and (reached.set(), over.wait(60))
            peer.start()
            url = peer.url
        line = ["apps/medical/run.py", "pull", "--url", url, "--patient", "P1"]
        line += ["--out", str(tmp_path / "out"), "--timeout", "60"]
        process = subprocess.Popen(
            [sys.executable, *line], cwd=root, stderr=subprocess.PIPE,
            # Whoever runs the tests in the background may have had it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            assert reached.wait(60)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            over.set()
            process.kill()
            _, errors = process.communicate()
    assert b"interrupted" in errors
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == (0 if when == "connecting" else 2)
    assert not list((tmp_path / "out").rglob(".tmp*"))


def test_a_host_that_does_not_exist_is_said(tmp_path) -> None:
    for url in ("dicom://PEER@pacs.invalid:104", "http://pacs.invalid/x"):
        pacs = connect(parse_address(url), bounds=Bounds(timeout=5.0, retries=0))
        with pytest.raises(ConnectionLost, match=r"pacs.invalid.*no connection"):
            pull(pacs, Query(patient="P1"), tmp_path / "out")
