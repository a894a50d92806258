"""The first page, without a browser."""

from __future__ import annotations


def test_it_opens(open_page):
    assert open_page("home").title[0].value == "Triptych"
