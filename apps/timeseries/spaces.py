"""What ``tune`` searches of each model, and ``name=low:high`` read as a change to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.timeseries import catalog
from apps.timeseries.fit import settings
from apps.timeseries.models.base import option_defaults
from core.cli import parse_options
from core.errors import UsageError, unknown


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``; ``log``: small ones as closely as large ones."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + (":log" if self.log else "")

    def __contains__(self, value: Any) -> bool:
        kinds = (int,) if self.whole else (int, float)
        return isinstance(value, kinds) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choices:
    """One of a few values, without an order."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.values))

    def __contains__(self, value: Any) -> bool:
        return value in self.values


Space = dict[str, Range | Choices]

_DEPTH = Range(1, 4, whole=True)
_SMALL: Space = {"dim": Choices((32, 64, 128, 256)), "depth": _DEPTH, "dropout": Range(0.0, 0.4)}
SPACES: dict[str, Space] = {
    "itransformer": {
        "dim": Choices((64, 128, 256, 512)),
        "ffn": Choices((64, 128, 256, 512)),
        "depth": _DEPTH,
        "dropout": Range(0.0, 0.3),
    },
    "s-mamba": {
        "dim": Choices((64, 128, 256, 512)),
        "d_state": Choices((2, 8, 16, 32)),
        "depth": _DEPTH,
        "dropout": Range(0.0, 0.3),
    },
    "bimamba": _SMALL | {"patch": Choices((8, 16, 24))},
    "patchtst": _SMALL | {"dim": Choices((16, 32, 64, 128)), "dropout": Range(0.0, 0.5)},
    "dlinear": {"kernel": Range(3, 49, whole=True)},
    "olinear": _SMALL | {"dim": Choices((128, 256, 512)), "depth": Range(1, 3, whole=True)},
    "autoformer": {
        "dim": Choices((128, 256, 512)),
        "factor": Range(1.0, 5.0),
        "dropout": Range(0.0, 0.3),
    },
    "timelygpt": _SMALL,
    "gpht": _SMALL,
}
"""Besides these the learning rate, from a tenth of the recipe's to ten times as much, and the
lookback where several are given."""


def make_space(
    name: str, lookbacks: Sequence[int], search: Sequence[str], fixed: Mapping[str, Any]
) -> tuple[Space, dict[str, Any]]:
    """What is searched of ``name``, and its own value of each (and of lookback).

    ``search`` changes the declared space, ``fixed`` takes from it.  Raises UsageError for what is no
    setting of the model, naming the nearest, and for words that are no range.
    """
    settings(name, fixed)  # refuses names that do not exist
    recipe = catalog.model(name).recipe
    own = option_defaults(name) | recipe.options
    own |= {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    del own["options"]
    own |= {"lookback": lookbacks[0]}
    space: Space = {"rate": Range(recipe.rate / 10, recipe.rate * 10, log=True)}
    space |= SPACES.get(name, {})
    if len(set(lookbacks)) > 1:
        space["lookback"] = Choices(tuple(dict.fromkeys(lookbacks)))
    for key in fixed:
        space.pop(key, None)
    for text in search:
        key, colon, words = (part.strip() for part in text.partition("="))
        if not colon or not key or not words:
            raise UsageError(
                f"--search {text}: want name=low:high, name=low:high:log or name=a,b,c"
            )
        if key not in own:
            raise UsageError(unknown(f"setting of model {name!r}", key, sorted(own)))
        if key in fixed:
            raise UsageError(f"--search {text}: {key} is set to {fixed[key]}; give one of the two")
        space[key] = _read(text, words, own[key])
    if not any(isinstance(p, Range) or len(p.values) > 1 for p in space.values()):
        raise UsageError(f"model {name}: nothing is left to search; give --search name=low:high")
    return space, {key: own[key] for key in {**space, "lookback": None}}


def _read(text: str, words: str, own: Any) -> Range | Choices:
    """``words`` as numbers or names of the kind that ``own`` is."""
    if ":" not in words:
        return Choices(tuple(_value(text, word, own) for word in words.split(",")))
    bounds, log = words.removesuffix(":log").split(":"), words.endswith(":log")
    if isinstance(own, bool) or not isinstance(own, int | float | None):
        raise UsageError(f"--search {text}: takes no numbers between two; name the choices: a,b,c")
    if len(bounds) != 2:
        raise UsageError(f"--search {text}: want name=low:high, name=low:high:log or name=a,b,c")
    low, high = (_value(text, bound, own) for bound in bounds)
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
        raise UsageError(f"--search {text}: want two numbers, the smaller one first")
    if log and low <= 0:
        raise UsageError(f"--search {text}: a logarithmic range must begin above 0")
    return Range(low, high, log, whole=isinstance(own, int))


def _value(text: str, word: str, own: Any) -> Any:
    value = parse_options([f"value={word}"])["value"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(own, float) and number:
        return float(value)
    if isinstance(own, bool | str) and type(value) is not type(own) and value is not None:
        raise UsageError(f"--search {text}: {word!r} is of another kind than {own!r}")
    if isinstance(own, int | float) and not isinstance(own, bool):
        if not number or (isinstance(own, int) and value != int(value)):
            kind = "whole number" if isinstance(own, int) else "number"
            raise UsageError(f"--search {text}: {word!r} is no {kind}")
        return int(value)
    if not isinstance(value, bool | int | float | str | None):
        raise UsageError(f"--search {text}: {word!r} is neither a number nor a name")
    return value
