"""Answers that a test gives in its own words, or by a function of the request.

:class:`Computed` is what ``answer(function)`` scripts; :func:`scripted_from` reads what a test or
its function gave: a text, a message or parts of one, a scripted answer, an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from claude_throttle.testing.faults import Ok, Reply, Reset, Scripted, Stall
from claude_throttle.testing.plans import plan_for
from claude_throttle.testing.refusals import refusal
from claude_throttle.testing.replies import ERROR_TYPES

#: Fields of a message that a dict may have in place of those of the server.
_FIELDS = frozenset({"content", "stop_reason", "usage"})
#: Types of content blocks, beside texts and those of tools.
_BLOCKS = frozenset({"thinking", "redacted_thinking", "compaction", "container_upload", "fallback"})
_STATUSES = {error_type: status for status, error_type in ERROR_TYPES.items()}


@dataclass(frozen=True)
class Computed:
    """An answer that a function of the request's body makes, in the server's thread."""

    function: Callable[[dict[str, Any]], Any]
    #: What an answer has that is not the function's.
    otherwise: Ok

    def scripted_for(self, body: dict[str, Any]) -> Scripted:
        """The function's answer to *body*; what it raises is an answer, too."""
        try:
            return scripted_from(self.function(body), self.otherwise)
        except Exception as error:  # noqa: BLE001 - the test's own
            return _failed(error)


def scripted_from(value: Any, otherwise: Ok) -> Scripted:
    """The scripted answer that *value* means; *otherwise* has what a successful one lacks.

    Raises TypeError if it means none.

    - a string is a text; None is the answer that nobody scripted;
    - a message, or a dict with ``content``, ``stop_reason`` or ``usage`` of one, has these fields;
      one with a ``type`` of content blocks is a block, an error of the API is a refusal, and every
      other dict or model is the text of its JSON;
    - a list is of content blocks;
    - an error of the official SDK is the refusal that it tells of; a connection error is a lost
      connection, and a timeout an answer that does not come;
    - an answer of :mod:`claude_throttle.testing` is itself.
    """
    if value is None or isinstance(value, str):
        return replace(otherwise, text=value)
    if isinstance(value, BaseException):
        return _failed(value)
    if plan_for.dispatch(type(value)) is not plan_for.dispatch(object):
        answer: Scripted = value
        return answer
    value = _plain(value)
    if isinstance(value, Mapping):
        return _from_mapping(value, otherwise)
    if _is_content(value):
        return _message({"content": value}, otherwise)
    raise TypeError(
        "an answer must be a string, a dict, a list of content blocks, an error, or one of "
        f"claude_throttle.testing, not {_kind(value)}"
    )


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "another list: for the text of its JSON write json.dumps(…)"
    return type(value).__name__


def _plain(value: Any) -> Any:
    """A typed message or block, or a model of one's own, as a dict."""
    if not callable(getattr(value, "model_dump", None)):
        return value
    if type(value).__module__.startswith("anthropic."):
        return value.model_dump(mode="json", exclude_none=True)
    return value.model_dump(mode="json", by_alias=True)


def _from_mapping(value: Mapping[str, Any], otherwise: Ok) -> Scripted:
    if value.get("type") == "error" and isinstance(value.get("error"), Mapping):
        error = value["error"]
        status = _STATUSES.get(error.get("type"), 529 if "overloaded" in str(error) else 500)
        return refusal(status, message=error.get("message"), error_type=error.get("type"))
    told, content = _FIELDS & set(value), value.get("content", [])
    is_content = _is_content(content) or (isinstance(content, str) and len(told) > 1)
    if value.get("type") == "message" or (told and is_content):
        return _message(value, otherwise)
    if _is_block(value):
        return _message({"content": [value]}, otherwise)
    return replace(otherwise, text=json.dumps(value, default=_plain))


def _message(value: Mapping[str, Any], otherwise: Ok) -> Ok:
    content = value.get("content")
    usage = {**(otherwise.usage or {}), **(value.get("usage") or {})} or None
    answer = replace(
        otherwise, usage=usage, stop_reason=value.get("stop_reason", otherwise.stop_reason)
    )
    if content is None or isinstance(content, str):
        return replace(answer, text=content)
    blocks = (*map(_plain, content), *otherwise.extra_content_blocks)
    return replace(answer, text="", extra_content_blocks=blocks)


def _is_content(content: Any) -> bool:
    return isinstance(content, (list, tuple)) and all(map(_is_block, content))


def _is_block(value: Any) -> bool:
    value = _plain(value)
    kind = value.get("type") if isinstance(value, Mapping) else None
    return (kind == "text" and isinstance(value.get("text"), str)) or (
        isinstance(kind, str) and (kind in _BLOCKS or kind.endswith(("_use", "_result")))
    )


def _failed(error: BaseException) -> Scripted:
    status, kind = getattr(error, "status_code", None), type(error).__name__
    if isinstance(status, int) and 400 <= status <= 599:
        return _refusal_of(error, status)
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return Stall()
    if isinstance(error, OSError) or "Connection" in kind:
        return Reset()
    message = f"the function given to answer() raised {kind}: {error}"
    return Reply(500, {"x-should-retry": "false"}, message=message)


def _refusal_of(error: Any, status: int) -> Reply:
    """The refusal that an error of the official SDK tells of."""
    said = error.body.get("error") if isinstance(getattr(error, "body", None), Mapping) else None
    told = said if isinstance(said, Mapping) else {}
    wait = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    return refusal(
        status,
        retry_after=float(wait) if wait.replace(".", "", 1).isdecimal() else None,
        message=told.get("message") or getattr(error, "message", None) or str(error),
        error_type=told.get("type"),
    )
