"""A ledger in a Redis (or Valkey), for the processes of many machines.

One script, one round trip for each exchange. Read in this order: :mod:`redis_orders` (what is sent
and said), ``exchange.lua`` (what the server does with it), :mod:`resp` (a connection),
:mod:`redis_lines` (several), :mod:`redis_servers` (to whom); :mod:`redis_fleet` reads all that a
server holds; :mod:`redis_failures` says what went wrong.
"""

from __future__ import annotations

import functools
import threading
from importlib import import_module
from typing import Any, Callable, Optional, TypeVar, Union

from claude_throttle.errors import ConfigurationError
from claude_throttle.features.sharing.stores import redis_scan as redis_fleet
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    FleetSnapshot,
    StoreFailed,
)
from claude_throttle.features.sharing.stores.redis_errors import failure
from claude_throttle.features.sharing.stores.redis_format import BY_HASH, IN_FULL, read, written
from claude_throttle.features.sharing.stores.redis_pool import ConnectionPool
from claude_throttle.features.sharing.stores.redis_protocol import (
    CommandRefused,
    Left,
    RespConnection,
    command,
    countdown,
    cut_off_inherited,
)
from claude_throttle.features.sharing.stores.redis_url import Address, server
from claude_throttle.features.sharing.stores.snapshot import fleet_of
from claude_throttle.features.sharing.stores.transaction import AccountRecord, LaneRecord

#: For everything that :meth:`RedisStore.fleet` asks.
FLEET_SECONDS = 2.0

Answer = TypeVar("Answer")


class RedisStore:
    """Thread-safe; never used by a forked child, which makes its own.

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
        # Guards the three below. Held for a look only.
        self._lock = threading.Lock()
        self._lines: dict[Optional[Address], ConnectionPool] = {}
        self._moved: dict[str, Address] = {}
        self._closed = False

    def exchange(self, account: str, lane: str, order: ExchangeRequest) -> ExchangeResponse:
        """One transaction, one round trip. Raises :class:`StoreFailed` after the timeout at most.

        What was asked in vain may still be done, until ``order.not_after``.
        """
        count, words = written(account, lane, order)

        def asked(line: RespConnection, left: Left) -> ExchangeResponse:
            try:
                (answer,) = line.ask(count + BY_HASH + words, left)
            except CommandRefused as refused:
                if refused.code != "NOSCRIPT":
                    raise
                (answer,) = line.ask(count + IN_FULL + words, left)
            return read(answer, order)

        def routed(left: Left) -> ExchangeResponse:
            try:
                return self._through(self._moved.get(account), asked, left)
            except CommandRefused as refused:
                if refused.code != "MOVED":
                    raise
                self._moved[account] = self._server.moved_to(str(refused))
            return self._through(self._moved[account], asked, left)

        try:
            return self._bounded(routed, self._timeout_seconds)
        except StoreFailed:
            self._moved.pop(account, None)
            raise

    def now(self) -> float:
        """The server's time; also finds out whether it is there. Raises :class:`StoreFailed`."""
        return self._bounded(lambda left: self._through(None, _time, left), self._timeout_seconds)

    def fleet(self) -> FleetSnapshot:
        """All that it holds, within two seconds. Raises :class:`StoreFailed`."""
        return self._bounded(self._fleet, FLEET_SECONDS)

    def abandon(self) -> None:
        """In a forked child: these connections are the parent's."""
        cut_off_inherited()

    def close(self) -> None:
        """Close all connections; who asks just now gets its answer or :class:`StoreFailed`."""
        with self._lock:
            self._closed = True
            lines = list(self._lines.values())
        for each in lines:
            each.close()

    def _fleet(self, left: Left) -> FleetSnapshot:
        lanes: dict[tuple[str, str], LaneRecord] = {}
        accounting: dict[str, AccountRecord] = {}

        def collect(line: RespConnection, left: Left) -> None:
            redis_fleet.collect(
                lambda asked: line.ask(b"".join(asked), left, len(asked)), lanes, accounting
            )

        for address in self._through(None, self._primaries, left):
            self._through(address, collect, left)
        return fleet_of(lanes, accounting, self._through(None, _time, left))

    def _primaries(self, line: RespConnection, left: Left) -> list[Optional[Address]]:
        """All that hold slots of a Cluster; or the one and only."""
        try:
            (slots,) = line.ask(command(b"CLUSTER", b"SLOTS"), left)
        except CommandRefused:
            return [None]
        found = {(host or b"", port) for _, _, (host, port, *_), *_ in slots}
        return [self._server.moved_to(f"{host.decode()}:{port}") for host, port in sorted(found)]

    def _bounded(self, asked: Callable[[Left], Answer], seconds: float) -> Answer:
        began = self._monotonic()
        try:
            return asked(countdown(self._monotonic, seconds))
        except Exception as error:  # noqa: BLE001 - of which library, nobody knows
            took = self._monotonic() - began
            # Not "from error": the library's own texts are not ours to vouch for.
            raise failure(error, self.name, took, self._server.secrets) from None

    def _through(
        self,
        address: Optional[Address],
        asked: Callable[[RespConnection, Left], Answer],
        left: Left,
    ) -> Answer:
        lines = self._lines_to(address)
        line = lines.take(left)
        try:
            answer = asked(line, left)
        except BaseException:
            # Even if it only refused: it may be the wrong one by now, and is looked up anew.
            line.close()
            lines.hang_up()
            raise
        lines.release(line)
        return answer

    def _lines_to(self, address: Optional[Address]) -> ConnectionPool:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("it is closed")
            lines = self._lines.get(address)
            if lines is None:
                dial = functools.partial(self._server.dial, address)
                lines = self._lines[address] = ConnectionPool(dial, self._monotonic)
            return lines


def _time(line: RespConnection, left: Left) -> float:
    ((seconds, microseconds),) = line.ask(command(b"TIME"), left)
    return int(seconds) * SECOND + int(microseconds)


def _library(module: str) -> Any:
    """Imported by name and when needed: it takes 0.4 s, and its types differ between versions."""
    try:
        return import_module(module)
    except ImportError:
        raise ConfigurationError(
            "shared=\"redis://…\" needs the package redis: pip install 'claude-throttle[redis]'"
        ) from None
