"""Headers, bodies and event streams in the format of the Messages API. Pure functions.

Texts and headers are copied from captured responses where there are any: the throttler reads a ramp
limit out of the words of a refusal, so an invented text would test nothing. What was not captured
is marked where it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Union

from claude_throttle.simulation.acceleration import RampRefusal
from claude_throttle.simulation.quotas import AnyRefusal, QuotaStatus
from claude_throttle.testing.faults import Reply

#: An event to be streamed: with its type as name; without a type, or a text: as data alone; bytes:
#: as they are.
Frame = Union[Mapping[str, Any], str, bytes]

#: Fields of a message that a stream brings with ``message_delta``, and those within its delta.
_IN_THE_DELTA = ("container", "stop_details")
_AT_THE_END = (*_IN_THE_DELTA, "context_management")

#: Fields of a compaction that come with its delta.
_COMPACTED = ("content", "encrypted_content")

#: What headers call each limit, by its name in :class:`SimulatedLimits`.
LIMIT_NAMES = {"itpm": "input-tokens", "otpm": "output-tokens", "rpm": "requests"}

DOCS = "https://docs.claude.com/en/api/rate-limits"

#: The documented ``error.type`` of each status; any other one is an ``api_error``.
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: The text of the documentation. It has no ``retry-after``, and a client that retries it without
#: one would do so for the rest of the month.
SPEND_CAP = Reply(
    429,
    message="You have reached your API usage limits: your organization has crossed its monthly"
    " API usage threshold, set based on your organization's API tier. You will regain access on"
    " 2026-09-01 at 00:00 UTC.",
    error_code="enforced_spend_limit_reached",
)

#: A 429 that is not about a quota: fewer requests at once help, waiting does not.
TOO_MANY_CONNECTIONS = Reply(
    429,
    {"x-should-retry": "true"},
    message="Number of concurrent connections has exceeded your rate limit. Please try again later"
    " or contact sales at https://www.anthropic.com/contact-sales to discuss your options for a"
    " rate limit increase.",
)

#: Cloudflare's answer to a body above the limit: HTML, sent before the API sees the request.
TOO_LARGE_PAGE = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n"
    b"<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


def too_many_connections(retry_after: int | None, should_retry: bool) -> Reply:
    """The 429 for too many requests in flight; its headers have not been captured."""
    headers = dict(TOO_MANY_CONNECTIONS.headers) if should_retry else {}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    return replace(TOO_MANY_CONNECTIONS, headers=headers)


def refusal_reply(
    refusal: AnyRefusal, organization_id: str, model: str, is_fast: bool = False
) -> Reply:
    """The 429 of a quota that is used up, or of a limit on the growth of usage.

    The client gets the same facts in two places: ``retry-after`` in the headers, the quota and its
    amount in the text, and a ramp limit in ``error.details.error_code``, too.
    """
    account = f"(org: {organization_id}, model: {model})"
    headers = {"retry-after": str(refusal.retry_after), "x-should-retry": "true"}
    if isinstance(refusal, RampRefusal):
        message = _ramp_message(refusal, account)
        return Reply(429, headers, message=message, error_code="ramp_limit_exceeded")
    whose, fast = ("your", "fast mode ") if is_fast else ("your organization's", "")
    message = (
        f"This request would exceed {whose} rate limit of"
        f" {refusal.per_minute:,.0f} {fast}{refusal.what} per minute"
        f" {account}. For details, refer to: {DOCS}."
        f" You can see the response headers for current usage. Please reduce the prompt length or"
        f" the maximum tokens requested, or try again later. You may also contact sales at"
        f" https://www.anthropic.com/contact-sales to discuss your options for a rate limit"
        f" increase."
    )
    return Reply(429, headers, message=message)


def _ramp_message(refusal: RampRefusal, account: str) -> str:
    return (
        f"This request would exceed your organization's maximum usage increase rate for"
        f" {refusal.what} per minute {account}. Your current limit is {refusal.per_minute:,.0f}"
        f" {refusal.what} per minute, and will increase to {refusal.next_per_minute:,.0f} at the"
        f" next minute boundary. Please scale up your {refusal.what} usage more gradually to stay"
        f" within the acceleration limit."
    )


def error_body(
    error_type: str, message: str, request_id: str, error_code: str | None = None
) -> bytes:
    """An error in the API's JSON envelope, by which a client tells it from a proxy's answer."""
    error: dict[str, Any] = {"type": error_type, "message": message}
    if error_code is not None:
        error["details"] = {"error_code": error_code}
    return to_json({"type": "error", "error": error, "request_id": request_id})


def reply_body(reply: Reply, request_id: str) -> bytes:
    """The body of a scripted reply: its own, or an error's JSON."""
    if reply.body is not None:
        return reply.body
    error_type = reply.error_type or ERROR_TYPES.get(reply.status, "api_error")
    return error_body(error_type, reply.message, request_id, reply.error_code)


def message_body(
    message_id: str, model: str, blocks: list[dict[str, Any]], stop_reason: str, usage: Any
) -> dict[str, Any]:
    """A successful response."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def name_model(message: dict[str, Any]) -> dict[str, Any]:
    """*message*, with the model that its last ``fallback`` block names, as the API does it."""
    for block in message["content"]:
        if block.get("type") == "fallback":
            message["model"] = block["to"]["model"]
    return message


def usage_body(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The ``usage`` of a response without prompt caching; both cache counts are present, and 0."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def rate_limit_headers(
    standings: Iterable[QuotaStatus], wall: float, family: str = "anthropic-ratelimit"
) -> dict[str, str]:
    """Three headers for each limit. *wall* is the time now, in seconds since 1970.

    As at the API, remaining tokens are rounded to thousands and the reset is a whole second,
    rounded up: a client that takes them for exact sends too early.
    """
    headers = {}
    for name, per_minute, remaining, seconds_until_full in standings:
        prefix = f"{family}-{name}"
        whole = int(remaining + 1e-6) if name == "requests" else round(remaining / 1000) * 1000
        headers[f"{prefix}-limit"] = str(int(per_minute))
        headers[f"{prefix}-remaining"] = str(whole)
        full_at = math.ceil(wall + seconds_until_full) if seconds_until_full > 0 else int(wall)
        headers[f"{prefix}-reset"] = _rfc3339(full_at)
    return headers


def spelled(headers: Mapping[str, str], names: str) -> dict[str, str]:
    """Limit headers under the names that a relay or gateway gives them; see :class:`FakeClaude`."""
    if names == "anthropic":
        return dict(headers)
    if names == "llm_provider":
        return {f"llm_provider-{name}": value for name, value in headers.items()}
    if names == "none":
        return {}
    found = {}
    for name, value in headers.items():
        kind, _, item = name[len("anthropic-ratelimit-") :].rpartition("-")
        # A duration, as they have it. The bucket's own reset does not fit in a fixed text.
        found[f"x-ratelimit-{item}-{kind}"] = "1s" if item == "reset" else value
    return found


def no_fast_headers(fast: Mapping[str, float]) -> dict[str, str]:
    """The headers of limits of fast mode that are 0."""
    return {
        f"anthropic-fast-{kind}-{field}": "0"
        for name, kind in LIMIT_NAMES.items()
        if fast.get(name) == 0
        for field in ("limit", "remaining")
    }


def http_date(wall: float) -> str:
    """The ``date`` header for an instant in seconds since 1970."""
    return _http_date(int(wall))


def encode_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers, with the empty line."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8, as the API sends it; a lone surrogate becomes a question mark.

    Python's str can hold half of a surrogate pair, for example cut out of an emoji; UTF-8 cannot.
    """
    return _ENCODER.encode(value).encode("utf-8", "replace")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(event: Mapping[str, Any]) -> bytes:
    """One server-sent event, as a chunk."""
    return chunk(sse_frame(event))


def event_stream(message: Mapping[str, Any]) -> bytes:
    """A complete stream, without chunks: the body for a mock that does not speak HTTP itself."""
    kinds = (opening_events, block_events, closing_events)
    return b"".join(sse_frame(event) for events in kinds for event in events(message))


def sse_frame(event: Frame, line_end: bytes = b"\n") -> bytes:
    """One server-sent event in bytes; without a type it has no ``event:`` line."""
    if isinstance(event, bytes):
        return event
    name = event.get("type") if isinstance(event, Mapping) else None
    data = event.encode() if isinstance(event, str) else to_json(event)
    lines = [] if name is None else [b"event: " + str(name).encode()]
    lines += [b"data: " + line for line in data.split(b"\n")]
    return line_end.join([*lines, b"", b""])


def opening_events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The event before the first block: ``message_start``, with the input tokens."""
    # The API reports one output token at the start, and the total in message_delta.
    usage = {**message["usage"], "output_tokens": 1}
    usage.pop("iterations", None)  # they are told at the end
    empty = {name: value for name, value in message.items() if name not in _AT_THE_END}
    empty.update(content=[], stop_reason=None, stop_sequence=None, usage=usage)
    for hop in (block for block in message["content"] if block.get("type") == "fallback"):
        empty["model"] = hop["from"]["model"]
        break
    yield {"type": "message_start", "message": empty}


def block_events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of all blocks, with a ping after the first start, where the API sends one, too."""
    for index, block in enumerate(message["content"]):
        empty, deltas = _split_block(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}


def closing_events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events after the last block."""
    reason = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    told = {name: message[name] for name in _AT_THE_END if name in message}
    reason.update((name, told.pop(name)) for name in _IN_THE_DELTA if name in told)
    usage = message["usage"]
    usage = {name: usage[name] for name in ("output_tokens", "iterations") if name in usage}
    yield {"type": "message_delta", "delta": reason, "usage": usage, **told}
    yield {"type": "message_stop"}


def _split_block(block: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """A block as it starts, and the deltas that complete it.

    Each type has deltas of its own. A block of another type is sent whole at its start.
    """
    if block["type"] == "text":
        deltas = [{"type": "text_delta", "text": text} for text in _pieces(block["text"])]
        cited = [{"type": "citations_delta", "citation": c} for c in block.get("citations") or ()]
        return {"type": "text", "text": ""}, [*deltas, *cited]
    if block["type"] in ("tool_use", "server_tool_use", "mcp_tool_use"):
        parts = _pieces(to_json(block["input"]).decode())
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        return {**block, "input": {}}, deltas
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": t} for t in _pieces(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block.get("signature", "")}
        return {**block, "thinking": "", "signature": ""}, [*deltas, signed]
    if block["type"] == "compaction":  # in one piece, or null for one that failed
        fields = {name: block[name] for name in _COMPACTED if name in block}
        return {**block, **dict.fromkeys(fields)}, [{"type": "compaction_delta", **fields}]
    return block, []


def _pieces(text: str, count: int = 5) -> list[str]:
    """*text* in about *count* parts, so that every stream has several deltas to put together."""
    size = max(1, math.ceil(len(text) / count))
    return [text[start : start + size] for start in range(0, len(text), size)]


@lru_cache(maxsize=4096)
def _rfc3339(second: int) -> str:
    """An instant as the reset headers write it.

    Cached: the responses of one second mostly name the same few instants.
    """
    # The last date that can be formatted, for buckets that take a thousand years to fill.
    last = 253402300799
    return datetime.fromtimestamp(min(second, last), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=16)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=1024)
def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Unknown"


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
