"""What every family owes as a pyramid, at every rank, with sizes that take no time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import core
from core.backbones import Pyramid, PyramidConfig, StageConfig
from core.blocks import BlockConfig, DropPath
from core.down import ConvDownConfig, MergeDownConfig
from core.errors import UsageError
from core.mixers.depthwise import DepthwiseConfig

TWO: dict[str, Any] = {"dims": (8, 16), "depths": (1, 2)}
FAMILIES: dict[str, dict[str, Any]] = {
    "swin_t": {**TWO, "heads": (2, 4), "window": 3},
    "cswin_t": {**TWO, "heads": (2, 4), "stripes": (2, None)},
    "pvtv2_b0": {**TWO, "heads": (2, 4), "reductions": (2, 1), "ffn_ratios": (2, 2)},
    "poolformer_s12": {**TWO, "layer_scale": 0.5},
    "convnext_t": {**TWO, "kernel": 3, "layer_scale": 0.5},
    "cvt_13": {**TWO, "heads": (2, 4)},
    "vmamba_t": {**TWO, "ffn_ratio": 2.0},
    "vanilla_vmamba_t": {**TWO, "d_state": 2},
    "vim_t": {**TWO, "d_state": 2, "patch": 4, "position": 3},
    "efficient_vmamba_t": {**TWO, "d_state": 2, "scanned": 1},
    "vir_s": {**TWO, "heads": (2, 4), "layer_scale": 0.5, "patch": 4, "position": 3},
    "mobile_mamba_t2": {
        **TWO,
        "far": (0.5, 0.5),
        "near": (0.25, 0.25),
        "kernels": (5, 3),
        "unit": 4,
        "patch": 4,
    },
}
SIZES = {
    1: [(1,), (13,), (64,)],
    2: [(1, 1), (37, 20), (16, 64)],
    3: [(1, 1, 1), (17, 9, 20), (8, 16, 32)],
}
every_family = pytest.mark.parametrize("name", FAMILIES)
every_rank = pytest.mark.parametrize("rank", [1, 2, 3])


def make(name: str, rank: int = 2, **more: Any) -> Pyramid:
    torch.manual_seed(0)
    backbone = core.create(name, rank=rank, in_channels=2, **{**FAMILIES[name], **more})
    with torch.no_grad():
        for p in backbone.parameters():  # biases and position tables start at or near zero
            p.add_(torch.randn_like(p) * 0.1)
    return backbone.eval()


@every_rank
@every_family
@torch.no_grad()
def test_contract(name: str, rank: int) -> None:
    backbone = make(name, rank)
    assert backbone.rank == rank
    assert backbone.channels == [8, 16]
    assert backbone.strides == [4, 8]
    for size in SIZES[rank]:
        outputs = backbone(torch.randn(2, 2, *size))
        for out, channels, stride in zip(outputs, [8, 16], [4, 8], strict=True):
            assert isinstance(stride, int)
            assert out.shape == (2, channels, *(math.ceil(s / stride) for s in size))
            assert out.isfinite().all()


@every_rank
@every_family
def test_gradient_checkpointing_changes_no_gradient(name: str, rank: int) -> None:
    backbone = make(name, rank, drop_path=0.2).train()
    x = torch.randn(2, 2, *SIZES[rank][1])
    found: list[list[Tensor]] = []
    for recompute in (False, True):
        backbone.gradient_checkpointing = recompute
        torch.manual_seed(1)  # the same paths are dropped
        image = x.clone().requires_grad_()
        loss = sum(((o - 0.3) ** 2).mean() for o in backbone(image))
        backbone.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        wanted = [(k, p) for k, p in backbone.named_parameters()]
        assert [k for k, p in wanted if p.grad is None] == []
        assert image.grad is not None
        found.append([image.grad, *(p.grad.clone() for _, p in wanted if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every_rank
@every_family
def test_export_at_a_fixed_size(name: str, rank: int) -> None:
    backbone = make(name, rank)
    size = SIZES[rank][1]
    exported = torch.export.export(backbone, (torch.randn(2, 2, *size),)).module()
    x = torch.randn(2, 2, *size)
    with torch.no_grad():
        for got, want in zip(exported(x), backbone(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def check_dynamic_export(backbone: Pyramid, traced: tuple[int, ...], sizes: list[Any]) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        backbone,
        (torch.randn(2, 2, *traced),),
        dynamic_shapes={"x": dict.fromkeys((0, 2, 3), dynamic)},
    )
    guarded, free = exported.module(), exported.module(check_guards=False)
    for batch, *size in sizes:
        x = torch.randn(batch, 2, *size)
        # Where a map is no longer than a window, the exporter's guards refuse what is exact.
        run = guarded if min(size) > 32 and len(backbone.channels) == 2 else free
        with torch.no_grad():
            for got, want in zip(run(x), backbone(x), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@every_family
def test_export_with_dynamic_batch_height_and_width(name: str) -> None:
    # Traced where windows are whole; run where they are not, and shorter than a window.
    sizes = [(1, 48, 72), (3, 37, 53), (2, 17, 100), (5, 17, 17)]
    check_dynamic_export(make(name), (48, 72), sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_t", {"depths": (2, 2, 2, 2)}),
        ("swin_t", {"depths": (2, 2, 2, 2), "policy": "swin"}),
        ("cswin_t", {"depths": (1, 1, 2, 1)}),
    ],
    ids=str,
)
def test_dynamic_export_of_four_stages(name: str, options: dict[str, Any]) -> None:
    backbone = core.create(name, in_channels=2, **options).eval()
    check_dynamic_export(backbone, (224, 256), [(1, 224, 224), (1, 200, 300), (2, 65, 97)])


def test_dynamic_export_refuses_what_depends_on_the_size() -> None:
    dynamic = {"x": {2: torch.export.Dim.DYNAMIC}}
    with pytest.raises(UsageError, match="export it at a fixed size"):
        torch.export.export(
            make("swin_t", policy="monai"), (torch.randn(1, 2, 32, 32),), dynamic_shapes=dynamic
        )


@every_family
@torch.no_grad()
def test_examples_are_independent(name: str) -> None:
    backbone = make(name)
    x = torch.randn(3, 2, 21, 26)
    for together, alone in zip(backbone(x), backbone(x[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)


@every_family
@torch.no_grad()
def test_bfloat16_autocast_is_close(name: str) -> None:
    backbone = make(name)
    x = torch.randn(1, 2, 21, 26)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone(x)
    for got, want in zip(half, backbone(x), strict=True):
        assert (got.float() - want).abs().max() < 0.1 * want.abs().max()


@every_family
def test_a_seed_decides_the_weights(name: str) -> None:
    a, b = make(name), make(name)
    assert all(torch.equal(a.state_dict()[k], v) for k, v in b.state_dict().items())
    b.load_state_dict(a.state_dict())


@every_rank
@every_family
@torch.no_grad()
def test_patches_of_another_shape(name: str, rank: int) -> None:
    patch = (1, 2, 4)[:rank]
    backbone = make(name, rank, patch=patch)
    strides = [tuple(p * t for p in patch) for t in (1, 2)]
    assert backbone.strides == [s[0] if rank == 1 else s for s in strides]
    size = (5, 6, 7)[:rank]
    for out, stride in zip(backbone(torch.randn(1, 2, *size)), strides, strict=True):
        assert out.shape[2:] == tuple(math.ceil(s / t) for s, t in zip(size, stride, strict=True))


@torch.no_grad()
def test_strides_of_each_reduction() -> None:
    swin = make("swin_t", 3, patch=(1, 2, 2), merge_strides=[(1, 2, 2)])
    assert swin.strides == [(1, 2, 2), (1, 4, 4)]
    assert swin(torch.zeros(1, 2, 5, 9, 8))[1].shape == (1, 16, 5, 3, 2)
    cswin = make("cswin_t", 3, patch=(2, 4, 4), down_strides=[(2, 1, 2)])
    assert cswin.strides == [(2, 4, 4), (4, 4, 8)]
    assert cswin(torch.zeros(1, 2, 5, 9, 8))[1].shape == (1, 16, 2, 3, 1)
    with pytest.raises(UsageError, match="stages disagree"):
        make("swin_t", merge_strides=[2, 2])


def test_drop_path_grows_to_its_rate() -> None:
    backbone = make("convnext_t", depths=(2, 3), drop_path=0.4)
    rates = [m.rate for m in backbone.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def stage(**more: Any) -> StageConfig:
    block = BlockConfig(mixer=DepthwiseConfig(size=3))
    options = {"dim": 4, "depth": 1, "block": block, "down": MergeDownConfig(), **more}
    return StageConfig(**options)


def config(*stages: StageConfig, **more: Any) -> PyramidConfig:
    return PyramidConfig(**{"rank": 2, "in_channels": 1, "stages": stages, **more})


@torch.no_grad()
def test_outputs_before_the_blocks() -> None:
    end = Pyramid(config(stage(), stage(dim=8)))
    start = Pyramid(config(stage(), stage(dim=8, depth=0), outputs="start"))
    start.load_state_dict(end.state_dict(), strict=False)
    x = torch.randn(1, 1, 16, 16)
    first = end.stages[0].down(x.movedim(1, -1))  # type: ignore[operator]
    torch.testing.assert_close(start(x)[0], first.movedim(-1, 1))
    second = end.stages[1].down(end(x)[0].movedim(1, -1))  # type: ignore[operator]
    torch.testing.assert_close(start(x)[1], second.movedim(-1, 1))


@torch.no_grad()
def test_an_end_norm_is_on_the_way_to_the_next_stage() -> None:
    backbone = Pyramid(config(stage(end_norm="layer"), stage()))
    first, second = backbone(torch.randn(1, 1, 16, 16))
    torch.testing.assert_close(first.mean(1), torch.zeros(1, 8, 8), rtol=0, atol=1e-5)
    entered = backbone.stages[1].down(first.movedim(1, -1))  # type: ignore[operator]
    wanted, _ = backbone.stages[1](entered)
    torch.testing.assert_close(second, wanted.movedim(-1, 1))


def test_mistakes_are_explained() -> None:
    for wrong, message in [
        (config(), "0 stages"),
        (config(stage(), in_channels=0), "0 input channels"),
        (config(stage(), rank=4), "1, 2 or 3"),
        (config(stage(), outputs="start"), "lead nowhere"),
        (config(stage(down=ConvDownConfig(stride=(2, 2, 2), kernel=2))), "stride"),
        (config(stage(end_norm="layr")), "Did you mean 'layer'"),
    ]:
        with pytest.raises(UsageError, match=message):
            Pyramid(wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config(stage()).rank = 3  # type: ignore[misc]


def test_a_stage_may_have_a_block_of_its_own_kind_at_each_place() -> None:
    mixing = BlockConfig(mixer=DepthwiseConfig(size=3), ffn_ratio=None)
    feeding = BlockConfig(mixer=None, ffn_ratio=2.0)
    down = ConvDownConfig(kernel=1, stride=1)
    stage = StageConfig(dim=8, depth=3, block=(mixing, feeding, mixing), down=down, position=(4,))
    backbone = PyramidConfig(rank=1, in_channels=2, stages=(stage,)).build()
    blocks = backbone.stages[0].blocks
    assert [b.mixer is None for b in blocks] == [False, True, False]
    assert [b.ffn is None for b in blocks] == [True, False, True]
    assert backbone(torch.zeros(1, 2, 9))[0].shape == (1, 8, 9)
    short = dataclasses.replace(stage, depth=2)
    with pytest.raises(UsageError, match="depth 2 with 3 block configs"):
        PyramidConfig(rank=1, in_channels=2, stages=(short,)).build()
