"""Puts a throttler's adapter into a ``requests`` session, and sees what the session sends past it.

``requests`` chooses an adapter by the beginning of a URL. An adapter that is mounted for a host
which the program never speaks to is never asked, and nothing shows it but the API's 429s. So
sessions that have an adapter of ours are watched for what they send by another one.
"""

from __future__ import annotations

import contextlib
import weakref
from functools import wraps
from typing import Any, Optional
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from claude_throttle.config.settings import CLAUDE_API
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.requests_adapter import AdapterTerms, SessionAdapter
from claude_throttle.features.interop.unpaced_requests import (
    Address,
    address_of,
    has_quota,
    say_once,
    say_other_host,
)

#: Adapters that may never be asked.
_adapters: weakref.WeakSet[SessionAdapter] = weakref.WeakSet()


def make_adapter(terms: AdapterTerms, options: Any) -> SessionAdapter:
    """An adapter whose sessions are watched."""
    _watch_sessions()
    made = SessionAdapter(terms, **options)
    _adapters.add(made)
    return made


def make_session() -> requests.Session:
    """A session as it is without a throttler."""
    return requests.Session()


def mount_on(session: Any, mine: SessionAdapter) -> requests.Session:
    """Mount an adapter for its throttler's base URL and for the API's own host; returns *session*.

    A session's adapter of a kind of its own goes on sending: it may know proxies or certificates.
    """
    if not isinstance(session, requests.Session):
        kind = getattr(session, "__name__", type(session).__name__)
        raise ConfigurationError(
            f"mount() takes a requests.Session, not {kind:.80}: throttler.mount(session), or "
            "session = throttler.session(); for httpx it is "
            "httpx.Client(transport=throttler.transport())"
        )
    base_url = mine.terms.base_url
    theirs = _adapter_for(session, base_url)
    if _is_of_another(theirs, mine):
        say_two_throttlers(mine, address_of(base_url))
    _keep_ways_of(theirs, mine)
    mine.max_resends = mine.terms.max_retries
    for prefix in _prefixes(base_url):
        session.mount(prefix, mine)
    if not _is_of_another(_adapter_for(session, CLAUDE_API), mine):
        for prefix in _prefixes(CLAUDE_API):
            session.mount(prefix, mine)
    return session


def _adapter_for(session: requests.Session, url: str) -> Optional[BaseAdapter]:
    with contextlib.suppress(requests.exceptions.InvalidSchema):
        return session.get_adapter(url + "/")
    return None


def _prefixes(url: str) -> set[str]:
    """Beginnings of the URLs at the host of *url*. With a slash: "https://host" begins others."""
    parts, address = urlsplit(url), address_of(url)
    if address is None:
        return set()
    host = f"[{address.host}]" if ":" in address.host else address.host
    places = {f"{host}:{address.port}", host if parts.port in (None, address.port) else ""}
    if address_of(f"{parts.scheme}://{host}") != address:
        places.discard(host)  # the port is not the scheme's own
    return {f"{parts.scheme}://{place}/" for place in places if place}


def _is_of_another(theirs: Optional[BaseAdapter], mine: SessionAdapter) -> bool:
    """Whether it is the adapter of another throttler, which is still open."""
    if not isinstance(theirs, SessionAdapter) or theirs.terms.is_closed():
        return False
    return theirs.terms.notices is not mine.terms.notices


def _keep_ways_of(theirs: Optional[BaseAdapter], mine: SessionAdapter) -> None:
    """Send as *theirs* did, which *mine* replaces, except that each retry waits for its turn."""
    if isinstance(theirs, SessionAdapter):
        mine.inner, mine.retries, mine.max_retries = (
            theirs.inner,
            theirs.retries,
            theirs.max_retries,
        )
        return
    retries: Any = getattr(theirs, "max_retries", None)
    if retries is None:
        mine.inner = theirs
        return
    mine.retries = retries if _sends_again(retries) else None
    # Trying to connect again sends nothing, so that needs no turn.
    once = retries.new(status_forcelist=(), respect_retry_after_header=False, read=False, other=0)
    if type(theirs) is HTTPAdapter:
        mine.max_retries = once
    else:
        mine.inner = _copy_of(theirs, once)


def _copy_of(theirs: Any, retries: Any) -> BaseAdapter:
    """*theirs* with other retries. It shares the pool: a new one may lack what a subclass adds."""
    copy: BaseAdapter = object.__new__(type(theirs))
    copy.__dict__.update(theirs.__dict__, max_retries=retries)
    return copy


def _sends_again(retries: Any) -> bool:
    """Whether urllib3's *retries* send a POST again that was refused or lost."""
    methods = getattr(retries, "allowed_methods", None)
    tries = any((retries.total, retries.status, retries.read))
    return tries and (not methods or "POST" in methods)


# -- what goes past it -----------------------------------------------------------------------------


def _watch_sessions() -> None:
    """Have each choice of an adapter looked at, in sessions that have one of ours.

    requests tells an adapter neither where it was mounted nor that another one was chosen.
    """
    original = requests.Session.get_adapter
    if getattr(original, "watched", False):
        return

    @wraps(original)
    def get_adapter(session: requests.Session, url: Any) -> BaseAdapter:
        chosen = original(session, url)
        with contextlib.suppress(Exception):  # no request must fail for a notice
            _look(session, url, chosen)
        return chosen

    get_adapter.watched = True  # type: ignore[attr-defined]
    requests.Session.get_adapter = get_adapter  # type: ignore[method-assign,assignment]


def _look(session: requests.Session, url: str, chosen: BaseAdapter) -> None:
    ours = [(at, a) for at, a in session.adapters.items() if isinstance(a, SessionAdapter)]
    open_ones = [(at, a) for at, a in ours if not a.terms.is_closed()]
    if isinstance(chosen, SessionAdapter):
        chosen.mounted_for = {address_of(at) for at, adapter in ours if adapter is chosen}
        _look_for_two(address_of(url), chosen, open_ones)
    elif (ours or _adapters) and has_quota("POST", urlsplit(url).path):
        if open_ones:
            _say_it_passes(address_of(url), *open_ones[0])
        elif not ours:
            _say_none_is_asked(address_of(url))


def _look_for_two(
    address: Optional[Address], chosen: SessionAdapter, ours: list[tuple[str, SessionAdapter]]
) -> None:
    others = (at for at, each in ours if each.terms.notices is not chosen.terms.notices)
    if any(address_of(at) == address for at in others):
        say_two_throttlers(chosen, address)


def say_two_throttlers(mine: SessionAdapter, address: Optional[Address]) -> None:
    """Say that only one of two throttlers for the same host paces a request."""
    say_once(
        mine.terms.notices,
        "two throttlers",
        f"a requests session has adapters of two throttlers for {address}, and only one of them "
        "paces each request: use one throttler, or a session for each",
    )


def _say_none_is_asked(address: Optional[Address]) -> None:
    """Say that a session without an adapter sends where one was meant to pace it."""
    for adapter in list(_adapters):
        if adapter.was_asked or adapter.terms.is_closed():
            _adapters.discard(adapter)
        elif address in adapter.own_addresses:
            say_once(
                adapter.terms.notices,
                "past the adapter",
                f"requests sends to {address} without waiting for its turn, by a session that the "
                "throttler's adapter is not mounted in, and the adapter was never asked: write "
                "session = throttler.session(), and session.post(…) in place of requests.post(…)",
            )


def _say_it_passes(address: Optional[Address], prefix: str, adapter: SessionAdapter) -> None:
    if address not in adapter.own_addresses:
        say_other_host(adapter.terms.notices, address, adapter.terms.base_url)
        return
    # Not the prefix itself: it may hold a password.
    mounted_for = address_of(prefix) or "other URLs"
    say_once(
        adapter.terms.notices,
        "past the adapter",
        f"a requests session sends to {address} without waiting for its turn, past the throttler's "
        f"adapter, which is mounted for {mounted_for} and is not asked: write "
        "throttler.mount(session), which mounts it where it belongs",
    )
