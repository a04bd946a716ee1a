"""Waits for something to hold in a page."""

import time


def until(page, expression, seconds=20):
    """Wait until a JavaScript expression is true: Playwright's own way needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({expression})"):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(20)
