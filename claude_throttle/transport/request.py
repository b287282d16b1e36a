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
from typing import Any, Callable, NamedTuple, Optional

from claude_throttle.core.domain.models import FAST_SPEED
from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.core.domain.priority import priority_of
from claude_throttle.core.estimation.estimator import (
    BYTES_PER_TOKEN,
    CACHE_MARK,
    estimate_input_tokens,
)
from claude_throttle.errors import InvalidCall
from claude_throttle.transport.headers import checked_headers
from claude_throttle.transport.own_keywords import OUR_KEYWORDS

#: Bytes. "Messages 32 MB" (errors page, 2026-11). A larger one is refused by the proxy in front of
#: the API, perhaps without an error body in the API's own format.
MAX_BODY_BYTES = 32 * 1024 * 1024

_REQUIRED = ("model", "max_tokens", "messages")

#: Parameters of the Messages API in November 2026. Others pass, too, unless they look like a
#: misspelt keyword of submit(), which would otherwise have no effect and no error.
_API_PARAMETERS = frozenset(
    {
        *_REQUIRED,
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
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
        "thread",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)

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
    #: Header fields in place of the account's; a key or token among them is used for this call, and
    #: a field with None is left out.
    extra_headers: Optional[Mapping[str, Optional[str]]] = None
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
    #: What follows the URL's path, from its question mark on.
    query: str = ""


def prepare(
    params: Mapping[str, Any],
    context: Optional[Context] = None,
    admitted_streams: Optional[list[Any]] = None,
    raw: bool = False,
    priority: int = 0,
    tenant: Optional[str] = None,
    timeout: Optional[float] = None,
    block: bool = False,
    extra_headers: Optional[Mapping[str, Any]] = None,
    extra_body: Optional[Mapping[str, Any]] = None,
    extra_query: Optional[Mapping[str, Any]] = None,
) -> PreparedRequest:
    """Check, serialise and estimate one call. Raises :class:`InvalidCall`."""
    priority, tenant, extra_headers = require_options(priority, tenant, extra_headers)
    if not _API_PARAMETERS.issuperset(params):
        from claude_throttle.transport.keywords import sent_as_headers  # few calls need it

        params, extra_headers = sent_as_headers(_known(params), extra_headers)
    body, params = _write(params, admitted_streams is not None, extra_body)
    try:
        estimate = estimate_input_tokens(params)
    except RuntimeError:  # nested too deeply for it, or another thread is changing it
        estimate = len(body) / BYTES_PER_TOKEN
    return PreparedRequest(
        body,
        params["model"],
        params["max_tokens"],
        estimate,
        extra_headers,
        raw,
        priority,
        tenant,
        timeout,
        block,
        context,
        admitted_streams,
        CACHE_MARK in body,
        params.get("speed") == FAST_SPEED,
        "" if extra_query is None else _query(extra_query),
    )


def prepare_unsent(options: Mapping[str, Any]) -> PreparedRequest:
    """A request of submit()'s keywords, of which only the size and the cost are asked for."""
    params = {name: value for name, value in options.items() if name not in OUR_KEYWORDS}
    return prepare(params, extra_body=options.get("extra_body"))


def serialise(
    params: Mapping[str, Any],
    streams: bool = False,
    extra_body: Optional[Mapping[str, Any]] = None,
) -> bytes:
    """Check *params* and write them as JSON. Raises :class:`InvalidCall`."""
    if not _API_PARAMETERS.issuperset(params):
        params = _known(params)
    return _write(params, streams, extra_body)[0]


def require_options(
    priority: Any, tenant: Any, extra_headers: Any = None
) -> tuple[int, Optional[str], Optional[dict[str, Optional[str]]]]:
    """Check what comes with a request and is not part of it, and return it as it is used.

    Raises :class:`InvalidCall`.
    """
    if not isinstance(priority, int):
        priority = priority_of(priority)
    if tenant is not None:
        tenant = _tenant(tenant)
    return priority, tenant, None if extra_headers is None else checked_headers(extra_headers)


def _tenant(tenant: Any) -> Optional[str]:
    if is_not_given(tenant):
        return None
    if not isinstance(tenant, str):
        raise InvalidCall(f"tenant= must be a string, not {type(tenant).__name__}")
    if len(tenant) > LONGEST_TENANT:
        raise InvalidCall(f"tenant= has {len(tenant)} characters; {LONGEST_TENANT} are the most")
    return tenant


def _query(extra_query: Any) -> str:
    from claude_throttle.transport.keywords import query_string  # few calls have one

    return query_string(extra_query)


def _known(params: Mapping[str, Any]) -> Mapping[str, Any]:
    from claude_throttle.transport.keywords import known_parameters  # few calls need it

    return known_parameters(params, params.keys() - _API_PARAMETERS)


def _write(
    params: Mapping[str, Any], streams: bool, extra_body: Optional[Mapping[str, Any]]
) -> tuple[bytes, Mapping[str, Any]]:
    """The body, and what it was made of: *params*, or a plain copy of what JSON cannot hold."""
    if extra_body is not None:
        params = merged_body(params, extra_body)
    if streams:
        params = {**params, "stream": True}
    if _is_usual(params):
        try:
            body = _encode(params).encode("utf-8")
        except (TypeError, ValueError, RuntimeError):
            pass  # json's own words may quote the prompt
        else:
            return _within_limit(body), params
    from claude_throttle.transport.plain_values import plain_copy  # typed blocks, and mistakes

    params = plain_copy(params)
    _require_values(params)
    try:
        return _within_limit(_encode(params).encode("utf-8")), params
    except RecursionError:
        raise InvalidCall("the request is nested too deeply to be written as JSON") from None


def merged_body(params: Mapping[str, Any], extra_body: Any) -> Mapping[str, Any]:
    """Both, as the SDK merges them: a field of *extra_body* replaces one, and omit removes it."""
    if extra_body is None or is_not_given(extra_body):
        return params
    if not isinstance(extra_body, Mapping):
        raise InvalidCall(f"extra_body= must be a dict, not {type(extra_body).__name__}")
    if extra_body.get("stream"):
        raise InvalidCall("stream in extra_body= is not for a call: use throttler.stream(…)")
    merged = {**params, **extra_body}
    merged.pop("stream", None)
    return {name: value for name, value in merged.items() if not is_not_given(value)}


# The fast look. What it does not know may still be right, and is looked at again as a plain copy.
def _is_usual(params: Mapping[str, Any]) -> bool:
    model, max_tokens, messages = map(params.get, _REQUIRED)
    if type(model) is not str or type(max_tokens) is not int or type(messages) is not list:
        return False
    for message in messages:
        if type(message) is not dict or "role" not in message or "content" not in message:
            return False
        if "type" in message or message["content"] is None:  # a whole response, perhaps
            return False
    return bool(messages) and max_tokens > 0 and not model.isspace() and model != ""


# Only what the API certainly refuses. Which values a parameter may have is the API's to say.
def _require_values(params: dict[str, Any]) -> None:
    for name in _REQUIRED:
        if name not in params:
            raise InvalidCall(f"{name}= is missing{_misspelt(params, name) or _examples(params)}")
    model, max_tokens, messages = map(params.get, _REQUIRED)
    if not isinstance(model, str) or not model.strip():
        raise InvalidCall(
            f'model= must be the name of a model, as "claude-haiku-4-5", not {_shown(model)}'
        )
    if isinstance(max_tokens, float) and max_tokens.is_integer():
        params["max_tokens"] = max_tokens = int(max_tokens)  # a column of pandas with a gap in it
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise InvalidCall(f"max_tokens= must be a whole number from 1, not {_shown(max_tokens)}")
    if not isinstance(messages, list) or not messages:
        given = "" if messages == [] else f", not {_KINDS.get(type(messages), 'that')}"
        raise InvalidCall(
            f"messages= must be a list with at least one message{given}: messages=[{_EXAMPLE}]"
        )
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            kind = _KINDS.get(type(message), "no dict")
            kind = "has not both" if isinstance(message, dict) else f"is {kind}"
            raise InvalidCall(
                f'every message must be a dict with "role" and "content"; messages[{number}] '
                f"{kind}: write {_EXAMPLE}"
            )
        if message["content"] is None:  # an empty field of a table, perhaps
            raise InvalidCall(f"messages[{number}].content is None: leave the message out")


_EXAMPLE = '{"role": "user", "content": "…"}'

_KINDS = {str: "a string", dict: "a dict", list: "a list", type(None): "None"}


def _shown(value: Any) -> str:
    """A value for an error; no long one, which may be a prompt in the wrong place."""
    shown = repr(value)
    return shown if len(shown) <= 20 else type(value).__name__


def _within_limit(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise InvalidCall(
            f"the request is {len(body) / 2**20:.1f} MB as JSON; the API takes at most 32 MB"
        )
    return body


def _misspelt(params: Mapping[str, Any], wanted: str) -> str:
    import difflib  # only for a slip

    unknown = [name for name in params if name not in _API_PARAMETERS]
    close = difflib.get_close_matches(wanted, unknown, n=1, cutoff=0.6)
    return f": write {wanted}= in place of {close[0]}=" if close else ""


def _examples(params: Mapping[str, Any]) -> str:
    """What to write for each required parameter that is missing."""
    examples = {
        "model": '"claude-haiku-4-5"',
        "max_tokens": "1_000",
        "messages": f"[{_EXAMPLE}]",
    }
    missing = (f"{name}={text}" for name, text in examples.items() if name not in params)
    return f": write {', '.join(missing)}"
