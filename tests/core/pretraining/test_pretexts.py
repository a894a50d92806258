"""Every pretext task around every kind of pyramid, and what each promises of itself."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import core
from core.backbones.pyramid import Pyramid
from core.errors import UsageError
from core.pretraining import PRETEXTS, GmmlConfig, MaeConfig, MultitaskConfig, build, pretext_config
from core.pretraining.gmml import GroupMasking
from core.pretraining.heads import PixelHead
from core.pretraining.mae import MaskedAutoencoder, masked_maps
from core.pretraining.masking import enlarge, random_mask, unit_grid
from core.pretraining.multitask import LearnedWeights, Multitask, contrast, turns

# Windows, stripes and an overlapping stem, scans, convolutions and a mean; then a single stage.
KINDS = {
    "swin": ("swin_t", {"dims": (12, 24), "depths": (1, 1), "heads": (2, 3), "window": 3}),
    "cswin": (
        "cswin_t",
        {"dims": (12, 24), "depths": (1, 1), "heads": (6, 6), "stripes": (1, None)},
    ),
    "vmamba": ("vmamba_t", {"dims": (8, 16), "depths": (1, 1)}),
    "convnext": ("convnext_t", {"dims": (8, 16), "depths": (1, 1), "kernel": 3}),
    "vim": ("vim_t", {"dims": (8,), "depths": (1,)}),
}
SIZES = {1: (37,), 2: (13, 18), 3: (9, 12, 7)}


def encoder(kind: str, rank: int, channels: int = 2) -> Pyramid:
    name, options = KINDS[kind]
    torch.manual_seed(0)
    return core.create(name, rank=rank, in_channels=channels, patch=2, **options)


def images(rank: int, batch: int = 3, channels: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *SIZES[rank], generator=generator)


@pytest.mark.parametrize("task", PRETEXTS)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_a_seed_decides(kind, rank, task) -> None:
    net = build(pretext_config(task), encoder(kind, rank), SIZES[rank])
    inside = torch.rand(3, 1, *SIZES[rank], generator=torch.Generator().manual_seed(1)) > 0.2
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(net(images(rank), inside))
    assert {"loss", "reconstruction", "floor"} <= found[0].keys()
    for name, value in found[0].items():
        assert value.ndim == 0, name
        assert torch.isfinite(value), name
        assert torch.equal(value, found[1][name]), name
        assert value.requires_grad == (name == "loss"), name
    found[0]["loss"].backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("task", PRETEXTS)
def test_float64_and_the_images_that_do_not_fit(task) -> None:
    net = build(pretext_config(task), encoder("swin", 2), SIZES[2]).double()
    assert net(images(2).double())["loss"].dtype == torch.float64
    for wrong in (torch.zeros(2, 1, 13, 18), torch.zeros(2, 2, 13, 18, 4)):
        with pytest.raises(UsageError, match=r"wants \(B, 2\)"):
            net(wrong)
    with pytest.raises(UsageError, match="2 axes"):
        build(pretext_config(task), encoder("swin", 2), (9,))


# ---- masked autoencoder ----------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_no_map_depends_on_a_hidden_voxel(kind, rank) -> None:
    """Also where patches overlap (CSWin) or a convolution reads beyond them (VMamba)."""
    net = encoder(kind, rank).eval()
    unit = (4,) * rank
    units = unit_grid(SIZES[rank], unit)
    mask = random_mask(3, units, 0.6, torch.Generator().manual_seed(2))
    hidden = enlarge(mask, unit, SIZES[rank])[:, None]
    token = torch.randn(net.channels[0])
    one, two = images(rank), images(rank, seed=9)
    mixed = torch.where(hidden, two, one)
    with torch.no_grad():
        maps = masked_maps(net, one, mask, unit, token)
        same = masked_maps(net, mixed, mask, unit, token)
        seen = masked_maps(net, torch.where(hidden, one, two), mask, unit, token)
        other = masked_maps(net, one, mask, unit, token + 1.0)
        plain = net(one)
        unmasked = masked_maps(net, one, torch.zeros_like(mask), unit, token)
    for i, x in enumerate(maps):
        assert torch.equal(x, same[i])
        assert not torch.equal(x, seen[i])
        assert not torch.equal(x, other[i])
        assert torch.equal(plain[i], unmasked[i])  # and no hook is left behind


def test_the_loss_counts_hidden_voxels_inside_the_image() -> None:
    net = build(MaeConfig(ratio=0.5), encoder("cswin", 2), SIZES[2])
    assert isinstance(net, MaskedAutoencoder)
    assert net.unit == (4, 4)
    inside = torch.zeros(3, 1, *SIZES[2], dtype=torch.bool)
    inside[..., :9, :11] = True
    x = images(2)
    torch.manual_seed(3)
    found = {k: float(v.detach()) for k, v in net(x, inside).items()}
    torch.manual_seed(3)
    mask = random_mask(3, unit_grid(SIZES[2], net.unit), 0.5)
    where = (enlarge(mask, net.unit, SIZES[2])[:, None] & inside).expand_as(x)
    error = (net.reconstruct(x, mask).detach() - x)[where]
    assert found["loss"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    seen = (~enlarge(mask, net.unit, SIZES[2])[:, None] & inside).expand_as(x)
    said = torch.stack(
        [torch.stack([x[b, c][seen[b, c]].mean() for c in (0, 1)]) for b in (0, 1, 2)]
    )
    away = (said[..., None, None] - x)[where].square().mean()
    assert found["floor"] == pytest.approx(float(away), rel=1e-5)
    nothing = net(x, torch.zeros_like(inside))
    assert nothing["loss"] == 0


def test_normalised_targets_have_mean_0_and_variance_1_in_each_unit() -> None:
    net = build(MaeConfig(normalise=True), encoder("swin", 2), (12, 16))
    assert isinstance(net, MaskedAutoencoder)
    x = torch.randn(2, 2, 12, 16) * 30 + 100
    y = net.targets(x).unfold(2, 4, 4).unfold(3, 4, 4)  # (2, 2, 3, 4, 4, 4)
    assert torch.allclose(y.mean((-1, -2)), torch.zeros(()), atol=1e-4)
    assert torch.allclose(y.var((-1, -2), unbiased=False), torch.ones(()), atol=1e-3)
    odd = images(2)
    assert net.targets(odd).shape == odd.shape


def test_units_follow_the_encoder_and_may_be_set() -> None:
    even = encoder("swin", 3)
    assert build(MaeConfig(), even, SIZES[3]).unit == (4, 4, 4)
    assert build(MaeConfig(unit=2), even, SIZES[3]).unit == (2, 2, 2)
    thick = core.create(
        "swin_t", rank=3, in_channels=1, patch=(1, 2, 2), dims=(12, 24), depths=(1, 1),
        heads=(2, 3), window=3, merge_strides=((1, 2, 2),),
    )  # fmt: skip
    assert build(MaeConfig(), thick, (5, 16, 16)).unit == (1, 4, 4)
    with pytest.raises(UsageError, match="multiple of the encoder's patch"):
        build(MaeConfig(unit=3), even, SIZES[3])
    with pytest.raises(UsageError, match="cannot be partly hidden"):
        build(MaeConfig(), even, (4, 4, 4))


# ---- the head --------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_head_puts_each_patch_where_it_came_from(rank) -> None:
    """With the identity for weights, patches cut out of an image are put together again."""
    net = encoder("swin", rank)
    head = PixelHead(net)
    stride = (net.strides[-1],) * rank
    image = images(rank)
    whole = [n * s for n, s in zip(unit_grid(SIZES[rank], stride), stride, strict=True)]
    padded = F.pad(
        image, [v for s, w in zip(SIZES[rank][::-1], whole[::-1], strict=True) for v in (0, w - s)]
    )
    cut = padded
    for axis in range(rank):
        cut = cut.unfold(2 + axis, stride[axis], stride[axis])
    patches = cut.movedim(1, -1).flatten(1 + rank)  # (B, *n, prod(stride) C), C fastest
    head.layers[0] = torch.nn.Identity()
    maps = [torch.zeros(0)] * (len(net.channels) - 1) + [patches.movedim(-1, 1)]
    assert torch.equal(head(maps, SIZES[rank]), image)


# ---- groups ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_corruption_changes_the_groups_and_nothing_else(rank) -> None:
    size = {1: (64,), 2: (48, 48), 3: (24, 24, 24)}[rank]
    net = build(GmmlConfig(alien=0.3), encoder("cswin", rank), size)
    assert isinstance(net, GroupMasking)
    torch.manual_seed(0)
    x = torch.randn(16, 2, *size)
    y, hidden = net.corrupt(x)
    kept = ~hidden[:, None].expand_as(x)
    assert torch.equal(x[kept], y[kept])
    others = {i: j for i in range(16) for j in range(16) if i != j
              and torch.equal(y[i][~kept[i]], x[j][~kept[i]])}  # fmt: skip
    shares = hidden.flatten(1).float().mean(1)
    slack = math.prod(0.3 if n * 0.15 > 1 else 1 for n in size)
    for i, share in enumerate(shares.tolist()):
        low, high = (0.3, 0.3) if i in others else (0.5, 0.75)
        assert low - 1e-6 <= share <= high + slack
    assert 3 <= len(others) <= 13  # about half of the images
    patch = hidden.view(16, *(v for n in size for v in (n // 2, 2)))  # patches are whole
    for axis in range(rank):
        patch = patch.movedim(2 + axis, -1)
    assert torch.equal(patch.flatten(1 + rank).any(-1), patch.flatten(1 + rank).all(-1))


def test_a_single_image_is_corrupted_by_noise() -> None:
    net = build(GmmlConfig(), encoder("swin", 2), SIZES[2])
    assert isinstance(net, GroupMasking)
    x = images(2, batch=1)
    y, hidden = net.corrupt(x)
    assert hidden.any()
    assert not torch.equal(x, y)
    with pytest.raises(UsageError, match="one patch"):
        build(GmmlConfig(), encoder("swin", 2), (2, 2))


# ---- restoration, rotation and contrast ------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"), [((12,), 2), ((8, 8), 4), ((8, 6), 2), ((8, 6, 8), 4), ((4, 6, 8), 2)]
)
def test_turns_keep_the_size_and_differ(size, count) -> None:
    found = turns(size)
    x = torch.randn(1, 2, *size)
    turned = [turn(x) for turn in found]
    assert len(turned) == count
    assert all(y.shape == x.shape for y in turned)
    assert torch.equal(turned[0], x)
    for i in range(count):
        for j in range(i):
            assert not torch.equal(turned[i], turned[j])
    y = x
    for _ in range(count):
        y = found[1](y)
    assert torch.equal(y, x)


def test_contrast_is_the_mean_cross_entropy_over_all_other_views() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    z = torch.cat([a, b]) / torch.cat([a, b]).norm(dim=1, keepdim=True)
    losses = []
    for i in range(8):
        j = (i + 4) % 8
        others = [float(torch.exp(z[i] @ z[k] / 0.5)) for k in range(8) if k != i]
        losses.append(-math.log(float(torch.exp(z[i] @ z[j] / 0.5)) / sum(others)))
    assert float(contrast(a, b, 0.5)) == pytest.approx(sum(losses) / 8, rel=1e-5)
    assert contrast(a, a, 0.5) < contrast(a, b, 0.5)
    assert float(contrast(a[:1], b[:1], 0.5)) == pytest.approx(0, abs=1e-6)


def test_learned_weights_follow_the_formula_and_heed_large_losses_less() -> None:
    weighting = LearnedWeights(2).double()
    losses = torch.tensor([4.0, 0.25], dtype=torch.float64)
    assert float(weighting(losses).detach()) == pytest.approx(4.25 / 2 + 2 * math.log(2))
    optimiser = torch.optim.Adam(weighting.parameters(), lr=0.02)
    for _ in range(2000):
        optimiser.zero_grad()
        weighting(losses).backward()
        optimiser.step()
    # d/dv of L / 2v + log(1 + v) is 0 where 2 v^2 = L (1 + v).
    wanted = [(loss + math.sqrt(loss * loss + 8 * loss)) / 4 for loss in losses.tolist()]
    assert weighting.sigma.square().tolist() == pytest.approx(wanted, rel=1e-3)
    assert weighting.weights().tolist() == pytest.approx([0.5 / v for v in wanted], rel=1e-3)


def test_views_are_restored_as_they_were_turned() -> None:
    """The target is the turned view, and ``inside`` turns with it."""
    size = (8, 8)
    net = build(MultitaskConfig(), encoder("cswin", 2), size)
    assert isinstance(net, Multitask)
    x = torch.randn(4, 2, *size)
    turned = net.turned(x, torch.tensor([0, 1, 2, 3]))
    for k in range(4):
        assert torch.equal(turned[k], torch.rot90(x[k], k, (1, 2)))
    torch.manual_seed(1)
    found = net(x, torch.zeros(4, 1, *size, dtype=torch.bool))
    assert found["loss_restoration"] == 0  # nothing is inside
    equal = build(MultitaskConfig(weights="equal"), encoder("cswin", 2), size)
    found = equal(x)
    parts = [found[f"loss_{name}"] for name in ("restoration", "rotation", "contrast")]
    assert float(found["loss"].detach()) == pytest.approx(float(sum(parts)), rel=1e-5)
    assert not any(name.startswith("weight") for name in found)


def test_corrupted_views_keep_most_of_themselves() -> None:
    net = build(MultitaskConfig(), encoder("swin", 3), (24, 24, 24))
    assert isinstance(net, Multitask)
    x = torch.randn(12, 2, 24, 24, 24)
    y, hidden = net.corrupt(x)
    kept = ~hidden[:, None].expand_as(x)
    assert torch.equal(x[kept], y[kept])
    assert 0.1 < float(hidden.float().mean()) < 0.5
    assert float(hidden.flatten(1).float().mean(1).max()) < 0.7


def test_contrast_needs_company_and_the_size_it_was_made_for() -> None:
    net = build(MultitaskConfig(), encoder("swin", 2), SIZES[2])
    with pytest.raises(UsageError, match="batch of 1"):
        net(images(2, batch=1))
    with pytest.raises(UsageError, match="was made for"):
        net(torch.zeros(2, 2, 8, 8))


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("maee", {}, "Did you mean 'mae'"),
        ("mae", {"ration": 0.5}, "Did you mean 'ratio'"),
        ("mae", {"ratio": 1.0}, "ratio"),
        ("mae", {"crop": [0.9, 0.2]}, "crop"),
        ("gmml", {"noise": [0.5, 1.0]}, "noise"),
        ("multitask", {"weights": "learnt"}, "weights"),
    ],
)
def test_wrong_settings_are_named(task, options, said) -> None:
    with pytest.raises(UsageError, match=said):
        pretext_config(task, options)


def test_published_settings() -> None:
    mae = pretext_config("mae")
    assert isinstance(mae, MaeConfig)
    assert (mae.ratio, mae.crop, mae.normalise) == (0.9, (0.5, 1.0), False)
    multitask = pretext_config("multitask")
    assert isinstance(multitask, MultitaskConfig)
    assert (multitask.temperature, multitask.embedding) == (0.5, 512)
