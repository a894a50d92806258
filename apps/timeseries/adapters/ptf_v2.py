"""Models of the catalog as packages of pytorch-forecasting's "v2", which is experimental (1.8).

    package = TriptychForecaster_pkg_v2(
        model_cfg={"model": "patchtst", "loss": MAE()},
        trainer_cfg={"max_epochs": 10},
        datamodule_cfg={"context_length": 96, "prediction_length": 24},
    )
    package.fit(TimeSeries(frame, time=..., target=..., group=[...], known=[...], unknown=[...]))
    package.predict(TimeSeries(...))["prediction"]  # (windows, H)
    package.save("folder"); TriptychForecaster_pkg_v2.load("folder")

One target: of several, v2 hands over a list that none of its losses can be computed on. Continuous
columns that are known ahead are our ``known`` covariates, the others our ``past`` ones; categorical
and static columns are not used.

What v2 lacks and this module adds:

- a split in time (``ChronologicalDataModule``): v2's own deals whole series out to training and
  validation at random, draws anew at every set-up, and gives one series to both;
- normalisation: v2's modules accept scalers and apply none, so the model holds the mean and the
  deviation of the training rows and forecasts in original units;
- storage without pickle (``save``, ``load``). Their checkpoints, with pickled settings beside them,
  are written only where ``fit(save_ckpt=True)`` asks for them;
- a quiet standard output: settings are not printed on it.

Their loader prepares a whole series for each window: 55 ms for a batch of 32 windows of 96 + 96
stamps, against 8.3 ms of v1's and 0.1 ms of ``data.windows``.
"""

from __future__ import annotations

import contextlib
import io
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.timeseries import catalog
from apps.timeseries.models.base import Shape, build
from core.errors import DataError, UsageError, need
from core.weights.folder import METADATA, load_folder, load_state, save_folder

need("pytorch_forecasting", "ptf")

from pytorch_forecasting.base._base_pkg import Base_pkg  # noqa: E402
from pytorch_forecasting.data.data_module import TslibDataModule  # noqa: E402
from pytorch_forecasting.data.data_module._tslib_data_module import _TslibDataset  # noqa: E402
from pytorch_forecasting.metrics import (  # noqa: E402
    MAE,
    MAPE,
    RMSE,
    SMAPE,
    Metric,
    QuantileLoss,
)
from pytorch_forecasting.models.base._tslib_base_model_v2 import TslibBaseModel  # noqa: E402

from apps.timeseries.adapters.encoding import check_kind, decode, encode  # noqa: E402

KIND = "pytorch-forecasting v2"
FORMAT = 1
STATISTICS_ROWS = 1_000_000  # what a network takes from data before training needs no more
_LOSSES = (MAE, MAPE, RMSE, SMAPE, QuantileLoss)


class ChronologicalDataModule(TslibDataModule):
    """``TslibDataModule``, each of whose series is cut in time.

    ``train_val_test_split`` gives the shares of the observed stamps of every series. Training
    windows end before the first border; those of validation and test have all stamps to forecast
    beyond their border, while what they look back on may lie before it. With two shares the test
    windows are those of validation. Series too short for a window of a part have none there.
    """

    def setup(self, stage: str | None = None) -> None:
        """Windows for ``stage``: "predict" takes all, any other cuts.

        Raises DataError where no series is long enough for one window.
        """
        parts: list[list[tuple[int, int, int, int]]] = [[], [], []]
        series = range(len(self.time_series_dataset))
        if stage == "predict":
            self.predict_dataset = self._items(self._create_windows(series), "prediction")
            return
        for index in series:
            borders = self._borders(index)
            for window in self._create_windows([index]):
                target = window[1] + self.context_length
                end = target + self.prediction_length
                for part, low, high in zip(parts, (0, *borders), borders):
                    if low <= target and end <= high:
                        part.append(window)
        if len(self.train_val_test_split) == 2:
            parts[2] = parts[1]
        self.train_dataset = self._items(parts[0], "training")
        self.val_dataset = self._items(parts[1])
        self.test_dataset = self._items(parts[2], "test" if stage == "test" else None)

    def _borders(self, index: int) -> list[int]:
        """After which of its observed stamps each part of series ``index`` ends."""
        series = self.time_series_dataset[index]
        observed = int((series["t"] <= series["cutoff_time"]).sum())
        shares = self.train_val_test_split
        # Rounded up: 0.7 + 0.15 + 0.15 of 100 stamps are 100, not 99.
        return [
            min(observed, ceil(observed * sum(shares[:n]) - 1e-6))
            for n in range(1, len(shares) + 1)
        ]

    def _items(
        self, windows: list[tuple[int, int, int, int]], needed: str | None = None
    ) -> _TslibDataset:
        if needed and not windows:
            raise DataError(
                f"no series is long enough for one {needed} window of {self.context_length} + "
                f"{self.prediction_length} stamps; give longer series, or shorter lengths."
            )
        return _TslibDataset(self.time_series_dataset, self, windows, self.add_relative_time_idx)


class TriptychForecaster_v2(TslibBaseModel):
    """A model of the catalog behind v2's interface; ``TriptychForecaster_pkg_v2`` makes it.

    ``loss`` MAE, MAPE, RMSE, SMAPE or QuantileLoss; ``model`` a name of the catalog, ``options`` of
    its network (the published ones where left out); ``optimizer_params`` hold the published learning
    rate if not given; ``metadata`` comes from the data module; the rest is ``TslibBaseModel``'s.

    Raises UsageError for several targets, another loss, an unknown model or option, or covariates
    that the model cannot use.
    """

    def __init__(
        self,
        loss: Metric,
        model: str = "itransformer",
        options: dict[str, Any] | None = None,
        logging_metrics: list[nn.Module] | None = None,
        optimizer: Any = "adam",
        optimizer_params: dict[str, Any] | None = None,
        lr_scheduler: str | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        entry = catalog.model(model)
        model, options = entry.name, {**entry.recipe.options, **(options or {})}
        optimizer_params = optimizer_params or {"lr": entry.recipe.rate}
        if not isinstance(loss, _LOSSES):
            raise UsageError(
                f"loss {type(loss).__name__}: v2 gives losses a forecast in the target's units and "
                f"nothing else; use one of {', '.join(cls.__name__ for cls in _LOSSES)}."
            )
        super().__init__(
            loss=loss,
            logging_metrics=logging_metrics,
            optimizer=optimizer,
            optimizer_params=optimizer_params,
            lr_scheduler=lr_scheduler,
            lr_scheduler_params=lr_scheduler_params,
            metadata=metadata,
        )
        self.save_hyperparameters(ignore=["loss", "logging_metrics", "metadata"])
        if self.target_dim != 1:
            raise UsageError(
                f"{self.target_dim} targets: v2 trains one; use adapters.ptf_v1 for several."
            )
        columns = self.feature_names.get("continuous", [])
        ahead = set(self.feature_names.get("known", []))
        known = [i for i, name in enumerate(columns) if name in ahead]
        past = [i for i, name in enumerate(columns) if name not in ahead]
        shape = Shape(
            lookback=self.context_length,
            horizon=self.prediction_length,
            variates=1,
            past=len(past),
            known=len(known),
            outputs=len(loss.quantiles) if isinstance(loss, QuantileLoss) else 1,
        )
        self.network = build(model, shape, **options)
        for name, at in (("known", known), ("past", past)):
            index = torch.tensor(at, dtype=torch.long)
            self.register_buffer(f"_at_{name}", index, persistent=False)
        # The target first, then the continuous columns.
        self.register_buffer("center", torch.zeros(1 + len(columns)))
        self.register_buffer("scale", torch.ones(1 + len(columns)))
        self.register_buffer("fitted", torch.tensor(False))

    @classmethod
    def _pkg(cls) -> type[TriptychForecaster_pkg_v2]:
        return TriptychForecaster_pkg_v2

    def on_fit_start(self) -> None:
        """Take means, deviations and the network's statistics from the training rows, once.

        Raises UsageError where training is fed by anything but a ``TslibDataModule``.
        """
        if self.fitted:
            return
        module = getattr(self.trainer, "datamodule", None)
        if not isinstance(module, TslibDataModule):
            raise UsageError(
                "training needs a data module, for the scales of its training rows; give "
                "fit(datamodule=ChronologicalDataModule(...)), or use the package's fit."
            )
        ends: dict[int, tuple[int, int]] = {}
        for series, start, context, ahead in module.train_dataset.windows:
            first, last = ends.get(series, (start, 0))
            ends[series] = min(first, start), max(last, start + context + ahead)
        found = []
        for series, (first, last) in ends.items():
            rows = module._preprocess_data(series)
            both = torch.cat([rows["target"], rows["features"]["continuous"]], 1)
            found.append(both[first:last].double())
        train = torch.cat(found)
        center, scale = train.mean(0), train.std(0, unbiased=False)
        # What rounding leaves of a constant's deviation is no scale.
        scale[scale <= 1e-8 * center.abs().clamp(min=1)] = 1
        self.center.copy_(center)
        self.scale.copy_(scale)
        self.fitted.fill_(True)
        scaled = ((train - center) / scale)[:STATISTICS_ROWS, :1]
        self.network.fit_statistics(scaled.float().to(self.center.device))

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their batch -> {"prediction": (B, H, Q)} in the target's units.

        Raises DataError for windows of another shape.
        """
        target, history, future = x["history_target"], x["history_cont"], x["future_cont"]
        found = (target.shape[1], future.shape[1], history.shape[2], future.shape[2])
        wanted = (
            self.context_length,
            self.prediction_length,
            len(self.center) - 1,
            len(self._at_known),
        )
        if found != wanted:
            raise DataError(
                f"windows of {found[0]} + {found[1]} stamps, {found[2]} columns and {found[3]} known "
                f"ones, but the model takes {wanted[0]} + {wanted[1]}, {wanted[2]} and {wanted[3]}; "
                "use the lengths and columns that it was trained with."
            )
        center, scale = self.center[1:], self.scale[1:]
        history = (history - center) / scale
        future = (future - center[self._at_known]) / scale[self._at_known]
        known = torch.cat([history[..., self._at_known], future], 1)
        past = history[..., self._at_past]
        y = self.network(
            (target - self.center[0]) / self.scale[0],
            past if past.shape[-1] else None,
            known if known.shape[-1] else None,
        )
        y = y[:, :, 0] if y.ndim == 4 else y  # of the one target: (B, H, Q)
        return {"prediction": y * self.scale[0] + self.center[0]}


class TriptychForecaster_pkg_v2(Base_pkg):
    """Settings, data and training of one ``TriptychForecaster_v2``; see the module's text.

    ``model_cfg`` are the model's arguments, ``datamodule_cfg`` the data module's (``context_length``
    and ``prediction_length`` at least), ``trainer_cfg`` those of ``lightning.Trainer``.
    """

    _tags = {
        "info:name": "TriptychForecaster_v2",
        "info:compute": 2,
        "info:y_type": ["numeric"],
        "authors": ["The Triptych developers"],
        "capability:exogenous": True,
        "capability:multivariate": False,
        "capability:pred_int": True,
        "capability:flexible_history_length": False,
        "capability:cold_start": False,
    }

    def __init__(
        self,
        model_cfg: dict[str, Any] | str | Path | None = None,
        trainer_cfg: dict[str, Any] | str | Path | None = None,
        datamodule_cfg: dict[str, Any] | str | Path | None = None,
        ckpt_path: str | Path | None = None,
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the settings
            super().__init__(model_cfg, trainer_cfg, datamodule_cfg, ckpt_path)

    @classmethod
    def get_cls(cls) -> type[TriptychForecaster_v2]:
        """The model's class."""
        return TriptychForecaster_v2

    @classmethod
    def get_datamodule_cls(cls) -> type[ChronologicalDataModule]:
        """The data module's class."""
        return ChronologicalDataModule

    @classmethod
    def get_test_train_params(cls) -> list[dict[str, Any]]:
        """Settings for pytorch-forecasting's checks, whose data have both kinds of covariates."""
        small = {
            "model": "itransformer",
            "options": {"dim": 8, "depth": 1, "ffn": 8, "heads": 2},
            "datamodule_cfg": {"context_length": 8, "prediction_length": 2},
        }
        return [
            {
                **small,
                "logging_metrics": [SMAPE()],
                "optimizer": "adamw",
                "lr_scheduler": "cosine_annealing",
                "lr_scheduler_params": {"T_max": 5},
            },
            {**small, "loss": QuantileLoss([0.1, 0.5, 0.9])},
        ]

    def fit(self, data: Any, save_ckpt: bool = False, *args: Any, **kwargs: Any) -> Path | None:
        """As ``Base_pkg.fit``, but their checkpoint and its pickles only where asked for."""
        return super().fit(data, save_ckpt, *args, **kwargs)

    def save(self, folder: str | Path, force: bool = False) -> None:
        """Write ``model.safetensors`` and ``model.json``: all that ``load`` needs, nothing pickled.

        The trainer's settings are not kept. Raises UsageError before training, or for settings
        without a form in JSON; else as ``core.weights.folder.save_folder``.
        """
        if self.model is None:
            raise UsageError(f"{folder}: there is no model to save yet; fit it first.")
        metadata = {
            "app": "timeseries",
            "kind": KIND,
            "format": FORMAT,
            "model": encode(self.model_cfg),
            "data": encode(self.datamodule_cfg),
            "metadata": encode(self.model.metadata),
        }
        save_folder(Path(folder), self.model.state_dict(), metadata, force=force)

    @classmethod
    def load(cls, folder: str | Path) -> TriptychForecaster_pkg_v2:
        """The package that ``save`` wrote, ready to predict or to train on.

        Raises UsageError when there is no such folder; DataError for a folder of another kind or
        version, and for missing, damaged or pickled parts.
        """
        folder = Path(folder)
        tensors, about = load_folder(folder)
        check_kind(about, folder, KIND, FORMAT)
        try:
            made = cls(decode(about["model"]), {}, decode(about["data"]))
            made.metadata = decode(about["metadata"])
            made._build_model(made.metadata)
            model = made.model
        except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"{folder / METADATA}: {error}; copy the folder again") from error
        if model is None:
            raise DataError(f"{folder / METADATA}: has no model; copy the folder again")
        load_state(model, tensors, str(folder))
        model.eval()
        return made

    def _build_datamodule(self, data: Any) -> ChronologicalDataModule:
        module = super()._build_datamodule(data)
        if self.model is not None and module.metadata["feature_names"] != self.model.feature_names:
            raise DataError(
                f"the columns {_columns(module.metadata['feature_names'])} are not those of the "
                f"model, {_columns(self.model.feature_names)}; give the same, in the same order."
            )
        return module


def _columns(names: dict[str, list[str]]) -> str:
    return ", ".join([*names["target"], *names["all"]])
