from __future__ import annotations

from collections.abc import Callable

import torch

from apps.driving.models import build
from apps.driving.models.config import ModelConfig
from apps.driving.models.latency import example_inputs, measure


def test_it_measures_and_leaves_everything_as_it_was(tiny: Callable[..., ModelConfig]) -> None:
    network = build(tiny("small")).train()
    threads = torch.get_num_threads()
    statistics = {k: v.clone() for k, v in network.state_dict().items()}
    report = measure(network, threads=1, repeats=5)
    assert 0 < report["median_ms"] <= report["p95_ms"]
    assert report["threads"] == 1
    assert report["parameters"] == sum(p.numel() for p in network.parameters())
    assert network.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(v, statistics[k]) for k, v in network.state_dict().items())


def test_a_seed_gives_the_same_noise(tiny: Callable[..., ModelConfig]) -> None:
    config = tiny("small")
    first, again, other = (example_inputs(config, 2, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.rgb, other.rgb)
