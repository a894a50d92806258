"""Weights from one network into another that shares a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.errors import DataError


@dataclass(frozen=True)
class Transfer:
    """What came over: names of the tensors that did, that are fresh, that have another shape.

    ``fresh`` are the target's that the source lacks, ``unused`` the source's that it lacks.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    other_shape: tuple[str, ...]
    unused: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """{"loaded": {part: "n of m"}, ...} by the first word of the names; for a machine."""
        have = _count(self.loaded)
        total = _count([*self.loaded, *self.fresh, *self.other_shape])
        return {
            "loaded": {part: f"{have.get(part, 0)} of {n}" for part, n in total.items()},
            "other_shape": list(self.other_shape),
            "unused": len(self.unused),
        }

    def text(self) -> str:
        """``encoder 120 of 120 tensors, decoder 0 of 46``; for a person."""
        parts = ", ".join(f"{part} {count}" for part, count in self.report()["loaded"].items())
        text = f"tensors loaded: {parts}"
        if self.other_shape:
            text += f"; {len(self.other_shape)} of another shape, first {self.other_shape[0]}"
        return text


def load_matching(
    network: nn.Module, tensors: Mapping[str, Tensor], source: str, *, part: str = ""
) -> Transfer:
    """Copy into ``network`` each of ``tensors`` that has its name and shape there.

    ``part`` limits it to names that begin so, such as "encoder.".  Raises DataError, before
    anything is changed, when no floating-point tensor matches: then ``source`` is of another kind.
    """
    own = network.state_dict()
    given = {name: value for name, value in tensors.items() if name.startswith(part)}
    known = [name for name in given if name in own]
    loaded = [name for name in known if own[name].shape == given[name].shape]
    other = [name for name in known if own[name].shape != given[name].shape]
    if not any(given[name].is_floating_point() for name in loaded):
        example = next(iter(given), None)
        about = f"its first is {example}" if example else f"it has none called {part}..."
        shapes = f", {len(other)} have another shape" if other else ""
        raise DataError(
            f"{source}: none of its {len(tensors)} tensors fits this {type(network).__name__} "
            f"({about}{shapes}); take weights of the same network, rank, channels and options"
        )
    network.load_state_dict({name: given[name] for name in loaded}, strict=False)
    return Transfer(
        loaded=tuple(loaded),
        fresh=tuple(name for name in own if name not in given),
        other_shape=tuple(other),
        unused=tuple(name for name in given if name not in own),
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        first = name.partition(".")[0]
        counts[first] = counts.get(first, 0) + 1
    return counts
