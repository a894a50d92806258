"""What every forecaster of the catalog owes."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from apps.timeseries import catalog
from apps.timeseries.models.base import Forecaster, Shape, build, option_defaults
from core.errors import UsageError

SMALL: dict[str, dict[str, Any]] = {
    "itransformer": {"dim": 16, "ffn": 24, "heads": 4},
    "s-mamba": {"dim": 16, "ffn": 24},
    "bimamba": {"patch": 6, "dim": 12},
    "patchtst": {"patch": 6, "stride": 3, "dim": 12, "ffn": 24, "heads": 2},
    "dlinear": {"kernel": 5},
    "olinear": {"dim": 16, "ffn": 24, "embed": 4},
    "autoformer": {"dim": 16, "ffn": 24, "label": 7},
    "timelygpt": {"patch": 4, "span": 8, "dim": 16, "heads": 2, "ffn": 24},
    "gpht": {"token": 8, "pools": (4, 1), "dim": 16, "heads": 2, "ffn": 24},
}
# A constant added to every lag's correlation changes no softmax; it is none where the decoder is the
# longer, as at the published sizes.
DEAD = {"autoformer": {"decoder.0.cross.k.bias"}}
# lookback, horizon, variates: even, odd and prime, one variate, one step, more ahead than behind.
SIZES = [(24, 8, 3), (37, 13, 2), (35, 1, 1), (17, 41, 4)]


def ready(name: str) -> Any:
    module = f"apps.timeseries.models.{catalog.MODELS[name].module}"
    gone = pytest.mark.skipif(find_spec(module) is None, reason="not there yet")
    return pytest.param(name, marks=gone)


every_model = pytest.mark.parametrize("name", [ready(name) for name in catalog.MODELS])


def make(
    name: str, sizes: tuple[int, int, int] = SIZES[0], *, seed: int = 0, **more: int
) -> Forecaster:
    """In ``eval``, its statistics fitted, with weights that leave nothing at zero."""
    lookback, horizon, variates = sizes
    torch.manual_seed(seed)
    shape = Shape(lookback=lookback, horizon=horizon, variates=variates, **more)
    model = build(name, shape, **SMALL[name])
    model.fit_statistics(series(1, 300, variates, seed=7)[0])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def series(batch: int, length: int, variates: int, seed: int = 1) -> Tensor:
    """Cycles of 12 stamps with noise, each variate and window at a level of its own."""
    g = torch.Generator().manual_seed(seed)
    wave = torch.sin(torch.arange(length)[:, None] * torch.pi / 6 + torch.arange(variates))
    noise = torch.randn(batch, length, variates, generator=g)
    return wave + 0.3 * noise + torch.randn(batch, 1, variates, generator=g)


def inputs(model: Forecaster, batch: int = 3, seed: int = 1) -> dict[str, Tensor]:
    s = model.shape
    given = {"x": series(batch, s.lookback, s.variates, seed)}
    if s.past:
        given["past"] = series(batch, s.lookback, s.past, seed + 100)
    if s.known:
        given["known"] = series(batch, s.lookback + s.horizon, s.known, seed + 200)
    return given


def covariates(name: str) -> dict[str, int]:
    """Two of each kind that the model takes."""
    return {kind: 2 for kind in catalog.MODELS[name].covariates}


def test_the_table_is_complete() -> None:
    assert set(SMALL) == set(catalog.MODELS)


@every_model
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("outputs", [1, 3])
@torch.no_grad()
def test_shape_and_determinism(name: str, sizes: tuple[int, int, int], outputs: int) -> None:
    model = make(name, sizes, outputs=outputs)
    given = inputs(model)
    kept = {key: value.clone() for key, value in given.items()}
    state = torch.get_rng_state()
    y = model(**given)
    assert y.shape == (3, *sizes[1:], *([outputs] if outputs > 1 else []))
    assert y.isfinite().all()
    assert torch.equal(model(**given), y), "twice the same"
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    assert all(torch.equal(given[key], kept[key]) for key in kept), "what is given stays"


@every_model
@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_windows_do_not_meet(name: str, sizes: tuple[int, int, int]) -> None:
    model = make(name, sizes, **covariates(name))
    given = inputs(model, 4)
    y = model(**given)
    others = inputs(model, 4, seed=2)
    changed = {key: torch.cat((value[:1], others[key][1:])) for key, value in given.items()}
    assert torch.equal(model(**changed)[0], y[0]), "other windows of the batch"
    for i in range(4):
        alone = model(**{key: value[i : i + 1] for key, value in given.items()})
        torch.testing.assert_close(alone[0], y[i], rtol=1e-4, atol=1e-5)


@every_model
@torch.no_grad()
def test_nothing_after_the_window_matters_but_known_covariates(name: str) -> None:
    model = make(name, **covariates(name))
    L, H = model.shape.lookback, model.shape.horizon
    rows = inputs(model)
    for key in ("x", "past"):
        if key in rows:  # the window is a view of rows that go on
            rows[key] = torch.cat((rows[key], torch.zeros(3, H, rows[key].shape[2])), 1)

    def forecast() -> Tensor:
        return model(**{k: v if k == "known" else v[:, :L] for k, v in rows.items()})

    y = forecast()
    for key in ("x", "past"):
        if key in rows:
            rows[key][:, L:] = torch.nan
    assert torch.equal(forecast(), y)
    if "known" in rows:
        rows["known"][:, L:] += 1.0
        assert not torch.equal(forecast(), y)


@every_model
@pytest.mark.parametrize("kind", ["past", "known"])
def test_covariates_count_or_are_refused(name: str, kind: str) -> None:
    if kind not in catalog.MODELS[name].covariates:
        with pytest.raises(UsageError, match=f"cannot use {kind} covariates"):
            make(name, **{kind: 1})
        return
    model = make(name, **{kind: 1})
    given = inputs(model)
    y = model(**given)
    given[kind] = inputs(model, seed=3)[kind]
    assert not torch.equal(model(**given), y)


@every_model
@torch.no_grad()
def test_variates_meet_where_the_catalog_says_so(name: str) -> None:
    model = make(name)
    x = inputs(model)["x"]
    y = model(x)
    other = x.clone()
    other[..., 0] = inputs(model, seed=4)["x"][..., 0]
    z = model(other)
    assert not torch.equal(z[..., 0], y[..., 0])
    assert torch.equal(z[..., 1:], y[..., 1:]) != catalog.MODELS[name].joint


@every_model
@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_reach_every_parameter(name: str, outputs: int) -> None:
    """In float64, where what should be zero is and a small gradient is not taken for one."""
    model = make(name, outputs=outputs, **covariates(name)).double().train()
    given = {key: value.double() for key, value in inputs(model).items()}
    given["x"].requires_grad_()
    y = model(**given)
    (y * torch.randn_like(y)).sum().backward()
    assert given["x"].grad is not None
    assert given["x"].grad.isfinite().all()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        if key in DEAD.get(name, set()):
            assert p.grad.abs().max() < 1e-12, f"{key} has come alive"
        else:
            assert p.grad.abs().max() > 1e-9, f"{key} is dead"


@every_model
@pytest.mark.parametrize("level", [0.0, 1e-3, 1e4])
def test_constant_windows(name: str, level: float) -> None:
    model = make(name).train()
    x = torch.full((2, model.shape.lookback, model.shape.variates), level)
    x[1, :, 0] = torch.arange(model.shape.lookback)  # beside one that is not
    y = model(x)
    y.square().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(x).isfinite().all()


@every_model
@torch.no_grad()
def test_state_makes_another_the_same(name: str) -> None:
    model, other = make(name, **covariates(name)), make(name, seed=1, **covariates(name))
    given = inputs(model)
    assert not torch.equal(other(**given), model(**given))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(**given), model(**given))


@every_model
@torch.no_grad()
def test_float64(name: str) -> None:
    model = make(name, **covariates(name))
    given = inputs(model)
    y = model(**given)
    wide = model.double()(**{key: value.double() for key, value in given.items()})
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), y, rtol=1e-3, atol=1e-3)


@every_model
def test_options(name: str) -> None:
    defaults = option_defaults(name)
    json.dumps(defaults)  # they are stored with the weights
    assert set(catalog.MODELS[name].recipe.options) <= set(defaults)
    shape = Shape(lookback=24, horizon=8, variates=2)
    first = next(iter(defaults))
    with pytest.raises(UsageError, match=f"Did you mean '{first}'"):
        build(name, shape, **{first + "x": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        shape.lookback = 3  # type: ignore[misc]
