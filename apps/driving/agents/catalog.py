"""The drivers by name. Asking for the names imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UsageError, unknown
from core.shipped import find_model, model_cards

if TYPE_CHECKING:
    from apps.driving.agents.base import Agent

BUILT_IN = {
    "expert": "sees the simulator's own state: the teacher",
    "constant": "holds a speed and steers at the next point of the sparse route",
    "blind": "follows the route at the speed of its bends and limits, without looking",
}
"""Drivers that need no weights, and what they do."""


def names() -> dict[str, str]:
    """Every driver that has a name: built in, and shipped models (``weights/``)."""
    shipped = {name: "learned; shipped weights" for name in model_cards("driving")}
    return {**shipped, **BUILT_IN}


def make_agent(
    ref: str | Path,
    *,
    supervisor: bool = False,
    device: str = "cpu",
    threads: int | None = None,
) -> Agent:
    """The driver of a built-in name, of a shipped model's name or of a model folder.

    ``supervisor`` puts ``Supervised`` around it. ``device`` and ``threads`` are a learned driver's.

    Raises UsageError, naming the nearest, when there is no such driver; DataError for a folder that
    holds no driving model.
    """
    agent = _make(ref, device, threads)
    if not supervisor:
        return agent
    from apps.driving.agents.supervisor import Supervised

    return Supervised(agent)


def _make(ref: str | Path, device: str, threads: int | None) -> Agent:
    text = str(ref)
    if text == "expert":
        from apps.driving.agents.expert import Expert

        return Expert()
    if text in ("constant", "blind"):
        from apps.driving.agents.baselines import Blind, Constant

        return Constant() if text == "constant" else Blind()
    bare = text not in ("", ".", "..") and not any(sep in text for sep in ("/", "\\"))
    if bare and text not in model_cards("driving") and not Path(text).exists():
        # find_model would name shipped models only
        message = unknown("driver", text, names())
        raise UsageError(f"{message}; or give the path of a model folder")
    folder = find_model(ref, "driving")

    from apps.driving.agents.learned import LearnedAgent

    return LearnedAgent.load(folder, device=device, threads=threads)
