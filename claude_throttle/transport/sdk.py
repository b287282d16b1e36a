"""The official SDK's types and exceptions; the only file that imports ``anthropic``.

Callers get the SDK's own ``Message`` objects and exceptions, but the SDK never sends anything here.
Works with 0.16 and newer, on pydantic 1 and 2. Private parts differ and old releases lack classes:
each use of one has a fallback.

The import takes 0.5 to 1.9 s, so it happens in the background while the first call is on the wire,
and no call waits for it: see ``message()`` and ``error()``. A fork during it would hang the child
(5 of 5 tries), so a fork waits for it.
"""

# Both register fork hooks of their own. Hooks that run before a fork run in reverse order of
# registration, so these must be imported first: ours waits for a thread that may need their locks.
import concurrent.futures.thread
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as WaitTimeout
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Optional, cast

from claude_throttle.core.dispatch.call import LateResult
from claude_throttle.core.threads.clock import SYSTEM_CLOCK, longest_wait
from claude_throttle.errors import ConfigurationError
from claude_throttle.transport.error_text import readable
from claude_throttle.transport.partial_json import read_beginning
from claude_throttle.transport.verdicts import error_code

#: Uses the two imports, so that no tool removes them as unused.
_HOOKED_BEFORE_US = (logging, concurrent.futures.thread)

#: The first release with ``anthropic.types.Message``; before, messages were a beta, or unknown.
OLDEST = (0, 16)

#: The SDK's exceptions by status, for releases whose client has no ``_make_status_error``. Names
#: that a release lacks are replaced by a base class.
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
    """Header fields that can be looked up in any case, as the headers of httpx can.

    A plain dict underneath, so that errors that hold it pickle.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__((name.lower(), value) for name, value in fields.items())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


class RefusedRequest:
    """The ``request`` of an SDK error, without headers and body, so without key and prompt.

    It stands for ``httpx.Request``: an error keeps it, and ends up in logs and error trackers.
    """

    def __init__(self, url: str) -> None:
        self.method = "POST"
        self.url = url
        self.headers = Headers({})
        self.content = b""

    def __repr__(self) -> str:
        return f"<RefusedRequest POST {self.url}>"


class PlainResponse:
    """A response without its connection: status, headers without cookies, and a body, if any.

    It has what the SDK's exceptions and their users read of ``httpx.Response``, and it pickles.
    """

    def __init__(
        self, url: str, status: int, headers: Mapping[str, str], content: bytes = b""
    ) -> None:
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
        return f"<{type(self).__name__} [{self.status_code}]>"


class RefusedResponse(PlainResponse):
    """The ``response`` of an SDK error."""


# -- loading ---------------------------------------------------------------------------------------

#: The thread that imports; None before the first call, and if no thread could be started.
_importer: Optional[threading.Thread] = None

#: Whether the import has succeeded.
_is_loaded = False

#: Whether the importing thread is done with the import, with or without success. A function that
#: is added to _waiting after that must be called by the thread that adds it.
_has_ended = False

#: Functions to call after the import. Each is popped by the thread that calls it: no lock.
_waiting: deque[Callable[[], object]] = deque()

# A thread that sees _importer sees it started, and none starts between a fork's wait and the fork.
_starting = threading.RLock()


def begin_import() -> None:
    """Start importing ``anthropic`` in the background, once per process.

    Raises ConfigurationError for a release that is too old: before a call is sent whose answer
    could not be made.
    """
    if _importer is None:
        refuse_old(installed_version())
        _begin()


@lru_cache(maxsize=1)
def installed_version() -> str:
    """The installed release, read from its source, which takes no import; "" if it is unknown."""
    with contextlib.suppress(Exception):  # none installed, or packed: the import will tell
        spec: Any = importlib.util.find_spec("anthropic")
        source = Path(spec.origin).with_name("_version.py").read_text("utf-8")
        return str(re.findall(r'^__version__ = "([^"]+)"', source, re.MULTILINE)[0])
    return ""


def refuse_old(version: str) -> None:
    """Raise ConfigurationError if that release of the SDK has no typed messages."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigurationError(
            f"anthropic {version} is installed, and {oldest}.0 is the oldest that claude_throttle "
            f"works with: pip install 'anthropic>={oldest}'"
        )


def _begin() -> None:
    global _importer
    with _starting:
        if _importer is not None:
            return
        name = "claude-throttle-import"
        importer = threading.Thread(target=_import_in_background, name=name, daemon=True)
        try:
            importer.start()
        except RuntimeError:  # the interpreter is ending; load() will do it in its own thread
            return
        _importer = importer


def _import_in_background() -> None:
    global _has_ended
    # What keeps it from being imported is raised by load(), where the SDK is needed.
    # Any exception: a panic of pydantic's is no Exception.
    with contextlib.suppress(BaseException), _yielding():
        _import()
    _has_ended = True
    _run_waiting()


def _import() -> None:
    global _is_loaded
    refuse_old(getattr(importlib.import_module("anthropic"), "__version__", ""))
    importlib.import_module("anthropic.types")
    _is_loaded = True


def after_import(act: Callable[[], object]) -> None:
    """Call *act* when the SDK has been imported, or could not be. It must not block.

    It is called in the importing thread, or now in this one.
    """
    if _importer is None:
        _begin()
    # Added first, then looked: so either the importing thread finds it, or this one does.
    _waiting.append(act)
    if _has_ended or _importer is None:
        _run_waiting()


def _run_waiting() -> None:
    while _waiting:
        with contextlib.suppress(IndexError):  # another thread took it
            _waiting.popleft()()


def load(timeout: Optional[float] = None) -> Any:
    """The module ``anthropic``; waits for an import that is under way. Thread-safe.

    Raises ``concurrent.futures.TimeoutError`` after *timeout* seconds, ConfigurationError for a
    release that is too old, or what keeps the SDK from being imported (ImportError, if there is
    none).
    """
    if not _is_loaded:
        begin_import()
        _wait_for_import(timeout)
        _import()  # again, for its own exception if there was one; else this costs nothing
    return importlib.import_module("anthropic")


def _running_elsewhere() -> Optional[threading.Thread]:
    """The importing thread, if it is at work and not this one."""
    importer = _importer
    if importer is None or importer is threading.current_thread() or not importer.is_alive():
        return None
    return importer


def _wait_for_import(timeout: Optional[float] = None) -> None:
    while (importer := _running_elsewhere()) is not None:
        # In slices: a Ctrl-C that comes just before the main thread begins to wait ends no wait.
        importer.join(longest_wait() if timeout is None else timeout)
        if timeout is not None and importer.is_alive():
            raise WaitTimeout


# Holds _starting over the fork, so that no import starts between the wait and the fork itself.
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


# -- an import that lets others run ----------------------------------------------------------------

#: Seconds that a pause takes, and seconds between two pauses at least. Each costs some 50 µs of
#: CPU, so one for each of 3,300 modules would make the import a sixth of a second longer.
PAUSE_SECONDS = 0.0001
BETWEEN_PAUSES_SECONDS = 0.001


class _Pauses:
    """A finder for ``sys.meta_path`` that finds nothing, but pauses the importing thread.

    An import reads thousands of small files and takes the interpreter's lock back at once after
    each, so that a thread which waits for it, the worker above all, waits many times as long as
    Python's switch interval, and the pace is lost.
    """

    def __init__(self) -> None:
        #: The importing thread's id; other threads import without pauses.
        self.thread_id: Optional[int] = None
        self._next_at = 0.0
        # Never released: acquiring it with a timeout is a wait of exactly that long.
        self._taken = threading.Lock()
        self._taken.acquire()

    def find_spec(self, _name: str, _path: Any = None, _target: Any = None) -> None:
        if threading.get_ident() == self.thread_id and SYSTEM_CLOCK.monotonic() >= self._next_at:
            self._taken.acquire(timeout=PAUSE_SECONDS)
            self._next_at = SYSTEM_CLOCK.monotonic() + BETWEEN_PAUSES_SECONDS


_pauses = _Pauses()


@contextlib.contextmanager
def _yielding() -> Iterator[None]:
    # Not among greenlets: another one would find modules half made. They share one thread, and
    # the import's locks know threads only.
    if threading.local.__module__ != "_thread":
        yield
        return
    # It stays there, and does nothing: taking it out would disturb imports in other threads.
    sys.meta_path.insert(0, _pauses)
    _pauses.thread_id = threading.get_ident()
    try:
        yield
    finally:
        _pauses.thread_id = None


# -- results and errors that wait for the import ---------------------------------------------------


class LateError(Exception):
    """Takes the place of an SDK exception until the SDK is loaded. No caller ever sees one.

    Sender threads pass it on without waiting; build() runs in the thread that raises the error.
    """

    def __init__(self, build: Callable[[], Exception]) -> None:
        super().__init__("an error of the SDK, which is not loaded yet")
        self._build = build

    def build(self) -> BaseException:
        """Make the error itself, or return what prevents that. Waits for the import."""
        try:
            load()
            return self._build()
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # noqa: BLE001 - the SDK cannot be imported
            return failure


def message(
    answer: dict[str, Any], request_id: Optional[str], odd: Callable[[Exception], Exception]
) -> Any:
    """The SDK's message if the SDK is loaded; otherwise a LateResult, which makes it when needed.

    *odd* makes the error of an answer that the SDK cannot read. Never waits.
    """
    if _is_loaded:
        return build_message(answer, request_id)
    return LateResult(partial(_build_late, answer, request_id, odd))


def _build_late(
    answer: dict[str, Any],
    request_id: Optional[str],
    odd: Callable[[Exception], Exception],
    timeout: Optional[float],
) -> Any:
    load(timeout)
    try:
        return build_message(answer, request_id)
    except Exception as error:  # noqa: BLE001 - whatever it was, the call ended with it
        raise odd(error) from None


def error(build: Callable[..., Exception], *args: Any) -> Exception:
    """The error that *build* makes of *args* if the SDK is loaded; otherwise a LateError."""
    if _is_loaded:
        return build(*args)
    return LateError(partial(build, *args))


# -- building --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _message_class() -> Any:
    return load().types.Message


def build_message(answer: dict[str, Any], request_id: Optional[str]) -> Any:
    """An ``anthropic.types.Message``; unknown fields and block types survive."""
    message = _build(_message_class(), answer)
    message._request_id = request_id
    if hasattr(type(message), "__exclude_fields__"):
        # pydantic 1 would show both as fields of the answer. The SDK's client does the same.
        message.__exclude_fields__ = {"_request_id": ..., "__exclude_fields__": ...}
    return message


def message_fields(message: Any) -> dict[str, Any]:
    """The answer that an ``anthropic.types.Message`` was made of: ``to_dict()``, in any release."""
    if hasattr(type(message), "__pydantic_fields_set__"):
        fields: dict[str, Any] = message.model_dump(
            mode="json", by_alias=True, exclude_unset=True, warnings=False
        )
    else:
        fields = json.loads(message.json(by_alias=True, exclude_unset=True))
    return fields


def _build(model: Any, fields: dict[str, Any]) -> Any:
    """An object of the SDK's, as its lenient ``construct()`` makes it.

    Strict validation comes first, since it takes an eighth of the time. It raises for what the API
    added after this release of the SDK, which ``construct()`` keeps as it is.
    """
    try:
        return model.model_validate(fields, strict=True)
    except Exception:  # noqa: BLE001 - fields of tomorrow, or pydantic 1
        return model.construct(**fields)


#: The SDK's classes for the events of a stream; the names of old releases lack the "Raw".
_EVENT_CLASSES = {
    "message_start": "RawMessageStartEvent",
    "message_delta": "RawMessageDeltaEvent",
    "message_stop": "RawMessageStopEvent",
    "content_block_start": "RawContentBlockStartEvent",
    "content_block_delta": "RawContentBlockDeltaEvent",
    "content_block_stop": "RawContentBlockStopEvent",
}


#: Those of its helper, newest names first.
_HELPER_CLASSES = {
    "text": ("TextEvent",),
    "thinking": ("ThinkingEvent",),
    "citation": ("CitationEvent",),
    "signature": ("SignatureEvent",),
    "input_json": ("InputJsonEvent",),
    "compaction": ("BetaCompactionEvent",),
    "content_block_stop": ("ParsedContentBlockStopEvent", "ContentBlockStopEvent"),
    "message_stop": ("ParsedMessageStopEvent", "MessageStopEvent"),
}


@lru_cache(maxsize=64)
def _event_class(kind: str) -> Any:
    """The class for a type of event; None if this release has none."""
    for module in ("_types", "_beta_types"):
        with contextlib.suppress(ImportError):
            found = importlib.import_module(f"anthropic.lib.streaming.{module}")
            for name in _HELPER_CLASSES.get(kind, ()):
                if hasattr(found, name):
                    return getattr(found, name)
    types, name = load().types, _EVENT_CLASSES.get(kind, "")
    return getattr(types, name, getattr(types, name.replace("Raw", "", 1), None))


def build_event(event: dict[str, Any], request_id: Optional[str]) -> Any:
    """An event of the SDK's stream helper; its ``BaseModel`` where it has no class for it."""
    built = _build(_event_class(event["type"]) or load().BaseModel, event)
    if event["type"] == "message_stop":
        if isinstance(built.message, dict):
            built.message = build_message(built.message, request_id)
        built.message._request_id = request_id
    if event["type"] == "citation" and isinstance(built.citation, dict):
        as_object = load().BaseModel.construct
        built.citation = as_object(**built.citation)
        built.snapshot = [as_object(**citation) for citation in built.snapshot]
    if event["type"] == "content_block_stop" and isinstance(built.content_block, dict):
        whole = build_message({"content": [built.content_block]}, None)
        built.content_block = whole.content[0]
    return built


def partial_json(text: str) -> Any:
    """The value of an incomplete JSON text, as the SDK reads it; {} if nothing can be read."""
    try:
        try:
            jiter = importlib.import_module("jiter")
        except ImportError:  # a release before tools were streamed
            return read_beginning(text)
        return jiter.from_json(text.encode(), partial_mode=True)
    except ValueError:
        return {}


def status_error(
    url: str, status: int, headers: Mapping[str, str], content: bytes, body: Any, note: str = ""
) -> Exception:
    """The SDK's own exception for a refusal, with the class and text that its client would use.

    *note* is what we have to add.
    """
    text = content.decode("utf-8", "replace")
    shown = body if body is not None else (readable(text[: 500 - len(note)]) or "no body")
    error_class = _error_class(status, error_code(body))
    error: Exception = error_class(
        f"Error code: {status} - {shown}{note}",
        response=RefusedResponse(url, status, headers, content),
        body=body if body is not None else text,
    )
    if not hasattr(error, "request_id"):  # an old release
        error.request_id = error.response.headers.get("request-id")  # type: ignore[attr-defined]
    return error


def connection_error(url: str, message: str) -> Exception:
    """An ``anthropic.APIConnectionError`` with that message."""
    error_class = _picklable(load().APIConnectionError)
    error: Exception = error_class(message=message, request=RefusedRequest(url))
    return error


def timeout_error(url: str, message: str) -> Exception:
    """An ``anthropic.APITimeoutError`` with that message."""
    # Its constructor takes no message, and sets its own.
    error: Any = _picklable(load().APITimeoutError)(RefusedRequest(url))
    error.message = message
    error.args = (message,)
    built: Exception = error
    return built


@lru_cache(maxsize=256)
def _error_class(status: int, code: Optional[str]) -> Any:
    """The class of the exception that the SDK's own client would raise, in any release.

    Its client is asked, through a private method without an instance: newer releases choose by
    error code, too (``RampLimitExceededError`` since 2.6.0), and we need no table of those.
    """
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
    """Return *base*, or a subclass of the same name that pickles where it cannot (SDK before 2.7).

    An exception that does not pickle would be lost on its way out of a worker process.
    """
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
