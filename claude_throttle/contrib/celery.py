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

from concurrent.futures import Future, wait
from typing import Any, NoReturn, Optional

from celery import Task, current_app, signals  # type: ignore[import-untyped]
from celery.exceptions import Retry  # type: ignore[import-untyped]

from claude_throttle import LineTicket, ThrottleError, Throttler, close_all

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


class ClaudeTask(Task):  # type: ignore[misc]
    """A task that calls Claude, and is requeued where its call would have to wait for long.

    All workers, and all other programs that use the same quota, need the same ``shared=``::

        @app.task(base=ClaudeTask, bind=True, throttler=Throttler(shared="redis://…"))
        def summarise(self, text):
            return self.ask_claude(model=…, max_tokens=…, messages=[…])
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
        """Run the task; an exception of the SDK that it raises becomes :class:`ClaudeRefused`."""
        try:
            return super().__call__(*args, **kwargs)
        except Exception as error:
            if self.request.called_directly or not _is_from_sdk(error):
                raise
            status, request_id = (getattr(error, of, None) for of in ("status_code", "request_id"))
            raise ClaudeRefused(str(error), type(error).__name__, status, request_id) from error

    def ask_claude(self, **options: Any) -> Any:
        """Call Claude; return the response as a dict, or as a ``Message`` with ``raw=False``.

        *options* are those of ``Throttler.submit()``. A call that can be sent within
        ``longest_wait`` seconds returns or raises as ``call()`` does. Otherwise the task is queued
        again with a countdown and its position, and this raises ``celery.exceptions.Retry``; the
        task's ``retries`` do not change. The task then runs from its beginning: call this before
        anything that must not happen twice. Only the first call of a run can requeue the task; the
        others wait, as do calls of a task that is called directly or applied eagerly.
        """
        options.setdefault("raw", True)
        throttler = self._throttler()
        if self.request.called_directly or self.request.is_eager or self._was_answered():
            return throttler.call(**options)
        ticket, seconds = throttler.line_up(self._ticket(), **options)
        # Half of it: the calls ahead may take a little longer than estimated.
        if seconds > self.longest_wait / 2.0:
            self._requeue(ticket, seconds)
        future: Future[Any] = throttler.submit(**options)
        try:
            wait([future], self.longest_wait)
            # A call that has been sent cannot be cancelled.
            if not future.done() and future.cancel():
                seconds = throttler.line_up(ticket, **options)[1]
                self._requeue(ticket, max(self.longest_wait, seconds))
            answer = future.result()
        except BaseException:  # a time limit, perhaps
            future.cancel()
            raise
        self.request.claude_answered = True
        return answer

    def _throttler(self) -> Throttler:
        if self.throttler is None:
            how = "@app.task(base=ClaudeTask, throttler=…)"
            raise TypeError(f"{self.name} has no throttler: {how}")
        return self.throttler

    def _was_answered(self) -> bool:
        return bool(getattr(self.request, "claude_answered", False))

    def _ticket(self) -> Optional[LineTicket]:
        """The ticket of an earlier run of this task, or None."""
        fields = (self.request.headers or {}).get(HEADER)
        return None if fields is None else LineTicket(*fields)

    def _requeue(self, ticket: LineTicket, seconds: float) -> NoReturn:
        """Queue the task again for its turn, with its ticket in the message's headers.

        The new message is sent before this run ends, so a worker that dies in between loses
        nothing.
        """
        # A little early: a part of the quota passes unused if it comes late.
        countdown = min(seconds - self.longest_wait / 4.0, self.longest_countdown)
        headers = {**(self.request.headers or {}), HEADER: list(ticket)}
        # Not retry(): that would use up the task's max_retries.
        self.signature_from_request(countdown=countdown, headers=headers).apply_async()
        raise Retry(f"its turn at Claude comes in {seconds:.1f} s", when=countdown)


def _is_from_sdk(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "anthropic"


def _close_all(**_arguments: object) -> None:
    close_all(float(current_app.conf.get("claude_throttle_shutdown_timeout", SHUTDOWN_SECONDS)))


signals.worker_process_shutdown.connect(_close_all, dispatch_uid="claude_throttle")
