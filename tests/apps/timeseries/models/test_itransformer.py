"""iTransformer and S-Mamba: equal to the papers' computation made of PyTorch's own layers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.itransformer import BothWays, Inverted
from core.errors import UsageError

L, H, N, DIM, FFN, DEPTH = 13, 7, 5, 24, 40, 2


def make(name: str, sizes: dict[str, int] | None = None, **options: Any) -> Inverted:
    torch.manual_seed(0)
    shape = Shape(lookback=L, horizon=H, variates=N, **(sizes or {}))
    model = build(name, shape, **{"dim": DIM, "ffn": FFN, "depth": DEPTH, **options}).eval()
    assert isinstance(model, Inverted)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def windows(model: Inverted, batch: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(1)
    given = {"x": 2.0 + 3.0 * torch.randn(batch, L, N)}
    if model.shape.past:
        given["past"] = torch.randn(batch, L, model.shape.past)
    if model.shape.known:
        given["known"] = torch.rand(batch, L + H, model.shape.known) - 0.5
    return given


def plain_encoder(model: Inverted, heads: int) -> nn.TransformerEncoder:
    """PyTorch's post-norm transformer with the weights of ``model``."""
    layer = nn.TransformerEncoderLayer(DIM, heads, FFN, 0.1, F.gelu, batch_first=True)
    plain = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(DIM), enable_nested_tensor=False)
    places = {"mixer.qkv.": "self_attn.in_proj_", "mixer.proj.": "self_attn.out_proj."}
    places |= {
        "ffn.fc1.": "linear1.",
        "ffn.fc2.": "linear2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = {f"norm.{key}": value for key, value in model.norm.state_dict().items()}
    for i, block in enumerate(model.blocks):
        for key, value in block.state_dict().items():
            ours = next(o for o in places if key.startswith(o))
            state[f"layers.{i}.{places[ours]}{key[len(ours) :]}"] = value
    plain.load_state_dict(state)
    return plain.eval()


def scaled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, std = x.mean(1, keepdim=True), (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return (x - mean) / std, mean, std


@pytest.mark.parametrize("known", ["lookback", "full"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_equals_a_plain_transformer_over_variates(known: str, outputs: int) -> None:
    sizes = {"past": 2, "known": 3, "outputs": outputs}
    model = make("itransformer", sizes, heads=4, known=known)
    given = windows(model)
    x, mean, std = scaled(given["x"])
    series, marks = torch.cat((x, scaled(given["past"])[0]), 2), given["known"]
    if known == "lookback":
        tokens = model.embed(torch.cat((series, marks[:, :L]), 2).mT)
    else:
        assert model.embed_known is not None
        tokens = torch.cat((model.embed(series.mT), model.embed_known(marks.mT)), 1)
    y = model.head(plain_encoder(model, 4)(tokens))[:, :N]
    y = y.reshape(-1, N, H, outputs).transpose(1, 2) * std[..., None] + mean[..., None]
    want = y if outputs > 1 else y.squeeze(-1)
    torch.testing.assert_close(model(**given), want, atol=1e-5, rtol=1e-5)


def test_published_size() -> None:
    """thuml/iTransformer's ETTh1 script at 96 -> 96: 841,568 parameters, calendar marks or not."""
    shape = Shape(lookback=96, horizon=96, variates=7, known=4)
    model = build("itransformer", shape, dim=256, depth=2, ffn=256, heads=8, known="lookback")
    assert sum(p.numel() for p in model.parameters()) == 841_568


def test_weights_start_as_pytorch_draws_them() -> None:
    """Uniform within fan_in ** -0.5, biases too: what the published rates were chosen for."""
    torch.manual_seed(0)
    model = build("itransformer", Shape(lookback=96, horizon=96, variates=7), dim=64, ffn=128)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for p in (layer.weight, layer.bias):
                assert 0.9 * bound < float(p.detach().abs().max()) <= bound, name


@pytest.mark.parametrize("known", ["lookback", "full"])
def test_future_of_known_covariates_matters_only_in_full(known: str) -> None:
    model = make("itransformer", {"known": 2}, heads=4, known=known)
    given = windows(model)
    before = model(**given)
    given["known"][:, L:] += 1.0
    assert torch.equal(model(**given), before) == (known == "lookback")


def test_variates_may_come_in_any_order() -> None:
    model, order = make("itransformer", heads=4), torch.tensor([3, 0, 4, 1, 2])
    x = windows(model)["x"]
    torch.testing.assert_close(model(x[..., order]), model(x)[..., order])


def test_s_mamba_reads_variates_in_both_directions() -> None:
    """Reversed variates with the two mixers exchanged are the reversed forecast; else not."""
    model = make("s-mamba")
    x = windows(model)["x"]
    y = model(x)
    assert not torch.allclose(model(x.flip(2)).flip(2), y, atol=1e-3)
    for block in model.blocks:
        assert isinstance(block, BothWays)
        block.mixer, block.back = block.back, block.mixer
    torch.testing.assert_close(model(x.flip(2)).flip(2), y)


def test_s_mamba_layer() -> None:
    """One layer written out after the authors' EncoderLayer, and the part of it each mixer has."""
    block = make("s-mamba").blocks[0]
    assert isinstance(block, BothWays)
    assert block.mixer is not None
    assert block.ffn is not None
    x = torch.randn(2, N, DIM)
    mixed = block.mixer(x) + block.back(x.flip(1)).flip(1)
    z = F.layer_norm(x + mixed, (DIM,), block.norm1.weight, block.norm1.bias)
    z = z + block.ffn.fc2(F.gelu(block.ffn.fc1(z)))
    want = F.layer_norm(z, (DIM,), block.norm2.weight, block.norm2.bias)
    torch.testing.assert_close(block(x), want)
    # A causal mixer's first token sees nothing else; the reversed one's last.
    changed = x.clone()
    changed[:, 1:] += 1.0
    assert torch.equal(block.mixer(changed)[:, 0], block.mixer(x)[:, 0])
    assert not torch.allclose(block(changed)[:, 0], block(x)[:, 0])


def test_s_mamba_size() -> None:
    """Two Mambas a layer as mamba_ssm counts them: no layer that nothing is computed with."""
    d, n, conv, rank = 256, 2, 2, 16
    mamba = 2 * d * d + d * (conv + 1) + d * (rank + 2 * n) + (rank + 1) * d + d * n + d + d * d
    layer = 2 * mamba + 2 * (d * d + d) + 4 * d
    model = build("s-mamba", Shape(lookback=96, horizon=96, variates=7))
    want = 2 * layer + (96 * d + d) + (d * 96 + 96) + 2 * d
    assert sum(p.numel() for p in model.parameters()) == want


MIXERS = {
    "mamba": {"path": "bidirectional", "d_state": 4},
    "normlin": {},
    "retention": {"heads": 2},
    "pool": {},
}


@pytest.mark.parametrize("mixer", MIXERS)
def test_any_mixer_of_core(mixer: str) -> None:
    model = make("itransformer", {"known": 2}, mixer=mixer, mixer_options=MIXERS[mixer])
    plain = make("itransformer", {"known": 2})
    given = windows(model)
    y = model(**given)
    assert y.shape == (3, H, N)
    assert y.isfinite().all()
    assert type(model.blocks[0].mixer) is not type(plain.blocks[0].mixer)
    given["x"][:, :, 0] *= torch.linspace(-1, 1, L)
    assert not torch.equal(model(**given)[..., 1], y[..., 1])  # variates do meet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "atention"}, "attention"),
        ({"mixer_options": {"head": 2}}, "heads"),
        ({"known": "past"}, "lookback"),
        ({"heads": 7}, "heads 7"),
        ({"depth": 0}, "depth 0"),
    ],
)
def test_errors_name_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make("itransformer", **options)
