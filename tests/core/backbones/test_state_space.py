"""What is particular to each state-space family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import core
from core.backbones import Pyramid
from core.backbones.mobile_mamba import LocalPair, MobileBlock
from core.blocks import Block
from core.errors import UsageError
from core.mixers.inverted_residual import InvertedResidualMixer
from core.mixers.local_global import LocalGlobal
from core.mixers.mamba import Mamba
from core.mixers.retention import Retention

ONE: dict[str, Any] = {"dims": (8,), "depths": (2,), "patch": 4, "position": 3}


def make(name: str, rank: int = 2, **options: Any) -> Pyramid:
    torch.manual_seed(0)
    return core.create(name, rank=rank, in_channels=1, **options).eval()


def blocks(backbone: Pyramid) -> list[Any]:
    return [b for s in backbone.stages for b in s.blocks]  # type: ignore[union-attr]


def test_vmamba_of_both_versions() -> None:
    new, old = (
        make(name, dims=(8, 16), depths=(1, 1)) for name in ("vmamba_t", "vanilla_vmamba_t")
    )
    for block in blocks(new):
        assert isinstance(block, Block)
        assert isinstance(block.mixer, Mamba)
        assert block.ffn is not None
        assert not block.mixer.config.gate
        assert block.mixer.config.d_state == 1
    for block in blocks(old):
        assert block.ffn is None
        assert block.mixer.config.gate
        assert block.mixer.config.d_state == 16
    for rank in (1, 2, 3):
        found = make("vmamba_t", rank, dims=(8,), depths=(1,))
        assert blocks(found)[0].mixer.path.directions == 2 * rank
    for option, message in [("stem", "vmamba stem 'cnv'"), ("down", "vmamba down 'cnv'")]:
        with pytest.raises(UsageError, match=message):
            make("vmamba_t", dims=(8,), depths=(1,), **{option: "cnv"})


@pytest.mark.parametrize(("name", "options"), [("vim_t", {}), ("vir_s", {"heads": (2,)})])
@torch.no_grad()
def test_isotropic_backbones_have_a_class_token_only_with_their_own_mixer(
    name: str, options: dict[str, Any]
) -> None:
    image = torch.randn(2, 1, 13, 20)
    backbone = make(name, **ONE, **options)
    maps, token = backbone.forward_extra(image)
    assert [m.shape for m in maps] == [(2, 8, 4, 5)]
    assert token is not None
    assert token.shape == (2, 1, 8)
    # The last norm is the token's too.
    assert make(name, **ONE, **options, class_token=False).forward_extra(image)[1] is None
    assert make(name, **ONE, **options, mixer="pool").forward_extra(image)[1] is None
    norm = backbone.stages[0].norm
    assert norm.weight.shape == (8,)  # type: ignore[union-attr]
    norm.weight.zero_()  # type: ignore[operator,union-attr]
    ends = backbone.forward_extra(image)[1]
    assert ends is not None
    assert (ends == 0).all()


@pytest.mark.parametrize(("name", "options"), [("vim_t", {}), ("vir_s", {"heads": (2,)})])
@torch.no_grad()
def test_positions_tell_equal_patches_apart(name: str, options: dict[str, Any]) -> None:
    """Without blocks only the position embedding is left: 3 x 3, interpolated to the grid."""
    backbone = make(name, **{**ONE, "depths": (0,), "class_token": False}, **options)
    table = backbone.stages[0].position.table  # type: ignore[union-attr]
    assert table.shape == (1, 3, 3, 8)
    assert backbone(torch.ones(1, 1, 12, 12))[0][0, 0].unique().numel() == 9
    assert backbone(torch.ones(1, 1, 20, 24))[0].shape == (1, 8, 5, 6)
    table.zero_()
    assert backbone(torch.ones(1, 1, 20, 24))[0][0, 0].unique().numel() == 1


@torch.no_grad()
def test_vir_is_causal_and_its_token_has_seen_all() -> None:
    backbone = make("vir_s", 1, **ONE, heads=(2,), layer_scale=0.5)
    assert {type(b.mixer) for b in blocks(backbone)} == {Retention}
    x = torch.randn(1, 1, 32)
    for patch in (0, 3, 7):
        moved = x.clone()
        moved[..., 4 * patch : 4 * patch + 4] += 1.0
        (before,), token = backbone.forward_extra(x)
        (after,), moved_token = backbone.forward_extra(moved)
        change = (after - before).abs().amax((0, 1))
        assert (change[:patch] == 0).all()
        assert (change[patch:] > 0).all()
        assert token is not None
        assert moved_token is not None
        assert not torch.equal(token, moved_token)


@torch.no_grad()
def test_vim_sees_both_ways() -> None:
    backbone = make("vim_t", 1, **ONE)
    x = torch.randn(1, 1, 32)
    moved = x.clone()
    moved[..., 12:16] += 1.0
    change = (backbone(moved)[0] - backbone(x)[0]).abs().amax((0, 1))
    assert (change > 0).all()


def test_efficient_vmamba_scans_first_and_convolves_last() -> None:
    backbone = make("efficient_vmamba_t", dims=(8, 8, 8, 8), depths=(1, 1, 2, 1))
    kinds = [type(b.mixer) for b in blocks(backbone)]
    assert kinds == [LocalGlobal] * 2 + [InvertedResidualMixer] * 3
    paths = [b.mixer.mixer.path for b in blocks(backbone)[:2]]
    assert {(p.name, p.skip, p.directions) for p in paths} == {("atrous", 2, 4)}
    wide = make("efficient_vmamba_t", dims=(8, 8), depths=(1, 1), skip=3, scanned=1)
    assert blocks(wide)[0].mixer.mixer.path.directions == 9


@torch.no_grad()
def test_a_mobile_block_starts_as_twice_its_input() -> None:
    """Every branch ends with a norm whose gain is 0; the input and the block's residual remain."""
    backbone = make("mobile_mamba_t2", dims=(8, 8, 8), depths=(1, 1, 1), unit=4)
    block = blocks(backbone)[0]
    assert isinstance(block, MobileBlock)
    assert isinstance(block.before, LocalPair)
    x = torch.randn(1, 5, 6, 8)
    torch.testing.assert_close(block(x), 2 * x)
