"""Reads settings from environment variables.

``ANTHROPIC_*`` are the variables of the official SDK, read with its precedence, so that a program
moves from the SDK to a throttler without a new deployment. Every other setting whose value can be
written as a text is ``CLAUDE_THROTTLE_`` and its name in capitals. An empty variable counts as
unset: that is how a compose file or a unit file passes on one that is not defined.

Here texts become values of the right type; whether a value makes sense is decided by
:class:`Settings`, the same way for texts and for keyword arguments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

from claude_throttle.errors import ConfigurationError

# Settings by the type of their value. ``lanes``, ``proxies`` and ``default_headers`` are mappings,
# so they have no variable of this kind. A new setting must be added to one of the four.
_NUMBERS = (
    *("rpm", "rpd", "itpm", "otpm", "tpm", "tpd", "headroom", "timeout", "ageing"),
    *("interactive_share", "retry_share", "store_timeout", "store_lease"),
)
_WHOLE = ("burst", "max_concurrency", "max_connections", "max_queue", "max_retries")
_TEXTS = ("platform", "api_version", "tier", "count_tokens", "shared", "on_store_failure")
_FLAGS = ("retry_read_timeouts", "retry_resets", "allow_insecure", "testing")

#: What the text of a flag means, in any case. No other text is accepted: "no" or "off" would be
#: taken for True by ``bool()``, and switch a safety off by mistake.
FLAG_WORDS = {"1": True, "true": True, "0": False, "false": False}


def read(environ: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in *environ*. If *options* has a key or a token, neither variable is read."""
    found: dict[str, Any] = {}
    # An explicit token and a key from the environment would be two credentials in one request.
    if options.get("api_key") is None and options.get("auth_token") is None:
        found["api_key"] = environ.get("ANTHROPIC_API_KEY") or None
        if found["api_key"] is None:
            found["auth_token"] = environ.get("ANTHROPIC_AUTH_TOKEN") or None
    if environ.get("ANTHROPIC_ADMIN_KEY"):
        found["admin_key"] = environ["ANTHROPIC_ADMIN_KEY"]
    if environ.get("ANTHROPIC_BASE_URL"):
        found["base_url"] = environ["ANTHROPIC_BASE_URL"]
    if environ.get("ANTHROPIC_CUSTOM_HEADERS"):
        found["default_headers"] = _header_lines(environ["ANTHROPIC_CUSTOM_HEADERS"])
    bundle = _ca_bundle(environ)
    if bundle:
        found["ca_bundle"] = bundle
    for name in (*_NUMBERS, *_WHOLE, *_FLAGS, *_TEXTS):
        text = environ.get(f"CLAUDE_THROTTLE_{name.upper()}")
        if text:
            found[name] = value_of(name, text, f"CLAUDE_THROTTLE_{name.upper()}")
    return found


# The variables of requests itself, in its order, which it reads only in Session.request(), and the
# transport does not use that; then those of OpenSSL and httpx, as the official SDK reads them. A
# path that does not exist is skipped there, as by OpenSSL: images name bundles they do not have.
def _ca_bundle(environ: Mapping[str, str]) -> Optional[str]:
    named = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    if named:
        return named
    folders = environ.get("SSL_CERT_DIR", "").split(os.pathsep)
    for path in (environ.get("SSL_CERT_FILE"), *folders):
        if path and os.path.exists(path):
            return path
    return None


# The format of the SDK's variable: one "Name: value" in each line; lines without a colon are none.
def _header_lines(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def value_of(name: str, text: str, source: str) -> Any:
    """The value that *text* means for the setting *name*; *source* is named in an error."""
    try:
        if name in _FLAGS:
            return FLAG_WORDS[text.strip().lower()]
        if name in _WHOLE:
            return text if text == "auto" and name == "burst" else int(text)
        return float(text) if name in _NUMBERS else text
    except (KeyError, ValueError):
        raise ConfigurationError(f"{source}={text!r:.80} is not a value for {name}") from None
