"""What pages say when something does not go: a sentence that names it, never a traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from apps.medical.shipped import DISCLAIMER
from core.errors import TriptychError

__all__ = ["DISCLAIMER", "guarded", "sentence"]


def sentence(error: BaseException, what: str = "This") -> str:
    """One sentence about ``error`` for a person; a defect of the program is logged in full."""
    if isinstance(error, TriptychError):
        text = str(error)
        return text[:1].upper() + text[1:] if text else f"{what} did not work."
    if isinstance(error, MemoryError):
        return f"{what} needs more memory than this machine has; try a smaller input."
    traceback.print_exception(error, file=sys.stderr)
    return (
        f"{what} failed in a way that this program did not expect ({type(error).__name__}). "
        "Nothing of yours is lost; the terminal that runs the demo shows the details."
    )


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Show what goes wrong in the block as one sentence and go on after it. ``what``: its subject."""
    try:
        yield
    except Exception as error:
        st.error(sentence(error, what))
