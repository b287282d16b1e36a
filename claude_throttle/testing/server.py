"""A Claude Messages API on loopback that enforces quotas, for tests and for trying things out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Optional

from claude_throttle.flow.clock import SYSTEM_CLOCK, Clock
from claude_throttle.testing.arrivals import Arrival
from claude_throttle.testing.connection import Connection
from claude_throttle.testing.faults import Scripted
from claude_throttle.testing.quotas import Limits
from claude_throttle.testing.service import Behaviour, Latency, OutputTokens, Service

ORGANIZATION_ID = "00000000-0000-4000-8000-00000000fa4e"
BACKLOG = 1024


class FakeClaude:
    """A server in a thread of its own; use it as a context manager.

    ``rpm``, ``itpm``, ``otpm``: requests, input and output tokens per minute and model; ``None``
    is unlimited. ``burst``, ``itpm_burst``, ``otpm_burst``: how much may come at once; ``None`` is
    a whole minute's worth. ``max_concurrency``: requests in flight.
    ``latency``: seconds until an answer is complete; ``output_tokens``: how many an answer has, cut
    to ``max_tokens``. Both may be functions of a random source and the request's body; they run in
    the server's thread. ``characters_per_token``: its tokenizer.
    ``fault_rates``: probabilities of "429", "500", "529", "reset", "stall", "garbage" and
    "truncated", for requests that passed the quotas. ``spend_cap_after``: after that many admitted
    requests the account is paused. ``overload_retry_after``: seconds told with a 529.
    ``api_keys``: the keys that are let in; ``None`` is any. ``log_limit``: arrivals that are kept.
    ``clock``: for quotas and the log; latencies always take real seconds.

    All methods may be called from any thread.
    """

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
    ) -> None:
        limits = Limits(rpm, itpm, otpm, burst, itpm_burst, otpm_burst, max_concurrency)
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
        )
        self._service = Service(behaviour)
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
        """A copy of the log, in order of arrival."""
        return self._service.log.copy()

    def script(self, *answers: Scripted) -> None:
        """The next arrivals get these, in order, before anything else is asked."""
        self._service.script(*answers)

    def limits(self, **changes: float | None) -> Limits:
        """Change limits by the names of ``__init__``; returns those in force.

        What is in a bucket stays in it, as far as it fits; a limit that is new starts full.
        """
        return self._service.limits(**changes)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
