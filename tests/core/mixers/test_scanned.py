"""What holds for every mixer along scan paths: causality, streaming, extra tokens, export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.mixers import build_mixer, mixer_config
from core.mixers.base import BlockContext

DIM = 8
STATEFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba", {"d_state": 4}),
    "mamba-norm": ("mamba", {"d_state": 2, "norm": "rms", "gate": False, "d_conv": 1}),
    "mamba2": ("mamba2", {"d_state": 4, "head_dim": 4, "groups": 2}),
    "retention": ("retention", {"heads": 2}),
    "retention-rotary": ("retention", {"heads": 2, "rotary": True, "expand": 2.0}),
    "retention-xpos": ("retention", {"heads": 2, "rotary": True, "xpos": 9.0}),
    "temporal_conv": ("temporal_conv", {"size": 40}),
    "attention": ("attention", {"heads": 2, "causal": True}),
    "attention-shared": ("attention", {"heads": 4, "kv_heads": 2, "causal": True}),
}
stateful = pytest.mark.parametrize("case", STATEFUL)
SIZES = {1: (17,), 2: (3, 5), 3: (2, 3, 4)}


def make(name: str, rank: int, **options: Any) -> Any:
    torch.manual_seed(0)
    mixer = build_mixer(mixer_config(name, **options), BlockContext(dim=DIM, rank=rank))
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return mixer.eval()


def changed(mixer: nn.Module, x: Tensor, at: int) -> Tensor:
    """Which positions, in raster order, a change at position ``at`` reaches: (L,)."""
    other = x.clone()
    other.flatten(1, -2)[:, at] += 1.0
    return (mixer(other) != mixer(x)).flatten(1, -2).any(-1).any(0)


@pytest.mark.parametrize("rank", [1, 2, 3])
@stateful
@torch.no_grad()
def test_raster_sees_only_the_past(case: str, rank: int) -> None:
    name, options = STATEFUL[case]
    if options.get("rotary") and rank > 1:
        return
    mixer = make(name, rank, **options)
    x = torch.randn(2, *SIZES[rank], DIM)
    L = x[0, ..., 0].numel()
    for at in (0, 1, L // 2, L - 1):
        reached = changed(mixer, x, at)
        assert not reached[:at].any(), "the future has changed the past"
        assert reached[at:].all(), "the past does not reach the future"


@torch.no_grad()
def test_long_sequences_see_only_the_past() -> None:
    """Past one chunk of a scan, and past where attention takes its fused kernel."""
    for name, options in STATEFUL.values():
        mixer = make(name, 1, **options)
        x = torch.randn(1, 200, DIM)
        for at in (63, 64, 150):
            assert not changed(mixer, x, at)[:at].any(), name


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("path", ["bidirectional", "cross"])
@pytest.mark.parametrize("name", ["mamba", "mamba2", "retention"])
@torch.no_grad()
def test_both_ways_see_everything(name: str, path: str, rank: int) -> None:
    options = {"heads": 2} if name == "retention" else {}
    mixer = make(name, rank, path=path, **options).double()
    x = torch.randn(1, *SIZES[rank], DIM, dtype=torch.float64)
    for at in (0, 4, x[0, ..., 0].numel() - 1):
        assert changed(mixer, x, at).all()


@pytest.mark.parametrize("name", ["mamba", "mamba2", "retention"])
@torch.no_grad()
def test_atrous_sees_its_own_sub_grid(name: str) -> None:
    options = {"causal": False} if name == "retention" else {}
    if name == "retention":
        options["heads"] = 2
    mixer = make(name, 2, path="atrous", skip=2, **options)
    x = torch.randn(1, 4, 5, DIM)
    reached = changed(mixer, x, 6).view(4, 5)  # row 1, column 1
    apart = torch.ones(4, 5, dtype=torch.bool)
    apart[1::2, 1::2] = False
    assert not reached[apart].any()
    assert reached[3, 3]


@stateful
@torch.no_grad()
def test_steps_equal_forward(case: str) -> None:
    name, options = STATEFUL[case]
    mixer = make(name, 1, **options)
    x = torch.randn(3, 70, DIM)
    want = mixer(x)
    state = mixer.initial_state(3)
    got = []
    for t in range(x.shape[1]):
        before = [s.clone() for s in state]
        y, after = mixer.step(x[:, t], state)
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True)), "in place"
        state = after
        got.append(y)
    torch.testing.assert_close(torch.stack(got, 1), want, rtol=1e-5, atol=1e-5)
    # In double precision too, whose state follows the parameters.
    wide = mixer.double()
    y, state = wide.step(x[:, 0].double(), wide.initial_state(3))
    torch.testing.assert_close(y, wide(x[:, :1].double())[:, 0], rtol=1e-9, atol=1e-9)
    assert {s.dtype for s in state} <= {torch.float64, torch.int64}


@pytest.mark.parametrize(
    ("name", "rank", "options"),
    [
        ("mamba", 2, {}),
        ("mamba", 1, {"path": "bidirectional"}),
        ("mamba", 1, {"conv": "grid"}),
        ("mamba", 1, {"norm": "grid"}),
        ("mamba2", 1, {"path": "cross"}),
        ("mamba2", 3, {}),
        ("retention", 1, {"heads": 2, "causal": False}),
        ("retention", 1, {"heads": 2, "path": "atrous"}),
        ("attention", 1, {"heads": 2}),
        ("attention", 2, {"heads": 2, "causal": True}),
    ],
)
def test_what_cannot_be_streamed_says_so(name: str, rank: int, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be streamed") as error:
        make(name, rank, **options).initial_state(1)
    if rank == 1 and "path" in options:
        assert "use path 'raster'." in str(error.value)  # and nothing that is right already
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "at"),
    [
        ("mamba", {"d_state": 4}, 10),
        ("mamba", {"d_state": 4, "path": "bidirectional", "merge": "mean"}, 10),
        ("mamba2", {"d_state": 4, "path": "bidirectional"}, 10),
        ("retention", {"heads": 2}, 20),
        ("attention", {"heads": 2}, 0),
        ("attention", {"heads": 2, "causal": True}, 20),
    ],
)
@torch.no_grad()
def test_extra_tokens_join_the_sequence(name: str, options: dict[str, Any], at: int) -> None:
    """On a 4 x 5 grid: as the rank-1 mixer with the tokens put where the docstring says."""
    mixer, line = make(name, 2, **options), make(name, 1, **options)
    line.load_state_dict(mixer.state_dict())
    x, extra = torch.randn(2, 4, 5, DIM), torch.randn(2, 3, DIM)
    flat = x.flatten(1, 2)
    want = line(torch.cat((flat[:, :at], extra, flat[:, at:]), 1))
    y, y_extra = mixer.forward_extra(x, extra)
    assert y.shape == x.shape
    torch.testing.assert_close(y_extra, want[:, at : at + 3])
    torch.testing.assert_close(y.flatten(1, 2), torch.cat((want[:, :at], want[:, at + 3 :]), 1))


@pytest.mark.parametrize(
    ("name", "options"),
    [("mamba", {"conv": "grid"}), ("mamba2", {"path": "cross"}), ("mamba", {"path": "atrous"})],
)
def test_extra_tokens_need_a_sequence(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="extra tokens have no place"):
        make(name, 2, **options).forward_extra(torch.randn(1, 2, 2, DIM), torch.randn(1, 1, DIM))


@pytest.mark.parametrize("name", ["mamba", "mamba2", "retention"])
def test_large_inputs_stay_finite_under_autocast(name: str) -> None:
    options = {"heads": 2} if name == "retention" else {}
    mixer = make(name, 2, path="cross", **options).train()
    x = (20 * torch.randn(1, 16, 16, DIM)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    y.float().square().mean().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


EXPORTED = [
    ("mamba", {"d_state": 4}),
    ("mamba", {"d_state": 2, "path": "cross", "conv": "grid", "norm": "layer"}),
    ("mamba", {"d_state": 2, "path": "atrous", "conv": "grid", "norm": "layer"}),
    ("mamba2", {"d_state": 4, "head_dim": 8, "path": "bidirectional"}),
    ("retention", {"heads": 2, "path": "cross"}),
    ("attention", {"heads": 2, "causal": True}),
]


@pytest.mark.parametrize(
    ("name", "options", "rank"), [(*EXPORTED[0], 1), *((*case, 2) for case in EXPORTED)]
)
@torch.no_grad()
def test_export_with_dynamic_sizes(name: str, options: dict[str, Any], rank: int) -> None:
    mixer = make(name, rank, **options)
    dynamic = {i: torch.export.Dim.DYNAMIC for i in range(rank + 1)}
    traced = torch.randn(2, *(8, 10)[:rank], DIM)
    program = torch.export.export(mixer, (traced,), dynamic_shapes=(dynamic,)).module()
    for S in [(7, 12), (90, 5)]:
        x = torch.randn(3, *S[:rank], DIM)
        torch.testing.assert_close(program(x), mixer(x), rtol=1e-4, atol=1e-5)
