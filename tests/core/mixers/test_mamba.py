"""Mamba and Mamba-2 against transformers' mixers, and what papers say about their start."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.blocks import init_weights
from core.errors import UsageError
from core.mixers import build_mixer, mixer_config
from core.mixers.base import BlockContext
from core.mixers.mamba import Mamba
from core.mixers.mamba2 import Mamba2
from core.training.config import TrainConfig
from core.training.optim import build_optimizer

DIM = 32


def make(name: str, rank: int = 1, dim: int = DIM, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_mixer(mixer_config(name, **options), BlockContext(dim=dim, rank=rank))


def shake(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def theirs(name: str, **options: Any) -> nn.Module:
    """transformers' mixer of the same size, on its path of plain PyTorch, with lively weights."""
    from transformers import Mamba2Config, MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(1)
    if name == "mamba":
        config = MambaConfig(hidden_size=DIM, num_hidden_layers=1, **options)
        return shake(MambaMixer(config, 0))
    heads = 2 * DIM // options["head_dim"]
    config = Mamba2Config(hidden_size=DIM, num_hidden_layers=1, num_heads=heads, **options)
    return shake(Mamba2Mixer(config, 0))


# transformers' name: ours, where they differ.  Ours have an axis of directions in front.
NAMES = {
    "conv1d.weight": "conv.0.conv.weight",
    "conv1d.bias": "conv.0.conv.bias",
    "x_proj.weight": "x_proj",
    "dt_proj.weight": "dt_weight",
    "dt_proj.bias": "dt_bias",
}
STACKED = {"x_proj", "dt_weight", "dt_bias", "A_log", "D"}


def mapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {NAMES.get(key, key): value for key, value in tensors.items()}
    return {key: value[None] if key in STACKED else value for key, value in named.items()}


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("mamba", {"d_state": 16}, {"state_size": 16}),
        (
            "mamba",
            {"d_state": 5, "expand": 3, "d_conv": 3, "dt_rank": 7, "bias": True},
            {"state_size": 5, "expand": 3, "conv_kernel": 3, "time_step_rank": 7, "use_bias": True},
        ),
        ("mamba", {"conv_bias": False}, {"use_conv_bias": False}),
        (
            "mamba2",
            {"d_state": 16, "head_dim": 16},
            {"state_size": 16, "head_dim": 16, "n_groups": 1},
        ),
        (
            "mamba2",
            {"d_state": 8, "head_dim": 8, "groups": 4, "d_conv": 2, "bias": True},
            {"state_size": 8, "head_dim": 8, "n_groups": 4, "conv_kernel": 2, "use_bias": True},
        ),
    ],
)
def test_parity_with_transformers(name: str, own: dict[str, Any], other: dict[str, Any]) -> None:
    reference = theirs(name, **other)
    mixer = make(name, **own)
    mixer.load_state_dict(mapped(dict(reference.named_parameters())))
    if name == "mamba2":
        assert mixer.norm.eps == reference.norm.variance_epsilon
    x = torch.randn(2, 71, DIM)  # more than one chunk of 64
    xs = [x.clone().requires_grad_() for _ in range(2)]
    ys = [mixer(xs[0]), reference(xs[1])]
    torch.testing.assert_close(ys[0], ys[1], rtol=1e-5, atol=1e-5)
    for y in ys:
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    torch.testing.assert_close(xs[0].grad, xs[1].grad, rtol=1e-5, atol=1e-5)
    gradients = mapped({k: p.grad for k, p in reference.named_parameters()})
    for key, p in mixer.named_parameters():
        scale = gradients[key].abs().max()
        torch.testing.assert_close(p.grad / scale, gradients[key] / scale, rtol=0, atol=1e-5)


@torch.no_grad()
def test_start_of_mamba() -> None:
    mixer = make("mamba", dim=64, rank=2, path="cross", d_state=6, dt_rank=9)
    torch.testing.assert_close(
        -mixer.A_log.exp(), -torch.arange(1.0, 7).expand(4, 128, 6), rtol=1e-6, atol=1e-6
    )
    assert (mixer.D == 1).all()
    step = F.softplus(mixer.dt_bias)
    assert step.min() >= 0.999e-3
    assert step.max() <= 0.1001
    # Log-uniform: a quarter of the steps in each quarter of the decades.
    quarters = (step.log10().flatten() + 3) * 2  # 0 to 4
    shares = torch.histc(quarters, 4, 0, 4) / quarters.numel()
    assert (shares - 0.25).abs().max() < 0.06
    assert mixer.dt_weight.abs().max() <= 9**-0.5
    assert mixer.dt_weight.std().item() == pytest.approx((9 * 3) ** -0.5, rel=0.05)


@torch.no_grad()
def test_start_of_mamba2() -> None:
    mixer = make("mamba2", dim=256, head_dim=2, d_state=4)
    assert mixer.A_log.shape == (1, 256)
    decay = mixer.A_log.exp()
    assert decay.min() >= 1
    assert decay.max() <= 16
    assert decay.mean().item() == pytest.approx(8.5, rel=0.1)
    assert (mixer.D == 1).all()
    assert 0.999e-3 <= F.softplus(mixer.dt_bias).min() <= F.softplus(mixer.dt_bias).max() <= 0.1001


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_networks_initialisation_leaves_the_state_space_alone(name: str) -> None:
    mixer = make(name, rank=2, path="cross")
    before = {key: p.clone() for key, p in mixer.named_parameters()}
    init_weights(mixer)
    changed = {k for k, p in mixer.named_parameters() if not torch.equal(p, before[k])}
    assert changed == {"in_proj.weight", "out_proj.weight"}


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_d_and_dt_bias_do_not_decay(name: str) -> None:
    network = nn.Sequential(make(name, rank=2, path="cross"))
    groups = build_optimizer(network, TrainConfig(max_steps=1, weight_decay=0.1)).param_groups
    names = {parameter: key for key, parameter in network.named_parameters()}
    still = {names[p] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {"0.A_log", "0.D", "0.dt_bias"} <= still
    decayed = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    assert {"0.in_proj.weight", "0.out_proj.weight"} <= decayed
    assert still.isdisjoint(decayed)
    assert still | decayed == set(names.values())


def plain_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """h = exp(delta A) h + delta u B, y = C h, one position after the other."""
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    ys = []
    for t in range(u.shape[1]):
        d = delta[:, t, :, None]
        h = torch.exp(d * A) * h + d * u[:, t, :, None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


@pytest.mark.parametrize(("gate", "merge"), [(True, "sum"), (False, "mean")])
def test_cross_scan_on_a_grid_is_vmambas_by_hand(gate: bool, merge: str) -> None:
    """SS2D on a 2 x 3 grid, written out: four orders, own projections, sum, norm, gate."""
    options = {"path": "cross", "conv": "grid", "norm": "layer", "gate": gate, "merge": merge}
    mixer = shake(make("mamba", rank=2, dim=8, d_state=3, **options)).double()
    assert isinstance(mixer, Mamba)
    x = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    u, z = mixer.in_proj(x), None
    if gate:
        u, z = u.chunk(2, -1)
    conv = mixer.conv[0].conv
    assert conv.kernel_size == (3, 3)
    u = F.silu(F.conv2d(u.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1, groups=16))
    u = u.flatten(2).transpose(1, 2)  # (B, 6, E) by rows
    total = torch.zeros_like(u)
    orders = [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    for k, order in enumerate(orders):
        s = u[:, order]
        d, B, C = (s @ mixer.x_proj[k].T).split([1, 3, 3], -1)
        delta = F.softplus(d @ mixer.dt_weight[k].T + mixer.dt_bias[k])
        y = plain_scan(s, delta, -mixer.A_log[k].exp(), B, C) + mixer.D[k] * s
        total[:, order] += y / (4 if merge == "mean" else 1)
    y = F.layer_norm(total, (16,), mixer.norm.weight, mixer.norm.bias).view(2, 2, 3, 16)
    y = mixer.out_proj(y if z is None else y * F.silu(z))
    torch.testing.assert_close(mixer(x), y)


def test_bidirectional_is_vims_by_hand() -> None:
    """Each direction is a Mamba of its own on the sequence or its reverse; the mean is gated."""
    mixer = make("mamba", dim=8, d_state=3, path="bidirectional", merge="mean").double()
    shake(mixer)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    halves = []
    for k in range(2):
        one = make("mamba", dim=8, d_state=3).double()
        state = {key: v[k : k + 1] if v.ndim > 1 and v.shape[0] == 2 else v
                 for key, v in mixer.state_dict().items() if not key.startswith("conv.")}  # fmt: skip
        for end in ("weight", "bias"):
            state[f"conv.0.conv.{end}"] = mixer.state_dict()[f"conv.{k}.conv.{end}"]
        one.load_state_dict(state)
        halves.append(one(x.flip(1)).flip(1) if k else one(x))
    torch.testing.assert_close(mixer(x), (halves[0] + halves[1]) / 2)


def test_heads_of_mamba2_divide_the_inner_width() -> None:
    for dim, wanted, got in [(8, 64, 16), (48, 64, 48), (128, 64, 64), (7, 4, 2)]:
        mixer = make("mamba2", dim=dim, head_dim=wanted)
        assert isinstance(mixer, Mamba2)
        assert (mixer.head_dim, mixer.heads) == (got, 2 * dim // got)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mamba", {"path": "crosss"}, "Did you mean 'cross'"),
        ("mamba", {"conv": "gird"}, "Did you mean 'grid'"),
        ("mamba", {"merge": "maen"}, "Did you mean 'mean'"),
        ("mamba", {"norm": "layr"}, "Did you mean 'layer'"),
        ("mamba", {"conv": "grid", "d_conv": 4}, "must be odd"),
        ("mamba", {"d_conv": -1}, "at least 1"),
        ("mamba", {"d_conv": 0}, "at least 1"),
        ("mamba2", {"conv": "grid", "d_conv": 0}, "must be odd"),
        ("mamba", {"d_state": 0}, "at least 1"),
        ("mamba", {"dt_rank": 0}, "at least 1"),
        ("mamba", {"expand": 0.01}, "leaves none"),
        ("mamba", {"path": "atrous", "skip": 0}, "skip 0"),
        ("mamba2", {"groups": 3}, "divide the 1 heads"),
        ("mamba2", {"head_dim": 0}, "head_dim 0"),
        ("mamba2", {"conv": "gird"}, "Did you mean 'grid'"),
    ],
)
def test_mistakes_are_explained(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make(name, rank=2, **options)
    assert "\n" not in str(error.value)


def test_widths_are_published_ones() -> None:
    """Parameters of a Mamba of 768 channels, as in mamba-130m: 3.79 M a mixer."""
    with torch.device("meta"):
        mixer = make("mamba", dim=768)
    E, r, N = 1536, math.ceil(768 / 16), 16
    assert mixer.x_proj.shape == (1, r + 2 * N, E)
    count = sum(p.numel() for p in mixer.parameters())
    assert count == 768 * 2 * E + 5 * E + E * (r + 2 * N) + E * r + E + E * N + E + E * 768
