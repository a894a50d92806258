"""Autoformer: equal to its plain form, at every length and kernel, window by window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models import autoformer as module
from apps.timeseries.models.autoformer import Autoformer, Decomposition
from apps.timeseries.models.base import Shape, build
from core.errors import UsageError
from core.mixers.autocorrelation import Autocorrelation

SMALL: dict[str, Any] = {"dim": 8, "ffn": 12, "label": 5, "kernel": 5, "factor": 1.5}


def make(
    lookback: int = 14,
    horizon: int = 9,
    variates: int = 3,
    known: int = 2,
    outputs: int = 1,
    **k: Any,
) -> Autoformer:
    torch.manual_seed(0)
    shape = Shape(
        lookback=lookback, horizon=horizon, variates=variates, known=known, outputs=outputs
    )
    model = build("autoformer", shape, **{**SMALL, **k})
    assert isinstance(model, Autoformer)
    return model.double().eval()


def windows(model: Autoformer, count: int = 4) -> tuple[Tensor, Tensor | None]:
    shape, generator = model.shape, torch.Generator().manual_seed(1)
    x = torch.randn(count, shape.lookback, shape.variates, generator=generator).double()
    total = shape.lookback + shape.horizon
    known = torch.randn(count, total, shape.known, generator=generator).double()
    return x.cumsum(1), known if shape.known else None


def split(x: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Mean of the stamps around each, the ends repeated; stamp by stamp."""
    L = x.shape[1]
    trend = torch.stack(
        [
            sum(
                x[:, min(max(t + j, 0), L - 1)]
                for j in range(-((kernel - 1) // 2), kernel // 2 + 1)
            )
            / kernel
            for t in range(L)
        ],
        1,
    )
    return x - trend, trend


def correlate(mixer: Autocorrelation, x: Tensor, other: Tensor) -> Tensor:
    L = x.shape[1]
    k, v = mixer.k(other)[:, :L], mixer.v(other)[:, :L]
    k, v = (F.pad(t, (0, 0, 0, L - t.shape[1])) for t in (k, v))
    spectrum = torch.fft.rfft(mixer.q(x), dim=1) * torch.fft.rfft(k, dim=1).conj()
    scores = torch.fft.irfft(spectrum, n=L, dim=1).mean(-1)
    lags = scores.topk(min(max(int(mixer.factor * torch.tensor(L).log()), 1), L), -1)
    y = [
        sum(w * v[i].roll(-int(t), 0) for w, t in zip(ws, ts, strict=True))
        for i, (ws, ts) in enumerate(zip(lags.values.softmax(-1), lags.indices, strict=True))
    ]
    return mixer.proj(torch.stack(y))


def circular(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv1d(F.pad(x.transpose(1, 2), (1, 1), mode="circular"), weight).transpose(1, 2)


def plain(model: Autoformer, x: Tensor, known: Tensor | None) -> Tensor:
    """The network as published, one operation after the other."""
    L, H, Q = model.shape.lookback, model.shape.horizon, model.shape.outputs
    kernel, label = model.decompose.kernel, min(model.label, L)

    def embed(part: Any, values: Tensor, marks: Tensor | None) -> Tensor:
        y = circular(values, part.weight)
        return y if marks is None else y + part.marks(marks)

    def ffn(part: Any, y: Tensor) -> Tensor:
        return part.fc2(F.gelu(part.fc1(y)))

    def norm(part: Any, y: Tensor) -> Tensor:
        y = part.norm(y)
        return y - y.mean(1, keepdim=True)

    season, trend = split(x, kernel)
    z = embed(model.embed_past, x, None if known is None else known[:, :L])
    for layer in model.encoder:
        z = split(z + correlate(layer.mixer, z, z), kernel)[0]
        z = split(z + ffn(layer.ffn, z), kernel)[0]
    memory = norm(model.encoder_norm, z)
    trend = torch.cat((trend[:, L - label :], x.mean(1, keepdim=True).repeat(1, H, 1)), 1)
    season = torch.cat((season[:, L - label :], torch.zeros_like(x[:, :1]).repeat(1, H, 1)), 1)
    trend = trend.repeat_interleave(Q, 2)
    z = embed(model.embed_future, season, None if known is None else known[:, L - label :])
    for layer in model.decoder:
        z, trend1 = split(z + correlate(layer.mixer, z, z), kernel)
        z, trend2 = split(z + correlate(layer.cross, z, memory), kernel)
        z, trend3 = split(z + ffn(layer.ffn, z), kernel)
        trend = trend + circular(trend1 + trend2 + trend3, layer.trend.weight)
    y = (trend + model.head(norm(model.decoder_norm, z)))[:, -H:]
    return y if Q == 1 else y.unflatten(-1, (-1, Q))


CASES = {
    "longer-decoder": {},
    "shorter-decoder": {"horizon": 3, "label": 4},
    "same-length": {"horizon": 9, "label": 5},
    "odd-and-prime": {"lookback": 13, "horizon": 6, "label": 7},
    "even-kernel": {"kernel": 4},
    "kernel-beyond-window": {"kernel": 61},
    "kernel-of-one": {"kernel": 1},
    "all-lags": {"factor": 50.0},
    "label-beyond-lookback": {"label": 48},
    "no-label": {"label": 0},
    "no-covariates": {"known": 0},
    "one-variate": {"variates": 1},
    "quantiles": {"outputs": 3},
    "deeper": {"encoders": 1, "decoders": 2},
    "one-stamp": {"lookback": 1, "horizon": 1},
}


def averaged(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moving average so many rows at a time; at 0 as where the network is traced."""
    if rows:
        monkeypatch.setattr(module, "ROWS", rows)
    else:
        monkeypatch.setattr(module, "_traced", lambda x: True)


@pytest.mark.parametrize("rows", [32, 5, 0])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form_gradients_included(
    case: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged(rows, monkeypatch)
    model = make(**CASES[case])
    x, known = windows(model)
    wanted, got = plain(model, x, known), model(x, known=known)
    shape = (4, model.shape.horizon, model.shape.variates)
    assert got.shape == (shape if model.shape.outputs == 1 else (*shape, model.shape.outputs))
    torch.testing.assert_close(got, wanted)
    parameters, weight = list(model.parameters()), torch.randn_like(got)
    options = {"allow_unused": True, "materialize_grads": True}
    pairs = zip(
        torch.autograd.grad((got * weight).sum(), parameters, **options),
        torch.autograd.grad((wanted * weight).sum(), parameters, **options),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_every_parameter_learns() -> None:
    model = make(horizon=12)  # a decoder longer than the encoder, so that its keys' bias counts
    x, known = windows(model)
    model(x, known=known).square().sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        # In the encoder a constant is all trend, and goes at the next decomposition.
        dead = key.startswith("encoder.") and key.endswith(("mixer.v.bias", "mixer.proj.bias"))
        assert bool(p.grad.abs().max() < 1e-9) is dead, key


def test_published_size() -> None:
    shape = Shape(lookback=96, horizon=96, variates=7, known=4)
    with torch.device("meta"):
        model = build("autoformer", shape)
    # The published 10,535,943, less biases that change nothing: of four queries, of three keys as
    # long as they, of two norms whose mean over time is taken away.
    assert sum(p.numel() for p in model.parameters()) == 10_535_943 - 9 * 512


def test_a_forecast_is_its_windows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOWS", 3)
    model = make()
    x, known = windows(model, 8)
    assert known is not None
    with torch.no_grad():
        y = model(x, known=known)
        for i in range(8):
            torch.testing.assert_close(model(x[i : i + 1], known=known[i : i + 1]), y[i : i + 1])
    torch.testing.assert_close(model(x, known=known), y)  # all at once, for the gradient
    changed = x.clone()
    changed[5] += 100
    assert torch.equal(model(changed, known=known)[:5], model(x, known=known)[:5])


def test_training_drops_and_learns() -> None:
    model = make(dropout=0.1).float().train()
    wave = torch.sin(torch.arange(400.0)[:, None] * torch.tensor([0.5, 0.7, 0.9]))
    cut = wave.unfold(0, 23, 1).transpose(1, 2)
    x, truth, known = cut[:, :14], cut[:, 14:], torch.zeros(len(cut), 23, 2)
    assert not torch.equal(model(x, known=known), model(x, known=known)), "dropout"
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (model(x, known=known) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("kernel", [1, 2, 3, 25, 26, 61])
@pytest.mark.parametrize("rows", [32, 5, 0])
def test_decomposition_at_any_kernel(
    kernel: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged(rows, monkeypatch)
    x = torch.randn(2, 30, 3).double().cumsum(1)
    rest, trend = Decomposition(kernel)(x)
    torch.testing.assert_close(Decomposition(kernel).rest(x), rest)
    for a, b in zip((rest, trend), split(x, kernel), strict=True):
        torch.testing.assert_close(a, b)
    if kernel % 2:  # the published form
        half = (kernel - 1) // 2
        padded = F.pad(x.transpose(1, 2), (half, half), mode="replicate") if half < 30 else None
        if padded is not None:
            mean = nn.AvgPool1d(kernel, 1)(padded).transpose(1, 2)
            torch.testing.assert_close(trend, mean)
    constant = torch.full((1, 30, 1), 7.0, dtype=torch.float64)
    torch.testing.assert_close(Decomposition(kernel)(constant)[1], constant)


def test_bfloat16_autocast_stays_near() -> None:
    model = make(lookback=48, horizon=24).float()
    x, known = windows(model)
    assert known is not None
    x, known = x.float(), known.float()
    with torch.no_grad():
        y = model(x, known=known)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x, known=known)
    assert (half.float() - y).abs().max() < 0.05 * y.abs().max()


def test_mistakes_are_explained() -> None:
    for options, wrong in (({"label": -1}, "label -1"), ({"kernel": 0}, "kernel 0")):
        with pytest.raises(UsageError, match=wrong):
            make(**options)
    model = make()
    with pytest.raises(UsageError, match="give them, known="):
        model(windows(model)[0])
    with pytest.raises(UsageError, match="Did you mean 'kernel'"):
        make(kernl=3)


@torch.no_grad()
def test_exported_with_any_number_of_windows() -> None:
    model, batch = make(), torch.export.Dim("batch")
    x, known = windows(model, 2)
    shapes = {"x": {0: batch}, "known": {0: batch}}
    exported = torch.export.export(
        model, (), {"x": x, "known": known}, dynamic_shapes=shapes
    ).module()
    for count in (1, 40):
        x, known = windows(model, count)
        torch.testing.assert_close(exported(x=x, known=known), model(x, known=known))
