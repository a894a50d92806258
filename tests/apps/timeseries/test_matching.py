"""A file's columns and clock against the ones that a model was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apps.timeseries.matching import listed, match, reading_options
from apps.timeseries.store import DataSpec
from core.errors import DataError


def data(**changes):
    values = {
        "file": "f.csv", "sha256": "0" * 64, "layout": "wide", "freq": "h", "season": 24,
        "targets": ["y0", "y1"], "series": ["train"], "rows": 400,
    }  # fmt: skip
    return DataSpec(**{**values, **changes})


def test_columns_are_matched_by_name_not_by_place(make_panel) -> None:
    panel = make_panel(variates=2, known=2, past=1)
    about = data(targets=["y1", "y0"], past=["p0"], known=["k1"])
    found = match(panel, about)
    series, original = found.series[0], panel.series[0]
    assert found.targets == ("y1", "y0")
    np.testing.assert_array_equal(series.values, original.values[:, ::-1])
    np.testing.assert_array_equal(series.known, original.known[:, [1]])
    assert any("not used by the model: k0" in note for note in found.notes)
    # Turning the file's columns around changes nothing.
    turned = replace(
        panel,
        targets=panel.targets[::-1],
        series=(replace(original, values=original.values[:, ::-1]),),
    )
    np.testing.assert_array_equal(match(turned, about).series[0].values, series.values)


def test_renamed_and_missing_columns_are_named(make_panel) -> None:
    panel = replace(make_panel(variates=2), targets=("y0", "oil"))
    with pytest.raises(DataError, match=r"lacks the target y1 .*it has oil instead"):
        match(panel, data())
    with pytest.raises(DataError, match="lacks the past covariate wind"):
        match(make_panel(), data(past=["wind"]))
    with pytest.raises(DataError, match="lacks the known covariates a, b"):
        match(make_panel(), data(known=["a", "b"]))
    with pytest.raises(DataError, match="lacks the static covariate size"):
        match(make_panel(), data(static=["size"]))


def test_another_frequency_is_refused(make_panel) -> None:
    with pytest.raises(DataError, match="frequency h, the model was trained on frequency D"):
        match(make_panel(), data(freq="D"))
    panel = make_panel()
    irregular = panel.with_series([replace(panel.series[0], freq=None)])
    with pytest.raises(DataError, match="no regular frequency"):
        match(irregular, data())


def test_new_series_are_said_and_a_wide_file_may_be_renamed(make_panel) -> None:
    assert match(make_panel(), data()).series[0].id == "train"
    panel = make_panel(count=3)
    found = match(panel, data(layout="long", series=["s0", "s2"]))
    assert [s.id for s in found] == ["s0", "s1", "s2"]
    assert any("1 of 3 series are new" in n and n.endswith("s1") for n in found.notes)


def test_a_clock_in_another_zone_is_said_where_the_model_knows_the_clock(make_panel) -> None:
    panel = make_panel()
    at = panel.series[0].times.tz_localize("Asia/Tokyo")
    tokyo = panel.with_series([replace(panel.series[0], times=at)])
    assert (panel.tz, tokyo.tz) == (None, "Asia/Tokyo")
    berlin = data(marks=True, tz="Europe/Berlin")
    assert any("Asia/Tokyo, the model was trained on" in n for n in match(tokyo, berlin).notes)
    assert any("without a zone, the model" in n for n in match(panel, berlin).notes)
    quiet = (data(marks=True, tz="Asia/Tokyo"), data(tz="Europe/Berlin"), data(marks=True))
    for about in quiet:  # the same; without features of the clock; before zones were remembered
        assert not any("trained on stamps" in n for n in match(tokyo, about).notes)


def test_reading_takes_the_models_columns_where_none_are_given() -> None:
    about = data(past=["p"], known=["k"], layout="long", targets=["sales"])
    assert reading_options(about, {"past": (), "freq": None, "targets": None}) == {
        "past": ("p",), "known": ("k",), "targets": ("sales",), "freq": None,
    }  # fmt: skip
    assert reading_options(about, {"known": ("other",)})["known"] == ("other",)
    assert "targets" not in reading_options(data(), {})


def test_long_lists_are_cut() -> None:
    assert listed(list("abc")) == "a, b, c"
    assert listed(list("abcdefgh")) == "a, b, c, d, e and 3 more"
