"""A trained model as a ``Predictor``: windows in the series' units in, forecasts in them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from apps.timeseries import catalog
from apps.timeseries.data.panel import Series
from apps.timeseries.data.windows import SeriesScaling, known_rows, with_static
from apps.timeseries.metrics import median_index
from apps.timeseries.store import LoadedModel
from core.errors import DataError, UsageError

BATCH = 256
"""Windows forecast at once."""


class ModelPredictor:
    """See ``methods.Predictor``.

    A horizon beyond the trained one: a model that generates does so; another's forecasts are fed
    back to it as history (``rolled``), unless it needs past covariates, whose future nobody knows.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        spec = model.spec
        self.name = spec.network.name
        self.lookback = spec.network.shape.lookback
        self.trained_horizon = spec.network.shape.horizon
        self.generates = catalog.model(self.name).any_horizon
        self.horizon = None if self.generates else self.trained_horizon
        self.quantiles = tuple(spec.quantiles)
        self.season = spec.data.season
        self.trained_until = spec.data.trained_until

    def rolled(self, horizon: int) -> bool:
        """Whether a forecast of ``horizon`` steps is fed back as history."""
        return horizon > self.trained_horizon and not self.generates

    def scaling(self, series: Series, rows: int) -> SeriesScaling:
        """The training rows' for a series that was trained on, else of its first ``rows`` rows."""
        found = self.model.scalings.get(series.id)
        if found is not None:
            return found
        known = next(iter(self.model.scalings.values())).known  # the same for every series
        return SeriesScaling.of(series, rows, known)

    def predict(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        found = self._forecast(series, origins, horizon)
        return found[..., median_index(self.quantiles)] if self.quantiles else found

    def predict_quantiles(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        if not self.quantiles:
            raise UsageError(f"model {self.name}: was fitted without quantiles")
        return np.sort(self._forecast(series, origins, horizon), -1)

    @torch.inference_mode()
    def _forecast(self, series: Series, origins: Sequence[int], horizon: int) -> np.ndarray:
        chosen = np.asarray(origins, np.int64)
        if len(chosen) == 0:
            tail = (len(self.quantiles),) if self.quantiles else ()
            return np.empty((0, horizon, series.values.shape[1], *tail))
        if chosen.min() < self.lookback:
            raise DataError(
                f"series {series.id}: {int(chosen.min())} rows of history, model {self.name} needs "
                f"{self.lookback}; give more history or a model with a smaller --lookback"
            )
        series = with_static(series, self.model.spec.data.static)
        scaling = self.scaling(series, int(chosen.min()))
        shape = self.model.spec.network.shape
        marks = self.model.spec.data.marks
        last = int(chosen.max())
        start = int(chosen.min()) - self.lookback
        values = scaling.values.apply(series.values[start:last])
        past = scaling.past.apply(series.past[start:last])
        known = None
        if shape.known:
            # The whole trained horizon, as far as it is known, even where less is asked for.
            ahead, reach = series, last + max(horizon, self.trained_horizon)
            if len(series.times) < (last + horizon if series.known.shape[1] else reach):
                ahead = _with_stamps(series, last + horizon if series.known.shape[1] else reach)
            known = known_rows(ahead, scaling, marks, first=start)
            if len(known) < reach - start:
                known = np.concatenate([known, known[-1:].repeat(reach - start - len(known), 0)])
        parts = []
        for at in range(0, len(chosen), BATCH):
            rows = chosen[at : at + BATCH, None] - start
            history = rows + np.arange(-self.lookback, 0)
            x = torch.from_numpy(values[history]).float()
            if not bool(torch.isfinite(x).all()):
                where = chosen[at + int((~torch.isfinite(x)).flatten(1).any(1).int().argmax())]
                raise DataError(
                    f"series {series.id}: missing values among the {self.lookback} rows before row "
                    f"{int(where)}; repair them with --fill"
                )
            p = torch.from_numpy(past[history]).float() if shape.past else None
            k = None
            if known is not None:
                stamps = rows + np.arange(-self.lookback, max(horizon, self.trained_horizon))
                k = torch.from_numpy(known[stamps]).float()
            parts.append(self._run(x, p, k, horizon).double().cpu().numpy())
        y = np.concatenate(parts)
        if self.quantiles:
            return scaling.values.undo(y.swapaxes(2, 3)).swapaxes(2, 3)
        return scaling.values.undo(y)

    def _run(self, x: Tensor, past: Tensor | None, known: Tensor | None, horizon: int) -> Tensor:
        """Scaled forecasts (B, horizon, N) or (B, horizon, N, Q)."""
        network, H, L = self.model.network, self.trained_horizon, self.lookback
        device = next(network.parameters()).device
        x = x.to(device)
        past = None if past is None else past.to(device)
        known = None if known is None else known.to(device)
        if horizon <= H:
            return network(x, past, known)[:, :horizon]
        if self.generates:
            return network.generate(x, horizon)  # type: ignore[operator]
        if past is not None:
            raise UsageError(
                f"horizon {horizon}: model {self.name} was fitted for {H} and needs past covariates, "
                f"so that it cannot go on; use --horizon {H} or fit with --horizon {horizon}"
            )
        steps: list[Tensor] = []
        history = x
        for at in range(0, horizon, H):
            k = None
            if known is not None:
                k = known[:, at : at + L + H]
                k = torch.cat([k, k[:, -1:].expand(-1, L + H - k.shape[1], -1)], 1)
            y = network(history, None, k)
            steps.append(y)
            middle = y[..., median_index(self.quantiles)] if self.quantiles else y
            history = torch.cat([history, middle], 1)[:, -L:]
        return torch.cat(steps, 1)[:, :horizon]


def _with_stamps(series: Series, total: int) -> Series:
    """``series`` with stamps up to ``total`` for its calendar; real covariates must be in the file."""
    from apps.timeseries.data import frequency

    missing = total - len(series.times)
    if series.known.shape[1]:
        raise DataError(
            f"series {series.id}: known covariates end {missing} stamps before the forecast does; "
            "add rows with the covariates of the future and an empty target"
        )
    more = frequency.future_index(series.times, series.freq, missing)
    times = series.times.append(more)
    return replace(series, times=times, known=np.empty((total, 0)))
