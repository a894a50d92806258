"""Borders: no future row in two parts, the published ones, and files that are too short."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.timeseries.data.splits import chronological, origins, protocol_borders
from core.errors import DataError, UsageError


def test_published_borders_and_window_counts() -> None:
    hour = protocol_borders("ett-hour", 17420)
    assert hour.report() == {"train": 8640, "val": 11520, "test": 14400}
    assert len(origins(hour.val, hour.test, 96, 96)) == 2785
    assert len(origins(0, hour.train, 96, 96)) == 8449
    assert len(origins(hour.train, hour.val, 96, 96)) == 2785
    minute = protocol_borders("ett-minute", 69680)
    assert len(origins(minute.val, minute.test, 96, 96)) == 11425
    exchange = protocol_borders("7-1-2", 7588)
    assert exchange.report() == {"train": 5311, "val": 6071, "test": 7588}
    assert len(origins(exchange.val, exchange.test, 96, 96)) == 1422


def test_a_file_too_short_for_a_protocol_and_an_unknown_protocol() -> None:
    with pytest.raises(DataError, match=r"14,400; use 7-1-2"):
        protocol_borders("ett-hour", 14399)
    with pytest.raises(UsageError, match="Did you mean 'ett-hour'"):
        protocol_borders("ett-hours", 20000)


@given(st.integers(1, 3000), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_every_part_has_a_window_and_no_row_is_forecast_in_two(rows, lookback, horizon, test):
    if rows < lookback + 2 * horizon:
        with pytest.raises(DataError, match="need at least"):
            chronological(rows, lookback, horizon, test)
        return
    b = chronological(rows, lookback, horizon, test)
    assert b.test == rows
    limits = [(0, b.train), (b.train, b.val)] + ([(b.val, b.test)] if b.test > b.val else [])
    assert test or b.val == b.test
    futures = []
    for first, last in limits:
        found = origins(first, last, lookback, horizon)
        assert len(found)
        assert found.min() >= lookback
        futures.append(set(np.ravel(found[:, None] + np.arange(horizon))))
    for i, one in enumerate(futures):
        for other in futures[i + 1 :]:
            assert not one & other


def test_length_one_less_than_needed_says_what_is_needed() -> None:
    with pytest.raises(DataError, match=r"191 rows: lookback 96 and horizon 48 need at least 192"):
        chronological(191, 96, 48)
    assert chronological(192, 96, 48).report() == {"train": 144, "val": 192, "test": 192}
