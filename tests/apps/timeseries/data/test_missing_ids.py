"""Series called NA (Namibia), nan or null: names, where other columns have missing numbers."""

from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.data import reading
from apps.timeseries.data.check import check_file
from apps.timeseries.data.reading import read_panel
from core.errors import DataError

NAMES = [["NA", "DE"], ["NA", "nan", "null", "DE"], ["NA", "nan", "null", "-", "1e3", "DE", "FR"]]


@pytest.mark.parametrize("layout", ["auto", "long"])
@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_one_id_that_reads_as_missing(long, tmp_path, kind, layout):
    table = long(2).rename(columns={"unique_id": "country"})
    table["country"] = np.repeat(["NA", "DE"], 50)
    path = tmp_path / f"data.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_excel(path, index=False)
    assert [series.id for series in read_panel(path, layout=layout)] == ["NA", "DE"]


@pytest.mark.parametrize("names", NAMES)
def test_ids_that_are_found_are_read_as_those_that_are_given(long, save, names):
    table = long(len(names)).rename(columns={"unique_id": "country"})
    table["country"] = np.repeat(names, 50)
    path = save(table)
    found, given = read_panel(path), read_panel(path, id="country")
    assert [series.id for series in found] == names
    assert found.notes == given.notes
    for one, other in zip(found, given):
        np.testing.assert_array_equal(one.values, other.values)
    assert check_file(path)["ok"]


def test_missing_numbers_beside_such_ids_are_missing(long, save):
    table = long(2).assign(unique_id=np.repeat(["NA", "DE"], 50))
    table = table.rename(columns={"unique_id": "country"}).astype({"y": object})
    table.loc[3, "y"] = "NA"
    panel = read_panel(save(table), strict=False)
    assert [series.id for series in panel] == ["NA", "DE"]
    assert np.isnan(panel.series[0].values[3, 0])


def test_an_empty_cell_of_an_id_that_was_found_names_no_series(long, save):
    table = long(2).rename(columns={"unique_id": "country"})
    table.loc[70, "country"] = ""
    with pytest.raises(DataError, match="row 71 names no series in 'country'"):
        read_panel(save(table))


def test_text_that_names_no_series_stays_missing_and_the_file_is_read_once(
    wide, save, monkeypatch
):  # fmt: skip
    table = wide().assign(weather=["rain", "NA", "sun"] * 40)
    calls = []
    read = reading.read_table
    monkeypatch.setattr(reading, "read_table", lambda *a, **k: calls.append(a) or read(*a, **k))
    panel = read_panel(save(table), known=["weather"], strict=False)
    assert panel.known_names == ("weather=rain", "weather=sun")
    assert np.isnan(panel.series[0].known[1]).all()
    assert read_panel(save(table)).layout == "wide"
    assert len(calls) == 2
