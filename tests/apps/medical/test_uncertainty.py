"""Entropy, confidence and calibration against values by hand, simulations and whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from apps.medical.sliding import mirrorings, sliding_argmax, sliding_logits
from apps.medical.uncertainty import (
    BINS,
    FAINT,
    THRESHOLDS,
    Confidence,
    conformal_factor,
    conformal_margin,
    control_risk,
    entropy,
    expected_calibration_error,
    fit_temperature,
    miss_rates,
    nll,
    quantile_distance,
    quantiles,
    reliability,
    softmax,
    usable,
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv3d(1, 3, 3, padding=1).eval()


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_entropy_of_known_probabilities() -> None:
    p = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]).T.reshape(3, 3, 1)
    np.testing.assert_allclose(entropy(p).ravel(), [0, 1, np.log(2) / np.log(3)], atol=1e-6)
    assert entropy(p).dtype == np.float32
    assert entropy(np.ones((1, 4))).tolist() == [0] * 4


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("limit", [None, 260_000])
@pytest.mark.parametrize("shape", [(1, 30, 21, 17), (1, 9, 26, 11)])
def test_confidence_by_pieces_is_that_of_the_whole(shape, limit, members) -> None:
    """Padded, in blocks and averaged: every voxel is counted once, and the labels do not change."""
    net, x, window, t = network(), image(*shape), (12, 12, 12), 1.7
    tta = mirrorings([0]) if members == 2 else ()
    watch = Confidence(shape[1:], t, [None, 0.3, None])
    labels = sliding_argmax(x, net, window, tta=tta, mem_limit=limit, watch=watch)
    np.testing.assert_array_equal(labels, sliding_argmax(x, net, window, tta=tta))

    p = softmax(sliding_logits(x, net, window, tta=tta), t)
    np.testing.assert_allclose(watch.entropy, entropy(p), atol=1e-5)
    assert watch.mean_inside == pytest.approx(float(entropy(p)[labels > 0].mean()), rel=1e-4)
    for k, found in enumerate(watch.summary()):
        mask = labels == k
        inside, everywhere = p[k][mask].sum(), p[k][p[k] >= FAINT].sum()
        assert found["confidence"] == pytest.approx(p[k][mask].mean(), rel=1e-4)
        assert found["expected_dice"] == pytest.approx(
            2 * inside / (mask.sum() + everywhere), rel=1e-3
        )
        assert (found["extent_voxels"] is None) == (k != 1)
    assert watch.summary()[1]["extent_voxels"] == pytest.approx((p[1] >= 0.3).sum(), abs=2)


def test_nothing_was_seen() -> None:
    watch = Confidence((4, 4, 4))
    assert watch.summary() == []
    assert watch.mean_inside is None
    watch(((0, 4),) * 3, torch.tensor([5.0, 0.0]).view(2, 1, 1, 1).expand(2, 4, 4, 4))
    assert watch.mean_inside is None  # all background
    assert watch.summary()[1]["confidence"] is None


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(true) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (20_000, 3)).astype(np.float32)
    p = softmax(scores.T, true)
    truth = (rng.random(len(scores))[:, None] > np.cumsum(p.T, 1)).sum(1).clip(0, 2)
    found = fit_temperature([scores[:9000], scores[9000:]], [truth[:9000], truth[9000:]])
    assert found == pytest.approx(true, rel=0.06)
    assert nll(scores, truth, found) <= min(nll(scores, truth, t) for t in (0.8 * true, 1.2 * true))
    ece = {
        t: float(expected_calibration_error(reliability(scores, truth, t)))
        for t in (true, 2 * true)
    }
    assert ece[true] < 0.02 < ece[2 * true]


def test_calibration_error_by_hand() -> None:
    """Four voxels said to be right with 0.8 of which two are: an error of 0.3."""
    scores = np.log(np.array([[0.8, 0.2]] * 4, np.float32))
    bins = reliability(scores, np.array([0, 0, 1, 1]))
    assert bins.shape == (3, BINS)
    assert expected_calibration_error(bins) == pytest.approx(0.3, abs=1e-6)
    assert np.isnan(expected_calibration_error(np.zeros((3, BINS))))


def test_likelihood_by_hand() -> None:
    scores = np.array([[0.0, np.log(3)]], np.float32)
    assert nll(scores, np.array([1])) == pytest.approx(-np.log(0.75), rel=1e-6)


def test_miss_rates_grow_with_the_threshold() -> None:
    rates = miss_rates(np.array([0.1, 0.2, 0.9]))
    assert (np.diff(rates) >= 0).all()
    at = {t: rates[int(np.argmin(np.abs(THRESHOLDS - t)))] for t in (0.05, 0.15, 0.5)}
    assert at == {0.05: 0, 0.15: pytest.approx(1 / 3), 0.5: pytest.approx(2 / 3)}
    assert miss_rates(np.array([0.5, 0.5]))[-1] == 0  # the extent is p >= t


def test_risk_is_controlled_on_new_cases() -> None:
    """The mean over many calibrations of a new case's loss stays below alpha, and not far below."""
    rng = np.random.default_rng(0)
    alpha, n, seen = 0.2, 40, []
    for _ in range(300):
        levels = rng.beta(2, 5, n + 1)  # a case's voxels lie above its own level
        cases = np.array([miss_rates(np.linspace(a, 1, 50)) for a in levels])
        threshold = control_risk(cases[:n], alpha)
        assert threshold is not None
        seen.append(cases[n, int(np.searchsorted(THRESHOLDS, threshold - 1e-9))])
    assert np.mean(seen) <= alpha + 2 * np.std(seen) / np.sqrt(len(seen))
    assert np.mean(seen) > alpha / 3


def test_too_few_cases_control_nothing() -> None:
    perfect = np.zeros((8, len(THRESHOLDS)))
    assert control_risk(perfect, 0.1) is None  # 1 / 9 > 0.1
    assert control_risk(np.zeros((9, len(THRESHOLDS))), 0.1) == THRESHOLDS[-1] == 0.5
    assert control_risk(perfect[:0], 0.1) is None
    assert conformal_margin(np.zeros(8), 0.1) is None
    assert conformal_factor(np.full(8, 1.2), 0.1) is None
    assert conformal_factor(np.array([1.2] * 5 + [0.5] * 5), 0.1) == pytest.approx(2)


def test_conformal_margins_cover() -> None:
    rng = np.random.default_rng(1)
    draws = rng.gamma(2, size=(2000, 25))
    margins = np.array([conformal_margin(row[:24], 0.1) for row in draws])
    assert np.mean(draws[:, 24] <= margins) == pytest.approx(0.92, abs=0.02)  # 23 / 25


def test_quantiles_tell_contrasts_apart() -> None:
    a, b = image(1, 20, 20, 20), image(1, 20, 20, 20) ** 3
    assert quantile_distance(quantiles(a)[0], quantiles(a)[0]) == 0
    assert quantile_distance(quantiles(a)[0], quantiles(b)[0]) > 0.5


def test_what_a_calibration_does_not_speak_for(calibration) -> None:
    known = calibration(tensors_sha256="ab")
    assert usable(known, 1, {"model.safetensors": "ab"}) == ""
    assert "not been calibrated" in usable(None, 1, {})
    assert "averages 5" in usable(known, 5, {"a": "ab"})
    assert "weights changed" in usable(known, 1, {"model.safetensors": "cd"})
