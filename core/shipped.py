"""Where the models that come with the program are. Asking imports nothing heavy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core.errors import DataError, UsageError, unknown
from core.files import read_json

ROOT = Path(__file__).resolve().parents[1]


def weights_root() -> Path:
    """The shipped models: $TRIPTYCH_WEIGHTS, the clone's weights/, or the installation's share."""
    override = os.environ.get("TRIPTYCH_WEIGHTS")
    if override:
        return Path(override)
    clone = ROOT / "weights"
    installed = Path(sys.prefix) / "share" / "triptych" / "weights"
    return clone if clone.is_dir() or not installed.is_dir() else installed


def model_cards(app: str, root: Path | None = None) -> dict[str, Path]:
    """Each ``model.json`` that says it is of ``app``, by name; of an ensemble (``fold_*``), the first's."""
    root = weights_root() if root is None else root
    cards: dict[str, Path] = {}
    for pattern in ("*/model.json", "*/fold_*/model.json"):
        for card in sorted(root.glob(pattern)):
            if _app(card) == app:
                cards.setdefault(card.relative_to(root).parts[0], card)
    return dict(sorted(cards.items()))


def find_model(ref: str | Path, app: str) -> Path:
    """The folder of a shipped name or of a path. A bare name means a shipped model first.

    Raises UsageError, naming the nearest shipped model, when there is neither.
    """
    text = os.fspath(ref)
    names = list(model_cards(app))
    bare = text not in ("", ".", "..") and not any(sep in text for sep in ("/", "\\"))
    if bare and text in names:
        return weights_root() / text
    if text and Path(text).exists():
        return Path(text)
    if bare:
        message = unknown("model", text, names)
        raise UsageError(f"{message} (in {weights_root()}); or give the path of a model folder")
    shipped = f", or one of {', '.join(names)}" if names else ""
    raise UsageError(f"{text or 'an empty name'}: no such model folder; give one{shipped}")


def _app(card: Path) -> str | None:
    try:
        return read_json(card).get("app")
    except DataError:
        return None  # loading it says what is wrong with it
