"""The file of a SqliteStore: whose it is, what is in it, and what else it may be."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from claude_throttle.errors import ConfigurationError
from claude_throttle.features.sharing.stores import file_lock as turns
from claude_throttle.features.sharing.stores import sqlite_schema as schema
from claude_throttle.features.sharing.stores.contract import MemberClaim, StoreFailed
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import LANE, order

DAY = 86_400.0


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quota.db")


@pytest.fixture
def open_ledger(path):
    """``open_ledger(monotonic)``; closed when the test ends."""
    made = []

    def make(monotonic=time.monotonic, timeout_seconds=5.0, path=path):
        made.append(SqliteStore(path, monotonic, timeout_seconds))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


def test_all_its_files_are_the_owners_alone(open_ledger, tmp_path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        open_ledger().exchange("a", LANE, order())
    finally:
        os.umask(before)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    names = ("quota.db", "quota.db-wal", "quota.db-shm", "quota.db.lock")
    assert modes == dict.fromkeys(names, 0o600)


def test_a_file_that_others_may_read_is_closed_to_them(open_ledger, path):
    """An empty one, made by hand."""
    for name in (path, path + ".lock"):
        with open(name, "w"):
            os.chmod(name, 0o644)
    assert open_ledger().exchange("a", LANE, order()).done
    assert {stat.S_IMODE(os.stat(name).st_mode) for name in (path, path + ".lock")} == {0o600}


def test_nothing_is_opened_before_the_first_use(open_ledger, tmp_path):
    """It may be made before a fork."""
    open_ledger()
    assert list(tmp_path.iterdir()) == []


def test_several_ledgers_of_one_process_share_a_file(open_ledger, tmp_path):
    """By whatever name: one end does not disturb the other."""
    (tmp_path / "link.db").symlink_to(tmp_path / "quota.db")
    one, two = open_ledger(), open_ledger(path=str(tmp_path / "link.db"))
    assert one.name == two.name == f"sqlite:///{tmp_path}/quota.db"
    assert one.exchange("a", LANE, order()).waits == (0.0,)
    assert two.exchange("a", LANE, order()).waits[0] > 0
    one.close()
    assert two.exchange("a", LANE, order()).sequence == 3.0
    assert one.exchange("a", LANE, order()).sequence == 4.0, "what is asked after opens it again"


def test_a_closed_file_keeps_what_was_in_it(open_ledger, path):
    """The last to close leaves no log behind."""
    open_ledger().exchange("a", LANE, order(3))
    open_ledger().close()
    reply = open_ledger().exchange("a", LANE, order())
    assert reply.sequence == 2.0
    assert reply.waits[0] > 1e6


def test_after_a_boot_nothing_is_remembered(open_ledger, tmp_path, monkeypatch):
    """The clock began again, so the instants mean nothing."""
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(schema, "BOOT_ID", boot)
    boot.write_text("first\n")
    before = open_ledger()
    before.exchange("a", LANE, order(3, notice="{}"))
    before.close()
    same = open_ledger()
    assert same.exchange("a", LANE, order()).notice == "{}"
    same.close()
    boot.write_text("second\n")
    after = open_ledger().exchange("a", LANE, order())
    assert (after.waits, after.sequence, after.notice) == ((0.0,), 1.0, "")


@pytest.mark.parametrize(("uptime", "remembered"), [(50.0, False), (2_000.0, True)])
def test_without_a_boot_id_what_lies_ahead_is_of_another_boot(
    open_ledger, tmp_path, monkeypatch, uptime, remembered
):
    """What lies behind may be, too; but then more time has passed than it seems."""
    monkeypatch.setattr(schema, "BOOT_ID", tmp_path / "none")
    before = open_ledger(lambda: 1_000.0)
    before.exchange("a", LANE, order())
    before.close()
    reply = open_ledger(lambda: uptime).exchange("a", LANE, order())
    assert reply.waits == (0.0,)
    assert (reply.sequence == 2.0) is remembered


def test_what_nobody_touched_for_two_days_is_removed(open_ledger, path):
    """Lanes, and accounts without any; looked for once an hour."""
    seat = MemberClaim(1, 1, 0.0, 1e6)
    now = [1_000.0]
    ledger = open_ledger(lambda: now[0])
    ledger.exchange("old", LANE, order(seat=seat, notice="{}"))
    ledger.exchange("new", "idle lane", order(seat=seat))
    now[0] += 1.5 * DAY
    ledger.exchange("new", LANE, order())
    assert len(ledger.fleet().lanes) == 3
    now[0] += 0.6 * DAY
    fleet = ledger.fleet()
    assert [(lane.account, lane.lane) for lane in fleet.lanes] == [("new", LANE)]
    assert fleet.notices == {}
    with sqlite3.connect(path) as seen:
        assert seen.execute("SELECT account FROM account").fetchall() == [("new",)]
    seen.close()


def test_a_file_that_is_moved_away_is_made_anew(open_ledger, path):
    """By all who use it: nobody goes on counting in the one that has no name."""
    one, two = open_ledger(), open_ledger()
    now = one.exchange("a", LANE, order(5)).now
    two.now()
    for end in ("", "-wal", "-shm"):
        os.rename(path + end, path + ".away" + end)
    assert one.exchange("a", LANE, order(seen=now + 60e6)).waits[0] > 50e6
    assert two.exchange("a", LANE, order()).sequence == 2.0


def test_the_files_text_says_what_there_is(open_ledger, path):
    """One row of JSON for a lane, which a shell can read."""
    open_ledger().exchange("a", LANE, order(facts='{"größer": 1}'))
    with sqlite3.connect(path) as seen:
        ((text,),) = seen.execute("SELECT record FROM lane").fetchall()
        assert seen.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    seen.close()
    assert '"requests"' in text


# -- refused where it is made ----------------------------------------------------------------------


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    """When the ledger is made, not when the first call leaves."""
    with pytest.raises(ConfigurationError, match="directory of .*quota.db does not exist"):
        SqliteStore(str(tmp_path / "no" / "quota.db"), time.monotonic)


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(ConfigurationError, match="no file"):
        SqliteStore(str(tmp_path), time.monotonic)


def test_another_users_file_is_refused(path, monkeypatch):
    """It could be a trap, and its owner could not share it."""
    open(path, "w").close()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        SqliteStore(path, time.monotonic)


@pytest.mark.parametrize("end", ["", ".lock"])
def test_another_users_file_that_came_later_is_not_used(open_ledger, path, monkeypatch, end):
    """Made between the start and the first call."""
    ledger, owner = open_ledger(), os.geteuid()
    open(path + end, "w").close()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StoreFailed, match="another user"):
        ledger.now()


def test_a_lock_that_is_a_link_is_not_followed(open_ledger, path, tmp_path):
    """In a directory others may write it could lead anywhere."""
    os.symlink(tmp_path / "elsewhere", path + ".lock")
    with pytest.raises(StoreFailed, match=r"quota\.db"):
        open_ledger().now()
    assert not (tmp_path / "elsewhere").exists()


def test_a_system_without_flock_is_refused(path, monkeypatch):
    """Windows."""
    monkeypatch.delattr(turns, "flock")
    with pytest.raises(ConfigurationError, match="use Redis"):
        SqliteStore(path, time.monotonic)


# -- faults ----------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_left_alone(open_ledger, path):
    """And whoever reads the error knows what to do."""
    with open(path, "w") as file:
        file.write("my diary\n" * 1000)
    with pytest.raises(StoreFailed, match="no database: move it away"):
        open_ledger().now()
    with open(path) as file:
        assert file.read() == "my diary\n" * 1000


def test_another_programs_database_is_left_alone(open_ledger, path):
    """A typing error must not put our tables into Django's."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE auth_user (name)")
    other.close()
    os.chmod(path, 0o640)
    before = Path(path).read_bytes()
    with pytest.raises(StoreFailed, match="another program's database"):
        open_ledger().exchange("a", LANE, order())
    assert Path(path).read_bytes() == before
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_a_file_of_another_version_is_left_alone(open_ledger, path):
    ledger = open_ledger()
    ledger.now()
    ledger.close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreFailed, match="another version"):
        ledger.now()


def _damage_pages(path):
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 20_000)


def _damage_record(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE lane SET record = '[1, 2'")
    database.close()


@pytest.mark.parametrize("damage", [_damage_pages, _damage_record])
def test_a_damaged_file_says_so_until_it_is_moved_away(open_ledger, path, damage):
    """Then it goes on by itself."""
    ledger = open_ledger()
    ledger.exchange("a", LANE, order())
    ledger.close()
    damage(path)
    for _ in range(2):
        with pytest.raises(StoreFailed, match="damaged: move it, its -wal and its -shm away"):
            ledger.exchange("a", LANE, order())
    os.rename(path, path + ".damaged")
    assert ledger.exchange("a", LANE, order()).sequence == 1.0


def test_a_fault_in_the_middle_leaves_nothing_behind(open_ledger, monkeypatch):
    """All of an exchange, or nothing; and the next one works."""
    ledger = open_ledger()
    ledger.exchange("a", LANE, order())

    def fail(record):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("claude_throttle.features.sharing.stores.sqlite.account_text", fail)
        with pytest.raises(KeyboardInterrupt):
            ledger.exchange("a", LANE, order(5, notice="{}"))
    reply = ledger.exchange("a", LANE, order())
    assert (reply.sequence, reply.notice) == (2.0, "")


def test_a_directory_that_vanished(open_ledger, path, tmp_path):
    """It is no reason to fail in any other way."""
    ledger = open_ledger()
    ledger.now()
    os.rename(tmp_path, f"{tmp_path}-away")
    try:
        with pytest.raises(StoreFailed, match=r"quota\.db"):
            ledger.now()
    finally:
        os.rename(f"{tmp_path}-away", tmp_path)
    assert ledger.now() > 0


def test_a_shell_that_locks_the_file_is_waited_for(open_ledger, path):
    """But no longer than agreed: it takes no turns."""
    ledger = open_ledger(timeout_seconds=0.2)
    ledger.now()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreFailed, match="another program has locked it"):
        ledger.exchange("a", LANE, order())
    assert 0.15 < time.monotonic() - began < 2.0
    other.execute("COMMIT")
    other.close()
    assert ledger.exchange("a", LANE, order()).done


FULL = """
import resource, signal, sys, time
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import LANE, order
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = SqliteStore(sys.argv[1], time.monotonic, 5.0)
ledger.exchange("a", LANE, order())
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
done = 0
try:
    for _ in range(1000):
        done = ledger.exchange("a", LANE, order(facts="x" * 5000)).sequence
except StoreFailed as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(ledger.exchange("a", LANE, order()).sequence - done)
"""


def test_a_disk_that_is_full_and_has_room_again(path):
    """A file that may not grow stands for it."""
    said = _run(FULL, path).splitlines()
    assert said[0].startswith(f"{path}: the disk is full, or fails: make room")
    assert said[1] == "1.0", "nothing of what failed was kept"


READ_ONLY = """
import os, sys, time
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import LANE, order
if os.geteuid() == 0:
    os.chown(sys.argv[2], 65534, 65534)
    os.setuid(65534)
ledger = SqliteStore(sys.argv[1], time.monotonic, 5.0)
os.chmod(sys.argv[2], 0o500)
try:
    ledger.exchange("a", LANE, order())
except StoreFailed as error:
    print(error)
os.chmod(sys.argv[2], 0o700)
print(ledger.exchange("a", LANE, order()).done)
"""


def test_a_directory_that_cannot_be_written():
    """Root can write everywhere, so it is somebody else, in a place that is open to all."""
    with tempfile.TemporaryDirectory() as folder:
        said = _run(READ_ONLY, f"{folder}/quota.db", folder).splitlines()
    assert "Permission denied" in said[0]
    assert said[1] == "True"


def _run(program, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
