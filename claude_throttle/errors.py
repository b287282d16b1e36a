"""Our exceptions, grouped by what a caller can do about them.

What the *API* refuses is raised as the official SDK's own exceptions (``anthropic.RateLimitError``
and its relatives). Everything here is ours, comes under :class:`ThrottleError`, pickles, and never
holds a key or a prompt.
"""

from __future__ import annotations

from typing import Any, Optional


class ThrottleError(Exception):
    """The base of all exceptions of claude_throttle itself.

    ``retry_after`` is the number of seconds after which another try makes sense, or None.
    """

    retry_after: Optional[float] = None

    def __init__(self, message: str, *, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        if retry_after is not None:
            self.retry_after = retry_after

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
    """A setting that cannot work: a wrong value, a missing or malformed key, an unsafe URL."""


class UnknownSetting(ConfigurationError, TypeError):
    """An unknown setting; the message names the closest one."""


class InvalidCall(ThrottleError, ValueError):
    """A request that the API would refuse; it was not sent."""


class QuotaTooSmall(ThrottleError):
    """A call larger than a whole quota: it could never be sent."""


# -- Try again later: nothing was sent -------------------------------------------------------------


class QueueFull(ThrottleError):
    """As many calls are waiting as ``max_queue`` allows; ``retry_after`` is the expected wait."""


class CircuitOpen(ThrottleError):
    """The API keeps failing, and this call's deadline comes before the next probe.

    ``retry_after`` is the time until that probe.
    """


class AccountSuspended(ThrottleError):
    """The API refuses the account for a spend limit, a bill, a key: waiting does not help.

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


class Closed(ThrottleError):
    """The throttler was closed or drains; this call was not finished.

    ``sent``: the request was on the wire, and may be billed.
    """

    sent: bool = False

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class Forked(ThrottleError):
    """The call belongs to the parent process; its answer will arrive there."""


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
    """The call's ``timeout`` passed. ``sent``: it was on the wire, and may be billed."""

    sent: bool = False

    def __init__(
        self, message: str, *, sent: bool = False, retry_after: Optional[float] = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.sent = sent


# -- Look at the server, or at what stands between -------------------------------------------------


class BrokenAnswer(ThrottleError):
    """The server answered 200 with something that is not a whole message; it may be billed."""

    def __init__(
        self, message: str, *, status: int = 200, request_id: Optional[str] = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
