"""The file format of a SQLite store: its checks, tables and records, and its errors in plain words.

Records are JSON in one column, so a transaction is one read and one write. A file that is another
program's, another user's or of another version is refused and never changed: it is the only copy
of what a user may have named by mistake. What is only old is removed.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_throttle.errors import ConfigurationError
from claude_throttle.features.sharing.stores import file_lock
from claude_throttle.features.sharing.stores.contract import SECOND
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    MemberRecord,
)

if TYPE_CHECKING:
    import sqlite3

#: "clth" in ASCII, in the file's header: the program ``file`` shows it, and it tells our files from
#: those of other programs.
APPLICATION = 0x636C7468

#: The version of the tables. Raise it when their meaning changes: then old files are refused.
VERSION = 1

#: Microseconds after which a record that was not used is removed: two days.
KEPT = 172_800 * SECOND

#: Linux only: a new id for each boot, by which a file from before the last boot is found.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

TABLES = (
    "CREATE TABLE lane (account TEXT, lane TEXT, touched REAL, record TEXT,"
    " PRIMARY KEY (account, lane)) WITHOUT ROWID",
    "CREATE TABLE account (account TEXT PRIMARY KEY, touched REAL, record TEXT) WITHOUT ROWID",
    "CREATE TABLE machine (boot TEXT)",
    "INSERT INTO machine VALUES ('')",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
SWEEP_LANES = "DELETE FROM lane WHERE touched < ?"
SWEEP_ACCOUNTS = """DELETE FROM account
                    WHERE touched < ? AND account NOT IN (SELECT account FROM lane)"""


class UnusableFile(Exception):
    """Raised for a file that is another program's or damaged: a person must decide what to do."""


def require_usable(path: str) -> None:
    """Raise ConfigurationError where there cannot be such a file."""
    if not hasattr(file_lock, "flock"):
        raise ConfigurationError(
            "a shared SQLite file needs flock(), which Windows lacks: use Redis, or one process"
        )
    if not os.path.isdir(os.path.dirname(path)):
        raise ConfigurationError(f"the directory of {path} does not exist: make it first")
    try:
        if os.path.lexists(path):
            _check(path)
    except (OSError, UnusableFile) as error:
        raise ConfigurationError(plainly(path, error)) from error


def make(path: str) -> None:
    """Make the file, or check the one that is there.

    It is opened only to be made: to close a file that SQLite has open elsewhere in this process
    would release SQLite's locks.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _check(path)


# Before SQLite opens it, so that what a path names by mistake is never written to.
def _check(path: str) -> None:
    seen = os.stat(path)
    if not stat.S_ISREG(seen.st_mode):
        raise UnusableFile("it is not a regular file; give the path of a dedicated database file")
    if seen.st_uid != os.geteuid():
        raise UnusableFile(
            "it belongs to another user: let all processes that share it run as one user,"
            " or give these a file of their own"
        )


def prepare(connection: sqlite3.Connection, path: str, now: float) -> None:
    """Make the tables, and remove what is too old."""
    is_new = _is_new(connection)
    # WAL: readers do not wait for a writer. synchronous OFF: the crash of a process loses nothing;
    # a power failure may, but what is from before the next boot is deleted anyway.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES if is_new else ():
        connection.execute(statement)
    _forget_another_boot(connection, now)
    connection.execute(SWEEP_LANES, (now - KEPT,))
    connection.execute(SWEEP_ACCOUNTS, (now - KEPT,))
    connection.execute("COMMIT")
    if os.stat(path).st_mode & 0o077:
        os.chmod(path, 0o600)


def _is_new(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION:
        raise UnusableFile(
            "it is another program's database: give the throttlers a file of their own"
        )
    if tables and version != VERSION:
        raise UnusableFile(
            "it was made by another version of claude_throttle: let all processes use the same,"
            " or move it away while none runs"
        )
    return not tables


# See ``sqlite``: instants from before the last boot may lie in the future, and would hold all calls
# until then.
def _forget_another_boot(connection: sqlite3.Connection, now: float) -> None:
    boot = _boot_id()
    (written,) = connection.execute("SELECT boot FROM machine").fetchone()
    (last,) = connection.execute(
        "SELECT max(touched) FROM (SELECT touched FROM lane UNION ALL SELECT touched FROM account)"
    ).fetchone()
    if written != boot or (last is not None and last > now):
        connection.execute("DELETE FROM lane")
        connection.execute("DELETE FROM account")
        connection.execute("UPDATE machine SET boot = ?", (boot,))


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


#: Parts of SQLite's messages, and what each means for the person who runs the processes. The first
#: that fits is shown.
MEANINGS = (
    ("disk is full", "the disk is full, or fails: make room"),
    ("disk I/O error", "the disk is full, or fails: make room"),
    ("No space left", "the disk is full, or fails: make room"),
    ("locked", "another program has locked it: end that one, the file is for the throttlers alone"),
    ("malformed", "it is damaged: move it, its -wal and its -shm away; it is made anew"),
    ("not a database", "it is not a database: move it away, it is made anew; or name another file"),
    ("readonly", "it cannot be written: the throttlers need to write it and its directory"),
    ("unable to open", "it cannot be opened: the throttlers need to write it and its directory"),
    ("Permission denied", "it cannot be made: the throttlers need to write its directory"),
)


def plainly(path: str, error: Exception) -> str:
    """One line for a person: the file, what failed there, and what to do."""
    said = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, UnusableFile):
        for part, meaning in MEANINGS:
            if part in said:
                return f"{path}: {meaning} ({said})"
    return f"{path}: {said}"


# -- records ---------------------------------------------------------------------------------------

#: Made once; it is the faster half of json.dumps.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def lane_text(record: LaneRecord) -> str:
    """The record as JSON: floats come back as they were, to the last digit."""
    return _encode([getattr(record, name) for name in LaneRecord.__slots__])


def lane_record(text: str) -> LaneRecord:
    """The record in *text*. Raises UnusableFile if it is damaged."""
    record = LaneRecord()
    for name, value in zip(LaneRecord.__slots__, _values(text, len(LaneRecord.__slots__))):
        setattr(record, name, value)
    return record


def account_text(record: AccountRecord) -> str:
    """The record as JSON."""
    return _encode([record.members, record.notice])


def account_record(text: str) -> AccountRecord:
    """The record in *text*. Raises UnusableFile if it is damaged."""
    record = AccountRecord()
    members, record.notice = _values(text, 2)
    record.members = {name: MemberRecord(*held) for name, held in members.items()}
    return record


def _values(text: str, count: int) -> list[Any]:
    try:
        values = json.loads(text)
    except (ValueError, TypeError):
        values = None
    if not isinstance(values, list) or len(values) != count:
        raise UnusableFile("a record in it is damaged: move it, its -wal and its -shm away")
    return values
