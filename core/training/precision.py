"""Where a run computes (Lightning Fabric) and in which number format."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def start_fabric(device: torch.device) -> Fabric:
    """Fabric on one device, or DDP over the processes that torchrun started.

    Lightning is imported here, at the last moment: it costs 1 to 4 seconds.
    """
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments import LightningEnvironment

        if torch.distributed.is_torchelastic_launched():
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = int(os.environ["WORLD_SIZE"]) // local
            fabric = Fabric(accelerator=device.type, strategy="ddp", devices=local, num_nodes=nodes)
        else:
            one: Any = 1 if device.index is None or device.type == "cpu" else [device.index]
            # Named, or Fabric would read a cluster scheduler's variables and expect more processes.
            single = LightningEnvironment()
            fabric = Fabric(accelerator=device.type, devices=one, plugins=single)
        fabric.launch()
    return fabric


class Autocast(nn.Module):
    """``network`` under automatic mixed precision, its outputs in float32; else like ``network``.

    Fabric's own bf16-mixed also rounds the network's inputs, and a time stamp or a price does not
    survive 8 bits of mantissa; torch's autocast leaves that to each operation.
    """

    def __init__(self, network: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.device_type = device
        self.dtype = dtype
        self.training = network.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.network, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            network = super().__getattr__("network")
            found = getattr(network, name)
            methods = getattr(network, "forward_methods", ()) if name != "forward_methods" else ()
            return partial(self._run, found) if name in methods else found

    def _run(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from lightning_utilities.core.apply_func import apply_to_collection

        with torch.autocast(self.device_type, dtype=self.dtype):
            output = method(*args, **kwargs)
        return apply_to_collection(output, Tensor, _float32)


def running_statistics(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(buffer, copy) of normalisation statistics, which a forward pass changes before it fails."""
    return [
        (buffer, buffer.clone())
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers(recurse=False)
    ]


def put_back(statistics: list[tuple[Tensor, Tensor]]) -> None:
    """Undo what happened to the buffers since ``running_statistics``."""
    for buffer, before in statistics:
        buffer.copy_(before)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
