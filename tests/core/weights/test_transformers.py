"""Parity with transformers: random weights, mapped; every stage compared in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import core
from core.errors import DataError
from core.weights.transformers import load_pretrained, map_state

transformers = pytest.importorskip("transformers")

THREE = {"dims": (8, 16, 32), "depths": (2, 2, 2)}


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights that keep activations near 1 and make every mix-up visible, norms' included."""
    generator = torch.Generator().manual_seed(seed)

    def normal(value: Tensor, std: float) -> Tensor:
        return torch.randn(value.shape, generator=generator) * std

    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.copy_(1 + normal(value, 0.2).abs())
            elif "bias_table" in name:
                value.copy_(normal(value, 0.5))
            elif value.ndim > 1:
                value.copy_(normal(value, value[0].numel() ** -0.5))
            elif name.endswith("bias") or name.endswith("running_mean"):
                value.copy_(normal(value, 0.1))
            else:  # gains of norms, layer scales
                value.copy_(1 + normal(value, 0.2))


@contextmanager
def recorded(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What each of ``modules`` returns, in the order of their calls."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        while isinstance(out, tuple):
            out = out[0]
        seen.append(out)

    handles = [m.register_forward_hook(keep) for m in modules]
    yield seen
    for handle in handles:
        handle.remove()


def swin_config(dims: Any, depths: Any, heads: Any, window: int, **more: Any) -> Any:
    return transformers.SwinConfig(
        embed_dim=dims[0], depths=list(depths), num_heads=list(heads), window_size=window, **more
    )


def build_swin(dims: Any, depths: Any, heads: Any, window: int) -> nn.Module:
    return transformers.SwinModel(swin_config(dims, depths, heads, window))


def build_convnext(dims: Any, depths: Any) -> nn.Module:
    return transformers.ConvNextModel(
        transformers.ConvNextConfig(
            num_stages=len(dims), hidden_sizes=list(dims), depths=list(depths)
        )
    )


def build_pvtv2(dims: Any, depths: Any, heads: Any, reductions: Any, ffn_ratios: Any) -> nn.Module:
    n = len(dims)
    return transformers.PvtV2Model(
        transformers.PvtV2Config(
            num_encoder_blocks=n,
            hidden_sizes=list(dims),
            depths=list(depths),
            num_attention_heads=list(heads),
            sr_ratios=list(reductions),
            mlp_ratios=list(ffn_ratios),
            patch_sizes=[7] + [3] * (n - 1),
            strides=[4] + [2] * (n - 1),
        )
    )


def build_poolformer(dims: Any, depths: Any) -> nn.Module:
    n = len(dims)
    return transformers.PoolFormerModel(
        transformers.PoolFormerConfig(
            num_encoder_blocks=n,
            hidden_sizes=list(dims),
            depths=list(depths),
            patch_sizes=[7] + [3] * (n - 1),
            strides=[4] + [2] * (n - 1),
            padding=[2] + [1] * (n - 1),
        )
    )


def build_cvt(dims: Any, depths: Any, heads: Any) -> nn.Module:
    return transformers.CvtModel(
        transformers.CvtConfig(embed_dim=list(dims), depth=list(depths), num_heads=list(heads))
    )


def stages(model: nn.Module) -> list[nn.Module]:
    """The modules that end each stage of a transformers model."""
    encoder: Any = model.encoder
    name = type(model).__name__
    if name == "SwinModel":
        return [layer.blocks[-1] for layer in encoder.layers]
    if name == "PvtV2Model":
        return list(encoder.layers)
    if name == "PoolFormerModel":
        return [block[-1] for block in encoder.block]
    return list(encoder.stages)


CASES: list[Any] = [
    pytest.param(
        "swin_t",
        build_swin,
        {**THREE, "heads": (2, 4, 4), "window": 3},
        # The last ends on 3 x 5: one axis is a window.  It comes last because their layers, having
        # seen such a grid once, never shift again.
        [(64, 80), (61, 75), (97, 52), (48, 80)],
        id="swin",
    ),
    pytest.param("convnext_t", build_convnext, THREE, [(32, 48), (64, 16)], id="convnext"),
    pytest.param(
        "pvtv2_b0",
        build_pvtv2,
        {**THREE, "heads": (1, 2, 4), "reductions": (4, 2, 1), "ffn_ratios": (4, 3, 2)},
        [(32, 64), (64, 96)],
        id="pvtv2",
    ),
    pytest.param(
        "pvtv2_b0",
        build_pvtv2,
        {**THREE, "heads": (1, 2, 4), "reductions": (1, 1, 1), "ffn_ratios": (4, 3, 2)},
        [(33, 50), (47, 61)],  # without a reduction nothing rounds down there
        id="pvtv2-odd",
    ),
    pytest.param("poolformer_s12", build_poolformer, THREE, [(32, 48), (64, 112)], id="poolformer"),
    pytest.param(
        "cvt_13",
        build_cvt,
        {**THREE, "heads": (1, 2, 4), "depths": (1, 2, 3)},  # theirs fails for a depth below 3
        [(32, 48), (48, 112)],
        id="cvt",
    ),
    pytest.param(
        "swin_t",
        build_swin,
        {"dims": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7},
        [(224, 224)],
        id="swin_t",
    ),
    pytest.param(
        "convnext_t",
        build_convnext,
        {"dims": (96, 192, 384, 768), "depths": (3, 3, 9, 3)},
        [(64, 96)],
        id="convnext_t",
    ),
    pytest.param(
        "pvtv2_b0",
        build_pvtv2,
        {
            "dims": (32, 64, 160, 256),
            "depths": (2, 2, 2, 2),
            "heads": (1, 2, 5, 8),
            "reductions": (8, 4, 2, 1),
            "ffn_ratios": (8, 8, 4, 4),
        },
        [(64, 96)],
        id="pvtv2_b0",
    ),
    pytest.param(
        "poolformer_s12",
        build_poolformer,
        {"dims": (64, 128, 320, 512), "depths": (2, 2, 6, 2)},
        [(64, 96)],
        id="poolformer_s12",
    ),
    pytest.param(
        "cvt_13",
        build_cvt,
        {"dims": (64, 192, 384), "depths": (1, 2, 10), "heads": (1, 3, 6)},
        [(64, 96)],
        id="cvt_13",
    ),
]


@pytest.mark.parametrize(("name", "build", "sizes", "images"), CASES)
@torch.no_grad()
def test_every_stage_equals_transformers(
    name: str,
    build: Callable[..., nn.Module],
    sizes: dict[str, Any],
    images: list[tuple[int, int]],
) -> None:
    theirs = build(**sizes).eval()
    randomise(theirs)
    published = theirs.num_parameters() > 1e6  # type: ignore[operator]
    options = {} if published else sizes
    if name == "swin_t":
        options = {**options, "policy": "swin"}
    ours = core.create(name, **options).eval()
    load_pretrained(ours, theirs.state_dict())
    for image in images:
        x = torch.randn(1 if published else 2, 3, *image)
        with recorded(stages(theirs)) as wanted:
            last = theirs(x)
        outputs, extra = ours.forward_extra(x)
        assert len(outputs) == len(wanted)
        for got, want in zip(outputs, wanted, strict=True):
            assert want.abs().max() > 0.1
            if want.ndim == 3:  # tokens
                want = want.unflatten(1, got.shape[2:]).movedim(-1, 1)
            torch.testing.assert_close(got, want.reshape(got.shape), rtol=1e-5, atol=1e-5)
        if extra is not None:
            torch.testing.assert_close(extra, last.cls_token_value, rtol=1e-5, atol=1e-5)
        assert (extra is not None) == (name == "cvt_13")


SMALL = {"dims": (8, 16), "depths": (1, 2), "heads": (2, 4), "window": 3}


def classifier(seed: int = 0) -> nn.Module:
    model = transformers.SwinForImageClassification(swin_config(**SMALL))
    randomise(model, seed)
    return model.eval()


def test_a_file_with_a_classifier(tmp_path: Path) -> None:
    model = classifier()
    model.save_pretrained(tmp_path)
    ours = core.create("swin_t", policy="swin", **SMALL).eval()
    load_pretrained(ours, tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 32, 24)
    with torch.no_grad(), recorded(stages(model.swin)) as wanted:
        model(x)
        got = ours(x)[-1]
    want = wanted[-1].unflatten(1, got.shape[2:]).movedim(-1, 1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_both_spellings_of_swin_agree() -> None:
    state = classifier().state_dict()
    old = {}
    for key, value in state.items():
        for new, before in [
            ("attention.q_proj", "attention.self.query"),
            ("attention.k_proj", "attention.self.key"),
            ("attention.v_proj", "attention.self.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("attention.relative_position_bias.", "attention.self."),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ]:
            key = key.replace(new, before)
        old[key] = value
    old["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(9, 9)
    assert set(old) != set(state)
    a, b = map_state(state), map_state(old)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_another_size_is_one_line_and_changes_nothing() -> None:
    ours = core.create("swin_t", **{**SMALL, "depths": (1, 1)})
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(DataError, match="another architecture") as error:
        load_pretrained(ours, classifier().state_dict())
    assert "\n" not in str(error.value)
    assert "stages.1.blocks.1" in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


def test_another_family_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="no Swin, ConvNeXt, PVTv2, PoolFormer, CvT, Mamba or"):
        load_pretrained(core.create("swin_t", **SMALL), {"conv1.weight": torch.zeros(1)})
    with pytest.raises(DataError, match="another architecture"):
        load_pretrained(core.create("convnext_t", **THREE), classifier().state_dict())


def test_an_incomplete_projection_is_missing() -> None:
    state = dict(classifier().state_dict())
    del state["swin.encoder.layers.0.blocks.0.attention.k_proj.weight"]
    with pytest.raises(DataError, match=r"1 missing: stages\.0\.blocks\.0\.mixer\.qkv\.weight"):
        load_pretrained(core.create("swin_t", **SMALL), state)


def test_a_pickled_file_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled"):
        load_pretrained(core.create("swin_t", **SMALL), tmp_path / "pytorch_model.bin")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors"):
        load_pretrained(core.create("swin_t", **SMALL), tmp_path / "other.safetensors")
