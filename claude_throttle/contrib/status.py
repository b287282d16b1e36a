"""The status page, independent of any web framework.

:func:`page` is one self-contained HTML file that fetches ``data.json`` beside it every two seconds.
To mount it, serve two URLs to authorised people: one that ends with a slash, with :func:`page` and
:func:`page_headers`, and ``data.json`` below it, with :func:`data` as JSON and
:func:`data_headers`. They show this process, and the processes it shares a quota with.

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
from claude_throttle.contrib.fleet_cache import FleetCache

#: Settings that are shown. No key, and no address but the API's, which cannot contain a password.
SHOWN_SETTINGS = (
    "base_url",
    "platform",
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

#: No cache keeps it, no browser guesses its type, no other site learns its address.
_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

_fleets = FleetCache()


@functools.cache
def page() -> bytes:
    """The page's HTML in UTF-8. It loads nothing but ``data.json``."""
    found = pkgutil.get_data("claude_throttle.contrib", "status.html")
    if found is None:
        raise FileNotFoundError("claude_throttle/contrib/status.html is not installed")
    return found


def page_headers() -> dict[str, str]:
    """The headers that the page must be sent with; they allow its own script and style only."""
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _policy(),
        **_PRIVATE,
    }


@functools.cache
def _policy() -> str:
    """The Content-Security-Policy: the page's own script and style by their hashes, nothing else.

    Computed from the file, so that an edited page cannot be sent with the hash of the old one.
    """
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
            # Text that became HTML by a mistake in the script would raise instead.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash_of(element: bytes) -> str:
    """The CSP hash of the page's one inline *element*."""
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (element, element), page(), re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


def data_headers() -> dict[str, str]:
    """The headers that ``data.json`` must be sent with."""
    return {
        "Content-Type": "application/json",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        **_PRIVATE,
    }


def data(throttlers: Mapping[str, Throttler]) -> dict[str, Any]:
    """The state of this process and of each throttler in *throttlers*, ready for ``json.dumps``.

    Starts no thread and makes no call to Claude. What has no limit is None. Where ``shared=`` is
    set the store is queried, for at most one second and at most once in two, however many viewers
    there are; a failure is shown as text and not retried for ten seconds. A throttler with wrong
    settings is shown with its error.
    """
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
        "throttlers": [_entry(name, throttlers) for name in throttlers],
    }


def _entry(name: str, throttlers: Mapping[str, Throttler]) -> dict[str, Any]:
    try:
        throttler = throttlers[name]
        found = {"name": name, "error": None, **_state(throttler), "fleet": _fleet(throttler)}
    except ThrottleError as error:
        found = {"name": name, "error": str(error)}
    plain: dict[str, Any] = as_plain(found)
    return plain


def _state(throttler: Throttler) -> dict[str, Any]:
    """The figures of one throttler.

    A lane, and its quotas, appear as their named tuples' fields.
    """
    limits, stats = throttler.limits(), throttler.stats()
    return {
        "testing": throttler.testing,
        "closed": throttler.closed,
        "paused": limits.paused,
        "paused_everywhere": limits.paused_everywhere,
        "settings": shown_settings(throttler.settings),
        "waiting": stats.waiting,
        "in_flight": stats.in_flight,
        "max_concurrency": limits.max_concurrency,
        "store": limits.store,
        "lanes": [{**lane._asdict(), "quotas": lane.quotas} for lane in limits.values()],
        "stats": {**stats._asdict(), "failed_total": stats.failed_total},
        "history": throttler.history(),
    }


def shown_settings(settings: Settings) -> dict[str, Any]:
    """The settings that may be shown, by name."""
    configured = {name: quota for name in QUOTAS if (quota := getattr(settings, name)) is not None}
    shown = SHOWN_SETTINGS + (SHOWN_WHERE_SHARED if settings.shared is not None else ())
    return {
        "quotas": {name: {"amount": q.amount, "per": q.per} for name, q in configured.items()},
        "burst": settings.burst_in_force,
        **{name: getattr(settings, name) for name in shown},
    }


def _fleet(throttler: Throttler) -> Any:
    """The state of the shared store; None without a store, and in testing mode, which uses none."""
    shared = throttler.settings.shared
    return None if shared is None or throttler.testing else _fleets.current(shared)


def as_plain(value: Any) -> Any:
    """*value* as JSON has it: named tuples become objects, infinity and NaN become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [as_plain(one) for one in value]
    return value
