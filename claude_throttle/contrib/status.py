"""The status page: for whichever framework serves it, and imported by none of them.

``page()`` is one self-contained HTML file; it asks for ``data.json`` beside it every two seconds.
So whoever mounts it serves two URLs to people who may see them: one that ends with a slash, with
``page()`` and ``page_headers()``, and ``data.json`` below it, with ``data()`` as JSON and
``data_headers()``. Both hold facts of this process only, and of those it shares a quota with.

All functions may be called from any thread, and in forked children.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import os
import pkgutil
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from claude_throttle import Settings, ThrottleError, Throttler, __version__
from claude_throttle.contrib.fleet_look import FleetLook

#: What is worth showing of what a throttler was told. No key, no address but the API's, which can
#: hold no password.
SHOWN_SETTINGS = (
    "base_url",
    "tier",
    "headroom",
    "max_concurrency",
    "interactive_share",
    "max_queue",
    "ageing",
    "timeout",
    "max_retries",
    "retry_share",
    "retry_read_timeouts",
    "retry_resets",
    "count_tokens",
)
SHOWN_WHERE_SHARED = ("on_store_failure", "store_timeout", "store_lease")

QUOTAS = ("rpm", "rpd", "itpm", "otpm", "tpm", "tpd")

#: Nobody else may keep it, guess what it is, or learn from where it was asked.
_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

_looks = FleetLook()


@functools.cache
def page() -> bytes:
    """The HTML, in UTF-8. It needs nothing from elsewhere but ``data.json``."""
    found = pkgutil.get_data("claude_throttle.contrib", "status.html")
    if found is None:
        raise FileNotFoundError("claude_throttle/contrib/status.html is not installed")
    return found


def page_headers() -> dict[str, str]:
    """What must go with the page; its own script and style run by it, and no others."""
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _policy(),
        **_PRIVATE,
    }


@functools.cache
def _policy() -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash_of(b'script')}",
            f"style-src {_hash_of(b'style')}",
            "connect-src 'self'",
            "img-src data:",  # its icon
            "frame-ancestors 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            # A text that became HTML by a slip of ours would raise instead.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash_of(element: bytes) -> str:
    """Of the one inline element of that name."""
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (element, element), page(), re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


def data_headers() -> dict[str, str]:
    """What must go with ``data.json``."""
    return {
        "Content-Type": "application/json",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        **_PRIVATE,
    }


def data(throttlers: Mapping[str, Throttler]) -> dict[str, Any]:
    """What the page shows: this process, and each throttler by its name. Ready for ``json.dumps``.

    Starts no thread and makes no call to Claude; what has no bound is None. Where ``shared=`` is
    set the store is asked, for a second at most and once in two for all who look; what goes wrong
    there is told in words, and not tried again for ten. A throttler that cannot be had, because a
    setting of it is wrong, is told in words, too.
    """
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
        "throttlers": [_told(name, throttlers) for name in throttlers],
    }


def _told(name: str, throttlers: Mapping[str, Throttler]) -> dict[str, Any]:
    try:
        throttler = throttlers[name]
        found = {"name": name, "error": None, **_state(throttler), "fleet": _fleet(throttler)}
    except ThrottleError as error:
        found = {"name": name, "error": str(error)}
    plain: dict[str, Any] = as_plain(found)
    return plain


def _state(throttler: Throttler) -> dict[str, Any]:
    limits, stats = throttler.limits(), throttler.stats()
    return {
        "testing": throttler.testing,
        "closed": throttler.closed,
        "paused": limits.paused,
        "settings": shown_settings(throttler.settings),
        "waiting": stats.waiting,
        # Those of others under a permit are in it, too.
        "in_flight": limits.in_flight,
        "max_concurrency": limits.max_concurrency,
        "store": limits.store,
        "lanes": [{**lane._asdict(), "quotas": lane.quotas} for lane in limits.values()],
        "stats": {**stats._asdict(), "failed_total": stats.failed_total},
        "history": throttler.history(),
    }


def shown_settings(settings: Settings) -> dict[str, Any]:
    """What may be seen of them, by name."""
    told = {name: quota for name in QUOTAS if (quota := getattr(settings, name)) is not None}
    shown = SHOWN_SETTINGS + (SHOWN_WHERE_SHARED if settings.shared is not None else ())
    return {
        "quotas": {name: {"amount": q.amount, "per": q.per} for name, q in told.items()},
        "burst": settings.burst_in_force,
        **{name: getattr(settings, name) for name in shown},
    }


def _fleet(throttler: Throttler) -> Any:
    shared = throttler.settings.shared
    return None if shared is None or throttler.testing else _looks.at(shared)


def as_plain(value: Any) -> Any:
    """The same in what JSON has: named tuples by name, and null for what is no finite number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [as_plain(one) for one in value]
    return value
