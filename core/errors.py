"""Errors a person can act on, and the exit codes they map to.

Every message is one line that names the input, says what is wrong with it and what to do about it.
The command line prints it after ``error:`` and exits with ``exit_code``; a notebook sees a plain
exception. Anything that is not a ``TriptychError`` is a defect of the program, not of the input.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class TriptychError(Exception):
    """Base of every expected failure. ``exit_code`` is what the process returns."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # Messages quote file names and other libraries' errors, and either may contain line breaks.
        super().__init__(" ".join(str(message).splitlines()))


class UsageError(TriptychError):
    """The command, an option or a configuration is wrong: another command line would work."""

    exit_code = 2


class DataError(TriptychError):
    """An input file or data set is unreadable, inconsistent, or not what the model takes."""

    exit_code = 3


class ResourceError(TriptychError):
    """The machine lacks something: disk, memory, a permission, a device."""

    exit_code = 4


def nearest(name: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with a leading space, or nothing when no choice is close."""
    from difflib import get_close_matches

    by_lower = {choice.lower(): choice for choice in choices}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """The whole sentence for a name that is not one of ``choices``."""
    known = sorted(choices)
    listed = ", ".join(known) if known else "none"
    return f"unknown {kind} '{name}'.{nearest(name, known)} Known: {listed}"


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the optional dependency group ``extra`` installs.

    Raises UsageError with the install command when it is missing.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this needs the package '{error.name or module}', which is not installed; "
            f"in the clone run: pip install -e '.[{extra}]'"
        ) from error
