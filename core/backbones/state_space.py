"""State-space backbones with a pyramid of grids: VMamba.

Deviates from the authors' codes: any rank and any input size (a grid's end is padded where a
stride does not divide it; theirs round down).
"""

from __future__ import annotations

from typing import Any, Literal

from core import grid
from core.backbones.family import (
    Mixer,
    Sizes,
    doubling,
    enter,
    family,
    halve,
    levels,
    mixer_or,
    patchify,
    plain_heads,
    stage_count,
)
from core.backbones.pyramid import StageConfig
from core.blocks import BlockConfig
from core.down import ConvDownConfig, DownConfig, MergeDownConfig, SeriesDownConfig
from core.errors import UsageError, unknown
from core.mixers.mamba import MambaConfig


def conv_stem(patch: grid.PerAxis, rank: int, dims: Sizes, steps: int, **norms: Any) -> DownConfig:
    """``steps`` 3-wide convolutions in series, whose strides multiply to ``patch``.

    ``dims`` are the channels between them.  A stride of 4 and more has a kernel of stride + 1.
    """
    rest = grid.per_axis(patch, rank, "patch")
    convs = []
    for left in range(steps, 0, -1):
        # The smallest divisor that is enough if the later steps do as much: 4 = 2 * 2, 2 = 2 * 1.
        stride = tuple(
            next(d for d in range(1, p + 1) if p % d == 0 and d**left >= p) for p in rest
        )
        rest = tuple(p // s for p, s in zip(rest, stride, strict=True))
        kernel = tuple(max(3, s + 1) for s in stride)
        convs.append(ConvDownConfig(kernel=kernel, stride=stride, padding=1, **norms))
    return SeriesDownConfig(steps=tuple(convs), dims=tuple(dims))


@family
def vmamba(
    rank: int,
    *,
    dims: Sizes,
    depths: Sizes,
    d_state: int = 1,
    expand: float = 2.0,
    gate: bool = False,
    conv_bias: bool = False,
    ffn_ratio: float | None = 4.0,
    patch: grid.PerAxis = 4,
    stem: Literal["conv", "patch"] = "conv",
    down: Literal["conv", "merge"] = "conv",
    mixer: Mixer = None,
) -> tuple[StageConfig, ...]:
    """VMamba (Liu et al., NeurIPS 2024, section 4 and figure 3), code MzeroMiko/VMamba.

    The defaults are its second version: two strided convolutions as ``stem``, a convolution to go
    ``down``, SS2D without gate.  The first ("vanilla", which VM-UNet and Swin-UMamba are made of)
    has ``d_state=16, gate=True, conv_bias=True, ffn_ratio=None, stem="patch", down="merge"``.
    ``vmamba_t`` is s1l8, the one in the paper's table 1; ``vmamba_t_s2l5`` is the earlier one.

    Parameter counts are those of MzeroMiko/VMamba 2ed52ea to the last digit.  With its weights
    mapped onto ``vmamba_t``, ``vmamba_t_s2l5`` and ``vanilla_vmamba_t``, all four maps agree to
    2.2e-6 relative (L2) at 224 x 224 and 224 x 256.
    """
    stage_count(dims=dims, depths=depths)
    for what, value, known in [
        ("stem", stem, ("conv", "patch")),
        ("down", down, ("conv", "merge")),
    ]:
        if value not in known:
            raise UsageError(unknown(f"vmamba {what}", value, known))

    def reduce(i: int) -> DownConfig:
        if i == 0 and stem == "patch":
            return patchify(patch, rank, norm_after="layer")
        if i == 0:
            return conv_stem(patch, rank, (max(1, dims[0] // 2),), 2, norm_after="layer")
        return halve(norm_after="layer") if down == "conv" else MergeDownConfig()

    def block(i: int) -> BlockConfig:
        own = MambaConfig(
            d_state=d_state,
            expand=expand,
            path="cross",
            conv="grid",
            conv_bias=conv_bias,
            gate=gate,
            norm="layer",
        )
        return BlockConfig(mixer=mixer_or(mixer, own, plain_heads(dims[i])), ffn_ratio=ffn_ratio)

    return levels(dims, depths, reduce, block)


_VANILLA: dict[str, Any] = {
    "d_state": 16,
    "gate": True,
    "conv_bias": True,
    "ffn_ratio": None,
    "stem": "patch",
    "down": "merge",
}
enter(
    vmamba,
    {
        "vmamba_t": {"dims": doubling(96), "depths": (2, 2, 8, 2), "expand": 1.0},
        "vmamba_s": {"dims": doubling(96), "depths": (2, 2, 15, 2)},
        "vmamba_b": {"dims": doubling(128), "depths": (2, 2, 15, 2)},
        "vmamba_t_s2l5": {"dims": doubling(96), "depths": (2, 2, 5, 2)},
        "vanilla_vmamba_t": {"dims": doubling(96), "depths": (2, 2, 9, 2), **_VANILLA},
        "vanilla_vmamba_s": {"dims": doubling(96), "depths": (2, 2, 27, 2), **_VANILLA},
        "vanilla_vmamba_b": {"dims": doubling(128), "depths": (2, 2, 27, 2), **_VANILLA},
    },
)
