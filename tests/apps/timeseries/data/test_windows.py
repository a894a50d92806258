"""Windows: the right rows, scaling from training rows alone, every window once an epoch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from apps.timeseries.data.splits import origins
from apps.timeseries.data.windows import Rows, Scaling, WindowBatches, scalings, with_static
from core.errors import DataError


def test_a_window_holds_the_rows_around_its_origin(make_panel) -> None:
    panel = make_panel(rows=60, count=2, known=1, past=1)
    scaled = scalings(panel, [40, 40])
    rows = Rows(panel, scaled, marks=True)
    second = panel.series[1]
    at = int(rows.first[1])
    batch = rows.gather(np.array([at + 30, at + 67 - 6]), 12, 6)
    assert {k: tuple(v.shape) for k, v in batch.items()} == {
        "x": (2, 12, 2), "y": (2, 6, 2), "past": (2, 12, 1), "known": (2, 18, 5),
    }  # fmt: skip
    expected = scaled[1].values.apply(second.values).astype(np.float32)
    np.testing.assert_array_equal(batch["x"][0], expected[18:30])
    np.testing.assert_array_equal(batch["y"][1], expected[61:67])
    known = scaled[1].known.apply(second.known).astype(np.float32)
    np.testing.assert_array_equal(batch["known"][0, :, 0], known[18:36, 0])


def test_scaling_knows_training_rows_alone(make_panel) -> None:
    panel = make_panel(rows=100)
    before = scalings(panel, [60])[0]
    changed = panel.series[0].values.copy()
    changed[60:] = 1e6
    after = scalings(
        panel.with_series([dataclasses.replace(panel.series[0], values=changed)]), [60]
    )[0]
    np.testing.assert_array_equal(before.values.mean, after.values.mean)
    np.testing.assert_array_equal(before.values.std, after.values.std)
    np.testing.assert_allclose(before.values.std, panel.series[0].values[:60].std(0))


def test_scaling_of_constants_and_of_missing_values() -> None:
    rows = np.array([[5.0, 1.0, np.nan], [5.0, np.nan, np.nan], [5.0, 3.0, np.nan]])
    scaling = Scaling.of(rows)
    np.testing.assert_array_equal(scaling.mean, [5.0, 2.0, 0.0])
    np.testing.assert_array_equal(scaling.std, [1.0, 1.0, 1.0])
    tenth = Scaling.of(np.full((1000, 1), 0.1))  # 0.1 has no exact mean
    assert tenth.std[0] == 1.0
    values = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(scaling.undo(scaling.apply(values)), values)


def test_an_epoch_holds_every_window_once_and_the_next_is_shuffled_anew(make_panel) -> None:
    panel = make_panel(rows=60)
    rows = Rows(panel, scalings(panel, [60]), marks=False)
    found = origins(0, 60, 12, 6)
    batches = WindowBatches(rows, found, 12, 6, batch=10, seed=3)
    assert batches.per_epoch == 5  # 43 windows: the last batch has three
    epochs = [
        torch.cat([batches.batch_at(i)["y"] for i in range(e * 5, e * 5 + 5)]) for e in (0, 1)
    ]
    assert epochs[0].shape[0] == len(found)
    assert not torch.equal(*epochs)
    assert torch.equal(*(e.sum((1, 2)).sort().values for e in epochs))
    again = WindowBatches(rows, found, 12, 6, batch=10, seed=3)
    assert torch.equal(again.batch_at(7)["x"], batches.batch_at(7)["x"])
    other = WindowBatches(rows, found, 12, 6, batch=10, seed=4)
    assert not torch.equal(other.batch_at(7)["x"], batches.batch_at(7)["x"])


def test_windows_with_a_missing_value_are_not_used(make_panel) -> None:
    panel = make_panel(rows=60)
    values = panel.series[0].values.copy()
    values[30, 1] = np.nan
    panel = panel.with_series([dataclasses.replace(panel.series[0], values=values)])
    rows = Rows(panel, scalings(panel, [60]), marks=False)
    usable = rows.usable(origins(0, 60, 12, 6), 12, 6)
    expected = [o for o in range(12, 55) if not o - 12 <= 30 < o + 6]
    assert usable.tolist() == expected


def test_static_numbers_become_known_covariates_scaled_across_series(make_panel) -> None:
    panel = make_panel(rows=50, count=3, known=1)
    panel = panel.with_series([with_static(s, ["size"]) for s in panel])
    scaled = scalings(panel, [40, 40, 40])
    rows = Rows(panel, scaled, marks=False)
    sizes = [float(rows.known[int(at), 0]) for at in rows.first[:3]]
    assert sizes == pytest.approx([-1.2247449, 0.0, 1.2247449])
    with pytest.raises(DataError, match=r"series s0: its static covariates colour must be numbers"):
        with_static(panel.series[0], ["colour"])
