"""One browser for all tests of a worker, in a process of its own."""

from __future__ import annotations

import os

import pytest

from tests.support import browser as driven
from tests.support.status_site import serve

#: "required": a machine without a browser fails the tests that need one. CI sets it.
WISH = os.environ.get("CLAUDE_THROTTLE_TEST_BROWSER", "")


@pytest.fixture(scope="session")
def chromium():
    """The browser itself."""
    if driven.MISSING and WISH == "required":
        pytest.fail(f"CLAUDE_THROTTLE_TEST_BROWSER=required, but {driven.MISSING}")
    if driven.MISSING:
        pytest.skip(f"the status page in a browser: {driven.MISSING}")
    with driven.browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """The same, at desktop width, light, and with nothing said yet; nothing may be said."""
    chromium.look_like(1280, "light")
    chromium.complaints()
    return chromium


@pytest.fixture
def site():
    """A web site with the status page; ``site.throttlers`` are those it shows."""
    with serve({}) as site:
        yield site
