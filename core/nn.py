"""Layers with no opinion: convolutions and norms over channels-last grids (B, *S, C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.errors import UsageError, unknown


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` whose gradients can be trusted in bfloat16 on a CPU, on small grids too.

    Where a kernel is longer than the grid on an axis (3 on 2 positions, 7 on 4), PyTorch's kernel
    for the weights' gradient reads and writes beyond its memory: NaN in 28 of 30 tries, or a crash
    (2.13; 1-d and 2-d convolutions and float32 are sound).  Such a grid costs next to nothing in
    float32, so it is done there.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = input.device.type == "cpu" and torch.is_grad_enabled()
        mixed = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if mixed else input.dtype
        half = dtype in (torch.bfloat16, torch.float16)
        if not (learns and half) or all(
            n >= k for n, k in zip(input.shape[2:], self.kernel_size, strict=True)
        ):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            wide = None if bias is None else bias.float()
            return super()._conv_forward(input.float(), weight.float(), wide).to(dtype)


def sound_convolutions(network: nn.Module) -> nn.Module:
    """``network``, its plain ``nn.Conv3d`` made :class:`Conv3d`: for networks from elsewhere."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d
    return network


CONV = (nn.Conv1d, nn.Conv2d, Conv3d)
CONV_FUNCTION = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVG_POOL = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def recomputed(active: bool, call: Callable[..., Any], *inputs: Any) -> Any:
    """``call(*inputs)``; when ``active`` its insides are recomputed in the backward pass."""
    if active and torch.is_grad_enabled():
        return checkpoint(call, *inputs, use_reentrant=False)
    return call(*inputs)


class ChannelsLastConv(nn.Module):
    """An n-d convolution on (B, *S, C).

    ``movedim`` is a view, and at rank 2 and 3 that view *is* channels-last memory: a depthwise
    convolution fed so is 8 (2-D) to 20 times (3-D) faster on a CPU.  At rank 1 a depthwise
    convolution runs as a 2-D one with a unit axis, which is 10 times faster and equal to 5e-7.

    To train a depthwise convolution under a CPU's autocast it runs in float32: backwards bfloat16
    takes three times as long (64 channels of two grids of 20 x 28 x 20: 65 ms against 21).
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int | tuple[int, ...],
        rank: int,
        **options: Any,
    ) -> None:
        super().__init__()
        self.conv = CONV[rank - 1](dim_in, dim_out, kernel, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor, *, padded: bool = False) -> Tensor:
        """``padded``: x already holds the convolution's own padding."""
        slow = self.conv.groups > 1 and x.device.type == "cpu" and torch.is_grad_enabled()
        if slow and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.convolve(x.float(), padded).to(torch.get_autocast_dtype("cpu"))
        return self.convolve(x, padded)

    def convolve(self, x: Tensor, padded: bool) -> Tensor:
        """The convolution, in the precision of x and its weights."""
        conv = self.conv
        if isinstance(conv, nn.Conv1d) and conv.groups > 1:
            y = F.conv2d(
                x.unsqueeze(1).movedim(-1, 1),
                conv.weight.unsqueeze(2),
                conv.bias,
                (1, conv.stride[0]),
                (0, 0 if padded else int(conv.padding[0])),
                (1, conv.dilation[0]),
                conv.groups,
            )
            return y.movedim(1, -1).squeeze(1)
        if padded:
            y = CONV_FUNCTION[x.ndim - 3](
                x.movedim(-1, 1), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups
            )
            return y.movedim(1, -1)
        return conv(x.movedim(-1, 1)).movedim(1, -1)


class GridNorm(nn.Module):
    """GroupNorm with one group: statistics over the whole grid and all channels (PoolFormer)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.movedim(-1, 1), 1, self.weight, self.bias, self.eps).movedim(1, -1)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, with the mean square in float32 (Zhang and Sennrich, NeurIPS 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight


class BatchNormGrid(nn.Module):
    """Batch normalisation of (B, *S, C) over everything but C."""

    def __init__(self, dim: int, rank: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = BATCH_NORM[rank - 1](dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(-1, 1)).movedim(1, -1)


NORMS = ("layer", "rms", "grid", "none")


def make_norm(name: str, dim: int, eps: float = 1e-5) -> nn.Module:
    """The norm ``name`` over ``dim`` channels.  Raises UsageError naming the nearest one."""
    if name == "layer":
        return nn.LayerNorm(dim, eps=eps)
    if name == "rms":
        return RMSNorm(dim, eps)
    if name == "grid":
        return GridNorm(dim, eps)
    if name == "none":
        return nn.Identity()
    raise UsageError(unknown("norm", name, NORMS))


class SquaredReLU(nn.Module):
    """relu(x)^2 (So et al., "Primer", NeurIPS 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "squared_relu": SquaredReLU,
}


def make_activation(name: str) -> nn.Module:
    """The activation ``name``.  Raises UsageError naming the nearest one."""
    if name not in ACTIVATIONS:
        raise UsageError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()
