"""Says once what another client sends past the pace: a quota that nobody keeps to shows as 429s.

Requests are told apart by where they go. A path is the API's whatever the host, since relays serve
it, too; a host is the throttler's, the API's own, or another one.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

from claude_throttle.config.callers import levels_to_caller
from claude_throttle.config.settings import CLAUDE_API
from claude_throttle.transport.endpoints import (
    BATCHES_PATH,
    COUNT_PATH,
    DEFAULT_PORTS,
    MESSAGES_PATH,
)
from claude_throttle.transport.error_text import readable

logger = logging.getLogger("claude_throttle")

#: Notices of one throttler: a program may choose hosts without end.
MOST_NOTICES = 16

#: Characters of a host or a path that are shown.
LONGEST_PLACE = 100


class Address(NamedTuple):
    """Where a request goes: a host and a port, whatever the spelling of its URL."""

    host: str
    port: int

    def __str__(self) -> str:
        return readable(f"{self.host}:{self.port}"[:LONGEST_PLACE])


#: What a throttler has said already, by kind. ``setdefault`` is atomic.
Notices = dict[str, object]


def address_of(url: object) -> Optional[Address]:
    """The address in *url*; None if it names no host, as the prefix "https://" does not."""
    with contextlib.suppress(ValueError, AttributeError):  # a wrong port, or no text at all
        parts = urlsplit(str(url))
        port = parts.port or DEFAULT_PORTS.get(parts.scheme.lower(), 0)
        if parts.hostname:
            return Address(plain_host(parts.hostname), port)
    return None


def plain_host(host: str) -> str:
    """A host's one spelling: no dot at its end, and its letters as DNS knows them."""
    host = host.rstrip(".")
    if not host.isascii():
        with contextlib.suppress(UnicodeError):  # no name that DNS could know
            return host.encode("idna").decode("ascii")
    return host


def own_addresses(base_url: str) -> frozenset[Address]:
    """Those that a throttler's requests go to: its base URL's, and the API's own."""
    return frozenset(filter(None, map(address_of, (base_url, CLAUDE_API))))


def has_quota(method: str, path: str) -> bool:
    """Whether requests of that kind are paced."""
    is_message = method.upper() == "POST" and path.endswith((MESSAGES_PATH, COUNT_PATH))
    return is_message or BATCHES_PATH in path


def say_once(notices: Notices, kind: str, text: str, level: int = logging.WARNING) -> None:
    """Log *text* unless something of its *kind* was said; as a Python warning, too, from WARNING.

    Raises nothing where warnings are errors: the request may have been answered, and paid for.
    """
    mine = object()
    if len(notices) >= MOST_NOTICES or notices.setdefault(kind, mine) is not mine:
        return
    logger.log(level, "%s", text)
    if level >= logging.WARNING:
        with contextlib.suppress(Warning):
            warnings.warn(text, stacklevel=levels_to_caller())


def say_other_host(notices: Notices, address: Optional[Address], base_url: str) -> None:
    """Say that requests for another host are passed on without a pace."""
    say_once(
        notices,
        f"host {address}",
        f"a request for {address} was passed on without waiting for its turn: this throttler is for"
        f" {address_of(base_url)}; write Throttler(base_url=…) with the other URL to pace it",
    )


def say_unrelated_host(notices: Notices, address: Address) -> None:
    """Say that requests for a host that has nothing to do with the API pass, for who looks."""
    say_once(
        notices,
        f"unrelated {address}",
        f"requests for {address} are passed on as they are: they are none to the Claude API",
        logging.INFO,
    )


def say_other_path(notices: Notices, method: str, path: str) -> None:
    """Say that a POST to a path without a quota is passed on without a pace."""
    if method.upper() != "POST":
        return
    shown = readable(path[:LONGEST_PLACE])
    # Files, skills and their like have no pace; a path that only resembles a message's is a slip.
    is_known = "/v1/" in path and "message" not in path
    say_once(
        notices,
        f"path {shown}",
        f"POST {shown} was passed on without waiting for its turn: what is paced is "
        f"{MESSAGES_PATH}, {COUNT_PATH} and {BATCHES_PATH}",
        logging.INFO if is_known else logging.WARNING,
    )


def names_model(body: object) -> bool:
    """Whether a body is one that can be paced; what it is not is the API's to refuse."""
    return isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"] != ""


def say_not_json(notices: Notices) -> None:
    """Say that a message whose body names no model is passed on without a pace."""
    say_once(
        notices,
        "body",
        f"a request for {MESSAGES_PATH} whose body is not a JSON object with a model was passed "
        "on without waiting for its turn: send json={…}, with a model in it",
    )
