"""The .ts reader: what it takes, and how it refuses the rest, naming file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.timeseries.classification.ts_files import read_ts
from core.errors import DataError

HEADER = """# by José
@problemName Two Words
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true walk run

@data
"""


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "x.ts"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_unequal_lengths_and_missing_values(tmp_path: Path, encoding: str) -> None:
    text = HEADER + "1,2.5,?:-1e3,0,4:run\n\n# more\n 7 , 8 : 9,10 : walk \n"
    cases = read_ts(write(tmp_path, text, encoding))
    assert cases.name == "Two Words"
    assert cases.labels == ("run", "walk")
    assert cases.classes == ("walk", "run")
    assert cases.channels == 2
    assert cases.lengths.tolist() == [3, 2]
    np.testing.assert_array_equal(cases.series[0], [[1, 2.5, np.nan], [-1000, 0, 4]])
    np.testing.assert_array_equal(cases.series[1], [[7, 8], [9, 10]])
    assert cases.take(np.array([1])).labels == ("walk",)


def test_header_in_any_case_and_without_optional_lines(tmp_path: Path) -> None:
    cases = read_ts(write(tmp_path, "@CLASSLABEL TRUE a b\n@Data\n1,2:a\n3,4:b"))
    assert cases.channels == 1
    assert cases.name == "x"
    assert cases.labels == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2:a\n", "line 1 comes before @data"),
        ("@classLabel true a b\n", "no line @data"),
        (HEADER, "holds no case"),
        ("@classLabel false\n@data\n1,2\n", "declares no classes"),
        ("@targetLabel true\n@data\n1,2:0.5\n", "declares no classes"),
        (HEADER.replace("Stamps false", "Stamps true") + "(0,1):(0,1):run\n", "time stamps"),
        (HEADER + "1,2:3,4:jump\n", "line 11 ends in class 'jump'"),
        (HEADER + "1,2:run\n", "declares 2 dimensions and the cases have 1"),
        (HEADER + "1,2:3,4:run\n1,2:run\n", "line 12 has 1 channels"),
        (HEADER + "1,2:3,4,5:run\n", "channels of 2 and of 3 values"),
        (HEADER + "1,2:3,x:run\n", "line 11, channel 2: 'x' is no number"),
        (HEADER + "1,2:3,inf:run\n", "infinite"),
        (HEADER + "run\n", "has no colon"),
        (HEADER + "1,2:3,:run\n", "line 11, channel 2: '' is no number"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as error:
        read_ts(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_ts(tmp_path / "none.ts")


def test_the_sample(samples: Path) -> None:
    train, test = (
        read_ts(samples / f"basicmotions/BasicMotions_{p}.ts") for p in ("TRAIN", "TEST")
    )
    for cases in (train, test):
        assert cases.channels == 6
        assert set(cases.lengths) == {100}
        assert [cases.labels.count(c) for c in cases.classes] == [10, 10, 10, 10]
    assert train.classes == ("Standing", "Running", "Walking", "Badminton")
    assert train.series[0][0, 0] == 0.079106
