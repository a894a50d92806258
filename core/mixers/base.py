"""What every mixer shares: where it sits, how it is registered, and the attention kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UsageError, unknown
from core.ops.dropout import dropout as thin_out
from core.registry import Registry

M = TypeVar("M", bound=type[nn.Module])
C = TypeVar("C")

_CONFIGS: Registry[type] = Registry("mixer")
_MODULES: dict[type, type[nn.Module]] = {}


@dataclass(frozen=True, kw_only=True)
class BlockContext:
    """Where a block sits: ``index`` of ``depth`` blocks in ``stage``, ``dim`` channels, grid rank."""

    dim: int
    rank: int
    stage: int = 0
    index: int = 0
    depth: int = 1


def register_mixer(name: str, config: type) -> Callable[[M], M]:
    """Class decorator: ``name`` and ``config`` select the decorated mixer."""

    def add(module: M) -> M:
        _CONFIGS[name] = config
        _MODULES[config] = module
        return module

    return add


def mixer_names() -> list[str]:
    """Names of all registered mixers."""
    return sorted(_CONFIGS)


def mixer_config(name: str, **options: Any) -> Any:
    """Config of the mixer ``name``.  Raises UsageError naming the nearest mixer or option."""
    config = _CONFIGS[name]
    known = [f.name for f in dataclasses.fields(config)]
    for option in options:
        if option not in known:
            raise UsageError(unknown(f"option of mixer {name!r}", option, known))
    missing = [
        f.name
        for f in dataclasses.fields(config)
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in options
    ]
    if missing:
        raise UsageError(f"mixer {name!r} needs {', '.join(missing)}; give e.g. {missing[0]}=4.")
    return config(**options)


def takes(name: str, option: str) -> bool:
    """Whether the mixer ``name`` has a config field ``option``."""
    return option in {f.name for f in dataclasses.fields(_CONFIGS[name])}


def build_mixer(config: Any, context: BlockContext) -> nn.Module:
    """The mixer that ``config`` belongs to, at the place ``context``."""
    if type(config) not in _MODULES:
        raise UsageError(
            f"mixer config {config!r}: not a registered mixer; use one of {mixer_names()}."
        )
    return _MODULES[type(config)](config, context)


def check_heads(heads: int, dim: int) -> int:
    """``heads`` if they divide ``dim``; UsageError otherwise."""
    if heads < 1 or dim % heads:
        raise UsageError(f"heads {heads}: must divide the {dim} channels of its stage.")
    return heads


def check_choice(value: C, choices: Any, what: str) -> C:
    """``value`` if the Literal ``choices`` has it; UsageError naming the nearest otherwise."""
    if value not in get_args(choices):
        raise UsageError(unknown(what, str(value), get_args(choices)))
    return value


def check_odd(size: int, what: str) -> int:
    """``size`` if it is odd and positive; UsageError naming ``what`` otherwise."""
    if size < 1 or size % 2 == 0:
        raise UsageError(f"{what} {size}: must be odd, so that it has a centre.")
    return size


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., L, h * c) -> (..., h, L, c)."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """(..., h, L, c) -> (..., L, h * c)."""
    return x.transpose(-2, -3).flatten(-2)


EXPLICIT_KEYS = 64
"""Up to this many keys an explicit softmax beats SDPA on a CPU: 1.49 against 1.71 us a token at 49
keys, and 2.3 against 3.4 the other way at 392 (one thread, float32, forward)."""
EXPLICIT_KEYS_BF16 = 512
"""The same for bfloat16 on a CPU, where SDPA's fused backward is slow: forward and backward of
128 x 128 took 5 times the explicit form's time, of 512 x 512 twice, of 2048 x 2048 half."""


def _explicit_keys(x: Tensor) -> int:
    bf16_on_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return EXPLICIT_KEYS_BF16 if bf16_on_cpu else EXPLICIT_KEYS


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale * q k^T + bias) v with the softmax in float32, or float64 where q is.

    Shapes: q (..., h, L, c), k and v (..., h, M, c), bias broadcastable to (..., h, L, M) or None;
    returns (..., h, L, c).  ``scale`` defaults to c ** -0.5.  ``causal``, with L = M and no bias:
    query i sees the keys up to i.  ``dropout`` is the share of weights set to zero, the others
    scaled up.

    The explicit form is used for few keys; while the bias is being trained, since SDPA then falls
    back to its slow path; and during export, since SDPA's layout breaks the ONNX decomposition.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    trained_bias = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    if not (torch.compiler.is_exporting() or trained_bias or k.shape[-2] <= _explicit_keys(q)):
        return _sdpa(q, k, v, bias, scale, causal, dropout)
    scores = (q * scale) @ k.transpose(-1, -2)
    if scores.dtype in (torch.bfloat16, torch.float16):
        device = scores.device.type
        plain = bias is None and not causal and not torch.compiler.is_exporting()
        if plain and device in ("cpu", "cuda"):
            # The kernel itself computes in float32: autocast's copies double its time for nothing.
            with torch.autocast(device, enabled=False):
                weights = scores.softmax(-1)
            return thin_out(weights, dropout) @ v
        scores = scores.float()
    if bias is not None:
        scores = scores + bias
    if causal:
        L = q.shape[-2]
        later = torch.ones(L, L, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    weights = scores.softmax(-1).to(v.dtype)
    return thin_out(weights, dropout) @ v


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float,
    causal: bool,
    dropout: float,
) -> Tensor:
    """SDPA with one leading axis: only so, mask included, does the CPU take its fused kernel.

    125 windows of 343 tokens, 3 heads of 8: 67 ms, and 290 ms with two leading axes.
    """
    lead = q.shape[:-3]
    mask = None
    if bias is not None:
        mask = bias.to(q.dtype)
        if mask.ndim > 3:
            mask = mask.expand(*lead, *mask.shape[-3:]).flatten(0, len(lead) - 1)
        else:
            mask = mask.view(*([1] * (4 - mask.ndim)), *mask.shape)
    q, k, v = (t.flatten(0, len(lead) - 1) for t in (q, k, v))
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale, is_causal=causal
    )
    return out.unflatten(0, lead)
