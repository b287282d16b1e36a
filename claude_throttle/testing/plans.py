"""From what the server decided to answer, to bytes with the seconds between them.

Pure: a plan is carried out by :mod:`claude_throttle.testing.connection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any, NamedTuple, Optional

from claude_throttle.testing import faults, replies
from claude_throttle.testing.reading import ReceivedCall

#: Seconds between the charges for output that is being produced unseen.
CHARGE_STEP_SECONDS = 0.05
MOST_CHARGES = 200

KEEP, CLOSE, RESET = "keep", "close", "reset"


class Head(NamedTuple):
    """Status and headers that are written when they are sent."""

    status: int
    headers: Mapping[str, str]


class ResponsePart(NamedTuple):
    """Bytes, and how long to wait before them."""

    #: ``None``: until the stalled are released.
    delay_seconds: Optional[float]
    data: bytes
    #: Output tokens produced in that time.
    output_tokens: float = 0.0
    #: Goes before the bytes, with the limits as they stand then.
    head: Optional[Head] = None


class Plan(NamedTuple):
    """An answer, ready to be sent."""

    parts: tuple[ResponsePart, ...]
    #: HTTP status for the log; 0 if no whole head is sent by itself.
    status: int
    #: Whether a good answer is behind it; then it counts as in flight until it ends.
    admitted: bool = False
    output_tokens: int = 0
    #: What becomes of the connection: ``KEEP``, ``CLOSE`` or ``RESET``.
    ending: str = KEEP
    model: str = ""


class Scene(NamedTuple):
    """All that is known when an answer is written."""

    call: ReceivedCall
    request_id: str
    message_id: str
    #: For answers the API itself gives; those of the edge have only a date.
    headers: Mapping[str, str]
    edge_headers: Mapping[str, str]
    latency_seconds: float
    output_tokens: int
    #: Whether produced output tokens are charged to a quota.
    charged: bool
    #: Whether the headers tell the limits as they stand when a whole good answer is sent. A
    #: stream's headers go at once, and a spoilt answer's are cut, so theirs are never late.
    late_headers: bool = False

    def early(self) -> Scene:
        """The same, with the headers as they are now."""
        return self._replace(late_headers=False)


@singledispatch
def plan_for(scripted: object, _scene: Scene) -> Plan:
    """The plan for one decided answer."""
    raise TypeError(f"{scripted!r} is no answer this server knows; see claude_throttle.testing")


@plan_for.register(faults.Ok)
def _ok(scripted: faults.Ok, scene: Scene) -> Plan:
    if scripted.latency is not None:
        scene = scene._replace(latency_seconds=scripted.latency)
    message = message_for(scripted, scene)
    if not scene.call.streams:
        return whole_plan(message, scene)
    produced = message["usage"]["output_tokens"]
    parts = _streamed(message, scene, produced if scene.charged else 0)
    return Plan(parts, 200, True, produced, model=scene.call.model)


def whole_plan(message: Mapping[str, Any], scene: Scene) -> Plan:
    """A good answer in one piece."""
    produced = message["usage"]["output_tokens"]
    parts = _whole(message, scene, produced if scene.charged else 0)
    return Plan(parts, 200, True, produced, model=scene.call.model)


@plan_for.register(faults.Reply)
def _reply(scripted: faults.Reply, scene: Scene) -> Plan:
    body = replies.reply_body(scripted, scene.request_id)
    merged = {**scene.headers, **{name.lower(): text for name, text in scripted.headers.items()}}
    headers = {name: text for name, text in merged.items() if text is not None}
    ending = CLOSE if headers.get("connection", "").lower() == "close" else KEEP
    part = ResponsePart(scripted.latency or 0.0, _encode(scripted.status, headers, body))
    return Plan((part,), scripted.status, 200 <= scripted.status < 300, ending=ending)


@plan_for.register(faults.SpendCap)
def _spend_cap(_scripted: faults.SpendCap, scene: Scene) -> Plan:
    return _reply(replies.SPEND_CAP, scene)


@plan_for.register(faults.Redirect)
def _redirect(scripted: faults.Redirect, scene: Scene) -> Plan:
    return _reply(faults.Reply(scripted.status, {"location": scripted.location}, body=b""), scene)


@plan_for.register(faults.Garbage)
def _garbage(scripted: faults.Garbage, scene: Scene) -> Plan:
    headers = {**scene.edge_headers, "content-type": "text/html; charset=UTF-8"}
    data = _encode(scripted.status, headers, scripted.body)
    return Plan((ResponsePart(0.0, data),), scripted.status)


@plan_for.register(faults.Reset)
def _reset(scripted: faults.Reset, scene: Scene) -> Plan:
    if scripted.after_bytes <= 0:
        return Plan((), 0, ending=RESET)
    good = _ok(faults.Ok(), scene.early())
    parts, _rest = _cut(good.parts, scripted.after_bytes)
    return good._replace(parts=parts, status=0, ending=RESET)


@plan_for.register(faults.Stall)
def _stall(scripted: faults.Stall, scene: Scene) -> Plan:
    good = _ok(faults.Ok(), scene.early())
    before, rest = _cut(good.parts, scripted.after_bytes)
    return good._replace(parts=(*before, ResponsePart(None, b""), *rest), status=0)


@plan_for.register(faults.Truncated)
def _truncated(_scripted: faults.Truncated, scene: Scene) -> Plan:
    good = _ok(faults.Ok(), scene.early())
    everything = b"".join(part.data for part in good.parts)
    head = everything.index(b"\r\n\r\n") + 4
    parts, _rest = _cut(good.parts, (head + len(everything)) // 2)
    return good._replace(parts=parts, ending=CLOSE)


@plan_for.register(faults.Drip)
def _drip(scripted: faults.Drip, scene: Scene) -> Plan:
    good = _ok(faults.Ok(), scene.early()._replace(latency_seconds=0.0))
    everything = b"".join(part.data for part in good.parts)
    each = good.output_tokens / len(everything) if scene.charged else 0.0
    parts = tuple(
        ResponsePart(scripted.seconds_per_byte, everything[place : place + 1], each)
        for place in range(len(everything))
    )
    return good._replace(parts=parts)


@plan_for.register(faults.StreamError)
def _stream_error(scripted: faults.StreamError, scene: Scene) -> Plan:
    if not scene.call.streams:
        reply = faults.Reply(529, error_type=scripted.error_type, message=scripted.message)
        return _reply(reply, scene)
    message = message_for(faults.Ok(), scene)
    events = _until_delta(message, scripted.after_deltas)
    error = {"type": scripted.error_type, "message": scripted.message}
    events.append({"type": "error", "error": error, "request_id": scene.request_id})
    data = stream_head(scene) + b"".join(map(replies.sse, events)) + replies.chunk(b"")
    return Plan((ResponsePart(scene.latency_seconds, data),), 200)


def _until_delta(message: Mapping[str, Any], deltas: int) -> list[dict[str, Any]]:
    if deltas <= 0:
        return []
    events = [*replies.opening_events(message), *replies.block_events(message)]
    at = [place for place, event in enumerate(events) if event["type"] == "content_block_delta"]
    return events[: at[min(deltas, len(at)) - 1] + 1]


def message_for(scripted: faults.Ok, scene: Scene) -> dict[str, Any]:
    """The message of a good answer."""
    call = scene.call
    text = f"echo: {call.nonce}" if scripted.text is None else scripted.text
    blocks = [dict(block) for block in scripted.extra_content_blocks]
    if text or not blocks:  # the API sends no empty text before others
        blocks.insert(0, {"type": "text", "text": text})
    usage = replies.usage_body(call.input_tokens, scene.output_tokens)
    usage.update(scripted.usage or {})
    reason = _stop_reason(blocks, usage, call.max_tokens)
    return replies.message_body(scene.message_id, call.model, blocks, reason, usage)


def _stop_reason(blocks: Iterable[Mapping[str, Any]], usage: Any, max_tokens: int) -> str:
    if any(block.get("type") == "tool_use" for block in blocks):
        return "tool_use"
    return "max_tokens" if usage["output_tokens"] >= max_tokens else "end_turn"


def _whole(message: Mapping[str, Any], scene: Scene, charged: int) -> tuple[ResponsePart, ...]:
    body = replies.to_json(message)
    headers = {**scene.headers, "content-length": str(len(body))}
    steps = 1
    if charged:
        steps = math.ceil(scene.latency_seconds / CHARGE_STEP_SECONDS)
        steps = min(MOST_CHARGES, max(1, steps))
    wait, each = scene.latency_seconds / steps, charged / steps
    last = ResponsePart(wait, replies.encode_head(200, headers) + body, each)
    if scene.late_headers:
        last = ResponsePart(wait, body, each, Head(200, headers))
    return (ResponsePart(wait, b"", each),) * (steps - 1) + (last,)


def _streamed(message: Mapping[str, Any], scene: Scene, charged: int) -> tuple[ResponsePart, ...]:
    opening = stream_head(scene) + b"".join(map(replies.sse, replies.opening_events(message)))
    events = list(replies.block_events(message))
    wait, each = scene.latency_seconds / len(events), charged / len(events)
    closing = b"".join(map(replies.sse, replies.closing_events(message))) + replies.chunk(b"")
    body = tuple(ResponsePart(wait, replies.sse(event), each) for event in events)
    return (ResponsePart(0.0, opening), *body, ResponsePart(0.0, closing))


def stream_head(scene: Scene, chunked: bool = True) -> bytes:
    """The head of a streamed answer."""
    framing = {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
    headers = {**scene.headers, **framing}
    headers["content-type"] = "text/event-stream; charset=utf-8"
    return replies.encode_head(200, headers)


def _encode(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    return replies.encode_head(status, {**headers, "content-length": str(len(body))}) + body


def _cut(
    parts: Iterable[ResponsePart], after_bytes: int
) -> tuple[tuple[ResponsePart, ...], tuple[ResponsePart, ...]]:
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
