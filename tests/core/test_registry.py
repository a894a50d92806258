from __future__ import annotations

import pytest

from core.errors import UsageError
from core.registry import Registry


@pytest.fixture
def registry() -> Registry[int]:
    table: Registry[int] = Registry("number")
    table["one_a"] = 1
    table.register("two")(2)
    return table


def test_it_is_a_table_in_order(registry: Registry[int]) -> None:
    assert list(registry) == ["one_a", "two"]
    assert len(registry) == 2
    assert registry["two"] == 2


@pytest.mark.parametrize("spelling", ["one_a", "One-A", "ONEA", "one-a"])
def test_spellings_are_one_name(registry: Registry[int], spelling: str) -> None:
    assert spelling in registry
    assert registry[spelling] == 1
    assert registry.name_of(spelling) == "one_a"


def test_unknown_names_the_nearest_and_all(registry: Registry[int]) -> None:
    assert "three" not in registry
    with pytest.raises(UsageError, match=r"unknown number 'twoo'\. Did you mean 'two'\?.*one_a"):
        registry["twoo"]


@pytest.mark.parametrize("name", ["two", "Two", "t_w_o"])
def test_a_name_is_taken_once(registry: Registry[int], name: str) -> None:
    with pytest.raises(ValueError, match="registered twice"):
        registry[name] = 3
