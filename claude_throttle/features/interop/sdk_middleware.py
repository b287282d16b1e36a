"""``throttler.middleware()``: the official SDK under the same throttle.

The SDK runs its middleware inside its retry loop, once for each attempt, and shows it every
answer, refusals, too. So each attempt takes a permit of its own and waits for its turn; while the
SDK sleeps before another one it holds nothing. What it sleeps is no more than the pause that its
refusal brought about, which the next attempt waits for anyway.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.core.dispatch.permit import AdmissionOptions
from claude_throttle.core.domain.cost import Usage
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.body_watcher import metered
from claude_throttle.transport import sdk
from claude_throttle.transport.headers import RawHeaders
from claude_throttle.transport.verdicts import usage_of

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission

_SYNCHRONOUS = (
    "claude_throttle is synchronous: its middleware would block the event loop, so AsyncAnthropic "
    "cannot use it; use anthropic.Anthropic(middleware=[…]), in asyncio.to_thread() if need be"
)


def make_middleware(admission: Callable[[], Admission], terms: AdmissionOptions) -> Any:
    """For ``anthropic.Anthropic(middleware=[…])``. Raises ConfigurationError if that is too old."""
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
    """Refuses where AsyncAnthropic looks whether a middleware suits it."""

    def __get__(self, _instance: Any, _owner: Any = None) -> Any:
        raise TypeError(_SYNCHRONOUS)


class PacedMiddleware:
    """Admits each attempt, and hears what came of it. Thread-safe: it holds no state."""

    handle_async = _NotAsync()

    def __init__(self, admission: Callable[[], Admission], terms: AdmissionOptions) -> None:
        self._admission = admission
        self._terms = terms

    def handle(self, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """One attempt, as the SDK hands it over."""
        path, body = request.url.partition("?")[0], partial(_body, request)
        attempt = self._admission().admit_request(request.method, path, body, self._terms)
        if attempt is None:
            return call_next(request)
        try:
            response = call_next(request)
        except BaseException as error:
            attempt.failed(error)
            raise
        _hear(attempt, response)
        return response

    def __repr__(self) -> str:
        return "<claude_throttle middleware>"


@lru_cache(maxsize=4)
def _class_for(base: Any) -> Any:
    return type("ThrottlerMiddleware", (PacedMiddleware, base), {"__module__": __name__})


def _body(request: Any) -> Any:
    body = request.json
    extra = getattr(request.options, "extra_json", None)  # extra_body=, not merged yet in 0.x
    if not extra or not isinstance(body, dict):
        return body
    return {**body, **extra}


def _hear(attempt: AdmittedAttempt, response: Any) -> None:
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
            answer.stream = metered(answer.stream, told, attempt)
    except BaseException as error:
        attempt.failed(error)
        raise


def _usage(response: Any) -> Optional[Usage]:
    """What an answer took, from what the SDK makes of it for its caller, and keeps.

    None if that is no message: its body may tell all the same.
    """
    try:
        usage = response.parse().usage
        return usage_of(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_creation_input_tokens,
            usage.cache_read_input_tokens,
        )
    except Exception:  # noqa: BLE001 - the SDK tries again, and tells its caller
        return None


def _read_refusal(answer: Any) -> None:
    """The SDK reads it, too, before it raises; not if it tries again."""
    try:
        answer.read()
    except Exception:  # noqa: BLE001 - half a refusal is a refusal
        answer.close()
        answer._content = b""
