"""Every network of the catalog: any size, gradients, export, checkpointing, autocast, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apps.medical import catalog, models
from core.errors import UsageError

TABLE = [(name, rank) for name, entry in catalog.MODELS.items() for rank in entry.ranks]
SIZES: dict[int, list[tuple[int, ...]]] = {
    2: [(37, 53), (5, 3), (48, 32)],
    3: [(17, 23, 13), (3, 5, 2), (16, 24, 16)],
}
TINY: dict[str, dict[str, Any]] = {
    "swin_unetr": {"feature_size": 4, "heads": (1, 2, 4), "depths": (2, 1, 1)},
    "swin_unet": {"feature_size": 8, "width": 8},
    "cswin_unet": {"feature_size": 12, "width": 8},
    "att_swin_unet": {"feature_size": 8, "width": 8},
    "umamba_bot": {"channels": (4, 8, 12, 16), "strides": (1, 2, 2, 2)},
    "umamba_enc": {"channels": (4, 8, 12, 16), "strides": (1, 2, 2, 2)},
    "vm_unet": {"feature_size": 8, "width": 8},
    "segmamba": {"feature_size": 4},
    "swin_umamba": {"feature_size": 4, "depths": (0, 1, 2)},
    "dynunet": {"channels": (4, 8, 12, 16), "strides": (1, 2, 2, 2)},
    "unet": {"channels": (4, 8, 12, 16), "strides": (2, 2, 2)},
}


def tiny(name: str, rank: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, rank, 2, 3, preset="small", **{**TINY[name], **options})


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_any_size(name: str, rank: int) -> None:
    net = tiny(name, rank).eval()
    for size in SIZES[rank]:
        with torch.inference_mode():
            out = net(torch.randn(2, 2, *size))
        assert out.shape == (2, 3, *size)
        assert out.isfinite().all()


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_no_dead_parameter(name: str, rank: int) -> None:
    """After one step in training mode every parameter has a gradient, and some are not zero."""
    net = tiny(name, rank, deep_supervision=0 if name == "unet" else 1).train()
    size = {2: (48, 56), 3: (32, 33, 40)}[rank]
    out = net(torch.randn(2, 2, *size))
    maps = out if isinstance(out, list) else [out]
    loss = sum((o * torch.randn_like(o)).mean() for o in maps)
    assert isinstance(loss, Tensor)
    loss.backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_deep_supervision_only_in_training(name: str, rank: int) -> None:
    if name == "unet":
        with pytest.raises(UsageError, match="no deep supervision"):
            tiny(name, rank, deep_supervision=1)
        return
    net = tiny(name, rank, deep_supervision=2)
    x = torch.randn(1, 2, *SIZES[rank][0])
    out = net.train()(x)
    assert isinstance(out, list)
    assert len(out) == 3
    assert out[0].shape == (1, 3, *x.shape[2:])
    assert all(o.shape[1] == 3 for o in out)
    assert isinstance(net.eval()(x), Tensor)


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_checkpointing_changes_nothing(name: str, rank: int) -> None:
    grads = []
    x = torch.randn(1, 2, *SIZES[rank][2])
    for recompute in (False, True):
        net = tiny(name, rank, gradient_checkpointing=recompute).train()
        net(x).square().mean().backward()
        grads.append({n: p.grad for n, p in net.named_parameters()})
    for key, value in grads[0].items():
        torch.testing.assert_close(grads[1][key], value, msg=key)


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_export_at_a_fixed_size(name: str, rank: int) -> None:
    net = tiny(name, rank).eval()
    x = torch.randn(1, 2, *SIZES[rank][0])
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_autocast_trains(name: str, rank: int) -> None:
    net = tiny(name, rank).train()
    x = torch.randn(1, 2, *SIZES[rank][2])
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(x).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_an_example_does_not_see_its_neighbour(name: str, rank: int) -> None:
    net = tiny(name, rank).eval()
    x = torch.randn(2, 2, *SIZES[rank][0])
    with torch.inference_mode():
        torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-4, rtol=1e-4)


PUBLISHED = [  # millions of parameters, in the papers' configurations
    ("swin_unetr", 3, {"affine": False}, 1, 14, 15.70),  # MONAI, feature size 24
    ("swin_unetr", 3, {"affine": False, "feature_size": 48}, 1, 14, 62.19),
    ("swin_unet", 2, {}, 3, 9, 27.17),
    ("cswin_unet", 2, {}, 3, 9, 23.57),
    ("umamba_bot", 3, {}, 1, 4, 42.12),
    ("segmamba", 3, {}, 4, 4, 67.42),
    ("swin_umamba", 2, {}, 1, 13, 59.89),
    ("vm_unet", 2, {}, 3, 1, 27.43),
    (
        "vm_unet",
        2,
        {"depths": (2, 2, 9, 2), "decoder_depths": (2, 2, 9, 2)},
        3,
        1,
        44.27,
    ),
]


@pytest.mark.parametrize(("name", "rank", "options", "channels", "classes", "millions"), PUBLISHED)
def test_published_sizes(
    name: str, rank: int, options: dict[str, Any], channels: int, classes: int, millions: float
) -> None:
    with torch.device("meta"):
        net = models.build(name, rank, channels, classes, **options)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.15)


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_small_preset_is_small(name: str, rank: int) -> None:
    with torch.device("meta"):
        net = models.build(name, rank, 1, 3, preset="small")
    assert 0.5e6 < sum(p.numel() for p in net.parameters()) < 5e6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_unetr", {"patch": (1, 2, 2), "strides": ((1, 2, 2), 2)}),
        ("cswin_unet", {"patch": (1, 2, 2), "strides": ((1, 2, 2), 2)}),
        ("cswin_unet", {"patch": (1, 2, 2), "decoder": "carafe"}),
        ("att_swin_unet", {"patch": (1, 2, 2)}),
        ("umamba_enc", {"strides": (1, (1, 2, 2), 2, 2)}),
        ("vm_unet", {"patch": (1, 2, 2), "strides": ((1, 2, 2), 2)}),
        ("segmamba", {"patch": (1, 2, 2), "strides": ((1, 2, 2), 2)}),
        ("swin_umamba", {"patch": (1, 2, 2), "strides": ((1, 2, 2), 2)}),
        ("dynunet", {"strides": (1, (1, 2, 2), 2, 2)}),
        ("unet", {"strides": ((1, 2, 2), 2, 2)}),
    ],
)
def test_anisotropic_strides(name: str, options: dict[str, Any]) -> None:
    net = tiny(name, 3, **options).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 2, 7, 33, 30)).shape == (1, 3, 7, 33, 30)


def test_encoder_maps_guide_the_decoder() -> None:
    """Att-SwinU-Net: changing only the encoder's queries changes the decoder's attention output."""
    net = tiny("att_swin_unet", 2).eval()
    x = torch.randn(1, 2, 32, 32)
    maps, attention = net.encode(x)  # type: ignore[operator]
    assert [len(a) for a in attention] == [2, 2, 2]
    block, guide = net.decoder.levels[0][0], attention[0][0]  # type: ignore[union-attr,index]
    rows = guide.sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    alone, own = net.run(block, maps[0], None)  # type: ignore[operator]
    guided, _ = net.run(block, maps[0], guide)  # type: ignore[operator]
    zeroed, _ = net.run(block, maps[0], torch.zeros_like(guide))  # type: ignore[operator]
    assert own.shape == guide.shape
    assert torch.equal(alone, zeroed)
    assert (guided - alone).abs().max() > 1e-3


def test_guided_attention_alone_is_window_attention() -> None:
    from apps.medical.att_swin_unet import GuidedWindowAttention, GuidedWindowConfig
    from core.mixers import BlockContext

    torch.manual_seed(0)
    for index, size in [(0, (9, 8)), (1, (9, 14)), (1, (3, 3)), (1, (5, 9, 4))]:
        config = GuidedWindowConfig(heads=2, window=4)
        mixer = GuidedWindowAttention(config, BlockContext(dim=8, rank=len(size), index=index))
        x = torch.randn(2, *size, 8)
        torch.testing.assert_close(mixer.guided(x, None)[0], mixer(x))


def test_cross_skip_keeps_every_token() -> None:
    """Its change is the same at every position: no token is dropped or replaced."""
    from apps.medical.att_swin_unet import SummaryCrossAttention

    module = SummaryCrossAttention(8, 2)
    x, other = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    change = module(x, other) - x
    torch.testing.assert_close(change, change[:, :1, :1].expand_as(change))
    other[:, 0, 0] = torch.randn(2, 8)  # the top left token matters
    assert (module(x, other) - x - change).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: models.build("swin_unter", 3, 1, 2), "Did you mean 'swin_unetr'"),
        (lambda: models.build("unet", 3, 1, 2, chanels=3), "Did you mean 'channels'"),
        (lambda: models.build("unet", 3, 1, 2, preset="smal"), "Did you mean 'small'"),
        (lambda: models.build("unet", 1, 1, 2), "2-D and 3-D"),
        (lambda: models.build("unet", 2, 0, 2), "at least 1"),
        (lambda: models.build("unet", 2, 1, 2, strides=(2, 2)), "one stride less"),
        (lambda: models.build("dynunet", 2, 1, 2, strides=(2, 2)), "one a level"),
        (lambda: models.build("cswin_unet", 2, 1, 2, decoder="linear"), "'carafe' or 'residual'"),
        (lambda: tiny("swin_unet", 2)(torch.randn(1, 5, 8, 8)), r"wants \(B, 2"),
        (lambda: tiny("swin_unet", 2, deep_supervision=7), "coarser levels"),
    ],
)
def test_errors_name_the_fix(call: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()


def test_catalog_imports_nothing_heavy() -> None:
    code = (
        "import sys; from apps.medical import catalog; catalog.resolve('unet', 3, 'small');"
        "heavy = {'torch', 'monai', 'numpy', 'lightning'} & set(sys.modules); sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_presets_only_use_known_options() -> None:
    for name, entry in catalog.MODELS.items():
        for preset, ranks in entry.presets.items():
            assert set(ranks) == set(entry.ranks), (name, preset)
            for options in ranks.values():
                assert set(options) <= set(entry.defaults), (name, preset)
    assert models.names() == list(catalog.MODELS)


@pytest.mark.parametrize(("name", "rank"), TABLE)
def test_options_survive_json(name: str, rank: int) -> None:
    """A saved model keeps its options as JSON, where tuples become lists."""
    chosen = json.loads(json.dumps(catalog.resolve(name, rank, "small")))
    with torch.device("meta"):
        net = models.build(name, rank, 1, 3, **chosen)
        same = models.build(name, rank, 1, 3, preset="small")
    shapes = {k: v.shape for k, v in same.state_dict().items()}
    assert {k: v.shape for k, v in net.state_dict().items()} == shapes
