"""The Python interface: what its manual says, and its listing."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import apps.driving as driving
from core.errors import UsageError


def test_the_arguments_that_the_manual_names_are_there(root):
    manual = (root / "docs" / "python.md").read_text(encoding="utf-8")
    section = manual.partition("## apps.driving")[2].partition("\n## ")[0]
    rows = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    checked = 0
    for name, _, arguments in (row.rstrip(")").partition("(") for row in rows):
        if name in ("DrivingEnv", "Trace"):
            continue
        known = inspect.signature(getattr(driving, name)).parameters
        for argument in arguments.replace("(0, 1, 2)", "").replace(", ...", "").split(", "):
            word = argument.partition("=")[0]
            if word.isidentifier():
                assert word in known, f"{name}: {word}"
                checked += 1
    assert checked > 25


def test_every_listed_agent_is_told_apart_from_a_misspelt_one(tmp_path: Path):
    assert {"expert", "small", "blind"} <= set(driving.list_agents())
    with pytest.raises(UsageError, match="Did you mean 'small'"):
        driving.drive(
            "samples/Town01.xodr", "samples/routes.xml", "smal", out=tmp_path / "o", limit=1
        )
