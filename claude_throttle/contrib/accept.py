"""Whether who asks would rather have a page or JSON."""

from __future__ import annotations

#: What browsers name when a person goes somewhere, and programs do not.
PAGES = ("text/html", "application/xhtml+xml")

JSON = "application/json"


def wants_page(accept: str) -> bool:
    """True if a page is named, and wanted at least as much as JSON.

    ``*/*``, which fetch(), XMLHttpRequest, curl and ``requests`` send unless told otherwise, and no
    ``Accept`` at all, get JSON: who goes to a page with a browser names ``text/html``.
    """
    wanted = _qualities(accept)
    page = max((wanted.get(kind, 0.0) for kind in PAGES), default=0.0)
    return page > 0.0 and page >= wanted.get(JSON, 0.0)


def _qualities(accept: str) -> dict[str, float]:
    """Each media range's weight (RFC 9110 §12.5.1)."""
    found: dict[str, float] = {}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weights = [text[2:] for text in parameters if text.startswith("q=")]
        found[kind] = _number(weights[0]) if weights else 1.0
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
