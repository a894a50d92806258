"""Intervals: ranks by hand, coverage in simulations, and blindness to what is not known yet."""

from __future__ import annotations

import time

import numpy as np
import pytest

from apps.timeseries import intervals
from apps.timeseries.intervals import Conformal, rolling
from core.errors import UsageError

NAN = float("nan")
LEVELS = (80.0, 90.0, 95.0)


def paths(seed: int, origins: int, steps: int, series: int = 1, phi: float = 0.8) -> np.ndarray:
    """Errors (O, H, N) of an AR(1) forecast by 0 at independent origins, wider at later steps."""
    rng = np.random.default_rng(seed)
    out = np.zeros((origins, steps, series))
    for h in range(steps):
        before = out[:, h - 1] if h else 0.0
        out[:, h] = phi * before + rng.normal(size=(origins, series))
    return out


def walk(seed: int, rows: int, steps: int, series: int = 2):
    """(forecasts, truths), each (O, H, N), of an AR(1) series forecast at every row."""
    rng = np.random.default_rng(seed)
    y = np.zeros((rows, series))
    for t in range(1, rows):
        y[t] = 0.8 * y[t - 1] + rng.normal(size=series)
    at = np.arange(1, rows - steps + 1)
    power = 0.8 ** np.arange(1, steps + 1)
    forecasts = y[at - 1][:, None] * power[:, None]
    return forecasts, y[at[:, None] + np.arange(steps)]


@pytest.mark.parametrize(("count", "level", "rank"), [(9, 90, 9), (19, 95, 19), (99, 80, 80)])
def test_the_rank_is_that_of_finite_samples(count, level, rank):
    residuals = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    signs = np.where(np.arange(count) % 2, -1, 1)
    lo, hi = Conformal((residuals * signs)[:, None, None]).bounds(level)
    assert (lo[0, 0], hi[0, 0]) == (-rank, rank)


def test_too_few_residuals_bound_nothing():
    lo, hi = Conformal(np.ones((8, 2, 1))).bounds(90)
    assert np.isinf([lo, hi]).all()
    assert np.isinf(Conformal(np.empty((0, 2, 1))).bounds(50)).all()
    assert np.isinf(Conformal(np.full((50, 2, 1), NAN)).bounds(50)).all()


def test_two_sides_by_hand():
    residuals = np.arange(1.0, 20)[:, None, None]  # 1 .. 19, all above the forecast
    lo, hi = Conformal(residuals, symmetric=False).bounds(80)
    assert (lo[0, 0], hi[0, 0]) == (2, 18)
    assert Conformal(residuals).bounds(80)[0][0, 0] == -16


def test_unknown_residuals_are_left_out_and_the_window_is_of_known_ones():
    residuals = np.arange(1.0, 31)[:, None, None] * np.ones((1, 2, 1))
    residuals[25:, 1] = NAN  # step 2 of the latest origins is not known yet
    lo, hi = Conformal(residuals, window=9).bounds(90)
    np.testing.assert_array_equal(hi[:, 0], [30, 25])
    np.testing.assert_array_equal(lo, -hi)
    _, all_hi = Conformal(residuals).bounds(50)
    np.testing.assert_array_equal(all_hi[:, 0], [16, 13])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("level", LEVELS)
def test_coverage_of_exchangeable_errors(symmetric, level):
    found = []
    for seed in range(8):
        errors = paths(seed, 2000, 3, 4)
        for part in np.split(errors, 20):  # 59 residuals, 41 new errors
            lo, hi = Conformal(part[:59], symmetric=symmetric).bounds(level)
            found.append(((part[59:] >= lo) & (part[59:] <= hi)).mean())
    # exactly nominal where (n + 1) alpha / 2 is whole, up to 1 / (n + 1) or 2 / (n + 1) above
    assert level / 100 - 0.01 < np.mean(found) < level / 100 + 2 / 60 + 0.01


@pytest.mark.parametrize("origins", [30, 60, 200])
def test_a_joint_band_holds_whole_paths(origins):
    inside, pointwise = [], []
    for seed in range(60):
        errors = paths(seed, origins + 200, 12)
        past, new = errors[:origins], errors[origins:]
        for band, found in (
            (intervals.joint_path(past, 90), inside),
            (Conformal(past).bounds(90), pointwise),
        ):
            found.append(((new >= band[0]) & (new <= band[1])).all(axis=1).mean())
    assert 0.88 < np.mean(inside) < 0.94
    assert np.mean(pointwise) < 0.7


def test_a_joint_band_is_wider_at_every_step():
    errors = paths(0, 300, 24, 3)
    lo, hi = intervals.joint_path(errors, 80)
    _, step = Conformal(errors).bounds(80)
    assert (hi > step).all()
    np.testing.assert_array_equal(lo, -hi)
    assert Conformal(errors, joint=True).kind == "joint path"


def test_scaled_residuals_follow_the_local_spread():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.2, 5, size=(400, 1))
    errors = rng.normal(size=(400, 2, 1)) * scale[:, None]
    conformal = Conformal(errors[:200], scale=scale[:200])
    hit, width = [], []
    for i in range(200, 400):
        lo, hi = conformal.bounds(90, scale[i])
        hit.append((errors[i] >= lo) & (errors[i] <= hi))
        width.append(hi - lo)
    assert np.mean(hit) == pytest.approx(0.9, abs=0.04)
    lo, hi = Conformal(errors[:200]).bounds(90)
    assert np.mean(width) < 0.95 * (hi - lo).mean()
    np.testing.assert_allclose(
        np.array(width)[:, 0, 0] / scale[200:, 0], width[0][0, 0] / scale[200, 0]
    )


def test_local_scale():
    windows = np.random.default_rng(1).normal(size=(5, 40, 2))
    windows[2, :, 1] = 3
    windows[3, 5, 0] = NAN
    found = intervals.local_scale(windows, np.array([0.01, 0.02]))
    np.testing.assert_allclose(found[0], windows[0].std(axis=0))
    assert found[2, 1] == 0.02
    assert found[3, 0] == pytest.approx(np.nanstd(windows[3, :, 0]))


@pytest.mark.parametrize("rate", [0.0, 0.02])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("every", [1, 7])
def test_truths_not_known_at_an_origin_change_nothing(rate, joint, every):
    forecasts, truths = walk(0, 90, 6)
    options = {"rate": 50 * rate, "joint": joint, "every": every, "window": 30}
    before = rolling(forecasts, truths, [60, 80], **options)
    for i in (0, 1, 17, 40, 80):
        other = truths.copy()
        for o in range(len(truths)):
            for h in range(6):
                if o + h >= i:  # row o + h is not observed when standing at row i
                    other[o, h] += 100 * (-1) ** h
        after = rolling(forecasts, other, [60, 80], **options)
        for level in (60, 80):
            np.testing.assert_array_equal(after.lo[level][: i + 1], before.lo[level][: i + 1])
            np.testing.assert_array_equal(after.hi[level][: i + 1], before.hi[level][: i + 1])
    # and the last truth that is known does count
    other = truths.copy()
    other[39:40, 0] += 100
    after = rolling(forecasts, other, [60], **(options | {"every": 1, "joint": False}))
    plain = rolling(forecasts, truths, [60], **(options | {"every": 1, "joint": False}))
    assert not np.array_equal(after.hi[60][40, 0], plain.hi[60][40, 0])


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_origin_is_as_calibrated_alone(joint, symmetric):
    if joint and not symmetric:
        with pytest.raises(UsageError, match="symmetric"):
            rolling(*walk(1, 20, 3), [80], joint=True, symmetric=False)
        return
    at = np.cumsum(np.random.default_rng(2).integers(1, 4, size=60))  # uneven distances
    forecasts, truths = (a[at] for a in walk(1, 200, 5))
    scale = np.random.default_rng(3).uniform(1, 2, size=(60, 2))
    found = rolling(
        forecasts, truths, [80], 25, origins=at, scale=scale, joint=joint, symmetric=symmetric, rate=0,
        every=1, start=10,
    )  # fmt: skip
    assert found.lo[80].shape == (50, 5, 2)
    for i in range(10, 60):
        residuals = (truths - forecasts)[:i].copy()
        residuals[at[:i, None] + np.arange(5) >= at[i]] = NAN
        if joint:  # paths count once they are whole
            keep = np.isfinite(residuals).all(axis=(1, 2))
            alone = Conformal(residuals[keep][-25:], scale=scale[:i][keep][-25:], joint=True)
        else:
            alone = Conformal(residuals, window=25, scale=scale[:i], symmetric=symmetric)
        lo, hi = alone.bounds(80, scale[i])
        np.testing.assert_allclose(found.lo[80][i - 10], forecasts[i] + lo)
        np.testing.assert_allclose(found.hi[80][i - 10], forecasts[i] + hi)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_coverage_of_a_stationary_series(rate):
    forecasts, truths = walk(4, 2500, 8)
    found = rolling(forecasts, truths, LEVELS, 500, start=600, rate=rate)
    for level, row in found.report(truths[600:])["levels"].items():
        assert row["coverage"] == pytest.approx(float(level) / 100, abs=0.02)
        widths = row["per_horizon"]["width"]
        assert widths[0] < widths[-1]


def test_adaption_restores_coverage_when_errors_grow():
    forecasts, truths = walk(5, 3000, 4)
    growth = np.exp(np.linspace(0, 2, len(truths)))[:, None, None]
    truths = forecasts + (truths - forecasts) * growth
    plain = rolling(forecasts, truths, [90], None, start=1000, rate=0).report(truths[1000:])
    adapted = rolling(forecasts, truths, [90], None, start=1000, rate=0.5).report(truths[1000:])
    both = rolling(forecasts, truths, [90], 200, start=1000, rate=0.5).report(truths[1000:])
    assert plain["levels"]["90"]["coverage"] < 0.8
    assert adapted["levels"]["90"]["coverage"] > plain["levels"]["90"]["coverage"] + 0.05
    assert both["levels"]["90"]["coverage"] == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("joint", [False, True])
def test_bounds_stay_finite_where_alpha_asks_for_more_than_there_is(joint):
    forecasts, truths = walk(8, 400, 3)
    truths = forecasts + (truths - forecasts) * np.exp(np.arange(len(truths)) / 40)[:, None, None]
    found = rolling(forecasts, truths, [90, 99], 40, joint=joint, start=100, every=1)
    if not joint:
        largest = np.abs(truths - forecasts)[-41:-1, 0].max(axis=0)
        np.testing.assert_allclose((found.hi[90][-1] - forecasts[-1])[0], largest)
    assert np.isfinite(found.hi[90]).all()
    assert np.isinf(found.hi[99]).all()  # 40 scores have no 99 % rank, whatever alpha says


@pytest.mark.parametrize("stride", [1, 5, 40])
def test_the_present_is_a_last_origin_without_truths(stride):
    forecasts, truths = walk(9, 2000, 10)
    at = np.arange(len(truths))[::-stride][::-1]
    before = rolling(forecasts[at], truths[at], [80], 30, origins=at, every=7)
    now = truths[at].copy()
    now[at[:, None] + np.arange(10) >= at[-1]] = NAN
    after = rolling(forecasts[at], now, [80], 30, origins=at, every=7)
    np.testing.assert_array_equal(after.hi[80], before.hi[80])
    assert np.isfinite(after.hi[80][-1]).all()


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_are_nested_and_bounds_in_order(rate, symmetric):
    forecasts, truths = walk(6, 300, 5)
    found = rolling(forecasts, truths, [95, 50, 80], 60, rate=rate, symmetric=symmetric)
    assert (found.lo[50] <= found.hi[50]).all()
    for inner, outer in ((50, 80), (80, 95)):
        assert (found.lo[outer] <= found.lo[inner]).all()
        assert (found.hi[inner] <= found.hi[outer]).all()


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_cqr_repairs_quantiles_that_are_too_narrow_or_too_wide(spread):
    forecasts, truths = walk(7, 1500, 4)
    sigma = np.sqrt(np.cumsum(0.64 ** np.arange(4)))[:, None]
    lower, upper = forecasts - 1.645 * spread * sigma, forecasts + 1.645 * spread * sigma
    margin = intervals.cqr(truths[:700], lower[:700], upper[:700], 90)
    assert ((margin > 0) == (spread < 1)).all()
    inside = (truths[700:] >= lower[700:] - margin) & (truths[700:] <= upper[700:] + margin)
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    found = rolling({90: (lower, upper)}, truths, [90], start=700)
    assert found.report(truths[700:])["levels"]["90"]["coverage"] == pytest.approx(0.9, abs=0.02)
    assert (found.lo[90] <= found.hi[90]).all()


def test_report_by_step_and_series():
    truths = np.zeros((4, 2, 2))
    truths[0, 1, 0] = 5  # outside
    truths[1, 0, 1] = NAN
    lo, hi = {90: np.full((4, 2, 2), -1.0)}, {90: np.full((4, 2, 2), 1.0)}
    step = intervals.report(truths, lo, hi, names=["a", "b"])
    row = step["levels"]["90"]
    assert step["kind"] == "pointwise"
    assert row["coverage"] == pytest.approx(14 / 15)
    assert row["width"] == 2
    assert row["per_horizon"]["coverage"] == pytest.approx([1, 7 / 8])
    assert row["per_series"]["a"]["coverage"] == pytest.approx(7 / 8)
    path = intervals.report(truths, lo, hi, kind="joint path")["levels"]["90"]
    assert path["coverage"] == pytest.approx(6 / 7)  # the path with a hole is left out
    assert path["per_series"]["0"]["coverage"] == pytest.approx(3 / 4)
    hi[90][:, 0] = np.inf
    row = intervals.report(truths, lo, hi)["levels"]["90"]
    assert row["unbounded"] == 0.5
    assert row["width"] == 2


def test_a_long_test_part_takes_seconds():
    rng = np.random.default_rng(0)
    forecasts, truths = np.zeros((2785, 24, 7)), rng.normal(size=(2785, 24, 7))
    start = time.process_time()
    rolling(forecasts, truths, LEVELS, 1440, start=1440)
    assert time.process_time() - start < 15  # below 1 s here; a quarter of ETTh1's 96 steps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": [0.9]}, "percentage"),
        ({"levels": [100]}, "percentage"),
        ({"window": 0}, "window 0"),
        ({"every": 0}, "every 0"),
        ({"start": 99}, "start 99"),
        ({"origins": np.zeros(30)}, "increasing"),
        ({"scale": np.zeros((30, 2))}, "positive"),
        ({"truths": np.zeros((30, 4))}, "origins, steps, series"),
    ],
)
def test_wrong_requests(change, words):
    options = {"forecasts": np.zeros((30, 4, 2)), "truths": np.zeros((30, 4, 2)), "levels": [80]}
    with pytest.raises(UsageError, match=words):
        rolling(**(options | change))


def test_a_scale_is_given_to_both_or_to_neither():
    residuals = np.ones((30, 2, 1))
    with pytest.raises(UsageError, match="scale"):
        Conformal(residuals).bounds(80, np.ones(1))
    with pytest.raises(UsageError, match="scale"):
        Conformal(residuals, scale=np.ones((30, 1))).bounds(80)
