"""Attention among variates: the numbers that the forecast was made with, by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from apps.timeseries.attention import attention, weights_of
from core.blocks import BlockContext
from core.errors import DataError, UsageError
from core.mixers.attention import Attention as Mixer
from core.mixers.attention import AttentionConfig
from core.mixers.base import attend, join_heads

ROWS, NAMES = 200, ["load", "heat", "wind"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Hours of three cycles and noise."""
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * (np.arange(ROWS)[:, None] / 24 + np.arange(3) / 5))
    frame = pd.DataFrame(10 + wave + 0.2 * rng.normal(size=(ROWS, 3)), columns=NAMES)
    return frame.assign(ds=pd.date_range("2024-01-01", periods=ROWS, freq="h"))


def fitted(table: pd.DataFrame, folder, model: str = "itransformer", **options):
    from apps.timeseries import fit

    small = {"dim": 16, "ffn": 16, "depth": 2, **options}
    return fit(table, model, lookback=24, horizon=6, out=folder, max_steps=4, options=small).folder


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    return fitted(table, tmp_path_factory.mktemp("model") / "m", heads=2)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, None), (4, None), (4, 2)])
def test_the_weights_are_those_that_mix_the_values(heads, kv_heads):
    torch.manual_seed(0)
    mixer = Mixer(
        AttentionConfig(heads=heads, kv_heads=kv_heads), BlockContext(dim=12, rank=1)
    ).double()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    q, k, v = mixer.project(x)
    found = weights_of(mixer, x)
    assert found.shape == (3, heads, 7, 7)
    torch.testing.assert_close(found @ mixer.spread(v), attend(q, mixer.spread(k), mixer.spread(v)))
    torch.testing.assert_close(mixer.proj(join_heads(found @ mixer.spread(v))), mixer(x))


def test_every_token_has_a_name_and_its_row_sums_to_one(table, model):
    found = attention(table, model)
    assert found.names[: found.targets] == tuple(NAMES)
    assert "hour of day" in found.names  # iTransformer's recipe adds the calendar
    assert found.weights.shape == (2, 2, len(found.names), len(found.names))
    np.testing.assert_allclose(found.weights.sum(-1), 1)
    assert found.windows == 1


def test_several_windows_are_averaged_and_batches_do_not_matter(table, model):
    one, other = (attention(table, model, origins=[o]).weights for o in (50, 120))
    assert not np.allclose(one, other)
    both = attention(table, model, origins=[50, 120])
    np.testing.assert_allclose(both.weights, (one + other) / 2, atol=1e-6)
    many = attention(table, model, origins=[50, 120] * 150)  # more than one batch of windows
    np.testing.assert_allclose(many.weights, both.weights, atol=1e-6)


def test_the_frame_is_a_mean_over_heads_and_layers(table, model):
    found = attention(table, model)
    frame = found.frame()
    assert list(frame.index) == list(frame.columns) == list(found.names)
    np.testing.assert_allclose(frame, found.weights.mean((0, 1)))
    np.testing.assert_allclose(found.frame(-1), found.weights[1].mean(0))
    with pytest.raises(UsageError, match="layer 2: the model has layers 0 to 1"):
        found.frame(2)


def test_the_future_after_an_origin_changes_nothing(table, model):
    changed = table.copy()
    changed.loc[100:, NAMES] *= 3
    before, after = (attention(t, model, origins=[100]).weights for t in (table, changed))
    np.testing.assert_array_equal(before, after)


def test_columns_are_matched_by_name(table, model):
    turned = table[["ds", *NAMES[::-1]]]
    np.testing.assert_array_equal(attention(turned, model).weights, attention(table, model).weights)


def test_olinear_has_one_matrix_a_layer_that_no_window_changes(table, tmp_path):
    from apps.timeseries.methods import load_predictor

    folder = fitted(table, tmp_path / "m", "olinear", embed=2)
    predictor = load_predictor(folder)
    found = attention(table, predictor)
    assert found.kind == "normlin"
    assert found.names == tuple(NAMES)
    mixers = [block.mixer for block in predictor.model.network.blocks]
    for layer, mixer in zip(found.weights, mixers, strict=True):
        np.testing.assert_array_equal(layer[0], mixer.matrix().detach().numpy())
    np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.weights, attention(table, folder, origins=[60]).weights)


def test_what_mixes_variates_otherwise_or_not_at_all_is_refused_by_name(table, tmp_path):
    patches = {"patch": 6, "stride": 3, "dim": 12, "ffn": 24, "heads": 2, "depth": 1}
    for model, options in (("itransformer", {"mixer": "mamba"}), ("patchtst", patches)):
        with pytest.raises(UsageError, match=f"{model}: this network has no attention among"):
            attention(table, fitted(table, tmp_path / model, model, **options))
    with pytest.raises(UsageError, match="drift: is no network"):
        attention(table, "drift")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"origins": [0]}, "origin 0: series data frame has rows 0 to 200"),
        ({"origins": [201]}, "origin 201"),
        ({"origins": []}, "no origin given"),
        ({"series": "lode"}, "series"),
    ],
)
def test_wrong_places_are_refused(table, model, options, message):
    with pytest.raises(UsageError, match=message):
        attention(table, model, **options)


def test_too_little_history_and_foreign_columns_are_the_datas_fault(table, model):
    with pytest.raises(DataError, match="10 rows of history"):
        attention(table, model, origins=[10])
    with pytest.raises(DataError, match="wind"):
        attention(table.drop(columns="wind"), model)
