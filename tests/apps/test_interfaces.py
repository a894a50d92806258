"""The public Python interface of every application: documented, small, and free to import."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

LISTING = {"medical": "list_models", "timeseries": "list_models", "driving": "list_agents"}
HEAVY = ("torch", "monai", "numpy", "pandas", "matplotlib", "carla", "gymnasium")
NAMES = [(app, name) for app in LISTING for name in import_module(f"apps.{app}").__all__]


@pytest.mark.parametrize("app", LISTING)
def test_importing_and_listing_import_nothing_heavy(python, app):
    done = python(
        "-c",
        f"import sys, apps.{app} as app\napp.{LISTING[app]}()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])",
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("app", "name"), NAMES)
def test_every_name_is_a_documented_function_or_class(app, name):
    if name == "DrivingEnv":
        pytest.importorskip("gymnasium")
    value = getattr(import_module(f"apps.{app}"), name)
    assert inspect.isfunction(value) or inspect.isclass(value)
    assert len(value.__doc__) > 60


@pytest.mark.parametrize(("app", "name"), NAMES)
def test_every_name_is_in_the_manual(root, app, name):
    manual = (root / "docs" / "python.md").read_text(encoding="utf-8")
    section = manual.partition(f"## apps.{app}")[2].partition("\n## ")[0]
    assert f"`{name}(" in section
