"""For Celery. Import it where the app is made: that closes throttlers as a worker's children end.

They end without Python's exit hooks, so calls that a task submitted and did not wait for would be
lost, and what they were waiting for never known. Now each child finishes them, for as long as the
app's setting ``claude_throttle_shutdown_timeout`` says (seconds, 5 by default); what is left then
is cancelled, and raises :class:`claude_throttle.Closed`.

A task with :class:`ClaudeTask` as its base gives its worker back when the quota is far, and keeps
its place in line.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import Any, NoReturn, Optional

from celery import Task, current_app, signals  # type: ignore[import-untyped]
from celery.exceptions import Retry  # type: ignore[import-untyped]

from claude_throttle import LineTicket, ThrottleError, Throttler, close_all

#: Seconds for the calls that are left when a child ends.
SHUTDOWN_SECONDS = 5.0

#: The message header that a ticket travels in.
HEADER = "claude_throttle_ticket"


class ClaudeRefused(ThrottleError):
    """What the API refused, as the result of a task; the SDK's own error is inside the task.

    That one cannot be made again from JSON, the way results travel; this one can. ``kind`` is its
    name ("BadRequestError"), ``status`` the HTTP status or None.
    """

    def __init__(
        self,
        message: str,
        kind: str = "",
        status: Optional[int] = None,
        request_id: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        # Celery makes it again from these.
        self.args = (message, kind, status, request_id)
        self.kind = kind
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class ClaudeTask(Task):  # type: ignore[misc]
    """A task that asks Claude, and comes back later rather than wait for long.

    ``@app.task(base=ClaudeTask, bind=True, throttler=Throttler(shared="redis://…"))``, and in it
    ``self.ask_claude(model=…, max_tokens=…, messages=[…])``. All workers, and whoever else uses
    the quota, need the same ``shared=``.
    """

    abstract = True

    #: One for all processes' tasks: it starts afresh in each child.
    throttler: Optional[Throttler] = None
    #: Seconds that a call may hold up this process before it is sent.
    longest_wait: float = 2.0
    #: Seconds after which it comes back at the latest, if only to be sent away again. A broker
    #: that hears nothing of a message for long delivers it again: Redis after an hour
    #: (visibility_timeout, Celery 5.7's documentation, 2026-11).
    longest_countdown: float = 600.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it; a refusal of the API that leaves it becomes :class:`ClaudeRefused`."""
        try:
            return super().__call__(*args, **kwargs)
        except Exception as error:
            if self.request.called_directly or not _is_the_sdks(error):
                raise
            status, request_id = (getattr(error, of, None) for of in ("status_code", "request_id"))
            raise ClaudeRefused(str(error), type(error).__name__, status, request_id) from error

    def ask_claude(self, **options: Any) -> Any:
        """The answer, as a dict that may be the task's result; ``raw=False``: a ``Message``.

        *options* are those of ``Throttler.submit()``. If it can be sent within ``longest_wait`` it
        is, and this returns or raises as ``call()`` does. Else the task is sent to its queue again,
        with a countdown and its place in line, and ends here by ``celery.exceptions.Retry``;
        its ``retries`` stay as they are. So it runs from its beginning again: ask before you do
        what must not be done twice. Only the first call of a run sends it away; the others wait,
        as do calls in a task that is called directly or applied eagerly.
        """
        options.setdefault("raw", True)
        throttler = self._throttler()
        if self.request.called_directly or self.request.is_eager or self._was_answered():
            return throttler.call(**options)
        ticket, seconds = throttler.line_up(self._ticket(), **options)
        # Half of it: those before it may take a little longer than they thought.
        if seconds > self.longest_wait / 2.0:
            self._come_back(ticket, seconds)
        future: Future[Any] = throttler.submit(**options)
        try:
            wait([future], self.longest_wait)
            # One that is on its way cannot be cancelled.
            if not future.done() and future.cancel():
                seconds = throttler.line_up(ticket, **options)[1]
                self._come_back(ticket, max(self.longest_wait, seconds))
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
        """That of an earlier run."""
        told = (self.request.headers or {}).get(HEADER)
        return None if told is None else LineTicket(*told)

    def _come_back(self, ticket: LineTicket, seconds: float) -> NoReturn:
        # A little early: who comes late lets a part of the quota go by.
        countdown = min(seconds - self.longest_wait / 4.0, self.longest_countdown)
        headers = {**(self.request.headers or {}), HEADER: list(ticket)}
        # Not retry(): that would use up the task's max_retries.
        self.signature_from_request(countdown=countdown, headers=headers).apply_async()
        raise Retry(f"its turn at Claude comes in {seconds:.1f} s", when=countdown)


def _is_the_sdks(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "anthropic"


def _close(**_arguments: object) -> None:
    close_all(float(current_app.conf.get("claude_throttle_shutdown_timeout", SHUTDOWN_SECONDS)))


signals.worker_process_shutdown.connect(_close, dispatch_uid="claude_throttle")
