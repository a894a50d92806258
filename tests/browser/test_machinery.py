"""The watch that every journey is under: does it see what it is there to see?"""

from __future__ import annotations


def test_a_request_to_elsewhere_is_seen_and_refused(page, visit, watch):
    visit(page)
    came = page.evaluate("() => fetch('https://example.org/').then(() => 'came', () => 'refused')")
    assert came == "refused"
    assert watch.outside == ["https://example.org/"]
    watch.outside.clear()


def test_a_socket_to_elsewhere_is_seen(page, visit, watch):
    visit(page)
    page.evaluate(
        "() => new Promise(done => { new WebSocket('wss://example.org/').onerror = done })"
        ".then(() => null)"
    )
    assert watch.outside == ["wss://example.org/"]
    watch.outside.clear()


def test_an_error_in_javascript_is_seen(page, visit, watch):
    visit(page)
    page.evaluate("() => { setTimeout(() => { throw new Error('on purpose') }, 0) }")
    page.wait_for_timeout(100)
    assert watch.errors == ["on purpose"]
    watch.errors.clear()
