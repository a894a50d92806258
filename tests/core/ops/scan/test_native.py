"""The C++ scan against the reference in float64: values, gradients, extremes, threads, instruction sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.scan import build, native, reference

pytestmark = pytest.mark.skipif(
    build.find_compiler() is None or not native.available(),
    reason="no C++ compiler that builds the scan here",
)
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
# Every length around a chunk of 64, every channel count around a vector of 4, 8 and 16, every way
# to cut states into tiles; not their product.
SIZES = [
    (2, 0, 5, 3),
    (0, 7, 5, 3),
    (3, 1, 1, 1),
    (1, 63, 3, 3),
    (2, 64, 15, 8),
    (1, 65, 16, 16),
    (2, 200, 17, 17),
    (1, 200, 33, 40),
    (20, 9, 33, 2),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def use_isa(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make ``native`` use the library of another instruction set, or skip where the CPU lacks it."""

    def use(isa: str) -> None:
        monkeypatch.setenv(build.ISA_VARIABLE, isa)
        try:
            library = build.load(native.SOURCE, native._computes)
        except build.Unavailable as error:
            pytest.skip(str(error))
        monkeypatch.setattr(native, "_library", library)

    return use


def problem(
    batch: int, length: int, channels: int, states: int, *, softplus: bool, options: bool = True
) -> dict[str, Tensor | None]:
    """Random inputs in float64; without softplus, delta is positive already."""
    generator = torch.Generator().manual_seed(length + channels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    delta = normal(batch, length, channels) - 2
    inputs: dict[str, Tensor | None] = {
        "u": normal(batch, length, channels),
        "delta": delta if softplus else F.softplus(delta),
        "A": -torch.rand(channels, states, generator=generator, dtype=torch.float64) * 4,
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
    }
    extra = (
        normal(channels),
        normal(batch, length, channels),
        normal(channels).mul(0.1) if softplus else None,
        normal(batch, channels, states),
    )
    inputs |= dict(zip(NAMES[5:], extra if options else (None,) * 4))
    return inputs


def run(
    inputs: dict[str, Tensor | None], softplus: bool, dy: Tensor, dfinal: Tensor | None
) -> dict[str, Tensor]:
    """Every output and gradient of the C++ scan by name."""
    values = [inputs[name] for name in NAMES]
    y, final, checkpoints = native.forward(*values, softplus, True)
    gradients = native.backward(dy, dfinal, *values[:8], softplus, checkpoints)
    found = {"y": y, "final": final, "checkpoints": checkpoints}
    return found | {f"d{n}": g for n, g in zip(NAMES, gradients) if g is not None}


def truth(
    inputs: dict[str, Tensor | None], softplus: bool, dy: Tensor, dfinal: Tensor | None
) -> dict[str, Tensor]:
    """The same of the reference and autograd, in float64; no gradient means zero."""
    wide = {
        n: None if t is None else t.detach().double().requires_grad_() for n, t in inputs.items()
    }
    y, final = reference.scan(*(wide[n] for n in NAMES[:8]), softplus, wide["initial_state"])
    loss = (y * dy.double()).sum()
    if dfinal is not None:
        loss = loss + (final * dfinal.double()).sum()
    loss.backward()
    found = {"y": y.detach(), "final": final.detach()}
    return found | {
        f"d{n}": torch.zeros_like(t) if t.grad is None else t.grad
        for n, t in wide.items()
        if t is not None
    }


def cast(inputs: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.to(dtype) for name, t in inputs.items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, want in expected.items():
        scale = want.abs().max().item() if want.numel() else 0.0
        assert found[name].shape == want.shape, name
        error = (found[name].double() - want).abs()
        assert not error.numel() or error.max().item() <= tolerance * max(scale, 1e-2), name


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_reference(
    size: tuple[int, int, int, int], softplus: bool, dtype: torch.dtype
) -> None:
    inputs = problem(*size, softplus=softplus)
    batch, length, channels, states = size
    dy = torch.randn(batch, length, channels, dtype=dtype)
    dfinal = torch.randn(batch, channels, states, dtype=dtype)
    found = run(cast(inputs, dtype), softplus, dy, dfinal)
    assert_close(
        found, truth(inputs, softplus, dy, dfinal), 1e-5 if dtype == torch.float32 else 1e-13
    )


@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=4)), ids=str)
def test_every_combination_of_options(given: tuple[bool, ...]) -> None:
    inputs = problem(2, 70, 19, 5, softplus=True)
    inputs |= {n: inputs[n] if wanted else None for n, wanted in zip(NAMES[5:], given)}
    dy = torch.randn(2, 70, 19)
    values = [inputs[n] for n in NAMES[:8]]
    assert_close(
        run(cast(inputs, torch.float32), True, dy, None), truth(inputs, True, dy, None), 1e-5
    )
    *_, checkpoints = native.forward(*values, inputs["initial_state"], True, True)
    gradients = native.backward(dy, None, *values, True, checkpoints)
    assert [g is not None for g in gradients[5:8]] == [given[0], given[1], given[2]]


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_instruction_sets_agree(isa: str, use_isa: Callable[[str], None]) -> None:
    use_isa(isa)
    assert native.isa() == isa or isa == "portable"  # portable code on ARM is NEON
    for size in ((2, 130, 21, 19), (1, 64, 16, 16)):
        inputs = problem(*size, softplus=True)
        dy, dfinal = torch.randn(*inputs["u"].shape), torch.randn(size[0], size[2], size[3])
        expected = truth(inputs, True, dy, dfinal)
        assert_close(run(cast(inputs, torch.float32), True, dy, dfinal), expected, 1e-5)
        # A step so long that some decays leave the range of the fast exponential.
        wild = {**inputs, "delta": inputs["delta"] + 60}
        found = run(cast(wild, torch.float32), True, dy, dfinal)
        assert_close(found, truth(wild, True, dy, dfinal), 1e-4)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_exponential(isa: str, use_isa: Callable[[str], None]) -> None:
    """With u = 0 and one step, the final state of a state of 1 is exp(delta A) itself."""
    use_isa(isa)

    def exp(delta: Tensor, A: float) -> Tensor:
        row = delta[None, None]
        one = torch.ones(1, 1, 1)
        A_ = torch.full((len(delta), 1), A)
        state = torch.ones(1, len(delta), 1)
        *_, final, _ = native.forward(
            torch.zeros_like(row), row, A_, one, one, None, None, None, state, False, False
        )
        return final.flatten()

    x = torch.cat([torch.linspace(0, 1, 4001), torch.linspace(1, 85, 4001)])
    expected = torch.exp(-x.double())
    # The last term is the rounding of log2(e) A, which every float32 exp(delta A) has somewhere.
    error = (exp(x, -1.0).double() - expected).abs() / expected
    assert (error <= 2e-7 + 1.3e-7 * x).all()
    assert error[:4001].mean() < 8e-8
    extremes = exp(torch.tensor([0.0, 200.0, 1e4, 1e30, torch.inf, torch.nan]), -1.0)
    assert extremes[0] == 1
    assert (extremes[1:4] == 0).all()
    assert torch.isnan(extremes[5])
    assert exp(torch.tensor([200.0]), 1.0).isinf().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    inputs = cast(problem(2, 70, 9, 4, softplus=True), dtype)
    inputs["A"] = inputs["A"].float()
    dy = torch.randn(2, 70, 9).to(dtype)
    found = run(inputs, True, dy, None)
    assert found["y"].dtype == found["du"].dtype == found["dz"].dtype == dtype
    assert found["final"].dtype == found["dA"].dtype == torch.float32
    exact = run(cast(inputs, torch.float32), True, dy.float(), None)
    assert torch.equal(found["y"], exact["y"].to(dtype))
    assert torch.equal(found["dB"], exact["dB"].to(dtype))


def test_strided_rows_need_not_be_contiguous() -> None:
    inputs = cast(problem(2, 70, 17, 5, softplus=True), torch.float32)
    dy = torch.randn(2, 70, 17)
    expected = run(inputs, True, dy, None)
    halves = torch.cat([inputs["u"], inputs["z"]], -1)
    both = torch.cat([inputs["B"], inputs["C"]], -1)
    strided = inputs | dict(zip("uz", halves.split(17, -1))) | dict(zip("BC", both.split(5, -1)))
    strided["delta"] = inputs["delta"].transpose(1, 2).contiguous().transpose(1, 2)
    strided["A"] = inputs["A"].t().contiguous().t()
    found = run(strided, True, dy[:, :1].expand(-1, 70, -1), None)
    assert torch.equal(found["y"], expected["y"])
    again = run(inputs, True, dy[:, :1].expand(-1, 70, -1).contiguous(), None)
    assert all(torch.equal(found[name], again[name]) for name in again)


def test_threads_do_not_change_a_bit() -> None:
    inputs = cast(problem(2, 150, 70, 16, softplus=True), torch.float32)
    dy, dfinal = torch.randn(2, 150, 70), torch.randn(2, 70, 16)
    one = run(inputs, True, dy, dfinal)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        other = run(inputs, True, dy, dfinal)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_gradcheck() -> None:
    inputs = problem(1, 66, 2, 2, softplus=True)

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *values):  # type: ignore[no-untyped-def]
            y, final, checkpoints = native.forward(*values, True, True)
            ctx.save_for_backward(*values[:8], checkpoints)
            return y, final

        @staticmethod
        def backward(ctx, dy, dfinal):  # type: ignore[no-untyped-def]
            *values, checkpoints = ctx.saved_tensors
            return native.backward(dy, dfinal, *values, True, checkpoints)

    values = tuple(inputs[n].requires_grad_() for n in NAMES)
    assert torch.autograd.gradcheck(Scan.apply, values, fast_mode=True)


def test_a_scan_in_two_parts_is_the_scan() -> None:
    inputs = cast(problem(2, 150, 18, 6, softplus=True), torch.float32)
    whole, final, _ = native.forward(*(inputs[n] for n in NAMES), True, False)
    first = {n: t[:, :77] if n in ("u", "delta", "B", "C", "z") else t for n, t in inputs.items()}
    rest = {n: t[:, 77:] if n in ("u", "delta", "B", "C", "z") else t for n, t in inputs.items()}
    y1, rest["initial_state"], _ = native.forward(*(first[n] for n in NAMES), True, False)
    y2, end, _ = native.forward(*(rest[n] for n in NAMES), True, False)
    assert torch.equal(torch.cat([y1, y2], 1), whole)
    assert torch.equal(end, final)


def test_checkpoints_are_the_states_before_each_chunk() -> None:
    inputs = cast(problem(2, 150, 18, 6, softplus=True), torch.float32)
    values = [inputs[n] for n in NAMES]
    _, _, checkpoints = native.forward(*values, True, True)
    assert checkpoints.shape == (2, 3, 6, 18)
    assert torch.equal(checkpoints[:, 0], inputs["initial_state"].transpose(1, 2))
    short = [t[:, :64] if n in ("u", "delta", "B", "C", "z") else t for n, t in inputs.items()]
    _, state, nothing = native.forward(*short, True, False)
    assert torch.equal(checkpoints[:, 1], state.transpose(1, 2))
    assert nothing.shape == (2, 0, 6, 18)


def test_a_long_scan_neither_overflows_nor_drifts() -> None:
    """100 000 steps with a slow decay: the state is a sum over thousands of steps."""
    length = 100_000
    u, one = torch.ones(1, length, 1), torch.ones(1, length, 1)
    delta, A = torch.full((1, length, 1), 1e-3), torch.full((1, 1), -1.0)
    y, _, checkpoints = native.forward(u, delta, A, one, one, None, None, None, None, False, True)
    a = torch.exp(torch.tensor(-1e-3, dtype=torch.float64)).item()
    limit = 1e-3 / (1 - a)
    assert y[0, -1, 0].item() == pytest.approx(limit, rel=1e-4)
    gradients = native.backward(
        torch.ones_like(y), None, u, delta, A, one, one, None, None, None, False, checkpoints
    )
    assert all(g.isfinite().all() for g in gradients if g is not None)
    # sum over steps of delta * sum of everything after: the closed form of the gradient of u
    assert gradients[0][0, 0, 0].item() == pytest.approx(limit, rel=1e-4)
    quiet = torch.zeros_like(u)  # a state left alone decays into nothing, without denormals' cost
    *_, final, _ = native.forward(
        quiet, delta, A, one, one, None, None, None, torch.ones(1, 1, 1), False, False
    )
    assert final.item() == 0
