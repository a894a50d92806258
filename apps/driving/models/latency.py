"""How long a driving network takes to decide.

One decision is one forward pass of a batch of one without gradients, from pictures as the sensors
give them to waypoints and controls.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from apps.driving.models.base import Driver, Inputs
from apps.driving.models.config import ModelConfig


def example_inputs(config: ModelConfig, batch: int = 1, seed: int = 0) -> Inputs:
    """Noise in the shapes that a network of ``config`` takes: B moments of its cameras."""
    random = torch.Generator().manual_seed(seed)
    (height, width), views = config.rig.size, len(config.rig.cameras)
    return Inputs(
        rgb=torch.randint(
            0, 256, (batch, views, 3, height, width), dtype=torch.uint8, generator=random
        ),
        depth=torch.rand(batch, views, height, width, generator=random) * 60 + 1,
        speed=torch.rand(batch, generator=random) * 10,
        target=torch.randn(batch, 2, generator=random) * 10 + torch.tensor([20.0, 0.0]),
        command=torch.randint(1, 7, (batch,), generator=random),
    )


def measure(
    network: Driver, *, threads: int = 1, repeats: int = 30, seed: int = 0
) -> dict[str, Any]:
    """Milliseconds a decision on the device where ``network`` is: median and 95th percentile.

    ``cpu_ms`` is the median processor time, which other programs on the machine disturb less.
    """
    device = next(network.parameters()).device
    inputs = example_inputs(network.config, seed=seed).to(device)
    before, training = torch.get_num_threads(), network.training
    wall, cpu = [], []
    torch.set_num_threads(threads)
    network.eval()
    try:
        with torch.inference_mode():
            for _ in range(3):  # kernels are chosen and memory is taken at the first calls
                network(inputs)
            for _ in range(repeats):
                _wait(device)
                start = time.perf_counter(), time.process_time()
                network(inputs)
                _wait(device)
                wall.append(1e3 * (time.perf_counter() - start[0]))
                cpu.append(1e3 * (time.process_time() - start[1]))
    finally:
        torch.set_num_threads(before)
        network.train(training)
    return {
        "model": network.config.name,
        "device": str(device),
        "threads": threads,
        "repeats": repeats,
        "median_ms": statistics.median(wall),
        "p95_ms": sorted(wall)[min(len(wall) - 1, round(0.95 * len(wall)))],
        "cpu_ms": statistics.median(cpu),
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
