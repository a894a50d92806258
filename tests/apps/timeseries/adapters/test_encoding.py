from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from core.errors import DataError, UsageError


@pytest.fixture(scope="module")
def encoding(ptf: Any) -> Any:
    from apps.timeseries.adapters import encoding

    return encoding


def through_json(encoding: Any, value: Any) -> Any:
    return encoding.decode(json.loads(json.dumps(encoding.encode(value), allow_nan=False)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        float("inf"),
        "text",
        [1, [2.5, "x"]],
        (0.8, 0.2),
        {"a": {1: (2,)}, 3: None},
        np.float64(1) / 3,
        np.int64(7),
    ],
)
def test_plain_values_keep_their_types(encoding: Any, value: Any) -> None:
    found = through_json(encoding, value)
    assert found == value
    assert type(found) is type(value)


def test_arrays_and_tensors(encoding: Any) -> None:
    for value in (np.array([[1.5, np.nan]], np.float32), np.array(["a", "bc"]), np.arange(3)):
        found = through_json(encoding, value)
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    tensor = torch.tensor([1 / 3, 2.0])
    assert torch.equal(through_json(encoding, tensor), tensor)


@pytest.mark.parametrize("settings", [{}, {"method": "robust"}, {"transformation": "log1p"}])
@pytest.mark.parametrize("kind", ["TorchNormalizer", "EncoderNormalizer"])
def test_normalisers_scale_alike(encoding: Any, kind: str, settings: dict[str, Any]) -> None:
    from pytorch_forecasting.data import encoders

    y = np.random.default_rng(0).uniform(1, 5, 20)
    fitted = getattr(encoders, kind)(**settings).fit(y)
    found = through_json(encoding, fitted)
    np.testing.assert_array_equal(found.transform(y), fitted.transform(y))
    assert repr(found) == repr(fitted)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"groups": ["g"]},
        {"groups": ["g", "h"]},
        {"groups": ["g", "h"], "scale_by_group": True, "method": "robust"},
    ],
)
def test_group_normalisers_scale_alike(encoding: Any, settings: dict[str, Any]) -> None:
    from pytorch_forecasting.data.encoders import GroupNormalizer, MultiNormalizer

    rng = np.random.default_rng(0)
    X = pd.DataFrame({"g": np.repeat([0, 1], 10), "h": np.tile([0, 1], 10)})
    y = pd.Series(rng.uniform(1, 3, 20))
    fitted = GroupNormalizer(**settings).fit(y, X)
    found = through_json(encoding, fitted)
    np.testing.assert_array_equal(found.transform(y, X), fitted.transform(y, X))
    groups = tuple([1, 0][: len(settings.get("groups", []))])
    np.testing.assert_array_equal(found.get_parameters(groups), fitted.get_parameters(groups))
    both = through_json(encoding, MultiNormalizer([fitted, GroupNormalizer().fit(y, X)]))
    np.testing.assert_array_equal(both[0].get_parameters(groups), fitted.get_parameters(groups))


def test_scalers_and_label_encoders(encoding: Any) -> None:
    from pytorch_forecasting.data.encoders import NaNLabelEncoder
    from sklearn.preprocessing import RobustScaler, StandardScaler

    data = pd.DataFrame({"x": np.random.default_rng(0).normal(size=9)})
    for scaler in (StandardScaler(), RobustScaler()):
        fitted = scaler.fit(data)
        found = through_json(encoding, fitted)
        np.testing.assert_array_equal(found.transform(data), fitted.transform(data))
    for labels in (pd.Series(["b", "a", "c"]), pd.Series([3, 1, 2])):
        fitted = NaNLabelEncoder(add_nan=True, warn=False).fit(labels)
        found = through_json(encoding, fitted)
        np.testing.assert_array_equal(found.transform(labels), fitted.transform(labels))
        assert list(found.inverse_transform(np.array([2]))) == [labels.sort_values().iloc[1]]


def test_every_listed_metric(encoding: Any) -> None:
    from pytorch_forecasting.metrics import MultiLoss, QuantileLoss, TweedieLoss

    for cls, names in encoding._METRICS.items():
        if cls is MultiLoss:
            continue
        found = through_json(encoding, cls(reduction="sqrt-mean"))
        assert type(found) is cls
        assert found.reduction == "sqrt-mean"
        assert all(hasattr(found, name) for name in names)
    found = through_json(
        encoding, MultiLoss([QuantileLoss([0.2, 0.8]), TweedieLoss(p=1.7)], [1, 2])
    )
    assert found[0].quantiles == [0.2, 0.8]
    assert found[1].p == 1.7
    assert found.weights == [1, 2]


def test_functions_and_other_classes_are_refused(encoding: Any) -> None:
    from pytorch_forecasting.data.encoders import TorchNormalizer

    class Mine(TorchNormalizer):
        pass

    for value in (Mine(), TorchNormalizer(transformation={"forward": np.log}), object()):
        with pytest.raises(UsageError, match="cannot be stored"):
            encoding.encode(value)


@pytest.mark.parametrize(
    "stored",
    [
        {"type": "object", "class": "Popen", "init": {"args": ["true"]}, "state": {}},
        {"type": "object", "class": "MAE", "init": {"nothing": 1}, "state": {}},
        {"type": "object", "class": "MAE", "init": {}, "state": {"__class__": 1}},
        {"type": "array", "dtype": "datetime64[s]", "value": [0]},
        {"type": "array", "dtype": "float64", "value": ["x"]},
        {"type": "module", "value": "os"},
        {"value": 3},
    ],
)
def test_what_was_not_written_here_is_refused(encoding: Any, stored: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        encoding.decode(stored)
