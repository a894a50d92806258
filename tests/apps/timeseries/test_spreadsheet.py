"""What is written is what openpyxl and pandas read back; text is never a formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

from apps.timeseries import spreadsheet
from apps.timeseries.spreadsheet import write_xlsx
from core.errors import DataError, UsageError


def test_numbers_stamps_and_gaps_come_back(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "unique_id": pd.Categorical(["a", "b"]),
            "ds": pd.to_datetime(["2024-01-01 05:00", "2024-01-02 00:00"]),
            "yhat": [1.25, np.nan],
            "step": np.array([1, 2]),
        }
    )
    write_xlsx(tmp_path / "f.xlsx", {"forecast": frame, "notes": pd.DataFrame({"note": []})})
    back = pd.read_excel(tmp_path / "f.xlsx", sheet_name=None)
    assert list(back) == ["forecast", "notes"]
    found = back["forecast"]
    assert found["unique_id"].tolist() == ["a", "b"]
    assert found["ds"].tolist() == frame["ds"].tolist()
    assert found["yhat"].tolist()[0] == 1.25
    assert np.isnan(found["yhat"][1])
    assert found["step"].tolist() == [1, 2]


def test_text_is_no_formula_and_has_no_control_characters(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=1+1": ["=HYPERLINK('x')", "a\x00b"]})
    write_xlsx(tmp_path / "f.xlsx", {"s": frame})
    sheet = load_workbook(tmp_path / "f.xlsx")["s"]
    cells = [row[0] for row in sheet.iter_rows()]
    assert [cell.value for cell in cells] == ["=1+1", "=HYPERLINK('x')", "ab"]
    assert {cell.data_type for cell in cells} == {"s"}


def test_zones_and_old_days_are_text(tmp_path: Path) -> None:
    zoned = pd.date_range("2024-10-27 00:00", periods=2, freq="h", tz="UTC").tz_convert(
        "Europe/Berlin"
    )
    frame = pd.DataFrame({"ds": zoned, "old": pd.to_datetime(["1850-01-01", "1950-01-01"])})
    write_xlsx(tmp_path / "f.xlsx", {"s": frame})
    rows = list(load_workbook(tmp_path / "f.xlsx")["s"].values)[1:]
    assert [row[0] for row in rows] == ["2024-10-27 02:00:00+02:00", "2024-10-27 02:00:00+01:00"]
    assert rows[0][1] == "1850-01-01 00:00:00"
    assert rows[1][1] == pd.Timestamp("1950-01-01")


def test_names_that_excel_forbids_are_changed(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "f.xlsx", {"a/b: " + "x" * 40: pd.DataFrame({"y": [1]})})
    (name,) = load_workbook(tmp_path / "f.xlsx").sheetnames
    assert name.startswith("a_b_ x")
    assert len(name) == 31


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"y": [1, 2, 3]})
    monkeypatch.setattr(spreadsheet, "MAX_ROWS", 3)
    with pytest.raises(DataError, match="use the CSV"):
        write_xlsx(tmp_path / "f.xlsx", {"s": frame})
    assert not (tmp_path / "f.xlsx").exists()
    with pytest.raises(UsageError, match="different names"):
        write_xlsx(tmp_path / "f.xlsx", {"a/": frame[:1], "a:": frame[:1]})
    with pytest.raises(UsageError, match="none"):
        write_xlsx(tmp_path / "f.xlsx", {})
    (tmp_path / "f.xlsx").write_bytes(b"")
    with pytest.raises(UsageError, match="already exists"):
        write_xlsx(tmp_path / "f.xlsx", {"s": frame[:1]})
