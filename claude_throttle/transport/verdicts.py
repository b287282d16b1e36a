"""The verdict table: what a refusal means, and whether an answer is a whole message.

Classified by ``x-should-retry``, status, ``error_code`` and ``retry-after``, in this order; by the
wording last, and only without any of these ("its wording can change", says the SDK).

Pure functions of a response, without a clock and without I/O. ``retry`` asks them for our own
requests, ``foreign_verdicts`` for those of other clients. Two traps: a spend limit comes as a 429
of type ``rate_limit_error``, like a rate limit, but is over only next month; and a firewall, proxy
or gateway answers with the API's statuses, which says nothing about the account.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.cost import Usage, usage_of
from claude_throttle.core.domain.feedback import (
    ACCOUNT,
    CONCURRENCY,
    FAULT,
    NOT_FOUND,
    OVERLOAD,
    RAMP,
    RATE,
    AccountRefusal,
    Feedback,
    StatedLimit,
)
from claude_throttle.errors import BrokenAnswer
from claude_throttle.transport.account_problems import account_problem
from claude_throttle.transport.error_text import readable
from claude_throttle.transport.limit_headers import (
    read_date,
    read_growth,
    read_limits,
    read_stated,
    refused_kind,
)
from claude_throttle.transport.limit_values import FIRST_INSTANT, read_number
from claude_throttle.transport.received_refusal import ReceivedRefusal

#: The status of each error type, for errors within a stream or a batch (errors page, 2026-11).
STATUS_BY_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

#: The status for types that are not in the table: they may "grow over time" (errors page, 2026-11).
UNKNOWN_STATUS = 500

#: Error codes of refusals that end only when a bill is paid or the month is over (rate-limit page,
#: 2026-09; SDK 2.10): no retry helps.
SPEND_CODES = frozenset(
    {
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "organization_on_hold",
        "credits_required",
    }
)

#: Error codes of the limit on how fast usage may grow (since SDK 2.6.0 of 2026-11-05).
RAMP_CODES = frozenset({"ramp_limit_exceeded"})

KNOWN_CODES = SPEND_CODES | RAMP_CODES

#: A key that a gateway quotes in its refusal ("Received API Key = sk-…").
_KEY = re.compile(r"\bsk-[\w-]+")

#: Characters of the server's own words that are passed on in errors and to other processes.
LONGEST_MESSAGE = 300

#: Bytes of a gateway's body in which the API's words are looked for, and a part of them.
LONGEST_QUOTE = 10_000
_API_WORDS = "would exceed"

#: The reason of a 403. It may be about one model only, so it suspends one lane, not the account.
NOT_PERMITTED = "not permitted"


class Rule(NamedTuple):
    """One line of the verdict table: which refusals it fits, and what they mean.

    Among refusals of its statuses, a line with codes, texts or beginnings fits if any one of these
    does; a line without them fits all.
    """

    #: What it is, in one or two words, for events and errors.
    reason: str
    #: HTTP statuses; empty for any.
    statuses: tuple[int, ...]
    #: The cause that the pacer is told; empty if the refusal is about this call only.
    cause: str
    #: Whether another attempt may succeed, unless ``x-should-retry`` says otherwise.
    retry: bool
    #: Values of ``error.details.error_code``.
    codes: frozenset[str] = frozenset()
    #: Parts of the message, where it has no code that we know. A last resort: wording can change.
    texts: tuple[str, ...] = ()
    #: Beginnings of the message, on the same condition. For refusals that suspend the account:
    #: further on, a message may quote what a caller wrote, who could suspend it for all then.
    beginnings: tuple[str, ...] = ()


#: What no wait helps: "… would exceed your rate limit of 0 fast mode input tokens per minute".
NO_CAPACITY = "rate limit of 0 "

#: Any 429 that says nothing else, whoever sent it.
RATE_LIMIT = Rule("rate limit", (429,), RATE, True)

#: The first line that fits counts (errors page and rate-limit page, 2026-09 to 2026-11; refusals
#: seen in 2025 and 2026; 52x come from the proxy in front of the API when it cannot reach it).
RULES = (
    Rule("spend limit", (), ACCOUNT, False, SPEND_CODES),
    Rule(
        "spend limit",
        (400, 429),
        ACCOUNT,
        False,
        beginnings=(
            "You have reached your API usage limits",
            "You have reached your specified",
            "Your credit balance is too low",
            "This request would exceed your account's monthly spend limit",
        ),
    ),
    Rule(
        "ramp limit",
        (429,),
        RAMP,
        True,
        RAMP_CODES,
        texts=("maximum usage increase rate", "acceleration limit"),
    ),
    Rule("concurrency limit", (429,), CONCURRENCY, True, texts=("concurrent connections",)),
    Rule("not in the plan", (429,), "", False, texts=("Extra usage is required",)),
    RATE_LIMIT,
    Rule("overloaded", (529,), OVERLOAD, True),
    Rule("key refused", (401,), ACCOUNT, False),
    Rule("billing", (402,), ACCOUNT, False),
    Rule(NOT_PERMITTED, (403,), ACCOUNT, False),
    Rule("request timeout", (408,), FAULT, True),
    Rule("conflict", (409,), "", True),
    Rule("server error", (500,), FAULT, True),
    Rule("bad gateway", (502,), FAULT, True),
    Rule("unavailable", (503,), FAULT, True),
    Rule("gateway timeout", (504,), FAULT, True),
    Rule("proxy error", (520, 521, 522, 523, 524), FAULT, True),
)

#: Statuses of requests that were refused before any work was done: what was booked for them is
#: given back at once. After any other status the server may have counted the tokens.
_TAKES_NOTHING = frozenset({429, 529})

#: Words about money, with nothing that the account could be suspended for: this call is not tried
#: again.
SPENT = Rule("spend limit", (429,), "", False)

#: Seconds. A wait up to this long means a rate limit, whatever the words around it say of plans and
#: billing; a spend limit names days, or no time.
PASSING_SECONDS = 3600.0


class Verdict(NamedTuple):
    """What a refusal means: whether to send again, when, and what to tell the pacer."""

    retry: bool
    #: What it is, in one or two words, for events and errors.
    reason: str
    #: Seconds the server asks to wait, or None.
    retry_after: Optional[float] = None
    #: Whether everything in this lane would be refused now, too.
    pauses_lane: bool = False
    #: Whether the server may have counted the request's tokens, so that they stay booked.
    keeps_tokens: bool = True
    #: What the pacer is told.
    feedback: Feedback = Feedback()


def classify(status: int, headers: Mapping[str, str], body: bytes, wall: float) -> Verdict:
    """The verdict on a refusal; *wall* is now in seconds since 1970, for dates in headers."""
    answer = read_json(body)
    message, code = error_message(answer), error_code(answer)
    rule = _rule_for(status, code, message)
    wish, after = headers.get("x-should-retry"), retry_after(headers, wall)
    if not after or not rule.retry or after > PASSING_SECONDS:
        refusal = ReceivedRefusal(status, headers, body, answer, message, code)
        rule, message, after = _look_closer(refusal, rule, after, wall)
    cause, reason = rule.cause, rule.reason
    if status == 404 and not cause and is_not_found(answer) and "model" in message.lower():
        cause = NOT_FOUND
    shown, kind = read_limits(headers), refused_kind(message) if message else None
    stated = _stated_limit(answer, message, body) if cause == RATE and b" of " in body else None
    retry = (rule.retry and wish != "false") or (wish == "true" and code not in SPEND_CODES)
    if status == 429 and NO_CAPACITY in message:
        cause, reason, retry = "", "no capacity", False
    if (cause == ACCOUNT and retry) or (cause == RATE and not (retry or after or kind or stated)):
        # The server asks for another try, so the account cannot be refused for good; or it asks
        # for none and names neither a time nor a quota, so that a slower pace would be a guess.
        cause = ""
    account = _account_refusal(reason, message) if cause == ACCOUNT else None
    growth = read_growth(message) if cause == RAMP else None
    limits, others = shown.rate_limits, shown.others
    feedback = Feedback(
        cause, after, limits, kind, growth, status, not retry, account, stated, others
    )
    if others is not None:
        from claude_throttle.transport.other_limits import with_window_pause  # rare

        feedback = with_window_pause(feedback, others, wall, wish == "false")
        after, retry = feedback.retry_after, not feedback.final
    keeps_tokens = status not in _TAKES_NOTHING and rule is not RATE_LIMIT
    return Verdict(retry, reason, after, feedback.pauses_lane, keeps_tokens, feedback)


def _look_closer(
    refusal: ReceivedRefusal, rule: Rule, after: Optional[float], wall: float
) -> tuple[Rule, str, Optional[float]]:
    """Rule, message and wait of a refusal that may come from something in front of the API."""
    from claude_throttle.transport import refusal_words as words  # only for odd refusals

    message = refusal.message or words.message_of(refusal.answer, refusal.body)
    problem = _account_rule(refusal, rule)
    if problem is not None:
        rule = problem
    elif message != refusal.message and rule.cause != ACCOUNT:
        rule = _rule_for(refusal.status, refusal.code, message)
    if refusal.status < 500:
        if not (rule.retry or problem):
            rule = _rule_of_its_type(refusal, rule, message)
        if not is_the_apis(refusal):
            rule = _rule_of_a_middleman(refusal, rule)
    if rule.retry and not after:
        after = words.named_wait(refusal, message, wall) or after
    passes = 0 < (after or 0) <= PASSING_SECONDS or refusal.headers.get("x-should-retry") == "true"
    if rule is RATE_LIMIT and not passes and words.tells_of_spending(refusal, message):
        rule = SPENT
    return rule, message, after


def _account_rule(refusal: ReceivedRefusal, rule: Rule) -> Optional[Rule]:
    """The rule of an account that is out of use, by its type, code or words; None for any other."""
    if rule.cause == ACCOUNT and rule.reason != NOT_PERMITTED:
        return None
    problem = account_problem(refusal.status, api_error(refusal.answer), refusal.code)
    return Rule(problem, (), ACCOUNT, False) if problem else None


def _rule_of_its_type(refusal: ReceivedRefusal, rule: Rule, message: str) -> Rule:
    """The rule of a refusal that passes, to which something on the way gave another status."""
    kind = _error_of(refusal.answer).get("type")
    if kind not in ("rate_limit_error", "overloaded_error"):
        return rule
    return _rule_for(STATUS_BY_TYPE[str(kind)], refusal.code, message)


def _rule_of_a_middleman(refusal: ReceivedRefusal, rule: Rule) -> Rule:
    """The rule of a refusal that is not the API's: it says nothing about the account."""
    from claude_throttle.transport.refusal_words import is_throttling

    if not rule.retry and refusal.status != 429 and is_throttling(refusal):
        return RATE_LIMIT
    return rule._replace(cause="") if rule.cause in (ACCOUNT, FAULT) else rule


def is_the_apis(refusal: ReceivedRefusal) -> bool:
    """Whether it is recognisably the API's own, and not that of something in front of it.

    By the API's JSON envelope, or by its headers and a body that is no page.
    """
    kind = _error_of(refusal.answer).get("type")
    if isinstance(kind, str):
        # Without its outer "type" if it was unwrapped on the way; OpenAI's format has other types.
        unwrapped = STATUS_BY_TYPE.get(kind) == refusal.status
        if refusal.answer.get("type", "error" if unwrapped else "") == "error":
            return True
    if refusal.body.lstrip()[:1] == b"<":
        return False
    names = [name.lower() for name in refusal.headers]
    request_id = refusal.headers.get("request-id") or ""
    return request_id.startswith("req_") or any(name.startswith("anthropic-") for name in names)


def _rule_for(status: int, code: Optional[str], message: str) -> Rule:
    has_known_code = code in KNOWN_CODES
    for rule in RULES:
        if rule.statuses and status not in rule.statuses:
            continue
        if code in rule.codes or not (rule.codes or rule.texts or rule.beginnings):
            return rule
        if has_known_code:
            continue
        if message.startswith(rule.beginnings) or any(text in message for text in rule.texts):
            return rule
    return Rule(f"status {status}", (), "", False)


def _stated_limit(answer: Any, message: str, body: bytes) -> Optional[StatedLimit]:
    """The limit that the API's words name, in its own envelope or quoted by a gateway."""
    if api_error(answer):
        return read_stated(message)
    text = body[:LONGEST_QUOTE].decode("utf-8", "replace")
    return read_stated(text) if _API_WORDS in text else None


def _account_refusal(reason: str, message: str) -> AccountRefusal:
    return AccountRefusal(reason, shown_words(message)[:LONGEST_MESSAGE], read_date(message))


def shown_words(message: str) -> str:
    """A stranger's words as they are shown: short, without keys and control characters."""
    words = readable(_KEY.sub("sk-…", message[: 2 * LONGEST_MESSAGE]))
    return words if len(words) <= LONGEST_MESSAGE else words[:LONGEST_MESSAGE] + "…"


def retry_after(headers: Mapping[str, str], wall: float) -> Optional[float]:
    """Seconds the server asks us to wait, from any of its spellings; garbage is None."""
    milliseconds = read_number(headers.get("retry-after-ms"))
    text = headers.get("retry-after")
    seconds = read_number(text) if milliseconds is None else milliseconds / 1000.0
    if seconds is not None and seconds < FIRST_INSTANT:
        return seconds
    if seconds is None and not text:
        return None
    from claude_throttle.transport.times import instant_of, since_1970  # rare

    at = instant_of(text or "") if seconds is None else since_1970(seconds)
    return None if at is None else max(0.0, at - wall)


# What json.loads() comes to, without a look at the encoding and the space around: that takes as
# long as to read 500 bytes.
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def read_json(body: bytes) -> Any:
    """The body as JSON; None if it is not JSON."""
    try:
        text = body.decode()
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (StopIteration, ValueError, RecursionError):
        pass  # with space around it, perhaps, or in another encoding
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def api_error(body: Any) -> dict[str, Any]:
    """The ``error`` in the API's own envelope; empty for a body in any other form."""
    return _error_of(body) if isinstance(body, dict) and body.get("type") == "error" else {}


def _error_of(body: Any) -> dict[str, Any]:
    """The ``error`` of a body in any form; empty without one."""
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def error_message(body: Any) -> str:
    """``error.message`` of an error body; "" without one."""
    for name in ("error", "message"):
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, str) else ""


def is_not_found(body: Any) -> bool:
    """Whether the body of a 404 is the API's own, and not that of something in front of it."""
    return bool(api_error(body).get("type") == "not_found_error")


def error_code(body: Any) -> Optional[str]:
    """``error.details.error_code`` of an error body; None without one."""
    for name in ("error", "details", "error_code"):
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, str) else None


def read_message(body: bytes, request_id: Optional[str]) -> dict[str, Any]:
    """A whole message; raises :class:`BrokenAnswer` for anything else."""
    answer = read_json(body)
    if not isinstance(answer, dict):
        what = f"{len(body)} bytes that are not a JSON object"
        raise broken(what + quoted_error(answer, body), request_id)
    if answer.get("type") != "message" or not isinstance(answer.get("content"), list):
        raise broken("a JSON object that is not a message" + quoted_error(answer, body), request_id)
    return answer


def quoted_error(answer: Any, body: bytes) -> str:
    """What to add to "answered 200 with …": the words of an error in it; "" if it tells of none."""
    from claude_throttle.transport.refusal_words import error_told_in  # rare

    words = shown_words(error_told_in(answer, body)).strip()
    return f" but tells of an error, {words!r}" if words else ""


def broken(what: str, request_id: Optional[str]) -> BrokenAnswer:
    """The error for a 200 that is not a whole message."""
    return BrokenAnswer(
        f"the server answered 200 with {what} (request-id {request_id}); it is not sent again, "
        "as it may be billed; something between here and the API may have changed it",
        status=200,
        request_id=request_id,
    )


def read_usage(message: Mapping[str, Any]) -> Optional[Usage]:
    """The usage of a message; None if it has none, or none that we can read.

    Zeros for what is written in another way would give back tokens that were taken.
    """
    usage = message.get("usage")
    if not isinstance(usage, dict):
        return None
    if usage.get("iterations") or usage.get("speed"):
        from claude_throttle.core.domain.iterations import read_iterated  # few answers have them

        return read_iterated(usage)
    found = usage_of(
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        usage.get("cache_creation_input_tokens"),
        usage.get("cache_read_input_tokens"),
    )
    if not any(found) and 0 not in (usage.get("input_tokens"), usage.get("output_tokens")):
        return None
    return found
