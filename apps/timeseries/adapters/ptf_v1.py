"""Every model of the catalog as a pytorch-forecasting (1.8, "v1") model, trained and used as theirs.

    dataset = TimeSeriesDataSet(frame, time_idx=..., target=["HUFL", ...], group_ids=[...],
                                time_varying_unknown_reals=["HUFL", ...], max_encoder_length=96,
                                max_prediction_length=96, target_normalizer=MultiNormalizer([...]))
    model = TriptychForecaster.from_dataset(dataset, model="itransformer")
    lightning.pytorch.Trainer(...).fit(model, dataset.to_dataloader(train=True))
    model.predict(validation)                       # a list of (n, 96), one for each target
    model.save("folder"); TriptychForecaster.load("folder")

What is what: the targets must be among the unknown reals, where they come normalised; the other
unknown reals are our ``past`` covariates, known and static reals (static ones are constant in time)
our ``known`` ones. Categoricals are refused: none of our models embeds them.

Training minimises their loss of the forecast. The losses of every token that TimelyGPT and GPHT
were published with, and weighted ones, are those of ``fit`` alone.

Encoders and decoders have one length each, since lookback and horizon are shapes of the networks.
Their loader builds each window by itself: 8.3 ms for a batch of 32 windows of 7 targets and 96 + 96
stamps, against 0.1 ms of ``data.windows`` and a training step of 20 to 30 ms. Where the data need
nothing of theirs, ``fit`` is the faster way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from apps.timeseries import catalog
from apps.timeseries.models.base import Shape, build
from core.errors import DataError, UsageError, need
from core.weights.folder import METADATA, load_folder, load_state, save_folder

need("pytorch_forecasting", "ptf")

from pytorch_forecasting import TimeSeriesDataSet  # noqa: E402
from pytorch_forecasting.metrics import (  # noqa: E402
    MAE,
    MultiLoss,
    NegativeBinomialDistributionLoss,
)
from pytorch_forecasting.models.base import BaseModel  # noqa: E402
from pytorch_forecasting.models.base._base_object import _BasePtForecaster  # noqa: E402

from apps.timeseries.adapters.encoding import check_kind, decode, encode  # noqa: E402

KIND = "pytorch-forecasting v1"
FORMAT = 1
STATISTICS_ROWS = 1_000_000  # what a network takes from data before training needs no more
_OWN = (
    "model",
    "options",
    "lookback",
    "horizon",
    "targets",
    "past",
    "known",
    "reals",
    "output_size",
)


class TriptychForecaster(BaseModel):
    """Any model of the catalog behind pytorch-forecasting's interface; make it by ``from_dataset``.

    ``model`` a name of the catalog, ``options`` of its network (its published ones where left out),
    ``reals`` the columns of ``encoder_cont`` in their order, of which ``targets``, ``past`` and
    ``known`` are used. ``output_size`` numbers are forecast for each stamp of each target: one for a
    point loss, as many as quantiles for ``QuantileLoss``, as parameters for a distribution; a list
    has one size for each target. ``loss`` is MAE if not given; other arguments are ``BaseModel``'s.

    Raises UsageError for an unknown model or option, or covariates that the model cannot use.
    """

    def __init__(
        self,
        model: str,
        lookback: int,
        horizon: int,
        targets: list[str],
        reals: list[str],
        past: list[str] | None = None,
        known: list[str] | None = None,
        options: dict[str, Any] | None = None,
        output_size: int | list[int] = 1,
        loss: Any = None,
        logging_metrics: nn.ModuleList | None = None,
        **kwargs: Any,
    ) -> None:
        past, known = past or [], known or []
        entry = catalog.model(model)
        model, options = entry.name, {**entry.recipe.options, **(options or {})}
        if loss is None:
            loss = MultiLoss([MAE() for _ in targets]) if len(targets) > 1 else MAE()
        if logging_metrics is None:
            logging_metrics = nn.ModuleList([])
        self.save_hyperparameters(ignore=["loss", "logging_metrics"])
        super().__init__(loss=loss, logging_metrics=logging_metrics, **kwargs)
        sizes = [output_size] if isinstance(output_size, int) else list(output_size)
        self.sizes = sizes * len(targets) if len(sizes) == 1 else sizes
        shape = Shape(
            lookback=lookback,
            horizon=horizon,
            variates=len(targets),
            past=len(past),
            known=len(known),
            outputs=max(self.sizes),
        )
        self.network = build(model, shape, **options)
        for name, columns in (("targets", targets), ("past", past), ("known", known)):
            at = torch.tensor([reals.index(column) for column in columns], dtype=torch.long)
            self.register_buffer(f"_at_{name}", at, persistent=False)

    @classmethod
    def _pkg(cls) -> type[TriptychForecaster_pkg]:
        return TriptychForecaster_pkg

    @classmethod
    def from_dataset(
        cls, dataset: TimeSeriesDataSet, model: str = "itransformer", **kwargs: Any
    ) -> TriptychForecaster:
        """An untrained model for the windows of ``dataset``, which must be the training data.

        What the model takes from data before training (OLinear's bases) comes from its rows, one
        series after the other. ``kwargs`` as the constructor's; the learning rate is the published
        one unless given.

        Raises UsageError where the data set has encoders or decoders of several lengths,
        categorical covariates or targets, or targets that are not among its unknown reals.
        """
        targets = list(dataset.target_names)
        _check(dataset, targets)
        kwargs = {**kwargs, **cls.deduce_default_output_parameters(dataset, kwargs, MAE())}
        kwargs.setdefault("learning_rate", catalog.model(model).recipe.rate)
        unknown_reals = dataset._time_varying_unknown_reals
        made = super().from_dataset(
            dataset,
            model=model,
            lookback=dataset.max_encoder_length,
            horizon=dataset.max_prediction_length,
            targets=targets,
            past=[name for name in unknown_reals if name not in targets],
            known=[name for name in dataset.reals if name not in unknown_reals],
            reals=list(dataset.reals),
            **kwargs,
        )
        made.network.fit_statistics(dataset.data["reals"][:STATISTICS_ROWS, made._at_targets])
        return cast(TriptychForecaster, made)

    def forward(self, x: dict[str, Tensor]) -> Any:
        """Their batch -> their output, whose ``prediction`` (B, H, Q) is in original units.

        A list of such for several targets. Raises DataError for windows of another shape.
        """
        L, H = self.hparams.lookback, self.hparams.horizon
        encoder, decoder = x["encoder_cont"], x["decoder_cont"]
        lengths = x["encoder_lengths"]
        wanted = (L, H, len(self.hparams.reals))
        found = (encoder.shape[1], decoder.shape[1], encoder.shape[2])
        if found != wanted or int(lengths.min()) != L:
            raise DataError(
                f"windows of {int(lengths.min())} to {found[0]} + {found[1]} stamps and {found[2]} "
                f"reals, but the model takes {L} + {H} and {wanted[2]}: give data sets min_encoder_length="
                f"max_encoder_length={L}, min_prediction_length=max_prediction_length={H} and the "
                "training data's columns."
            )
        known = torch.cat([encoder, decoder], 1)[..., self._at_known]
        past = encoder[..., self._at_past]
        y = self.network(
            encoder[..., self._at_targets],
            past if past.shape[-1] else None,
            known if known.shape[-1] else None,
        )
        if y.ndim == 3:
            y = y.unsqueeze(-1)
        parts = [y[:, :, i, :size] for i, size in enumerate(self.sizes)]
        prediction = self.transform_output(
            parts if isinstance(self.loss, MultiLoss) else parts[0], target_scale=x["target_scale"]
        )
        return self.to_network_output(prediction=prediction)

    def predict(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """As ``BaseModel.predict``, of a frame, a data set or a loader.

        Raises DataError where the columns are not the training data's, by name and order.
        """
        dataset = getattr(data, "dataset", data)
        if isinstance(dataset, TimeSeriesDataSet) and list(dataset.reals) != self.hparams.reals:
            raise DataError(
                f"the data set has the reals {', '.join(dataset.reals)}, the model was made for "
                f"{', '.join(self.hparams.reals)}; make it with TimeSeriesDataSet.from_dataset."
            )
        return super().predict(data, *args, **kwargs)

    def save(self, folder: str | Path, force: bool = False) -> None:
        """Write ``model.safetensors`` and ``model.json``: all that ``load`` needs, nothing pickled.

        With it go the fitted normalisers, scalers and encoders of the training data, so that a
        loaded model predicts from a frame. Raises UsageError for a loss or a normaliser that has no
        form in JSON (functions as transformations, classes of yours); else as
        ``core.weights.folder.save_folder``.
        """
        parameters = self.dataset_parameters
        normaliser = parameters["target_normalizer"] if parameters else None
        own = {name: self.hparams[name] for name in _OWN}
        theirs = {  # but for functions: an optimiser's class is no part of a trained model
            name: value
            for name, value in self.hparams.items()
            if name not in (*own, "dataset_parameters")
            and isinstance(value, bool | int | float | str | list | dict | None)
        }
        metadata = {
            "app": "timeseries",
            "kind": KIND,
            "format": FORMAT,
            "model": encode(own),
            "training": encode(theirs),
            "loss": encode(self.loss),
            "logging_metrics": encode(list(self.logging_metrics)),
            "dataset": encode(parameters),
            # The data set's own, in all but hand-made models.
            "output_transformer": None
            if self.output_transformer is normaliser
            else encode(self.output_transformer),
        }
        state = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        save_folder(Path(folder), state, metadata, force=force)

    @classmethod
    def load(cls, folder: str | Path) -> TriptychForecaster:
        """The model that ``save`` wrote, in evaluation mode on the CPU.

        Raises UsageError when there is no such folder; DataError for a folder of another kind or
        version, and for missing, damaged or pickled parts.
        """
        folder = Path(folder)
        tensors, about = load_folder(folder)
        check_kind(about, folder, KIND, FORMAT)
        parts = ("model", "training", "loss", "logging_metrics", "dataset", "output_transformer")
        try:
            own, training, loss, logged, dataset, transformer = (decode(about[k]) for k in parts)
            if transformer is None and dataset is not None:
                transformer = dataset["target_normalizer"]
            made = cls(
                **own,
                **training,
                loss=loss,
                logging_metrics=nn.ModuleList(logged),
                dataset_parameters=dataset,
                output_transformer=transformer,
            )
        except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"{folder / METADATA}: {error}; copy the folder again") from error
        state = {k.removeprefix("network/"): v for k, v in tensors.items()}
        load_state(made.network, state, str(folder))
        return made.eval()


def _check(dataset: TimeSeriesDataSet, targets: list[str]) -> None:
    for what, low, high in (
        ("encoder", dataset.min_encoder_length, dataset.max_encoder_length),
        ("prediction", dataset.min_prediction_length, dataset.max_prediction_length),
    ):
        if low != high:
            raise UsageError(
                f"the data set has {what} lengths of {low} to {high}, but lookback and horizon are "
                f"fixed; set min_{what}_length=max_{what}_length={high}."
            )
    if dataset.categoricals:
        raise UsageError(
            f"categorical columns {', '.join(dataset.categoricals)}: the models take reals; leave "
            "them out or encode them as reals."
        )
    lacking = [name for name in targets if name not in dataset._time_varying_unknown_reals]
    if lacking:
        raise UsageError(
            f"targets {', '.join(lacking)} are not among the data set's time_varying_unknown_reals, "
            "so the models could not see their past; add them there."
        )


class TriptychForecaster_pkg(_BasePtForecaster):
    """What pytorch-forecasting's registry and checks want to know about ``TriptychForecaster``."""

    _tags = {
        "info:name": "TriptychForecaster",
        "info:compute": 2,
        "info:pred_type": ["point", "quantile", "distr"],
        "info:y_type": ["numeric"],
        "authors": ["The Triptych developers"],
        "capability:exogenous": True,
        "capability:multivariate": True,
        "capability:pred_int": True,
        "capability:flexible_history_length": False,
        "capability:cold_start": False,
    }

    @classmethod
    def get_cls(cls) -> type[TriptychForecaster]:
        """The model's class."""
        return TriptychForecaster

    @classmethod
    def get_base_test_params(cls) -> list[dict[str, Any]]:
        """Arguments of ``from_dataset`` for pytorch-forecasting's checks: small networks."""
        return [
            {"model": "olinear", "options": {"dim": 8, "depth": 1, "ffn": 8}},
            {"model": "itransformer", "options": {"dim": 8, "depth": 1, "ffn": 8, "heads": 2}},
        ]

    @classmethod
    def _get_test_dataloaders_from(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Loaders for their checks, of positive made-up values of two series.

        Theirs read a file that they download. Values are in (0, 1), where all but one of the losses
        are defined, and counts for that one; a covariate is there for models that can use one.
        """
        import numpy as np
        import pandas as pd

        rows, cut = 24, 18
        rng = np.random.default_rng(0)
        time = np.tile(np.arange(rows), 2)
        target = 0.5 + 0.3 * np.sin(time) + rng.uniform(0, 0.1, 2 * rows)
        if isinstance(params.get("loss"), NegativeBinomialDistributionLoss):
            target = np.round(10 * target)
        frame = pd.DataFrame(
            {
                "time_idx": time,
                "agency": np.repeat(
                    ["a", "b"], rows
                ),  # the groups that their losses' settings name
                "sku": "c",
                "target": target,
                "price": rng.uniform(1, 2, 2 * rows),
            }
        )
        takes = "known" in catalog.model(params["model"]).covariates
        training = TimeSeriesDataSet(
            frame[frame.time_idx < cut].copy(),
            **{
                "time_idx": "time_idx",
                "target": "target",
                "group_ids": ["agency", "sku"],
                "time_varying_unknown_reals": ["target"],
                "time_varying_known_reals": ["price"] if takes else [],
                "max_encoder_length": 6,
                "max_prediction_length": 3,
                **params.get("data_loader_kwargs", {}),
            },
        )
        later = TimeSeriesDataSet.from_dataset(training, frame, min_prediction_idx=cut)
        return {
            "train": training.to_dataloader(train=True, batch_size=2, num_workers=0),
            "val": later.to_dataloader(train=False, batch_size=2, num_workers=0),
            "test": later.to_dataloader(train=False, batch_size=1, num_workers=0),
        }
