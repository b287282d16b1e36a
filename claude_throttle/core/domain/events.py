"""Events: what has happened to a call, a lane or the account, for listeners, counters and the log.

A listener (``on_event=``) is called with these in the thread where they happened, inside the
submitter's ``contextvars`` context: in the caller's own thread for :class:`CallQueued`, in the
thread that calls cancel(), resume() or close() for what these bring about, in a sender thread for
the rest, never in the worker. If a listener raises, that is logged and has no other effect.

Named tuples, because a frozen dataclass costs half a millisecond of every import.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from claude_throttle.core.domain.cost import Usage


class CallQueued(NamedTuple):
    """A call was queued."""

    #: Number of the call within this process, from 1.
    number: int
    model: str
    #: Calls waiting in the lane, this one included.
    waiting: int


class CallSent(NamedTuple):
    """A call left for the server."""

    number: int
    model: str
    #: 1 for the first send.
    attempt: int
    #: Seconds since it was submitted.
    waited_seconds: float


class RetryScheduled(NamedTuple):
    """An attempt was refused or lost, and the call waits to be sent again."""

    number: int
    model: str
    #: The attempt that failed, 1 for the first send.
    attempt: int
    #: HTTP status, or None if the connection failed.
    status: Optional[int]
    #: In one or two words: "rate limit", "overloaded", "connection lost" ...
    reason: str
    #: Seconds until it may queue again.
    wait_seconds: float


class LanePaused(NamedTuple):
    """A refusal stopped everything in one lane for a while."""

    lane: str
    status: Optional[int]
    #: Seconds, jitter included.
    seconds: float
    #: Seconds until one call is tried all the same, in a pause of more than 15 minutes; else None.
    probe_in_seconds: Optional[float] = None


class LaneResumed(NamedTuple):
    """The first call left after a pause. Its answer shows whether the pause was long enough."""

    lane: str


class LimitLearned(NamedTuple):
    """The server's headers, or the words of a refusal, tell another limit than before."""

    lane: str
    #: "requests", "input_tokens", "output_tokens".
    kind: str
    #: Per minute.
    limit: float
    #: 0.0 if nothing was known.
    before: float


class CircuitOpened(NamedTuple):
    """Several calls sent one after another all failed; only probes leave until one is answered."""

    lane: str
    #: Seconds until the first.
    probe_in_seconds: float


class CircuitHalfOpened(NamedTuple):
    """A probe left: one request that finds out whether the server answers again."""

    lane: str


class CircuitClosed(NamedTuple):
    """A probe was answered: calls leave again, few at first."""

    lane: str


class ConcurrencyChanged(NamedTuple):
    """More, or fewer, requests may be in flight, over all lanes."""

    limit: float
    before: float


class Suspended(NamedTuple):
    """The API refuses all requests for a reason that waiting does not cure; nothing is sent."""

    #: A lane, or "" for all of them.
    lane: str
    #: "spend limit", "key refused" ...
    reason: str
    #: When access comes back, in the server's own words, or None.
    until: Optional[str]


class SuspensionEnded(NamedTuple):
    """A probe was answered, or resume() was called."""

    lane: str


class PausedByHand(NamedTuple):
    """pause() was called: nothing leaves until resume(). Calls are still accepted."""

    #: All processes that share the account are paused; otherwise only this one.
    everywhere: bool


class ResumedByHand(NamedTuple):
    """resume() was called after a pause(). The other kind of pause, if it is in force, goes on."""

    everywhere: bool


class StoreLost(NamedTuple):
    """The store that processes share cannot be reached; ``on_store_failure`` says what follows."""

    store: str
    #: Why, in plain words.
    reason: str
    #: Processes that shared it when it was last reached, this one included.
    members: int


class StoreReturned(NamedTuple):
    """The store that processes share can be reached again, and the quota is shared as before."""

    store: str
    members: int


class CallSucceeded(NamedTuple):
    """An answer was delivered."""

    number: int
    model: str
    attempts: int
    #: Seconds from the first send to the last byte of the answer, waits for retries included.
    latency_seconds: float
    usage: Usage
    request_id: Optional[str]


class CallFailed(NamedTuple):
    """A call ended in an exception, or was cancelled while it waited."""

    number: int
    model: str
    attempts: int
    #: Name of the exception's class; "CancelledError" for a cancelled call.
    error: str
    #: HTTP status of the refusal, or None.
    status: Optional[int]


class PermitGranted(NamedTuple):
    """A request of other code may be sent: the official SDK's, a session's, one under permit().

    Emitted in the thread that asked for the permit.
    """

    #: Counted with the calls.
    number: int
    lane: str
    #: Seconds since it was asked for.
    waited_seconds: float


class PermitClosed(NamedTuple):
    """A permit was closed. Not emitted for one that was dropped and garbage collected.

    Emitted in the thread that closed it.
    """

    number: int
    lane: str
    #: Seconds from the grant to the last byte of the answer, or to settle(); until it was closed if
    #: neither came.
    seconds: float
    #: HTTP status of the answer; None if it was not reported, or there was none.
    status: Optional[int]
    #: The server refused it, or nothing came back.
    refused: bool
    #: What the request took, if that was reported.
    usage: Optional[Usage]


class IterationBooked(NamedTuple):
    """An answer took tokens of another model than the one asked: a fallback's, an advisor's.

    They are booked in that model's lane, and not in the usage of the call or permit.
    """

    model: str
    lane: str
    usage: Usage


class ConnectionLimitReached(NamedTuple):
    """As many requests are in flight as ``max_connections`` allows; others wait for one to end.

    Emitted again only after half of the connections were free.
    """

    #: Half of the files that the process may open, unless the setting gives a number.
    limit: int


Event = Union[
    CallQueued,
    CallSent,
    RetryScheduled,
    LanePaused,
    LaneResumed,
    LimitLearned,
    CircuitOpened,
    CircuitHalfOpened,
    CircuitClosed,
    ConcurrencyChanged,
    Suspended,
    SuspensionEnded,
    PausedByHand,
    ResumedByHand,
    StoreLost,
    StoreReturned,
    CallSucceeded,
    CallFailed,
    PermitGranted,
    PermitClosed,
    IterationBooked,
    ConnectionLimitReached,
]
