"""The three forms of retention against its definition, pair by pair, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UsageError
from core.ops.retention import PARALLEL, retention, retention_step

FORMS = ("auto", "parallel", "recurrent", "chunkwise")
LENGTHS = (1, 63, 64, 65, 257)


def make(length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "q": normal(2, length, 3, 4),
        "k": normal(2, length, 3, 4),
        "v": normal(2, length, 3, 5),
        "decay": torch.tensor([0.5, 0.9, 0.99], dtype=dtype),
        "initial_state": normal(2, 3, 4, 5),
    }


def definition(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, initial_state: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """sum over j of decay^|i - j| (q[i] . k[j]) v[j], and the state as a sum over all steps."""
    steps = torch.arange(q.shape[1])
    weight = decay[:, None, None] ** (steps[:, None] - steps).abs()
    if causal:
        weight = weight * (steps[:, None] >= steps)
    y = torch.einsum("bihn,bjhn,hij,bjhp->bihp", q, k, weight, v)
    state = torch.einsum("hj,bjhn,bjhp->bhnp", decay[:, None] ** (len(steps) - 1 - steps), k, v)
    if initial_state is not None:
        since = decay ** (steps[:, None] + 1)
        y = y + torch.einsum("bihn,bhnp,ih->bihp", q, initial_state, since)
        state = state + (decay ** len(steps))[:, None, None] * initial_state
    return y, state


def relative(found: Tensor, wanted: Tensor) -> float:
    if not wanted.numel():
        return 0.0
    error, size = (found.double() - wanted).detach().abs().max(), wanted.detach().abs().max()
    return float(error / size.clamp(min=1e-30))


def run(inputs: dict[str, Tensor], causal: bool, call: Any) -> list[Tensor]:
    """Results of ``call`` and the gradients of its inputs."""
    leaves = {
        name: t.clone().requires_grad_()
        for name, t in inputs.items()
        if causal or name != "initial_state"
    }
    results = call(leaves)
    loss = sum(t.sin().sum() for t in results)
    return [*results, *torch.autograd.grad(loss, list(leaves.values()))]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients(length: int, form: Any, causal: bool) -> None:
    def wanted(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        results = definition(**{"initial_state": None, **t}, causal=causal)  # type: ignore[arg-type]
        return results if causal else results[:1]

    def found(t: dict[str, Tensor]) -> Any:
        y = retention(**t, causal=causal, form=form, return_final_state=causal)
        return y if causal else (y,)

    inputs = make(length)
    truth = run(inputs, causal, wanted)
    exact = run(inputs, causal, found)
    single = run({k: t.float() for k, t in inputs.items()}, causal, found)
    rounded = run({k: t.float().double() for k, t in inputs.items()}, causal, wanted)
    values = 2 if causal else 1
    for i, (a, b, c, d) in enumerate(zip(truth, exact, single, rounded, strict=True)):
        assert relative(b, a) < 1e-11
        assert c.dtype == torch.float32
        assert relative(c, d) < (1e-5 if i < values else 1e-4)


def test_auto_crosses_over_without_a_seam() -> None:
    t = make(PARALLEL + 1, torch.float32)
    long = retention(**t)
    short = retention(
        **{k: v[:, :PARALLEL] if v.ndim == 4 and k in "qkv" else v for k, v in t.items()}
    )
    assert isinstance(long, Tensor)
    assert isinstance(short, Tensor)
    assert relative(long[:, :PARALLEL], short.double()) < 1e-5


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
@pytest.mark.parametrize("causal", [True, False])
def test_any_chunk(chunk: int, causal: bool) -> None:
    t = make(100)
    t.pop("initial_state")
    y = retention(**t, causal=causal, form="chunkwise", chunk=chunk)
    assert relative(y, definition(**t, initial_state=None, causal=causal)[0]) < 1e-12


@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(form: Any, causal: bool) -> None:
    t = make(5)
    t = {k: v[:1, :, :1] if k in "qkv" else v for k, v in t.items()}
    t["decay"], t["initial_state"] = t["decay"][:1], t["initial_state"][:1, :1]
    if not causal:
        t.pop("initial_state")

    def call(*inputs: Tensor) -> Any:
        named = dict(zip(t, inputs))
        return retention(**named, causal=causal, form=form, return_final_state=causal, chunk=2)

    assert torch.autograd.gradcheck(call, [v.clone().requires_grad_() for v in t.values()])


@pytest.mark.parametrize("form", FORMS)
def test_state_carries_over_a_split(form: Any) -> None:
    t = make(150)
    whole, last = retention(**t, form="recurrent", return_final_state=True)
    state, parts = t["initial_state"], []
    for start, stop in ((0, 1), (1, 70), (70, 70), (70, 150)):
        part = {k: v[:, start:stop] if k in "qkv" else v for k, v in t.items()}
        y, state = retention(**{**part, "initial_state": state}, form=form, return_final_state=True)
        parts.append(y)
    assert relative(torch.cat(parts, 1), whole) < 1e-12
    assert relative(state, last) < 1e-12


def test_steps_equal_the_sequence() -> None:
    t = make(70, torch.float32)
    whole, last = retention(**t, form="chunkwise", return_final_state=True)
    state, steps = t["initial_state"], []
    for i in range(70):
        before = state.clone()
        y, new = retention_step(state, t["q"][:, i], t["k"][:, i], t["v"][:, i], t["decay"])
        assert torch.equal(state, before)
        state = new
        steps.append(y)
    assert relative(torch.stack(steps, 1), whole.double()) < 1e-5
    assert relative(state, last.double()) < 1e-5


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize("causal", [True, False])
def test_only_causal_retention_ignores_the_future(form: Any, causal: bool) -> None:
    t = make(100)
    t.pop("initial_state")
    changed = {k: v.clone() for k, v in t.items()}
    for name in ("q", "k", "v"):
        changed[name][:, 70:] += 1
    y, after = (retention(**i, causal=causal, form=form) for i in (t, changed))
    assert torch.equal(y[:, :70], after[:, :70]) == causal
    assert not torch.allclose(y[:, 70:], after[:, 70:])


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_zero_length(form: Any) -> None:
    t = make(0)
    y, state = retention(**t, form=form, return_final_state=True)
    assert y.shape == (2, 0, 3, 5)
    assert torch.equal(state, t["initial_state"])


def test_long_sequence() -> None:
    """A constant input settles at 1 / (1 - decay)."""
    ones = torch.ones(1, 100_000, 1, 1)
    y = retention(ones, ones, ones, torch.tensor([0.99]))
    assert isinstance(y, Tensor)
    assert bool(y.isfinite().all())
    assert float(y[0, -1]) == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize("decay", [1e-6, 1 - 1e-6])
def test_extreme_decays(form: Any, decay: float) -> None:
    t = make(200, torch.float32)
    t["decay"] = torch.full((3,), decay)
    wanted, _ = definition(**{k: v.double() for k, v in t.items()}, causal=True)
    y = retention(**t, form=form)
    assert relative(y, wanted) < 1e-5


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_half_precision_is_float32_inside(form: Any) -> None:
    t = make(130, torch.bfloat16)
    t["initial_state"], t["decay"] = t["initial_state"].float(), t["decay"].float()
    y, state = retention(**t, form=form, return_final_state=True)
    wanted, last = definition(**{k: v.double() for k, v in t.items()}, causal=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert relative(state, last) < 1e-5  # not rounded on the way
    assert relative(y, wanted) < torch.finfo(torch.bfloat16).eps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(retention(**t, form=form), y)


class Layer(torch.nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Any:
        return retention(q, k, v, decay, causal=self.causal)


@pytest.mark.parametrize("causal", [True, False])
def test_export_with_dynamic_length(causal: bool) -> None:
    length = torch.export.Dim("l", min=2, max=1 << 20)

    def inputs(size: int) -> tuple[Tensor, ...]:
        t = make(size)
        return t["q"], t["k"], t["v"], t["decay"]

    shapes = ({1: length}, {1: length}, {1: length}, None)
    program = torch.export.export(Layer(causal), inputs(100), dynamic_shapes=shapes)
    for size in (2, 64, 65, 300):
        wanted, _ = definition(*inputs(size), None, causal)
        assert relative(program.module()(*inputs(size)), wanted) < 1e-12, size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "chunk"}, "unknown form of retention 'chunk'.*'chunkwise'"),
        (
            {"k": torch.zeros(2, 5, 3, 3)},
            r"k must have the shape \(2, 5, 3, 4\), got \(2, 5, 3, 3\)",
        ),
        ({"decay": torch.ones(2)}, r"decay must have the shape \(3,\), got \(2,\)"),
        ({"q": torch.zeros(2, 5, 12)}, "heads, key size"),
        ({"causal": False}, "a state belongs to one direction"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_wrong_use(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        retention(**{**make(5), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.zeros(2, 1, 5)}, r"v must have the shape \(2, 3, 5\), got \(2, 1, 5\)"),
        ({"state": torch.zeros(2, 3, 5, 4)}, r"state must have the shape \(2, 3, 4, 5\)"),
        ({"q": torch.zeros(2, 1, 3, 4)}, "retention_step: .*batch, heads, key size"),
    ],
)
def test_a_step_checks_its_shapes(change: dict[str, Tensor], message: str) -> None:
    t = make(1)
    step = {k: t[k][:, 0] for k in "qkv"}
    with pytest.raises(UsageError, match=message):
        retention_step(**{"state": t["initial_state"], **step, "decay": t["decay"], **change})
