"""Packages whose public names import what is behind them when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy_functions(package: str, homes: Mapping[str, str]) -> None:
    """Make ``package.name`` the attribute ``name`` of module ``homes[name]``, imported when used.

    A home ``module:attribute`` has it under another name.

    A function may have the name of its submodule: importing that sets the package's attribute to
    the module, and a module-level ``__getattr__`` would never be asked again.  So the names become
    properties of a class of the package's own, which win in either order of imports.
    """
    namespace = {name: _lazy(name, home) for name, home in homes.items()}
    sys.modules[package].__class__ = type("LazyPackage", (ModuleType,), namespace)


def _lazy(name: str, home: str) -> property:
    module, _, attribute = home.partition(":")

    def get(package: ModuleType) -> Any:
        return getattr(import_module(module), attribute or name)

    def set_(package: ModuleType, value: Any) -> None:
        if not isinstance(value, ModuleType):
            raise AttributeError(f"{package.__name__}.{name} is read-only")

    return property(get, set_)
