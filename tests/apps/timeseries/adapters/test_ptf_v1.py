"""pytorch-forecasting's own checks of the same class are in test_upstream.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from apps.timeseries import catalog
from core.errors import DataError, UsageError
from tests.apps.timeseries.adapters.conftest import CUT, HORIZON, LOOKBACK, ROWS, TARGETS, small

pytestmark = pytest.mark.filterwarnings("ignore")

ITRANSFORMER = {"dim": 8, "depth": 1, "ffn": 8, "heads": 2}
OLINEAR = {"dim": 8, "depth": 1, "ffn": 8}


def dataset(frame: pd.DataFrame, target: Any = TARGETS, **changes: Any) -> Any:
    """The training windows: stamps before CUT."""
    from pytorch_forecasting import TimeSeriesDataSet
    from pytorch_forecasting.data import MultiNormalizer, TorchNormalizer

    names = [target] if isinstance(target, str) else target
    past, known = changes.pop("past", []), changes.pop("known", [])
    normaliser = TorchNormalizer() if isinstance(target, str) else None
    return TimeSeriesDataSet(
        frame[frame.t < CUT].copy(),
        **{
            "time_idx": "t",
            "target": target,
            "group_ids": ["g"],
            "time_varying_unknown_reals": [*names, *past],
            "time_varying_known_reals": known,
            "max_encoder_length": LOOKBACK,
            "max_prediction_length": HORIZON,
            "target_normalizer": normaliser or MultiNormalizer([TorchNormalizer() for _ in names]),
            **changes,
        },
    )


def later(data: Any, frame: pd.DataFrame) -> Any:
    from pytorch_forecasting import TimeSeriesDataSet

    return TimeSeriesDataSet.from_dataset(data, frame.copy(), min_prediction_idx=CUT)


@pytest.mark.parametrize("name", catalog.MODELS)
def test_every_model_trains_predicts_and_comes_back(
    name: str, v1: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any], tmp_path: Path
) -> None:
    from lightning.pytorch import Trainer

    takes = catalog.MODELS[name].covariates
    data = dataset(
        frame, past=["p"] if "past" in takes else [], known=["k"] if "known" in takes else []
    )
    model = v1.TriptychForecaster.from_dataset(data, model=name, options=small(name))
    assert model.hparams.learning_rate == catalog.MODELS[name].recipe.rate
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    trainer = Trainer(fast_dev_run=2, enable_model_summary=False, **quiet)
    trainer.fit(model, data.to_dataloader(train=True, batch_size=4))
    after = model.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)

    validation = later(data, frame)
    found = model.predict(validation, trainer_kwargs=dict(quiet))
    windows = 2 * (ROWS - CUT - HORIZON + 1)
    assert [part.shape for part in found] == [(windows, HORIZON)] * len(TARGETS)
    # In original units: the targets lie around 0, 10 and 20, and networks restore their level.
    assert [round(float(part.mean()), -1) for part in found] == [0, 10, 20]

    model.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    again = v1.TriptychForecaster.load(tmp_path / "model")
    for part, expected in zip(again.predict(validation, trainer_kwargs=dict(quiet)), found):
        assert torch.equal(part, expected)


def test_columns_reach_the_network_by_name(
    v1: ModuleType, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(frame, past=["p"], known=["k", "t"])
    model = v1.TriptychForecaster.from_dataset(data, options=ITRANSFORMER).eval()
    seen: list[Any] = []
    network = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *a: seen.extend(a) or network(*a))
    x, _ = next(iter(data.to_dataloader(train=False, batch_size=1)))
    prediction = model(x)["prediction"]

    train = frame[frame.t < CUT]
    scaled = {
        name: ((frame[name] - train[name].mean()) / train[name].std(ddof=0)).to_numpy()
        for name in [*TARGETS, "p", "k", "t"]
    }
    first = slice(0, LOOKBACK)  # the first window of series "a"
    whole = slice(0, LOOKBACK + HORIZON)
    targets, past, known = (part[0].numpy() for part in seen)
    assert model.hparams.known == ["k", "t"]
    for found, names, rows in (
        (targets, TARGETS, first),
        (past, ["p"], first),
        (known, ["k", "t"], whole),
    ):
        # 2e-3: their scale is rounded up by the epsilon of half precision.
        expected = np.stack([scaled[name][rows] for name in names], 1)
        np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)
    for i, name in enumerate(TARGETS):
        scale, centre = train[name].std(ddof=0), train[name].mean()
        raw = network(*seen).detach()[0, :, i].numpy() * scale + centre
        np.testing.assert_allclose(prediction[i][0, :, 0].detach(), raw, atol=0.02)


def test_the_future_of_targets_and_past_covariates_is_not_seen(
    v1: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]
) -> None:
    data = dataset(frame, past=["p"], known=["k"])
    model = v1.TriptychForecaster.from_dataset(data, options={**ITRANSFORMER, "known": "full"})
    last = ROWS - HORIZON  # of the one window per series that predict=True keeps
    other, shown = frame.copy(), frame.copy()
    other.loc[other.t >= last, [*TARGETS, "p"]] += 100.0
    shown.loc[shown.t >= last, "k"] += 100.0
    expected, same, changed = (
        model.predict(part, trainer_kwargs=dict(quiet)) for part in (frame, other, shown)
    )
    assert expected[0].shape == (2, HORIZON)
    assert all(torch.equal(a, b) for a, b in zip(same, expected))
    assert not torch.equal(changed[0], expected[0])


def test_statistics_come_from_the_training_rows(v1: ModuleType, frame: pd.DataFrame) -> None:
    from apps.timeseries.models.olinear import basis

    made = v1.TriptychForecaster.from_dataset(dataset(frame), model="olinear", options=OLINEAR)
    train = frame[frame.t < CUT][TARGETS]
    rows = torch.from_numpy(((train - train.mean()) / train.std(ddof=0)).to_numpy()).float()
    torch.testing.assert_close(made.network.basis_in, basis(rows, LOOKBACK), atol=1e-3, rtol=0)
    frame.loc[frame.t >= CUT, TARGETS] *= -3.0
    again = v1.TriptychForecaster.from_dataset(dataset(frame), model="olinear", options=OLINEAR)
    assert torch.equal(again.network.basis_in, made.network.basis_in)


def test_one_target_with_quantiles(
    v1: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any], tmp_path: Path
) -> None:
    from pytorch_forecasting.metrics import QuantileLoss

    data = dataset(frame, "y1")
    loss = QuantileLoss([0.1, 0.5, 0.9])
    model = v1.TriptychForecaster.from_dataset(data, "olinear", options=OLINEAR, loss=loss)
    validation = later(data, frame)
    quantiles = model.predict(validation, mode="quantiles", trainer_kwargs=dict(quiet))
    assert quantiles.shape[1:] == (HORIZON, 3)
    median = model.predict(validation, trainer_kwargs=dict(quiet))
    assert torch.equal(median, quantiles[..., 1])
    model.save(tmp_path / "model")
    again = v1.TriptychForecaster.load(tmp_path / "model")
    assert again.loss.quantiles == [0.1, 0.5, 0.9]
    found = again.predict(validation, mode="quantiles", trainer_kwargs=dict(quiet))
    assert torch.equal(found, quantiles)


def test_losses_of_several_sizes(v1: ModuleType, frame: pd.DataFrame) -> None:
    from pytorch_forecasting.metrics import MAE, MultiLoss, NormalDistributionLoss, QuantileLoss

    data = dataset(frame)
    loss = MultiLoss([QuantileLoss([0.1, 0.5, 0.9]), MAE(), NormalDistributionLoss()])
    model = v1.TriptychForecaster.from_dataset(data, "olinear", options=OLINEAR, loss=loss)
    x, y = next(iter(data.to_dataloader(train=True, batch_size=4)))
    prediction = model(x)["prediction"]
    # A distribution's parameters come after the target's centre and scale.
    assert [part.shape[-1] for part in prediction] == [3, 1, 4]
    model.loss(prediction, y).backward()
    assert model.network.fc2.weight.grad.abs().sum() > 0


def test_a_loaded_model_predicts_from_a_frame(
    v1: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any], tmp_path: Path
) -> None:
    from pytorch_forecasting.data import EncoderNormalizer, GroupNormalizer, MultiNormalizer

    normaliser = MultiNormalizer(
        [GroupNormalizer(groups=["g"]), EncoderNormalizer(), GroupNormalizer()]
    )
    data = dataset(frame, past=["p"], known=["k"], target_normalizer=normaliser)
    model = v1.TriptychForecaster.from_dataset(data, options=ITRANSFORMER, weight_decay=0.5)
    model.save(tmp_path / "model")
    again = v1.TriptychForecaster.load(tmp_path / "model")
    assert again.hparams.weight_decay == 0.5
    pairs = zip(*(m.predict(frame, trainer_kwargs=dict(quiet)) for m in (model, again)))
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(UsageError, match="exists"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", force=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_encoder_length": 4}, "min_encoder_length=max_encoder_length=32"),
        ({"min_prediction_length": 1}, "min_prediction_length=max_prediction_length=8"),
        ({"static_categoricals": ["g"]}, "categorical columns g"),
        ({"time_varying_unknown_reals": ["y0", "p"]}, "y1, y2 are not among"),
        ({"known": ["k"]}, "cannot use known covariates"),
    ],
)
def test_data_that_no_model_can_take(
    v1: ModuleType, frame: pd.DataFrame, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        v1.TriptychForecaster.from_dataset(dataset(frame, **changes), "olinear", options=OLINEAR)


def test_windows_and_columns_of_other_data(v1: ModuleType, frame: pd.DataFrame) -> None:
    model = v1.TriptychForecaster.from_dataset(dataset(frame), "olinear", options=OLINEAR)
    shorter = dataset(frame, max_encoder_length=LOOKBACK - 1)
    x, _ = next(iter(shorter.to_dataloader(train=False, batch_size=2)))
    with pytest.raises(DataError, match="windows of 31 to 31"):
        model(x)
    padded = dataset(frame, min_encoder_length=LOOKBACK - 2, add_encoder_length=False)
    for x, _ in padded.to_dataloader(train=False, batch_size=64):
        if x["encoder_lengths"].min() < LOOKBACK:
            break
    with pytest.raises(DataError, match="windows of 30 to 32"):
        model(x)
    with pytest.raises(DataError, match="has the reals y2, y1, y0"):
        model.predict(dataset(frame, TARGETS[::-1]))


def test_unknown_models_and_options(v1: ModuleType, frame: pd.DataFrame) -> None:
    data = dataset(frame)
    with pytest.raises(UsageError, match="itransformer"):
        v1.TriptychForecaster.from_dataset(data, model="itransfomer")
    with pytest.raises(UsageError, match="Did you mean"):
        v1.TriptychForecaster.from_dataset(data, model="olinear", options={"dims": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "is 'other', not 'pytorch-forecasting v1'"),
        ({"format": 2}, "schema version 2"),
        ({"loss": {"type": "object", "class": "system", "init": {}, "state": {}}}, "'system'"),
        ({"model": 3}, "copy the folder again"),
    ],
)
def test_folders_that_are_not_a_model_of_this_kind(
    v1: ModuleType, frame: pd.DataFrame, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model = v1.TriptychForecaster.from_dataset(dataset(frame), "olinear", options=OLINEAR)
    folder = tmp_path / "model"
    model.save(folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(DataError, match=message):
        v1.TriptychForecaster.load(folder)


def test_what_cannot_be_stored_is_said_and_nothing_is_written(
    v1: ModuleType, frame: pd.DataFrame, tmp_path: Path
) -> None:
    from pytorch_forecasting.data import TorchNormalizer

    functions = {"forward": torch.asinh, "reverse": torch.sinh}
    data = dataset(frame, "y0", target_normalizer=TorchNormalizer(transformation=functions))
    model = v1.TriptychForecaster.from_dataset(data, "olinear", options=OLINEAR)
    with pytest.raises(UsageError, match="cannot be stored"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pytorch_forecasting", None)
    for version in ("ptf_v1", "ptf_v2"):
        found = importlib.util.find_spec(f"apps.timeseries.adapters.{version}")
        assert found is not None
        assert found.loader is not None
        fresh = importlib.util.module_from_spec(found)
        with pytest.raises(UsageError, match=r"\[ptf\]"):
            found.loader.exec_module(fresh)
