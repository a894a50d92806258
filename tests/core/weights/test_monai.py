"""Our Swin UNETR with MONAI's weights equals MONAI's, and its checkpoints load as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from apps.medical import models
from core.errors import DataError
from core.weights.monai import load_swin_unetr, map_swin_unetr

pytest.importorskip("einops")  # MONAI's SwinUNETR wants it
nets = pytest.importorskip("monai.networks.nets")


def reference(rank: int, **options: Any) -> nn.Module:
    """MONAI's network with every parameter away from its default, bias tables above all."""
    torch.manual_seed(0)
    net = nets.SwinUNETR(
        in_channels=2, out_channels=3, spatial_dims=rank, **{"feature_size": 12, **options}
    )
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
            if name.endswith("bias_table"):
                p.normal_(std=0.5)
    return net.eval()


def ours(rank: int, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    chosen = {"feature_size": 12, "policy": "monai", **options}
    return models.build("swin_unetr", rank, 2, 3, **chosen).eval()


CASES: list[tuple[int, tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    (2, (64, 96), {}, {}),
    (2, (256, 224), {"feature_size": 24}, {"feature_size": 24}),
    (2, (64, 64), {"downsample": "mergingv2", "depths": (1, 2, 3, 1)}, {"depths": (1, 2, 3, 1)}),
    (2, (96, 64), {"use_v2": True}, {"convolutions": True}),
    (3, (32, 32, 64), {}, {}),
    (3, (64, 32, 32), {"feature_size": 24}, {"feature_size": 24, "affine": False}),
    (3, (32, 64, 32), {"downsample": "mergingv2", "use_v2": True}, {"convolutions": True}),
    (3, (32, 32, 96), {}, {"merge_order": "last"}),
]


@pytest.mark.parametrize(("rank", "size", "theirs", "mine"), CASES)
def test_equals_monai(
    rank: int, size: tuple[int, ...], theirs: dict[str, Any], mine: dict[str, Any]
) -> None:
    net, own = reference(rank, **theirs), ours(rank, **mine)
    load_swin_unetr(own, net.state_dict(), merging=theirs.get("downsample", "merging"))
    x = torch.randn(1, 2, *size)
    with torch.inference_mode():
        expected, got = net(x), own(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def published_forms(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    old = {
        k.replace("mlp.fc1", "mlp.linear1").replace("mlp.fc2", "mlp.linear2"): v
        for k, v in state.items()
    }
    return {
        "plain": state,
        "wrapped": {"state_dict": state, "epoch": torch.tensor(3)},
        "data parallel": {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        "old names": {"model": {k.replace("swinViT", "swin_vit"): v for k, v in old.items()}},
    }


@pytest.mark.parametrize("form", ["plain", "wrapped", "data parallel", "old names"])
def test_published_forms(form: str, tmp_path: Any) -> None:
    net, own = reference(2), ours(2)
    path = tmp_path / "model.pt"
    torch.save(published_forms(net.state_dict())[form], path)
    load_swin_unetr(own, path)
    x = torch.randn(1, 2, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(own(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "swinViT.", "encoder."])
def test_encoder_only(prefix: str) -> None:
    """Self-supervised checkpoints: the encoder is filled, the decoder stays, heads are ignored."""
    net, own = reference(3), ours(3)
    before = {k: v.clone() for k, v in own.decoder.state_dict().items()}  # type: ignore[operator]
    state = {prefix + k: v for k, v in net.swinViT.state_dict().items()}  # type: ignore[operator]
    if prefix == "module.":
        state["module.rotation_head.weight"] = torch.zeros(4, 768)
    load_swin_unetr(own, {"state_dict": state})
    x = torch.randn(1, 2, 32, 32, 32)
    with torch.inference_mode():
        for mine, theirs in zip(own.encoder(x), net.swinViT(x, False), strict=True):  # type: ignore[operator]
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    after = own.decoder.state_dict()  # type: ignore[operator]
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_old_merging_is_kept_as_it_was() -> None:
    """A module that repeats the old order of neighbours takes the weights as they lie."""
    state = reference(3).state_dict()
    mapped = map_swin_unetr(state, order="monai")
    key = "swinViT.layers2.0.downsample.reduction.weight"
    assert torch.equal(mapped["encoder.stages.2.down.proj.weight"], state[key])
    assert not torch.equal(map_swin_unetr(state)["encoder.stages.2.down.proj.weight"], state[key])


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda s: {k: v for k, v in s.items() if "decoder3" not in k}, "lacks decoder.ups.2"),
        (lambda s: {**s, "head.weight": torch.zeros(1)}, "'head.weight'"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("swinViT")}, "patch_embed"),
        (lambda s: {**s, "lr": 0.1}, "'lr' is no tensor"),
        (lambda s: {**s, "out.conv.conv.bias": torch.zeros(9)}, r"heads.0.bias is \(9,\)"),
    ],
)
def test_mismatch_is_one_line(break_it: Any, says: str) -> None:
    own = ours(2)
    before = {k: v.clone() for k, v in own.state_dict().items()}
    with pytest.raises(DataError, match=says) as caught:
        load_swin_unetr(own, break_it(reference(2).state_dict()))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())


def test_pickled_objects_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": reference(2)}, path)  # a whole module, not its tensors
    with pytest.raises(DataError, match="plain tensors"):
        load_swin_unetr(ours(2), path)
    with pytest.raises(DataError, match="no such file"):
        load_swin_unetr(ours(2), tmp_path / "absent.pt")
