"""The front door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Optional, overload

from claude_throttle import exit_hooks
from claude_throttle.flow.call import CallFuture
from claude_throttle.flow.clock import SYSTEM_CLOCK, Clock
from claude_throttle.flow.cost import Cost
from claude_throttle.flow.ordered import default_look_ahead, in_order
from claude_throttle.flow.permit import Permit
from claude_throttle.flow.ticket import Priority
from claude_throttle.metrics.stats import Stats
from claude_throttle.observer import Listener
from claude_throttle.per_process import PerProcess
from claude_throttle.settings import QUOTAS, Settings
from claude_throttle.timeouts import UNSET, Timeout, seconds_of
from claude_throttle.transport import sdk
from claude_throttle.transport.request import OUR_KEYWORDS

if TYPE_CHECKING:
    from anthropic.types import Message
    from typing_extensions import Unpack

    from claude_throttle.limits import Limits
    from claude_throttle.process import Process
    from claude_throttle.settings import SettingsOptions


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
        from claude_throttle.process import Process

        self._make_process = Process
        self._settings = Settings.given(settings, options)
        self._on_event = on_event
        self._clock = clock
        self._closed = False
        self._processes = PerProcess(self._begin)

    @property
    def settings(self) -> Settings:
        """What it was told, as it stands."""
        return self._settings

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
        self._settings.require_key()
        return self._process().submit(
            params,
            priority=priority,
            tenant=tenant,
            timeout=seconds_of(timeout, self._settings.timeout),
            raw=raw,
            block=block,
            extra_headers=extra_headers,
        )

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

        A context manager; ``permit.settle(usage=…)`` books what it really took. Calls made by
        this thread meanwhile ride on it: they are paced, but need no permit of their own.
        Raises :class:`DeadlineExceeded`, :class:`CircuitOpen`, :class:`AccountSuspended` or
        :class:`Closed`.
        """
        cost = Cost(1.0, float(input_tokens), float(max_tokens))
        return self._process().permit(
            model,
            cost,
            priority=priority,
            tenant=tenant,
            timeout=seconds_of(timeout, self._settings.timeout),
        )

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A frozen picture of this process's calls; ``print()`` it for a report."""
        return self._process().stats()

    def limits(self) -> Limits:
        """What is known of each lane's limits: told, learned, in force; ``print()`` it."""
        return self._process().limits()

    def estimate_wait(self, **params: Any) -> float:
        """Seconds such a call, put now, would wait to leave; inf while paused. As submit()."""
        request = {name: value for name, value in params.items() if name not in OUR_KEYWORDS}
        return self._process().estimate_wait(request)

    # -- steering --------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let nothing leave until resume(); calls are still accepted, answers still arrive."""
        self._process().pause(True)

    def resume(self) -> None:
        """End a pause(), or a suspension. A pause the server asked for goes on."""
        self._process().pause(False)

    def reconfigure(self, **options: Unpack[SettingsOptions]) -> None:
        """Change quotas, burst, headroom, max_concurrency, max_queue or timeout while running."""
        self._settings = self._settings.reconfigured(options)
        self._process().reconfigure(self._settings)

    def preload(self) -> None:
        """Import the official SDK now instead of during the first call (0.5 to 2 s)."""
        sdk.load()

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: Optional[float] = None) -> int:
        """Accept no more, finish everything, end a pause(); return how many calls are left."""
        self._closed = True
        return self._process().drain(timeout)

    def close(self, timeout: Optional[float] = None, cancel_pending: bool = False) -> None:
        """Drain for *timeout* seconds (None: as long as it takes), then end what is left.

        *cancel_pending* cancels what has not been sent. What is out after *timeout* is cut off
        and raises :class:`Closed`. Idempotent; Ctrl-C ends the wait.
        """
        self._closed = True
        process = self._processes.mine_if_any()
        if process is not None:
            process.close(timeout, cancel_pending)
            exit_hooks.forget(process)

    def __enter__(self) -> Throttler:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
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
        return f"<Throttler {self._settings.base_url} {told or 'limits learned'} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Throttler holds threads and sockets; make one in each process instead")

    # -- inside ----------------------------------------------------------------------------------

    def _process(self) -> Process:
        process = self._processes.mine()
        if self._closed:  # perhaps before there was a process to close
            process.drain(0)
        return process

    def _begin(self) -> Process:
        process = self._make_process(self._settings, self._clock, self._on_event)
        exit_hooks.finish_at_exit(process)
        return process
