"""Which variates a trained model mixes: the attention of iTransformer, the matrices of OLinear.

Letters: D layers, h heads, M tokens (the targets, then past, static and known covariates and
calendar features, each a token of its whole window).

iTransformer's weights are those that a forecast was computed with: softmax(c ** -0.5 q k^T) of the
network's own queries and keys (Vaswani et al. 2017, eq. 1), different in every window.  OLinear's
(``core.mixers.normlin``) are learned once and the same for every window.

They say what a token was mixed from, not why the forecast is what it is: the values and the path
around the mixer count as well (Jain and Wallace, "Attention is not explanation", NAACL 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from apps.timeseries.data import calendar
from apps.timeseries.data.panel import Panel, Series
from apps.timeseries.matching import panel_for
from apps.timeseries.methods import load_predictor
from apps.timeseries.models.itransformer import ITransformer
from apps.timeseries.models.olinear import OLinear
from apps.timeseries.predictor import ModelPredictor
from apps.timeseries.store import DataSpec
from core.errors import UsageError, unknown
from core.mixers.attention import Attention as Mixer
from core.mixers.normlin import NormLin

if TYPE_CHECKING:
    from apps.timeseries.methods import Predictor


@dataclass(frozen=True, eq=False)
class Attention:
    """``weights`` (D, h, M, M) float64, mean over the windows: each row, a token, sums to 1.

    ``kind`` "attention" (of the windows) or "normlin" (one head, the same for every window).
    """

    weights: np.ndarray
    names: tuple[str, ...]  # of the M tokens
    targets: int  # how many of them are forecast; they come first
    kind: Literal["attention", "normlin"]
    series: str
    windows: int

    def frame(self, layer: int | None = None) -> pd.DataFrame:
        """(M, M), mean over heads: a row for the token that looks, a column for what it looks at.

        Of one ``layer`` (the last is -1), or the mean of all.  Raises UsageError where there is none.
        """
        depth = len(self.weights)
        if layer is not None and not -depth <= layer < depth:
            raise UsageError(f"layer {layer}: the model has layers 0 to {depth - 1}")
        chosen = self.weights.mean(0) if layer is None else self.weights[layer]
        return pd.DataFrame(chosen.mean(0), index=self.names, columns=self.names)


def attention(
    data: str | Path | pd.DataFrame | pd.Series | Panel,
    model: str | Path | Predictor,
    *,
    series: str | None = None,
    origins: Sequence[int] | None = None,
    device: str = "cpu",
    **reading: Any,
) -> Attention:
    """How the variates of one series of ``data`` are mixed by ``model``, trained or shipped.

    ``series`` by its id, the first one unless given.  ``origins``: rows that forecasts begin at, each
    a window of what lies before; the forecast of the future unless given.  ``reading`` goes to
    ``read_panel``.

    Raises UsageError for a model that has no weights among variates, an unknown series or an origin
    outside the file, and what ``forecast`` raises.
    """
    predictor = load_predictor(model, device) if isinstance(model, str | Path) else model
    if not isinstance(predictor, ModelPredictor):
        raise UsageError(f"{predictor.name}: is no network and has no attention; fit itransformer")
    network, about = predictor.model.network, predictor.model.spec.data
    among_variates = isinstance(network, ITransformer | OLinear)
    attending = [m for m in network.modules() if isinstance(m, Mixer) and among_variates]
    fixed = [m for m in network.modules() if isinstance(m, NormLin) and among_variates]
    if not attending and not fixed:
        raise UsageError(
            f"{predictor.name}: this network has no attention among variates; fit itransformer"
        )
    chosen = _series(panel_for(data, about, reading), series)
    places = [len(chosen)] if origins is None else [int(o) for o in origins]
    for origin in places:
        if not 1 <= origin <= len(chosen):
            raise UsageError(f"origin {origin}: series {chosen.id} has rows 0 to {len(chosen)}")
    if not places:
        raise UsageError("no origin given; give one or more, or none at all for the future")
    sums: dict[nn.Module, Tensor] = {}
    hooks = [mixer.register_forward_pre_hook(_adder(sums)) for mixer in attending]
    try:
        predictor.predict(chosen, places, predictor.trained_horizon)
    finally:
        for hook in hooks:
            hook.remove()
    if attending:
        weights = torch.stack([sums[mixer] for mixer in attending]) / len(places)
    else:
        weights = torch.stack([mixer.matrix().detach().double()[None] for mixer in fixed])
    return Attention(
        weights=weights.cpu().numpy(),
        names=_names(about),
        targets=len(about.targets),
        kind="attention" if attending else "normlin",
        series=chosen.id,
        windows=len(places),
    )


def weights_of(mixer: Mixer, tokens: Tensor) -> Tensor:
    """What ``mixer`` multiplies the values of tokens (B, M, C) with: (B, h, M, M), float64."""
    q, k, _ = mixer.project(tokens)
    scores = q @ mixer.spread(k).transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.double().softmax(-1)


def _adder(sums: dict[nn.Module, Tensor]) -> Any:
    """A hook that adds up a mixer's weights over the windows of every batch: (h, M, M)."""

    def add(mixer: Mixer, arguments: tuple[Tensor, ...]) -> None:
        found = weights_of(mixer, arguments[0]).sum(0)
        sums[mixer] = sums[mixer] + found if mixer in sums else found

    return add


def _names(data: DataSpec) -> tuple[str, ...]:
    """The tokens in the order in which the network has them."""
    marks = calendar.names(data.freq) if data.marks else []
    return (*data.targets, *data.past, *data.static, *data.known, *marks)


def _series(panel: Panel, wanted: str | None) -> Series:
    if wanted is None:
        return panel.series[0]
    found = {series.id: series for series in panel}
    if wanted not in found:
        raise UsageError(unknown("series", wanted, list(found)))
    return found[wanted]
