"""Testing mode: a throttler's calls are answered here, and none is made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.core.threads import exit_hooks
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.process_local import ProcessLocal
from claude_throttle.engine import Engine
from claude_throttle.features.test_mode.canned_transport import CannedAnswer, CannedTransport

if TYPE_CHECKING:
    from claude_throttle.config.settings import Settings
    from claude_throttle.metrics.event_bus import Listener

logger = logging.getLogger("claude_throttle")

#: What would reach for the network, or take from a quota that is shared with who makes real calls.
OFF = {"shared": None, "admin_key": None, "count_tokens": "estimate"}


class CannedAnswers:
    """What :meth:`Throttler.testing_mode` gives: a context manager. Thread-safe.

    It has lanes and counters of its own, so it leaves no trace in what the throttler has learned.
    """

    def __init__(
        self,
        among: list[CannedAnswers],
        canned: CannedAnswer,
        settings: Callable[[], Settings],
        clock: Clock,
        listener: Optional[Listener],
    ) -> None:
        canned.require()
        self._canned = canned
        self._settings = settings
        self._clock = clock
        self._listener = listener
        self.processes = ProcessLocal(self._begin)
        # The last one is in force. Single list operations only, so no lock.
        self._among = among
        among.append(self)
        logger.warning("testing mode: answers are canned, and no call to Claude is made")

    def _begin(self) -> Engine:
        settings, clock = self._settings().replaced(OFF), self._clock
        process = Engine(settings, clock, self._listener, CannedTransport(self._canned, clock))
        exit_hooks.finish_at_exit(process)
        return process

    def end(self, cancel_pending: bool = False) -> None:
        """Finish, or cancel, what is to be answered here; calls go where they went before.

        Idempotent. Who calls from another thread at this moment may get :class:`Closed`.
        """
        try:
            self._among.remove(self)
        except ValueError:  # it has ended
            return
        process = self.processes.mine_if_any()
        if process is not None:
            process.close(0 if cancel_pending else None, cancel_pending)
            exit_hooks.forget(process)
        if not self._among:
            logger.warning("testing mode is over: calls go to %s", self._settings().base_url)

    def __enter__(self) -> CannedAnswers:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_rest: object) -> None:
        self.end(cancel_pending=kind is not None)

    def __repr__(self) -> str:
        return f"<CannedAnswers {'in force' if self in self._among else 'ended'}>"
