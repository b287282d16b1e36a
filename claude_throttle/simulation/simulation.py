"""A discrete-event simulation of one client and a modelled server, in virtual time.

No threads, no sockets: thousands of calls in a second, the same for the same seed. The client is
the real lane with its real worker and whatever pacer, limiter and estimates it is given; only the
network, the server and the passing of time are simulated::

    server = SimulatedServer(SimulatedLimits(rpm=1200, burst=20))
    requests = [(0.0, SimulatedRequest())] * 500
    simulation = Simulation(pacer, limiter, estimates, server, requests).run()
    last = max(call.done_at for call in simulation.calls)
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from functools import partial
from typing import Callable, Protocol

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import (
    CircuitClosed,
    CircuitOpened,
    Event,
    LanePaused,
    LimitLearned,
)
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.threads.blocking import BlockingCall
from claude_throttle.simulation.client import (
    LATE_SECONDS,
    LOOPBACK_SECONDS,
    Delays,
    SimulatedCall,
    SimulatedClient,
    SimulatedTransport,
)
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from claude_throttle.simulation.virtual_time import Ended, VirtualPool, VirtualThread, VirtualTime

#: What a pacer has to tell.
PACER_EVENTS = (LimitLearned, LanePaused, CircuitOpened, CircuitClosed)


class Estimates(Protocol):
    """What calls are expected to cost, before the server's count is known."""

    def __call__(self, request: SimulatedRequest, stretch: float) -> Cost:
        """The cost to book for *request*; *stretch* is :meth:`Pacer.stretch`."""
        ...

    def learn(self, request: SimulatedRequest) -> None:
        """Learn from a call that was answered: its request has the true sizes."""
        ...


class Simulation:
    """One client and one server. Run it with :meth:`run`; then look at the recorded figures.

    ``calls`` has the instants of each call, ``events`` what the pacer reported, and the server's
    ``log`` each arrival. Runs once, in one thread; the same seed gives the same run.
    """

    def __init__(
        self,
        pacer: Pacer,
        limiter: ConcurrencyLimiter,
        estimates: Estimates,
        server: SimulatedServer,
        requests: Iterable[tuple[float, SimulatedRequest]],
        *,
        one_way: Delays = lambda _: LOOPBACK_SECONDS,
        late: Delays = lambda chance: chance.expovariate(1 / LATE_SECONDS),
        seed: int = 0,
    ) -> None:
        """*requests*: instant of submission, and what is submitted. *one_way*: the network."""
        self.pacer, self.limiter, self.estimates = pacer, limiter, estimates
        self.server = server
        self.calls = [
            SimulatedCall(number, request, at) for number, (at, request) in enumerate(requests, 1)
        ]
        #: What is to happen beside the calls, and when.
        self.changes: list[tuple[float, Callable[[], None]]] = []
        #: What the pacer had to tell, and when.
        self.events: list[tuple[float, Event]] = []
        self._time = VirtualTime()
        chance = random.Random(seed)
        self._client = SimulatedClient(
            self._time,
            self._time,
            VirtualPool(self._time),
            pacer=pacer,
            limiter=limiter,
            transport=SimulatedTransport(self._time, server, one_way, chance),
            price=self._price,
            observe=self._observe,
            answered=lambda call: estimates.learn(call.request),
        )
        worker = self._client.worker.working()
        self._thread = VirtualThread(self._time, worker, _refuse, partial(late, chance))
        self._thread.start()

    @property
    def now(self) -> float:
        """The present instant, in seconds; it begins at 0."""
        return self._time.now

    def run(self, until: float = math.inf) -> Simulation:
        """Let time pass until nothing is left to happen, or until that instant. Returns itself.

        To be called once.
        """
        for call in self.calls:
            self._time.at(call.at, partial(self._client.submit, call))
        for at, change in self.changes:
            self._time.at(at, change)
        try:
            self._time.run_until_idle(until)
        finally:
            self._thread.close()
        return self

    def _price(self, call: SimulatedCall) -> Cost:
        return self.estimates(call.request, self.pacer.latency.stretch(self.now))

    def _observe(self, event: Event) -> None:
        if isinstance(event, PACER_EVENTS):
            self.events.append((self.now, event))


def _refuse(call: BlockingCall, _ended: Ended) -> None:
    raise TypeError(f"a worker without a store makes no blocking call (got {call!r})")
