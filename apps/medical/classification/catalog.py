"""What classifiers there are beside core's backbones.  Pure data, imports nothing.

Every name of ``core.list()`` is a classifier too; these are DeiT's three published trunks and small
sizes for training on a CPU: about 0.3 to 2 million parameters.
"""

from __future__ import annotations

from typing import Any

DEIT: dict[str, dict[str, Any]] = {
    "deit_t": {"dim": 192, "depth": 12, "heads": 3},
    "deit_s": {"dim": 384, "depth": 12, "heads": 6},
    "deit_b": {"dim": 768, "depth": 12, "heads": 12},
}
"""Touvron et al. 2021, table 1: DeiT-Ti, DeiT-S, DeiT-B; patches of 16."""

CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext_xs": ("convnext_t", {"dims": (24, 48, 96, 192), "depths": (1, 1, 2, 1)}),
    "swin_xs": (
        "swin_t",
        {"dims": (24, 48, 96, 192), "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 8), "window": 4},
    ),
    "cswin_xs": (
        "cswin_t",
        {"dims": (24, 48, 96, 192), "depths": (1, 1, 2, 1), "heads": (2, 2, 4, 8)},
    ),
    "deit_xs": ("deit_t", {"dim": 96, "depth": 6, "heads": 3}),
}
"""name: (the backbone it is a small size of, its options)."""

BAGS: dict[str, str] = {
    "r2t_mil": "Region transformer that re-embeds a bag's instances, then attention pooling.",
    "ab_mil": "Attention pooling alone: what R2T-MIL is compared with.",
}
"""Classifiers of bags of feature vectors."""
