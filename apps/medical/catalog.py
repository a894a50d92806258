"""What segmentation networks there are: names, papers, sizes.  Pure data, imports nothing heavy.

``MODELS[name].defaults`` are the options at their published values; ``presets`` are named sets of
options for each rank.  ``"small"`` is for training on a CPU: about 1 to 3 million parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import UsageError, unknown

Options = Mapping[str, Any]

SHARED: Options = {"deep_supervision": 0, "gradient_checkpointing": False}
"""Options of every network: coarse outputs beside the full one in training; recompute to save memory."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One network.  ``presets[preset][rank]`` overrides ``defaults``.

    ``learning_rate`` is AdamW's peak where none is given.
    """

    title: str
    summary: str
    paper: str
    ranks: tuple[int, ...]
    defaults: Options
    presets: Mapping[str, Mapping[int, Options]] = field(default_factory=dict)
    learning_rate: float = 2e-3


WITHOUT_CONVOLUTIONS = 1e-3
"""Peak rate of the networks that have none, neither in the encoder nor in the decoder.

Swin-Unet on hippocampus, 5 labelled cases, 300 steps, 42 others: Dice 0.24 at 4e-3, 0.38 at 2e-3, 0.55
at 1e-3, 0.45 at 5e-4 (Att-SwinU-Net 0.18, 0.26, 0.53 at the first three); 50 cases, 1,000 steps: 0.76
at 2e-3, 0.78 at 1e-3.
"""

_TRANSFORMER: Options = {
    "depths": (2, 2, 2, 2),
    "heads": (3, 6, 12, 24),
    "window": 7,
    "policy": "masked",
    "strides": None,
    "drop_path": 0.0,
}

_UMAMBA: Options = {
    "channels": (32, 64, 128, 256, 320, 320),
    "strides": (1, 2, 2, 2, 2, 2),
    "kernels": None,
    "depths": None,
    "decoder_depths": None,
    "mixer": "mamba",
    "residual": False,
    **SHARED,
}
_UMAMBA_SMALL: Mapping[int, Options] = {
    2: {
        "channels": (16, 32, 64, 128, 128),
        "strides": (1, 2, 2, 2, 2),
        "depths": 1,
        "decoder_depths": 1,
    },
    3: {
        "channels": (8, 16, 48, 128),
        "strides": (1, 2, 2, 2),
        "depths": 1,
        "decoder_depths": 1,
    },
}

MODELS: dict[str, ModelEntry] = {
    "swin_unetr": ModelEntry(
        title="Swin UNETR",
        summary="Shifted-window encoder, residual convolutional decoder; takes MONAI's weights.",
        paper="Hatamizadeh et al. 2022, arXiv:2201.01266",
        ranks=(2, 3),
        defaults={
            **_TRANSFORMER,
            "feature_size": 24,
            "patch": 2,
            "merge_order": "first",
            "convolutions": False,
            "outputs": "start",
            "affine": True,
            "width": None,
            **SHARED,
        },
        presets={
            "small": {
                2: {
                    "feature_size": 24,
                    "depths": (2, 2, 2),
                    "heads": (2, 4, 8),
                    "convolutions": True,
                    "outputs": "end",
                },
                3: {
                    "feature_size": 32,
                    "width": 16,
                    "depths": (0, 2, 2),
                    "heads": (1, 2, 4),
                    "window": 4,
                    "convolutions": True,
                    "outputs": "end",
                },
            }
        },
    ),
    "swin_unet": ModelEntry(
        title="Swin-Unet",
        summary="Shifted windows on both sides, patch-expanding decoder, no convolutions.",
        paper="Cao et al. 2021, arXiv:2105.05537",
        ranks=(2, 3),
        learning_rate=WITHOUT_CONVOLUTIONS,
        defaults={
            **_TRANSFORMER,
            "feature_size": 96,
            "patch": 4,
            "decoder_depths": None,
            "expand": "linear",
            "width": None,
            **SHARED,
        },
        presets={
            "small": {
                2: {
                    "feature_size": 32,
                    "patch": 2,
                    "depths": (2, 2, 2),
                    "heads": (2, 4, 8),
                    "width": 16,
                },
                3: {
                    "feature_size": 32,
                    "patch": 2,
                    "depths": (1, 2, 2),
                    "heads": (2, 4, 8),
                    "window": 4,
                    "width": 16,
                },
            }
        },
    ),
    "cswin_unet": ModelEntry(
        title="CSWin-UNet",
        summary="Cross-shaped windows with LePE; CARAFE or residual convolutional decoder.",
        paper="Liu et al. 2024, arXiv:2407.18070; in 3-D after Li et al. 2023, arXiv:2305.00385",
        ranks=(2, 3),
        defaults={
            "feature_size": 64,
            "patch": 4,
            "depths": (1, 2, 9, 1),
            "heads": (2, 4, 8, 16),
            "stripes": (1, 2, 7, None),
            "strides": None,
            "drop_path": 0.0,
            "decoder": "carafe",
            "decoder_depths": None,
            "width": None,
            **SHARED,
        },
        presets={
            "small": {
                2: {
                    "feature_size": 32,
                    "patch": 2,
                    "depths": (1, 2, 4, 1),
                    "heads": (2, 4, 8, 16),
                    "width": 16,
                },
                3: {
                    "feature_size": 24,
                    "patch": 2,
                    "depths": (1, 2, 2),
                    "heads": (3, 3, 6),
                    "stripes": (1, 3, None),
                    "decoder": "residual",
                    "width": 16,
                },
            }
        },
    ),
    "att_swin_unet": ModelEntry(
        title="Att-SwinU-Net",
        summary="Swin-Unet whose decoder reuses the encoder's attention; cross-attention skips.",
        paper="Aghdam et al. 2022, arXiv:2210.16898",
        ranks=(2, 3),
        learning_rate=WITHOUT_CONVOLUTIONS,
        defaults={
            **_TRANSFORMER,
            "feature_size": 96,
            "patch": 4,
            "skip_depth": 2,
            "skip_heads": 8,
            "width": None,
            **SHARED,
        },
        presets={
            "small": {
                2: {
                    "feature_size": 32,
                    "patch": 2,
                    "depths": (2, 2, 2),
                    "heads": (2, 4, 8),
                    "skip_depth": 1,
                    "skip_heads": 4,
                    "width": 16,
                },
                3: {
                    "feature_size": 32,
                    "patch": 2,
                    "depths": (1, 2, 2),
                    "heads": (2, 4, 8),
                    "window": 4,
                    "skip_depth": 1,
                    "skip_heads": 4,
                    "width": 16,
                },
            }
        },
    ),
    "umamba_bot": ModelEntry(
        title="U-Mamba Bot",
        summary="Residual U-Net with a Mamba layer at its bottleneck.",
        paper="Ma et al. 2024, arXiv:2401.04722",
        ranks=(2, 3),
        defaults=_UMAMBA,
        presets={"small": _UMAMBA_SMALL},
    ),
    "umamba_enc": ModelEntry(
        title="U-Mamba Enc",
        summary="Residual U-Net with a Mamba layer after each stage of its encoder.",
        paper="Ma et al. 2024, arXiv:2401.04722",
        ranks=(2, 3),
        defaults=_UMAMBA,
        presets={"small": _UMAMBA_SMALL},
    ),
    "vm_unet": ModelEntry(
        title="VM-UNet",
        summary="VMamba blocks, scanned along each axis both ways; patch expanding, added skips.",
        paper="Ruan and Xiang 2024, arXiv:2402.02491",
        ranks=(2, 3),
        defaults={
            "feature_size": 96,
            "patch": 4,
            "depths": (2, 2, 2, 2),
            "decoder_depths": (1, 2, 2, 2),
            "strides": None,
            "mixer": "mamba",
            "width": None,
            "drop_path": 0.0,
            **SHARED,
        },
        presets={
            "small": {
                2: {
                    "feature_size": 48,
                    "patch": 2,
                    "depths": (2, 2, 2),
                    "decoder_depths": (1, 2, 1),
                    "width": 16,
                },
                3: {
                    "feature_size": 24,
                    "patch": 2,
                    "depths": (1, 2, 2),
                    "decoder_depths": (0, 1, 1),
                    "width": 16,
                },
            }
        },
    ),
    "segmamba": ModelEntry(
        title="SegMamba-style",
        summary="Gated convolutions and scans forward, backward and across slices; UNETR's decoder.",
        paper="Xing et al. 2024, arXiv:2401.13560",
        ranks=(2, 3),
        defaults={
            "feature_size": 48,
            "patch": 2,
            "depths": (2, 2, 2, 2),
            "strides": None,
            "hidden": None,
            "mixer": "mamba",
            "path": "slices",
            "width": None,
            "last": True,
            "drop_path": 0.0,
            **SHARED,
        },
        presets={
            "small": {
                2: {"feature_size": 16, "depths": (1, 1, 1, 1), "last": False},
                3: {"feature_size": 16, "depths": (1, 1, 1), "width": 8, "last": False},
            }
        },
    ),
    "swin_umamba": ModelEntry(
        title="Swin-UMamba",
        summary="VMamba encoder on a convolutional stem; UNETR's residual decoder.",
        paper="Liu et al. 2024, arXiv:2402.03302",
        ranks=(2, 3),
        defaults={
            "feature_size": 48,
            "patch": 2,
            "depths": (0, 2, 2, 9, 2),
            "strides": None,
            "mixer": "mamba",
            "width": None,
            "last": True,
            "drop_path": 0.0,
            **SHARED,
        },
        presets={
            "small": {
                2: {"feature_size": 16, "depths": (0, 1, 2, 2), "last": False},
                3: {"feature_size": 16, "depths": (0, 2, 2), "width": 8, "last": False},
            }
        },
    ),
    "dynunet": ModelEntry(
        title="DynUNet",
        summary="nnU-Net's convolutional U-Net (MONAI), the baseline to beat.",
        paper="Isensee et al. 2021, arXiv:1809.10486",
        ranks=(2, 3),
        defaults={
            "channels": (32, 64, 128, 256, 320),
            "strides": (1, 2, 2, 2, 2),
            "kernels": None,
            "residual": False,
            **SHARED,
        },
        presets={
            "small": {
                2: {"channels": (16, 32, 64, 128, 160), "strides": (1, 2, 2, 2, 2)},
                3: {"channels": (16, 32, 64, 128), "strides": (1, 2, 2, 2)},
            }
        },
    ),
    "unet": ModelEntry(
        title="U-Net",
        summary="Residual U-Net (MONAI), small and quick: the floor.",
        paper="Kerfoot et al. 2019, doi:10.1007/978-3-030-12029-0_40",
        ranks=(2, 3),
        defaults={
            "channels": (16, 32, 64, 128, 256),
            "strides": (2, 2, 2, 2),
            "residual_units": 2,
            **SHARED,
        },
        presets={
            "small": {
                2: {},
                3: {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
            }
        },
    ),
}


def entry(name: str) -> ModelEntry:
    """The network ``name``.  Raises UsageError naming the nearest."""
    if name not in MODELS:
        raise UsageError(unknown("model", name, MODELS))
    return MODELS[name]


def resolve(name: str, rank: int, preset: str | None = None, **options: Any) -> dict[str, Any]:
    """All options of the network ``name``: defaults, then ``preset`` for ``rank``, then ``options``.

    The preset "published", like None, leaves the defaults as they are.
    Raises UsageError for an unknown model, preset or option, naming the nearest, and for a rank
    that the model does not have.
    """
    model = entry(name)
    if rank not in model.ranks:
        ranks = " and ".join(f"{r}-D" for r in model.ranks)
        raise UsageError(f"model {name!r} in {rank}-D: it exists in {ranks}.")
    chosen: dict[str, Any] = dict(model.defaults)
    if preset not in (None, "published"):
        if preset not in model.presets:
            known = [*model.presets, "published"]
            raise UsageError(unknown(f"preset of model {name!r}", preset, known))
        chosen.update(model.presets[preset][rank])
    for option in options:
        if option not in model.defaults:
            raise UsageError(unknown(f"option of model {name!r}", option, model.defaults))
    return {**chosen, **options}
