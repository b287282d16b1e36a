"""What went wrong with a Redis, in plain words: what, where, after how long, and what to do."""

from __future__ import annotations

import socket

from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.redis_protocol import CommandRefused

#: By the first word of the server's own text.
ADVICE = {
    "READONLY": "It is a replica: name the primary, or ask Sentinel by redis+sentinel://.",
    "LOADING": "It is reading its data; it will answer soon.",
    "BUSY": "It is busy with somebody's script.",
    "MASTERDOWN": "It is a replica that lost its primary.",
    "CLUSTERDOWN": "The Cluster is not complete.",
    "ASK": "The Cluster is moving its slots; it will answer soon.",
    "TRYAGAIN": "The Cluster is moving its slots; it will answer soon.",
    "OOM": "Its memory is full: raise maxmemory, or let it evict.",
    "MISCONF": "It cannot write its data to disk.",
    "NOREPLICAS": "It has fewer replicas than it must have to accept writes.",
    "NOAUTH": "Name the user and password in the URL.",
    "WRONGPASS": "Check the user and password.",
    "NOPERM": "Its user must be allowed EVALSHA, EVAL, TIME, SCAN, HGETALL and what the script "
    "uses, on keys that begin with claude-throttle:.",
    "WRONGTYPE": "Something else keeps keys that begin with claude-throttle: there.",
}

#: By class, where there is no such word; of several libraries, so by name.
ADVICE_BY_CLASS = {
    "AuthenticationError": ADVICE["WRONGPASS"],
    "BusyLoadingError": ADVICE["LOADING"],
    "timeout": "Is it reachable, and not overloaded or frozen?",
    "TimeoutError": "Is it reachable, and not overloaded or frozen?",
    "ConnectionRefusedError": "Is it running?",
}

LONGEST_TEXT = 200


def failure(
    error: BaseException, name: str, seconds: float, secrets: tuple[str, ...]
) -> StoreFailed:
    """What to raise for *error*, *seconds* after asking the server *name*."""
    text = f"{name} {_what(error, secrets)} ({seconds:.2f} s)."
    advice = _advice(error)
    return StoreFailed(f"{text} {advice}" if advice else text)


def _what(error: BaseException, secrets: tuple[str, ...]) -> str:
    if isinstance(error, CommandRefused):
        return f"refused: {scrubbed(str(error), secrets)}"
    if isinstance(error, socket.timeout):
        said = str(error)
        return (
            "is not connected in time" if said == "no connection yet" else "did not answer in time"
        )
    said = scrubbed(str(error), secrets) or "no reason given"
    return f"failed: {type(error).__name__}: {said}"


def scrubbed(text: str, secrets: tuple[str, ...]) -> str:
    """One line of *text*, without what is secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _advice(error: BaseException) -> str:
    text = str(error)
    if "unauthenticated" in text:  # what it says to so many words at once, before NOAUTH
        return ADVICE["NOAUTH"]
    if isinstance(error, CommandRefused):
        return ADVICE.get(error.code, "")
    for word, advice in ADVICE.items():
        if text.startswith(f"{word} "):
            return advice
    if "refused" in text:
        return ADVICE_BY_CLASS["ConnectionRefusedError"]
    return ADVICE_BY_CLASS.get(type(error).__name__, "")
