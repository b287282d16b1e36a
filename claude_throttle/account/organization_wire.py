"""``GET /v1/organizations/rate_limits``: what an admin key may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Protocol
from urllib.parse import quote

from claude_throttle.transport.verdicts import read_json

#: Pages of an answer; more are no answer but a loop.
MOST_PAGES = 100


class PageResponse(Protocol):
    """What an asked server says."""

    status_code: int
    content: bytes


Ask = Callable[[str, str, Mapping[str, str]], Any]


def fetch_pages(ask: Ask, admin_key: str, api_version: str) -> list[Any]:
    """All pages, decoded. *ask* sends a method, a path and headers; it may raise.

    Raises OSError for a refusal. A page that is no object ends it.
    """
    headers = {"x-api-key": admin_key, "anthropic-version": api_version}
    pages: list[Any] = []
    path = "/v1/organizations/rate_limits"
    while len(pages) < MOST_PAGES:
        answer: PageResponse = ask("GET", path, headers)
        if answer.status_code != 200:
            raise OSError(f"status {answer.status_code}")
        page = read_json(answer.content)
        pages.append(page)
        cursor = page.get("next_page") if isinstance(page, dict) else None
        if not isinstance(cursor, str) or not cursor:
            break
        path = f"/v1/organizations/rate_limits?page={quote(cursor, safe='')}"
    return pages
