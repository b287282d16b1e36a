"""The end of the time of a request that the official SDK sends in several attempts.

The SDK calls its middleware once for each attempt, and sleeps between two. Its own ``timeout`` is
for one attempt, so three attempts may take three times as long. All attempts of a request run in
one thread, and share the key that the SDK makes for each request.
"""

from __future__ import annotations

from typing import Any, Optional

from claude_throttle.core.threads.error_watch import note_error
from claude_throttle.core.threads.local_values import ThreadLocalList
from claude_throttle.errors import DeadlineExceeded

#: Seconds that the SDK sleeps before its first retry, then twice as long each, and at most
#: (``_constants.py`` of SDK 2.14), where the response names no ``retry-after``.
FIRST_SLEEP_SECONDS = 0.5
LONGEST_SLEEP_SECONDS = 8.0


class RequestDeadline:
    """The instant at which a request of the SDK must be over, all attempts and sleeps included."""

    def __init__(self, key: Optional[str], timeout: float, now: float) -> None:
        self.key = key
        self.timeout = timeout
        self.at = now + timeout
        #: An attempt may have reached the API, and be billed.
        self.sent = False

    def exceeded(self, retry_after: Optional[float] = None) -> DeadlineExceeded:
        """The error to raise for a request whose time is over."""
        where = "one may be billed" if self.sent else "nothing of it was answered"
        error = DeadlineExceeded(
            f"a request of the SDK was given {self.timeout:g} s for all its attempts; {where}",
            sent=self.sent,
            retry_after=retry_after,
        )
        note_error(error)
        return error


class RequestDeadlines:
    """The deadlines of the requests that each thread has under way. Thread-safe without a lock."""

    def __init__(self, timeout: Optional[float]) -> None:
        self._timeout = timeout
        self._open: ThreadLocalList[RequestDeadline] = ThreadLocalList()

    def of_attempt(self, request: Any, now: float) -> Optional[RequestDeadline]:
        """The deadline of an attempt's request, whose first attempt sets it; None without one.

        Raises :class:`DeadlineExceeded` if it has passed.
        """
        if self._timeout is None:
            return None
        key = getattr(request.options, "idempotency_key", None)
        mine = self._open.mine()
        found = [deadline for deadline in mine if deadline.key == key]
        # A request may be sent from within another one's middleware: so there may be several. Those
        # that were never seen to end go when their time is over.
        mine[:] = [deadline for deadline in mine if deadline.at > now and deadline.key != key]
        if key is None or not request.retries_taken or not found:
            found = [RequestDeadline(key, self._timeout, now)]
        if found[0].at <= now:
            raise found[0].exceeded()
        mine.append(found[0])
        return found[0]

    def forget(self, deadline: RequestDeadline) -> None:
        """Its request has ended: no other attempt will come."""
        mine = self._open.mine()
        mine[:] = [other for other in mine if other is not deadline]


def sleeps_beyond(
    deadline: RequestDeadline, retries_taken: int, retry_after: Optional[float], now: float
) -> bool:
    """Whether the SDK would sleep before its next attempt until after *deadline*."""
    backoff = min(FIRST_SLEEP_SECONDS * 2.0 ** min(retries_taken, 10), LONGEST_SLEEP_SECONDS)
    # It shortens its own backoff by up to a quarter.
    return now + (retry_after or 0.75 * backoff) >= deadline.at
