"""Mock responses for the library ``responses``: for unit tests of code that uses requests.

::

    @responses.activate
    def test_greeting():
        add_message(responses, "Hello!")
        assert greet() == "Hello!"

*rsps* is the module ``responses`` or a ``RequestsMock``; neither is imported here. This works for a
Throttler, too, whose calls use requests. Keep the mock active until they have ended: it is all that
stands between them and the network. A retry after a refusal does not wait; later calls do, for
``retry_after`` seconds. The official SDK uses httpx, which ``responses`` does not replace; use
:class:`claude_throttle.testing.ClaudeApi` for that.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Optional, Union

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.simulation.quotas import QuotaStatus
from claude_throttle.testing import replies
from claude_throttle.testing.arrivals import MESSAGES
from claude_throttle.testing.default_answer import CHARACTERS_PER_TOKEN, output_tokens
from claude_throttle.testing.faults import Ok, Reply
from claude_throttle.testing.http_reader import HttpRequest
from claude_throttle.testing.plans import ResponseContext, message_for
from claude_throttle.testing.received_call import ReceivedCall, read_call
from claude_throttle.testing.refusals import refusal

#: The API's URL, unless the caller or the environment has another one.
BASE_URL = "https://api.anthropic.com"

#: Status, headers, body.
Answer = tuple[int, dict[str, str], bytes]


def add_message(
    rsps: Any,
    text: Optional[str] = None,
    *,
    base_url: Optional[str] = None,
    usage: Optional[Mapping[str, Any]] = None,
    blocks: Iterable[Mapping[str, Any]] = (),
    headers: Optional[Mapping[str, str]] = None,
    stop_reason: Optional[str] = None,
) -> None:
    """Answer a POST to ``/v1/messages`` with *text*; None as the fake server without a script.

    The response follows from the request: its model, a usage by its length (*usage* replaces fields
    of it), an event stream if it asks for one, a refusal if it is invalid. *blocks* are content
    blocks after the text, *headers* additional headers (see :func:`limit_headers`). As usual with
    ``responses``, several answers are used in turn, and the last one repeatedly. *base_url*: None
    is ``ANTHROPIC_BASE_URL``, or the API's own URL.
    """
    given = Ok(text, None, tuple(blocks), stop_reason=stop_reason)
    more = dict(headers or {})

    def answer(prepared: Any) -> Answer:
        call = _read(prepared)
        if isinstance(call.problem, Reply):
            return _refused(call.problem, more)
        return _answered(call, given, usage or {}, more)

    rsps.add_callback("POST", _url(base_url), callback=answer, content_type=None)


def add_refusal(
    rsps: Any,
    status: Union[int, Reply],
    *,
    base_url: Optional[str] = None,
    retry_after: Optional[float] = None,
    message: Optional[str] = None,
    error_type: Optional[str] = None,
    error_code: Optional[str] = None,
    headers: Optional[Mapping[str, str]] = None,
) -> None:
    """Refuse a POST to ``/v1/messages``, in the API's own words.

    *status* is a number, or a refusal of :mod:`claude_throttle.testing` such as
    ``OWN_SPEND_LIMIT``. *retry_after*: seconds in that header; None leaves it out. Other arguments
    that are None have the documented value of the status.
    """
    reply = status
    if not isinstance(reply, Reply):
        reply = refusal(
            reply,
            retry_after=retry_after,
            message=message,
            error_type=error_type,
            error_code=error_code,
        )
    refused, more = reply, dict(headers or {})
    rsps.add_callback(
        "POST", _url(base_url), callback=lambda _: _refused(refused, more), content_type=None
    )


def limit_headers(*, reset_seconds: float = 0.0, **limits: tuple[float, float]) -> dict[str, str]:
    """``anthropic-ratelimit-…`` headers: ``limit_headers(requests=(50, 49), reset_seconds=1)``.

    *requests*, *input_tokens*, *output_tokens* and *tokens* are pairs: the limit per minute, and
    what remains of it, which is rounded to thousands of tokens. *reset_seconds*: seconds until
    it is full.
    """
    unknown = sorted(set(limits) - {"requests", "input_tokens", "output_tokens", "tokens"})
    if unknown:
        raise TypeError(f"the API has no headers for a limit {unknown[0]}")
    standings = [
        QuotaStatus(name.replace("_", "-"), limit, remaining, reset_seconds)
        for name, (limit, remaining) in limits.items()
    ]
    return replies.rate_limit_headers(standings, SYSTEM_CLOCK.wall())


def _url(base_url: Optional[str]) -> str:
    return (base_url or os.environ.get("ANTHROPIC_BASE_URL") or BASE_URL).rstrip("/") + MESSAGES


def _read(prepared: Any) -> ReceivedCall:
    body = prepared.body or b""
    headers = {str(name).lower(): _text(value) for name, value in prepared.headers.items()}
    raw = body.encode("utf-8") if isinstance(body, str) else bytes(body)
    return read_call(HttpRequest("POST", MESSAGES, headers, raw, True), CHARACTERS_PER_TOKEN, True)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _answered(
    call: ReceivedCall, given: Ok, usage: Mapping[str, Any], more: dict[str, str]
) -> Answer:
    """The successful response to *call*: an event stream if it asks for one, otherwise JSON."""
    message = message_for(given, ResponseContext(call, "", _id("msg"), {}, {}, 0.0, 0, False))
    tokens = min(call.max_tokens, output_tokens(message["content"]))
    message["usage"].update({"output_tokens": tokens, **usage})
    if call.streams:
        headers = _headers(more, "text/event-stream; charset=utf-8")
        return 200, headers, replies.event_stream(message)
    return 200, _headers(more), replies.to_json(message)


def _refused(reply: Reply, more: dict[str, str]) -> Answer:
    headers = _headers(more)
    for name, value in reply.headers.items():
        if value is not None:
            headers[name] = value
    return reply.status, headers, replies.reply_body(reply, headers["request-id"])


def _headers(more: dict[str, str], content_type: str = "application/json") -> dict[str, str]:
    return {"content-type": content_type, "request-id": _id("req"), **more}


def _id(prefix: str) -> str:
    return f"{prefix}_01{uuid.uuid4().hex[:22]}"
