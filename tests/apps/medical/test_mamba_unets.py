"""The networks with Mamba layers: what is in them, what their options change, bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from apps.medical import catalog, models
from apps.medical.mamba_unets import (
    GatedConv,
    InstanceDownConfig,
    MixerLayer,
    MixerLayerConfig,
)
from apps.medical.store import ModelSpec, NetworkSpec, load_model, save_model
from core.decoders import InstanceNorm
from core.errors import UsageError
from core.files import plain
from core.mixers import BlockContext
from core.mixers.depthwise import DepthwiseConfig
from core.mixers.mamba import Mamba, MambaConfig

NAMES = ("umamba_bot", "umamba_enc", "vm_unet", "segmamba", "swin_umamba")


def small(name: str, rank: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, rank, 1, 3, preset="small", **options)


def mambas(net: nn.Module) -> list[Mamba]:
    return [m for m in net.modules() if isinstance(m, Mamba)]


def test_these_are_the_networks_with_a_mixer() -> None:
    assert {n for n, e in catalog.MODELS.items() if "mixer" in e.defaults} == set(NAMES)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_without_mixer_the_rest_stays(name: str, rank: int) -> None:
    """mixer=None leaves no Mamba, and every other parameter where and what it was."""
    with torch.device("meta"):
        full, bare = small(name, rank), small(name, rank, mixer=None)
    assert mambas(full)
    assert not mambas(bare)
    inside = [n for n, m in full.named_modules() if isinstance(m, Mamba)]
    layers = {n.rpartition(".")[0] for n in inside}  # with the norm before each
    others = {
        n: p.shape
        for n, p in full.named_parameters()
        if not any(n.startswith(f"{layer}.") for layer in layers)
    }
    assert {n: p.shape for n, p in bare.named_parameters()} == others


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mixer", ["depthwise", "window"])
def test_another_mixer_takes_the_place(name: str, mixer: str) -> None:
    net = small(name, 2, mixer=mixer).eval()
    assert not mambas(net)
    with torch.inference_mode():
        assert net(torch.randn(1, 1, 19, 26)).shape == (1, 3, 19, 26)


def test_where_mamba_sits() -> None:
    levels = len(catalog.MODELS["umamba_bot"].presets["small"][3]["channels"])
    with torch.device("meta"):
        assert len(mambas(small("umamba_bot", 3))) == 1
        assert len(mambas(small("umamba_enc", 3))) == levels
        for m in mambas(small("umamba_enc", 3)):
            assert m.config == MambaConfig(d_state=16, d_conv=4, expand=2.0)
            assert m.path.directions == 1
        assert {m.path.directions for m in mambas(small("vm_unet", 3))} == {6}
        assert {m.path.directions for m in mambas(small("swin_umamba", 2))} == {4}
        assert {m.path.directions for m in mambas(small("segmamba", 3))} == {3}


def test_the_two_umambas_are_one_without_mamba() -> None:
    x = torch.randn(1, 1, 24, 24)
    outs = [small(name, 2, mixer=None).eval()(x) for name in ("umamba_bot", "umamba_enc")]
    assert torch.equal(*outs)


def test_residual_adds_what_came_in() -> None:
    layers = []
    for residual in (False, True):
        torch.manual_seed(0)
        config = MixerLayerConfig(mixer=DepthwiseConfig(size=3), residual=residual)
        layers.append(config.build(BlockContext(dim=6, rank=2)))
    x = torch.randn(2, 5, 4, 6)
    torch.testing.assert_close(layers[1](x), x + layers[0](x))


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
def test_published_umamba_has_no_residual(name: str) -> None:
    """The same weights are two functions; only without the sum can the layer erase its input."""
    assert catalog.MODELS[name].defaults["residual"] is False
    x = torch.randn(1, 1, 33, 40)
    outs = []
    for residual in (False, True):
        net = small(name, 2, residual=residual).eval()
        layers = [m for m in net.modules() if isinstance(m, MixerLayer)]
        assert all(layer.residual is residual for layer in layers)
        for layer in layers:
            nn.init.zeros_(layer.mixer.out_proj.weight)  # type: ignore[union-attr,arg-type]
        with torch.inference_mode():
            last = net.encoder(x)[-1]  # type: ignore[operator]
        assert (last.abs().max() > 0) == residual
        outs.append(net(x))
    assert (outs[0] - outs[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "rank", "size"),
    [(name, 3, (40, 56, 40)) for name in NAMES] + [(name, 2, (128, 128)) for name in NAMES],
)
def test_bfloat16_is_finite_at_a_real_size(name: str, rank: int, size: tuple[int, ...]) -> None:
    """Forward and backward under autocast, with outliers in the picture, and close to float32."""
    net = small(name, rank, deep_supervision=1).train()
    x = torch.randn(1, 1, *size)
    x[..., : size[-1] // 4] *= 100.0
    with torch.autocast("cpu", torch.bfloat16):
        maps = net(x)
    assert all(m.isfinite().all() for m in maps)
    sum(m.float().square().mean() for m in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        exact = net(x)[0]
    close = torch.nn.functional.cosine_similarity(maps[0].float().flatten(), exact.flatten(), 0)
    # Norm after norm with nothing added, a published U-Mamba Enc lets rounding grow: 0.87 here.
    assert close > (0.8 if name == "umamba_enc" else 0.98)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gated_convolution_multiplies(rank: int) -> None:
    """Where the gate is closed nothing is added but what the fusing norm makes of zeros."""
    block = GatedConv(4, rank)
    x = torch.randn(2, *(5, 6, 7)[:rank], 4)
    assert block(x).shape == x.shape
    assert (block(x) - x).abs().max() > 0.1
    nn.init.zeros_(block.gate[0].weight)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("stride", [(1, 2), (2, 2), (2, 1)])
def test_instance_down_rounds_up(stride: tuple[int, int]) -> None:
    for config in (
        InstanceDownConfig(stride=stride, kernel=stride, before=True),
        InstanceDownConfig(stride=stride, kernel=7, after=True),
    ):
        down = config.build(3, 5, 2)
        for size in ((5, 8), (1, 1), (9, 3)):
            wanted = [-(-s // v) for s, v in zip(size, stride, strict=True)]
            assert down(torch.randn(2, *size, 3)).shape == (2, *wanted, 5)
        norms = [m for m in down.modules() if isinstance(m, InstanceNorm)]
        assert len(norms) == 1
        assert (norms[0].weight is None) == config.before


@pytest.mark.parametrize("mixer", ["mamba", None])
def test_stored_and_loaded(make_plan, tmp_path, mixer: str | None) -> None:
    """Options, a mixer of None among them, and weights come back from a model folder."""
    plan, x = make_plan(), torch.randn(1, 1, 9, 8, 17)
    for name, given in (("umamba_enc", {"channels": (4, 6, 8, 8)}), ("segmamba", {})):
        options = plain(catalog.resolve(name, 3, "small", mixer=mixer, **given))
        about = NetworkSpec(name=name, rank=3, in_channels=1, out_channels=3, options=options)
        network = models.build(name, 3, 1, 3, **options).eval()
        spec = ModelSpec(name=name, network=about, plan=plan, labels=plan.labels)
        save_model(tmp_path / name, network, spec)
        model = load_model(tmp_path / name)
        assert model.spec.network.options["mixer"] == mixer
        assert bool(mambas(model.network)) == (mixer is not None)
        with torch.inference_mode():
            assert torch.equal(model.network(x), network(x))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("umamba_bot", {"strides": (2, 2, 2, 2, 2)}, "image's own grid"),
        ("umamba_bot", {"channels": (8,), "strides": (1,)}, "at least 2"),
        ("umamba_bot", {"strides": (1, 2)}, "stages disagree"),
        ("umamba_enc", {"depths": (1, 2)}, "one for each of 5 levels"),
        ("umamba_enc", {"mixer": "mambo"}, "Did you mean 'mamba'"),
        ("vm_unet", {"strides": (2,)}, "one between each two levels"),
        ("vm_unet", {"decoder_depths": (1,)}, "stages disagree"),
        ("segmamba", {"strides": (2,)}, "one between each two levels"),
        ("segmamba", {"path": "slice"}, "Did you mean 'slices'"),
        ("swin_umamba", {"depths": (1, 2, 2)}, "0 first"),
        ("swin_umamba", {"deep_supervision": 9}, "coarser levels"),
    ],
)
def test_errors_name_the_fix(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        small(name, 2, **options)
