"""A Messages request, checked and serialised before it takes a place in the queue.

What the API would certainly refuse is refused here, in the caller's thread and with a message that
names the mistake; what is unknown passes, since the API gets new parameters every few months. The
body is serialised at once: a caller that changes its list of messages afterwards changes nothing,
and each retry sends the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextvars import Context
from functools import lru_cache
from typing import Any, Callable, NamedTuple, Optional

from claude_throttle.core.domain.models import FAST_SPEED
from claude_throttle.core.estimation.estimator import CACHE_MARK, estimate_input_tokens
from claude_throttle.errors import InvalidCall
from claude_throttle.transport.headers import header_flaw

#: Bytes. "Messages 32 MB" (errors page, 2026-11). A larger one is refused by the proxy in front of
#: the API, perhaps without an error body in the API's own format.
MAX_BODY_BYTES = 32 * 1024 * 1024

_REQUIRED = ("model", "max_tokens", "messages")

#: Parameters of the Messages API in November 2026. Others pass, too, unless they look like a
#: misspelt keyword of submit(), which would otherwise have no effect and no error.
_API_PARAMETERS = frozenset(
    {
        *_REQUIRED,
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "mcp_servers",
        "metadata",
        "output_config",
        "output_format",
        "service_tier",
        "speed",
        "stop_sequences",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)

#: Keywords of submit() that are not parameters of the API: they never reach the body.
OUR_KEYWORDS = ("block", "extra_headers", "priority", "raw", "tenant", "timeout")

#: Characters of a tenant's name. It is kept as long as a call waits, so it must not be a document.
LONGEST_TENANT = 256


def _make_encoder() -> Callable[[Any], str]:
    """A function that writes compact JSON, with non-ASCII text as itself: fewer bytes to send."""
    # Not checked for circles: a value that contains itself raises RecursionError anyway.
    encoder = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
    )
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    # encode() would make this anew for each request, which takes longer than a short request.
    in_pieces: Callable[[Any, int], Iterable[str]] = make(
        None, encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
    )
    return lambda value: "".join(in_pieces(value, 0))


_encode = _make_encoder()


class PreparedRequest(NamedTuple):
    """One call, checked and serialised: a snapshot of what submit() was given.

    Immutable, and owned by no thread. The account makes a ``Call`` of it.
    """

    body: bytes
    model: str
    max_tokens: int
    #: Input tokens, by the size of the request's content; at least 1.0.
    estimated_input: float = 1.0
    #: Header fields in place of the account's; a key or token among them is used for this call.
    extra_headers: Optional[Mapping[str, str]] = None
    #: The answer is wanted as a dict.
    raw: bool = False
    priority: int = 0
    tenant: Optional[str] = None
    #: Seconds for everything, from its admission on; None for no limit.
    timeout: Optional[float] = None
    #: Whether submit() waits for a place in a full queue instead of raising QueueFull.
    block: bool = False
    #: The caller's context variables, for the event listener; None if there is no listener.
    context: Optional[Context] = None
    #: A list to which the account appends the call before it queues it; None unless the answer is
    #: streamed. So the thread that will send the stream can end it even if Ctrl-C comes before
    #: submit() has returned anything.
    admitted_streams: Optional[list[Any]] = None
    #: It asks for the prompt cache.
    cache_marked: bool = False
    #: It asks for fast mode, whose limits are apart.
    is_fast: bool = False


def without_ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """The API's own parameters among submit()'s keywords."""
    return {name: value for name, value in options.items() if name not in OUR_KEYWORDS}


def prepare(
    params: Mapping[str, Any],
    context: Optional[Context] = None,
    admitted_streams: Optional[list[Any]] = None,
    raw: bool = False,
    priority: int = 0,
    tenant: Optional[str] = None,
    timeout: Optional[float] = None,
    block: bool = False,
    extra_headers: Optional[Mapping[str, str]] = None,
) -> PreparedRequest:
    """Check, serialise and estimate one call. Raises :class:`InvalidCall`."""
    require_options(priority, tenant, extra_headers)
    body = serialise(params, admitted_streams is not None)
    return PreparedRequest(
        body,
        params["model"],
        params["max_tokens"],
        estimate_input_tokens(params),
        None if extra_headers is None else dict(extra_headers),
        raw,
        priority,
        tenant,
        timeout,
        block,
        context,
        admitted_streams,
        CACHE_MARK in body,
        params.get("speed") == FAST_SPEED,
    )


def serialise(params: Mapping[str, Any], streams: bool = False) -> bytes:
    """Check *params* and write them as JSON. Raises :class:`InvalidCall`."""
    if not _API_PARAMETERS.issuperset(params):
        for name in params.keys() - _API_PARAMETERS:
            _require_no_slip(name)
    for name in _REQUIRED:
        if name not in params:
            raise InvalidCall(f"{name}= is missing{_hint(_closest(params, name))}")
    _require_values(params["model"], params["max_tokens"], params["messages"])
    return _body({**params, "stream": True} if streams else params)


def require_options(
    priority: Any, tenant: Any, extra_headers: Optional[Mapping[str, str]] = None
) -> None:
    """Check what comes with a request and is not part of it. Raises :class:`InvalidCall`."""
    if not isinstance(priority, int):
        raise InvalidCall(f"priority= must be a whole number, not {priority!r:.80}")
    if tenant is not None and not isinstance(tenant, str):
        raise InvalidCall(f"tenant= must be a string, not {type(tenant).__name__}")
    if tenant is not None and len(tenant) > LONGEST_TENANT:
        raise InvalidCall(f"tenant= has {len(tenant)} characters; {LONGEST_TENANT} are the most")
    flaw = None if extra_headers is None else header_flaw(extra_headers)
    if flaw is not None:
        raise InvalidCall(f"extra_headers {flaw}")


# Only what the API certainly refuses. Which values a parameter may have is the API's to say.
def _require_values(model: Any, max_tokens: Any, messages: Any) -> None:
    if not isinstance(model, str) or not model.strip():
        raise InvalidCall("model= must be the name of a model")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise InvalidCall(f"max_tokens= must be a whole number from 1, not {max_tokens!r:.80}")
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InvalidCall("messages= must be a list with at least one message")
    for message in messages:
        # isinstance() with an abstract class is slow, and nearly all messages are plain dicts.
        is_one = type(message) is dict or isinstance(message, Mapping)
        if not is_one or "role" not in message or "content" not in message:
            raise InvalidCall('every message must be a dict with "role" and "content"')


def _body(params: Mapping[str, Any]) -> bytes:
    try:
        body = _encode(params).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        # Not json's own words, which may quote the prompt; "from None" for the same reason.
        raise InvalidCall(_why_not_json(error)) from None
    if len(body) > MAX_BODY_BYTES:
        raise InvalidCall(
            f"the request is {len(body) / 2**20:.1f} MB as JSON; the API takes at most 32 MB"
        )
    return body


def _why_not_json(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "the request holds half a surrogate pair, which is no valid text"
    if isinstance(error, TypeError):
        # "Object of type X is not JSON serializable" names a type, no content.
        return f"the request cannot be written as JSON: {error}"
    if isinstance(error, RecursionError) or "Circular" in str(error):
        return "the request cannot be written as JSON: it contains itself"
    return "the request cannot be written as JSON: NaN and infinity have no place there"


def _require_no_slip(name: str) -> None:
    if name == "stream":
        raise InvalidCall("stream= is not for submit() or call(): use throttler.stream(…)")
    meant = _slip(name)
    if meant is not None:
        raise InvalidCall(f"unknown keyword {name}={_hint(meant)}")


@lru_cache(maxsize=256)
def _slip(name: str) -> Optional[str]:
    """The keyword of ours that *name* looks like a misspelling of."""
    import difflib  # only for a name we do not know

    close = difflib.get_close_matches(name, OUR_KEYWORDS, n=1, cutoff=0.75)
    return close[0] if close else None


def _closest(params: Mapping[str, Any], wanted: str) -> Optional[str]:
    import difflib  # only for a slip

    unknown = [name for name in params if name not in _API_PARAMETERS]
    close = difflib.get_close_matches(wanted, unknown, n=1, cutoff=0.6)
    return f"{wanted}= where {close[0]}= is given" if close else None


def _hint(meant: Optional[str]) -> str:
    if meant is None:
        return ""
    return f"; did you mean {meant if '=' in meant else meant + '='}?"
