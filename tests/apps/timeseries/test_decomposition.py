"""Parts that were put together are found again; what is not known is not made up."""

from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.decomposition import decompose
from core.errors import DataError, UsageError


def made(rows: int, period: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = np.arange(rows)
    shape = np.sin(2 * np.pi * np.arange(period) / period)
    season = (shape - shape.mean())[t % period]
    return 3.0 + 0.25 * t + season, 3.0 + 0.25 * t, season


@pytest.mark.parametrize("period", [2, 7, 12, 24])
def test_a_line_and_a_season_are_found_again(period: int) -> None:
    y, trend, season = made(10 * period, period)
    parts = decompose(y, period)
    inner = slice(period // 2, len(y) - period // 2)
    assert np.allclose(parts.trend[inner], trend[inner])
    assert np.allclose(parts.season, season)
    assert np.allclose(parts.rest[inner], 0, atol=1e-9)
    assert parts.trend_strength == pytest.approx(1)


def test_the_ends_have_no_trend_and_the_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    y = made(100, 12)[0] + rng.normal(size=100)
    parts = decompose(y, 12)
    assert np.isnan(parts.trend[:6]).all()
    assert np.isnan(parts.trend[-6:]).all()
    assert np.isfinite(parts.trend[6:-6]).all()
    known = np.isfinite(parts.rest)
    assert np.allclose((parts.trend + parts.season + parts.rest)[known], y[known])


def test_an_even_season_counts_its_ends_half() -> None:
    y = np.array([1.0, 2.0, 6.0, 4.0, 5.0, 9.0, 7.0, 8.0])
    # (1/2 + 2 + 6 + 4 + 5/2) / 4 at the third row
    assert decompose(y, 4).trend[2] == pytest.approx(15 / 4)


def test_noise_has_weak_parts_and_a_wave_a_strong_season() -> None:
    rng = np.random.default_rng(1)
    noise = decompose(rng.normal(size=2400), 24)
    assert noise.season_strength < 0.1
    assert noise.trend_strength < 0.2
    wave = np.sin(2 * np.pi * np.arange(2400) / 24) + 0.1 * rng.normal(size=2400)
    assert decompose(wave, 24).season_strength > 0.95


def test_missing_rows_leave_holes_only_where_they_are_many() -> None:
    y, trend, _ = made(120, 12)
    y[40] = np.nan
    y[70:90] = np.nan
    parts = decompose(y, 12)
    assert np.isnan(parts.rest[40])
    assert np.isfinite(parts.trend[40])
    assert np.isnan(parts.trend[80])
    assert abs(parts.trend[20] - trend[20]) < 1e-9
    assert np.isfinite(parts.season).all()


def test_a_constant_has_no_strength() -> None:
    parts = decompose(np.full(48, 5.0), 12)
    assert np.isnan(parts.season_strength)
    assert np.isnan(parts.trend_strength)


def test_what_cannot_be_decomposed_is_said() -> None:
    with pytest.raises(UsageError, match="2 rows or more"):
        decompose(np.ones(10), 1)
    with pytest.raises(DataError, match="23 rows are less than two seasons of 12"):
        decompose(np.ones(23), 12)
    with pytest.raises(UsageError, match="one series"):
        decompose(np.ones((10, 2)), 2)
