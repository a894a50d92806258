"""GPHT: its stages equal to PyTorch's own layers, causal to the bit, any horizon by recursion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.gpht import GPHT, positions
from core.errors import UsageError

SMALL = {"token": 8, "pools": (4, 2, 1), "dim": 16, "depth": 2, "heads": 2, "ffn": 24}


def make(
    lookback: int = 26, horizon: int = 12, variates: int = 2, outputs: int = 1, **options: Any
) -> GPHT:
    torch.manual_seed(0)
    shape = Shape(lookback=lookback, horizon=horizon, variates=variates, outputs=outputs)
    model = build("gpht", shape, **{**SMALL, **options}).eval()
    assert isinstance(model, GPHT)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def walk(*shape: int, seed: int = 1) -> Tensor:
    """Random walks along axis 1, far from zero."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return 5.0 + noise.cumsum(1)


def plain_stage(stage: Any, z: Tensor) -> Tensor:
    """The published stage of ``nn`` layers with the weights of ``stage``: (b, T) -> (b, T)."""
    pooled = F.max_pool1d(z[:, None], stage.pool)[:, 0]
    tokens = stage.embed(pooled.unflatten(1, (-1, 8 // stage.pool)))
    d, t = 16, tokens.shape[1]
    for i in range(t):
        for j in range(d):
            angle = torch.tensor(i / 1e4 ** ((j - j % 2) / d))
            tokens[:, i, j] += angle.cos() if j % 2 else angle.sin()
    for block in stage.blocks:
        layer = nn.TransformerEncoderLayer(16, 2, 24, 0.0, F.gelu, batch_first=True)
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.mixer.qkv.weight,
                "self_attn.in_proj_bias": block.mixer.qkv.bias,
                "self_attn.out_proj.weight": block.mixer.proj.weight,
                "self_attn.out_proj.bias": block.mixer.proj.bias,
                "linear1.weight": block.ffn.fc1.weight,
                "linear1.bias": block.ffn.fc1.bias,
                "linear2.weight": block.ffn.fc2.weight,
                "linear2.bias": block.ffn.fc2.bias,
                "norm1.weight": block.norm1.weight,
                "norm1.bias": block.norm1.bias,
                "norm2.weight": block.norm2.weight,
                "norm2.bias": block.norm2.bias,
            }
        )
        tokens = layer(tokens, nn.Transformer.generate_square_subsequent_mask(t))
    return stage.head(stage.norm(tokens)).flatten(1)


@torch.no_grad()
def test_equals_the_published_computation() -> None:
    model, x = make(), walk(3, 24, 2)
    mean = x.mean(1, keepdim=True)
    std = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    z = ((x - mean) / std).transpose(1, 2).reshape(6, 24)
    total = torch.zeros_like(z)
    for stage in model.stages:
        out = plain_stage(stage, z)
        total = total + out
        z = z - torch.cat([torch.zeros(6, 8), out[:, :-8]], 1)
    want = total.reshape(3, 2, 24).transpose(1, 2) * std + mean
    torch.testing.assert_close(model.forecasts(x), want, rtol=1e-5, atol=1e-4)
    # The earliest stamps that fill no token are not looked at.
    padded = torch.cat([walk(3, 2, 2), x], 1)
    assert torch.equal(model.forecasts(padded), model.forecasts(x))


@pytest.mark.parametrize("outputs", [1, 3])
@torch.no_grad()
def test_any_horizon_by_recursion(outputs: int) -> None:
    model, x = make(outputs=outputs), walk(3, 26, 2)
    q = (outputs,) if outputs > 1 else ()
    long = model.generate(x, 29)
    assert long.shape == (3, 29, 2, *q)
    assert model(x).shape == (3, 12, 2, *q)
    for horizon in (1, 7, 8, 9, 16, 24):
        assert torch.equal(model.generate(x, horizon), long[:, :horizon])
    # By hand: a token forecast, read as if it had happened, the window moved on.
    first = model.forecasts(x)[:, -8:]
    middle = first[..., 1] if outputs > 1 else first
    second = model.forecasts(torch.cat([x, middle], 1)[:, 8:])[:, -8:]
    assert torch.equal(long[:, :16], torch.cat([first, second], 1))


@pytest.mark.parametrize(("lookback", "tokens"), [(336, 7), (96, 2), (48, 1), (100, 2)])
@torch.no_grad()
def test_default_sizes(lookback: int, tokens: int) -> None:
    model = build("gpht", Shape(lookback=lookback, horizon=96, variates=2)).eval()
    assert isinstance(model, GPHT)
    x = walk(1, lookback, 2)
    assert model.forecasts(x).shape == (1, 48 * tokens, 2)
    assert model(x).shape == (1, 96, 2)


@pytest.mark.parametrize("outputs", [1, 3])
@torch.no_grad()
def test_stages_see_the_past_alone(outputs: int) -> None:
    model = make(outputs=outputs)
    rows = torch.randn(3, 64)
    y = model.decoded(rows)
    for t in (0, 7, 8, 31, 63):
        other = rows.clone()
        other[:, t] += 10.0
        changed = model.decoded(other)
        token = t // 8 * 8
        assert torch.equal(changed[:, :token], y[:, :token])
        assert (changed[:, token:] != y[:, token:]).any()


@pytest.mark.parametrize("horizon", [8, 12, 5])
def test_training_loss_pairs_every_token_with_the_next(horizon: int) -> None:
    model, values = make(horizon=horizon), walk(3, 26 + horizon, 2)
    x, y = values[:, :26], values[:, 26:]
    got = model.training_loss(x, y, None, None, lambda a, b: (a - b).square().mean())
    found = model.forecasts(x)  # from stamp 2 on: of stamps 10 to 33
    squares = (found[:, : 16 + min(horizon, 8)] - values[:, 10 : 26 + min(horizon, 8)]).square()
    per_token = [part.mean() for part in squares.split(8, 1)]
    torch.testing.assert_close(got, torch.stack(per_token).mean())
    got.backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all()
        assert p.grad.abs().max() > 0, f"{key} is dead"


def test_training_loss_of_one_token() -> None:
    model, values = make(lookback=8, horizon=3, outputs=3), walk(3, 11, 2)
    x, y = values[:, :8], values[:, 8:]
    got = model.training_loss(x, y, None, None, lambda a, b: (a - b[..., None]).abs().mean())
    torch.testing.assert_close(got, (model(x) - y[..., None]).abs().mean())


@torch.no_grad()
def test_variates_do_not_meet_and_constants_are_kept() -> None:
    model, x = make(), walk(2, 24, 2)
    other = x.clone()
    other[:, :, 1] += walk(2, 24, seed=3)
    assert torch.equal(model(other)[..., 0], model(x)[..., 0])
    assert (model(torch.full((1, 24, 2), 7.0)) - 7.0).abs().max() < 0.1


@pytest.mark.parametrize("d", [4, 7])
def test_positions(d: int) -> None:
    table = positions(5, torch.zeros(1, d, dtype=torch.float64))
    assert table.shape == (5, d)
    assert table.dtype == torch.float64
    torch.testing.assert_close(table[0, :4], torch.tensor([0.0, 1.0, 0.0, 1.0]).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pools": (3,)}, "must divide the token"),
        ({"pools": (0,)}, "must divide the token"),
        ({"pools": ()}, "at least one pool"),
        ({"token": 0}, "token of 1 or more"),
        ({"lookback": 7}, "smaller option token"),
        ({"heads": 3}, "must divide"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)
