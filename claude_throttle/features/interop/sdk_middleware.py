"""``throttler.middleware()``: paces the official SDK's own client.

The SDK runs its middleware inside its retry loop, once for each attempt, and shows it every
response, refusals included. So each attempt takes a permit of its own and waits for its turn. While
the SDK sleeps before the next one it holds no permit; and it sleeps no longer than the pause after
the refusal, which the next attempt waits for anyway.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.core.dispatch.permit import AdmissionOptions
from claude_throttle.core.domain.cost import Usage
from claude_throttle.core.domain.iterations import read_iterated
from claude_throttle.errors import ConfigurationError, DeadlineExceeded
from claude_throttle.features.interop.body_watcher import watch_stream
from claude_throttle.features.interop.httpx_refusals import (
    INSTEAD,
    ForOneClient,
    asynchronous,
    with_base,
)
from claude_throttle.features.interop.one_admission import OneAdmission
from claude_throttle.features.interop.request_deadline import (
    RequestDeadline,
    RequestDeadlines,
    sleeps_beyond,
)
from claude_throttle.features.interop.sdk_retries import steer_retries
from claude_throttle.features.interop.unpaced_requests import Notices
from claude_throttle.transport import sdk
from claude_throttle.transport.headers import RawHeaders
from claude_throttle.transport.verdicts import retry_after

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.core.threads.clock import Clock

#: Handlers that are looked through for the SDK's innermost one.
MOST_MIDDLEWARE = 32


def make_middleware(
    admission: Callable[[], Admission], terms: AdmissionOptions, clock: Clock, notices: Notices
) -> Any:
    """Make a middleware for ``anthropic.Anthropic(middleware=[…])``.

    Raises ConfigurationError for an SDK that has none. Waits for the SDK's import.
    """
    anthropic = sdk.load()
    base = getattr(anthropic, "Middleware", None)
    if base is None:
        version = getattr(anthropic, "__version__", "of unknown version")
        raise ConfigurationError(
            f"anthropic {version} takes no middleware (0.108 is the first that does); write "
            "anthropic.Anthropic(http_client=httpx.Client(transport=throttler.transport()))"
        )
    return with_base(PacedMiddleware, base)(admission, terms, clock, notices)


class _NotAsync:
    """An attribute that raises TypeError when AsyncAnthropic looks for the asynchronous method.

    So AsyncAnthropic fails with the reason and the remedy, instead of blocking its event loop.
    """

    def __get__(self, _instance: Any, _owner: Any = None) -> Any:
        raise asynchronous(INSTEAD["__call__"])


class PacedMiddleware(ForOneClient):
    """Paces each attempt of the SDK and reports its response. Thread-safe.

    *terms* hold for each request of the SDK; their timeout is for all of its attempts together.

    Works in forked children, since it asks for the admission of its process each time. handle()
    raises what the SDK raises, and before sending what ``Throttler.permit`` raises.
    """

    made_by = "middleware"
    handle_async = _NotAsync()

    def __init__(
        self,
        admission: Callable[[], Admission],
        terms: AdmissionOptions,
        clock: Clock,
        notices: Notices,
    ) -> None:
        self._admission = admission
        self._terms = terms
        self._clock = clock
        self._deadlines = RequestDeadlines(terms.timeout)
        self._once = OneAdmission(admission, notices)

    def handle(self, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """Send one attempt when it may leave; the SDK calls it for each."""
        key = getattr(request.options, "idempotency_key", None)
        if self._once.holds(key):
            return call_next(request)
        path, body = request.url.partition("?")[0], partial(_body, request)
        terms, now = self._terms, self._clock.monotonic()
        deadline = self._deadlines.of_attempt(request, now)
        if deadline is not None:
            terms = terms._replace(timeout=deadline.at - now)
        try:
            attempt = self._admission().admit_request(request.method, path, body, terms)
        except DeadlineExceeded as error:
            if deadline is None or not deadline.sent:
                raise
            # This attempt was not sent, but one before it was.
            raise deadline.exceeded(error.retry_after) from None
        if attempt is None:
            return call_next(request)
        own = None if deadline is None else self._bound_wire(request, call_next, deadline)
        try:
            response = self._once.pass_on(call_next, request, key)
        except BaseException as error:
            attempt.failed(error)
            self._end_if_late(deadline, request, error)
            raise
        answer = getattr(response, "http_response", None)
        _report(attempt, response, answer)
        if answer is not None:
            steer_retries(answer, attempt.again, self._clock.wall())
        if deadline is not None:
            if answer is not None and not answer.is_closed:
                _set_silence(answer, own)
            self._end_retries(deadline, request, answer)
        return response

    def _bound_wire(
        self, request: Any, call_next: Callable[[Any], Any], deadline: RequestDeadline
    ) -> Any:
        """Have the attempt end with its request's time; returns the time-out that it had."""
        own = request.options.timeout
        if own is not None and not isinstance(own, (int, float)) and not hasattr(own, "read"):
            own = getattr(_client_behind(call_next), "timeout", None)  # NOT_GIVEN: the client's
        left = max(0.001, deadline.at - self._clock.monotonic())
        # The SDK makes the options anew for each attempt.
        request.options.timeout = _at_most(left, own)
        return own

    def _end_if_late(
        self, deadline: Optional[RequestDeadline], request: Any, error: BaseException
    ) -> None:
        """Raise DeadlineExceeded if the SDK would sleep until after the deadline, then retry."""
        if deadline is None or not isinstance(error, sdk.load().APIConnectionError):
            return
        deadline.sent = True
        if sleeps_beyond(deadline, request.retries_taken, None, self._clock.monotonic()):
            self._deadlines.forget(deadline)
            # Not "from error": the SDK retries what a connection error has caused.
            raise deadline.exceeded() from None

    def _end_retries(self, deadline: RequestDeadline, request: Any, answer: Any) -> None:
        """Ask the SDK not to sleep until after the deadline: it raises the refusal at once."""
        if answer is None or answer.status_code < 400:
            self._deadlines.forget(deadline)
            return
        deadline.sent |= answer.status_code >= 500 and answer.status_code != 529
        named = retry_after(answer.headers, self._clock.wall())
        if sleeps_beyond(deadline, request.retries_taken, named, self._clock.monotonic()):
            self._deadlines.forget(deadline)
            answer.headers["x-should-retry"] = "false"

    def __iter__(self) -> Any:
        raise TypeError(f"middleware= takes a list: write {INSTEAD['__call__']}")

    def __repr__(self) -> str:
        return "<claude_throttle middleware>"


def _client_behind(call_next: Any) -> Any:
    """The client that sends what *call_next* is given; None if it cannot be told.

    The SDK shows it to no middleware, but its innermost handler holds it.
    """
    for _ in range(MOST_MIDDLEWARE):
        held = [cell.cell_contents for cell in getattr(call_next, "__closure__", None) or ()]
        client = next((each for each in held if hasattr(each, "max_retries")), None)
        if client is not None:
            return client
        # In the order of their names: the SDK's "call_next" goes before "handler".
        call_next = next((each for each in held if hasattr(each, "__closure__")), None)
    return None


def _at_most(seconds: float, own: Any) -> Any:
    """The SDK's time-out *own*, each part of it *seconds* at most; None is none."""
    if own is None or isinstance(own, (int, float)):
        return seconds if own is None else min(seconds, own)
    parts = own.as_dict().items()
    return type(own)(**{k: seconds if v is None else min(seconds, v) for k, v in parts})


def _set_silence(answer: Any, own: Any) -> None:
    """Give a body that is read as it comes the silence that *own* allows: its time has ended."""
    timeout = answer.request.extensions.get("timeout")
    if isinstance(timeout, dict):
        timeout["read"] = getattr(own, "read", own)


def _body(request: Any) -> Any:
    # The SDK's dict, not a copy: read only. Only the model and the size are wanted of it.
    body = request.json
    extra = getattr(request.options, "extra_json", None)  # extra_body=, not merged yet in 0.x
    if not extra or not isinstance(body, dict):
        return body
    return {**body, **extra}


def _report(attempt: AdmittedAttempt, response: Any, answer: Any) -> None:
    """Report the response: all of it if it was read, else its head, and the rest as it is read.

    *answer* is the httpx response in it; None if there is none.
    """
    if answer is None:  # made up by another middleware: nothing was sent
        attempt.not_sent()
        return
    attempt.arrived()
    try:
        status, told = answer.status_code, RawHeaders(answer.headers.raw)
        if status >= 400:
            _read_refusal(answer)
        if answer.is_closed:
            usage = _usage(response) if status == 200 else None
            if usage is not None:
                attempt.answered(status, told, sent=answer.request.headers, usage=usage)
            else:
                attempt.answered(status, told, answer.content, answer.request.headers)
        else:
            attempt.head(status, told, b"", answer.request.headers)
            answer.stream = watch_stream(answer.stream, told, attempt)
    except BaseException as error:
        attempt.failed(error)
        raise


def _usage(response: Any) -> Optional[Usage]:
    """The usage in the message that the SDK parses for its caller anyway; None without counts.

    The parsed message is cached by the SDK, so this costs nothing. Without it, the body is read.
    """
    try:
        usage = read_iterated(response.parse().usage)
        return usage if any(usage) else None
    except Exception:  # noqa: BLE001 - the SDK tries again, and tells its caller
        return None


def _read_refusal(answer: Any) -> None:
    """Read the body of a refusal. The SDK does, before it raises, but not if it tries again."""
    try:
        answer.read()
    except Exception:  # noqa: BLE001 - half a refusal is a refusal
        answer.close()
        answer._content = b""
