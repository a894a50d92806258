"""What families of backbones share: the table of names, and small makers of stages.

A family is a function ``(rank, *, dims, depths, ...) -> tuple of StageConfig`` under :func:`family`;
:func:`enter` files its published sizes under their names.  A new family is one such function and one
table, in a file that ``zoo.py`` imports.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from core import grid
from core.backbones.pyramid import PyramidConfig, StageConfig
from core.blocks import BlockConfig
from core.down import ConvDownConfig, DownConfig
from core.errors import UsageError
from core.mixers import mixer_config
from core.mixers.base import takes
from core.registry import Registry

Builder = Callable[..., PyramidConfig]
Sizes = Sequence[int]
Mixer = Any
"""None (the family's own), the name of a registered mixer, or a mixer config."""

ZOO: Registry[tuple[Builder, dict[str, Any]]] = Registry("backbone")


def stage_count(**columns: Sequence[Any]) -> int:
    """Number of stages; UsageError when the columns of a size table disagree."""
    lengths = {key: len(value) for key, value in columns.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"stages disagree: {lengths}; give every list one entry a stage.")
    return next(iter(lengths.values()))


def mixer_or(override: Mixer, own: Any, heads: int) -> Any:
    """The config of ``override``, or ``own`` where it is None; ``heads`` go to a named attention."""
    if override is None:
        return own
    if isinstance(override, str):
        options = {"heads": heads} if takes(override, "heads") else {}
        return mixer_config(override, **options)
    return override


def patchify(patch: grid.PerAxis, rank: int, **norms: Any) -> ConvDownConfig:
    """Non-overlapping patches."""
    size = grid.per_axis(patch, rank, "patch")
    return ConvDownConfig(kernel=size, stride=size, **norms)


def overlap(patch: grid.PerAxis, rank: int, padding: int, **norms: Any) -> ConvDownConfig:
    """Overlapping patches: kernel 2 s - 1 for stride s, with ``padding`` at the published s = 4."""
    stride = grid.per_axis(patch, rank, "patch")
    return ConvDownConfig(
        kernel=tuple(2 * s - 1 for s in stride),
        stride=stride,
        padding=tuple(padding if s == 4 else s - 1 for s in stride),
        **norms,
    )


def halve(**norms: Any) -> ConvDownConfig:
    """Half the grid by a 3-wide convolution."""
    return ConvDownConfig(kernel=3, stride=2, padding=1, **norms)


def family(stages: Callable[..., tuple[StageConfig, ...]]) -> Builder:
    """A builder of whole pyramids from one of stages: adds what all families share."""

    @functools.wraps(stages)
    def build(
        rank: int,
        in_channels: int,
        *,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        **options: Any,
    ) -> PyramidConfig:
        return PyramidConfig(
            rank=rank,
            in_channels=in_channels,
            stages=stages(rank, **options),
            drop_path=drop_path,
            gradient_checkpointing=gradient_checkpointing,
        )

    return build


def levels(
    dims: Sizes,
    depths: Sizes,
    down: Callable[[int], DownConfig],
    block: Callable[[int], BlockConfig],
    **options: Any,
) -> tuple[StageConfig, ...]:
    """Stage i from ``down(i)`` and ``block(i)``."""
    return tuple(
        StageConfig(dim=dim, depth=depth, down=down(i), block=block(i), **options)
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True))
    )


def options_of(builder: Builder) -> list[str]:
    """Names that ``create`` may override."""
    own = inspect.signature(builder).parameters  # wraps() shows those of the stages' function
    return [*(name for name in own if name != "rank"), "drop_path", "gradient_checkpointing"]


def plain_heads(dim: int) -> int:
    """Heads of 32 channels, for an attention put into a family that has none of its own."""
    return max(1, dim // 32) if dim % max(1, dim // 32) == 0 else 1


def doubling(first: int, n: int = 4) -> tuple[int, ...]:
    """``first``, twice it, four times it, ...: the usual widths (or heads) of ``n`` stages."""
    return tuple(first * 2**i for i in range(n))


def enter(builder: Builder, table: dict[str, dict[str, Any]]) -> None:
    """File a family's published sizes under their names."""
    for name, sizes in table.items():
        ZOO[name] = (builder, sizes)
