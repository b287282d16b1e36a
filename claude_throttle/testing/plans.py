"""Plans of responses: bytes, and the seconds between them. Pure functions.

A scripted answer (:mod:`faults`, :mod:`streams`) and the request's context go in; a
:class:`ResponsePlan` comes out, which :mod:`claude_throttle.testing.connection` plays. Without time
and sockets each fault can be tested by comparing bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.models import FAST_SPEED
from claude_throttle.testing import faults, replies
from claude_throttle.testing.default_answer import default_content
from claude_throttle.testing.received_call import ReceivedCall

#: Seconds between two charges for the output of a response that is sent in one piece. The API
#: counts output tokens while they are produced, so one charge at the end would test something else.
CHARGE_STEP_SECONDS = 0.05
#: Charges for one response at most: a latency of an hour must not make thousands of timers.
MOST_CHARGES = 200

#: What becomes of the connection after the response.
KEEP, CLOSE, RESET = "keep", "close", "reset"


class Head(NamedTuple):
    """Status and headers that are encoded when they are sent, with the limits of that moment."""

    status: int
    headers: Mapping[str, str]


class ResponsePart(NamedTuple):
    """One piece of a response: the wait before it, and its bytes."""

    #: ``None``: until stalled responses are released.
    delay_seconds: Optional[float]
    data: bytes
    #: Output tokens that are produced in that time.
    output_tokens: float = 0.0
    #: Sent before the bytes, with the limits of that moment.
    head: Optional[Head] = None


class ResponsePlan(NamedTuple):
    """A response, ready to be sent. Faults are made from a good plan with ``_replace``."""

    parts: tuple[ResponsePart, ...]
    #: HTTP status for the log; 0 for a reset or a stall.
    status: int
    #: Whether it is a successful response, which counts as in flight until it ends.
    admitted: bool = False
    output_tokens: int = 0
    #: ``KEEP``, ``CLOSE`` or ``RESET`` the connection afterwards.
    ending: str = KEEP
    model: str = ""


class ResponseContext(NamedTuple):
    """The request, and everything that its response is made of."""

    call: ReceivedCall
    request_id: str
    message_id: str
    #: Headers of the API's own responses; a proxy's have only ``edge_headers``.
    headers: Mapping[str, str]
    edge_headers: Mapping[str, str]
    latency_seconds: float
    #: Of a successful response, if it were not cut at ``max_tokens``.
    output_tokens: int
    #: Whether output tokens are charged to a quota.
    charged: bool
    #: Whether the rate-limit headers are computed when a complete response is sent. A stream's
    #: headers are sent at once, and a cut response needs its bytes beforehand.
    late_headers: bool = False

    def early(self) -> ResponseContext:
        """A copy whose rate-limit headers are those of now, and not of the moment of the answer.

        Faults that cut a response after some bytes need all its bytes beforehand.
        """
        return self._replace(late_headers=False)


@singledispatch
def plan_for(scripted: object, _context: ResponseContext) -> ResponsePlan:
    """The plan for one scripted answer, chosen by its class; raises TypeError for any other object.

    Dispatch is by class so that :mod:`streams` can add its own answer without this module knowing
    it.
    """
    raise TypeError(f"{scripted!r} is not a scripted answer; see claude_throttle.testing.faults")


@plan_for.register(faults.Ok)
def _ok(scripted: faults.Ok, context: ResponseContext) -> ResponsePlan:
    if scripted.latency is not None:
        context = context._replace(latency_seconds=scripted.latency)
    message = message_for(scripted, context)
    if not context.call.streams:
        return whole_plan(message, context)
    produced = message["usage"]["output_tokens"]
    parts = _streamed(message, context, produced if context.charged else 0)
    return ResponsePlan(parts, 200, True, produced, model=context.call.limited_as)


def whole_plan(message: Mapping[str, Any], context: ResponseContext) -> ResponsePlan:
    """A successful response in one piece."""
    produced = message["usage"]["output_tokens"]
    parts = _whole(message, context, produced if context.charged else 0)
    return ResponsePlan(parts, 200, True, produced, model=context.call.limited_as)


@plan_for.register(faults.Reply)
def _reply(scripted: faults.Reply, context: ResponseContext) -> ResponsePlan:
    body = replies.reply_body(scripted, context.request_id)
    merged = {**context.headers, **{name.lower(): text for name, text in scripted.headers.items()}}
    headers = {name: text for name, text in merged.items() if text is not None}
    ending = CLOSE if headers.get("connection", "").lower() == "close" else KEEP
    part = ResponsePart(scripted.latency or 0.0, _encode(scripted.status, headers, body))
    return ResponsePlan((part,), scripted.status, 200 <= scripted.status < 300, ending=ending)


@plan_for.register(faults.SpendCap)
def _spend_cap(_scripted: faults.SpendCap, context: ResponseContext) -> ResponsePlan:
    return _reply(replies.SPEND_CAP, context)


@plan_for.register(faults.Redirect)
def _redirect(scripted: faults.Redirect, context: ResponseContext) -> ResponsePlan:
    return _reply(faults.Reply(scripted.status, {"location": scripted.location}, body=b""), context)


@plan_for.register(faults.Garbage)
def _garbage(scripted: faults.Garbage, context: ResponseContext) -> ResponsePlan:
    """A response as a proxy sends it: without ``request-id`` and rate-limit headers."""
    headers = {**context.edge_headers, "content-type": "text/html; charset=UTF-8"}
    headers.update((name.lower(), text) for name, text in scripted.headers.items())
    data = _encode(scripted.status, headers, scripted.body)
    return ResponsePlan((ResponsePart(0.0, data),), scripted.status)


@plan_for.register(faults.Reset)
def _reset(scripted: faults.Reset, context: ResponseContext) -> ResponsePlan:
    if scripted.after_bytes <= 0:
        return ResponsePlan((), 0, ending=RESET)
    good = _ok(faults.Ok(), context.early())
    parts, _rest = _cut(good.parts, scripted.after_bytes)
    return good._replace(parts=parts, status=0, ending=RESET)


@plan_for.register(faults.Stall)
def _stall(scripted: faults.Stall, context: ResponseContext) -> ResponsePlan:
    """A good response with a part in it that has no delay, which means: wait for release()."""
    good = _ok(faults.Ok(), context.early())
    before, rest = _cut(good.parts, scripted.after_bytes)
    return good._replace(parts=(*before, ResponsePart(None, b""), *rest), status=0)


@plan_for.register(faults.Truncated)
def _truncated(_scripted: faults.Truncated, context: ResponseContext) -> ResponsePlan:
    """A good response that is cut in the middle of its body, never within its headers."""
    good = _ok(faults.Ok(), context.early())
    everything = b"".join(part.data for part in good.parts)
    head = everything.index(b"\r\n\r\n") + 4
    parts, _rest = _cut(good.parts, (head + len(everything)) // 2)
    return good._replace(parts=parts, ending=CLOSE)


@plan_for.register(faults.Drip)
def _drip(scripted: faults.Drip, context: ResponseContext) -> ResponsePlan:
    good = _ok(faults.Ok(), context.early()._replace(latency_seconds=0.0))
    everything = b"".join(part.data for part in good.parts)
    each = good.output_tokens / len(everything) if context.charged else 0.0
    parts = tuple(
        ResponsePart(scripted.seconds_per_byte, everything[index : index + 1], each)
        for index in range(len(everything))
    )
    return good._replace(parts=parts)


@plan_for.register(faults.StreamError)
def _stream_error(scripted: faults.StreamError, context: ResponseContext) -> ResponsePlan:
    if not context.call.streams:
        reply = faults.Reply(529, error_type=scripted.error_type, message=scripted.message)
        return _reply(reply, context)
    message = message_for(faults.Ok(), context)
    events = _until_delta(message, scripted.after_deltas)
    error = {"type": scripted.error_type, "message": scripted.message}
    event = {"type": "error", "error": error, "request_id": context.request_id}
    frames = [*events, event if scripted.frame is None else scripted.frame]
    body = b"".join(replies.chunk(replies.sse_frame(frame)) for frame in frames)
    data = stream_head(context) + body + replies.chunk(b"")
    return ResponsePlan((ResponsePart(context.latency_seconds, data),), 200)


def _until_delta(message: Mapping[str, Any], deltas: Optional[int]) -> list[dict[str, Any]]:
    """The events up to and including the given number of deltas; none for 0, all for None."""
    events = [*replies.opening_events(message), *replies.block_events(message)]
    if deltas is None:
        return [*events, *replies.closing_events(message)]
    if deltas <= 0:
        return []
    at = [index for index, event in enumerate(events) if event["type"] == "content_block_delta"]
    return events[: at[min(deltas, len(at)) - 1] + 1]


def message_for(scripted: faults.Ok, context: ResponseContext) -> dict[str, Any]:
    """The message of a successful response, as a dictionary."""
    call = context.call
    blocks = [dict(block) for block in scripted.extra_content_blocks]
    if scripted.text is None:
        blocks = [*default_content(call.body, context.message_id), *blocks]
    elif scripted.text or not blocks:  # the API sends no empty text block before others
        blocks.insert(0, {"type": "text", "text": scripted.text})
    usage = replies.usage_body(call.input_tokens, min(context.output_tokens, call.max_tokens))
    if call.is_fast:
        usage["speed"] = FAST_SPEED
    usage.update(scripted.usage or {})
    reason = scripted.stop_reason or _stop_reason(scripted, context, blocks)
    message = replies.message_body(context.message_id, call.model, blocks, reason, usage)
    if reason == "stop_sequence":
        message["stop_sequence"] = next(iter(call.body.get("stop_sequences") or ()), None)
    return replies.name_model(message)


def _stop_reason(
    scripted: faults.Ok, context: ResponseContext, blocks: Iterable[Mapping[str, Any]]
) -> str:
    if any(block.get("type") == "tool_use" for block in blocks):
        return "tool_use"
    most, told = context.call.max_tokens, (scripted.usage or {}).get("output_tokens")
    # A scripted text is whole, unless its own usage says that it is not.
    wanted = context.output_tokens if scripted.text is None else 0
    is_cut = wanted > most if told is None else told >= most
    return "max_tokens" if is_cut else "end_turn"


def _whole(
    message: Mapping[str, Any], context: ResponseContext, charged: int
) -> tuple[ResponsePart, ...]:
    """The parts of a response in one piece: silent steps that charge output, then all bytes."""
    body = replies.to_json(message)
    headers = {**context.headers, "content-length": str(len(body))}
    steps = 1
    if charged:
        steps = math.ceil(context.latency_seconds / CHARGE_STEP_SECONDS)
        steps = min(MOST_CHARGES, max(1, steps))
    wait, each = context.latency_seconds / steps, charged / steps
    last = ResponsePart(wait, replies.encode_head(200, headers) + body, each)
    if context.late_headers:
        last = ResponsePart(wait, body, each, Head(200, headers))
    return (ResponsePart(wait, b"", each),) * (steps - 1) + (last,)


def _streamed(
    message: Mapping[str, Any], context: ResponseContext, charged: int
) -> tuple[ResponsePart, ...]:
    """The parts of a stream: opening at once, then events at even intervals over the latency."""
    opening = stream_head(context) + b"".join(map(replies.sse, replies.opening_events(message)))
    events = list(replies.block_events(message))
    wait, each = context.latency_seconds / len(events), charged / len(events)
    closing = b"".join(map(replies.sse, replies.closing_events(message))) + replies.chunk(b"")
    body = tuple(ResponsePart(wait, replies.sse(event), each) for event in events)
    return (ResponsePart(0.0, opening), *body, ResponsePart(0.0, closing))


def stream_head(context: ResponseContext, chunked: bool = True) -> bytes:
    """Status and headers of a streamed response."""
    framing = {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
    headers = {**context.headers, **framing}
    headers["content-type"] = "text/event-stream; charset=utf-8"
    return replies.encode_head(200, headers)


def _encode(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    return replies.encode_head(status, {**headers, "content-length": str(len(body))}) + body


def _cut(
    parts: Iterable[ResponsePart], after_bytes: int
) -> tuple[tuple[ResponsePart, ...], tuple[ResponsePart, ...]]:
    """Split *parts* after so many bytes; what was cut off is sent without a delay of its own."""
    before: list[ResponsePart] = []
    rest: list[ResponsePart] = []
    left = after_bytes
    for part in parts:
        size = len(part.data)
        if rest or left <= 0:
            rest.append(part)
        elif size <= left:
            before.append(part)
            left -= size
        else:
            before.append(part._replace(data=part.data[:left]))
            rest.append(ResponsePart(0.0, part.data[left:]))
            left = 0
    return tuple(before), tuple(rest)
