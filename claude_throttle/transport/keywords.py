"""Keywords that people give to a call and that are no part of the request's body.

What the SDK's methods send as a header field or in the URL is sent so here. What belongs to a
client, to another method or to another library is refused with the line to write instead: in the
body it would have no effect, or cost a request that the API refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import lru_cache
from typing import Any, Optional
from urllib.parse import urlencode

from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.errors import InvalidCall
from claude_throttle.transport.headers import checked_headers
from claude_throttle.transport.own_keywords import OUR_KEYWORDS

BETA_HEADER = "anthropic-beta"

#: Parameters of the SDK's methods that they send as header fields.
_HEADER_PARAMETERS = {
    "user_profile_id": "anthropic-user-profile-id",
    "workspace_id": "anthropic-workspace-id",
}

_FORMAT = (
    'write output_config={"format": {"type": "json_schema", "schema": Model.model_json_schema()}}, '
    "and read the answer with Model.model_validate_json(text)"
)
_MESSAGES = 'write messages=[{"role": "user", "content": "…"}]'
_HEADERS = "write extra_headers={…}"
_OF_THE_THROTTLER = "write Throttler({}=…)"
_OF_A_BATCH = "it belongs to throttler.batches.submit(…)"

#: The settings, and the throttler's other keywords; a test compares.
_SETTINGS = """
    admin_key ageing allow_insecure api_version base_url burst ca_bundle clock count_tokens
    default_headers headroom interactive_share itpm lanes max_concurrency max_connections
    max_queue max_retries on_event on_store_failure otpm platform proxies requests_per_minute
    retry_read_timeouts retry_resets retry_share rpd rpm settings shared store_lease
    store_timeout testing tier tpd tpm
"""

#: Keywords of the SDK's clients, those for clouds too, that no throttler has.
_OF_CLIENTS = """
    access_token aws_access_key aws_profile aws_region aws_secret_key aws_session_token
    azure_ad_token azure_ad_token_provider config credentials open_telemetry profile project_id
    region resource set_default_headers set_default_query webhook_key
"""

#: What is refused by name: keywords of clients and other methods, the SDK's, ours and those of
#: libraries around them, with what to write.
_ELSEWHERE = {
    **dict.fromkeys(_SETTINGS.split(), _OF_THE_THROTTLER),
    **dict.fromkeys(_OF_CLIENTS.split(), "it belongs to a client of the SDK"),
    "api_key": 'write Throttler(api_key=…), or for one call extra_headers={"x-api-key": …}',
    "auth_token": "write Throttler(auth_token=…), or for one call "
    'extra_headers={"Authorization": …}',
    "api_base": "write Throttler(base_url=…)",
    "num_retries": "write Throttler(max_retries=…)",
    "default_query": "write extra_query={…}",
    "headers": _HEADERS,
    "http_headers": _HEADERS,
    "beta": 'write betas=["…"]',
    "http_client": "a throttler has its own connections; for a client of yours write "
    "anthropic.Anthropic(http_client=…, middleware=[throttler.middleware()])",
    "transport": "a throttler has its own connections",
    "client": "a throttler is the client",
    "middleware": "write anthropic.Anthropic(middleware=[throttler.middleware()])",
    "idempotency_key": "the Messages API has none",
    "options": "write its keywords one by one",
    "body": "write its fields as keywords",
    "json": "write its fields as keywords",
    "data": "write its fields as keywords",
    "path": "write Throttler(base_url=…)",
    "url": "write Throttler(base_url=…)",
    "files": 'write a content block {"type": "document", "source": {…}}',
    "stream_options": "the usage is always told",
    "cast_to": "write raw=True for a dict",
    "stream_cls": "write throttler.stream(…)",
    "run_tools_eagerly": "it belongs to the SDK's tool_runner()",
    "max_iterations": "it belongs to the SDK's tool_runner()",
    "compaction_control": "it belongs to the SDK's tool_runner()",
    "response_model": _FORMAT,
    "response_format": _FORMAT,
    "validation_context": _FORMAT,
    **dict.fromkeys(("prompt", "content", "role"), _MESSAGES),
    "max_tokens_to_sample": "write max_tokens=…",
    "max_completion_tokens": "write max_tokens=…",
    "max_output_tokens": "write max_tokens=…",
    "stop": 'write stop_sequences=["…"]',
    "functions": "write tools=[…]",
    "function_call": "write tool_choice={…}",
    "callbacks": "write Throttler(on_event=…)",
    "look_ahead": "it belongs to throttler.map(…)",
    "return_exceptions": "it belongs to throttler.map(…)",
    "everywhere": "it belongs to throttler.pause(…) and resume(…)",
    "input_tokens": "it belongs to throttler.permit(…)",
    "custom_id": _OF_A_BATCH,
    "params": _OF_A_BATCH,
    "requests": "it belongs to throttler.map(…) and throttler.batches.submit(…)",
    "poll_seconds": _OF_A_BATCH,
    "on_create": _OF_A_BATCH,
}


def known_parameters(params: Mapping[str, Any], unknown: Any) -> dict[str, Any]:
    """*params* as the body's; refuses those of the *unknown* names that are none of the API's.

    An unknown name passes, since the API gets new parameters every few months, unless it is known
    from elsewhere or looks like a misspelt keyword of ours. Raises :class:`InvalidCall`.
    """
    given = {name: value for name, value in params.items() if not is_not_given(value)}
    if given.get("stream"):
        raise InvalidCall("stream= is not for submit() or call(): use throttler.stream(…)")
    given.pop("stream", None)
    for name in given.keys() & unknown:
        if not isinstance(name, str):
            raise InvalidCall(f"the name of a parameter is a {type(name).__name__}, and no string")
        _require_no_slip(name)
    return given


def sent_as_headers(
    params: Mapping[str, Any], extra_headers: Optional[dict[str, Optional[str]]]
) -> tuple[Mapping[str, Any], Optional[dict[str, Optional[str]]]]:
    """*params* without those that the SDK sends as header fields, and the fields with them."""
    named = [name for name in _HEADER_PARAMETERS if name in params]
    if not named:
        return params, extra_headers
    rest = {name: value for name, value in params.items() if name not in named}
    extra = extra_headers or {}
    told = {name.lower() for name in extra}
    fields = checked_headers({_HEADER_PARAMETERS[name]: params[name] for name in named}) or {}
    return rest, {**{name: fields[name] for name in fields if name not in told}, **extra}


def with_betas(betas: Any, extra_headers: Any, default_headers: Mapping[str, str]) -> Any:
    """*extra_headers* with a field of all betas: those of both mappings, then *betas*."""
    if betas is None or is_not_given(betas):
        return extra_headers
    names = _beta_names(betas)
    extra = None if is_not_given(extra_headers) else extra_headers
    if not names or not isinstance(extra, (Mapping, type(None))):
        return extra_headers  # nothing to add, or to be refused where headers are checked
    fields = [*default_headers.items(), *(extra or {}).items()]
    told = [value for name, value in fields if _is_beta(name) and isinstance(value, str)]
    each = [name.strip() for name in ",".join([*told, *names]).split(",")]
    others = {name: value for name, value in (extra or {}).items() if not _is_beta(name)}
    return {**others, BETA_HEADER: ",".join(name for name in dict.fromkeys(each) if name)}


def _is_beta(name: Any) -> bool:
    return isinstance(name, str) and name.lower() == BETA_HEADER


def _beta_names(betas: Any) -> list[str]:
    if not isinstance(betas, (str, bytes, Mapping)):
        try:
            return [str.__str__(name) for name in betas]
        except TypeError:
            pass
    raise InvalidCall('betas= must be a list of names: betas=["…"]')


def query_string(extra_query: Any) -> str:
    """What follows a URL for *extra_query*, with its question mark; written as the SDK does."""
    if extra_query is None or is_not_given(extra_query):
        return ""
    if not isinstance(extra_query, Mapping):
        raise InvalidCall(f"extra_query= must be a dict, not {type(extra_query).__name__}")
    try:
        pairs = urlencode(
            [pair for name, value in extra_query.items() for pair in _pairs(name, value)]
        )
    except (RecursionError, UnicodeEncodeError):
        raise InvalidCall("extra_query= holds what a URL cannot say") from None
    return pairs and "?" + pairs


def _pairs(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _pairs(f"{name}[{inner}]", part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _pairs(f"{name}[]", part)
    elif isinstance(value, bool):
        yield name, str(value).lower()
    elif isinstance(value, date):
        yield name, value.isoformat()
    elif value is not None and not is_not_given(value):
        yield name, str(value)


def _require_no_slip(name: str) -> None:
    advice = "leave it out" if name.startswith("_") else _ELSEWHERE.get(name)
    if advice is not None:
        raise InvalidCall(f"{name}= is no parameter of a call: {advice.replace('{}', name)}")
    meant = _slip(name)
    if meant is not None:
        raise InvalidCall(f"unknown keyword {name}=; did you mean {meant}=?")


@lru_cache(maxsize=256)
def _slip(name: str) -> Optional[str]:
    """The keyword of ours that *name* looks like a misspelling of."""
    import difflib  # only for a name we do not know

    close = difflib.get_close_matches(name.lower(), OUR_KEYWORDS, n=1, cutoff=0.75)
    return close[0] if close else None
