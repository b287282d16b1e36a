"""The front door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from claude_throttle.calls import Calls
from claude_throttle.config.settings import QUOTAS, Settings
from claude_throttle.core.threads import exit_hooks
from claude_throttle.core.threads.clock import SYSTEM_CLOCK, Clock
from claude_throttle.core.threads.process_local import ProcessLocal
from claude_throttle.errors import Closed, ConfigurationError
from claude_throttle.metrics.event_bus import Listener
from claude_throttle.metrics.recorder import Stats
from claude_throttle.transport import sdk
from claude_throttle.transport.request import without_ours

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from claude_throttle.account.admission import Admission
    from claude_throttle.account.limits import Limits
    from claude_throttle.config.settings import SettingsOptions
    from claude_throttle.engine import Engine
    from claude_throttle.features.batches.api import Batches
    from claude_throttle.features.sharing.virtual_queue import LineTicket
    from claude_throttle.features.test_mode.canned_transport import CannedLatency, CannedText
    from claude_throttle.features.test_mode.test_mode import CannedAnswers
    from claude_throttle.metrics.history import HistoryInterval


class Throttler(Calls):
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

        self._make_process = Engine
        self._settings = Settings.given(settings, options)
        self._on_event = on_event
        self._clock = clock
        self._closed = False
        self._processes = ProcessLocal(self._begin)
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

        return Batches(self._process_for_batches)

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
        return ask(self._process(), without_ours(params), ticket)

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
            self._canned, canned, lambda: self._settings, self._clock, self._on_event
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

    def _process_for_batches(self) -> Engine:
        if self._canned:
            raise ConfigurationError("testing mode answers no batches; FakeClaude does")
        self._require_key()
        if self._closed:
            raise Closed("the throttler is closed; make a new one to go on")
        return self._process()

    def _require_key(self) -> None:
        if not self._canned:
            self._settings.require_key()

    def _begin(self) -> Engine:
        process = self._make_process(self._settings, self._clock, self._on_event)
        exit_hooks.finish_at_exit(process)
        return process
