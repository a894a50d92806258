"""ShapeFormer: its branches by hand, unequal lengths behind masks, and no batch-mates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.timeseries.classification.shapeformer import ShapeFormer, ShapeFormerConfig
from apps.timeseries.classification.shapelets import Shapelet
from core.errors import UsageError

LENGTHS = torch.tensor([20, 13, 4])


def make() -> tuple[ShapeFormer, list[Shapelet]]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shapelets = [
        Shapelet(rng.normal(size=size), channel, start, 0, label, gain)
        for size, channel, start, label, gain in [
            (5, 0, 3, 0, 0.9),
            (8, 2, 12, 0, 0.3),
            (3, 1, 0, 1, 0.6),
        ]
    ]
    config = ShapeFormerConfig(
        channels=3,
        classes=2,
        length=20,
        sizes=(5, 8, 3),
        window=4,
        dim=8,
        generic_dim=6,
        heads=2,
        ffn=12,
    )
    model = ShapeFormer(config).eval()
    model.set_shapelets(shapelets)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model, shapelets


def series(T: int = 20) -> Tensor:
    return torch.randn(3, 3, T, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_matches_are_the_nearest_stretches() -> None:
    model, shapelets = make()
    x = series()
    values, found = model.match(x, LENGTHS)
    assert values.shape == (3, 3, 8)
    assert found.tolist() == [[True] * 3, [True] * 3, [False, False, True]]
    for b, length in enumerate(LENGTHS.tolist()):
        for s, shapelet in enumerate(shapelets):
            size = len(shapelet.values)
            own = torch.from_numpy(shapelet.values).float()
            start = min(shapelet.start, max(0, length - size))
            best, want = float("inf"), torch.zeros(size)
            for p in range(max(0, start - 4), min(start + 4, length - size) + 1):
                w = x[b, shapelet.channel, p : p + size]
                ce = [0.001 + v.diff().square().sum() for v in (own, w)]
                away = float((own - w).square().sum() * max(ce) / min(ce))
                if away < best:
                    best, want = away, w
            torch.testing.assert_close(values[b, s, :size], want)
            assert not values[b, s, size:].any()


@torch.no_grad()
def test_class_tokens_are_differences() -> None:
    """A match equal to its shapelet, read by equal maps, leaves only the embeddings."""
    model, shapelets = make()
    model.of_match.copy_(model.of_shapelet)
    model.bias.zero_()
    x = series()
    for s in shapelets:
        x[0, s.channel, s.start : s.end] = torch.from_numpy(s.values).float()
    matches = model.match(x, LENGTHS)
    same = matches.values[0] - model.values
    assert same.abs().max() < 1e-6
    tokens = (
        model.channel_embedding(torch.tensor([0, 2, 1]))
        + model.start_embedding(torch.tensor([3, 12, 0]))
        + model.end_embedding(torch.tensor([8, 20, 3]))
    )
    weight = model.weight[:, None]
    want = (model.class_layer((tokens * weight)[None]) * weight).mean(1)
    torch.testing.assert_close(model.of_classes(matches)[:1], want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_begin_as_gains() -> None:
    model, shapelets = make()
    model.set_shapelets(shapelets)
    torch.testing.assert_close(model.weight, torch.tensor([1.5, 0.5, 1.0]))


@torch.no_grad()
def test_what_lies_beyond_a_series_end_changes_nothing() -> None:
    model, _ = make()
    x = series()
    y = model(x, LENGTHS)
    assert y.shape == (3, 2)
    other = x.clone()
    for b, length in enumerate(LENGTHS.tolist()):
        other[b, :, length:] = 1e3
    assert torch.equal(model(other, LENGTHS), y)
    # Nor how far a batch is padded, beyond the longest training series too; nor batch-mates.
    longer = torch.cat([x, torch.zeros(3, 3, 15)], 2)
    torch.testing.assert_close(model(longer, LENGTHS), y, rtol=1e-5, atol=1e-5)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = model(x[b : b + 1, :, :length], LENGTHS[b : b + 1])
        torch.testing.assert_close(alone[0], y[b], rtol=1e-5, atol=1e-5)
    # What lies inside does change something.
    other = x.clone()
    other[1, 0, 12] += 1
    assert not torch.equal(model(other, LENGTHS)[1], y[1])
    assert torch.equal(model(other, LENGTHS)[0], y[0])


def test_every_parameter_learns() -> None:
    model, _ = make()
    model.train()
    x = series()
    model(x, LENGTHS, model.match(x, LENGTHS)).square().sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.abs().max() > 1e-7, f"{key} is dead"


@pytest.mark.parametrize("sizes", [(), (1, 5), (21,)])
def test_sizes_are_checked(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="give at least one"):
        ShapeFormer(ShapeFormerConfig(channels=1, classes=2, length=20, sizes=sizes, window=3))
