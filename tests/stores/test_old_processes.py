"""Processes of an older version on the same store, as during a rolling deploy.

``frozen/`` holds what commit 9b9bcfd (2026-11-30) used: its script, and what it wrote and sent for
the request below. Whoever has to change a file there changes what stores hold: then give the new
keys, or the new tables, another name.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
import redis

from claude_throttle.features.sharing.stores import sqlite_format
from claude_throttle.features.sharing.stores.contract import (
    ExchangeRequest,
    MemberClaim,
    StoredBucket,
)
from claude_throttle.features.sharing.stores.redis_format import (
    account_key,
    decode,
    encode,
    lane_key,
)
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import new_account

FROZEN = Path(__file__).with_name("frozen")
SCRIPT = (FROZEN / "exchange.lua").read_bytes()
WRITTEN = json.loads((FROZEN / "format.json").read_text(encoding="utf-8"))

LANE = "sonnet-4"
FACTS = '{"input_tokens":[50000.0,50000.0,0.0,true,"headers"]}'
NOTICE = '{"": ["spend", "why", null]}'
REQUEST = ExchangeRequest(
    "host:1:abc",
    1e300,
    (
        StoredBucket("rpm", 1.2e6, 2.0, strict=True),
        StoredBucket("input_tokens", 1200.0, 50000.0, shift=6e5, keep=10.0, margin=250.0),
    ),
    ((1.0, 700.0), (1.0, 300.0)),
    horizon=1e12,
    counts=(("output_tokens", 12.0),),
    facts=FACTS,
    notice=NOTICE,
    claim=MemberClaim(1, 3, 8.0, 15e6, '{"host": "h", "pid": 1, "lanes": {"sonnet-4": [2, 1]}}'),
)
#: Another process, that was told of the first.
OTHER = REQUEST._replace(
    member="host:2:def",
    counts=(("output_tokens", 30.0),),
    version=1.0,
    facts=None,
    notice=None,
    claim=MemberClaim(0, 9, 8.0, 15e6),
)


def test_a_request_is_sent_to_the_script_as_before():
    """Byte by byte: the old script reads what we send, and ours what old processes send."""
    assert [word.hex() for word in encode("account", LANE, REQUEST)] == WRITTEN["words"]


class OldProcess:
    """Runs the old script, with what an old process would send."""

    def __init__(self, url):
        self.client = redis.Redis.from_url(url)

    def transact(self, account, lane, request):
        count, *words = encode(account, lane, request)
        return decode(self.client.eval(SCRIPT, int(count), *words), request)


@pytest.fixture
def old(redis_url):
    process = OldProcess(redis_url)
    yield process
    process.client.close()


@pytest.mark.parametrize("first", ["old", "new"])
def test_old_and_new_processes_share_a_redis(old, store_at, redis_url, first):
    """Each finds what the other has reserved, taken, counted, learned, claimed and said."""
    new, account = store_at(redis_url), new_account()
    one, two = (old, new) if first == "old" else (new, old)
    begun = one.transact(account, LANE, REQUEST)
    assert (begun.waits, begun.granted) == ((0.0, 0.0), 3)
    found = two.transact(account, LANE, OTHER)
    assert 0 < found.waits[0] <= 1.2e6 < found.waits[1] <= 2.4e6
    assert found.taken == (4.0, begun.taken[1] + 1500.0)
    assert (found.sequence, found.version, found.totals) == (2.0, 1.0, (42.0,))
    assert (found.facts, found.notice) == (FACTS, NOTICE)
    assert (found.granted, found.members, found.in_flight) == (5, 2, 8)
    again = one.transact(account, LANE, REQUEST._replace(pause=5e6, version=1.0, facts="{}"))
    assert again.version == 2.0
    last = two.transact(account, LANE, OTHER._replace(reservations=()))
    assert (last.pause_until, last.facts, last.version) == (again.pause_until, "{}", 2.0)


def test_old_and_new_processes_write_the_same_fields(old, store_at, redis_url):
    """And no key beside them."""
    new, fields = store_at(redis_url), []
    for process in (old, new):
        account = new_account()
        process.transact(account, LANE, REQUEST)
        keys = sorted(old.client.scan_iter(f"*{account}*"))
        assert keys == [account_key(account).encode(), lane_key(account, LANE).encode()]
        fields.append([sorted(old.client.hkeys(key)) for key in keys])
        member = old.client.hget(account_key(account), "member:host:1:abc").decode().split(" ", 3)
        assert (member[0], member[1], member[3]) == ("3", "3", REQUEST.claim.info)
    assert fields[0] == fields[1]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file's path, on a machine that has not booted since the frozen one was written."""
    boot = tmp_path / "boot_id"
    boot.write_text(WRITTEN["rows"]["machine"][0][0])
    monkeypatch.setattr(sqlite_format, "BOOT_ID", boot)
    return str(tmp_path / "quota.db")


@pytest.fixture
def open_at(path):
    """``open_at(seconds)``: a store whose clock stands there."""
    with contextlib.ExitStack() as stack:

        def make(seconds):
            store = SqliteStore(path, lambda: seconds, 5.0)
            stack.callback(store.close)
            return store

        yield make


def rows_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in WRITTEN["pragmas"]
        }
        assert found == WRITTEN["pragmas"]
        return {
            table: [list(row) for row in connection.execute(f"SELECT * FROM {table}")]
            for table in WRITTEN["rows"]
        }


def test_a_file_is_written_as_before(path, open_at):
    """Byte by byte, so old processes read it."""
    store = open_at(1000.0)
    store.transact("account", LANE, REQUEST)
    other = ExchangeRequest("host:2:def", 1e300, (), claim=MemberClaim(0, 2, 8.0, 15e6))
    store.transact("account", "", other)
    store.close()
    assert rows_of(path) == WRITTEN["rows"]


def test_an_old_file_is_read(path, open_at):
    """Nothing of it is lost."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("\n".join(WRITTEN["sqlite"]))
        for name, value in WRITTEN["pragmas"].items():
            connection.execute(f"PRAGMA {name} = {value}")
    store = open_at(1000.5)
    found = store.transact("account", LANE, OTHER)
    assert found.waits == pytest.approx((0.7e6, 1.9e6), abs=2)
    assert (found.sequence, found.version, found.totals) == (2.0, 1.0, (42.0,))
    assert (found.facts, found.notice) == (FACTS, NOTICE)
    assert (found.granted, found.members) == (5, 2)
