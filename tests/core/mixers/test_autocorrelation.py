"""Autocorrelation: against its definition lag by lag, transformers' layer, and known periods."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UsageError
from core.mixers import autocorrelation as module
from core.mixers import build_mixer, mixer_config
from core.mixers.autocorrelation import (
    Autocorrelation,
    AutocorrelationConfig,
    lag_scores,
    lag_weights,
    lags_kept,
    shifted,
)
from core.mixers.base import BlockContext

LENGTHS = [(1, 1), (2, 2), (13, 13), (97, 97), (12, 5), (13, 1), (96, 48)]


def noise(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make(dim: int = 8, cross: bool = False, **options: Any) -> Autocorrelation:
    torch.manual_seed(0)
    config = AutocorrelationConfig(**options)
    return Autocorrelation(config, BlockContext(dim=dim, rank=1), cross=cross).double().eval()


def definition(mixer: Autocorrelation, x: Tensor, other: Tensor) -> Tensor:
    """Project, pad, score every lag, roll by the best ones, project: as in the paper."""
    L, C = x.shape[1:]
    q, k, v = mixer.q(x), mixer.k(other)[:, :L], mixer.v(other)[:, :L]
    missing = torch.zeros(len(x), L - k.shape[1], C, dtype=x.dtype)
    k, v = torch.cat((k, missing), 1), torch.cat((v, missing), 1)
    scores = torch.stack([(q.roll(-t, 1) * k).sum(1).mean(-1) for t in range(L)], 1)
    kept = min(max(int(mixer.factor * math.log(L)), 1), L)
    shared = mixer.training and mixer.delays == "batch"
    y = []
    for i in range(len(x)):
        lags = (scores.mean(0) if shared else scores[i]).topk(kept).indices
        weights = scores[i][lags].softmax(0)
        y.append(sum(w * v[i].roll(-int(t), 0) for w, t in zip(weights, lags, strict=True)))
    return mixer.proj(torch.stack(y))


@pytest.mark.parametrize("fourier", [False, True])
@pytest.mark.parametrize(("L", "M"), LENGTHS)
def test_scores_and_shifts_at_every_length(
    L: int, M: int, fourier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "by_fourier", lambda *sizes: fourier)
    q, k, weights = noise(3, L, 4), noise(3, M, 4, seed=2), noise(3, L, seed=3).softmax(-1)
    padded = torch.cat((k, torch.zeros(3, L - M, 4, dtype=k.dtype)), 1)
    scores = torch.stack([(q.roll(-t, 1) * padded).sum((1, 2)) for t in range(L)], 1)
    torch.testing.assert_close(lag_scores(q, k), scores)
    rolled = sum(weights[:, t, None, None] * padded.roll(-t, 1) for t in range(L))
    torch.testing.assert_close(shifted(k, weights), rolled)


@pytest.mark.parametrize("fourier", [False, True])
@pytest.mark.parametrize("delays", ["batch", "sample"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("L", "M"), [(13, 13), (24, 11), (11, 24)])
def test_equals_the_definition_gradients_included(
    L: int, M: int, training: bool, delays: str, fourier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "by_fourier", lambda *sizes: fourier)
    mixer = make(cross=True, factor=2.0, delays=delays).train(training)
    # Few positions are projected one weight after the other, many by the product of two.
    for batch in (1, 4):
        x, other = noise(batch, L, 8).requires_grad_(), noise(batch, M, 8, seed=2).requires_grad_()
        inputs = [x, other, *mixer.parameters()]
        wanted, got = definition(mixer, x, other), mixer.mix(x, other)
        torch.testing.assert_close(got, wanted)
        weight = noise(*got.shape, seed=3)
        # The bias of the keys has none where it changes every score alike.
        options = {"allow_unused": True, "materialize_grads": True}
        pairs = zip(
            torch.autograd.grad((got * weight).sum(), inputs, **options),
            torch.autograd.grad((wanted * weight).sum(), inputs, **options),
            strict=True,
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("fourier", [False, True])
@pytest.mark.parametrize(("L", "M"), [(6, 6), (7, 3)])
def test_gradients_of_scores_and_shifts(
    L: int, M: int, fourier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against finite differences, the second too; examples one by one."""
    monkeypatch.setattr(module, "by_fourier", lambda *sizes: fourier)
    monkeypatch.setattr(module, "BLOCK", 1)
    q, k, weights = noise(2, L, 3), noise(2, M, 3, seed=2), noise(2, L, seed=3)
    for function, inputs in ((lag_scores, (q, k)), (shifted, (k, weights))):
        given = tuple(x.requires_grad_() for x in inputs)
        assert torch.autograd.gradcheck(function, given)
        assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize("fourier", [False, True])
def test_a_few_examples_at_a_time_under_autocast(
    fourier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 products, float32 gradients to float32 inputs, whatever the number at a time."""
    monkeypatch.setattr(module, "by_fourier", lambda *sizes: fourier)
    mixer = make(cross=True, factor=2.0).float().train()
    found = []
    for block in (1, 2**20):
        monkeypatch.setattr(module, "BLOCK", block)
        x, other = (noise(4, n, 8, seed=n).float().requires_grad_() for n in (40, 24))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = mixer.mix(x, other)
        y.float().square().sum().backward()
        assert x.grad is not None
        assert other.grad is not None
        assert x.grad.dtype == other.grad.dtype == torch.float32
        found.append((y.detach().float(), x.grad, other.grad))
    plain = mixer.mix(noise(4, 40, 8, seed=40).float(), noise(4, 24, 8, seed=24).float()).detach()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))
    assert float((found[0][0] - plain).abs().max()) < 0.1 * float(plain.abs().max())


def test_fourier_where_it_costs_less() -> None:
    for positions, channels, dtype, wanted in (
        (144, 512, torch.float32, False),
        (384, 512, torch.float32, True),
        (768, 512, torch.bfloat16, False),
        (1536, 512, torch.bfloat16, True),
        (768, 64, torch.bfloat16, True),
    ):
        assert module.by_fourier(positions, channels, dtype) is wanted


@pytest.mark.parametrize(("heads", "batch"), [(1, 3), (2, 1)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("L", [16, 17])
def test_equals_transformers(L: int, training: bool, heads: int, batch: int) -> None:
    # Not several heads of several examples: there the layer gives example i the lags of another.
    autoformer = pytest.importorskip("transformers.models.autoformer.modeling_autoformer")
    theirs = autoformer.AutoformerAttention(8, heads, autocorrelation_factor=2)
    ours = make(factor=2.0).float()
    state = theirs.state_dict()
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "out_proj"}
    # Biases of queries and keys, which are not zero, change nothing.
    assert state["q_proj.bias"].abs().min() > 0
    mapped = {
        f"{mine}.{kind}": state[f"{name}.{kind}"]
        for mine, name in names.items()
        for kind in ("weight", "bias")
        if f"{mine}.{kind}" in ours.state_dict()
    }
    ours.load_state_dict(mapped)
    x = noise(batch, L, 8).float()
    ours.train(training)
    theirs.train(training)
    torch.testing.assert_close(ours(x), theirs(x)[0])


@pytest.mark.parametrize("L", [96, 97])
def test_finds_the_delay_of_odd_lengths_too(L: int) -> None:
    k = noise(1, L, 1)
    for delay in (1, 60, L - 1):
        scores = lag_scores(k.roll(delay, 1), k)
        assert scores.shape == (1, L)
        assert int(scores.argmax()) == delay
        # A key matches the query `delay` later, so the value moves by as much.
        moved = shifted(k, lag_weights(scores, 1))
        torch.testing.assert_close(moved, k.roll(-delay, 1))


def test_lags_of_an_example_are_its_own_outside_training() -> None:
    mixer = make(factor=1.0)
    x = noise(4, 20, 8)
    alone = torch.cat([mixer(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(mixer(x), alone)
    mixer.train()
    assert (mixer(x) - alone).abs().max() > 1e-3, "in training they share theirs"
    own = make(factor=1.0, delays="sample").train()
    torch.testing.assert_close(own(x), alone)


def test_weights_and_how_many() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    e = math.e
    torch.testing.assert_close(
        lag_weights(scores, 2),
        torch.tensor([[0, e / (1 + e), 1 / (1 + e)], [e / (1 + e), 0, 1 / (1 + e)]]),
    )
    shared = lag_weights(scores, 1, shared=True)  # means 3, 1.5, 3: the first or the last
    assert torch.equal(shared[0], shared[1])
    assert [lags_kept(L, 3.0) for L in (1, 2, 3, 96, 144)] == [1, 2, 3, 13, 14]
    assert lags_kept(96, 1.0) == 4
    assert lags_kept(5, 100.0) == 5
    assert lags_kept(5, 1e-9) == 1


def test_mistakes_are_explained() -> None:
    context = BlockContext(dim=8, rank=1)
    with pytest.raises(UsageError, match="factor 0: must be above 0"):
        build_mixer(mixer_config("autocorrelation", factor=0), context)
    with pytest.raises(UsageError, match="Did you mean 'batch'"):
        build_mixer(mixer_config("autocorrelation", delays="batches"), context)
