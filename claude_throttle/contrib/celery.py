"""Celery: tasks that call Claude, and throttlers that are closed when a worker's child ends.

Import it where the app is created. The child processes of a Celery worker end without Python's exit
hooks, so calls that a task submitted and did not wait for would be lost. With this module a child
finishes them first, for at most ``claude_throttle_shutdown_timeout`` seconds (a setting of the
app, 5 by default). Calls that are left after that are cancelled: their futures raise
:class:`claude_throttle.Closed`.

A task based on :class:`ClaudeTask` releases its worker when the quota is used up for long, and
keeps its position in the queue.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, wait
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Optional, Union, overload

from celery import Task, current_app, signals  # type: ignore[import-untyped]
from celery.exceptions import Retry  # type: ignore[import-untyped]

from claude_throttle import LineTicket, ThrottleError, Throttler, close_all

if TYPE_CHECKING:
    from anthropic.types import Message
    from typing_extensions import Unpack

    from claude_throttle import CallOptions

#: Seconds that a child which ends gives its unfinished calls.
SHUTDOWN_SECONDS = 5.0

#: The message header that holds a ticket.
HEADER = "claude_throttle_ticket"


class ClaudeRefused(ThrottleError):
    """The result of a task whose call the API refused.

    Inside the task the official SDK's own exception is raised. It cannot be recreated from JSON,
    the format of results; this one can. ``kind`` is the SDK's class ("BadRequestError"),
    ``status`` the HTTP status or None, ``request_id`` the API's id of the request or None.
    """

    def __init__(
        self,
        message: str,
        kind: str = "",
        status: Optional[int] = None,
        request_id: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        # Celery recreates it from these.
        self.args = (message, kind, status, request_id)
        self.kind = kind
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class TurnComesLater(BaseException):
    """Ends a run of a task whose turn at Claude comes later; ClaudeTask turns it into a ``Retry``.

    Not an ``Exception``, so that ``except Exception`` in a task does not take it for a failure.
    """


class ClaudeTask(Task):  # type: ignore[misc]
    """A task that calls Claude, and is requeued where its call would have to wait for long.

    All workers, and all other programs that use the same quota, need the same ``shared=``::

        @app.task(base=ClaudeTask, bind=True, throttler=Throttler(shared="redis://…"))
        def summarise(self, text):
            return self.ask_claude(model=…, max_tokens=…, messages=[…]).content[0].text
    """

    abstract = True

    #: Used by the tasks of all processes; each child starts its threads anew.
    throttler: Optional[Throttler] = None
    #: Seconds that a call may block this process before it is sent.
    longest_wait: float = 2.0
    #: Seconds of the longest countdown; a task whose turn is later is requeued again after that. A
    #: broker delivers a message twice that is not acknowledged for long: Redis after an hour
    #: (visibility_timeout, Celery 5.7's documentation, 2026-11).
    longest_countdown: float = 600.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task.

        A ``Message`` that it returns becomes a dict, and an exception of the SDK that it raises
        :class:`ClaudeRefused`: both can be sent as JSON.
        """
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        try:
            result = super().__call__(*args, **kwargs)
        except (Exception, TurnComesLater) as error:
            if not isinstance(error, Retry):
                self._requeue_if_asked(request)
            elif isinstance(error.exc, TurnComesLater):
                error.exc = None  # the task has requeued itself; Celery 5.3 cannot store that one
            if not _is_from_sdk(error):
                raise
            status, request_id = (getattr(error, of, None) for of in ("status_code", "request_id"))
            raise ClaudeRefused(str(error), type(error).__name__, status, request_id) from error
        self._requeue_if_asked(request)
        if not _is_from_sdk(result):
            return result
        # Every release of the SDK has this method.
        return json.loads(result.model_dump_json(by_alias=True, exclude_unset=True))

    @overload
    def ask_claude(
        self, *, raw: Literal[True], **options: Unpack[CallOptions]
    ) -> dict[str, Any]: ...

    @overload
    def ask_claude(
        self, *, raw: Literal[False] = ..., **options: Unpack[CallOptions]
    ) -> Message: ...

    @overload
    def ask_claude(
        self, *, raw: bool, **options: Unpack[CallOptions]
    ) -> Union[Message, dict[str, Any]]: ...

    def ask_claude(self, **options: Any) -> Any:
        """Call Claude: returns and raises what ``Throttler.call()`` does, with its arguments.

        A call that cannot be sent within ``longest_wait`` seconds ends this run of the task: the
        task is queued again with a countdown and its position, its state is RETRY, and its
        ``retries`` do not change. It then runs from its beginning: call this before anything that
        must not happen twice. ``except Exception`` in the task does not see that; if a bare
        ``except`` does, what the task returns does not count. Only the first call of a run can
        requeue the task; the others wait, as do calls of a task that is called directly or applied
        eagerly.
        """
        throttler = self._throttler()
        request = self.request
        if getattr(request, "claude_turn", None) is not None:
            raise TurnComesLater  # the task has caught the first one
        if request.called_directly or request.is_eager or getattr(request, "claude_asked", False):
            return throttler.call(**options)
        options = _read_once(options)
        ticket, seconds = throttler.line_up(self._ticket(), **options)
        # Half of it: the calls ahead may take a little longer than estimated.
        if seconds > self.longest_wait / 2.0:
            self._end_run(ticket, seconds)
        future: Future[Any] = throttler.submit(**options)
        try:
            wait([future], self.longest_wait)
            # A call that has been sent cannot be cancelled.
            if not future.done() and future.cancel():
                seconds = throttler.line_up(ticket, **options)[1]
                self._end_run(ticket, max(self.longest_wait, seconds))
            # Also if it fails: it may be billed, and must not be repeated by another run.
            request.claude_asked = True
            return future.result()
        except BaseException:  # a time limit, perhaps
            future.cancel()
            raise

    def _throttler(self) -> Throttler:
        if self.throttler is None:
            how = "@app.task(base=ClaudeTask, throttler=…)"
            raise TypeError(f"{self.name} has no throttler: {how}")
        return self.throttler

    def _ticket(self) -> Optional[LineTicket]:
        """The ticket of an earlier run of this task, or None."""
        fields = (self.request.headers or {}).get(HEADER)
        return None if fields is None else LineTicket(*fields)

    def _end_run(self, ticket: LineTicket, seconds: float) -> NoReturn:
        request = self.request
        # There retry() finds it, too.
        request.headers = {**(request.headers or {}), HEADER: list(ticket)}
        request.claude_turn = seconds
        raise TurnComesLater

    def _requeue_if_asked(self, request: Any) -> None:
        """Queue the task again for its turn, with its ticket in the message's headers.

        Whatever the task made of :class:`TurnComesLater`. The new message is sent before this run
        ends, so a worker that dies in between loses nothing.
        """
        seconds = getattr(request, "claude_turn", None)
        if seconds is None:
            return
        # A little early: a part of the quota passes unused if it comes late.
        countdown = min(seconds - self.longest_wait / 4.0, self.longest_countdown)
        # Not retry(): that would use up the task's max_retries.
        self.signature_from_request(request, countdown=countdown).apply_async()
        raise Retry(f"its turn at Claude comes in {seconds:.1f} s", when=countdown)


def _read_once(value: Any) -> Any:
    """A copy with a list for each generator in it: a request is priced, and then it is sent."""
    if isinstance(value, dict):
        return {name: _read_once(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, GeneratorType, map, filter, zip)):
        return [_read_once(inner) for inner in value]
    return value


def _is_from_sdk(value: object) -> bool:
    """Whether *value* is a response or an exception of the official SDK."""
    return type(value).__module__.partition(".")[0] == "anthropic"


def _close_all(**_arguments: object) -> None:
    close_all(float(current_app.conf.get("claude_throttle_shutdown_timeout", SHUTDOWN_SECONDS)))


signals.worker_process_shutdown.connect(_close_all, dispatch_uid="claude_throttle")
