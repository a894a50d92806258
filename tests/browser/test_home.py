"""The first page, in a browser."""

from __future__ import annotations


def test_it_opens(page, visit):
    visit(page)
    assert page.get_by_role("heading", name="Triptych").is_visible()


def test_it_opens_on_a_telephone(narrow, visit):
    visit(narrow)
    assert narrow.get_by_role("heading", name="Triptych").is_visible()
