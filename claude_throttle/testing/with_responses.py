"""Messages answers for the ``responses`` library: unit tests of code that calls through requests.

::

    @responses.activate
    def test_greeting():
        add_message(responses, "Hello!")
        assert greet() == "Hello!"

*rsps* is the module ``responses`` or a ``RequestsMock``; neither is imported here. A Throttler can
be tested so, too: its calls go through the adapter that ``responses`` replaces. Let the mock be
active until they have ended, since it stands between them and the network. It does not wait between
a refusal and the next attempt; the calls after that do, as long as ``retry_after`` says. What uses
httpx, as the official SDK does, it does not see: that is for
:class:`claude_throttle.testing.ClaudeApi`.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Optional, Union

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.simulation.quotas import QuotaStatus
from claude_throttle.testing import replies
from claude_throttle.testing.arrivals import MESSAGES
from claude_throttle.testing.faults import Reply
from claude_throttle.testing.reading import ReceivedCall, read_call
from claude_throttle.testing.refusals import refusal
from claude_throttle.testing.wire import HttpRequest

#: Where the API is, if neither the caller nor the environment says otherwise.
BASE_URL = "https://api.anthropic.com"

#: For the usage.
CHARACTERS_PER_TOKEN = 4.0

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
) -> None:
    """Answer a POST to ``/v1/messages`` with *text*; None gives back the last user text.

    The answer is made of the request: its model, a usage by its length (*usage* is put over it), an
    event stream if it asks for one, and the refusal the API would give if it is wrong. *blocks* are
    content blocks after the text, *headers* those besides (see :func:`limit_headers`). As ever with
    ``responses``, several answers are given in turn, and the last one again and again. *base_url*:
    None is where ``ANTHROPIC_BASE_URL`` leads, or the API itself.
    """
    content = [dict(block) for block in blocks]
    more = dict(headers or {})

    def answer(prepared: Any) -> Answer:
        call = _read(prepared)
        if isinstance(call.problem, Reply):
            return _refused(call.problem, more)
        told = call.nonce if text is None else text
        whole = [{"type": "text", "text": told}, *content] if told or not content else content
        return _answered(call, whole, usage or {}, more)

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
    """Refuse a POST to ``/v1/messages``, as the API words it.

    *status* is a number, or one of the account problems of :mod:`claude_throttle.testing`, such as
    ``OWN_SPEND_LIMIT``. *retry_after*: seconds told in the header; None leaves it out. The others
    are as documented for the status where they are None.
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

    Each of *requests*, *input_tokens*, *output_tokens* and *tokens* is the limit per minute and
    what remains of it, which is told in thousands of tokens. *reset_seconds*: until it is full.
    """
    unknown = sorted(set(limits) - {"requests", "input_tokens", "output_tokens", "tokens"})
    if unknown:
        raise TypeError(f"the API tells of no limit {unknown[0]}")
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
    call: ReceivedCall,
    content: list[dict[str, Any]],
    usage: Mapping[str, Any],
    more: dict[str, str],
) -> Answer:
    characters = sum(len(str(block.get("text", block.get("input", "")))) for block in content)
    tokens = min(call.max_tokens, max(1, math.ceil(characters / CHARACTERS_PER_TOKEN)))
    told = {**replies.usage_body(call.input_tokens, tokens), **usage}
    uses_tool = any(block.get("type") == "tool_use" for block in content)
    reason = "tool_use" if uses_tool else "end_turn"
    message = replies.message_body(_id("msg"), call.model, content, reason, told)
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
