"""Triptych's core: backbones and mixers over one, two or three grid axes.

Layout, said once: inside ``core`` a tensor is channels-last, ``(B, *S, C)``, with batch ``B``, a
grid ``S`` of rank ``R`` in {1, 2, 3} and channels ``C``.  Only a backbone's ``forward`` takes and
returns channels-first ``(B, C, *S)``, which is what users and MONAI have.

>>> import core
>>> backbone = core.create("cswin_t", rank=3, in_channels=1, patch=2)
>>> [tuple(f.shape) for f in backbone(torch.zeros(1, 1, 37, 20, 11))]   # doctest: +SKIP

Sequence trunks also take one position after another: ``y, state = trunk.step(x, state)``, with
``trunk = core.create("mamba_130m", rank=1, in_channels=7)``; see ``core/backbones/sequence.py``.

Importing this package costs nothing: torch is imported by the first ``create`` or ``list``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["create", "list"]

if TYPE_CHECKING:
    from core.backbones.zoo import create, list


def __getattr__(name: str) -> Any:
    if name in __all__:
        from core.backbones import zoo

        return getattr(zoo, name)
    raise AttributeError(f"module 'core' has no attribute {name!r}")
