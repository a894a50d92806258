"""The selective scan as an operator: what compilers, exporters and autocast see; which backend runs."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from core.errors import ResourceError, UsageError
from core.ops import selective_scan
from core.ops.scan import BACKENDS, backend_for, blocked, choice, native, op
from core.ops.scan.build import find_compiler

ORDER = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


@pytest.fixture(autouse=True)
def no_preference(monkeypatch):
    monkeypatch.delenv("TRIPTYCH_SCAN", raising=False)


@pytest.fixture
def no_native(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "unavailable_reason", lambda: "no C++ compiler was found")
    choice._advise.cache_clear()
    yield
    choice._advise.cache_clear()


class Scan(nn.Module):
    """What a model does with it."""

    def __init__(self, inputs, backend="auto"):
        super().__init__()
        self.A = nn.Parameter(inputs["A"])
        self.D = nn.Parameter(inputs["D"])
        self.backend = backend

    def forward(self, u, delta, B, C, z):
        y, state = selective_scan(
            u, delta, self.A, B, C, self.D, z, None, True, None, True, self.backend
        )
        return y * 2, state


def sequences(inputs):
    return tuple(inputs[name] for name in ("u", "delta", "B", "C", "z"))


@pytest.mark.parametrize(
    ("optional", "save", "dtype"),
    [
        ((), False, torch.float32),
        (("D", "z"), True, torch.bfloat16),
        (ORDER[5:], True, torch.float32),
        (ORDER[5:], False, torch.float64),
    ],
)
def test_opcheck(make, backend, optional, save, dtype):
    inputs = make(2, 70, 3, 4, optional, dtype)
    tensors = [inputs[name].requires_grad_() if name in inputs else None for name in ORDER]
    torch.library.opcheck(op.scan, (*tensors, bool(optional), backend, save), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optional", [(), ORDER[5:]], ids=len)
def test_opcheck_of_the_backward_operator(make, backend, optional):
    inputs = make(2, 70, 3, 4, optional)
    tensors = [inputs.get(name) for name in ORDER]
    y, state, kept = op.scan(*tensors, False, backend, True)
    torch.library.opcheck(op.scan_backward, (y, state, *tensors, kept, False, backend))
    torch.library.opcheck(op.scan_backward, (y, None, *tensors, kept[:, :0], False, backend))


def test_a_compiled_model_is_one_graph_with_the_same_gradients(make, backend):
    inputs = make(2, 70, 3, 4)
    model = Scan(inputs, backend)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (70, 65, 9):
        values = [t[:, :length].clone().requires_grad_() for t in sequences(inputs)]
        leaves = [*values, *model.parameters()]
        grads = []
        for call in (model, compiled):
            y, state = call(*values)
            grads.append(torch.autograd.grad(y.sum() + state.sin().sum(), leaves))
        torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="inductor needs a C++ compiler")
def test_the_default_compiler_takes_it(make):
    inputs = make(2, 70, 3, 4)
    model = Scan(inputs)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(*sequences(inputs)), model(*sequences(inputs)))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_any_batch_and_length(make, strict):
    inputs = make(2, 70, 3, 4)
    model = Scan(inputs).eval()
    batch, length = Dim("batch", max=64), Dim("length", max=4096)
    program = torch.export.export(
        model, sequences(inputs), dynamic_shapes=[{0: batch, 1: length}] * 5, strict=strict
    )
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count("triptych.selective_scan.default") == 1
    assert "cpu" not in "".join(calls)
    for B, L in ((1, 1), (3, 64), (5, 777)):
        other = sequences(make(B, L, 3, 4, seed=B))
        torch.testing.assert_close(program.module()(*other), model(*other))


def test_an_exported_model_learns(make):
    """It keeps no checkpoints, so that the backward pass computes them."""
    inputs = make(2, 70, 3, 4)
    model = Scan(inputs)
    exported = torch.export.export(model, sequences(inputs)).module()
    grads = []
    for call in (model, exported):
        y, state = call(*sequences(inputs))
        parameters = dict(call.named_parameters())
        loss = y.square().sum() + state.sum()
        grads.append(torch.autograd.grad(loss, [parameters["A"], parameters["D"]]))
    torch.testing.assert_close(*grads)


def test_tensors_without_data(monkeypatch, make):
    inputs = make(2, 70, 3, 4)
    real = selective_scan(**inputs, return_final_state=True)
    # Building the C++ now would test it with tensors that have no data, and give it up.
    monkeypatch.setattr(native, "available", lambda: pytest.fail("a backend was looked for"))
    meta = {name: t.to("meta") for name, t in inputs.items()}
    found = [selective_scan(**meta, return_final_state=True)]
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(t) for name, t in inputs.items()}
        found.append(selective_scan(**fake, return_final_state=True))
    for pair in found:
        for a, b in zip(pair, real, strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize("name", ["reference", "blocked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(make, name, dtype):
    """In particular not the matrix products inside, which it would round to bfloat16."""
    inputs = make(2, 70, 17, 5, dtype=dtype)
    outside = selective_scan(**inputs, delta_softplus=True, return_final_state=True, backend=name)
    leaves = {key: t.clone().requires_grad_() for key, t in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        inside = selective_scan(
            **leaves, delta_softplus=True, return_final_state=True, backend=name
        )
        grads = torch.autograd.grad(inside[0].sum(), [leaves["B"], leaves["u"]])
    assert (inside[0].dtype, inside[1].dtype) == (dtype, torch.float32)
    assert torch.equal(inside[0], outside[0])
    assert torch.equal(inside[1], outside[1])
    y = selective_scan(**leaves, delta_softplus=True, backend=name)
    torch.testing.assert_close(
        grads, torch.autograd.grad(y.sum(), [leaves["B"], leaves["u"]]), rtol=0, atol=0
    )


def test_second_derivatives_are_refused_with_the_way_out(make):
    inputs = make(1, 5, 2, 3, (), torch.float64)
    inputs["u"].requires_grad_()
    inputs["A"].requires_grad_()
    y = selective_scan(**inputs)
    (first,) = torch.autograd.grad(y.square().sum(), inputs["u"], create_graph=True)
    with pytest.raises(UsageError, match=r"no second derivative; .*backend='reference'"):
        first.sum().backward()
    y = selective_scan(**inputs, backend="reference")
    (first,) = torch.autograd.grad(y.square().sum(), inputs["u"], create_graph=True)
    first.sum().backward()
    assert inputs["A"].grad is not None


def test_the_environment_chooses(monkeypatch, make):
    called = []
    monkeypatch.setattr(
        blocked, "forward", lambda *a, _f=blocked.forward: (called.append(1), _f(*a))[1]
    )
    inputs = make(1, 9, 2, 3)
    monkeypatch.setenv("TRIPTYCH_SCAN", "blocked")
    selective_scan(**inputs)
    assert backend_for() == "blocked"
    assert called == [1]
    selective_scan(**inputs, backend="reference")  # an argument is nearer than the environment
    assert called == [1]
    monkeypatch.setenv("TRIPTYCH_SCAN", "reference")
    selective_scan(**inputs)
    assert called == [1]
    assert backend_for() == "reference"
    monkeypatch.setenv("TRIPTYCH_SCAN", "")
    assert backend_for() in BACKENDS


def test_unknown_backends_name_the_nearest(monkeypatch, make):
    inputs = make(1, 9, 2, 3)
    with pytest.raises(
        UsageError, match=r"^unknown scan backend 'blokced'\. Did you mean 'blocked'"
    ):
        selective_scan(**inputs, backend="blokced")
    monkeypatch.setenv("TRIPTYCH_SCAN", "natve")
    with pytest.raises(
        UsageError, match=r"^TRIPTYCH_SCAN: unknown scan backend 'natve'\. Did you mean 'native'"
    ):
        selective_scan(**inputs)


@pytest.mark.usefixtures("no_native")
def test_a_backend_that_cannot_run_says_why(make):
    with pytest.raises(
        ResourceError, match=r"'native' cannot run here: no C\+\+ compiler was found; .*'blocked'"
    ):
        selective_scan(**make(1, 9, 2, 3), backend="native")
    with pytest.raises(ResourceError, match="runs on CUDA devices, and the tensors are on cpu"):
        selective_scan(**make(1, 9, 2, 3), backend="mamba_ssm")
    with pytest.raises(ResourceError, match="runs on the CPU, and the tensors are on cuda"):
        backend_for("cuda", backend="native")


@pytest.mark.usefixtures("no_native")
def test_without_a_compiler_there_is_one_line_of_advice(make, caplog, capsys):
    inputs = make(1, 9, 2, 3)
    with caplog.at_level(logging.WARNING):
        selective_scan(**inputs)
        selective_scan(**inputs)
    (record,) = caplog.records
    assert "no C++ compiler was found" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_native")
def test_choosing_blocked_is_silent(monkeypatch, make, caplog):
    monkeypatch.setenv("TRIPTYCH_SCAN", "blocked")
    with caplog.at_level(logging.WARNING):
        selective_scan(**make(1, 9, 2, 3))
    assert caplog.records == []


def test_what_auto_means(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: True)
    assert backend_for("cpu") == "native"
    assert backend_for("meta") == "blocked"
    from core.ops.scan import cuda

    for fast in (True, False):
        monkeypatch.setattr(cuda, "mamba_ssm_available", lambda: True)
        missing = "" if fast else "there is none"
        monkeypatch.setattr(cuda, "triton_missing", lambda _, missing=missing: missing)
        second = "triton" if fast else "blocked"
        assert backend_for("cuda") == "mamba_ssm"
        assert backend_for("cuda", stateful=True) == second
        assert backend_for("cuda", recorded=True) == second
        assert backend_for("cuda", torch.float64) == second
        assert backend_for("cuda", backend="mamba_ssm", recorded=True) == second
    monkeypatch.setattr(cuda, "mamba_ssm_available", lambda: False)
    assert backend_for("cuda") == "blocked"
