"""pytorch-forecasting's fitted objects as JSON, and back, so that nothing is pickled.

Normalisers, label encoders, scikit-learn's scalers and metrics become their constructor's arguments
and their fitted attributes (the ones whose names end in ``_``). Only the classes listed here are
ever written or made again: reading a file imports and calls nothing that the file names.
"""

from __future__ import annotations

import inspect
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_forecasting import metrics
from pytorch_forecasting.data import encoders
from sklearn.preprocessing import RobustScaler, StandardScaler

from core.errors import DataError, UsageError, unknown
from core.weights.folder import METADATA

_FITTED: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        encoders.EncoderNormalizer,
        encoders.GroupNormalizer,
        encoders.MultiNormalizer,
        encoders.NaNLabelEncoder,
        encoders.TorchNormalizer,
        RobustScaler,
        StandardScaler,
    )
}
_COMMON = ("name", "quantiles", "reduction")
# Metric -> its constructor's arguments, all of which it keeps as attributes.
_METRICS: dict[type, tuple[str, ...]] = {
    metrics.BetaDistributionLoss: _COMMON,
    metrics.LogNormalDistributionLoss: (*_COMMON, "clamp_min"),
    metrics.MAE: _COMMON,
    metrics.MAPE: _COMMON,
    metrics.MASE: _COMMON,
    metrics.MultiLoss: ("metrics", "weights"),
    metrics.MultivariateNormalDistributionLoss: (*_COMMON, "rank", "sigma_init", "sigma_minimum"),
    metrics.NegativeBinomialDistributionLoss: _COMMON,
    metrics.NormalDistributionLoss: _COMMON,
    metrics.PoissonLoss: _COMMON,
    metrics.QuantileLoss: _COMMON,
    metrics.RMSE: _COMMON,
    metrics.SMAPE: _COMMON,
    metrics.TweedieLoss: (*_COMMON, "p"),
}
_CLASSES = _FITTED | {cls.__name__: cls for cls in _METRICS}


def encode(value: Any) -> Any:
    """``value`` in JSON's own types. Raises UsageError for what has no form here, such as functions."""
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if isfinite(value) else {"type": "float", "value": repr(value)}
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"type": "tuple", "value": [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"type": "dict", "value": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biufUO":
            raise UsageError(f"an array of {value.dtype} cannot be stored; use numbers or text.")
        return {"type": "array", "dtype": str(value.dtype), "value": encode(value.tolist())}
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().numpy()
        return {"type": "tensor", "dtype": str(array.dtype), "value": encode(array.tolist())}
    if isinstance(value, pd.DataFrame):
        return {
            "type": "frame",
            "names": encode(list(value.index.names)),
            "index": encode(value.index.tolist()),
            "columns": encode({name: value[name].to_numpy() for name in value}),
        }
    return _encode_object(value)


def decode(value: Any) -> Any:
    """The inverse of ``encode``. Raises DataError for what ``encode`` did not write."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        return _decode(value)
    except DataError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"a stored {value.get('type')!r} is damaged ({error!r}); copy the folder again"
        ) from error


def check_kind(about: dict[str, Any], folder: Path, kind: str, version: int) -> None:
    """Raises DataError where a model folder's metadata ``about`` are of another kind or version."""
    if about.get("kind") != kind:
        found = about.get("kind") or about.get("app")
        raise DataError(f"{folder / METADATA}: is {found!r}, not {kind!r}; give another folder.")
    if about.get("format") != version:
        raise DataError(
            f"{folder / METADATA}: has schema version {about.get('format')!r}, this program reads "
            f"{version}; update the program or train the model again."
        )


def _encode_object(value: Any) -> dict[str, Any]:
    cls = type(value)
    if _CLASSES.get(cls.__name__) is not cls:
        raise UsageError(
            f"{cls.__module__}.{cls.__name__} cannot be stored without pickle; use one of "
            f"{', '.join(_CLASSES)}."
        )
    names = _METRICS.get(cls) or tuple(inspect.signature(cls).parameters)
    state = vars(value) if cls.__name__ in _FITTED else {}
    return {
        "type": "object",
        "class": cls.__name__,
        "init": {name: encode(getattr(value, name)) for name in names},
        "state": {k: encode(v) for k, v in state.items() if k.endswith("_") and k[0] != "_"},
    }


def _decode(value: dict[str, Any]) -> Any:
    kind = value["type"]
    if kind == "float":
        return float(value["value"])
    if kind == "tuple":
        return tuple(decode(value["value"]))
    if kind == "dict":
        return {decode(k): decode(v) for k, v in value["value"]}
    if kind == "array":
        array = np.array(decode(value["value"]), dtype=_dtype(value))
        return array if array.ndim else array[()]
    if kind == "tensor":
        return torch.from_numpy(np.array(decode(value["value"]), dtype=_dtype(value)))
    if kind == "frame":
        names, index = decode(value["names"]), decode(value["index"])
        rows: pd.Index
        if len(names) > 1:
            rows = pd.MultiIndex.from_tuples(index, names=names)
        else:
            rows = pd.Index(index, name=names[0])
        return pd.DataFrame(decode(value["columns"]), index=rows)
    if kind == "object":
        if value["class"] not in _CLASSES:
            raise DataError(unknown("stored class", str(value["class"]), _CLASSES))
        made = _CLASSES[value["class"]](**{k: decode(v) for k, v in value["init"].items()})
        for name, part in value["state"].items():
            if not name.endswith("_") or name.startswith("_"):
                raise DataError(f"{value['class']} has no fitted attribute {name!r}")
            setattr(made, name, decode(part))
        return made
    raise DataError(unknown("stored type", str(kind), ()))


def _dtype(value: dict[str, Any]) -> np.dtype[Any]:
    dtype = np.dtype(str(value["dtype"]))
    if dtype.kind not in "biufUO":
        raise DataError(f"an array of {dtype} is not numbers or text; copy the folder again")
    return dtype
