"""The Triton kernels against the float64 reference, and the mamba_ssm adapter against a fake.

The kernels run where there is a CUDA device, or in Triton's interpreter (TRITON_INTERPRET=1).  The
interpreter must be on before triton is imported, so without a device one test starts it in a
process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.scan import cuda, reference
from core.ops.scan.reference import CHUNK

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")

if importlib.util.find_spec("triton") is None:
    WHY = "triton is not installed"
elif not INTERPRETED and not torch.cuda.is_available():
    WHY = "no CUDA device: test_kernels_in_the_interpreter runs this in another process"
else:
    WHY = ""
kernels = pytest.mark.skipif(bool(WHY), reason=WHY)


def make(length: int, options: bool, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(length)
    b, d, n = 2, 3, 2

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).to(DEVICE)

    made: dict[str, Any] = {
        "u": normal(b, length, d),
        "delta": normal(b, length, d),
        "A": -normal(d, n).abs() - 0.1,
        "B": normal(b, length, n),
        "C": normal(b, length, n),
        "D": normal(d),
        "z": normal(b, length, d),
        "delta_bias": normal(d),
        "initial_state": normal(b, d, n),
    }
    if not options:
        made["delta"] = made["delta"].abs()
        made |= dict.fromkeys(("D", "z", "delta_bias", "initial_state"))
    return made


def relative(found: Tensor, wanted: Tensor) -> float:
    if not wanted.numel():
        return 0.0
    error, size = (found.double() - wanted).detach().abs().max(), wanted.detach().abs().max()
    return float(error / size.clamp(min=1e-30))


def compare(t: dict[str, Any], softplus: bool, values: float, gradients: float) -> None:
    """Forward and backward of the kernels for ``t``, against autograd through the reference."""
    wide = {k: None if v is None else v.double().requires_grad_() for k, v in t.items()}
    wanted_y, wanted_state = reference.scan(
        **{k: v for k, v in wide.items() if k != "initial_state"},
        delta_softplus=softplus,
        initial_state=wide["initial_state"],
    )
    generator = torch.Generator().manual_seed(1)
    dy, dstate = (
        torch.randn(o.shape, generator=generator, dtype=torch.float64).to(DEVICE)
        for o in (wanted_y, wanted_state)
    )
    live = {k: v for k, v in wide.items() if v is not None}
    loss = (wanted_y * dy).sum() + (wanted_state * dstate).sum()
    truth = dict(zip(live, torch.autograd.grad(loss, list(live.values()))))

    inputs = [t[k] for k in NAMES[:8]]
    y, state, kept = cuda.forward(*inputs, t["initial_state"], softplus, True)
    assert y.dtype == t["u"].dtype
    assert kept.shape == (2, -(-t["u"].shape[1] // CHUNK), 2, 3)
    assert relative(y, wanted_y) < values
    assert relative(state, wanted_state) < values
    bare = cuda.forward(*inputs, t["initial_state"], softplus, False)
    assert torch.equal(bare[0], y)
    assert bare[2].shape == (2, 0, 2, 3)
    grads = cuda.backward(dy.to(y.dtype), dstate.to(state.dtype), *inputs, softplus, kept)
    for name, grad in zip(NAMES, grads, strict=True):
        if name == "initial_state" and t[name] is None:
            continue
        assert (grad is None) == (t[name] is None), name
        if grad is not None:
            assert grad.shape == t[name].shape, name
            assert bool(grad.isfinite().all()), name
            assert relative(grad, truth[name]) < gradients, name


@kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
def test_values_and_gradients(length: int, options: bool, dtype: torch.dtype) -> None:
    exact = dtype == torch.float64
    limits = (1e-12, 1e-11) if exact else (1e-5, 1e-4)
    compare(make(length, options, dtype), options, *limits)


@kernels
@pytest.mark.parametrize("kind", ["tiny", "huge", "resets"])
def test_extreme_steps(kind: str) -> None:
    """``resets``: a step that forgets everything among ordinary ones."""
    t = make(70, False, torch.float32)
    step = t["delta"].abs()
    t["delta"] = {"tiny": step * 1e-8, "huge": 50 + step * 1e4, "resets": step * 0.05}[kind]
    if kind == "resets":
        t["delta"][:, 20] = 1e4
    compare(t, False, 1e-5, 1e-4)


@kernels
def test_softplus_of_very_negative_steps_keeps_its_digits() -> None:
    t = make(40, True, torch.float32)
    t["delta"] = t["delta"] - 12
    compare(t, True, 1e-5, 1e-4)


@kernels
def test_half_precision_is_float32_inside() -> None:
    t = make(65, True, torch.bfloat16)
    t["initial_state"] = t["initial_state"].float()
    wide = {k: v.double() for k, v in t.items()}
    state = wide.pop("initial_state")
    wanted, last = reference.scan(**wide, delta_softplus=True, initial_state=state)
    inputs = [t[k] for k in NAMES]
    y, final, _ = cuda.forward(*inputs, True, False)
    assert (y.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    assert relative(final, last) < 1e-5  # not rounded on the way
    assert relative(y, wanted) < torch.finfo(torch.bfloat16).eps


@kernels
def test_more_channels_than_a_program_takes_and_any_strides() -> None:
    b, length, d, n = 1, 5, 33, 1
    t = [torch.randn(s, dtype=torch.float64).mT.to(DEVICE) for s in [(b, d, length)] * 2]
    u, delta = t[0], t[1].abs()
    A = -torch.rand(n, d, dtype=torch.float64, device=DEVICE).mT
    B = torch.randn(b, n, length, dtype=torch.float64, device=DEVICE).mT
    y, state, _ = cuda.forward(u, delta, A, B, B, None, None, None, None, False, False)
    wanted, last = reference.scan(u, delta, A, B, B)
    assert relative(y, wanted) < 1e-12
    assert relative(state, last) < 1e-12


@kernels
def test_zero_length() -> None:
    t = make(0, True)
    inputs = [t[k] for k in NAMES[:8]]
    y, state, kept = cuda.forward(*inputs, t["initial_state"], True, True)
    assert y.shape == (2, 0, 3)
    assert torch.equal(state, t["initial_state"])
    grads = cuda.backward(y, torch.ones_like(state), *inputs, True, kept)
    assert torch.equal(grads[-1], torch.ones_like(state))
    assert grads[2].shape == t["A"].shape
    assert not grads[2].any()


@pytest.mark.skipif(not WHY.startswith("no CUDA"), reason=WHY or "the tests above have run")
@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_importing_needs_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; from core.ops.scan import cuda; "
        "assert not cuda.triton_available(); print(cuda.triton_missing())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "the package triton cannot be imported"


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_importable", lambda name: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "tensors are on cpu" in cuda.triton_missing("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.triton_missing("cuda") == "there is no CUDA device"
    assert not cuda.triton_available()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cuda.triton_missing("cpu") == ""
    assert cuda.triton_available()
    monkeypatch.setattr(cuda, "_importable", lambda name: False)
    assert not cuda.triton_available()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A mamba_ssm whose selective_scan_fn records its arguments and is the authors' definition."""
    calls: list[dict[str, Any]] = []

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
    ) -> Tensor:
        calls.append(dict(locals(), calls=None))
        steps = delta.float() if delta_bias is None else delta.float() + delta_bias[:, None]
        steps = F.softplus(steps) if delta_softplus else steps
        h = torch.zeros(u.shape[0], *A.shape)
        ys = []
        for i in range(u.shape[2]):
            drive = (steps[:, :, i] * u[:, :, i])[..., None] * B[:, None, :, i]
            h = torch.exp(steps[:, :, i, None] * A) * h + drive
            ys.append((h * C[:, None, :, i]).sum(-1))
        y = torch.stack(ys, 2)
        y = y if D is None else y + D[:, None] * u
        return (y if z is None else y * F.silu(z)).to(u.dtype)

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    cuda.mamba_ssm_available.cache_clear()
    yield calls
    cuda.mamba_ssm_available.cache_clear()


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mamba_ssm(fake: list[dict[str, Any]], options: bool, dtype: torch.dtype) -> None:
    assert cuda.mamba_ssm_available()
    t = {k: None if v is None else v.cpu() for k, v in make(9, options, dtype).items()}
    t["initial_state"] = None
    t["A"] = t["A"].float().requires_grad_()
    t["u"].requires_grad_()
    y = cuda.mamba_ssm(**t, delta_softplus=options)
    (call,) = fake
    for name in ("u", "delta", "z"):
        if t[name] is not None:
            assert call[name].shape == (2, 3, 9)
            assert call[name].is_contiguous()
            assert call[name].dtype == dtype
    assert call["B"].shape == call["C"].shape == (2, 2, 9)
    for name in ("A", "D", "delta_bias"):
        assert call[name] is None or call[name].dtype == torch.float32
    assert call["delta_softplus"] == options
    wide = {k: None if v is None else v.detach().double() for k, v in t.items()}
    wide["u"].requires_grad_()
    wide["A"].requires_grad_()
    wanted, _ = reference.scan(**wide, delta_softplus=options)
    assert y.shape == wanted.shape
    assert y.dtype == dtype
    limit = 1e-5 if dtype == torch.float32 else 3e-2
    assert relative(y, wanted) < limit
    grads = torch.autograd.grad(y.float().sum(), (t["u"], t["A"]))
    for a, b in zip(grads, torch.autograd.grad(wanted.sum(), (wide["u"], wide["A"]))):
        assert relative(a, b) < limit


def test_mamba_ssm_leaves_states_to_triton(
    fake: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.ops.scan import api

    asked: list[Any] = []

    def scan(*inputs: Any, backend: str) -> Any:
        asked.append((inputs[9], backend))
        y, state = reference.scan(*inputs[:9], inputs[9])
        return (y, state) if inputs[10] else y

    monkeypatch.setattr(api, "selective_scan", scan)
    t = {k: None if v is None else v.cpu() for k, v in make(9, True).items()}
    y = cuda.mamba_ssm(**t, delta_softplus=True)
    y_2, _ = cuda.mamba_ssm(**t, delta_softplus=True, return_final_state=True)
    assert fake == []
    assert [backend for _, backend in asked] == ["triton", "triton"]
    assert asked[0][0] is t["initial_state"]
    assert torch.equal(y, y_2)


def test_no_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    cuda.mamba_ssm_available.cache_clear()
    assert not cuda.mamba_ssm_available()
    cuda.mamba_ssm_available.cache_clear()
