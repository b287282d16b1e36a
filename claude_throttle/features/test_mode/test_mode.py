"""Testing mode of a throttler: its calls get canned answers, and nothing is sent.

It puts a second engine, with a canned transport, in the place of the throttler's own, so that
canned answers teach the real one nothing and real calls under way are not disturbed.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Optional, Protocol

from claude_throttle.config.settings import Settings
from claude_throttle.core.threads import exit_hooks
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.exit_hooks import Closable
from claude_throttle.core.threads.local_values import Abandonable, ProcessLocal
from claude_throttle.features.test_mode.canned_transport import CannedAnswer, CannedTransport
from claude_throttle.transport.transport import Transport

logger = logging.getLogger("claude_throttle")

#: Settings that are switched off in testing mode: they would use the network, or a quota that other
#: processes use for real calls.
OFF = {"shared": None, "admin_key": None, "count_tokens": "estimate"}


class CannedEngine(Closable, Abandonable, Protocol):
    """What testing mode needs of an engine: to be closed, and to be abandoned after a fork."""


#: Makes an engine from settings and what takes the network's place.
MakeEngine = Callable[[Settings, Transport], Any]


class CannedAnswers:
    """Testing mode in force: a context manager that ends it. Thread-safe.

    It has an engine of its own in each process, so it leaves no trace in what the throttler has
    learned. *among*: all testing modes of the throttler; the last one is in force.
    """

    def __init__(
        self,
        among: list[CannedAnswers],
        canned: CannedAnswer,
        settings: Callable[[], Settings],
        clock: Clock,
        make_engine: MakeEngine,
    ) -> None:
        canned.require()
        self._canned = canned
        self._settings = settings
        self._clock = clock
        self._make_engine = make_engine
        self.engines: ProcessLocal[Any] = ProcessLocal(self._begin)
        # The list is only changed by single operations, which are atomic: no lock.
        self._among = among
        among.append(self)
        logger.warning("testing mode: answers are canned, and no call to Claude is made")

    def _begin(self) -> CannedEngine:
        transport = CannedTransport(self._canned, self._clock)
        engine: CannedEngine = self._make_engine(self._settings().replaced(OFF), transport)
        exit_hooks.finish_at_exit(engine)
        return engine

    def end(self, cancel_pending: bool = False) -> None:
        """Finish, or cancel, what is to be answered here; calls go where they went before.

        Idempotent. A call made by another thread at this moment may raise :class:`Closed`.
        """
        try:
            self._among.remove(self)
        except ValueError:  # it has ended
            return
        engine = self.engines.mine_if_any()
        if engine is not None:
            engine.close(0 if cancel_pending else None, cancel_pending)
            exit_hooks.forget(engine)
        if not self._among:
            logger.warning("testing mode is over: calls go to %s", self._settings().base_url)

    def __enter__(self) -> CannedAnswers:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_rest: object) -> None:
        self.end(cancel_pending=kind is not None)

    def __repr__(self) -> str:
        return f"<CannedAnswers {'in force' if self in self._among else 'ended'}>"
