"""Mamba-2's chunked scan against a plain recurrence in float64, and that against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UsageError
from core.ops.chunk_scan.op import SEGMENT_BYTES
from core.ops.ssd import ssd, ssd_reference, ssd_step

LENGTHS = (1, 63, 64, 65, 257)
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")


def make(
    length: int,
    groups: int = 2,
    dtype: torch.dtype = torch.float64,
    b: int = 2,
    h: int = 4,
    p: int = 3,
    n: int = 5,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shapes = {
        "x": (b, length, h, p),
        "dt": (b, length, h),
        "A": (h,),
        "B": (b, length, groups, n),
        "C": (b, length, groups, n),
        "D": (h,),
        "z": (b, length, h, p),
        "dt_bias": (h,),
        "initial_state": (b, h, p, n),
    }
    made = {name: normal(*shape) for name, shape in shapes.items()}
    made["A"] = -made["A"].abs() - 0.1
    made["dt"] = made["dt"].abs()
    return made


def relative(found: Tensor, wanted: Tensor) -> float:
    if not wanted.numel():
        return 0.0
    error, size = (found.double() - wanted).detach().abs().max(), wanted.detach().abs().max()
    return float(error / size.clamp(min=1e-30))


def with_gradients(call: Any, inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    """Output, final state, and the gradients of all inputs for fixed weights of both."""
    leaves = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    y, state = call(**leaves, dt_softplus=True, **options)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (t * torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)).sum()
        for t in (y, state)
    )
    return [y.detach(), state.detach(), *torch.autograd.grad(loss, list(leaves.values()))]


@pytest.fixture(params=["one segment", "many segments"])
def segments(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many segments":
        monkeypatch.setitem(SEGMENT_BYTES, "cpu", 1)  # one chunk each


def test_reference_is_the_semiseparable_matrix() -> None:
    """y = M x with M[i, j] = C[i] . B[j] exp(sum of dt A after j up to i) dt[j], equation 3."""
    t = make(7, groups=2)
    dt = F.softplus(t["dt"] + t["dt_bias"])
    expected = torch.zeros_like(t["x"])
    for i in range(7):
        for j in range(i + 1):
            decay = torch.exp((dt[:, j + 1 : i + 1] * t["A"]).sum(1)) * dt[:, j]  # (b, h)
            dot = (t["C"][:, i] * t["B"][:, j]).sum(-1).repeat_interleave(2, 1)
            expected[:, i] += (decay * dot).unsqueeze(-1) * t["x"][:, j]
        since = torch.exp((dt[:, : i + 1] * t["A"]).sum(1))[..., None, None]
        C = t["C"][:, i].repeat_interleave(2, 1).unsqueeze(-1)
        expected[:, i] += (since * t["initial_state"] @ C).squeeze(-1)
    expected = (expected + t["D"][:, None] * t["x"]) * t["z"] * torch.sigmoid(t["z"])
    y, _ = ssd_reference(**t, dt_softplus=True)
    assert relative(y, expected) < 1e-12


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients(length: int, groups: int, segments: None) -> None:
    inputs = make(length, groups)
    wanted = with_gradients(ssd_reference, inputs)
    exact = with_gradients(ssd, inputs, return_final_state=True)
    single = {name: t.float() for name, t in inputs.items()}
    found = with_gradients(ssd, single, return_final_state=True)
    for name, a, b, c in zip(("y", "state", *NAMES), wanted, exact, found, strict=True):
        assert a.shape == b.shape == c.shape, name
        assert c.dtype == torch.float32, name
        assert relative(b, a) < 1e-11, name
        assert relative(c, a) < (1e-5 if name in ("y", "state") else 1e-4), name


@pytest.mark.parametrize("chunk", [1, 7, 16, 100, 1000])
def test_any_chunk(chunk: int) -> None:
    t = make(100)
    y, state = ssd(**t, return_final_state=True, chunk=chunk)
    wanted, last = ssd_reference(**t)
    assert relative(y, wanted) < 1e-12
    assert relative(state, last) < 1e-12


def test_without_options() -> None:
    t = {name: v for name, v in make(70).items() if name in ("x", "dt", "A", "B", "C")}
    y = ssd(**t)
    assert isinstance(y, Tensor)
    assert relative(y, ssd_reference(**t)[0]) < 1e-12


def test_gradcheck(segments: None) -> None:
    t = [v.requires_grad_() for v in make(5, b=1, h=2, p=2, n=2, groups=1).values()]

    def call(*inputs: Tensor) -> Any:
        return ssd(
            *inputs[:8], dt_softplus=True, initial_state=inputs[8], return_final_state=True, chunk=2
        )

    assert torch.autograd.gradcheck(call, t)


def test_some_gradients_only() -> None:
    t = make(65)
    t["x"].requires_grad_()
    y = ssd(**t)
    (grad,) = torch.autograd.grad(y.sum(), t["x"])
    leaf = t["x"].detach().requires_grad_()
    (wanted,) = torch.autograd.grad(ssd_reference(**{**t, "x": leaf})[0].sum(), leaf)
    assert relative(grad, wanted) < 1e-12


def test_state_carries_over_a_split() -> None:
    t = make(150)
    whole, last = ssd(**t, return_final_state=True)
    state, parts = t["initial_state"], []
    for start, stop in ((0, 1), (1, 70), (70, 70), (70, 150)):
        part = {k: v[:, start:stop] if v.shape[1:2] == (150,) else v for k, v in t.items()}
        y, state = ssd(**{**part, "initial_state": state}, return_final_state=True)
        parts.append(y)
    assert relative(torch.cat(parts, 1), whole) < 1e-12
    assert relative(state, last) < 1e-12


def test_steps_equal_the_scan() -> None:
    t = make(70, dtype=torch.float32)
    whole, last = ssd(**t, dt_softplus=True, return_final_state=True)
    state, steps = t["initial_state"], []
    for i in range(70):
        at = {k: t[k][:, i] for k in ("x", "dt", "B", "C", "z")}
        rest = {k: t[k] for k in ("A", "D", "dt_bias")}
        before = state.clone()
        y, new = ssd_step(state, **at, **rest, dt_softplus=True)
        assert torch.equal(state, before)
        state = new
        steps.append(y)
    assert relative(torch.stack(steps, 1), whole.double()) < 1e-5
    assert relative(state, last.double()) < 1e-5


@pytest.mark.parametrize("at", [0, 63, 64, 100])
def test_the_future_has_no_influence(at: int) -> None:
    t = make(130)
    y = ssd(**t)
    changed = {k: v.clone() for k, v in t.items()}
    for name in ("x", "dt", "B", "C", "z"):
        changed[name][:, at:] += 1
    after = ssd(**changed)
    assert torch.equal(y[:, :at], after[:, :at])
    assert not torch.allclose(y[:, at:], after[:, at:])


@pytest.mark.parametrize("kind", ["tiny", "huge", "resets"])
def test_extreme_steps(kind: str) -> None:
    """``resets``: a few steps that forget everything among ordinary ones.

    Sums of log decays in float32 would be wrong by 1e-3 after such a step.
    """
    t = make(200, groups=1)
    dt = torch.rand(2, 200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t["dt"] = {"tiny": dt * 1e-8, "huge": 50 + dt * 1e4, "resets": dt * 0.05}[kind]
    if kind == "resets":
        t["dt"][:, ::50] = 1e4
    del t["dt_bias"]
    single = {name: v.float() for name, v in t.items()}
    exact = {name: v.double() for name, v in single.items()}  # the same rounded inputs
    leaves = [v.requires_grad_() for v in single.values()]
    truth = [v.requires_grad_() for v in exact.values()]
    y, wanted = ssd(**single), ssd_reference(**exact)[0]
    assert relative(y, wanted) < 1e-5
    for name, a, b in zip(
        single, torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(wanted.sum(), truth)
    ):
        assert bool(a.isfinite().all()), name
        assert relative(a, b) < 1e-4, name


def test_zero_length() -> None:
    t = {name: v.requires_grad_() for name, v in make(0).items()}
    y, state = ssd(**t, return_final_state=True)
    assert y.shape == (2, 0, 4, 3)
    assert torch.equal(state, t["initial_state"])
    (grad,) = torch.autograd.grad(state.sum(), t["initial_state"])
    assert torch.equal(grad, torch.ones_like(grad))


def test_long_sequence() -> None:
    """100 000 steps of a constant input settle where the recurrence does: dt B / (1 - exp(dt A))."""
    length = 100_000
    x, dt = torch.ones(1, length, 1, 1), torch.full((1, length, 1), 0.01)
    B = torch.ones(1, length, 1, 1)
    y, state = ssd(x, dt, torch.tensor([-1.0]), B, B, return_final_state=True)
    wanted = 0.01 / (1 - torch.exp(torch.tensor(-0.01, dtype=torch.float64)))
    assert bool(y.isfinite().all())
    assert relative(y[0, -1000:, 0, 0], wanted.expand(1000)) < 1e-5
    assert relative(state.flatten(), wanted.reshape(1)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_inside(dtype: torch.dtype) -> None:
    half = make(130, dtype=dtype)
    half["initial_state"] = half["initial_state"].float()
    y, state = ssd(**half, dt_softplus=True, return_final_state=True)
    wanted, last = ssd_reference(**{k: v.double() for k, v in half.items()}, dt_softplus=True)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    assert relative(state, last) < 1e-5  # not rounded on the way
    assert relative(y, wanted) < torch.finfo(dtype).eps


def test_autocast_changes_nothing() -> None:
    t = {name: v.requires_grad_() for name, v in make(130, dtype=torch.float32).items()}
    y = ssd(**t, dt_softplus=True)
    grads = torch.autograd.grad(y.sum(), list(t.values()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ssd(**t, dt_softplus=True)
        assert torch.equal(y, cast)
        for a, b in zip(grads, torch.autograd.grad(cast.sum(), list(t.values()))):
            assert torch.equal(a, b)


def test_any_strides() -> None:
    t = make(130)
    wanted = ssd(**t)
    strided = {k: v.transpose(0, -1).contiguous().transpose(0, -1) for k, v in t.items()}
    assert not strided["x"].is_contiguous()
    assert relative(ssd(**strided), wanted) < 1e-13


class Scan(torch.nn.Module):
    def forward(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Any:
        return ssd(x, dt, A, B, C, dt_softplus=True, return_final_state=True)


def only(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(t[k] for k in ("x", "dt", "A", "B", "C"))


@pytest.mark.parametrize(("strict", "batches"), [(False, (1, 2, 3)), (True, (1,)), (False, (2,))])
def test_export_with_dynamic_length(strict: bool, batches: tuple[int, ...]) -> None:
    length = torch.export.Dim("l", min=2, max=1 << 20)
    axes: dict[int, Any] = {1: length}
    if len(batches) > 1:
        axes[0] = torch.export.Dim("b", max=64)
    example = only(make(130, b=batches[-1]))
    program = torch.export.export(
        Scan(), example, dynamic_shapes=(axes, axes, None, axes, axes), strict=strict
    )
    assert not any("triptych" in str(node.target) for node in program.graph.nodes)
    for i, size in enumerate((2, 63, 64, 65, 4200)):
        inputs = only(make(size, b=batches[i % len(batches)]))
        y, state = program.module()(*inputs)
        wanted, last = ssd_reference(*inputs, dt_softplus=True)
        assert relative(y, wanted) < 1e-11, size
        assert relative(state, last) < 1e-11, size


def test_compile_keeps_one_operator() -> None:
    compiled = torch.compile(Scan(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (65, 130):
        t = [v.requires_grad_() for v in only(make(length))]
        grads = torch.autograd.grad(compiled(*t)[0].sin().sum(), t)
        wanted = torch.autograd.grad(ssd_reference(*t, dt_softplus=True)[0].sin().sum(), t)
        for a, b in zip(grads, wanted):
            assert relative(a, b) < 1e-11


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("dt", (2, 5, 3), r"dt must have the shape \(2, 5, 4\), got \(2, 5, 3\)"),
        ("A", (3,), r"A must have the shape \(4,\), got \(3,\)"),
        ("C", (2, 5, 2, 4), "C must have"),
        ("initial_state", (2, 4, 5, 3), r"initial_state must have .* \(2, 4, 3, 5\)"),
        ("x", (2, 5, 12), "batch, length, heads, head size"),
    ],
)
def test_wrong_shapes(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ssd(**{**make(5), name: torch.zeros(shape)})


def test_wrong_groups_and_chunk() -> None:
    with pytest.raises(UsageError, match="4 heads do not divide into 3 groups"):
        ssd(**make(5, groups=3))
    with pytest.raises(UsageError, match="chunk is 0"):
        ssd(**make(5), chunk=0)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, 1, 4, 3), "ssd_step: x is .*batch, heads, head size"),
        ("dt", (2, 1), r"ssd_step: dt must have the shape \(2, 4\), got \(2, 1\)"),
        ("state", (2, 4, 5, 3), r"state must have .* \(2, 4, 3, 5\)"),
    ],
)
def test_a_step_checks_its_shapes(name: str, shape: tuple[int, ...], message: str) -> None:
    t = make(1)
    step = {k: t[k][:, 0] for k in ("x", "dt", "B", "C")} | {"A": t["A"]}
    with pytest.raises(UsageError, match=message):
        ssd_step(**{"state": t["initial_state"], **step, name: torch.zeros(shape)})


def test_wrong_types_and_devices() -> None:
    t = make(5)
    with pytest.raises(UsageError, match=r"B must be of real numbers, got torch\.int64"):
        ssd(**{**t, "B": t["B"].long()})
    with pytest.raises(UsageError, match="z is on meta and x on cpu"):
        ssd(**{**t, "z": t["z"].to("meta")})
    without_data = {k: v.to("meta") for k, v in t.items()}
    assert ssd(**without_data).shape == t["x"].shape
