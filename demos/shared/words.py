"""What pages say when something does not go: a sentence that names it, never a traceback."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from apps.medical.shipped import DISCLAIMER
from core.errors import TriptychError
from core.reporting import ROOT
from demos.shared.workspace import root

__all__ = ["DISCLAIMER", "escaped", "guarded", "sentence"]


def sentence(error: BaseException, what: str = "This") -> str:
    """One sentence about ``error`` for a person; a defect of the program is logged in full."""
    if isinstance(error, TriptychError):
        text = _without_folders(str(error))
        begins = text.split(" ", 1)[0].rstrip(":,;")
        if begins.isalpha():  # a word, not the name of a file
            text = text[:1].upper() + text[1:]
        return text or f"{what} did not work."
    if isinstance(error, MemoryError):
        return f"{what} needs more memory than this machine has; try a smaller input."
    traceback.print_exception(error, file=sys.stderr)
    return (
        f"{what} failed in a way that this program did not expect ({type(error).__name__}). "
        "Nothing of yours is lost; the terminal that runs the demo shows the details."
    )


def _without_folders(text: str) -> str:
    """``text`` without the folders that a person did not choose: the server's own, the repository."""
    text = re.sub(re.escape(str(root())) + r"(?:[/\\][\w-]+)?[/\\]", "", text)
    return re.sub(re.escape(str(ROOT)) + r"[/\\]", "", text)


def escaped(text: str) -> str:
    """``text`` as Markdown shows it: names of files and columns may hold marks that mean something."""
    return re.sub(r"([\\`*\[\]<>$~|#{}]|(?<!\w)_|_(?!\w))", r"\\\1", text)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Show what goes wrong in the block as one sentence and go on after it. ``what``: its subject."""
    try:
        yield
    except Exception as error:
        st.error(escaped(sentence(error, what)))
