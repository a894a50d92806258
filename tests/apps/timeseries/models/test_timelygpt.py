"""TimelyGPT: causal to the bit, three forms of one result, and streaming in constant memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from apps.timeseries.models.base import Shape, build
from apps.timeseries.models.timelygpt import TimelyGPT
from core.errors import UsageError

SMALL = {"patch": 4, "span": 8, "dim": 16, "heads": 2, "ffn": 24, "kernel": 5}


def make(
    lookback: int = 24, horizon: int = 12, variates: int = 2, outputs: int = 1, **options: Any
) -> TimelyGPT:
    torch.manual_seed(0)
    shape = Shape(lookback=lookback, horizon=horizon, variates=variates, outputs=outputs)
    model = build("timelygpt", shape, **{**SMALL, **options}).eval()
    assert isinstance(model, TimelyGPT)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def walk(*shape: int, seed: int = 1) -> Tensor:
    """Random walks along axis 1, far from zero."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return 5.0 + noise.cumsum(1)


def streamed(model: TimelyGPT, x: Tensor) -> Tensor:
    """(B, T, N) patch by patch: what ``forecasts`` returns."""
    state, found = None, []
    for patch in x.split(model.patch, 1):
        y, state = model.step(patch, state)
        found.append(y)
    return torch.stack(found, 1)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("horizon", [1, 8, 12, 29])
@torch.no_grad()
def test_shapes_and_any_horizon(horizon: int, outputs: int) -> None:
    model, x = make(horizon=12, outputs=outputs), walk(3, 26, 2)
    q = (outputs,) if outputs > 1 else ()
    assert model(x).shape == (3, 12, 2, *q)
    y = model.generate(x, horizon)
    assert y.shape == (3, horizon, 2, *q)
    assert y.isfinite().all()
    # Shorter horizons are the start of longer ones, and two stamps too many are not looked at.
    torch.testing.assert_close(y, model.generate(x, 40)[:, :horizon], rtol=1e-5, atol=1e-4)
    assert torch.equal(y, model.generate(x[:, 2:], horizon))


@pytest.mark.parametrize("outputs", [1, 3])
@torch.no_grad()
def test_steps_and_passes_generate_the_same(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make(outputs=outputs), walk(3, 26, 2)
    want = model.generate(x, 29)
    monkeypatch.setattr("torch.compiler.is_exporting", lambda: True)
    torch.testing.assert_close(model.generate(x, 29), want, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_what_comes_later_changes_no_bit() -> None:
    model, x = make(), walk(2, 160, 2)
    y = model.forecasts(x)
    for t in (0, 3, 4, 79, 80, 156, 159):
        other = x.clone()
        other[:, t] += 100.0
        changed = model.forecasts(other)
        assert torch.equal(changed[:, : t // 4], y[:, : t // 4])
        assert (changed[:, t // 4 :] != y[:, t // 4 :]).any((0, 2, 3)).all()


@torch.no_grad()
def test_tokens_forecast_like_windows_that_end_there() -> None:
    model, x = make(), walk(2, 48, 2)
    y = model.forecasts(x)
    for i in (0, 5, 11):
        alone = model.generate(x[:, : 4 * (i + 1)], 8)
        torch.testing.assert_close(y[:, i], alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("length", [4, 100, 600])
@torch.no_grad()
def test_three_forms_and_streaming_agree(length: int) -> None:
    x = walk(2, length, 2)
    want = make(form="parallel").double().forecasts(x.double()).float()
    scale = want.abs().max()
    for form in ("parallel", "chunkwise", "recurrent"):
        found = make(form=form).forecasts(x)
        assert (found - want).abs().max() < 1e-5 * scale, form
    assert (streamed(make(), x) - want).abs().max() < 1e-5 * scale


@torch.no_grad()
def test_long_sequences_stay_finite_and_equal() -> None:
    """5,200 tokens, one a stamp, in float32: published xPos factors would reach 3.5^10."""
    model = make(patch=1, span=2, depth=1)
    x = walk(1, 5200, 1)
    want = model.double().forecasts(x.double()).float()
    found = model.float().forecasts(x)
    assert (found - want).abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
def test_memory_of_a_stream_is_constant() -> None:
    model, x = make(), walk(2, 400, 2)
    state, sizes = None, set()
    for patch in x.split(4, 1):
        _, state = model.step(patch, state)
        memory = [*state.trunk, state.running]
        sizes.add(sum(t.numel() for part in memory for t in part))
    assert len(sizes) == 1


@pytest.mark.parametrize("form", ["parallel", "chunkwise", "recurrent"])
def test_generating_has_the_same_gradients_in_every_form(form: str) -> None:
    want = make(form="parallel").double()
    model = make(form=form).double()
    x = walk(2, 24, 2).double()
    for m in (want, model):
        m.generate(x, 30).square().sum().backward()
    for (key, a), b in zip(want.named_parameters(), model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-7, atol=1e-7, msg=key)


@pytest.mark.parametrize("outputs", [1, 3])
def test_training_loss_is_that_of_every_counted_token(outputs: int) -> None:
    model = make(lookback=26, horizon=12, outputs=outputs, warmup=0.5)
    values = walk(3, 38, 2)
    x, y = values[:, :26], values[:, 26:]
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(found: Tensor, truth: Tensor) -> Tensor:
        seen.append((found, truth))
        return (found[..., 0] if outputs > 1 else found).sub(truth).square().mean()

    got = model.training_loss(x, y, None, None, loss)
    # Patches end 6, 10, 14 ... stamps into the window; half of 26 have passed at 18 (16 after the
    # two left out), and 8 stamps after 30 are the last.
    ends = [18, 22, 26, 30]
    found, truth = (t.unflatten(0, (3, len(ends))) for t in seen[0])
    assert len(seen) == 1
    for i, end in enumerate(ends):
        assert torch.equal(truth[:, i], values[:, end : end + 8])
        with torch.no_grad():
            alone = model.generate(values[:, :end], 8)
        torch.testing.assert_close(found[:, i], alone, rtol=1e-5, atol=1e-4)
    got.backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all()
        if outputs == 1:
            assert p.grad.abs().max() > 0, f"{key} is dead"


def test_training_loss_of_a_window_too_short_for_its_span() -> None:
    model = make(lookback=4, horizon=6)
    values = walk(3, 10, 2)
    found = model.training_loss(
        values[:, :4], values[:, 4:], None, None, lambda a, b: (a - b).square().mean()
    )
    want = (model(values[:, :4]) - values[:, 4:]).square().mean()
    torch.testing.assert_close(found, want)


@torch.no_grad()
def test_level_and_scale_of_a_series_come_back() -> None:
    model, x = make(), walk(2, 24, 2).double()
    model = model.double()
    moved = model(1000.0 + 50.0 * x)
    torch.testing.assert_close(moved, 1000.0 + 50.0 * model(x), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_constant_and_distant_series() -> None:
    model = make()
    flat = model(torch.full((1, 24, 2), 7.0))
    assert (flat - 7.0).abs().max() < 0.1
    x = walk(2, 24, 2)
    far = model(1000.0 + x)
    torch.testing.assert_close(far - 1000.0, model(x), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_variates_do_not_meet() -> None:
    model, x = make(), walk(2, 24, 2)
    other = x.clone()
    other[:, :, 1] += walk(2, 24, seed=3)
    assert torch.equal(model(other)[..., 0], model(x)[..., 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, "multiple of patch"),
        ({"patch": 0}, "multiple of patch"),
        ({"lookback": 3}, "smaller option patch"),
        ({"heads": 3}, "must divide"),
        ({"warmup": 1.0}, "warmup 1.0"),
        ({"kernel": 0}, "at least 1"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_a_step_takes_one_patch() -> None:
    with pytest.raises(UsageError, match=r"\(B, 4, N\) at a time"):
        make().step(torch.zeros(1, 3, 2))
