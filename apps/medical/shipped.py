"""What the models that come with the program are, and are not. Asking imports nothing heavy."""

from __future__ import annotations

from typing import Any

from apps.medical.catalog import MODELS
from core.errors import DataError
from core.files import read_json
from core.shipped import model_cards

DISCLAIMER = "Research use only. Not a medical device; not for diagnosis or treatment decisions."


def list_models() -> dict[str, str]:
    """What can be named as a model, and a line about each: trained ones, networks to train.

    ``predict`` and ``load_model`` take the first kind ("shipped: ..."), ``train`` the second ("to
    train: ..."). Raises DataError for a shipped model whose card cannot be read.
    """
    found = {}
    for name, about in model_summaries().items():
        labels = ", ".join(text for label, text in about["labels"].items() if label != "0")
        found[name] = f"shipped: {about['network']} in {about['rank']}-D; {labels}"
    for name, entry in MODELS.items():
        ranks = " and ".join(f"{rank}-D" for rank in entry.ranks)
        found[name] = f"to train: {entry.title}, {ranks}; {entry.paper}"
    return found


def model_summaries() -> dict[str, dict[str, Any]]:
    """What each shipped model's model.json says about it, by name.

    ``network``, ``rank``, ``labels`` (names by id as text, "0" the background), ``metrics`` of held-out
    cases, ``licence``, ``intended_use``. Raises DataError for a card that cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, card in model_cards("medical").items():
        try:
            spec = read_json(card)
            network = spec["network"]
            found[name] = {
                "network": network["name"],
                "rank": network["rank"],
                "labels": spec["labels"],
                "metrics": spec.get("metrics", {}),
                "licence": spec.get("licence"),
                "intended_use": spec.get("intended_use"),
            }
        except (KeyError, TypeError) as error:
            raise DataError(f"{card}: is not a model description ({error!r})") from error
    return found
