"""PatchTST: equal to transformers' encoder where that has the layout, and to a plain form in whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PatchTSTConfig as TheirConfig
from transformers import PatchTSTModel

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.patchtst import PatchTST
from core.errors import UsageError

SMALL: dict[str, Any] = {"patch": 6, "stride": 3, "dim": 12, "depth": 3, "ffn": 20, "heads": 2}


def make(lookback: int = 25, outputs: int = 1, **options: Any) -> PatchTST:
    """With weights and batch statistics that leave nothing at zero or one."""
    torch.manual_seed(0)
    shape = Shape(lookback=lookback, horizon=7, variates=3, outputs=outputs)
    model = build("patchtst", shape, **{**SMALL, **options}).eval()
    assert isinstance(model, PatchTST)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d):
                assert m.running_mean is not None
                assert m.running_var is not None
                m.running_mean.uniform_(-0.3, 0.3)
                m.running_var.uniform_(0.5, 2.0)
    return model


def their_encoder(model: PatchTST, norm: str) -> nn.Module:
    """The encoder of transformers' PatchTST with the weights of ``model``."""
    config = TheirConfig(
        num_input_channels=3,
        context_length=27,
        patch_length=SMALL["patch"],
        patch_stride=SMALL["stride"],
        num_hidden_layers=SMALL["depth"],
        d_model=SMALL["dim"],
        num_attention_heads=SMALL["heads"],
        ffn_dim=SMALL["ffn"],
        norm_type=f"{norm}norm",
        positional_encoding_type="random",
        pre_norm=False,
        use_cls_token=False,
    )
    theirs = PatchTSTModel(config).eval().encoder
    norms = {"norm1": "norm_sublayer1", "norm2": "norm_sublayer3"}
    inside = ".batchnorm" if norm == "batch" else ""
    state = {
        "embedder.input_embedding.weight": model.embed.weight,
        "embedder.input_embedding.bias": model.embed.bias,
        "positional_encoder.position_enc": model.position,
    }
    for i, layer in enumerate(model.layers):
        at = f"layers.{i}."
        for kind in ("weight", "bias"):
            parts = getattr(layer.mixer.qkv, kind).chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                state[f"{at}self_attn.{name}_proj.{kind}"] = part
            state[f"{at}self_attn.out_proj.{kind}"] = getattr(layer.mixer.proj, kind)
            state[f"{at}ff.0.{kind}"] = getattr(layer.ffn.fc1, kind)
            state[f"{at}ff.3.{kind}"] = getattr(layer.ffn.fc2, kind)
        for ours, name in norms.items():
            for key, value in getattr(layer, ours).state_dict().items():
                state[f"{at}{name}{inside}.{key}"] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [key for key in missing if "norm_sublayer2" not in key]
    return theirs


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_encoder_equals_transformers(norm: str) -> None:
    model = make(norm=norm, residual_scores=False)
    patches = torch.randn(4, 3, len(model.position), SMALL["patch"])
    with torch.no_grad():
        want = their_encoder(model, norm)(patch_input=patches).last_hidden_state
        z = model.embed(patches.flatten(0, 1)) + model.position
        for layer in model.layers:
            z, _ = layer(z)
    torch.testing.assert_close(z.unflatten(0, (4, 3)), want, atol=1e-5, rtol=1e-5)


def plain(model: PatchTST, x: Tensor) -> Tensor:
    """The authors' computation for one variate of one window at a time."""
    heads, p, s, H = SMALL["heads"], SMALL["patch"], SMALL["stride"], model.shape.horizon
    out = torch.zeros(len(x), H, x.shape[2], model.shape.outputs)
    for b in range(len(x)):
        for n in range(x.shape[2]):
            series = x[b, :, n]
            mean, std = series.mean(), (series.var(unbiased=False) + 1e-5).sqrt()
            series = (series - mean) / std
            series = torch.cat((series, series[-1:].expand(s)))
            starts = range(0, len(series) - p + 1, s)
            z = model.embed(torch.stack([series[t : t + p] for t in starts])) + model.position
            before: list[Any] = [0.0] * heads
            for layer in model.layers:
                parts = [t.chunk(heads, -1) for t in layer.mixer.qkv(z).chunk(3, -1)]
                mixed = []
                for h, (q, k, v) in enumerate(zip(*parts, strict=True)):
                    before[h] = q @ k.T / q.shape[-1] ** 0.5 + before[h]
                    mixed.append(torch.softmax(before[h], -1) @ v)
                z = norm(layer.norm1, z + layer.mixer.proj(torch.cat(mixed, -1)))
                z = norm(layer.norm2, z + layer.ffn.fc2(F.gelu(layer.ffn.fc1(z))))
            out[b, :, n] = (model.head(z.flatten()) * std + mean).unflatten(0, (H, -1))
    return out if model.shape.outputs > 1 else out.squeeze(-1)


def norm(m: nn.BatchNorm1d, z: Tensor) -> Tensor:
    assert m.running_mean is not None
    assert m.running_var is not None
    return (z - m.running_mean) / (m.running_var + m.eps).sqrt() * m.weight + m.bias


@pytest.mark.parametrize(("lookback", "outputs"), [(25, 1), (24, 3), (7, 1)])
def test_equals_the_plain_form(lookback: int, outputs: int) -> None:
    model = make(lookback, outputs)
    x = 2.0 + 3.0 * torch.randn(2, lookback, 3)
    torch.testing.assert_close(model(x), plain(model, x), atol=1e-5, rtol=1e-5)


def test_batch_norm_is_over_windows_variates_and_patches() -> None:
    layer = make().layers[0]
    z = torch.randn(5, 4, 12)
    z1 = layer.norm1.train()(z).detach()
    assert torch.allclose(z1.mean((0, 1)), layer.norm1.bias, atol=1e-5)
    assert torch.allclose(z1.std((0, 1), unbiased=False), layer.norm1.weight.abs(), atol=1e-4)


@pytest.mark.parametrize(
    ("lookback", "patches"),
    # The authors' formula where the window holds a patch: (L - 16) // 8 + 2.
    [(336, 42), (96, 12), (97, 12), (103, 12), (104, 13), (16, 2), (15, 2), (5, 2), (1, 2)],
)
def test_patches_cover_the_window(lookback: int, patches: int) -> None:
    shape = Shape(lookback=lookback, horizon=3, variates=2)
    model = build("patchtst", shape).eval()
    assert isinstance(model, PatchTST)
    assert len(model.position) == patches
    assert (patches - 1) * model.stride + model.patch >= lookback
    torch.manual_seed(0)
    x = torch.randn(1, lookback, 2, requires_grad=True)
    model(x)[..., 0].square().sum().backward()
    assert x.grad is not None
    assert lookback == 1 or bool((x.grad[..., 0] != 0).all())
    assert not x.grad[..., 1].any()  # the other variate has no part in it


def test_published_size() -> None:
    """The parts of the authors' ETTh1 network at 96 -> 96, counted by hand."""
    d, ffn, patches = 16, 128, 12
    layer = 4 * (d * d + d) + (d * ffn + ffn) + (ffn * d + d) + 2 * 2 * d
    want = (16 * d + d) + patches * d + 3 * layer + (patches * d * 96 + 96)
    model = build("patchtst", Shape(lookback=96, horizon=96, variates=7))
    assert sum(p.numel() for p in model.parameters()) == want


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "patch 0"),
        ({"stride": 7}, "stride 7"),
        ({"norm": "bach"}, "batch"),
        ({"heads": 5}, "heads 5"),
    ],
)
def test_errors_name_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)
