"""The official SDK's types and exceptions; the only file that imports ``anthropic``.

The import takes 0.5 to 1.9 s, so it happens in the background while the first call is on the wire.
A fork in its midst would hang the child (5 of 5 tries), so a fork waits for it.
"""

# Both register fork hooks of their own. Hooks that run before a fork run in reverse order of
# registration, so these must be imported first: ours waits for a thread that may need their locks.
import concurrent.futures.thread
import importlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Optional, cast

from claude_throttle.transport.verdicts import error_code

_HOOKED_BEFORE_US = (logging, concurrent.futures.thread)

#: In case the SDK's client cannot be asked.
_STATUS_CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    529: "OverloadedError",
}


class Headers(dict[str, str]):
    """Header fields under lower-case names; asked in any case."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__((name.lower(), value) for name, value in fields.items())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


class RefusedRequest:
    """Stands in for the request of an SDK error: it holds no headers and no body, so no key."""

    def __init__(self, url: str) -> None:
        self.method = "POST"
        self.url = url
        self.headers = Headers({})
        self.content = b""

    def __repr__(self) -> str:
        return f"<RefusedRequest POST {self.url}>"


class RefusedResponse:
    """Stands in for the response of an SDK error: status, headers without cookies, body."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.request = RefusedRequest(url)
        self.status_code = status
        self.headers = Headers(headers)
        self.headers.pop("set-cookie", None)
        self.content = content

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.content)

    def __repr__(self) -> str:
        return f"<RefusedResponse [{self.status_code}]>"


# -- loading ---------------------------------------------------------------------------------------

_importer: Optional[threading.Thread] = None

# Whoever sees _importer sees it started, and none starts between a fork's wait and the fork.
_starting = threading.RLock()


def begin_import() -> None:
    """Start importing ``anthropic`` in the background, once per process."""
    if _importer is None:
        _begin()


def _begin() -> None:
    global _importer
    with _starting:
        if _importer is not None:
            return
        importer = threading.Thread(target=_import, name="claude-throttle-import", daemon=True)
        try:
            importer.start()
        except RuntimeError:  # the interpreter is ending; load() will do it in its own thread
            return
        _importer = importer


def _import() -> None:
    importlib.import_module("anthropic.types")


def load() -> Any:
    """The module ``anthropic``; waits for an import that is under way."""
    begin_import()
    _wait_for_import()
    _import()  # again, for its own exception if there was one; else this costs nothing
    return importlib.import_module("anthropic")


def _running_elsewhere() -> Optional[threading.Thread]:
    """The importing thread, if it is at work and not this one."""
    importer = _importer
    if importer is None or importer is threading.current_thread() or not importer.is_alive():
        return None
    return importer


def _wait_for_import() -> None:
    importer = _running_elsewhere()
    if importer is not None:
        importer.join()


def _before_fork() -> None:
    _starting.acquire()
    while _running_elsewhere():  # it may itself fork, so wait without the lock
        _starting.release()
        _wait_for_import()
        _starting.acquire()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_starting.release,
        after_in_child=_starting.release,
    )


# -- building --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _message_class() -> Any:
    return load().types.Message


def build_message(answer: dict[str, Any], request_id: Optional[str]) -> Any:
    """An ``anthropic.types.Message``; unknown fields and block types survive."""
    message = _message_class().construct(**answer)
    message._request_id = request_id
    return message


#: The SDK's names for the events of a stream. Public since 0.2x.
_EVENT_CLASSES = {
    "message_start": "RawMessageStartEvent",
    "message_delta": "RawMessageDeltaEvent",
    "message_stop": "RawMessageStopEvent",
    "content_block_start": "RawContentBlockStartEvent",
    "content_block_delta": "RawContentBlockDeltaEvent",
    "content_block_stop": "RawContentBlockStopEvent",
}


@lru_cache(maxsize=64)
def _event_class(kind: str) -> Any:
    anthropic = load()
    return getattr(anthropic.types, _EVENT_CLASSES.get(kind, ""), anthropic.BaseModel)


def build_event(event: dict[str, Any]) -> Any:
    """One of ``anthropic.types``' stream events; of an unknown type, its ``BaseModel``."""
    return _event_class(event["type"]).construct(**event)


def partial_json(text: str) -> Any:
    """What half a JSON text says so far, as the SDK reads it; {} if it says nothing."""
    try:
        return importlib.import_module("jiter").from_json(text.encode(), partial_mode=True)
    except ValueError:
        return {}


def status_error(
    url: str, status: int, headers: Mapping[str, str], content: bytes, body: Any
) -> Exception:
    """The SDK's own exception for a refusal, as its client would raise it."""
    text = content.decode("utf-8", "replace")
    shown = body if body is not None else (text[:500] or "no body")
    error_class = _error_class(status, error_code(body))
    error: Exception = error_class(
        f"Error code: {status} - {shown}",
        response=RefusedResponse(url, status, headers, content),
        body=body if body is not None else text,
    )
    return error


def connection_error(url: str, message: str) -> Exception:
    """``anthropic.APIConnectionError``."""
    error_class = _picklable(load().APIConnectionError)
    error: Exception = error_class(message=message, request=RefusedRequest(url))
    return error


def timeout_error(url: str, message: str) -> Exception:
    """``anthropic.APITimeoutError``."""
    error: Any = _picklable(load().APITimeoutError)(RefusedRequest(url))
    error.message = message
    error.args = (message,)
    built: Exception = error
    return built


@lru_cache(maxsize=256)
def _error_class(status: int, code: Optional[str]) -> Any:
    """The class the SDK's own client would raise, whatever the release."""
    body = {"type": "error", "error": {"details": {"error_code": code}}}
    anthropic = load()
    try:
        made = anthropic.Anthropic._make_status_error(
            None, "", body=body, response=RefusedResponse("", status, {}, b"")
        )
        found = cast(Any, type(made))
    except Exception:  # noqa: BLE001 - private: another release may have another
        found = _class_by_status(anthropic, status)
    return _picklable(found)


def _class_by_status(anthropic: Any, status: int) -> Any:
    default = "InternalServerError" if status >= 500 else "APIStatusError"
    return getattr(anthropic, _STATUS_CLASSES.get(status, default), getattr(anthropic, default))


@lru_cache(maxsize=128)
def _picklable(base: Any) -> Any:
    """*base*, or a subclass of the same name that pickles where the SDK's own cannot (0.x)."""
    if base.__reduce__ is not BaseException.__reduce__:
        return base
    return type(base.__name__, (base,), {"__reduce__": _reduce, "__module__": base.__module__})


def _reduce(error: BaseException) -> tuple[Any, ...]:
    base = type(error).__mro__[1]
    return _rebuild, (base, error.args, dict(error.__dict__))


def _rebuild(base: Any, args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error: BaseException = _picklable(base).__new__(_picklable(base), *args)
    error.args = args
    error.__dict__.update(state)
    return error
