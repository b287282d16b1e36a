"""Reads what a permit is settled with: an answer as another library gives it, or parts of one.

No library is imported for it: a response is known by its attributes, and what has none of them is
refused, since it would teach nothing and nobody would notice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.cost import MOST_TOKENS, Usage
from claude_throttle.core.domain.iterations import read_iterated
from claude_throttle.errors import ThrottleError
from claude_throttle.transport.usage_reader import UsageReader
from claude_throttle.transport.verdicts import STATUS_BY_TYPE, UNKNOWN_STATUS

#: Packages whose exceptions say that a request was not answered.
_SENDERS = frozenset({"anthropic", "requests", "urllib3", "httpx", "httpx2", "httpcore"})


class ForeignOutcome(NamedTuple):
    """What is known of the answer to a request; all of it may be unknown."""

    status: Optional[int] = None
    headers: Optional[Mapping[str, str]] = None
    body: bytes = b""
    usage: Optional[Usage] = None
    #: The header fields of the request, if the response has it: they tell whose key it carried.
    sent: Optional[Mapping[str, str]] = None
    #: The exception without a response.
    error: Optional[BaseException] = None


def outcome_of(answer: Any) -> ForeignOutcome:
    """The outcome that *answer* tells, none if it is ``...``. Raises TypeError for all else."""
    if answer is ...:
        return ForeignOutcome()
    response = None if isinstance(answer, Mapping) else _response_in(answer)
    if response is not None:
        told, usage = _of_response(response), _usage_of_stream(answer)
        return told if usage is None else told._replace(usage=usage)
    outcome = _of_refusal(answer) or _of_message(answer)
    if outcome is None:
        raise TypeError(
            "settle() takes the answer: a Message or its dict, a response of requests, of httpx or "
            f"of the SDK's with_raw_response, or their exception, not {_kind(answer)}; or what you "
            'know: settle(usage={"input_tokens": 10, "output_tokens": 20}, headers=…, status=200)'
        )
    return outcome


def checked(
    usage: Any, headers: Any, status: Any, body: Any
) -> tuple[Optional[Usage], Optional[Mapping[str, str]], Optional[int], bytes]:
    """The parts of an answer in the form in which they are read. Raises TypeError."""
    if usage is not None and usage != {} and not _is_usage(usage):
        raise TypeError(
            "usage= takes what the API counted, such as message.usage or "
            f'{{"input_tokens": 10, "output_tokens": 20}}, not {_kind(usage)}'
        )
    if status is not None and (isinstance(status, bool) or not isinstance(status, int)):
        raise TypeError(f"status= takes a number such as response.status_code, not {_kind(status)}")
    if not isinstance(body, (bytes, bytearray, str)):
        raise TypeError(f"body= takes bytes such as response.content, not {_kind(body)}")
    read = None if usage is None or usage == {} else read_iterated(usage)
    data = body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body)
    return read, None if headers is None else _checked_headers(headers), status, data


def _checked_headers(headers: Any) -> Mapping[str, str]:
    pairs = headers.items() if hasattr(headers, "items") else None
    if pairs is None or not _are_texts(pairs):
        raise TypeError(
            "headers= takes a mapping of names to texts such as response.headers, not "
            f"{_kind(headers)}"
        )
    return headers if isinstance(headers, Mapping) else dict(headers.items())


def _are_texts(pairs: Iterable[tuple[Any, Any]]) -> bool:
    return all(isinstance(text, str) for pair in pairs for text in pair)


def _of_refusal(answer: Any) -> Optional[ForeignOutcome]:
    """That of an exception without a response, or of the JSON of a refusal; None if it is none."""
    if isinstance(answer, Exception):
        package = type(answer).__module__.partition(".")[0]
        is_known = package in _SENDERS or isinstance(answer, OSError)
        is_known &= not isinstance(answer, ThrottleError)  # of ours: it says nothing of the API
        return ForeignOutcome(error=answer) if is_known else None
    error = answer.get("error") if isinstance(answer, Mapping) else None
    if not isinstance(error, Mapping) or answer.get("type") != "error":
        return None
    with contextlib.suppress(TypeError, ValueError):
        status = STATUS_BY_TYPE.get(str(error.get("type")), UNKNOWN_STATUS)
        return ForeignOutcome(status, {}, json.dumps(answer).encode())
    return None


def _of_message(answer: Any) -> Optional[ForeignOutcome]:
    """That of a message or of a usage, each an object or a dict; None if it is neither."""
    usage = _field(answer, "usage")
    if _is_usage(usage):
        return ForeignOutcome(200, usage=read_iterated(usage))
    if _field(answer, "type") == "message":
        return ForeignOutcome(200)
    return ForeignOutcome(usage=read_iterated(answer)) if _is_usage(answer) else None


def _response_in(answer: Any) -> Any:
    """The response that *answer* is, or holds, as a raw response, a stream or an error does."""
    for name in ("http_response", "response"):
        with contextlib.suppress(Exception):  # a property that has nothing yet
            inner = getattr(answer, name)
            if _is_response(inner):
                return inner
    return answer if _is_response(answer) else None


def _is_response(found: Any) -> bool:
    status = getattr(found, "status_code", None)
    is_status = isinstance(status, int) and not isinstance(status, bool)
    headers = getattr(found, "headers", None)
    return is_status and isinstance(headers, Mapping) and _are_texts(headers.items())


def _of_response(response: Any) -> ForeignOutcome:
    status, headers, usage = response.status_code, response.headers, None
    body = _body_of(response)
    if body and status < 400:
        reader = UsageReader(headers)
        reader.feed(body)
        reader.end()
        usage = reader.usage if reader.whole else None
    with contextlib.suppress(Exception):  # httpx raises where no request is known
        return ForeignOutcome(status, headers, body, usage, response.request.headers)
    return ForeignOutcome(status, headers, body, usage)


def _body_of(response: Any) -> bytes:
    """The body that was read; of a refusal, which is short, also one that was not."""
    with contextlib.suppress(Exception):  # half a refusal is a refusal
        if response.status_code >= 400 and hasattr(response, "read"):
            response.read()
        # requests and httpx keep there what was read. To ask for ``content`` reads a stream.
        is_unread = response.status_code < 400 and hasattr(response, "raw")
        body = response.__dict__.get("_content") if is_unread else response.content
        return body if isinstance(body, bytes) else b""
    return b""


def _usage_of_stream(stream: Any) -> Optional[Usage]:
    """The usage of the message that the SDK's helper has read to its end."""
    with contextlib.suppress(Exception):  # it has none before the first event
        message = stream.current_message_snapshot
        if message.stop_reason is not None and _is_usage(message.usage):
            return read_iterated(message.usage)
    return None


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _is_usage(found: Any) -> bool:
    counts = (_field(found, "input_tokens"), _field(found, "output_tokens"))
    return any(0 <= count <= MOST_TOKENS for count in counts if _is_number(count))


def _is_number(found: object) -> bool:
    return isinstance(found, Real)


def _kind(found: Any) -> str:
    return "None" if found is None else f"{type(found).__name__:.80}"
