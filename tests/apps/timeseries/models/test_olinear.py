"""OLinear: equal to its plain form, its bases fitted on what they are given and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.olinear import OLinear, basis
from core.errors import DataError

SMALL = {"dim": 12, "depth": 2, "ffn": 20, "embed": 4, "dropout": 0.2}


def make(lookback: int = 13, horizon: int = 7, variates: int = 3, outputs: int = 1) -> OLinear:
    torch.manual_seed(0)
    shape = Shape(lookback=lookback, horizon=horizon, variates=variates, outputs=outputs)
    model = build("olinear", shape, **SMALL)
    assert isinstance(model, OLinear)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.fit_statistics(walk(200, variates))
    return model.eval()


def walk(rows: int, variates: int, seed: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((rows, variates)).cumsum(0) * 0.1
    day = np.sin(np.arange(rows)[:, None] * 2 * np.pi / 24 + np.arange(variates))
    return torch.tensor(steps + day, dtype=torch.float32)


def plain(model: OLinear, x: Tensor) -> Tensor:
    """The paper's computation, one operation after the other, nothing rearranged."""
    B, E, H = len(x), len(model.embedding), model.shape.horizon
    mean = x.mean(1, keepdim=True)
    std = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    z = ((x - mean) / std * model.gain + model.shift).transpose(1, 2)  # (B, N, L)
    wide = z[:, :, None, :] * model.embedding[:, None]  # (B, N, E, L)
    wide = torch.einsum("bnet,st->bnes", wide, model.basis_in) + model.delta1[:, None]
    tokens = model.lift(wide.flatten(2))
    for block in model.blocks:
        w = F.softplus(block.mixer.weight)
        mixed = (w / w.sum(1, keepdim=True)) @ block.mixer.v(tokens)
        tokens = block.norm1(tokens + block.mixer.proj(mixed))
        tokens = block.norm2(tokens + block.ffn.fc2(F.gelu(block.ffn.fc1(tokens))))
    wide = model.lower(model.norm(tokens)).reshape(B, -1, E, H)
    wide = torch.einsum("bnet,ts->bnes", wide, model.basis_out) + model.delta2[:, None]
    y = model.fc2(F.gelu(model.fc1(wide.transpose(-1, -2).flatten(2))))
    y = y.unflatten(-1, (H, -1)).permute(0, 2, 1, 3)  # (B, H, N, Q)
    mean, std, gain, shift = (t[..., None] for t in (mean, std, model.gain, model.shift))
    y = (y - shift) / (gain + 1e-10) * std + mean
    return y if model.shape.outputs > 1 else y.squeeze(-1)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("windows", [2, 64])  # layer after layer, and composed
def test_equals_the_plain_form_gradients_included(outputs: int, windows: int) -> None:
    model = make(outputs=outputs).double()
    x = torch.randn(windows, 13, 3, dtype=torch.float64) * 2 + 1
    weight = torch.randn(plain(model, x).shape, dtype=torch.float64)
    wanted, got = plain(model, x), model(x)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert got.shape == ((windows, 7, 3) if outputs == 1 else (windows, 7, 3, outputs))
    parameters = dict(model.named_parameters())
    pairs = zip(
        torch.autograd.grad((wanted * weight).sum(), list(parameters.values())),
        torch.autograd.grad((got * weight).sum(), list(parameters.values())),
        strict=True,
    )
    for key, (a, b) in zip(parameters, pairs, strict=True):
        assert a.abs().max() > 1e-6, f"{key} is dead"
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}")


def test_published_size() -> None:
    shape = Shape(lookback=96, horizon=96, variates=7)
    with torch.device("meta"):
        model = build("olinear", shape)
    # The authors' network at their settings for ETTh1.
    assert sum(p.numel() for p in model.parameters()) == 4_518_944


def test_a_forecast_is_its_windows_alone_and_follows_its_scale() -> None:
    model = make()
    x = walk(130, 3).reshape(10, 13, 3)
    y = model(x)
    torch.testing.assert_close(model(x[3:4]), y[3:4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(x * 50 + 7), y * 50 + 7, rtol=1e-3, atol=1e-3)
    assert torch.equal(model(x), y)
    constant = model(torch.full((2, 13, 3), 4.0))
    assert (constant - 4).abs().max() < 0.1


def test_training_drops_and_learns() -> None:
    model = make(variates=2).train()
    data = walk(400, 2)
    windows = data.unfold(0, 20, 1).transpose(1, 2)
    x, truth = windows[:, :13], windows[:, 13:]
    assert not torch.equal(model(x), model(x)), "dropout"
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (model(x) - truth).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_one_variate_and_one_step() -> None:
    model = make(lookback=1, horizon=1, variates=1)
    assert model(torch.randn(2, 1, 1)).isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 24, 37])
def test_basis_is_orthogonal_and_decorrelates(steps: int) -> None:
    train = walk(500, 3)
    q = basis(train, steps)
    torch.testing.assert_close(q @ q.T, torch.eye(steps), rtol=0, atol=1e-5)
    # Against NumPy's covariance of the stretches, as in the authors' notebook.
    sigma = np.zeros((steps, steps))
    for series in train.double().numpy().T:
        stretches = np.stack([series[i : len(series) - steps + i + 1] for i in range(steps)])
        covariance = np.atleast_2d(np.cov(stretches))
        sigma += covariance / np.diag(covariance) / train.shape[1]
    lower = np.tril(sigma) + np.tril(sigma, -1).T
    rotated = q.double().numpy() @ lower @ q.double().numpy().T
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-4)
    np.testing.assert_allclose(np.diag(rotated), np.linalg.eigvalsh(sigma)[::-1], atol=1e-4)


def test_basis_has_signs_of_its_own() -> None:
    train = walk(500, 3)
    q = basis(train, 24)
    assert torch.equal(q, basis(train, 24))
    torch.testing.assert_close(basis(-3 * train, 24), q, rtol=0, atol=1e-5)
    jittered = basis(train + 1e-6 * torch.randn_like(train), 24)
    torch.testing.assert_close(jittered[:8], q[:8], rtol=0, atol=1e-2)
    for row in q:
        assert row[int((row.abs() >= row.abs().max() / 2).int().argmax())] > 0


def test_bases_know_nothing_beyond_the_rows_they_are_fitted_on() -> None:
    data = walk(300, 3)
    model = make()
    model.fit_statistics(data[:200])
    before = model.basis_in.clone(), model.basis_out.clone()
    data[200:] = 1e6
    model.fit_statistics(data[:200])
    assert torch.equal(model.basis_in, before[0])
    assert torch.equal(model.basis_out, before[1])
    model.fit_statistics(data)
    assert not torch.equal(model.basis_in, before[0])
    state = model.state_dict()
    assert {"basis_in", "basis_out"} <= set(state), "saved with the weights"


def test_constant_series_and_too_few_rows() -> None:
    train = walk(100, 2)
    with_constant = torch.cat((train, torch.full((100, 1), 3.0)), 1)
    assert torch.equal(basis(with_constant, 9), basis(train, 9))
    assert torch.equal(basis(torch.ones(100, 2), 9), torch.eye(9))
    basis(train[:10], 9)
    with pytest.raises(DataError, match="9 training rows for a basis of 9 steps; give 10"):
        basis(train[:9], 9)


@torch.no_grad()
def test_exported_with_any_number_of_windows() -> None:
    model, batch = make(), torch.export.Dim("batch")
    shapes = {"x": {0: batch}}
    exported = torch.export.export(
        model, (), {"x": torch.randn(2, 13, 3)}, dynamic_shapes=shapes
    ).module()
    for windows in (1, 70):
        x = torch.randn(windows, 13, 3)
        torch.testing.assert_close(exported(x=x), model(x))
