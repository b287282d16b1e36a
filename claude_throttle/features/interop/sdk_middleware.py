"""``throttler.middleware()``: paces the official SDK's own client.

The SDK runs its middleware inside its retry loop, once for each attempt, and shows it every
response, refusals included. So each attempt takes a permit of its own and waits for its turn. While
the SDK sleeps before the next one it holds no permit; and it sleeps no longer than the pause after
the refusal, which the next attempt waits for anyway.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.core.dispatch.permit import AdmissionOptions
from claude_throttle.core.domain.cost import Usage
from claude_throttle.core.domain.iterations import read_iterated
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.body_watcher import watch_stream
from claude_throttle.transport import sdk
from claude_throttle.transport.headers import RawHeaders

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission

#: The error for AsyncAnthropic.
_SYNCHRONOUS = (
    "claude_throttle is synchronous: its middleware would block the event loop, so AsyncAnthropic "
    "cannot use it; use anthropic.Anthropic(middleware=[…]), in asyncio.to_thread() if need be"
)


def make_middleware(admission: Callable[[], Admission], terms: AdmissionOptions) -> Any:
    """Make a middleware for ``anthropic.Anthropic(middleware=[…])``.

    Raises ConfigurationError for an SDK that has none. Waits for the SDK's import.
    """
    anthropic = sdk.load()
    base = getattr(anthropic, "Middleware", None)
    if base is None:
        version = getattr(anthropic, "__version__", "of unknown version")
        raise ConfigurationError(
            f"anthropic {version} takes no middleware; 0.108 is the first that does: "
            "pip install 'anthropic>=0.108'"
        )
    return _class_for(base)(admission, terms)


class _NotAsync:
    """An attribute that raises TypeError when AsyncAnthropic looks for the asynchronous method.

    So AsyncAnthropic fails with the reason and the remedy, instead of blocking its event loop.
    """

    def __get__(self, _instance: Any, _owner: Any = None) -> Any:
        raise TypeError(_SYNCHRONOUS)


class PacedMiddleware:
    """Paces each attempt of the SDK and reports its response. Thread-safe: it holds no state.

    Works in forked children, since it asks for the admission of its process each time. handle()
    raises what the SDK raises, and before sending what ``Throttler.permit`` raises.
    """

    handle_async = _NotAsync()

    def __init__(self, admission: Callable[[], Admission], terms: AdmissionOptions) -> None:
        self._admission = admission
        self._terms = terms

    def handle(self, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """Send one attempt when it may leave; the SDK calls it for each."""
        path, body = request.url.partition("?")[0], partial(_body, request)
        attempt = self._admission().admit_request(request.method, path, body, self._terms)
        if attempt is None:
            return call_next(request)
        try:
            response = call_next(request)
        except BaseException as error:
            attempt.failed(error)
            raise
        _report(attempt, response)
        return response

    def __repr__(self) -> str:
        return "<claude_throttle middleware>"


@lru_cache(maxsize=4)
def _class_for(base: Any) -> Any:
    return type("ThrottlerMiddleware", (PacedMiddleware, base), {"__module__": __name__})


def _body(request: Any) -> Any:
    # The SDK's dict, not a copy: read only. Only the model and the size are wanted of it.
    body = request.json
    extra = getattr(request.options, "extra_json", None)  # extra_body=, not merged yet in 0.x
    if not extra or not isinstance(body, dict):
        return body
    return {**body, **extra}


def _report(attempt: AdmittedAttempt, response: Any) -> None:
    """Report the response: all of it if it was read, else its head, and the rest as it is read."""
    answer = getattr(response, "http_response", None)
    if answer is None:  # made up by another middleware: nothing was sent
        attempt.not_sent()
        return
    try:
        status, told = answer.status_code, RawHeaders(answer.headers.raw)
        if status >= 400:
            _read_refusal(answer)
        if answer.is_closed:
            usage = _usage(response) if status == 200 else None
            if usage is not None:
                attempt.answered(status, told, usage=usage)
            else:
                attempt.answered(status, told, answer.content, answer.request.headers)
        else:
            attempt.head(status, told, b"", answer.request.headers)
            answer.stream = watch_stream(answer.stream, told, attempt)
    except BaseException as error:
        attempt.failed(error)
        raise


def _usage(response: Any) -> Optional[Usage]:
    """The usage in the message that the SDK parses for its caller anyway; None if it has none.

    The parsed message is cached by the SDK, so this costs nothing. Without one, the body is read.
    """
    try:
        usage = response.parse().usage
        return read_iterated(usage) if vars(usage) else None
    except Exception:  # noqa: BLE001 - the SDK tries again, and tells its caller
        return None


def _read_refusal(answer: Any) -> None:
    """Read the body of a refusal. The SDK does, before it raises, but not if it tries again."""
    try:
        answer.read()
    except Exception:  # noqa: BLE001 - half a refusal is a refusal
        answer.close()
        answer._content = b""
