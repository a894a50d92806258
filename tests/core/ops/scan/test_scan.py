"""The selective scan: every backend against the definition in float64, and what callers may expect."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F

from core.errors import UsageError
from core.ops import selective_scan
from core.ops.scan import blocked, reference

VALUES, GRADIENTS = 1e-5, 1e-4
LENGTHS = (1, 63, 64, 65, 257)
SIZES = ((3, 16), (17, 1), (17, 5))
OPTIONAL = ("D", "z", "delta_bias", "initial_state")


def run(inputs, backend, softplus=False, dy=None, dstate=None):
    """Output, last state, and gradients of what is a leaf that wants one."""
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    y, state = selective_scan(
        **leaves, delta_softplus=softplus, return_final_state=True, backend=backend
    )
    dy = torch.ones_like(y) if dy is None else dy
    dstate = torch.ones_like(state) if dstate is None else dstate
    grads = torch.autograd.grad((y, state), list(leaves.values()), (dy, dstate))
    return y.detach(), state.detach(), dict(zip(leaves, grads))


def compare(inputs, backend, softplus, truth, deviation):
    B, L, D = inputs["u"].shape
    g = torch.Generator().manual_seed(1)
    dy = torch.randn(B, L, D, generator=g)
    dstate = torch.randn(B, D, inputs["A"].shape[1], generator=g)
    y, state, grads = run(inputs, backend, softplus, dy, dstate)
    true_y, true_state, true_grads = truth(inputs, dy, dstate, softplus)
    assert deviation(y, true_y) < VALUES
    assert deviation(state, true_state) < VALUES
    worst = {name: deviation(grads[name], true_grads[name]) for name in inputs}
    assert max(worst.values()) < GRADIENTS, worst


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("channels", "states"), SIZES)
@pytest.mark.parametrize("optional", [(), OPTIONAL], ids=["bare", "full"])
def test_values_and_gradients(backend, make, truth, deviation, length, channels, states, optional):
    inputs = make(2, length, channels, states, optional)
    compare(inputs, backend, bool(optional), truth, deviation)


@pytest.mark.parametrize("optional", OPTIONAL)
@pytest.mark.parametrize("softplus", [False, True])
def test_each_option_alone(backend, make, truth, deviation, optional, softplus):
    compare(make(2, 70, 5, 3, (optional,)), backend, softplus, truth, deviation)


# The definition by hand: two positions, one channel, one state.
def test_a_case_by_hand(backend):
    u, delta = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[0.5], [1.0]]])
    y, state = selective_scan(
        u,
        delta,
        A=torch.tensor([[-0.6931472]]),  # halves the state in a step of 1
        B=torch.tensor([[[1.0], [2.0]]]),
        C=torch.tensor([[[1.0], [10.0]]]),
        D=torch.tensor([100.0]),
        initial_state=torch.tensor([[[4.0]]]),
        return_final_state=True,
        backend=backend,
    )
    first = 4 / 2**0.5 + 0.5 * 2 * 1
    second = first / 2 + 1 * 3 * 2
    torch.testing.assert_close(y, torch.tensor([[[first + 200], [10 * second + 300]]]))
    torch.testing.assert_close(state, torch.tensor([[[second]]]))


@pytest.mark.parametrize("backend", ["reference", "blocked", "native"], indirect=["backend"])
@pytest.mark.parametrize(("length", "fast"), [(3, False), (70, True)])
def test_gradcheck(backend, make, length, fast):
    inputs = make(2, length, 2, 3, dtype=torch.float64)

    def call(*tensors):
        named = dict(zip(inputs, tensors))
        return selective_scan(
            **named, delta_softplus=True, return_final_state=True, backend=backend
        )

    leaves = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(call, leaves, fast_mode=fast)


@pytest.mark.parametrize("span", [1, 1 << 11, 1 << 13, 1 << 20])
@pytest.mark.parametrize("length", [40, 256, 1000])
def test_blocked_is_the_same_however_it_is_cut(monkeypatch, make, truth, deviation, span, length):
    """From one channel of one batch entry at a time to sixteen chunks side by side."""
    monkeypatch.setitem(blocked._SPAN, "cpu", span)
    inputs = make(3, length, 5, 2, dtype=torch.float64)
    dy, dstate = torch.randn(3, length, 5).double(), torch.randn(3, 5, 2).double()
    y, state, grads = run(inputs, "blocked", True, dy, dstate)
    true_y, true_state, true_grads = truth(inputs, dy, dstate, True)
    assert deviation(y, true_y) < 1e-12
    assert deviation(state, true_state) < 1e-12
    assert max(deviation(grads[name], true_grads[name]) for name in inputs) < 1e-12


def test_the_cuts_are_what_their_names_say(monkeypatch):
    def cuts(span, length):
        monkeypatch.setitem(blocked._SPAN, "cpu", span)
        return [*blocked._blocks(torch.empty(3, length, 5), 2)]

    single = cuts(1, 1000)
    assert len(single) == 15
    assert {block.lanes for block in single} == {1}
    (whole,) = cuts(1 << 20, 1000)
    assert (whole.batch, whole.channels, whole.lanes) == (slice(0, 3), slice(0, 5), 16)
    for lanes, length in itertools.product((1, 4, 7), (1, 64, 65, 1000)):
        spans = blocked._spans(length, lanes)
        assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
        assert spans[-1].stop == length


@pytest.mark.parametrize("step", [0.0, 1e-8, 50.0, 1e4])
def test_extreme_steps(backend, make, truth, deviation, step):
    inputs = make(2, 130, 3, 5, ("D", "z", "initial_state"))
    inputs["delta"] = torch.full_like(inputs["delta"], step)
    compare(inputs, backend, False, truth, deviation)


@pytest.mark.parametrize("raw", [-100.0, 100.0])
def test_extreme_arguments_of_softplus(backend, make, truth, deviation, raw):
    inputs = make(2, 130, 3, 5)
    inputs["delta"] = torch.full_like(inputs["delta"], raw)
    inputs["delta_bias"] = torch.zeros_like(inputs["delta_bias"])
    compare(inputs, backend, True, truth, deviation)


def test_long_sequences_stay_finite_and_right(backend, make, deviation):
    """Steps that sum to 10^4: where sums of logarithms lose all digits, and then overflow."""
    inputs = make(1, 20_000, 3, 4)
    y, state, grads = run(inputs, backend, softplus=True)
    true, true_state = reference.scan(
        **{name: t.double() for name, t in inputs.items()}, delta_softplus=True
    )
    assert deviation(y, true) < VALUES
    assert deviation(state, true_state) < VALUES
    assert all(bool(g.isfinite().all()) for g in grads.values())


def test_a_million_positions(backend, make):
    inputs = make(1, 1_000_000, 2, 2)
    y, state, grads = run(inputs, backend, softplus=True)
    assert all(bool(t.isfinite().all()) for t in (y, state, *grads.values()))
    # The state forgets within a few hundred positions: the end must be that of a short sequence.
    tail = {
        n: t[:, -5000:] if t.ndim == 3 and n != "initial_state" else t for n, t in inputs.items()
    }
    short = selective_scan(**tail, delta_softplus=True, backend=backend)
    torch.testing.assert_close(y[:, -1000:], short[:, -1000:], rtol=1e-4, atol=1e-4)


def test_blocked_never_holds_positions_by_channels_by_states(python):
    """One such array would be 128 MB; the backward pass of a loop keeps several."""
    code = """
import resource, torch
from core.ops import selective_scan
torch.set_num_threads(1)
def rss(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def go(L, D=64, N=16):
    u = torch.randn(1, L, D, requires_grad=True)
    b = torch.randn(1, L, N, requires_grad=True)
    A = -torch.rand(D, N).requires_grad_()
    y = selective_scan(u, u.detach().abs(), A, b, b, backend='blocked')
    y.sum().backward()
go(100); before = rss(); go(32768); print(rss() - before)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    grown = float(done.stdout) / (1024 if sys.platform == "darwin" else 1)  # bytes there
    assert grown < 110  # of which 8 each for u, delta, y, and the gradients of all three


@pytest.mark.parametrize("optional", [(), OPTIONAL], ids=["bare", "full"])
@pytest.mark.parametrize("empty", ["length", "batch"])
def test_nothing_at_all(backend, make, optional, empty):
    inputs = make(2 if empty == "length" else 0, 0 if empty == "length" else 70, 3, 4, optional)
    y, state, grads = run(inputs, backend, bool(optional))
    assert y.shape == inputs["u"].shape
    if empty == "length":
        assert torch.equal(state, inputs.get("initial_state", torch.zeros(2, 3, 4)))
    else:
        assert state.shape == (0, 3, 4)
    for name, gradient in grads.items():
        assert gradient.shape == inputs[name].shape
        if name == "initial_state":
            assert torch.equal(gradient, torch.ones_like(gradient))
        else:
            assert not gradient.any()


@pytest.mark.parametrize("at", [1, 64, 100])
def test_two_halves_are_the_whole(backend, make, deviation, at):
    inputs = make(2, 150, 3, 5)
    whole, last = selective_scan(**inputs, return_final_state=True, backend=backend)
    state, parts = inputs.pop("initial_state"), []
    for cut in (slice(0, at), slice(at, None)):
        part = {name: t[:, cut] if t.ndim == 3 else t for name, t in inputs.items()}
        y, state = selective_scan(
            **part, initial_state=state, return_final_state=True, backend=backend
        )
        parts.append(y)
    assert deviation(torch.cat(parts, 1), whole) < 1e-6
    assert deviation(state, last) < 1e-6


@pytest.mark.parametrize("name", ["u", "delta", "B", "C", "z"])
def test_the_past_does_not_know_the_future(backend, make, name):
    inputs = make(1, 200, 3, 5)
    before = selective_scan(**inputs, delta_softplus=True, backend=backend)
    inputs[name] = inputs[name].clone()
    inputs[name][:, 90] += 1
    after = selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert torch.equal(before[:, :90], after[:, :90])
    assert not torch.equal(before[:, 90], after[:, 90])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_only_at_the_ends(backend, make, truth, deviation, dtype):
    inputs = make(2, 257, 3, 5, dtype=dtype)
    inputs["A"] = inputs["A"].float()  # as a mixed-precision model passes it
    dy, dstate = torch.ones(2, 257, 3, dtype=dtype), torch.ones(2, 3, 5)
    y, state, grads = run(inputs, backend, True, dy, dstate)
    true_y, true_state, true_grads = truth(inputs, dy, dstate, True)
    assert y.dtype == dtype
    assert state.dtype == torch.float32
    assert deviation(state, true_state) < VALUES
    assert deviation(y, true_y) <= torch.finfo(dtype).eps / 2 + VALUES
    for name, gradient in grads.items():
        assert gradient.dtype == inputs[name].dtype
        assert deviation(gradient, true_grads[name]) <= torch.finfo(dtype).eps / 2 + GRADIENTS


def test_float64_stays_float64(backend, make, truth, deviation):
    inputs = make(2, 130, 3, 5, dtype=torch.float64)
    dy, dstate = torch.ones(2, 130, 3), torch.ones(2, 3, 5)
    y, state, grads = run(inputs, backend, True, dy.double(), dstate.double())
    true_y, true_state, true_grads = truth(inputs, dy, dstate, True)
    assert state.dtype == torch.float64
    assert max(deviation(y, true_y), deviation(state, true_state)) < 1e-12
    assert max(deviation(grads[name], true_grads[name]) for name in inputs) < 1e-12


def test_strides_do_not_matter(backend, make):
    inputs = make(2, 70, 6, 5)
    strided = {}
    for name, t in inputs.items():
        if name == "z":  # half of a projection
            strided[name] = torch.cat([t, t + 1], -1)[..., : t.shape[-1]]
        elif t.ndim == 1:  # one number for all channels
            t.fill_(0.5)
            strided[name] = t[:1].expand(t.shape)
        else:  # channels first in memory
            strided[name] = t.mT.contiguous().mT
        assert not strided[name].is_contiguous()
    y, state, grads = run(inputs, backend, True)
    other_y, other_state, other_grads = run(
        strided, backend, True, torch.ones(1, 1, 1).expand(y.shape)
    )
    torch.testing.assert_close(other_y, y)
    torch.testing.assert_close(other_state, state)
    torch.testing.assert_close(other_grads, grads)


def test_gradients_only_where_asked(backend, make):
    inputs = make(1, 70, 3, 2)
    inputs["A"].requires_grad_()
    inputs["z"].requires_grad_()
    y, state = selective_scan(**inputs, return_final_state=True, backend=backend)
    y.sum().backward()
    assert {name for name, t in inputs.items() if t.grad is not None} == {"A", "z"}
    inputs["A"].grad = None
    state = selective_scan(**inputs, return_final_state=True, backend=backend)[1]
    state.sum().backward()  # y is not used: its gradient is not there
    assert inputs["A"].grad is not None
    with torch.no_grad():
        assert not selective_scan(**inputs, backend=backend).requires_grad


def test_inputs_are_left_alone(backend, make):
    inputs = make(1, 70, 3, 2)
    copies = {name: t.clone() for name, t in inputs.items()}
    y, state = selective_scan(
        **inputs, delta_softplus=True, return_final_state=True, backend=backend
    )
    y.zero_()
    state.zero_()
    assert all(torch.equal(inputs[name], copies[name]) for name in inputs)


def test_softplus_and_bias_are_what_they_are_called(make, backend):
    inputs = make(1, 30, 3, 2, ("delta_bias",))
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    bias = inputs.pop("delta_bias")
    inputs["delta"] = F.softplus(inputs["delta"] + bias)
    torch.testing.assert_close(y, selective_scan(**inputs, backend=backend))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": (2, 8)}, r"u must be \(B, L, D\), got a tensor of shape \(2, 8\)"),
        ({"A": (7, 4)}, r"A must be \(D, N\) with the D = 8 of u \(2, 9, 8\), got \(7, 4\)"),
        ({"A": (8,)}, r"A must be \(D, N\) .* got \(8,\)"),
        ({"delta": (2, 8, 8)}, r"delta must have the shape \(2, 9, 8\), got \(2, 8, 8\)"),
        ({"B": (2, 9, 8)}, r"B must have the shape \(2, 9, 4\), got \(2, 9, 8\)"),
        ({"C": (9, 4)}, r"C must have the shape \(2, 9, 4\), got \(9, 4\)"),
        ({"D": (1, 8)}, r"D must have the shape \(8,\), got \(1, 8\)"),
        ({"z": (2, 9, 1)}, r"z must have the shape \(2, 9, 8\), got \(2, 9, 1\)"),
        ({"delta_bias": (4,)}, r"delta_bias must have the shape \(8,\), got \(4,\)"),
        ({"initial_state": (2, 4, 8)}, r"initial_state must have .*\(2, 8, 4\), got \(2, 4, 8\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_shapes_that_do_not_fit_are_named(make, change, message):
    inputs = make(2, 9, 8, 4)
    inputs |= {name: torch.zeros(shape) for name, shape in change.items()}
    with pytest.raises(UsageError, match=message):
        selective_scan(**inputs)


def test_types_and_devices_that_do_not_fit_are_named(make):
    inputs = make(2, 9, 8, 4)
    with pytest.raises(UsageError, match=r"C must be of real numbers, got torch\.int64"):
        selective_scan(**inputs | {"C": inputs["C"].long()})
    with pytest.raises(UsageError, match=r"A must be of real numbers, got torch\.complex64"):
        selective_scan(**inputs | {"A": inputs["A"].to(torch.complex64)})
    with pytest.raises(UsageError, match="z is on meta and u on cpu"):
        selective_scan(**inputs | {"z": inputs["z"].to("meta")})
