"""A page for people, JSON for programs."""

import pytest

from claude_throttle.contrib.accept import wants_page

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (CHROME, True),
        ("text/html, */*", True),  # htmx
        ("TEXT/HTML;level=1", True),
        ("application/xhtml+xml", True),
        ("text/html, application/json", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html, application/json;q=0.9", True),
        ("text/html;q=0", False),
        ("text/html;q=much", False),
        ("application/json", False),
        ("application/json, text/javascript, */*; q=0.01", False),  # jQuery
        ("*/*", False),  # fetch(), curl
        ("text/plain", False),
        ("", False),
        (";;,,=", False),
    ],
)
def test_who_wants_a_page(accept, page):
    """By the header alone."""
    assert wants_page(accept) is page
