"""A cache in front of a shared store: many viewers of the fleet's state cause one query.

The status page asks every two seconds in each open browser. Without the cache every viewer would
cost the store a query each time, and a store that hangs would block a thread of the web server for
each of them.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Callable, NamedTuple, Optional

import claude_throttle
from claude_throttle import SYSTEM_CLOCK, Clock

#: Seconds for which an answer is reused.
FRESH_SECONDS = 2.0

#: Seconds for which a failure is reused: a store that does not answer must not block a thread of
#: the web server at every request.
FAILED_SECONDS = 10.0

#: Seconds that the store has for the connection, and again for its answer.
TIMEOUT_SECONDS = 0.5

#: Seconds after which the answer of a store that is no longer asked for is dropped.
DROP_SECONDS = 60.0


class _Answer(NamedTuple):
    """The last answer of one store, or its failure."""

    #: Kept alive, so that no other client object can have its id.
    shared: Any
    fleet: Optional[claude_throttle.FleetState]
    error: Optional[str]
    at: float
    fresh_until: float


class FleetCache:
    """The last answer of each store. Thread-safe; forked children start with an empty cache.

    It has no lock, which a fork could leave held in the child; the comments at the dictionaries say
    why none is needed. Errors of the store are kept like answers, and never raised.
    """

    def __init__(
        self,
        ask: Optional[Callable[..., claude_throttle.FleetState]] = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ask = ask
        self._clock = clock
        # Plain dicts, by pid: setdefault and pop are atomic, and no fork leaves a lock held.
        self._answers: dict[tuple[int, object], _Answer] = {}
        self._asking: dict[tuple[int, object], object] = {}

    def current(self, shared: Any) -> dict[str, Any]:
        """The fleet's state in *shared*, two seconds old at most; or an error text in its place.

        One caller queries the store, for a second at most; concurrent callers get the last answer.
        """
        key = (os.getpid(), shared if isinstance(shared, str) else id(shared))
        mine = object()
        if not self._is_fresh(key) and self._asking.setdefault(key, mine) is mine:
            try:
                if not self._is_fresh(key):  # another query may have ended just now
                    self._answers[key] = self._answer(shared)
            finally:
                del self._asking[key]
            self._drop_old()
        return self._shown(self._answers.get(key))

    def _is_fresh(self, key: tuple[int, object]) -> bool:
        known = self._answers.get(key)
        return known is not None and self._clock.monotonic() < known.fresh_until

    def _answer(self, shared: Any) -> _Answer:
        """Ask the store, and return its answer or the failure; never raises an Exception."""
        fleet, error = None, None
        try:
            fleet = (self._ask or claude_throttle.fleet)(shared, timeout=TIMEOUT_SECONDS)
        except claude_throttle.ThrottleError as problem:
            error = str(problem)
        except Exception as problem:  # noqa: BLE001 - other programs write there, too
            error = f"the store's content cannot be read ({type(problem).__name__})"
        now = self._clock.monotonic()
        return _Answer(
            shared, fleet, error, now, now + (FAILED_SECONDS if error else FRESH_SECONDS)
        )

    def _drop_old(self) -> None:
        """Forget stores that are no longer asked for, and the entries of a parent process."""
        now = self._clock.monotonic()
        for key, answer in list(self._answers.items()):
            if now > answer.at + DROP_SECONDS:
                self._answers.pop(key, None)

    def _shown(self, answer: Optional[_Answer]) -> dict[str, Any]:
        if answer is None:
            return _shown(None, "the store is being asked", None)
        return _shown(answer.fleet, answer.error, self._clock.monotonic() - answer.at)


def _shown(
    fleet: Optional[claude_throttle.FleetState], error: Optional[str], age: Optional[float]
) -> dict[str, Any]:
    return {
        "store": None if fleet is None else fleet.store,
        "error": error,
        "age_seconds": age,
        "members": [] if fleet is None else [_member(one) for one in fleet.members],
        "paused": [] if fleet is None else [account[:6] for account in fleet.paused],
        "lanes": [] if fleet is None else [_lane(one) for one in fleet.lanes],
    }


def _member(member: claude_throttle.FleetMember) -> dict[str, Any]:
    counts = member.lanes.values()
    return {
        "account": member.account[:6],
        "host": member.host,
        "pid": member.pid,
        "this": (member.host, member.pid) == (socket.gethostname(), os.getpid()),
        "waiting": sum(waiting for waiting, _ in counts),
        "in_flight": sum(out for _, out in counts),
        "lanes": {name: list(both) for name, both in member.lanes.items()},
        "expires_seconds": member.expires_seconds,
        "paused": member.paused,
    }


def _lane(lane: claude_throttle.FleetLane) -> dict[str, Any]:
    quotas = {name: {"left": left, "a_minute": rate} for name, (left, rate) in lane.quotas.items()}
    return {**lane._asdict(), "account": lane.account[:6], "quotas": quotas}
