"""The front door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, overload

from claude_throttle.config.settings import QUOTAS, Settings
from claude_throttle.config.validation import UNSET, Timeout, seconds_of
from claude_throttle.core.dispatch.call import CallFuture
from claude_throttle.core.dispatch.permit import AdmissionOptions, Permit
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.queueing.look_ahead import default_look_ahead, in_order
from claude_throttle.core.threads import exit_hooks
from claude_throttle.core.threads.clock import SYSTEM_CLOCK, Clock
from claude_throttle.core.threads.process_local import ProcessLocal
from claude_throttle.errors import Closed, ConfigurationError
from claude_throttle.metrics.event_bus import Listener
from claude_throttle.metrics.recorder import Stats
from claude_throttle.transport import sdk
from claude_throttle.transport.request import require_options, without_ours

if TYPE_CHECKING:
    from anthropic.types import Message
    from requests.adapters import HTTPAdapter
    from typing_extensions import Unpack

    from claude_throttle.account.admission import Admission, AdmittedAttempt
    from claude_throttle.account.limits import Limits
    from claude_throttle.config.settings import SettingsOptions
    from claude_throttle.engine import Engine
    from claude_throttle.features.batches.api import Batches
    from claude_throttle.features.batches.client import BatchClient
    from claude_throttle.features.sharing.virtual_queue import LineTicket
    from claude_throttle.features.streaming.message_stream import MessageStream
    from claude_throttle.features.test_mode.canned_transport import CannedLatency, CannedText
    from claude_throttle.features.test_mode.test_mode import CannedAnswers
    from claude_throttle.metrics.history import HistoryInterval


class Throttler:
    """Lets Claude calls leave at the pace the quotas allow, and returns futures.

    ``Throttler(rpm=50, itpm=30_000, otpm=8_000)``; :class:`Settings` explains every keyword, and
    the environment fills in what is left out. Quotas hold for each model by itself.

    Thread-safe: make one and share it. Fork-safe: a child starts with nothing waiting, its copies
    of the parent's futures raise :class:`Forked`. No thread starts before the first call. At the
    end of the interpreter everything submitted is finished, after Ctrl-C it is cancelled. As a
    context manager it closes itself, and cancels what is pending if the block raises.

    *on_event* is called with each :data:`Event` in the submitter's context. *clock* is for tests.
    """

    def __init__(
        self,
        settings: Optional[Settings] = None,
        *,
        on_event: Optional[Listener] = None,
        clock: Clock = SYSTEM_CLOCK,
        **options: Unpack[SettingsOptions],
    ) -> None:
        # Most of the package, and requests: not for a program that only imports this one. Yet
        # before the first call, which may come from any thread while another one forks.
        from claude_throttle.engine import Engine

        self._make_engine = Engine
        self._settings = Settings.given(settings, options)
        self._on_event = on_event
        self._clock = clock
        self._closed = False
        self._processes: ProcessLocal[Engine] = ProcessLocal(self._begin)
        #: The last one is in force.
        self._canned: list[CannedAnswers] = []
        if self._settings.testing:
            self.testing_mode()

    @property
    def settings(self) -> Settings:
        """What it was told, as it stands."""
        return self._settings

    @property
    def testing(self) -> bool:
        """Whether testing_mode() is in force: answers are canned, and no call is made."""
        return bool(self._canned)

    @property
    def closed(self) -> bool:
        """Whether drain() or close() was called: nothing is accepted any more."""
        return self._closed

    @property
    def batches(self) -> Batches:
        """Message Batches: ``submit(requests)``, ``resume(ids)``, ``recent()``."""
        from claude_throttle.features.batches.api import Batches  # few programs need it

        return Batches(self._batch_client)

    # -- calls -----------------------------------------------------------------------------------

    @overload
    def submit(
        self,
        *,
        raw: Literal[True],
        priority: int = ...,
        tenant: Optional[str] = ...,
        timeout: Timeout = ...,
        block: bool = ...,
        extra_headers: Optional[Mapping[str, str]] = ...,
        **params: Any,
    ) -> Future[dict[str, Any]]: ...

    @overload
    def submit(
        self,
        *,
        raw: Literal[False] = ...,
        priority: int = ...,
        tenant: Optional[str] = ...,
        timeout: Timeout = ...,
        block: bool = ...,
        extra_headers: Optional[Mapping[str, str]] = ...,
        **params: Any,
    ) -> Future[Message]: ...

    def submit(
        self,
        *,
        raw: bool = False,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        block: bool = False,
        extra_headers: Optional[Mapping[str, str]] = None,
        **params: Any,
    ) -> Future[Any]:
        """Queue one call; *params* are those of the Messages API. Returns its future at once.

        The request is a snapshot: changing a list afterwards has no effect. *priority*: lower
        leaves first. *tenant*: those of equal priority share fairly. *timeout*: seconds for queue,
        retries and wire. *block*: wait for a place in a full queue. *raw*: the answer as a dict.

        Raises :class:`InvalidCall`, :class:`QuotaTooSmall`, :class:`QueueFull`, :class:`Closed`,
        :class:`CircuitOpen`, :class:`AccountSuspended`, or :class:`ConfigurationError` without a
        key. The future raises the official SDK's
        exceptions for what the API refuses, :class:`DeadlineExceeded`, :class:`Closed`,
        :class:`BrokenAnswer`.
        """
        self._require_key()
        seconds = seconds_of(timeout, self._settings.timeout)
        return self._process().submit(params, raw, priority, tenant, seconds, block, extra_headers)

    @overload
    def call(self, *, raw: Literal[True], **options: Any) -> dict[str, Any]: ...

    @overload
    def call(self, *, raw: Literal[False] = ..., **options: Any) -> Message: ...

    def call(self, **options: Any) -> Any:
        """``submit(...).result()``; Ctrl-C ends the wait and the call."""
        future = self.submit(**options)
        try:
            return future.result()
        except BaseException:
            if isinstance(future, CallFuture):
                future.give_up()
            raise

    def stream(
        self,
        *,
        raw: bool = False,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        block: bool = False,
        extra_headers: Optional[Mapping[str, str]] = None,
        **params: Any,
    ) -> MessageStream:
        """Send one call in this thread, and return when its answer begins to come.

        ``with throttler.stream(…) as stream: for text in stream.text_stream: …``; the rest is
        told at :class:`MessageStream`. Refusals and errors are retried as those of any call until
        content comes, also while it is read: a second ``message_start`` is left out then. Once
        content has begun nothing is sent again. *timeout*: seconds until content, queue and
        retries included; after that, seconds without a sign of life (pings are one; 120 without
        a timeout). It bounds no whole answer. Raises what submit() and its future would raise.
        """
        self._require_key()
        params.pop("stream", None)
        seconds = seconds_of(timeout, self._settings.timeout)
        return self._process().stream(params, raw, priority, tenant, seconds, block, extra_headers)

    def map(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        look_ahead: Optional[int] = None,
        return_exceptions: bool = False,
        **common: Any,
    ) -> Iterator[Any]:
        """Answers to *requests*, in order; each is a dict of keywords for submit().

        Reads *look_ahead* ahead (twice ``max_concurrency``, or 1,000 if that is unbounded), so an
        endless iterable is fine; waits for a place instead of raising QueueFull. A failed call
        raises where its answer would be, and ends the iteration, unless *return_exceptions*
        yields the exception instead. Leaving early cancels what waits.
        """
        if look_ahead is None:
            look_ahead = default_look_ahead(self._settings.max_concurrency)
        submit = partial(self.submit, block=True, **common)
        return in_order(submit, requests, max(1, look_ahead), return_exceptions)

    def permit(
        self,
        *,
        model: str,
        input_tokens: float = 0,
        max_tokens: float = 0,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
    ) -> Permit:
        """Wait for the right to send one request yourself, at the same pace as all the others.

        A context manager; ``permit.settle(usage=…, headers=…, status=…)`` books what it really
        took, and teaches the pace what the server said. Calls made by this thread meanwhile ride
        on it: they are paced, but need no permit of their own.
        Raises :class:`DeadlineExceeded`, :class:`CircuitOpen`, :class:`AccountSuspended` or
        :class:`Closed`.
        """
        cost = Cost(1.0, float(input_tokens), float(max_tokens))
        return self._admission().permit(model, cost, self._terms(priority, tenant, timeout))

    def middleware(
        self,
        *,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
    ) -> Any:
        """For ``anthropic.Anthropic(middleware=[throttler.middleware()])``: the same pace for it.

        Each attempt at ``messages.create`` or ``stream``, the SDK's retries included, waits for its
        turn, and what was answered is heard as the answer to a call is. A stream holds its place
        until it is read to its end or closed. ``count_tokens`` has a pace of its own; everything
        else passes untouched. *timeout*: seconds to wait for a turn, of each attempt. The SDK's key
        is used, and should be of the same organization. Thread-safe, and good in forked children.

        The SDK's methods then raise, as they are, :class:`QuotaTooSmall`,
        :class:`DeadlineExceeded`, :class:`CircuitOpen`, :class:`AccountSuspended` and
        :class:`Closed`. Raises :class:`ConfigurationError` if the SDK is too old, and
        ``AsyncAnthropic`` a TypeError.
        """
        from claude_throttle.features.interop.sdk_middleware import (
            make_middleware,  # few programs need it
        )

        return make_middleware(self._outer_admission, self._terms(priority, tenant, timeout))

    def adapter(
        self,
        *,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Timeout = UNSET,
        **options: Any,
    ) -> HTTPAdapter:
        """For ``session.mount("https://api.anthropic.com", throttler.adapter())``, with requests.

        Each POST to ``/v1/messages`` waits for its turn; its answer is heard as the answer to a
        call is, with ``stream=True`` until it is read to its end or closed. Everything else is as
        with middleware(). It sends nothing again: the session's owner sees what the API says, and
        a 429 pauses the lane, so that the next try waits. *options* are those of
        ``requests.adapters.HTTPAdapter`` without ``max_retries`` (:class:`ConfigurationError`).
        ``session.post()`` raises our errors as the SDK's methods do under middleware().
        """
        from claude_throttle.features.interop.requests_adapter import SessionAdapter  # few need it

        terms = self._terms(priority, tenant, timeout)
        return SessionAdapter(partial(self._admit_request, terms), **options)

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A frozen picture of this process's calls; ``print()`` it for a report."""
        return self._process().stats()

    def limits(self) -> Limits:
        """What is known of each lane's limits: told, learned, in force; ``print()`` it."""
        return self._process().limits()

    def history(self) -> tuple[HistoryInterval, ...]:
        """The last ten minutes of this process's calls, oldest first, ten seconds each.

        The last one is under way; none are there before the first call. In fixed memory, and safe
        to read from any thread.
        """
        return self._process().history()

    def estimate_wait(self, **params: Any) -> float:
        """Seconds such a call, put now, would wait to leave; inf while paused. As submit()."""
        return self._process().estimate_wait(without_ours(params))

    def line_up(
        self, ticket: Optional[LineTicket] = None, **params: Any
    ) -> tuple[LineTicket, float]:
        """A place in line for such a call, and the seconds after which to come back and make it.

        For work that would rather be done elsewhere than wait here, in a job queue, say. Ask again
        with the *ticket*, in any process that shares the store: it may have become later. Nobody
        who waits in call() or submit() waits for those who are away. Asks the store, once or twice
        (three times where it has lost the line); raises :class:`ConfigurationError` without
        ``shared=``.
        """
        from claude_throttle.features.sharing.virtual_queue import (  # few programs need it
            line_up,
            line_up_alone,
        )

        ask = line_up_alone if self._canned and self._settings.shared is not None else line_up
        engine = self._process()
        return ask(engine.account, *engine.priced(without_ours(params)), ticket)

    # -- steering --------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let nothing leave until resume(); calls are still accepted, answers still arrive."""
        for process in self._all():
            process.pause(True)

    def resume(self) -> None:
        """End a pause(), or a suspension. A pause the server asked for goes on."""
        for process in self._all():
            process.pause(False)

    def reconfigure(self, **options: Unpack[SettingsOptions]) -> None:
        """Change quotas, burst, headroom, max_concurrency, max_queue or timeout while running."""
        self._settings = self._settings.reconfigured(options)
        for process in self._all():
            process.reconfigure(self._settings)

    def preload(self) -> None:
        """Import the official SDK now instead of during the first call (0.5 to 2 s)."""
        sdk.load()

    def testing_mode(
        self, text: Optional[CannedText] = None, *, latency: CannedLatency = 0.0
    ) -> CannedAnswers:
        """Answer every call with *text*, after *latency* seconds, and make none; needs no key.

        For work on a user interface. In force at once, for all threads: to the end of its ``with``
        block, else as long as the throttler. Both may be functions of the request's parameters,
        called in a sender thread; what one raises is how the call fails. Quotas, priorities,
        events and errors of ours are as ever; stats() and limits() are the mode's own, and
        ``shared=`` is left alone. What was put before goes on. permit() sends nothing itself: what
        its caller sends is still sent. Raises :class:`ConfigurationError`. The setting
        ``testing=True`` (CLAUDE_THROTTLE_TESTING=1) is the same from the start.
        """
        from claude_throttle.features.test_mode.canned_transport import CANNED_TEXT, CannedAnswer
        from claude_throttle.features.test_mode.test_mode import (
            CannedAnswers,  # no program in production
        )

        canned = CannedAnswer(CANNED_TEXT if text is None else text, latency)
        return CannedAnswers(
            self._canned,
            canned,
            lambda: self._settings,
            self._clock,
            lambda settings, transport: self._make_engine(
                settings, self._clock, self._on_event, transport
            ),
        )

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: Optional[float] = None) -> int:
        """Accept no more, finish everything, end a pause(); return how many calls are left."""
        self._closed = True
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        return sum(process.drain(self._seconds_until(give_up_at)) for process in self._all())

    def close(self, timeout: Optional[float] = None, cancel_pending: bool = False) -> None:
        """Drain for *timeout* seconds (None: as long as it takes), then end what is left.

        *cancel_pending* cancels what has not been sent. What is out after *timeout* is cut off
        and raises :class:`Closed`. Idempotent; Ctrl-C ends the wait.
        """
        self._closed = True
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        for process in self._begun():
            process.close(self._seconds_until(give_up_at), cancel_pending)
            exit_hooks.forget(process)

    def __enter__(self) -> Throttler:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_rest: object) -> None:
        if kind is not None:
            self.close(timeout=0, cancel_pending=True)
            return
        try:
            self.close()
        except BaseException:  # Ctrl-C while it waited
            self.close(timeout=0, cancel_pending=True)
            raise

    def __repr__(self) -> str:
        told = ", ".join(f"{n}={q.amount:g}" for n in QUOTAS if (q := getattr(self._settings, n)))
        state = "closed" if self._closed else "open"
        where = "TESTING MODE, makes no call:" if self._canned else self._settings.base_url
        return f"<Throttler {where} {told or 'limits learned'} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Throttler holds threads and sockets; make one in each process instead")

    # -- inside ----------------------------------------------------------------------------------

    def _process(self) -> Engine:
        processes = self._processes
        if self._canned:
            # A slice, since another thread may end the mode between two looks.
            processes = next((canned.processes for canned in self._canned[-1:]), processes)
        process = processes.mine()
        if self._closed:  # perhaps before there was a process to close
            process.drain(0)
        return process

    def _begun(self) -> list[Engine]:
        """What this process has: for real calls, and for canned answers."""
        kinds = [self._processes, *(canned.processes for canned in list(self._canned))]
        return [process for kind in kinds if (process := kind.mine_if_any()) is not None]

    def _all(self) -> list[Engine]:
        """The same, with one there at least."""
        self._process()
        return self._begun()

    def _seconds_until(self, instant: Optional[float]) -> Optional[float]:
        return None if instant is None else max(0.0, instant - self._clock.monotonic())

    def _outer_admission(self) -> Admission:
        if self._canned:
            raise ConfigurationError(
                "testing mode answers this throttler's own calls only: this request, of the SDK or "
                "of a session, would be a real one, and is refused"
            )
        return self._process().admission

    def _batch_client(self) -> BatchClient:
        self._require_key()
        if self._closed:
            raise Closed("the throttler is closed; make a new one to go on")
        return self._process().batch_client()

    def _require_key(self) -> None:
        if not self._canned:
            self._settings.require_key()

    def _begin(self) -> Engine:
        process = self._make_engine(self._settings, self._clock, self._on_event)
        exit_hooks.finish_at_exit(process)
        return process

    def _admit_request(
        self, terms: AdmissionOptions, method: str, path: str, read_body: Callable[[], Any]
    ) -> Optional[AdmittedAttempt]:
        return self._outer_admission().admit_request(method, path, read_body, terms)

    def _admission(self) -> Admission:
        return self._process().admission

    def _terms(self, priority: int, tenant: Optional[str], timeout: Timeout) -> AdmissionOptions:
        require_options(priority, tenant)
        return AdmissionOptions(priority, tenant, seconds_of(timeout, self._settings.timeout))
