"""The bidirectional Mamba over patches: its plain form, and that it reads both ways."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.bimamba import BiMamba
from core.errors import UsageError
from core.mixers.mamba import Mamba

SMALL: dict[str, Any] = {"patch": 5, "dim": 8, "depth": 2, "d_state": 3}


def make(lookback: int = 23, outputs: int = 1, **options: Any) -> BiMamba:
    torch.manual_seed(0)
    shape = Shape(lookback=lookback, horizon=7, variates=3, outputs=outputs)
    model = build("bimamba", shape, **{**SMALL, **options}).eval()
    assert isinstance(model, BiMamba)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def scanned(mixer: Mamba, k: int, u: Tensor) -> Tensor:
    """Direction ``k`` of the mixer on (P, E), one patch after the other."""
    conv = mixer.conv[k].conv
    size = conv.weight.shape[-1]
    padded = torch.cat((torch.zeros(size - 1, u.shape[1]), u))
    state = torch.zeros(1, u.shape[1], mixer.A_log.shape[-1])
    out = []
    for t in range(len(u)):
        v = F.silu((padded[t : t + size] * conv.weight[:, 0].T).sum(0) + conv.bias)
        r, B, C = (mixer.x_proj[k] @ v).split(mixer.splits)
        delta = F.softplus(mixer.dt_weight[k] @ r + mixer.dt_bias[k])
        A = -mixer.A_log[k].exp()
        state = (delta[:, None] * A).exp() * state + (delta * v)[:, None] * B
        out.append((state @ C)[0] + mixer.D[k] * v)
    return torch.stack(out)


@pytest.mark.parametrize(("lookback", "outputs"), [(23, 1), (25, 3), (3, 1)])
@torch.no_grad()
def test_equals_the_recurrence_written_out(lookback: int, outputs: int) -> None:
    model = make(lookback, outputs)
    x = 2.0 + 3.0 * torch.randn(2, lookback, 3)
    size = min(5, lookback)
    stage = model.trunk.trunk
    embed = stage.down.conv.conv
    want = torch.zeros(2, 7, 3, outputs)
    for b in range(2):
        for n in range(3):
            series = x[b, :, n]
            mean, std = series.mean(), (series.var(unbiased=False) + 1e-5).sqrt()
            padded = F.pad((series - mean) / std, (0, -lookback % size))
            z = padded.reshape(-1, size) @ embed.weight[:, 0].T + embed.bias
            for block in stage.blocks:
                mixer = block.mixer
                u, gate = mixer.in_proj(rms(z, block.norm1.weight)).chunk(2, -1)
                both = scanned(mixer, 0, u) + scanned(mixer, 1, u.flip(0)).flip(0)
                z = z + mixer.out_proj(both * F.silu(gate))
            z = rms(z, stage.norm.weight)
            y = model.head(z.T.flatten())  # channel by channel
            want[b, :, n] = (y * std + mean).unflatten(0, (7, outputs))
    want = want if outputs > 1 else want.squeeze(-1)
    torch.testing.assert_close(model(x), want, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_patches_hear_of_earlier_and_later_ones() -> None:
    trunk = make().trunk
    x = torch.randn(1, 1, 25)
    y = trunk(x)[-1]
    for at in (0, 24):
        other = x.clone()
        other[..., at] += 1.0
        assert ((trunk(other)[-1] - y).abs().amax(1) > 1e-6).all()


def test_dropout_is_for_training() -> None:
    model = make(dropout=0.5)
    x = torch.randn(2, 23, 3)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "patch 0"),
        ({"depth": 0}, "depth 0"),
        ({"d_state": 0}, "d_state 0"),
        ({"expand": 0.0}, "expand 0.0"),
    ],
)
def test_errors_name_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make(**options)
