"""The exceptions of claude_throttle, grouped by what a caller can do about them.

What the *API* refuses is raised as the official SDK's own exceptions (``anthropic.RateLimitError``
and its subclasses), so that code written for the SDK goes on working. Everything else derives from
:class:`ThrottleError`. All of these pickle, since they have to pass from a worker of Celery or
``multiprocessing`` to its parent, and none holds a key or a prompt, since they end up in logs.

This module imports nothing of the package: every other module may raise what it defines.
"""

from __future__ import annotations

from typing import Any, Optional


class ThrottleError(Exception):
    """The base class of all exceptions that claude_throttle itself raises.

    ``retry_after`` is the number of seconds after which another try makes sense, or None if that
    is not known. It is an estimate made when the exception was raised, not a promise.
    """

    retry_after: Optional[float] = None

    def __init__(self, message: str, *, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        if retry_after is not None:
            self.retry_after = retry_after

    # Rebuilt without calling __init__, so that a subclass that needs more than a message pickles.
    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    cls: type[ThrottleError], args: tuple[Any, ...], state: dict[str, Any]
) -> ThrottleError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# -- Change the program: the same call would be refused again --------------------------------------


class ConfigurationError(ThrottleError, ValueError):
    """A setting that cannot work: a wrong value, a missing or malformed key, an unsafe URL.

    Raised before anything is sent. The message names the setting, and never shows a secret.
    """


class UnknownSetting(ConfigurationError, TypeError):
    """A keyword that is not the name of a setting; the message names the most similar setting.

    It is a TypeError, too, as Python raises for an unexpected keyword argument.
    """


class InvalidCall(ThrottleError, ValueError):
    """A request that the API would refuse, or a wrong argument; nothing was sent.

    Raised by the method that was called, in its thread, not by the future that it would return.
    """


class QuotaTooSmall(ThrottleError):
    """A call that costs more than a whole quota allows: it would wait without end, so it fails."""


# -- Try again later: nothing was sent -------------------------------------------------------------


class QueueFull(ThrottleError):
    """As many calls are waiting in the lane as ``max_queue`` allows, so this one was not accepted.

    ``retry_after`` is the expected wait in seconds. Nothing was sent.
    """


class CircuitOpen(ThrottleError):
    """The API keeps failing, and this call's deadline comes before the next probe.

    ``retry_after`` is the time until that probe.
    """


class AccountSuspended(ThrottleError):
    """The API refuses the whole account, for a spend limit, a bill or a key; retries do not help.

    ``reason`` says which; ``until`` is the date access comes back in the server's own words, or
    None; ``lane`` is the lane that is refused, "" for the whole account. One call is sent as a
    probe after ``retry_after`` seconds; ``resume()`` ends the suspension.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        until: Optional[str] = None,
        lane: str = "",
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason
        self.until = until
        self.lane = lane


#: What whoever comes after close() or drain() is told.
THROTTLER_CLOSED = "the throttler is closed; make a new one to go on"


class Closed(ThrottleError):
    """The throttler, or the stream, was closed before this call had its whole answer.

    ``sent`` is True if the request was on the wire already: it may be billed.
    """

    sent: bool = False

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class Forked(ThrottleError):
    """The call, stream or handle belongs to the parent process, where its answer will arrive.

    Raised in a forked child: two processes that read from one connection would get each other's
    answers.
    """


class Unprocessed(ThrottleError):
    """A request in a batch that was canceled or expired before it was processed; not billed.

    ``reason`` is "canceled" or "expired".
    """

    reason: str = ""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


# -- Some of it was done: look before you try again ------------------------------------------------


class BatchIncomplete(ThrottleError):
    """Not all batches of a ``batches.submit()`` were created; ``__cause__`` tells why.

    ``ids``: the batches that were; ``batches.resume(ids)`` gets their results. ``unsure``: one
    more may have been created, whose id is not known; ``batches.recent()`` shows it, if so.
    """

    ids: tuple[str, ...] = ()
    unsure: bool = False

    def __init__(self, message: str, *, ids: tuple[str, ...] = (), unsure: bool = False) -> None:
        super().__init__(message)
        self.ids = ids
        self.unsure = unsure


# -- Time was up -----------------------------------------------------------------------------------


class DeadlineExceeded(ThrottleError, TimeoutError):
    """The call's ``timeout`` passed, in the queue, between two attempts or during one.

    ``sent`` is True if the request was on the wire already: it may be billed. It is a
    ``TimeoutError``, too.
    """

    sent: bool = False

    def __init__(
        self, message: str, *, sent: bool = False, retry_after: Optional[float] = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.sent = sent


# -- Look at the server, or at what stands between -------------------------------------------------


class BrokenAnswer(ThrottleError):
    """The server answered 200 with something that is not a whole message.

    A message is not sent again then, since the first answer may be billed. ``request_id`` is None
    where it is not known: the response may be a proxy's, not the API's.
    """

    def __init__(
        self, message: str, *, status: int = 200, request_id: Optional[str] = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
