"""What is refused before any request is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.medical.pacs.config import (
    Login,
    Query,
    admits,
    check_aet,
    is_uid,
    parse_address,
    parse_listen,
)
from apps.medical.pacs.service import connect
from core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kind", "url", "host", "port", "aet"),
    [
        ("http://pacs/dicom-web/", "web", "http://pacs/dicom-web", "pacs", 80, ""),
        ("https://pacs:8443/a/b", "web", "https://pacs:8443/a/b", "pacs", 8443, ""),
        ("dicom://Main_AE@pacs:104", "dimse", "dicom://Main_AE@pacs:104", "pacs", 104, "Main_AE"),
        ("dicom://A B@127.0.0.1:1", "dimse", "dicom://A B@127.0.0.1:1", "127.0.0.1", 1, "A B"),
    ],
)
def test_addresses(text, kind, url, host, port, aet) -> None:
    found = parse_address(text)
    assert (found.kind, found.url, found.host, found.port, found.aet) == (
        kind, url, host, port, aet,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "pacs", "ftp://pacs/x", "http://", "http://pacs:99999/x", "http://pacs/x?patient=1",
        "dicom://pacs:104", "dicom://AET@pacs", "dicom://AET@:104", "dicom://AET@pacs:104/x",
        "dicom://SEVENTEEN_LETTERS@pacs:104", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_addresses_that_are_none(text) -> None:
    with pytest.raises(UsageError, match="--url"):
        parse_address(text)


@pytest.mark.parametrize("text", ["http://me:geheim@pacs/x", "dicom://AET:geheim@pacs:104"])
def test_a_password_in_the_address_is_refused_and_not_repeated(text) -> None:
    with pytest.raises(UsageError, match="TRIPTYCH_PACS_PASSWORD") as caught:
        parse_address(text)
    assert "geheim" not in str(caught.value)


def test_login_comes_from_the_environment_and_hides_its_password(tmp_path) -> None:
    both = {"TRIPTYCH_PACS_USER": "me", "TRIPTYCH_PACS_PASSWORD": "geheim"}
    found = Login.from_environment(environment=both)
    assert (found.user, found.password) == ("me", "geheim")
    assert "geheim" not in repr(found)
    assert Login.from_environment(environment={}) == Login()
    for half in both:
        with pytest.raises(UsageError, match="both"):
            Login.from_environment(environment={half: both[half]})
    with pytest.raises(UsageError, match="no such file"):
        Login.from_environment(tmp_path / "gone.pem", environment={})


def test_options_of_the_other_protocol_are_refused(tmp_path) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.write_text("")
    login = Login(certificates=certificates)
    for url in ("http://pacs/x", "dicom://AET@pacs:104"):
        with pytest.raises(UsageError, match="--ca"):
            connect(parse_address(url), login=login)
    with pytest.raises(UsageError, match="--listen"):
        connect(parse_address("http://pacs/x"), listen=("", 104))


@pytest.mark.parametrize(
    ("text", "place"), [(None, None), ("104", ("", 104)), ("10.0.0.1:11112", ("10.0.0.1", 11112))]
)
def test_listen(text, place) -> None:
    assert parse_listen(text) == place


@pytest.mark.parametrize("text", ["", "0", "65536", "host:", "a b:1", "-1", "host:port"])
def test_listen_that_is_none(text) -> None:
    with pytest.raises(UsageError, match="--listen"):
        parse_listen(text)


@pytest.mark.parametrize("title", ["", "    ", "SEVENTEEN_LETTERS", "A\\B", "A\nB", "\u00c4"])
def test_titles_that_are_none(title) -> None:
    with pytest.raises(UsageError, match="AE title"):
        check_aet(title)


@pytest.mark.parametrize(
    ("keys", "option"),
    [
        ({}, "--patient"),
        ({"modality": "MR"}, "--patient"),
        ({"patient": "*"}, "--patient"),
        ({"patient": "**??"}, "--patient"),
        ({"accession": "*"}, "--accession"),
        ({"patient": "P1\\P2"}, "--patient"),
        ({"patient": "P1\nP2"}, "--patient"),
        ({"patient": "x" * 65}, "--patient"),
        ({"study": "../../x"}, "--study"),
        ({"series": "*"}, "--series"),
        ({"date": "2024"}, "--date"),
        ({"date": "2024-01-31"}, "--date"),
        ({"patient": "P", "modality": "mr; DROP"}, "--modality"),
    ],
)
def test_queries_that_are_none(keys, option) -> None:
    with pytest.raises(UsageError, match=option):
        Query(**keys)


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        ({"PatientID": "P1"}, {"PatientID": "P1"}, True),
        ({"PatientID": "P1"}, {"PatientID": "p1 "}, True),
        ({"PatientID": "P1"}, {"PatientID": "P12"}, False),
        ({"PatientID": "P?"}, {"PatientID": "P1"}, True),
        ({"PatientID": "P*"}, {"PatientID": "Q1"}, False),
        ({"PatientID": "P[12]"}, {"PatientID": "P1"}, False),
        ({"PatientID": "P[12]"}, {"PatientID": "P[12]"}, True),
        ({"PatientID": "P1"}, {}, True),  # not told, not known
        ({"Modality": "MR"}, {"Modality": "CT"}, False),
        ({"StudyDate": "20240131"}, {"StudyDate": "20240131"}, True),
        ({"StudyDate": "20240131"}, {"StudyDate": "20240201"}, False),
        ({"StudyDate": "20240131-"}, {"StudyDate": "20240201"}, True),
        ({"StudyDate": "-20240131"}, {"StudyDate": "20240201"}, False),
    ],
)
def test_answers_are_matched_again(wanted, found, fits) -> None:
    assert admits(wanted, found) is fits


@given(*[st.dates().map(lambda day: day.strftime("%Y%m%d").rjust(8, "0"))] * 3)
def test_a_range_of_dates_admits_what_lies_in_it(first, last, day) -> None:
    assert admits({"StudyDate": f"{first}-{last}"}, {"StudyDate": day}) is (first <= day <= last)


@given(st.text(max_size=80))
def test_a_uid_is_safe_as_a_name(text) -> None:
    if is_uid(text):
        assert len(text) <= 64
        assert text.isascii()
        assert set(text) <= set("0123456789.")
        assert ".." not in text
        assert not text.startswith(".")
