"""What must hold of every driving network, on little pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from apps.driving.models import build
from apps.driving.models.base import Driver, Inputs, Outputs
from apps.driving.models.config import PRESETS, ModelConfig
from apps.driving.models.latency import example_inputs
from core.errors import DataError, UsageError

Tiny = Callable[..., ModelConfig]

LOSSES: dict[str, Callable[[Outputs], torch.Tensor]] = {
    "semantics": lambda o: o.semantics.log_softmax(1)[:, 0].mean(),
    "waypoints": lambda o: (o.waypoints - 3.0).abs().mean(),
    "control": lambda o: (o.control - 0.4).square().mean(),
    "red_light": lambda o: o.red_light.square().mean(),
    "stop_sign": lambda o: o.stop_sign.square().mean(),
    "speed": lambda o: (o.speed - 5.0).abs().mean(),
}


def make(config: ModelConfig, seed: int = 0) -> Driver:
    torch.manual_seed(seed)
    return build(config)


def run(network: Driver, inputs: Inputs) -> Outputs:
    with torch.inference_mode():
        return network.eval()(inputs)


def same(a: Outputs, b: Outputs) -> None:
    for name, x, y in zip(Outputs._fields, a, b):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=list(PRESETS))
def config(request: pytest.FixtureRequest, tiny: Tiny) -> ModelConfig:
    return tiny(request.param)


def test_shapes_and_ranges(config: ModelConfig) -> None:
    inputs = example_inputs(config, batch=2)
    out = run(make(config), inputs)
    stride, classes = config.decoder.stride, len(config.classes)
    assert out.semantics.shape == (2, classes, 32 // stride, 192 // stride)
    assert out.birdseye.shape == (2, classes, *config.cloud.shape)
    assert set(out.birdseye.unique().tolist()) == {0.0, 1.0}
    assert out.waypoints.shape == (2, config.steps, 2)
    assert out.control.shape == (2, 3)
    assert (out.control[:, 0].abs() <= 1).all()
    assert ((out.control[:, 1:] >= 0) & (out.control[:, 1:] <= 1)).all()
    for value in (out.red_light, out.stop_sign, out.speed):
        assert value.shape == (2,)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in out)


def test_a_moment_does_not_depend_on_those_beside_it(config: ModelConfig) -> None:
    network, inputs = make(config), example_inputs(config, batch=3, seed=1)
    together = run(network, inputs)
    for i in range(3):
        alone = run(network, Inputs(*(value[i : i + 1] for value in inputs)))
        same(Outputs(*(value[i : i + 1] for value in together)), alone)


def test_every_parameter_learns(config: ModelConfig) -> None:
    network = make(config).train()
    out = network(example_inputs(config, batch=4, seed=2))
    torch.stack([loss(out) for loss in LOSSES.values()]).sum().backward()
    dead = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not dead


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_reaches_the_shared_layer(config: ModelConfig, name: str) -> None:
    network = make(config).train()
    loss = LOSSES[name](network(example_inputs(config, batch=2, seed=3)))
    for gradient in torch.autograd.grad(loss, network.fusion_parameters()):
        assert gradient.norm() > 0


def test_the_seed_decides_the_weights(config: ModelConfig) -> None:
    inputs = example_inputs(config)
    same(run(make(config), inputs), run(make(config), inputs))
    other = run(make(config, seed=1), inputs).waypoints
    assert not torch.equal(run(make(config), inputs).waypoints, other)


def test_pictures_may_be_bytes_or_numbers(config: ModelConfig) -> None:
    network, inputs = make(config), example_inputs(config, seed=4)
    same(run(network, inputs), run(network, inputs._replace(rgb=inputs.rgb.float())))


def test_what_a_driver_sees_and_is_told_matters(config: ModelConfig) -> None:
    """Each input changes the waypoints, the order of the views included."""
    network, inputs = make(config), example_inputs(config, seed=5)
    first = run(network, inputs).waypoints
    for change in (
        {"rgb": inputs.rgb.flip(1)},
        {"depth": inputs.depth.flip(1)},
        {"speed": inputs.speed + 5},
        {"target": inputs.target + 5},
        {"command": inputs.command % 6 + 1},
    ):
        assert not torch.allclose(run(network, inputs._replace(**change)).waypoints, first)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_depth_that_is_none_and_an_unknown_speed_give_numbers(
    config: ModelConfig, value: float
) -> None:
    inputs = example_inputs(config)
    inputs = inputs._replace(
        depth=torch.full_like(inputs.depth, value), speed=torch.tensor([math.nan])
    )
    out = run(make(config), inputs)
    assert all(v.isfinite().all() for v in out)
    assert not out.birdseye.any()


def test_an_unknown_speed_is_not_standing_still(config: ModelConfig) -> None:
    network, inputs = make(config), example_inputs(config)
    unknown = run(network, inputs._replace(speed=torch.tensor([math.nan]))).waypoints
    standing = run(network, inputs._replace(speed=torch.tensor([0.0]))).waypoints
    assert not torch.allclose(unknown, standing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": (1, 2, 3, 32, 64)}, "rgb of shape .1, 2, 3, 32, 64.*3 cameras of 64 x 32"),
        ({"rgb": (1, 3, 3, 64, 128)}, "rgb of shape"),
        ({"depth": (1, 3, 32, 65)}, "depth of shape"),
        ({"depth": (2, 3, 32, 64)}, "depth of shape"),
        ({"target": (1, 3)}, "target of shape"),
    ],
)
def test_other_cameras_are_refused(
    tiny: Tiny, change: dict[str, tuple[int, ...]], message: str
) -> None:
    config = tiny("small")
    inputs = example_inputs(config)
    wrong = inputs._replace(**{name: torch.zeros(shape) for name, shape in change.items()})
    with pytest.raises(DataError, match=message):
        run(make(config), wrong)


MIXERS: list[Any] = [
    "pool", "depthwise", "reduced", "window", "mamba", "mamba2",
    {"name": "mamba", "d_state": 4, "path": "cross", "conv": "grid"},
    {"name": "window", "heads": 1, "window": 5},
]  # fmt: skip


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_any_mixer_of_the_core(tiny: Tiny, mixer: Any) -> None:
    options = {**tiny("small").backbone.options, "mixer": mixer}
    config = tiny("small", backbone={"options": options, "feed": "stem"})
    network = make(config).train()
    LOSSES["waypoints"](network(example_inputs(config, batch=2))).backward()
    assert all(p.grad is not None for p in network.encoder.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("mixer", ["atention", {"name": "pool", "sise": 3}, {"size": 3}])
def test_an_unknown_mixer_is_named(tiny: Tiny, mixer: Any) -> None:
    options = {**tiny("small").backbone.options, "mixer": mixer}
    config = tiny("small", backbone={"options": options, "feed": "stem"})
    with pytest.raises(UsageError, match="mixer"):
        build(config)


def test_a_stem_that_does_not_fit_its_backbone_is_named(tiny: Tiny) -> None:
    config = tiny(
        "small", stem=(8, 8, 8), backbone={**tiny("small").backbone.model_dump(), "feed": "picture"}
    )
    with pytest.raises(UsageError, match="strides"):
        build(config)


def test_labels_lie_under_their_logits(tiny: Tiny) -> None:
    """Pixel numbers as labels: a logit's is below and right of its square's centre."""
    network = make(tiny("small", width=128))
    column = torch.arange(192).view(3, 1, 64).expand(3, 32, 64)
    row = torch.arange(32).view(1, 32, 1).expand(3, 32, 64)
    labels = network.semantic_targets(torch.stack([column, row]))
    assert labels.dtype == torch.int64
    assert labels.shape == (2, 8, 32)
    assert labels[0, 0].tolist() == [32 + 4 * i + 2 for i in range(32)]
    assert labels[1, :, 0].tolist() == [4 * i + 2 for i in range(8)]


def test_export_computes_the_same_for_any_batch(tiny: Tiny) -> None:
    config = tiny("small")
    network = make(config).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = (Inputs(*({0: batch} for _ in Inputs._fields)),)  # type: ignore[arg-type]
    exported = torch.export.export(
        network, (example_inputs(config, batch=2),), dynamic_shapes=shapes
    ).module()
    for size in (1, 3):
        inputs = example_inputs(config, batch=size, seed=size)
        with torch.no_grad():
            same(Outputs(*exported(inputs)), run(network, inputs))


def test_sizes_of_the_presets() -> None:
    """``small`` stays below 3 M; ``cvt13``'s transformer has CvT-13's published 19.6 M."""
    count = {
        name: sum(p.numel() for p in build(PRESETS[name]).parameters())
        for name in ("small", "small-mamba")
    }
    assert max(count.values()) < 3_000_000
    large: Any = build(PRESETS["cvt13"])
    assert sum(p.numel() for p in large.encoder.backbone.parameters()) == pytest.approx(
        19.6e6, rel=0.01
    )
    assert 22e6 < sum(p.numel() for p in large.parameters()) < 28e6
