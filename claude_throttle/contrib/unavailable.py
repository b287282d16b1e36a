"""The 503 response of a web application whose call to Claude was refused.

Refused by the throttler before it was sent, or by the API after all retries. The response has
``Retry-After``, distinguishes a temporary limit from a problem of the account, and reveals nothing
of either: visitors must not learn whose account it is or what it may spend. The details are logged.
Django and Flask only turn it into their own response objects.
"""

from __future__ import annotations

import functools
import html
import logging
import math
import pkgutil
from collections.abc import Iterable, Iterator
from string import Template
from typing import Any, NamedTuple, Optional

from claude_throttle import (
    AccountSuspended,
    ApiRefusal,
    CircuitOpen,
    DeadlineExceeded,
    ErrorWatch,
    QueueFull,
    ThrottleError,
    api_refusal,
)

logger = logging.getLogger("claude_throttle")

#: "Service Unavailable" (RFC 9110 §15.6.4).
STATUS = 503

#: Seconds in ``Retry-After`` where the error has none.
DEFAULT_RETRY_AFTER = 5

#: Seconds in ``Retry-After`` at most: a daily quota or a suspension may end early.
LONGEST_RETRY_AFTER = 3600

#: What a program reads in the JSON. Public: names are added, never renamed. Refusals of the API are
#: called as :class:`claude_throttle.ApiRefusal` calls them.
KINDS: dict[type[ThrottleError], str] = {
    QueueFull: "queue_full",
    DeadlineExceeded: "deadline_exceeded",
    CircuitOpen: "circuit_open",
    AccountSuspended: "account_suspended",
}

#: Errors of ours that become a 503. The others are mistakes in the program or its settings.
REFUSALS = tuple(KINDS)

#: The setting, of Django and of Flask, that leaves refusals of the API to the application.
API_ERRORS = "CLAUDE_THROTTLE_HANDLE_API_ERRORS"

#: The application's own template, if there is one. Its variable ``unavailable`` is an
#: :class:`Unavailable`.
TEMPLATE = "claude_throttle/unavailable.html"


class Unavailable(NamedTuple):
    """The content of a 503 response. It names no account, no limit and no model."""

    #: "queue_full", "deadline_exceeded", "circuit_open", "account_suspended"; for refusals of the
    #: API "rate_limited", "overloaded", "no_connection", "account_refused".
    kind: str
    #: False where the account needs attention: waiting does not help.
    passing: bool
    #: Whole seconds, at least 1.
    retry_after: int

    @property
    def message(self) -> str:
        """One sentence for the visitor."""
        if self.passing:
            return f"This service is busy. Please try again in {_duration(self.retry_after)}."
        return "This service is out of order, and trying again will not help until it is repaired."

    @property
    def title(self) -> str:
        """Two to four words for the visitor."""
        return "Busy for the moment" if self.passing else "Out of order"

    @property
    def html(self) -> str:
        """A self-contained page, for light and dark mode and any width."""
        return _page().substitute(title=html.escape(self.title), message=html.escape(self.message))

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, beside Content-Type."""
        return {"Retry-After": str(self.retry_after), "Cache-Control": "no-store"}

    @property
    def json(self) -> dict[str, Any]:
        """The body for programs."""
        return {
            "error": {
                "type": self.kind,
                "message": self.message,
                "passing": self.passing,
                "retry_after": self.retry_after,
            }
        }


@functools.cache
def _page() -> Template:
    """The page's template, read once; from a zip file, too, if the package is installed as one."""
    found = pkgutil.get_data("claude_throttle.contrib", "unavailable.html")
    if found is None:
        raise FileNotFoundError("claude_throttle/contrib/unavailable.html is not installed")
    return Template(found.decode())


#: What browsers name in ``Accept`` when a person opens a page, and programs do not.
PAGES = ("text/html", "application/xhtml+xml")


def prefers_page(media_types: Iterable[str]) -> bool:
    """Whether a page is named before JSON among what a client accepts, its preferred type first.

    ``*/*``, which ``fetch()``, curl and ``requests`` send, gets JSON.
    """
    named = (kind for kind in media_types if kind in (*PAGES, "application/json"))
    return next(named, None) in PAGES


def _duration(seconds: int) -> str:
    if seconds < 90:
        return "a second" if seconds == 1 else f"{seconds} seconds"
    return f"{math.ceil(seconds / 60)} minutes"


class RefusedVisit(NamedTuple):
    """An error that becomes a 503, and what it means."""

    error: object
    #: That of :class:`Unavailable`.
    kind: str
    retry_after: Optional[float]


def refusal_of(error: object, api_errors: bool = True) -> Optional[RefusedVisit]:
    """What *error* means if it becomes a 503, else None; *api_errors*: the API's refusals do."""
    if isinstance(error, REFUSALS):
        kind = next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)
        return RefusedVisit(error, kind, error.retry_after)
    if not api_errors:
        return None
    if isinstance(error, ApiRefusal):  # an ErrorWatch has it where others make the exception
        return RefusedVisit(error, *error)
    found = api_refusal(error) if isinstance(error, BaseException) else None
    return None if found is None else RefusedVisit(error, *found)


def is_refusal(error: object, api_errors: bool = True) -> bool:
    """Whether *error* becomes a 503; *api_errors*: refusals of the API do, too."""
    return refusal_of(error, api_errors) is not None


def caught_refusal(
    watch: ErrorWatch, api_errors: bool, raised: Optional[BaseException] = None
) -> Optional[RefusedVisit]:
    """The refusal that made a request's response a 500; None if there was none. Ends *watch*.

    *raised* is the exception that made it a 500, None if the view returned it: what was refused
    counts only if the exception came of that.
    """
    errors, chain = watch.collect(), list(_chain(raised))
    found = (refusal_of(error, api_errors) for error in chain or errors)
    return next(filter(None, found), None)


def _chain(error: Optional[BaseException]) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def unavailable(error: object) -> Unavailable:
    """The response to *error*, a :class:`RefusedVisit` or what becomes one; it is logged.

    A problem of the account is logged as an error, because it lasts until it is repaired; a
    temporary refusal only as information. ``Retry-After`` is the error's ``retry_after``, in whole
    seconds from 1 to :data:`LONGEST_RETRY_AFTER`.
    """
    refusal = error if isinstance(error, RefusedVisit) else refusal_of(error)
    error, kind, seconds = refusal or (error, "unavailable", None)
    passing = kind not in ("account_suspended", "account_refused")
    logger.log(logging.INFO if passing else logging.ERROR, "answered with %d: %s", STATUS, error)
    if seconds is None or not math.isfinite(seconds):
        seconds = DEFAULT_RETRY_AFTER
    return Unavailable(kind, passing, max(1, math.ceil(min(seconds, LONGEST_RETRY_AFTER))))
