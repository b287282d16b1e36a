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
from claude_throttle.features.sharing.stores import sqlite_format as schema
from claude_throttle.features.sharing.stores.contract import MemberClaim, StoreFailed
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import LANE, reserving

DAY = 86_400.0


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quota.db")


@pytest.fixture
def open_store(path):
    """``open_store(monotonic)``; closed when the test ends."""
    made = []

    def make(monotonic=time.monotonic, timeout_seconds=5.0, path=path):
        made.append(SqliteStore(path, monotonic, timeout_seconds))
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_all_its_files_are_the_owners_alone(open_store, tmp_path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        open_store().transact("a", LANE, reserving())
    finally:
        os.umask(before)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    names = ("quota.db", "quota.db-wal", "quota.db-shm", "quota.db.lock")
    assert modes == dict.fromkeys(names, 0o600)


def test_a_file_that_others_may_read_is_closed_to_them(open_store, path):
    """An empty one, made by hand."""
    for name in (path, path + ".lock"):
        with open(name, "w"):
            os.chmod(name, 0o644)
    assert open_store().transact("a", LANE, reserving()).done
    assert {stat.S_IMODE(os.stat(name).st_mode) for name in (path, path + ".lock")} == {0o600}


def test_nothing_is_opened_before_the_first_use(open_store, tmp_path):
    """It may be made before a fork."""
    open_store()
    assert list(tmp_path.iterdir()) == []


def test_several_ledgers_of_one_process_share_a_file(open_store, tmp_path):
    """By whatever name: one end does not disturb the other."""
    (tmp_path / "link.db").symlink_to(tmp_path / "quota.db")
    one, two = open_store(), open_store(path=str(tmp_path / "link.db"))
    assert one.name == two.name == f"sqlite:///{tmp_path}/quota.db"
    assert one.transact("a", LANE, reserving()).waits == (0.0,)
    assert two.transact("a", LANE, reserving()).waits[0] > 0
    one.close()
    assert two.transact("a", LANE, reserving()).sequence == 3.0
    assert one.transact("a", LANE, reserving()).sequence == 4.0, "it is opened again"


def test_a_closed_file_keeps_what_was_in_it(open_store, path):
    """The last to close leaves no log behind."""
    open_store().transact("a", LANE, reserving(3))
    open_store().close()
    response = open_store().transact("a", LANE, reserving())
    assert response.sequence == 2.0
    assert response.waits[0] > 1e6


def test_after_a_boot_nothing_is_remembered(open_store, tmp_path, monkeypatch):
    """The clock began again, so the instants mean nothing."""
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(schema, "BOOT_ID", boot)
    boot.write_text("first\n")
    before = open_store()
    before.transact("a", LANE, reserving(3, notice="{}"))
    before.close()
    same = open_store()
    assert same.transact("a", LANE, reserving()).notice == "{}"
    same.close()
    boot.write_text("second\n")
    after = open_store().transact("a", LANE, reserving())
    assert (after.waits, after.sequence, after.notice) == ((0.0,), 1.0, "")


@pytest.mark.parametrize(("uptime", "remembered"), [(50.0, False), (2_000.0, True)])
def test_without_a_boot_id_what_lies_ahead_is_of_another_boot(
    open_store, tmp_path, monkeypatch, uptime, remembered
):
    """What lies behind may be, too; but then more time has passed than it seems."""
    monkeypatch.setattr(schema, "BOOT_ID", tmp_path / "none")
    before = open_store(lambda: 1_000.0)
    before.transact("a", LANE, reserving())
    before.close()
    response = open_store(lambda: uptime).transact("a", LANE, reserving())
    assert response.waits == (0.0,)
    assert (response.sequence == 2.0) is remembered


def test_what_nobody_touched_for_two_days_is_removed(open_store, path):
    """Lanes, and accounts without any; looked for once an hour."""
    claim = MemberClaim(1, 1, 0.0, 1e6)
    now = [1_000.0]
    store = open_store(lambda: now[0])
    store.transact("old", LANE, reserving(claim=claim, notice="{}"))
    store.transact("new", "idle lane", reserving(claim=claim))
    now[0] += 1.5 * DAY
    store.transact("new", LANE, reserving())
    assert len(store.fleet().lanes) == 3
    now[0] += 0.6 * DAY
    fleet = store.fleet()
    assert [(lane.account, lane.lane) for lane in fleet.lanes] == [("new", LANE)]
    assert fleet.notices == {}
    with sqlite3.connect(path) as seen:
        assert seen.execute("SELECT account FROM account").fetchall() == [("new",)]
    seen.close()


def test_a_file_that_is_moved_away_is_made_anew(open_store, path):
    """By all who use it: nobody goes on counting in the one that has no name."""
    one, two = open_store(), open_store()
    now = one.transact("a", LANE, reserving(5)).now
    two.read_clock()
    for end in ("", "-wal", "-shm"):
        os.rename(path + end, path + ".away" + end)
    assert one.transact("a", LANE, reserving(seen=now + 60e6)).waits[0] > 50e6
    assert two.transact("a", LANE, reserving()).sequence == 2.0


def test_the_files_text_says_what_there_is(open_store, path):
    """One row of JSON for a lane, which a shell can read."""
    open_store().transact("a", LANE, reserving(facts='{"größer": 1}'))
    with sqlite3.connect(path) as seen:
        ((text,),) = seen.execute("SELECT record FROM lane").fetchall()
        assert seen.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    seen.close()
    assert '"requests"' in text


# -- refused where it is made ----------------------------------------------------------------------


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    """When the store is made, not when the first call leaves."""
    with pytest.raises(ConfigurationError, match="directory of .*quota.db does not exist"):
        SqliteStore(str(tmp_path / "no" / "quota.db"), time.monotonic)


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(ConfigurationError, match="not a regular file"):
        SqliteStore(str(tmp_path), time.monotonic)


def test_another_users_file_is_refused(path, monkeypatch):
    """It could be a trap, and its owner could not share it."""
    open(path, "w").close()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        SqliteStore(path, time.monotonic)


@pytest.mark.parametrize("end", ["", ".lock"])
def test_another_users_file_that_came_later_is_not_used(open_store, path, monkeypatch, end):
    """Made between the start and the first call."""
    store, owner = open_store(), os.geteuid()
    open(path + end, "w").close()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StoreFailed, match="another user"):
        store.read_clock()


def test_a_lock_that_is_a_link_is_not_followed(open_store, path, tmp_path):
    """In a directory others may write it could lead anywhere."""
    os.symlink(tmp_path / "elsewhere", path + ".lock")
    with pytest.raises(StoreFailed, match=r"quota\.db"):
        open_store().read_clock()
    assert not (tmp_path / "elsewhere").exists()


def test_a_system_without_flock_is_refused(path, monkeypatch):
    """Windows."""
    monkeypatch.delattr(turns, "flock")
    with pytest.raises(ConfigurationError, match="use Redis"):
        SqliteStore(path, time.monotonic)


# -- faults ----------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_left_alone(open_store, path):
    """And whoever reads the error knows what to do."""
    with open(path, "w") as file:
        file.write("my diary\n" * 1000)
    with pytest.raises(StoreFailed, match="not a database: move it away"):
        open_store().read_clock()
    with open(path) as file:
        assert file.read() == "my diary\n" * 1000


def test_another_programs_database_is_left_alone(open_store, path):
    """A typing error must not put our tables into Django's."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE auth_user (name)")
    other.close()
    os.chmod(path, 0o640)
    before = Path(path).read_bytes()
    with pytest.raises(StoreFailed, match="another program's database"):
        open_store().transact("a", LANE, reserving())
    assert Path(path).read_bytes() == before
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_a_file_of_another_version_is_left_alone(open_store, path):
    store = open_store()
    store.read_clock()
    store.close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreFailed, match="another version"):
        store.read_clock()


def _damage_pages(path):
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 20_000)


def _damage_record(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE lane SET record = '[1, 2'")
    database.close()


@pytest.mark.parametrize("damage", [_damage_pages, _damage_record])
def test_a_damaged_file_says_so_until_it_is_moved_away(open_store, path, damage):
    """Then it goes on by itself."""
    store = open_store()
    store.transact("a", LANE, reserving())
    store.close()
    damage(path)
    for _ in range(2):
        with pytest.raises(StoreFailed, match="damaged: move it, its -wal and its -shm away"):
            store.transact("a", LANE, reserving())
    os.rename(path, path + ".damaged")
    assert store.transact("a", LANE, reserving()).sequence == 1.0


def test_a_fault_in_the_middle_leaves_nothing_behind(open_store, monkeypatch):
    """All of an exchange, or nothing; and the next one works."""
    store = open_store()
    store.transact("a", LANE, reserving())

    def fail(record):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("claude_throttle.features.sharing.stores.sqlite.account_text", fail)
        with pytest.raises(KeyboardInterrupt):
            store.transact("a", LANE, reserving(5, notice="{}"))
    response = store.transact("a", LANE, reserving())
    assert (response.sequence, response.notice) == (2.0, "")


def test_a_directory_that_vanished(open_store, path, tmp_path):
    """It is no reason to fail in any other way."""
    store = open_store()
    store.read_clock()
    os.rename(tmp_path, f"{tmp_path}-away")
    try:
        with pytest.raises(StoreFailed, match=r"quota\.db"):
            store.read_clock()
    finally:
        os.rename(f"{tmp_path}-away", tmp_path)
    assert store.read_clock() > 0


def test_a_shell_that_locks_the_file_is_waited_for(open_store, path):
    """But no longer than agreed: it takes no turns."""
    store = open_store(timeout_seconds=0.2)
    store.read_clock()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreFailed, match="another program has locked it"):
        store.transact("a", LANE, reserving())
    assert 0.15 < time.monotonic() - began < 10.0
    other.execute("COMMIT")
    other.close()
    assert store.transact("a", LANE, reserving()).done


FULL = """
import resource, signal, sys, time
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import LANE, reserving
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore(sys.argv[1], time.monotonic, 5.0)
store.transact("a", LANE, reserving())
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
done = 0
try:
    for _ in range(1000):
        done = store.transact("a", LANE, reserving(facts="x" * 5000)).sequence
except StoreFailed as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(store.transact("a", LANE, reserving()).sequence - done)
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
from tests.support.store_requests import LANE, reserving
if os.geteuid() == 0:
    os.chown(sys.argv[2], 65534, 65534)
    os.setuid(65534)
store = SqliteStore(sys.argv[1], time.monotonic, 5.0)
os.chmod(sys.argv[2], 0o500)
try:
    store.transact("a", LANE, reserving())
except StoreFailed as error:
    print(error)
os.chmod(sys.argv[2], 0o700)
print(store.transact("a", LANE, reserving()).done)
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
