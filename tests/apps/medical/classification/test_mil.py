"""R2T-MIL against a slow reading of the paper, one region and one representative at a time.

There is no installable reference; against the authors' code (DearCaat/RRT-MIL at 7ecbdfb, not part of
this repository) the logits of three configurations at 1 to 1000 instances differ by 2e-7 at most.
"""

from __future__ import annotations

import math

import pytest
import torch

from apps.medical.classification.mil import (
    R2TMIL,
    CrossRegionAttention,
    R2TConfig,
    RegionLayer,
    ScoreAttention,
    from_authors,
)
from core.errors import UsageError

SMALL = R2TConfig(
    in_dim=7, dim=12, classes=3, regions=2, heads=3, epeg=3, cross_heads=2, layers=2, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip


def made(config: R2TConfig = SMALL, **options) -> R2TMIL:
    torch.manual_seed(0)
    return R2TMIL(config, **options).double().eval()


def squares(n: int, regions: int) -> list[list[int]]:
    """Which instances lie in each region of the square: by coordinates, without padding."""
    side = math.isqrt(n - 1) + 1
    side = -(-side // regions) * regions
    size = side // regions
    found: list[list[int]] = [[] for _ in range(regions**2)]
    for i in range(n):
        row, column = divmod(i, side)
        found[row // size * regions + column // size].append(i)
    return found


def slow_attention(layer: ScoreAttention, x: torch.Tensor) -> torch.Tensor:
    """(L, C): softmax(S + conv(S)) V, where conv runs along the queries."""
    L, C = x.shape
    h, c = layer.heads, C // layer.heads
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(C, -1)
    out = []
    for head in range(h):
        at = slice(head * c, (head + 1) * c)
        S = q[:, at] @ k[:, at].T / math.sqrt(c)
        if layer.conv is not None:
            weight, bias = layer.conv.weight[head, 0, :, 0], layer.conv.bias[head]
            half = len(weight) // 2
            extra = torch.zeros_like(S) + bias
            for i in range(L):
                for t in range(len(weight)):
                    if 0 <= i + t - half < L:
                        extra[i] = extra[i] + weight[t] * S[i + t - half]
            S = S + extra
        out.append(S.softmax(1) @ v[:, at])
    return torch.cat(out, 1) @ layer.proj.weight.T + layer.proj.bias


def slow_layer(layer: RegionLayer, x: torch.Tensor) -> torch.Tensor:
    """(N, C), full regions only: no padding exists here at all."""
    n = layer.norm(x)
    regions = [r for r in squares(len(x), layer.regions) if r]
    y = torch.zeros_like(x)
    if not isinstance(layer.mixer, CrossRegionAttention):
        for own in regions:
            y[own] = slow_attention(layer.mixer.attention, n[own])
        return x + y
    scores = [layer.mixer.phi(n[own]) for own in regions]  # (P, k)
    for r in range(scores[0].shape[1]):
        sent = torch.stack([s[:, r].softmax(0) @ n[own] for s, own in zip(scores, regions)])
        back = slow_attention(layer.mixer.attention, sent)
        for s, own, answer in zip(scores, regions, back):
            low, high = s[:, r].min(), s[:, r].max()
            share = (s[:, r] - low) / (high - low + 1e-8) * s.softmax(1)[:, r]
            y[own] += share[:, None] * answer
    return x + y


@pytest.mark.parametrize("instances", [16, 36, 64])
@pytest.mark.parametrize("padding", ["masked", "attended"])
def test_full_squares_equal_the_paper_read_slowly(instances: int, padding: str) -> None:
    network = made(R2TConfig(**{**vars(SMALL), "padding": padding}))
    x = torch.randn(instances, 12, dtype=torch.float64)
    for layer in network.layers:
        with torch.no_grad():
            torch.testing.assert_close(layer(x[None])[0], slow_layer(layer, x))


def test_cross_region_attention_of_a_square_that_is_not_full() -> None:
    """The last region lacks instances, and one further has none: they take no part."""
    network = made(R2TConfig(**{**vars(SMALL), "regions": 3}))
    cross = network.layers[-1]
    assert isinstance(cross, RegionLayer)
    x = torch.randn(23, 12, dtype=torch.float64)  # 6 x 6, rows 4 and 5 empty but for none
    assert [len(r) for r in squares(23, 3)] == [4, 4, 4, 4, 4, 3, 0, 0, 0]
    with torch.no_grad():
        torch.testing.assert_close(cross(x[None])[0], slow_layer(cross, x))


@pytest.mark.parametrize("instances", [1, 2, 5, 17, 23, 50])
def test_masked_padding_has_no_influence(instances: int, monkeypatch) -> None:
    """Whatever stands in the padding, the result is the same; under "attended" it is not."""
    from apps.medical.classification import mil

    x = torch.randn(1, instances, 7, dtype=torch.float64)
    plain = mil._regions

    def dirty(x: torch.Tensor, side: int, regions: int) -> torch.Tensor:
        if x.dtype == torch.bool:
            return plain(x, side, regions)
        more = torch.full((1, side * side - x.shape[1], x.shape[2]), 3.0, dtype=x.dtype)
        return plain(torch.cat((x, more), 1), side, regions)

    network = made()
    with torch.no_grad():
        wanted = network(x)
        monkeypatch.setattr(mil, "_regions", dirty)
        torch.testing.assert_close(network(x), wanted)
        assert torch.isfinite(wanted).all()
    if instances == 23:
        attended = made(R2TConfig(**{**vars(SMALL), "padding": "attended"}))
        with torch.no_grad():
            changed = attended(x)
            monkeypatch.setattr(mil, "_regions", plain)
            assert not torch.allclose(attended(x), changed)


@pytest.mark.parametrize("instances", [1, 3, 30])
@pytest.mark.parametrize("options", [{}, {"mlp": True, "gated": True, "shortcut": True}])
def test_everything_learns(instances: int, options: dict) -> None:
    network = R2TMIL(R2TConfig(**{**vars(SMALL), **options}))
    network(torch.randn(2, instances, 7)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    if instances == 30:
        dead = [n for n, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
        # Of the biases that are added to every score of a softmax alike nothing can be learned.
        assert [n for n in dead if not n.endswith("bias")] == []


def test_attention_says_which_instances_count() -> None:
    network = made()
    with torch.no_grad():
        vector, weights = network.attend(torch.randn(1, 40, 7, dtype=torch.float64))
    assert weights.shape == (1, 40)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert vector.shape == (1, 12)


def test_pooling_alone_does_not_see_the_order() -> None:
    """AB-MIL is a function of the set; R2T-MIL, whose regions follow the order, is not."""
    x = torch.randn(1, 30, 7, dtype=torch.float64)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    plain, regions = made(reembed=False), made()
    with torch.no_grad():
        torch.testing.assert_close(plain(x), plain(x[:, order]))
        assert not torch.allclose(regions(x), regions(x[:, order]))


def test_published_size() -> None:
    """2.70 M parameters from 1024 features, counted of the authors' class: 2,697,474."""
    network = R2TMIL(R2TConfig())
    assert sum(p.numel() for p in network.parameters()) == 2_697_474


def test_the_authors_names_are_mapped_one_to_one() -> None:
    """Their state dict, made from ours by their scheme, comes back as it was."""
    network = made()
    theirs = {}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layers":
            place = "cr_msa" if parts[1] == "2" else f"layers.{parts[1]}"
            rest = ".".join(parts[2:]).replace("mixer.attention", "attn.attn")
            rest = rest.replace("attn.conv", "attn.pe").replace("mixer.phi.weight", "attn.phi")
            value = value.T if rest == "attn.phi" else value
            theirs[f"online_encoder.{place}.{rest}"] = value
        else:
            start = {
                "embed": "patch_to_emb.0", "norm": "online_encoder.norm", "head": "predictor",
                "pool": "pool_fn.attention.attention",
            }[parts[0]]  # fmt: skip
            if parts[0] == "pool":
                parts = [parts[0], {"value": "0", "score": "2"}[parts[1]], *parts[2:]]
            theirs[".".join([start, *parts[1:]])] = value
    back = from_authors(theirs)
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(back[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 10, "heads": 3}, "do not divide"),
        ({"epeg": 4}, "odd"),
        ({"regions": 0}, "at least 1"),
        ({"padding": "none"}, "masked or attended"),
    ],
)
def test_what_is_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        R2TConfig(**options)


def test_a_bag_of_another_width_is_named() -> None:
    with pytest.raises(UsageError, match=r"wants \(B, N, 7\)"):
        made()(torch.zeros(1, 5, 9, dtype=torch.float64))
