"""A Claude Messages API on loopback that enforces quotas, for tests and for trying things out.

Real HTTP over a real socket, so the official SDK, ``requests`` and ``httpx`` can be tested with it
unchanged. Here are its thread and its life; what is answered is decided in :mod:`service`. One
event loop in one thread serves all connections, so functions given by the user must not block.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent import futures
from concurrent.futures import Future
from dataclasses import fields
from functools import partial
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
    """A fake Messages API on loopback that enforces quotas. Use it as a context manager.

    It runs in a thread of its own. All methods may be called from any thread::

        with FakeClaude(rpm=50) as fake:
            throttler = Throttler(api_key="any", base_url=fake.url)

    Its limits, which :meth:`limits` can change while it runs:

    - ``rpm``, ``itpm``, ``otpm``: requests, input and output tokens per minute and model; ``None``
      is unlimited. ``burst``, ``itpm_burst``, ``otpm_burst``: the amounts admitted at once;
      ``None`` is that of a whole minute. ``max_concurrency``: requests in flight.
    - ``promised_burst``: the burst of requests that the headers report, while ``burst`` is
      enforced.
    - ``others_rpm``: requests per minute of another client, which spends from each model's bucket
      at even intervals, from the first request for the model on; see :attr:`others_taken`.
    - ``ramp``: input tokens in a model's first minute; ``ramp_step`` (10,000) more in each minute
      after one with a request. Above it, 429 ``ramp_limit_exceeded``.
    - ``count_rpm``, ``count_burst``: requests to ``count_tokens``, which has no other quota.

    Its responses:

    - ``latency``: seconds until a response is complete; ``output_tokens``: its length, at most
      ``max_tokens``. Both may be functions of a random source and the request's body, which run in
      the server's thread. ``characters_per_token``: its tokenizer.
    - ``headers_at``: when remaining and reset are computed: at ``"admission"``, or when a complete
      ``"answer"`` is sent (the headers of a stream are sent at once).
    - ``limit_headers``: their names, "anthropic"; or "x-ratelimit" and "llm_provider", as relays
      and gateways have them, or "none". ``hidden_limits``: limits that no header shows, of
      "requests", "input-tokens", "output-tokens" and "tokens".
    - ``fault_rates``: probabilities of "429", "500", "529", "reset", "stall", "garbage" and
      "truncated". "500", "529" and "reset" occur before the quotas are checked, the others after.
      ``overload_retry_after``: the ``retry-after`` of a 529, in seconds. ``seed``: for the faults,
      for ids and for the random source of the functions.
    - ``concurrency_retry_after``: the ``retry-after`` of a refusal for too many requests in flight;
      ``concurrency_should_retry``: whether it has ``x-should-retry: true``. Neither was captured.
    - ``spend_cap_after``: admitted requests after which the spend limit is reached.
    - ``shared_models``: model to name of a bucket, for models that share one.
    - ``fast``: the limits of fast mode (``speed="fast"``), as ``{"itpm": 20_000, "otpm": 8_000}``,
      apart from the model's and in headers of their own; 0 refuses each request. ``None``: it
      spends the model's own.
    - ``api_keys``: valid keys; ``None`` is any. ``admin_keys``: keys that may ``GET
      /v1/organizations/rate_limits``; ``None`` is any that begins with ``sk-ant-admin``.
    - ``log_limit``: arrivals that are kept. ``clock``: the clock of quotas and logs; latencies are
      always real seconds.
    """

    _service_class = Service

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
        limit_headers: str = "anthropic",
        hidden_limits: Collection[str] = (),
        fast: Mapping[str, float] | None = None,
    ) -> None:
        # All arguments but these are named like the fields of two dataclasses.
        given = {k: v for k, v in locals().items() if k not in ("self", "host", "port")}
        given["fault_rates"], given["shared_models"] = fault_rates or {}, shared_models or {}
        limits = {one.name: given.pop(one.name) for one in fields(SimulatedLimits)}
        behaviour = Behaviour(limits=SimulatedLimits(**limits), **given)
        self._service = self._service_class(behaviour)
        self._host = host
        self._port = port
        # Guards _thread: two threads must not start or stop at once.
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._connections: set[Connection] = set()
        #: Callers of wait_until_idle(). Used in the server's thread only.
        self._awaiting_idle: list[Future[None]] = []

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
        """Requests to ``count_tokens`` and ``rate_limits``, distinguished by their ``path``."""
        return self._service.other_log.copy()

    @property
    def batches(self) -> FakeBatches:
        """The endpoint ``/v1/messages/batches``: durations, outcomes and its log."""
        return self._service.batches

    @property
    def others_taken(self) -> int:
        """The number of admitted requests of the other client (``others_rpm``)."""
        return self._service.others_taken()

    def script(self, *answers: Scripted) -> None:
        """Answer the next arrivals with these, in order.

        A successful answer uses the quotas, as one that is not scripted: a request that they refuse
        gets that refusal, and the answer waits for the next. A scripted refusal, or a lost
        connection, is given whatever the quotas say, and uses none. Keys are not checked.
        """
        self._service.script(*answers)

    def limits(self, **changes: float | None) -> SimulatedLimits:
        """Change limits, by the names of ``__init__``; return all limits in force.

        A bucket keeps its level, as far as it fits; the bucket of a new limit starts full.
        """
        return self._service.change_limits(**changes)

    def outage(self, on: bool = True, reply: Scripted = OVERLOADED) -> None:
        """Answer every message with *reply*, before the script, until called with ``False``.

        The requests are logged, and use no quota.
        """
        self._service.outage(reply if on else None)

    def faults(self, rates: Mapping[str, float]) -> None:
        """Replace the ``fault_rates``; a fault that is not in *rates* no longer occurs."""
        self._service.faults(rates)

    def release_stalled(self) -> None:
        """Let every stalled response continue. Does nothing if the server is not running."""
        with self._lock:
            if self._thread is not None:
                self._in_loop(self._release)

    def wait_until_idle(self, timeout: float = 10.0) -> None:
        """Block until every request that has arrived is answered, or its connection is closed.

        A stalled response counts as not answered; a request still on its way to the server is not
        seen. Returns at once if the server is not running. Raises TimeoutError after *timeout*
        seconds::

            throttler.close(timeout=0)  # closes the connections of calls in flight
            fake.wait_until_idle()      # now the fake has noticed
        """
        with self._lock:
            if self._thread is None:
                return
            idle: Future[None] = Future()
            self._in_loop(partial(self._notify_when_idle, idle))
        try:
            idle.result(timeout)
        except futures.TimeoutError:
            raise TimeoutError(f"FakeClaude is still answering after {timeout} s") from None

    def start(self) -> FakeClaude:
        """Listen, and return when connections are accepted. Raises OSError if it cannot.

        Or what a guard of tests raises that forbids sockets.
        """
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
            except Exception:
                thread.join()
                raise
            self._thread = thread
        return self

    def stop(self) -> None:
        """Close all connections and the port, and end the thread. Does nothing if not running."""
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
                # A join without a timeout cannot be interrupted on every system.
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
        try:
            loop = self._loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(self._serve(listening))
            finally:
                loop.close()
        except Exception as problem:  # start() waits for it
            if listening.done():
                raise
            listening.set_exception(problem)

    async def _serve(self, listening: Future[int]) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await loop.create_server(self._connection, self._host, self._port, backlog=BACKLOG)
        listening.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        # Accept no more, but let accepted sockets become connections: those that meet a closed
        # server would leave their socket open.
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        await self._finish_accepting()
        server.close()
        await self._abort_all()
        await server.wait_closed()

    def _connection(self) -> Connection:
        return Connection(self._service, self._connections, self._response_ended)

    def _notify_when_idle(self, idle: Future[None]) -> None:
        self._awaiting_idle.append(idle)
        self._response_ended()

    def _response_ended(self) -> None:
        if not any(connection.is_answering for connection in self._connections):
            while self._awaiting_idle:
                self._awaiting_idle.pop().set_result(None)

    async def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)

    async def _finish_accepting(self) -> None:
        # Connections that are being accepted are tasks, and not in the set yet.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _release(self) -> None:
        for connection in list(self._connections):
            connection.release()

    def _in_loop(self, callback: Callable[[], object]) -> None:
        # If the server's thread has crashed its loop is closed, and there is nothing to do.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)
