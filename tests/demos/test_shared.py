"""Keys, folders, uploads and sentences: what every page stands on."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("streamlit", reason="needs the extra 'demos'")

from core.errors import DataError, UsageError
from demos.shared import uploads, workspace
from demos.shared.keys import key_of
from demos.shared.uploads import receive, safe_name
from demos.shared.words import escaped, sentence
from demos.shared.workspace import keep
from demos.shared.workspace import root as folders


@dataclass(frozen=True)
class Options:
    level: float
    name: str


def test_a_key_depends_on_every_part_and_only_on_them(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    parts = (file, {"b": 1, "a": 2}, Options(0.5, "x"), b"bytes")
    key = key_of(*parts)
    assert len(key) == 16
    assert key == key_of(file, {"a": 2, "b": 1}, Options(0.5, "x"), bytearray(b"bytes"))
    others = [
        key_of(file, {"b": 1, "a": 3}, Options(0.5, "x"), b"bytes"),
        key_of(file, {"b": 1, "a": 2}, Options(0.6, "x"), b"bytes"),
        key_of(file, {"b": 1, "a": 2}, Options(0.5, "x"), b"bytez"),
        key_of(file, {"b": 1, "a": 2}, Options(0.5, "x")),
    ]
    assert len({key, *others}) == 5


def test_parts_do_not_run_into_each_other():
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of(["a"], "b") != key_of(["a", "b"])
    assert key_of("1") != key_of(1)
    assert key_of(True) != key_of(1)


def test_a_path_counts_by_name_and_content_not_by_place(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "x" / "a.txt").write_text("one")
    key = key_of(tmp_path / "a.txt")
    assert key == key_of(tmp_path / "x" / "a.txt")
    (tmp_path / "x" / "a.txt").write_text("two")
    assert key != key_of(tmp_path / "x" / "a.txt")
    before = key_of(tmp_path / "x")
    (tmp_path / "x" / "b.txt").write_text("more")
    assert before != key_of(tmp_path / "x")


def test_numbers_of_numpy_count_by_value():
    assert key_of({"level": np.float64(0.5)}) == key_of({"level": 0.5})


def test_folders_stay_while_they_are_used_and_the_oldest_go(monkeypatch):
    monkeypatch.setattr(workspace, "LIMIT_FOLDERS", 3)
    for name in "abc":
        (workspace.workspace(f"lru-{name}") / "file").write_text(name)
    workspace.workspace("lru-a")  # used again
    workspace.workspace("lru-d")
    left = {path.name for path in folders().glob("lru-*")}
    assert left == {"lru-a", "lru-c", "lru-d"}


def test_what_weighs_too_much_goes_but_never_what_work_is_writing(monkeypatch):
    monkeypatch.setattr(workspace, "LIMIT_BYTES", 1000)
    keep("heavy-a", True)
    try:
        for name in "abc":
            (workspace.workspace(f"heavy-{name}") / "file").write_bytes(bytes(600))
        workspace.workspace("heavy-d")
        assert {path.name for path in folders().glob("heavy-*")} == {"heavy-a", "heavy-d"}
    finally:
        keep("heavy-a", False)


@pytest.mark.parametrize("key", ["", "..", "a/b", "a\\b", "a.b", "\0"])
def test_a_folder_cannot_lie_elsewhere(key):
    with pytest.raises(ValueError, match="not a key"):
        workspace.workspace(key)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_only_this_user_reads_what_was_uploaded():
    assert folders().stat().st_mode & 0o077 == 0


class File:
    """What an upload field gives, counting how often its content is asked for."""

    def __init__(self, name: str, content: bytes, size: int | None = None, id: str = "") -> None:
        self.name = name
        self.size = len(content) if size is None else size
        self.file_id = id
        self.asked = 0
        self._content = content

    def getbuffer(self) -> memoryview:
        self.asked += 1
        return io.BytesIO(self._content).getbuffer()


def test_an_upload_is_kept_under_its_content_with_its_name():
    first = receive(File("scan.nii.gz", b"one"), suffixes=(".nii.gz",))
    assert first.name == "scan.nii.gz"
    assert first.read_bytes() == b"one"
    assert receive(File("scan.nii.gz", b"one"), suffixes=(".nii.gz",)) == first
    other = receive(File("scan.nii.gz", b"two"), suffixes=(".nii.gz",))
    assert other != first
    assert first.read_bytes() == b"one"


def test_the_same_upload_is_hashed_once():
    file = File("scan.nii.gz", b"three", id="upload 3")
    path = receive(file, suffixes=(".gz",))
    asked = file.asked
    assert receive(file, suffixes=(".gz",)) == path
    assert file.asked == asked


def test_an_upload_whose_folder_was_removed_is_written_again():
    file = File("scan.nii.gz", b"four", id="upload 4")
    path = receive(file, suffixes=(".gz",))
    workspace.clear(path.parent.name)
    assert receive(file, suffixes=(".gz",)).read_bytes() == b"four"


def test_an_upload_of_another_kind_empty_or_too_large_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match=r"run\.exe: this page does not read such files"):
        receive(File("run.exe", b"MZ"), suffixes=(".nii.gz", ".nii"))
    with pytest.raises(DataError, match=r"scan\.nii: the file is empty"):
        receive(File("scan.nii", b""), suffixes=(".nii",))
    with pytest.raises(DataError, match=r"300 MiB are more than the 200 MiB"):
        receive(File("scan.nii", b"x", size=300 * 2**20), suffixes=(".nii",), limit_mb=200)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("scan.nii.gz", "scan.nii.gz"),
        ("../../etc/passwd.csv", "passwd.csv"),
        ("C:\\Users\\me\\scan 1.nii", "scan_1.nii"),
        ("..", "file"),
        ("", "file"),
        ("a\0b\nc.csv", "a_b_c.csv"),
        (".hidden.csv", "hidden.csv"),
        ("größe.csv", "größe.csv"),
        ("<script>.csv", "script_.csv"),
    ],
)
def test_names_are_made_harmless(given, name):
    assert safe_name(given) == name


@pytest.mark.parametrize("letter", ["a", "ß", "図", "𐌰"])
def test_long_names_keep_their_ending_and_fit_the_disk(letter):
    name = safe_name(letter * 500 + ".nii.gz")
    assert len(name.encode()) <= uploads.LONGEST_NAME
    assert name.endswith(".nii.gz")
    path = receive(File(letter * 500 + ".nii.gz", b"long"), suffixes=(".nii.gz",))
    assert path.read_bytes() == b"long"


PAGE = """
import streamlit as st
from core.errors import DataError
from demos.shared.words import guarded

kind = st.selectbox("kind", ["none", "expected", "defect", "memory"])
with guarded("The reading"):
    if kind == "expected":
        raise DataError("a.csv: line 3 has too few columns")
    if kind == "defect":
        raise KeyError("inner detail")
    if kind == "memory":
        raise MemoryError
st.write("and the page goes on")
"""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("expected", "a.csv: line 3 has too few columns"),
        ("defect", "The reading failed in a way that this program did not expect (KeyError)."),
        ("memory", "The reading needs more memory than this machine has; try a smaller input."),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_the_page_goes_on(kind, said, capfd):
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_string(PAGE, default_timeout=60).run()
    assert not app.error
    app.selectbox[0].set_value(kind).run()
    assert not app.exception
    (error,) = app.error
    assert error.value.startswith(said)
    assert "inner detail" not in error.value
    assert app.markdown[-1].value == "and the page goes on"
    assert ("inner detail" in capfd.readouterr().err) == (kind == "defect")


def test_folders_that_nobody_chose_are_not_told(root):
    place = workspace.workspace("sentence-1") / "scan.nii.gz"
    assert sentence(DataError(f"{place}: damaged")) == "scan.nii.gz: damaged"
    assert sentence(DataError(f"cannot read {root}/samples/a.csv")) == "Cannot read samples/a.csv"
    assert sentence(DataError("/data/mine/a.csv: empty")) == "/data/mine/a.csv: empty"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("column 'a*b*c' of x_y.csv", r"column 'a\*b\*c' of x_y.csv"),
        ("[click](http://x)", r"\[click\](http://x)"),
        ("_emphasis_ and $x$ and `code`", r"\_emphasis\_ and \$x\$ and \`code\`"),
        ("<b>bold</b>", r"\<b\>bold\</b\>"),
    ],
)
def test_marks_in_names_are_shown_as_they_are(text, shown):
    assert escaped(text) == shown


def test_guarding_leaves_streamlits_own_signals_alone():
    from streamlit.testing.v1 import AppTest

    page = """
import streamlit as st
from demos.shared.words import guarded
with guarded("The page"):
    st.write("before")
    st.stop()
st.write("after")
"""
    app = AppTest.from_string(page, default_timeout=60).run()
    assert not app.error
    assert [element.value for element in app.markdown] == ["before"]
