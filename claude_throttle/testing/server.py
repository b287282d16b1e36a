"""A Claude Messages API on loopback that enforces quotas, for tests and for trying things out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Optional

from claude_throttle.core.threads.clock import SYSTEM_CLOCK, Clock
from claude_throttle.simulation.quotas import ADMISSION, SimulatedLimits
from claude_throttle.testing.arrivals import Arrival
from claude_throttle.testing.behaviour import Behaviour, Latency, OutputTokens
from claude_throttle.testing.connection import Connection
from claude_throttle.testing.fake_batches import FakeBatches
from claude_throttle.testing.faults import OVERLOADED, Scripted
from claude_throttle.testing.service import Service

ORGANIZATION_ID = "00000000-0000-4000-8000-00000000fa4e"
BACKLOG = 1024


class FakeClaude:
    """A server in a thread of its own; use it as a context manager.

    What it allows, all of it changed by :meth:`limits` while it runs:

    - ``rpm``, ``itpm``, ``otpm``: requests, input and output tokens per minute and model; ``None``
      is unlimited. ``burst``, ``itpm_burst``, ``otpm_burst``: how much may come at once; ``None``
      is a whole minute's worth. ``max_concurrency``: requests in flight.
    - ``promised_burst``: the headers tell of requests as if so many could come at once, while
      ``burst`` is what is enforced.
    - ``others_rpm``: somebody else spends from each model's bucket, at even intervals from the
      first request for the model on, a request each time if one is there; see
      :attr:`others_taken`.
    - ``ramp``: input tokens in a model's first minute; ``ramp_step`` (10,000) more in each minute
      after one in which there was a request. Above it, 429 ``ramp_limit_exceeded``.
    - ``count_rpm``, ``count_burst``: requests to ``count_tokens``, which spends nothing else.

    How it answers:

    - ``latency``: seconds until an answer is complete; ``output_tokens``: how many an answer has,
      cut to ``max_tokens``. Both may be functions of a random source and the request's body; they
      run in the server's thread. ``characters_per_token``: its tokenizer.
    - ``headers_at``: ``"admission"`` tells remaining and reset as they were when the request was
      let in, ``"answer"`` as they are when a whole answer goes (a stream's headers go at once).
    - ``fault_rates``: probabilities of "429", "500", "529", "reset", "stall", "garbage" and
      "truncated". "500", "529" and "reset" before the quotas are asked; the others to requests
      that passed them. ``overload_retry_after``: seconds told with
      a 529. ``seed``: of these, of ids and of the functions' random source.
    - ``concurrency_retry_after``: seconds told when too many are in flight;
      ``concurrency_should_retry``: whether that refusal has ``x-should-retry: true``. No capture
      shows either.
    - ``spend_cap_after``: after that many admitted requests the account is paused.
    - ``shared_models``: model to name of a bucket, for models that share one.
    - ``api_keys``: the keys that are let in; ``None`` is any. ``admin_keys``: those that may ``GET
      /v1/organizations/rate_limits``; ``None`` is any that begins with ``sk-ant-admin``.
    - ``log_limit``: arrivals that are kept. ``clock``: for quotas and logs; latencies always take
      real seconds.

    All methods may be called from any thread.
    """

    _kind_of_service = Service

    def __init__(
        self,
        *,
        rpm: float | None = None,
        itpm: float | None = None,
        otpm: float | None = None,
        burst: float | None = None,
        itpm_burst: float | None = None,
        otpm_burst: float | None = None,
        max_concurrency: int | None = None,
        promised_burst: float | None = None,
        others_rpm: float | None = None,
        ramp: float | None = None,
        ramp_step: float | None = None,
        count_rpm: float | None = None,
        count_burst: float | None = None,
        latency: Latency = 0.0,
        output_tokens: OutputTokens = 20,
        characters_per_token: float = 4.0,
        fault_rates: Mapping[str, float] | None = None,
        spend_cap_after: int | None = None,
        overload_retry_after: int | None = None,
        seed: object = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        api_keys: Collection[str] | None = None,
        organization_id: str = ORGANIZATION_ID,
        clock: Clock = SYSTEM_CLOCK,
        log_limit: int | None = None,
        headers_at: str = ADMISSION,
        shared_models: Mapping[str, str] | None = None,
        admin_keys: Collection[str] | None = None,
        concurrency_retry_after: int | None = None,
        concurrency_should_retry: bool = True,
    ) -> None:
        limits = SimulatedLimits(
            rpm=rpm,
            itpm=itpm,
            otpm=otpm,
            burst=burst,
            itpm_burst=itpm_burst,
            otpm_burst=otpm_burst,
            max_concurrency=max_concurrency,
            promised_burst=promised_burst,
            others_rpm=others_rpm,
            ramp=ramp,
            ramp_step=ramp_step,
            count_rpm=count_rpm,
            count_burst=count_burst,
        )
        behaviour = Behaviour(
            limits=limits,
            clock=clock,
            organization_id=organization_id,
            latency=latency,
            output_tokens=output_tokens,
            characters_per_token=characters_per_token,
            fault_rates=fault_rates or {},
            spend_cap_after=spend_cap_after,
            overload_retry_after=overload_retry_after,
            seed=seed,
            api_keys=api_keys,
            log_limit=log_limit,
            headers_at=headers_at,
            shared_models=shared_models or {},
            admin_keys=admin_keys,
            concurrency_retry_after=concurrency_retry_after,
            concurrency_should_retry=concurrency_should_retry,
        )
        self._service = self._kind_of_service(behaviour)
        self._host = host
        self._port = port
        # Guards _thread: two threads must not start or stop at once.
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._connections: set[Connection] = set()

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end; stays the same over stop() and start()."""
        if not self._port:
            raise RuntimeError("FakeClaude has no port before start()")
        return f"http://{self._host}:{self._port}"

    @property
    def arrivals(self) -> list[Arrival]:
        """Every POST to ``/v1/messages``: a copy of the log, in order of arrival."""
        return self._service.log.copy()

    @property
    def other_arrivals(self) -> list[Arrival]:
        """What came to ``count_tokens`` and ``rate_limits``; their ``path`` tells which."""
        return self._service.other_log.copy()

    @property
    def batches(self) -> FakeBatches:
        """``/v1/messages/batches``: how long they take, how they end, what came there."""
        return self._service.batches

    @property
    def others_taken(self) -> int:
        """How many requests of somebody else (``others_rpm``) were let in so far."""
        return self._service.others_taken()

    def script(self, *answers: Scripted) -> None:
        """The next arrivals get these, in order, before anything else is asked."""
        self._service.script(*answers)

    def limits(self, **changes: float | None) -> SimulatedLimits:
        """Change limits by the names of ``__init__``; returns those in force.

        What is in a bucket stays in it, as far as it fits; a limit that is new starts full.
        """
        return self._service.limits(**changes)

    def outage(self, on: bool = True, reply: Scripted = OVERLOADED) -> None:
        """Give every message *reply*, at once and before the script, until called with ``False``.

        Nothing is taken from a quota, and all of it is in the log.
        """
        self._service.outage(reply if on else None)

    def faults(self, rates: Mapping[str, float]) -> None:
        """Other ``fault_rates`` from now on; what is not named has none."""
        self._service.faults(rates)

    def release_stalled(self) -> None:
        """Let every stalled answer go on. Harmless when not running."""
        with self._lock:
            if self._thread is not None:
                self._in_loop(self._release)

    def start(self) -> FakeClaude:
        """Listen; returns when connections are accepted. Raises OSError if it cannot."""
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("FakeClaude is already running")
            listening: Future[int] = Future()
            thread = threading.Thread(
                target=self._run, args=(listening,), name="fake-claude", daemon=True
            )
            thread.start()
            try:
                self._port = listening.result()
            except (OSError, OverflowError):
                thread.join()
                raise
            self._thread = thread
        return self

    def stop(self) -> None:
        """Hang up on everybody, give the port back, end the thread. Harmless when not running."""
        with self._lock:
            if self._thread is None:
                return
            self._in_loop(self._stopping.set)
            self._thread.join()
            self._thread = None

    def serve_forever(self) -> None:
        """Block this (main) thread until KeyboardInterrupt, then stop. Starts if not running."""
        try:
            if self._thread is None:
                self.start()
            thread = self._thread
            while thread is not None and thread.is_alive():
                # A join without an end cannot be interrupted everywhere.
                thread.join(0.5)
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    def __enter__(self) -> FakeClaude:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _run(self, listening: Future[int]) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        try:
            loop.run_until_complete(self._serve(listening))
        finally:
            loop.close()

    async def _serve(self, listening: Future[int]) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            server = await loop.create_server(
                self._connection, self._host, self._port, backlog=BACKLOG
            )
        except (OSError, OverflowError) as problem:
            listening.set_exception(problem)
            return
        listening.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        # Accept no more, but let what was accepted become a connection: one that comes to a closed
        # server is left half made, and its socket open.
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        await self._accepted()
        server.close()
        await self._hang_up()
        await server.wait_closed()

    def _connection(self) -> Connection:
        return Connection(self._service, self._connections)

    async def _hang_up(self) -> None:
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)

    async def _accepted(self) -> None:
        # Connections being accepted right now are tasks, not yet in the set.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _release(self) -> None:
        for connection in list(self._connections):
            connection.release()

    def _in_loop(self, callback: Callable[[], object]) -> None:
        # After an accident in the server's thread there is no loop any more, and nothing to do.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)
