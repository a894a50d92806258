"""A DICOMweb server that misbehaves in every way we know, on loopback."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest

from apps.medical.pacs.config import Bounds, Login, Query, parse_address
from apps.medical.pacs.service import connect
from apps.medical.pacs.transfer import pull, push
from core.errors import DataError, ResourceError, UsageError

QUICK = {"timeout": 2.0, "retries": 1, "pause": 0.01}


class Server:
    """Series it serves, and ``trick``: called first, it answers the request itself or says no."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.made: list = []
        self.requests: list[str] = []
        self.stored: list[bytes] = []
        self.trick: Callable[[Handler], bool] = lambda _: False
        self.tls = tls
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._server.owner = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/dw"

    def connect(self, **bounds):
        return connect(parse_address(self.url), bounds=Bounds(**{**QUICK, **bounds}))

    def images(self) -> list[str]:
        """Requests for images so far."""
        return [r for r in self.requests if r.startswith("GET") and "/instances/" in r]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def setup(self) -> None:
        super().setup()
        self.owner: Server = self.server.owner  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self.owner.requests.append(f"GET {self.path}")
        if self.owner.trick(self):
            return
        parts = urlsplit(self.path)
        steps = parts.path.strip("/").split("/")[1:]
        if len(steps) == 6:
            for made in self.owner.made:
                if steps[5] in made.files:
                    return self.image(made.files[steps[5]].read_bytes())
            return self.answer(404, b"")
        found = []
        for made in self.owner.made:
            header = pydicom.dcmread(next(iter(made.files.values())))
            if steps == ["studies"]:
                found.append(tell(header, "StudyInstanceUID", "PatientID", "StudyDate"))
            elif made.study == steps[1] and len(steps) == 3:
                keys = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription")
                found.append(tell(header, *keys))
            elif len(steps) == 5 and made.series == steps[3]:
                for file in made.files.values():
                    found.append(tell(pydicom.dcmread(file), "SOPInstanceUID", "SOPClassUID"))
        query = parse_qs(parts.query)
        for keyword in ("PatientID", "Modality", "StudyInstanceUID"):
            if keyword in query and len(steps) < 5:
                tag = f"{pydicom.datadict.tag_for_keyword(keyword):08X}"
                found = [item for item in found
                         if item.get(tag, {}).get("Value", query[keyword]) == query[keyword]]  # fmt: skip
        start = int(query.get("offset", ["0"])[0])
        self.json(found[start : start + int(query.get("limit", ["999"])[0])])

    def do_POST(self) -> None:
        self.owner.requests.append(f"POST {self.path}")
        if self.owner.trick(self):
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.stored.append(body)
        start = body.index(b"\r\n\r\n") + 4
        header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(body[start:]))
        self.json(stored(header.SOPInstanceUID))

    def json(self, found: object, code: int = 200) -> None:
        self.answer(code, json.dumps(found).encode(), "application/dicom+json")

    def image(self, body: bytes) -> None:
        whole = b"--bb\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--bb--\r\n"
        self.answer(200, whole, 'multipart/related; type="application/dicom"; boundary=bb')

    def answer(self, code: int, body: bytes, kind: str = "text/plain", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()


def tell(header: pydicom.Dataset, *keywords: str) -> dict:
    chosen = pydicom.Dataset()
    for keyword in keywords:
        chosen[keyword] = header[keyword]
    return chosen.to_json_dict()


def stored(uid: str) -> dict:
    answer, item = pydicom.Dataset(), pydicom.Dataset()
    item.ReferencedSOPInstanceUID = uid
    answer.ReferencedSOPSequence = [item]
    return answer.to_json_dict()


def of_image(handler: Handler) -> bool:
    return handler.command == "GET" and "/instances/" in handler.path


@pytest.fixture
def server(make_series) -> Iterator[Server]:
    running = Server()
    running.made = [make_series(slices=4)]
    yield running
    running.stop()


def test_the_server_is_a_server(server, tmp_path, pulled) -> None:
    """Without a trick all goes well, so that what follows is the tricks' doing."""
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["missing"], report["stopped"]) == (4, 0, None)
    found = pulled(tmp_path / "out")
    for uid, path in server.made[0].files.items():
        assert found[uid].read_bytes() == path.read_bytes()
    assert report["bytes"] == sum(path.stat().st_size for path in found.values())


@pytest.mark.parametrize("where", ["in the image", "before the delimiter", "before the headers"])
def test_a_connection_that_drops_is_tried_again(server, tmp_path, pulled, where) -> None:
    dropped = []

    def trick(handler: Handler) -> bool:
        if not of_image(handler) or handler.path in dropped:
            return False
        dropped.append(handler.path)
        body = server.made[0].files[handler.path.split("/")[-1]].read_bytes()
        if where == "in the image":  # fewer bytes than announced
            handler.send_response(200)
            handler.send_header("Content-Type", "multipart/related; boundary=bb")
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(b"--bb\r\nX: y\r\n\r\n" + body[: len(body) // 2])
        elif where == "before the delimiter":  # as many as announced, but no end
            part = b"--bb\r\nX: y\r\n\r\n" + body
            handler.answer(200, part, "multipart/related; boundary=bb")
        handler.hang_up()
        return True

    server.trick = trick
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["missing"]) == (4, 0)
    assert set(pulled(tmp_path / "out")) == set(server.made[0].files)
    assert len(server.images()) == 8


def test_a_pacs_that_goes_down_leaves_what_is_complete_and_the_next_run_goes_on(
    server, command, tmp_path, pulled
) -> None:
    def trick(handler: Handler) -> bool:
        if of_image(handler) and len(server.images()) > 2:
            threading.Thread(target=server.stop).start()
            handler.hang_up()
            return True
        return False

    server.trick = trick
    line = ("pull", "--url", server.url, "--patient", "P1", "--out", tmp_path / "out")
    line += ("--retries", 0, "--timeout", 2)
    code, report, errors = command(*line)
    assert code == 4
    assert "2 of 4 images are missing" in errors
    assert "run the same command again" in errors
    found = pulled(tmp_path / "out")
    assert len(found) == report["received"] == 2
    assert set(report["series"][0]["missing"]) == set(server.made[0].files) - set(found)

    code, report, _ = command(*line)  # still away
    assert (code, report["error"]["type"]) == (4, "ConnectionLost")
    assert len(pulled(tmp_path / "out")) == 2

    server.trick = lambda _: False
    server.start()
    server.requests.clear()
    code, report, _ = command(*line)
    assert (code, report["there"], report["received"]) == (0, 2, 2)
    assert set(pulled(tmp_path / "out")) == set(server.made[0].files)
    assert {r.split("/")[-1] for r in server.images()} == set(server.made[0].files) - set(found)


def broken(kind: str, server: Server) -> Callable[[Handler], bool]:
    """The first image is answered wrongly, always."""
    first = sorted(server.made[0].files)[0]

    def trick(handler: Handler) -> bool:
        if not (of_image(handler) and handler.path.endswith(first)):
            return False
        other = pydicom.dcmread(server.made[0].files[first])
        if kind == "html":
            handler.answer(200, b"<html>Sign in</html>", "text/html")
        elif kind == "not dicom":
            handler.image(b"not DICOM at all" * 100)
        elif kind == "empty":
            handler.answer(200, b"", "multipart/related; boundary=bb")
        elif kind == "another series":
            other.SeriesInstanceUID = "1.2.3"
            handler.image(encoded(other))
        elif kind == "another image":
            handler.image(server.made[0].files[sorted(server.made[0].files)[1]].read_bytes())
        elif kind == "no length":  # and only a part of it
            body = server.made[0].files[first].read_bytes()
            head = b"HTTP/1.0 200 OK\r\nContent-Type: application/dicom\r\n\r\n"
            handler.wfile.write(head + body[: len(body) - 100])
            handler.close_connection = True
        elif kind == "large":
            other.PixelData = bytes(2**20)
            handler.image(encoded(other))
        elif kind == "endless":
            handler.send_response(200)
            handler.send_header("Content-Type", "multipart/related; boundary=bb")
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
            try:
                handler.wfile.write(b"e\r\n--bb\r\nX: y\r\n\r\n\r\n")
                while True:
                    handler.wfile.write(chunk)
            except OSError:
                handler.close_connection = True
        else:
            handler.answer(int(kind), b"no")
        return True

    return trick


def encoded(dataset: pydicom.Dataset) -> bytes:
    stream = pydicom.filebase.DicomBytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("html", "text/html"),
        ("not dicom", "not a DICOM file"),
        ("another series", "another object"),
        ("another image", "another object"),
        ("no length", "looks like the whole"),
        ("large", "limit"),
        ("endless", "limit"),
        ("404", "404"),
        ("500", "500"),
    ],
)
def test_one_bad_image_is_named_and_the_others_come(server, tmp_path, pulled, kind, words) -> None:
    server.trick = broken(kind, server)
    bounds = {"instance_bytes": 2**19}
    report = pull(server.connect(**bounds), Query(patient="P1"), tmp_path / "out")
    first, *others = sorted(server.made[0].files)
    (series,) = report["series"]
    assert series["missing"] == [first]
    assert set(pulled(tmp_path / "out")) == set(others)
    assert any(first in line and words in line for line in series["why"]), series["why"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("401", "TRIPTYCH_PACS_USER"), ("403", "HTTP 403"), ("503", "HTTP 503"), ("empty", "ended")],
)
def test_what_concerns_all_images_stops_the_transfer(server, tmp_path, kind, words) -> None:
    server.trick = broken(kind, server)
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "out")
    assert words in report["stopped"]
    assert (report["received"], report["missing"]) == (0, 4)
    assert len(server.images()) == (2 if kind in ("503", "empty") else 1)  # retries where it helps


def test_a_pacs_that_is_busy_is_asked_again(server, tmp_path) -> None:
    """Each of its requests is refused once."""
    server.trick = lambda h: (
        server.requests.count(f"GET {h.path}") == 1 and (h.answer(503, b"") or True)
    )
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["stopped"]) == (4, None)


@pytest.mark.parametrize(
    ("body", "kind", "error", "words"),
    [
        (b"<html>", "text/html", DataError, "root of the DICOMweb service"),
        (b"[1, 2]", "application/dicom+json", DataError, "cannot be read"),
        (b'"text"', "application/dicom+json", DataError, "cannot be read"),
        (b'[{"0020000D": {"vr": "SQ", "Value": 3}}]', "application/dicom+json", DataError, "read"),
        (b"[" * 100_000, "application/dicom+json", DataError, "cannot be read"),
        (b"[]", "application/dicom+json", DataError, "nothing matches"),
        (b" " * 2**17, "application/dicom+json", DataError, "limit"),
    ],
)
def test_searches_that_are_answered_wrongly(server, tmp_path, body, kind, error, words) -> None:
    server.trick = lambda h: h.answer(200, body, kind) or True
    with pytest.raises(error, match=words):
        pull(server.connect(answer_bytes=2**16 * 2 - 1), Query(patient="P1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_redirection_is_not_followed(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PACS_USER", "me")
    monkeypatch.setenv("TRIPTYCH_PACS_PASSWORD", "geheim")
    other = Server()
    try:
        for code in (301, 307):
            where = f"{other.url}/x"
            server.trick = lambda h, c=code, w=where: h.answer(c, b"", Location=w) or True
            with pytest.raises(ResourceError, match="sends us elsewhere"):
                pull(server.connect(), Query(patient="P1"), tmp_path / "out")
            report = push(server.connect(), [server.made[0].folder])
            assert "sends us elsewhere" in report["stopped"]
        assert other.requests == []
    finally:
        other.stop()


def test_silence_ends(server, tmp_path) -> None:
    quiet = threading.Event()
    server.trick = lambda h: of_image(h) and (quiet.wait(20) or True)
    started = time.monotonic()
    pacs = server.connect(timeout=0.3, retries=1)
    report = pull(pacs, Query(patient="P1"), tmp_path / "out")
    quiet.set()
    assert "no answer within 0.3 s" in report["stopped"]
    assert time.monotonic() - started < 5


def test_other_patients_are_not_taken_from_a_server_that_ignores_the_query(
    server, make_series, tmp_path, pulled
) -> None:
    server.made.append(make_series("other", patient="P2"))
    server.made.append(make_series("ct", modality="CT", study=server.made[0].study))

    def trick(handler: Handler) -> bool:
        handler.path = "&".join(
            part for part in handler.path.split("&")
            if not part.startswith(("PatientID", "Modality"))
        ).replace("?PatientID=P1", "?x=1").replace("?Modality=MR", "?x=1")  # fmt: skip
        return False

    server.trick = trick
    report = pull(server.connect(), Query(patient="P1", modality="MR"), tmp_path / "out")
    assert set(pulled(tmp_path / "out")) == set(server.made[0].files)
    assert len(report["series"]) == 1


def test_names_from_the_pacs_stay_names(server, tmp_path) -> None:
    """UIDs with path separators lead nowhere; texts lose their control sequences."""
    evil = "../../../evil"

    def trick(handler: Handler) -> bool:
        steps = urlsplit(handler.path).path.strip("/").split("/")[1:]
        if len(steps) > 1 and "offset=" in handler.path:
            handler.json([])
            return True
        if len(steps) == 3:
            made = server.made[0]
            good = tell(pydicom.dcmread(next(iter(made.files.values()))), "SeriesInstanceUID")
            good["0008103E"] = {"vr": "LO", "Value": ["\x1b[2Jgone\x07" + "x" * 99]}
            bad = {"0020000E": {"vr": "UI", "Value": [evil]}}
            handler.json([good, bad])
            return True
        if len(steps) == 5:
            handler.json([{"00080018": {"vr": "UI", "Value": [evil]}}])
            return True
        return False

    server.trick = trick
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "deep" / "out")
    (series,) = report["series"]
    assert series["instances"] == 0
    assert series["description"].startswith("[2Jgone")
    assert series["description"].isprintable()
    assert len(series["description"]) <= 64
    assert [path for path in tmp_path.rglob("*evil*")] == []
    assert server.images() == []


@pytest.mark.parametrize("way", ["two at a time", "the same again", "all at once"])
def test_servers_page_as_they_like(server, make_series, tmp_path, way) -> None:
    server.made = [make_series("many", slices=7, size=2)]

    def trick(handler: Handler) -> bool:
        if way == "two at a time":
            handler.path = handler.path.replace("limit=1000", "limit=2")
        elif way == "the same again":
            handler.path = handler.path.replace("offset=", "nothing=")
        return False

    server.trick = trick
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "out", dry_run=True)
    assert report["instances"] == 7


def test_too_many_matches_are_not_taken(server, make_series, tmp_path) -> None:
    server.made += [make_series(f"s{n}", size=2, slices=1) for n in range(3)]
    with pytest.raises(UsageError, match="more than 3 studies"):
        pull(server.connect(series=3), Query(patient="P1"), tmp_path / "out")
    with pytest.raises(UsageError, match="more than 3 instances"):
        pull(server.connect(instances=3), Query(study=server.made[0].study), tmp_path / "out")


def test_older_servers_are_understood(server, tmp_path, pulled) -> None:
    """No wild card in Accept, and images without their multipart wrapping."""

    def trick(handler: Handler) -> bool:
        if not of_image(handler):
            return False
        if "*" in handler.headers["Accept"]:
            handler.answer(406, b"")
        else:
            body = server.made[0].files[handler.path.split("/")[-1]].read_bytes()
            handler.answer(200, body, "application/dicom")
        return True

    server.trick = trick
    report = pull(server.connect(), Query(patient="P1"), tmp_path / "out")
    assert (report["received"], report["missing"]) == (4, 0)
    assert len(server.images()) == 5  # it is refused once


# Store


def test_push_sends_the_bytes_of_the_file(server) -> None:
    report = push(server.connect(), [server.made[0].folder])
    assert (report["stored"], report["failed"], report["missing"]) == (4, {}, [])
    for body, path in zip(server.stored, sorted(server.made[0].folder.iterdir())):
        assert path.read_bytes() in body


def answers(kind: str, handler: Handler, uid: str) -> None:
    handler.rfile.read(int(handler.headers["Content-Length"]))
    if kind == "listed nowhere":
        handler.json({})
    elif kind == "failed":
        failed, answer = pydicom.Dataset(), pydicom.Dataset()
        failed.ReferencedSOPInstanceUID, failed.FailureReason = uid, 0xA700
        answer.FailedSOPSequence = [failed]
        handler.json(answer.to_json_dict(), 409)
    elif kind == "warned":
        told = pydicom.Dataset.from_json(stored(uid))
        told.ReferencedSOPSequence[0].WarningReason = 0xB000
        handler.json(told.to_json_dict(), 202)
    elif kind == "xml":
        handler.answer(200, b"<NativeDicomModel/>", "application/dicom+xml")
    elif kind == "unreadable":
        handler.answer(200, b"[3]", "application/dicom+json")
    else:
        handler.answer(int(kind), b"")


@pytest.mark.parametrize(
    ("kind", "count", "why"),
    [
        ("listed nowhere", 0, "does not name this file"),
        ("failed", 0, "0xA700"),
        ("unreadable", 0, "cannot be read"),
        ("409", 0, "409"),
        ("413", 0, "413"),
        ("warned", 1, "0xB000"),
        ("xml", 1, "did not confirm"),
    ],
)
def test_what_the_pacs_says_of_a_file(server, command, kind, count, why) -> None:
    uid, path = next(iter(server.made[0].files.items()))
    server.trick = lambda h: answers(kind, h, uid) or True
    code, report, errors = command("push", path, "--url", server.url)
    assert report["stored"] == count
    assert code == (0 if count else 4)
    said = {**report["failed"], **report["notes"]}
    assert why in said[str(path)]
    assert ("1 of 1 files were not stored" in errors) is (not count)


def test_a_push_that_is_cut_off_is_tried_again_and_then_told(server, command) -> None:
    def trick(handler: Handler) -> bool:
        if len(server.requests) in (1, 3):
            handler.rfile.read(10)
            handler.hang_up()
            return True
        return False

    server.trick = trick
    report = push(server.connect(), [server.made[0].folder])
    assert (report["stored"], report["stopped"]) == (4, None)

    def gone(handler: Handler) -> bool:
        if len(server.requests) < 2:
            return False
        handler.hang_up()
        return True

    server.requests.clear()
    server.trick = gone
    line = ("push", server.made[0].folder, "--url", server.url, "--retries", 0)
    code, report, errors = command(*line)
    assert (code, report["stored"], len(report["missing"])) == (4, 1, 3)
    assert "3 of 4 files were not stored" in errors


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A key and a certificate for 127.0.0.1, made for this run."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "cert.pem"
    line = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(key), "-out", str(pem), "-days", "2", "-subj", "/CN=127.0.0.1",
        "-addext", "subjectAltName=IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(line, check=True, capture_output=True)
    return key, pem


def test_tls_is_verified(certificate, make_series, tmp_path, command) -> None:
    key, pem = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server = Server(context)
    server.made = [make_series()]
    try:
        line = ("pull", "--url", server.url, "--patient", "P1", "--out", tmp_path / "out")
        code, report, _ = command(*line, "--retries", 0)
        assert code == 4
        assert "certificate" in report["error"]["message"]
        assert "--ca" in report["error"]["message"]
        assert server.requests == []
        code, report, _ = command(*line, "--ca", pem)
        assert (code, report["received"]) == (0, 3)
    finally:
        server.stop()


def test_the_password_goes_as_utf8_and_only_in_its_header(server, tmp_path) -> None:
    import base64

    seen = []
    server.trick = lambda h: bool(seen.append(h.headers.get("Authorization")))
    login = Login(user="j\u00fcrgen", password="p\u00e4ss:word")
    pacs = connect(parse_address(server.url), login=login, bounds=Bounds(**QUICK))
    assert pull(pacs, Query(patient="P1"), tmp_path / "out")["received"] == 4
    kind, _, value = seen[0].partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(value).decode() == "j\u00fcrgen:p\u00e4ss:word"
    assert set(seen) == {seen[0]}
