"""Reads refusals that are not in the API's format: those of gateways, clouds, proxies, firewalls.

Each has words, fields and times in places of its own. Loaded at the first refusal that is final, or
that names no time or a long one; those of the API at full pace name a short one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from claude_throttle.transport.limit_values import read_number
from claude_throttle.transport.received_refusal import ReceivedRefusal
from claude_throttle.transport.relay_limits import read_reset
from claude_throttle.transport.times import (
    CLOCK,
    SPAN,
    TIME,
    duration_of,
    seconds_from,
    seconds_until,
)

#: Characters of foreign text that are read, and values of a body that are looked at.
LONGEST_TEXT = 2000
MOST_VALUES = 200
DEEPEST = 6

#: Characters of a text without a format that can be the notice of a failure.
LONGEST_FAILURE = 300

#: Fields that hold the words, in the order in which they are asked.
_MESSAGE_FIELDS = ("message", "detail", "error", "error_message", "msg", "title", "description")

#: Fields of which an error has one, whatever its format.
_TELLING = frozenset(("error", "errors", "error_message", "message", "detail", "msg", "status"))

#: Fields that hold a time, without case, hyphens and underscores.
_WAIT_FIELDS = {
    **dict.fromkeys(("retryafter", "retryafterseconds", "retryaftersecs", "retryaftersec"), 1.0),
    **dict.fromkeys(("retrydelay", "retryin", "retryinseconds", "retrydelayseconds"), 1.0),
    **dict.fromkeys(("waitseconds", "waittime", "retryafters", "cooldownseconds", "backoff"), 1.0),
    **dict.fromkeys(("retryafterms", "retryaftermillis", "retryaftermilliseconds"), 0.001),
    **dict.fromkeys(("retrydelayms", "retryinms", "waitms", "backoffms"), 0.001),
    **dict.fromkeys(("retryat", "nextretryat", "nextretry", "tryagainat", "tryagainin"), 1.0),
}

#: The instant at which a limit is full again, in headers and in bodies that quote headers. Longer
#: than need be, so read last.
_RESET_NAMES = ("x-ratelimit-reset-after", "ratelimit-reset", "x-ratelimit-reset")
_LEFT_NAMES = ("x-ratelimit-remaining", "ratelimit-remaining", "remaining")

#: The same in fields of a body that quote no header, spelled as those of a wait.
_RESET_FIELDS = frozenset(
    {
        *("reset", "resetin", "resetsin", "resetafter", "resetseconds", "resetinseconds"),
        *("resetafterseconds", "resetat", "resetsat", "resettime", "limitresetsat"),
    }
)

#: "try again in 5 seconds", "wait 30s", "resets after 1m30s"; not "10 requests in 60 seconds".
_CUE = (
    r"(?:\btr(?:y|ied|ying)\b|\bretr(?:y|ied|ying)|\bwait|\bagain\b|\bavailable\b|\bresets?\b"
    r"|\breplenish|\brefresh|\brenew|\brefill|\bnext (?:request|call|attempt|try)\b"
    r"|\bresum|\bcool ?down|\bback ?off|\blimited\b|\bthrottled\b|\bblocked\b)"
)
_GAP = r"(?:(?!requests\b|tokens\b|calls\b)[^.;!?(\n]){0,60}?"
_ABOUT = r"(?:about|approximately|around|at least|another|up to|~)?\s*"
_WORDS = re.compile(
    rf"{_CUE}\w*(?:{_GAP}\b(?:in|after|for|within))?[\s:=]*{_ABOUT}({SPAN}|{CLOCK})", re.I
)

#: "42s until reset", "15 seconds left before you can retry".
_UNTIL = re.compile(
    rf"(?<![\w.])({TIME}(?:,? (?:and )?{TIME}){{0,3}})(?: left| more| remaining)? "
    r"(?:until|before)\b",
    re.I,
)

#: Several headers of that name, put together: "5, 5".
_NUMBERS = re.compile(r"\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?)+")

#: "available again at Sat, 21 Nov 2026 12:00:30 GMT".
_HTTP_DATE = re.compile(r"\b([A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)\b")

#: "Retry-After: 13" within a text, without a unit.
_BARE = re.compile(
    r"retry[-_ ]?after[\"']?\s*[:=]?\s*[\"']?(\d+(?:\.\d+)?)(?![\d.:]|\s*[a-z])", re.I
)

#: "try again at 2026-11-30T12:00:05Z".
_INSTANT = re.compile(
    r"\b(?:at|until|after|on)\b[\s:]*"
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?\s*(?:Z|UTC|GMT|[+-]\d\d:?\d\d)?)"
)

_URL = re.compile(r"https?://\S+")

#: Words of a limit on money, or on what may be used in a month: no wait of a call helps.
_SPENDING = re.compile(
    r"\bspend(?:ing)?[ _-](?:limit|cap|quota|threshold)"
    r"|\bcredit (?:balance|limit)|\bbalance(?: \w+){0,3} (?:low|insufficient|exhausted|depleted)"
    r"|\bout of extra usage\b"
    r"|\b(?:out of|insufficient|not enough|no|exhausted|used up)(?: \w+){0,3} (?:credit|fund)"
    r"|\binsufficient[ _](?:quota|credit|balance|funds)"
    r"|\bcredits?(?: \w+){0,3} (?:exhausted|depleted|used up|expired)"
    r"|\bbilling\b|\bpayment (?:required|overdue|failed|past due)|\bunpaid\b"
    r"|\bbudget\b.{0,40}\bexceeded|\bexceed\w*\b.{0,40}\bbudget|\bbudget_exceeded"
    r"|\b(?:monthly|month's)\b.{0,40}\b(?:usage|quota|limit|cap|allowance|threshold|allotment)"
    r"|\b(?:usage|quota|limit|cap|allowance)\b.{0,40}\b(?:this|the|per|a|current|billing) month\b"
    r"|\bAPI usage limits?\b",
    re.I,
)

#: What clouds and gateways call a rate limit, where the status is another one than 429.
_THROTTLING = re.compile(
    r"throttling(exception)?|toomanyrequests(exception)?|resourceexhausted|(user)?ratelimitexceeded"
    r"|ratelimit(error|ed)|request(limitexceeded|throttled)(exception)?|slowdown|429"
)
#: Words by which a short text without a format is known for an error, and not for an answer.
_WRONG = re.compile(
    r"\berrors?\b|\bfail|unavailable|overload|capacity|time[ds]?[ -]?out|denied|forbidden|blocked"
    r"|unauthori[sz]ed|bad gateway|\blimit|\bquota|too many|throttl|maintenance|upstream|expired"
    r"|\binvalid|not found|refused|rejected",
    re.I,
)
_TITLE = re.compile(r"<title[^>]*>([^<]+)", re.I)

_KIND_FIELDS = frozenset(("code", "type", "status", "__type", "reason", "statuscode", "error"))


def message_of(answer: Any, body: bytes) -> str:
    """What a refusal of any shape says to a reader; "" for a page of HTML."""
    if answer is None:
        text = body[: 4 * LONGEST_TEXT].decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text[:LONGEST_TEXT]
    return _message_in(answer)[:LONGEST_TEXT]


def error_told_in(answer: Any, body: bytes) -> str:
    """The words of an error that came under status 200; "" where it may be an answer.

    *answer* is the *body* as JSON, or None. An answer may be in any format, or be cut: only what
    stands in the fields of errors is quoted, the title of a page, or a short text of failure.
    """
    if isinstance(answer, str):
        inner = read_inner(answer)
        return _failure(answer) if inner is None else error_told_in(inner, b"")
    if isinstance(answer, list):
        answer = next((each for each in answer if isinstance(each, dict)), {})
    if isinstance(answer, dict):
        tells = not _TELLING.isdisjoint(str(name).lower() for name in answer)
        return _message_in(answer)[:LONGEST_TEXT] or _codes_in(answer) if tells else ""
    text = body[: 4 * LONGEST_TEXT].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        return title.group(1).strip() if title else ""
    if text.startswith(("event:", "data:", ":")):  # a stream that nobody asked for
        data = (line[5:] for line in text.splitlines() if line.startswith("data:"))
        frames = map(read_inner, data)
        told = (error_told_in(frame, b"") for frame in frames if isinstance(frame, dict))
        return next(filter(None, told), "")
    return "" if text[:1] in ("{", "[") else _failure(text)


def read_inner(text: str) -> Any:
    """An object or a list within a text; None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _failure(text: str) -> str:
    return text if len(text) <= LONGEST_FAILURE and _WRONG.search(text) else ""


def _codes_in(answer: Any) -> str:
    """What an error without words is called: its codes and types; "" if it is none."""
    error = answer.get("error") or answer.get("errors") if isinstance(answer, dict) else None
    kinds = [value for name, value in _all_fields(error) if name in _KIND_FIELDS]
    return " ".join(str(kind) for kind in kinds if isinstance(kind, (str, int)))[:LONGEST_TEXT]


def _message_in(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return value
    if depth > DEEPEST:
        return ""
    if isinstance(value, list):
        return next(filter(None, (_message_in(each, depth + 1) for each in value[:3])), "")
    if not isinstance(value, dict):
        return ""
    fields = {str(name).lower(): inner for name, inner in value.items()}
    # What is nested says more: {"message": "Error", "error": {"message": …}} is in no capture.
    named = (fields.get(name) for name in (*_MESSAGE_FIELDS, "errors"))
    return next(filter(None, (_message_in(inner, depth + 1) for inner in named)), "")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """All named values of a body, with their names in lower case; not of one without end."""
    left, waiting = MOST_VALUES, [(value, 0)]
    while waiting and left > 0:
        value, depth = waiting.pop(0)
        pairs = value.items() if isinstance(value, dict) else [("", v) for v in value]
        for name, inner in list(pairs)[:left]:
            left -= 1
            yield str(name).lower(), inner
            if isinstance(inner, (dict, list)) and depth < DEEPEST:
                waiting.append((inner, depth + 1))


def _all_fields(answer: Any) -> Iterator[tuple[str, Any]]:
    return _fields(answer) if isinstance(answer, (dict, list)) else iter(())


def is_throttling(refusal: ReceivedRefusal) -> bool:
    """Whether it is a rate limit by its code, whatever its status."""
    kinds = [value for name, value in _all_fields(refusal.answer) if name in _KIND_FIELDS]
    kinds.append((refusal.headers.get("x-amzn-errortype") or "").partition(":")[0])
    texts = [_plain(kind) for kind in kinds if isinstance(kind, (str, int))]
    return any(_THROTTLING.fullmatch(text) for text in texts)


def _plain(kind: object) -> str:
    """A name without its namespace, case, hyphens and underscores."""
    name = str(kind)[:80].rpartition("#")[2]
    return name.replace("_", "").replace("-", "").lower()


def tells_of_spending(refusal: ReceivedRefusal, message: str) -> bool:
    """Whether its words or its codes are about money, or about the usage of a month."""
    kinds = [value for name, value in _all_fields(refusal.answer) if name in _KIND_FIELDS]
    said = " ".join([message, *(kind for kind in kinds if isinstance(kind, str))])
    return _SPENDING.search(_URL.sub("", said[: 2 * LONGEST_TEXT])) is not None


def named_wait(refusal: ReceivedRefusal, message: str, wall: float) -> Optional[float]:
    """Seconds to wait, by a field of the body, by the words, or by a header of a gateway."""
    told = refusal.headers.get("retry-after") or ""
    if _NUMBERS.fullmatch(told[:100]):
        told = max(told.split(","), key=float)
    seconds = _seconds_of(told, 1.0, wall)
    if seconds:
        return seconds
    for name, value in _all_fields(refusal.answer):
        unit = _WAIT_FIELDS.get(name.replace("_", "").replace("-", ""))
        seconds = None if unit is None else _seconds_of(value, unit, wall)
        if seconds:
            return seconds
    # Without long rows of blanks, in which the search would take seconds.
    text = re.sub(r"\s{2,}", " ", message[:LONGEST_TEXT])
    return _wait_in(text, wall) or _reset_of(refusal, wall)


def _seconds_of(value: Any, unit: float, wall: float) -> Optional[float]:
    """A number of *unit*, a duration such as "1m30s", an instant, or protobuf's seconds."""
    if isinstance(value, dict):
        value = value.get("seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = str(value)[:100].strip()
    number = read_number(text)
    return seconds_until(text, wall) if number is None else seconds_from(number * unit, wall)


def _wait_in(text: str, wall: float) -> Optional[float]:
    found = _WORDS.search(text) or _UNTIL.search(text)
    if found is not None:
        return duration_of(found.group(1))
    found = _BARE.search(text)
    if found is not None:
        return seconds_from(float(found.group(1)), wall)
    found = _INSTANT.search(text)
    found = found or _HTTP_DATE.search(text)
    return None if found is None else seconds_until(found.group(1), wall)


def _reset_of(refusal: ReceivedRefusal, wall: float) -> Optional[float]:
    """Seconds until the limit of a gateway is full again, by its headers, or those it quotes."""
    used_up = read_reset(refusal.headers, wall)
    if used_up:
        return used_up
    fields = dict(reversed(list(_all_fields(refusal.answer))))  # the outer ones count
    quoted = {name: fields[name] for name in (*_RESET_NAMES, *_LEFT_NAMES) if name in fields}
    for headers in (refusal.headers, quoted):
        if _has_some_left(headers):
            continue
        for name in _RESET_NAMES:
            seconds = _seconds_of(headers.get(name), 1.0, wall)
            if seconds:
                return seconds
    if _has_some_left(quoted):
        return None
    named = (
        _seconds_of(fields[name], 1.0, wall) for name in fields if _plain(name) in _RESET_FIELDS
    )
    return next(filter(None, named), None)


def _has_some_left(headers: Mapping[str, Any]) -> bool:
    left = next(filter(None, map(headers.get, _LEFT_NAMES)), None)
    return bool(read_number(str(left)))
