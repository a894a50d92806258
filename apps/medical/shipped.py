"""Where the models that come with the program are, and what they are not.

Separate from what loads them, so that asking imports nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DISCLAIMER = "Research use only. Not a medical device; not for diagnosis or treatment decisions."


def weights_root() -> Path:
    """The shipped models: $TRIPTYCH_WEIGHTS, the clone's weights/, or the installation's share."""
    override = os.environ.get("TRIPTYCH_WEIGHTS")
    if override:
        return Path(override)
    clone = ROOT / "weights"
    installed = Path(sys.prefix) / "share" / "triptych" / "weights"
    return clone if clone.is_dir() or not installed.is_dir() else installed


def model_cards(root: Path) -> dict[str, Path]:
    """Each shipped model's ``model.json`` by name; of an ensemble (``fold_*``), the first fold's."""
    cards: dict[str, Path] = {}
    for pattern in ("*/model.json", "*/fold_*/model.json"):
        for card in sorted(root.glob(pattern)):
            cards.setdefault(card.relative_to(root).parts[0], card)
    return dict(sorted(cards.items()))
