"""A store in a Redis (or Valkey), for the processes of many machines.

redis-py (or valkey-py) makes the connections and speaks the protocol. Its clients and pools are not
used: with their defaults, a call to a frozen server blocks for 59 s (redis-py 8, measured). One
script, one round trip for each transaction. Read in this order: :mod:`redis_format` (what is sent
and answered), ``exchange.lua`` (what the server does with it), :mod:`redis_connections` (to which
server), :mod:`time_limiter` (how long a caller waits), :mod:`redis_errors` (what went wrong).
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any, Callable, Optional, TypeVar, Union

from claude_throttle.core.threads.fork import dead_end
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    FleetSnapshot,
    StoreFailed,
)
from claude_throttle.features.sharing.stores.redis_connections import Address, server
from claude_throttle.features.sharing.stores.redis_errors import code_of, failure
from claude_throttle.features.sharing.stores.redis_format import (
    PREFIX,
    SCRIPT,
    SHA,
    add_record,
    decode,
    encode,
)
from claude_throttle.features.sharing.stores.time_limiter import TimedTask, TimeLimiter
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    fleet_of,
)

#: Seconds for all that :meth:`RedisStore.fleet` asks.
FLEET_SECONDS = 2.0

#: Keys that the server looks at in one step, and hashes read in one step. A Redis does one thing at
#: a time: larger steps would hold up the transactions of all processes.
SCAN_STEP = 1000
READ_STEP = 100

Answer = TypeVar("Answer")


class RedisStore:
    """Shares quotas through a Redis server. Thread-safe; raises StoreFailed, within the timeout.

    A forked child calls abandon() on its copy, and makes its own.

    *url_or_client* is ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``, or a
    client of redis-py's or valkey-py's, whose settings are used and whose connections are not.
    Holds as many connections as threads have asked at the same time, from the first call on.
    *monotonic* tells the time in seconds. In a Cluster, all of an account is kept in one place.
    """

    def __init__(
        self,
        url_or_client: Union[str, Any],
        monotonic: Callable[[], float],
        timeout_seconds: float = 0.25,
    ) -> None:
        self._server = server(url_or_client, _library)
        self.name = self._server.name
        self._monotonic = monotonic
        self._timeout_seconds = timeout_seconds
        self._limiter = TimeLimiter("claude-throttle-redis", monotonic)
        self._pid = os.getpid()
        # Guards the idle connections and `_closed`. Held for a look only, never during I/O.
        self._lock = threading.Lock()
        #: Idle connections by server; None: the one in the URL.
        self._idle: dict[Optional[Address], list[Any]] = defaultdict(list)
        #: All connections that are open or being made, for abandon().
        self._connections: set[Any] = set()
        self._closed = False
        #: Where a Cluster keeps an account, as its MOVED answers said. Forgotten after a failure,
        #: since the slots may have moved again.
        self._moved: dict[str, Address] = {}

    def transact(self, account: str, lane: str, request: ExchangeRequest) -> ExchangeResponse:
        """One transaction, one round trip. Raises :class:`StoreFailed` after the timeout at most.

        What timed out may still be done, until ``request.not_after``.
        """
        words = encode(account, lane, request)

        def evaluate(connection: Any) -> ExchangeResponse:
            return decode(_evaluate(connection, words), request)

        def ask(task: TimedTask) -> ExchangeResponse:
            try:
                return self._through(self._moved.get(account), evaluate, task)
            except Exception as error:
                if code_of(error) != "MOVED":
                    raise
                address = self._moved[account] = self._server.moved_to(str(error))
            return self._through(address, evaluate, task)

        try:
            return self._call(ask, self._timeout_seconds)
        except StoreFailed:
            self._moved.pop(account, None)
            raise

    def read_clock(self) -> float:
        """The server's time, in microseconds. Raises :class:`StoreFailed`."""
        return self._call(lambda task: self._through(None, _time, task), self._timeout_seconds)

    def fleet(self) -> FleetSnapshot:
        """All lanes and members in the server, within two seconds. Raises :class:`StoreFailed`."""
        return self._call(self._fleet, FLEET_SECONDS)

    def abandon(self) -> None:
        """Make the parent's connections unusable in a forked child. Takes no lock.

        Descriptors are replaced, not closed: a number that is free could be another file's by the
        time a greenlet that survived the fork uses it.
        """
        if self._pid == os.getpid():
            return
        with dead_end() as dead:
            for connection in list(self._connections):
                sock = connection._sock
                if sock is not None and sock.fileno() >= 0:
                    os.dup2(dead, sock.fileno(), inheritable=False)

    def close(self) -> None:
        """Close all connections; a transaction under way ends, or raises :class:`StoreFailed`."""
        with self._lock:
            self._closed = True
            addresses = list(self._idle)
        for address in addresses:
            self._hang_up(address)
        self._limiter.shut_down()

    def _call(self, ask: Callable[[TimedTask], Answer], seconds: float) -> Answer:
        began = self._monotonic()
        try:
            return self._limiter.call(ask, seconds)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - those of several libraries
            took = self._monotonic() - began
            # Not "from error": the library's own texts are not ours to vouch for.
            raise failure(error, self.name, took, self._server.secrets) from None

    # -- in a thread of the limiter --------------------------------------------------------------
    # All below may block, and may still run after its caller has given up. A connection is given
    # back only after a whole answer: one with an answer outstanding would give it to the next.

    def _through(
        self, address: Optional[Address], ask: Callable[[Any], Answer], task: TimedTask
    ) -> Answer:
        connection = self._take(address) or self._connect(address, task)
        try:
            task.connected(connection)
        except BaseException:
            self._give_back(address, connection)  # for the next caller
            raise
        try:
            answer = ask(connection)
        except BaseException:
            task.release()
            # Even if the server only refused: it may be a replica by now, so look it up anew.
            self._disconnect(connection)
            self._hang_up(address)
            raise
        task.release()
        self._give_back(address, connection)
        return answer

    def _take(self, address: Optional[Address]) -> Any:
        """An idle connection that the server has not closed; None if there is none."""
        while True:
            with self._lock:
                if self._closed:
                    raise ConnectionAbortedError("it is closed")
                idle = self._idle[address]
                connection = idle.pop() if idle else None
            if connection is None or _is_quiet(connection):
                return connection
            self._disconnect(connection)

    def _connect(self, address: Optional[Address], task: TimedTask) -> Any:
        connection = self._server.connection(address)
        self._connections.add(connection)
        task.connecting(connection)
        try:
            connection.connect()
        except BaseException:
            self._disconnect(connection)
            raise
        return connection

    def _give_back(self, address: Optional[Address], connection: Any) -> None:
        with self._lock:
            if not self._closed:
                self._idle[address].append(connection)
                return
        self._disconnect(connection)

    def _hang_up(self, address: Optional[Address]) -> None:
        """Close idle connections: after a failure, they lead to the wrong server or to none."""
        with self._lock:
            idle = self._idle.pop(address, [])
        for connection in idle:
            self._disconnect(connection)

    def _disconnect(self, connection: Any) -> None:
        connection.disconnect()
        self._connections.discard(connection)

    def _fleet(self, task: TimedTask) -> FleetSnapshot:
        lanes: dict[tuple[str, str], LaneRecord] = {}
        accounts: dict[str, AccountRecord] = {}

        def collect(connection: Any) -> None:
            for key, fields in _hashes(connection):
                add_record(key, fields, lanes, accounts)

        for address in self._through(None, self._primaries, task):
            self._through(address, collect, task)
        return fleet_of(lanes, accounts, self._through(None, _time, task))

    def _primaries(self, connection: Any) -> list[Optional[Address]]:
        """All servers that hold slots of a Cluster; None for one that is not in a Cluster."""
        try:
            slots = _command(connection, b"CLUSTER", b"SLOTS")
        except Exception as error:
            if type(error).__name__ != "ResponseError":
                raise
            return [None]
        found = {(host or b"", port) for _, _, (host, port, *_), *_ in slots}
        return [self._server.moved_to(f"{host.decode()}:{port}") for host, port in sorted(found)]


def _command(connection: Any, *words: bytes) -> Any:
    connection.send_command(*words)
    return connection.read_response()


def _evaluate(connection: Any, words: list[bytes]) -> Any:
    """Run the script: by its hash, as long as the server knows it."""
    try:
        return _command(connection, b"EVALSHA", SHA, *words)
    except Exception as error:
        if code_of(error) != "NOSCRIPT":
            raise
    return _command(connection, b"EVAL", SCRIPT, *words)


def _time(connection: Any) -> float:
    seconds, microseconds = _command(connection, b"TIME")
    return int(seconds) * SECOND + int(microseconds)


def _is_quiet(connection: Any) -> bool:
    """Whether an idle connection can be used: no late answer, and not its end, has arrived on it.

    A late answer would be taken for the answer to the next transaction.
    """
    try:
        return not connection.can_read(timeout=0)
    except Exception:  # noqa: BLE001 - those of several libraries
        return False


def _hashes(connection: Any) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each key of ours, and the fields and values of its hash."""
    keys = _keys(connection)
    while step := list(islice(keys, READ_STEP)):
        commands = connection.pack_commands([(b"HGETALL", key) for key in step])
        connection.send_packed_command(commands)
        for key in step:
            yield key, connection.read_response()


def _keys(connection: Any) -> Iterator[bytes]:
    cursor, seen = b"0", set[bytes]()
    step = b"%d" % SCAN_STEP
    while True:
        scan = (b"SCAN", cursor, b"MATCH", f"{PREFIX}*".encode(), b"COUNT", step)
        cursor, found = _command(connection, *scan)
        for key in found:
            if key not in seen:  # SCAN may return a key twice while the table grows
                seen.add(key)
                yield key
        if cursor == b"0":
            return


def _library(module: str) -> Any:
    """Imported by name and when needed: it takes 0.4 s, and its types differ between versions."""
    try:
        return import_module(module)
    except ImportError:
        raise ConfigurationError(
            "shared=\"redis://…\" needs the package redis: pip install 'redis>=4.1'"
        ) from None
