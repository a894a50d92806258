"""pytorch-forecasting's own checks of the same package are in test_upstream.py."""

from __future__ import annotations

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
from tests.apps.timeseries.adapters.conftest import HORIZON, LOOKBACK, ROWS, small

pytestmark = pytest.mark.filterwarnings("ignore")

BORDER = 49  # 0.7 of ROWS
LENGTHS = {"context_length": LOOKBACK, "prediction_length": HORIZON}
SPLIT = {"train_val_test_split": (0.7, 0.3), "batch_size": 4}
ITRANSFORMER = {"dim": 8, "depth": 1, "ffn": 8, "heads": 2}
OLINEAR = {"dim": 8, "depth": 1, "ffn": 8}


def series(frame: pd.DataFrame, **changes: Any) -> Any:
    """Their data: target y1, the columns of ``known`` and ``unknown`` and no others."""
    from pytorch_forecasting.data import TimeSeries

    roles = {"target": "y1", "known": [], "unknown": [], **changes}
    targets = [roles["target"]] if isinstance(roles["target"], str) else roles["target"]
    columns = [*roles["known"], *roles["unknown"]]
    kept = frame[["t", "g", *targets, *columns]].copy()
    return TimeSeries(kept, time="t", group=["g"], num=columns, **roles)


def package(v2: ModuleType, quiet: dict[str, Any], model: dict[str, Any], **trainer: Any) -> Any:
    from pytorch_forecasting.metrics import MAE

    return v2.TriptychForecaster_pkg_v2(
        model_cfg={"loss": MAE(), **model},
        trainer_cfg={"max_steps": 2, "enable_checkpointing": False, **quiet, **trainer},
        datamodule_cfg={**LENGTHS, **SPLIT},
    )


@pytest.mark.parametrize("name", catalog.MODELS)
def test_every_model_trains_predicts_and_comes_back(
    name: str,
    v2: ModuleType,
    frame: pd.DataFrame,
    quiet: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    takes = catalog.MODELS[name].covariates
    data = series(
        frame,
        known=["k"] if "known" in takes else [],
        unknown=["p"] if "past" in takes else [],
    )
    pkg = package(v2, quiet, {"model": name, "options": small(name)}, enable_model_summary=False)
    pkg.fit(data)
    assert pkg.model.optimizer_params == {"lr": catalog.MODELS[name].recipe.rate}
    found = pkg.predict(data, trainer_kwargs=dict(quiet))["prediction"]
    assert found.shape == (2 * (ROWS - LOOKBACK - HORIZON + 1), HORIZON)
    assert round(float(found.mean()), -1) == 10  # y1 lies around 10

    pkg.save("model")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "model",
        "model.json",
        "model.safetensors",
    ]
    again = v2.TriptychForecaster_pkg_v2.load("model")
    assert torch.equal(again.predict(data, trainer_kwargs=dict(quiet))["prediction"], found)
    assert "'loss'" not in capsys.readouterr().out


def test_quantiles(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any], tmp_path: Path
) -> None:
    from pytorch_forecasting.metrics import QuantileLoss

    loss = QuantileLoss([0.1, 0.5, 0.9])
    pkg = package(v2, quiet, {"model": "olinear", "options": OLINEAR, "loss": loss})
    data = series(frame)
    pkg.fit(data)
    quantiles = pkg.predict(data, mode="quantiles", trainer_kwargs=dict(quiet))["prediction"]
    assert quantiles.shape[1:] == (HORIZON, 3)
    assert abs(float(quantiles.mean()) - 10) < 1
    pkg.save(tmp_path / "model")
    again = v2.TriptychForecaster_pkg_v2.load(tmp_path / "model")
    median = again.predict(data, trainer_kwargs=dict(quiet))["prediction"]
    assert torch.equal(median, quantiles[..., 1])


def test_the_split_is_in_time(v2: ModuleType, frame: pd.DataFrame) -> None:
    def windows(split: tuple[float, ...], rows: int = ROWS) -> list[set[tuple[int, int]]]:
        module = v2.ChronologicalDataModule(
            series(frame[frame.t < rows]), **LENGTHS, train_val_test_split=split
        )
        module.setup("fit")
        first = [set(w[:2] for w in part.windows) for part in (module.train_dataset,)]
        module.setup("test")
        parts = (module.train_dataset, module.val_dataset, module.test_dataset)
        made = [{window[:2] for window in part.windows} for part in parts]
        assert made[0] == first[0]  # nothing is drawn at random
        return made

    def starts(low: int, high: int) -> set[tuple[int, int]]:
        """Of both series, those whose stamps to forecast lie in [low, high)."""
        every = range(low - LOOKBACK, high - HORIZON - LOOKBACK + 1)
        return {(s, at) for s in (0, 1) for at in every if at >= 0}

    train, validation, test = windows((0.6, 0.2, 0.2))
    assert train == {(s, at) for s in (0, 1) for at in range(42 - LOOKBACK - HORIZON + 1)}
    assert validation == starts(42, 56)
    assert test == starts(56, 70)
    train, validation, test = windows((0.7, 0.3))
    assert validation == test == starts(BORDER, 70)
    with pytest.raises(DataError, match="one training window of 32 \\+ 8"):
        windows((0.5, 0.5))


def test_scales_and_statistics_come_from_the_training_rows(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]
) -> None:
    from apps.timeseries.models.olinear import basis

    def fitted(frame: pd.DataFrame) -> Any:
        torch.manual_seed(0)
        pkg = package(v2, quiet, {"model": "olinear", "options": OLINEAR}, max_steps=0)
        pkg.fit(series(frame))
        return pkg.model

    model = fitted(frame)
    train = torch.from_numpy(frame[frame.t < BORDER][["y1"]].to_numpy())
    center, scale = train.mean(0), train.std(0, unbiased=False)
    torch.testing.assert_close(model.center, center.float())
    torch.testing.assert_close(model.scale, scale.float())
    expected = basis(((train - center) / scale).float(), LOOKBACK)
    torch.testing.assert_close(model.network.basis_in, expected, atol=1e-4, rtol=0)
    frame.loc[frame.t >= BORDER, "y1"] *= -3.0
    for key, value in fitted(frame).state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_columns_reach_the_network_scaled(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = series(frame, unknown=["p"], known=["k", "y0"])
    pkg = package(v2, quiet, {"options": ITRANSFORMER}, max_steps=0)
    pkg.fit(data)
    seen: list[Any] = []
    network = pkg.model.network.forward
    monkeypatch.setattr(pkg.model.network, "forward", lambda *a: seen.extend(a) or network(*a))
    module = v2.ChronologicalDataModule(data, **LENGTHS, batch_size=1)
    module.setup("predict")
    x, _ = next(iter(module.predict_dataloader()))
    pkg.model.eval()(x)
    train = frame[frame.t < BORDER]
    for found, names, rows in zip(
        seen, (["y1"], ["p"], ["k", "y0"]), (LOOKBACK, LOOKBACK, LOOKBACK + HORIZON)
    ):
        columns = (frame[names] - train[names].mean()) / train[names].std(ddof=0)
        np.testing.assert_allclose(found[0], columns.to_numpy()[:rows], atol=1e-4)


def test_the_future_is_not_seen(v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]) -> None:
    pkg = package(v2, quiet, {"options": {**ITRANSFORMER, "known": "full"}}, max_steps=0)
    roles = {"unknown": ["p"], "known": ["k"]}
    pkg.fit(series(frame, **roles))
    one = frame[frame.t < LOOKBACK + HORIZON]  # a window for each series
    other, shown = one.copy(), one.copy()
    other.loc[other.t >= LOOKBACK, ["y1", "p"]] += 100.0
    shown.loc[shown.t >= LOOKBACK, "k"] += 100.0
    expected, same, changed = (
        pkg.predict(series(part, **roles), trainer_kwargs=dict(quiet))["prediction"]
        for part in (one, other, shown)
    )
    assert expected.shape == (2, HORIZON)
    assert torch.equal(same, expected)
    assert not torch.equal(changed, expected)


def test_constant_columns_are_not_blown_up(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]
) -> None:
    data = series(frame.assign(k=0.1 + 0.2), known=["k"])
    pkg = package(v2, quiet, {"options": ITRANSFORMER}, max_steps=0)
    pkg.fit(data)
    assert pkg.model.scale[1] == 1


def test_what_v2_cannot_train(v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]) -> None:
    from pytorch_forecasting.metrics import MASE, NormalDistributionLoss

    for loss in (MASE(), NormalDistributionLoss(), torch.nn.MSELoss()):
        with pytest.raises(UsageError, match="use one of MAE"):
            package(v2, quiet, {"loss": loss, "options": ITRANSFORMER}).fit(series(frame))
    with pytest.raises(UsageError, match="2 targets: v2 trains one"):
        package(v2, quiet, {"options": ITRANSFORMER}).fit(series(frame, target=["y0", "y1"]))
    with pytest.raises(UsageError, match="cannot use known covariates"):
        package(v2, quiet, {"model": "olinear"}).fit(series(frame, known=["k"]))


def test_other_columns_and_lengths(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]
) -> None:
    pkg = package(v2, quiet, {"options": ITRANSFORMER}, max_steps=0)
    pkg.fit(series(frame, known=["k", "p"]))
    with pytest.raises(DataError, match="columns y1, p, k are not those of the model, y1, k, p"):
        pkg.predict(series(frame, known=["p", "k"]))
    module = v2.ChronologicalDataModule(
        series(frame, known=["k", "p"]), context_length=LOOKBACK, prediction_length=HORIZON - 1
    )
    with pytest.raises(DataError, match=r"windows of 32 \+ 7 stamps"):
        pkg.predict(module, trainer_kwargs=dict(quiet))
    with pytest.raises(DataError, match="one prediction window"):
        pkg.predict(series(frame[frame.t < LOOKBACK], known=["k", "p"]))


def test_training_without_a_data_module(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any]
) -> None:
    from lightning.pytorch import Trainer

    module = v2.ChronologicalDataModule(series(frame), **LENGTHS, train_val_test_split=(0.7, 0.3))
    module.setup("fit")
    pkg = package(v2, quiet, {"model": "olinear", "options": OLINEAR})
    pkg._build_model(module.metadata)
    with pytest.raises(UsageError, match="training needs a data module"):
        Trainer(fast_dev_run=1, **quiet).fit(pkg.model, module.train_dataloader())


def test_folders_of_another_kind_and_models_that_are_not_there(
    v2: ModuleType, frame: pd.DataFrame, quiet: dict[str, Any], tmp_path: Path
) -> None:
    pkg = package(v2, quiet, {"model": "olinear", "options": OLINEAR}, max_steps=0)
    with pytest.raises(UsageError, match="fit it first"):
        pkg.save(tmp_path / "model")
    pkg.fit(series(frame))
    pkg.save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    about = json.loads(file.read_text())
    for change, message in (
        ({"kind": "pytorch-forecasting v1"}, "is 'pytorch-forecasting v1'"),
        ({"format": 0}, "schema version 0"),
        ({"model": {"type": "dict", "value": []}}, "has no model"),
        ({"metadata": None}, "copy the folder again"),
    ):
        file.write_text(json.dumps({**about, **change}))
        with pytest.raises(DataError, match=message):
            v2.TriptychForecaster_pkg_v2.load(tmp_path / "model")
