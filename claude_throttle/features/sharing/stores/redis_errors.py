"""Turns errors of a Redis server into StoreFailed: what failed, where, after how long, what to do.

The errors are told apart by the first word of the server's own text, or by the names of their
classes, since redis-py and valkey-py each have classes of their own and neither is imported here.
"""

from __future__ import annotations

from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.transport.error_text import readable

#: What to do, by the first word of the server's own text.
ADVICE = {
    "READONLY": "It is a replica: name the primary, or ask Sentinel by redis+sentinel://.",
    "LOADING": "It is reading its data; it will answer soon.",
    "BUSY": "It is busy with another client's script.",
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

#: What to do about a server whose scripts cannot use its clock.
TOO_OLD = "Its scripts must be able to call TIME: use Redis 5 or newer, or Valkey."

#: That first word, by the name of the error's class: for classes whose text lacks it.
WORDS = {
    "NoScriptError": "NOSCRIPT",
    "MovedError": "MOVED",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "OutOfMemoryError": "OOM",
    "AuthenticationError": "WRONGPASS",
    "NoPermissionError": "NOPERM",
}

#: Characters of a server's text that are shown.
LONGEST_TEXT = 200


def code_of(error: BaseException) -> str:
    """The first word of the server's answer, such as ``NOSCRIPT``; any word if it gave none."""
    return WORDS.get(type(error).__name__) or str(error).partition(" ")[0]


def failure(
    error: BaseException, name: str, seconds: float, secrets: tuple[str, ...]
) -> StoreFailed:
    """The StoreFailed to raise for *error*, *seconds* after the server *name* was asked.

    *secrets* are removed from the server's text.
    """
    text = f"{name} {_what(error, secrets)} ({seconds:.2f} s)."
    advice = _advice(error)
    return StoreFailed(f"{text} {advice}" if advice else text)


def _what(error: BaseException, secrets: tuple[str, ...]) -> str:
    said = scrubbed(str(error), secrets) or "no reason given"
    if _is_timeout(error):
        is_connected = "connect" not in said
        return "did not answer in time" if is_connected else "is not connected in time"
    if any(base.__name__ == "ResponseError" for base in type(error).__mro__):
        return f"refused: {said}"
    return f"failed: {type(error).__name__}: {said}"


# "timeout" is socket.timeout before Python 3.10; redis-py has a TimeoutError of its own.
def _is_timeout(error: BaseException) -> bool:
    return type(error).__name__ in ("timeout", "TimeoutError")


def scrubbed(text: str, secrets: tuple[str, ...]) -> str:
    """*text* as one line without the *secrets*, cut after 200 characters."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(readable(text).split()).rstrip(".")
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _advice(error: BaseException) -> str:
    text = str(error)
    # The second is what it answers to a command of so many words, before any other.
    if "Authentication required" in text or "unauthenticated" in text:
        return ADVICE["NOAUTH"]
    if _is_timeout(error):
        return "Is it reachable, and not overloaded or frozen?"
    if "Connection refused" in text:
        return "Is it running?"
    if _knows_no_time(text):
        return TOO_OLD
    return ADVICE.get(code_of(error), "")


def _knows_no_time(text: str) -> bool:
    """Whether the script met a server that lets no script read its clock and then write.

    Redis before 5 refuses the write, a server without TIME in scripts the command.
    """
    words = ("non deterministic", "not allowed from script", "unknown redis command called from")
    return any(word in text.lower() for word in words)
