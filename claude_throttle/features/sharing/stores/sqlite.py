"""A store in a SQLite file, for the processes of one machine. Nothing has to be installed.

Two traps of SQLite and fork shape it. A child must not use a connection that it inherited, nor
close it (SQLite, "How To Corrupt An SQLite Database File"), so it keeps its copy open, unused. And
a fork while a thread is inside SQLite copies its locks as held, so a fork waits for the transaction
under way.

Instants are by this machine's monotonic clock, which all its processes share, and which begins
again when the machine boots; so a file from before the last boot is emptied. Where the system has
no boot id (macOS), a record that was written later than now shows it. If none was, the records are
used, which is safe: the clock began again at zero, so more time has passed than it seems.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from contextlib import suppress
from typing import Callable, Optional, TypeVar

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    FleetSnapshot,
    StoreFailed,
)
from claude_throttle.features.sharing.stores.file_lock import FileLock, LockTimedOut
from claude_throttle.features.sharing.stores.sqlite_format import (
    UnusableFile,
    account_record,
    account_text,
    lane_record,
    lane_text,
    make,
    plainly,
    prepare,
    require_usable,
)
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    fleet_of,
    transact,
)

#: Microseconds after which a connection is opened anew: an hour. Opening it also removes records
#: that have not been used for two days.
CONNECTED = 3_600 * SECOND

READ = """SELECT (SELECT record FROM lane WHERE account = ?1 AND lane = ?2),
                 (SELECT record FROM account WHERE account = ?1)"""
WRITE_LANE = "INSERT OR REPLACE INTO lane VALUES (?, ?, ?, ?)"
WRITE_ACCOUNT = "INSERT OR REPLACE INTO account VALUES (?, ?, ?)"

Result = TypeVar("Result")


#: A forked child's copies of its parent's files, kept so that the garbage collector closes none.
_INHERITED: list[_SharedFile] = []


class SqliteStore:
    """One file for the processes of one machine; ``-wal``, ``-shm`` and ``.lock`` lie beside it.

    All are 0600 and belong to the user who runs those processes; the disk must be a local one.
    Several stores may point at one file. Thread-safe; a forked child opens everything anew, and
    nothing is opened before the first use. Each transaction ends within *timeout_seconds*, or
    raises :class:`StoreFailed`. *monotonic* tells the time in seconds.

    Raises ConfigurationError where there cannot be such a file.
    """

    def __init__(
        self, path: str, monotonic: Callable[[], float], timeout_seconds: float = 0.25
    ) -> None:
        # One name for one file: its neighbours' names are made from it.
        self._path = os.path.realpath(path)
        self.name = f"sqlite:///{self._path}"
        self._monotonic = monotonic
        self._timeout = timeout_seconds
        require_usable(self._path)
        # Plain dicts: setdefault and pop are atomic, and no lock can be left held by a fork.
        self._by_pid: dict[int, _SharedFile] = {}
        self._forking: dict[int, _SharedFile] = {}
        _follow_forks(weakref.ref(self))

    def transact(self, account: str, lane: str, request: ExchangeRequest) -> ExchangeResponse:
        """One transaction."""
        return self._run(
            lambda connection: _transact(connection, account, lane, request, self._now())
        )

    def read_clock(self) -> float:
        """Microseconds since this machine booted."""
        return self._run(lambda _: self._now())

    def fleet(self) -> FleetSnapshot:
        """All lanes and members in the file. Raises :class:`StoreFailed`."""
        return self._run(lambda connection: _fleet(connection, self._now()))

    def abandon(self) -> None:
        """Nothing to do: a child opens the files anew."""

    def close(self) -> None:
        """Close the files. A later transaction opens them again."""
        shared = self._by_pid.pop(os.getpid(), None)
        if shared is not None:
            shared.close()

    def _now(self) -> float:
        return self._monotonic() * SECOND

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            return self._file_of_this_process().run_transaction(work, self._now)
        except LockTimedOut:
            raise StoreFailed(
                f"{self._path} was in use for all of {self._timeout:g} s: is a process that shares "
                "it stopped (SIGSTOP, a debugger)? It is free again when that one goes on or ends"
            ) from None
        except (sqlite3.Error, OSError, UnusableFile) as error:
            raise StoreFailed(plainly(self._path, error)) from error

    def _file_of_this_process(self) -> _SharedFile:
        pid = os.getpid()
        shared = self._by_pid.get(pid)
        if shared is None:
            self._forget_parent()
            shared = self._by_pid.setdefault(pid, _SharedFile(self._path, self._timeout))
        return shared

    def _before_fork(self) -> None:
        """No thread may be within SQLite: the child would copy its locks, and never free them."""
        shared = self._by_pid.get(os.getpid())
        if shared is not None and shared.lock.block():
            self._forking[threading.get_ident()] = shared

    def _after_fork(self) -> None:
        shared = self._forking.pop(threading.get_ident(), None)
        if shared is not None:
            shared.lock.unblock()

    def _forget_parent(self) -> None:
        self._forking.clear()
        for pid in [pid for pid in list(self._by_pid) if pid != os.getpid()]:
            shared = self._by_pid.pop(pid, None)
            if shared is not None:
                shared.abandon()


def _follow_forks(store: weakref.ref[SqliteStore]) -> None:
    # Weakly: a fork hook can never be unregistered.

    def call(method: Callable[[SqliteStore], None]) -> None:
        found = store()
        if found is not None:
            method(found)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: call(SqliteStore._before_fork),
            after_in_parent=lambda: call(SqliteStore._after_fork),
            after_in_child=lambda: call(SqliteStore._forget_parent),
        )


class _SharedFile:
    """The database file as one process has it open: a connection, used under a file lock.

    Thread-safe, by that lock. Any error closes the connection; the next transaction opens the file
    that is at the path then.
    """

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._path = path
        #: Guards the connection, too.
        self.lock = FileLock(path + ".lock", timeout_seconds)
        self._connection: Optional[sqlite3.Connection] = None
        self._identity: Optional[tuple[int, int]] = None
        self._good_until = 0.0

    def run_transaction(
        self, work: Callable[[sqlite3.Connection], Result], now: Callable[[], float]
    ) -> Result:
        """Do all of *work* in one transaction, or nothing of it."""

        def locked(deadline: float) -> Result:
            try:
                connection = self._connected(now(), deadline)
                _begin(connection, deadline)
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # Closing it rolls back, and the next transaction checks the file again.
                self._disconnect()
                raise
            return result

        return self.lock.run_locked(locked)

    def close(self) -> None:
        """Close the file. The last process to close it removes the log.

        It is done under the lock if that is free in time, since others may be using that log.
        """
        with suppress(LockTimedOut, sqlite3.Error, OSError):
            self.lock.run_locked(lambda _: self._disconnect())
        if self._connection is not None and self.lock.block():
            with suppress(sqlite3.Error):
                self._disconnect()
            self.lock.unblock()
        self.lock.close()

    def abandon(self) -> None:
        """Keep a forked child's copy open and unused: SQLite forbids even closing it there."""
        _INHERITED.append(self)
        self.lock.abandon()

    def _connected(self, now: float, deadline: float) -> sqlite3.Connection:
        connection = self._connection
        if connection is None or now > self._good_until or _identity(self._path) != self._identity:
            self._disconnect()
            connection = self._connection = _open(self._path, now, deadline)
            self._identity = _identity(self._path)
            self._good_until = now + CONNECTED
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _open(path: str, now: float, deadline: float) -> sqlite3.Connection:
    make(path)
    patience = max(0.0, deadline - SYSTEM_CLOCK.monotonic())
    connection = sqlite3.connect(
        path, timeout=patience, isolation_level=None, check_same_thread=False
    )
    try:
        prepare(connection, path, now)
        # From now on it need not wait: other throttlers wait for the file lock.
        connection.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: sqlite3.Connection, deadline: float) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        # Not one of ours: a shell, a backup. It may be done soon.
        patience = int(1000 * (deadline - SYSTEM_CLOCK.monotonic()))
        connection.execute(f"PRAGMA busy_timeout = {max(0, patience)}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA busy_timeout = 0")


def _identity(path: str) -> Optional[tuple[int, int]]:
    """Device and inode of the file at the path now; another file may have replaced ours."""
    try:
        seen = os.stat(path)
    except FileNotFoundError:
        return None
    return seen.st_dev, seen.st_ino


def _transact(
    connection: sqlite3.Connection, account: str, lane: str, request: ExchangeRequest, now: float
) -> ExchangeResponse:
    lane_row, account_row = connection.execute(READ, (account, lane)).fetchone()
    record = LaneRecord() if lane_row is None else lane_record(lane_row)
    owner = AccountRecord() if account_row is None else account_record(account_row)
    response = transact(record, owner, request, now)
    if response.done:
        connection.execute(WRITE_LANE, (account, lane, now, lane_text(record)))
        if request.claim is not None or request.notice is not None:
            connection.execute(WRITE_ACCOUNT, (account, now, account_text(owner)))
    return response


def _fleet(connection: sqlite3.Connection, now: float) -> FleetSnapshot:
    lanes = connection.execute("SELECT account, lane, record FROM lane")
    accounts = connection.execute("SELECT account, record FROM account")
    return fleet_of(
        {(account, lane): lane_record(text) for account, lane, text in lanes},
        {account: account_record(text) for account, text in accounts},
        now,
    )
