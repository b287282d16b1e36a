"""What a Redis keeps of ours, for how long, and over how many connections."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest

from claude_throttle.features.sharing.stores.contract import MemberClaim, StoreFailed
from tests.support.store_requests import LANE, new_account, reserving
from tests.support.waiting import wait_until


def test_threads_share_connections(start_redis, store_at):
    """As many connections as ask at once, and no more; none after close()."""
    server = start_redis()
    store = store_at(server.url)
    account = new_account()

    def ask():
        for _ in range(50):
            store.transact(account, LANE, reserving(interval=1.0))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.transact(account, LANE, reserving(count=0)).taken == (400.0,)
    assert 1 <= _clients(server) - 1 <= 8
    store.close()
    wait_until(lambda: _clients(server) == 1)
    with pytest.raises(StoreFailed, match="closed"):
        store.transact(account, LANE, reserving())


def _clients(server):
    """With the one that asks."""
    return server.ask("CLIENT LIST TYPE normal").count(b"id=")


def test_keys_expire(start_redis, store_at):
    """A lane after an hour or twice its longest span, an account after an hour, a notice a day."""
    server = start_redis()
    store = store_at(server.url)
    account = new_account()

    def seconds(kind):
        answer = server.ask(f"PTTL claude-throttle:{{{account}}}:{kind}")
        return int(answer.strip().lstrip(b":")) / 1000

    store.transact(account, LANE, reserving(claim=MemberClaim(0, 1, 0.0, 15e6)))
    assert 3590 < seconds("account") <= 3600
    assert 3600 <= seconds(f"lane:{LANE}") <= 3660
    store.transact(account, LANE, reserving(interval=86.4e6, burst=1000.0, count=0))
    assert 2 * 86400 - 1 <= seconds(f"lane:{LANE}") <= 2 * 86400 + 60
    store.transact(account, LANE, reserving(notice='{"reason": "spend"}'))
    store.transact(account, LANE, reserving(claim=MemberClaim(0, 1, 0.0, 15e6)))
    assert seconds("account") > 86390
    store.transact(account, LANE, reserving(pause=7 * 86400e6))
    assert seconds(f"lane:{LANE}") > 7 * 86400
    store.transact(account, LANE, reserving(count=0, interval=1e300))
    assert seconds(f"lane:{LANE}") > 7 * 86400


def test_the_fleet_is_what_was_stored(start_redis, store_at):
    """All accounts, all lanes, all members; nothing of others'."""
    server = start_redis()
    store = store_at(server.url)
    for key in ("other", "claude-throttle:strange", "claude-throttle:{x}:other"):
        assert server.ask(f"HSET {key} a b").startswith(b":1")
    assert not any(store.fleet())
    claim = MemberClaim(3, 5, 0.0, 15e6, '{"host": "a b"}')
    for number in range(250):
        more = {"claim": claim} if number == 0 else {}
        store.transact(f"account {number}", f"lane:{number}", reserving(count=3, **more))
    store.transact("account 1", "lane:1", reserving(pause=60e6, facts='{"ü": 1}', notice='"why"'))
    fleet = store.fleet()
    lanes = {lane.account: lane for lane in fleet.lanes}
    assert len(fleet.lanes) == len(lanes) == 250
    assert {lane.lane for lane in fleet.lanes} == {f"lane:{number}" for number in range(250)}
    assert -2.01 < lanes["account 7"].levels["requests"][0] < 1
    assert lanes["account 7"].levels["requests"][1] == 1.0
    assert 50 < lanes["account 1"].paused_seconds <= 60
    assert lanes["account 1"].facts == '{"ü": 1}'
    assert fleet.notices == {"account 1": '"why"'}
    (member,) = fleet.members
    assert member[:3] == ("account 0", "one", 5)
    assert member.info == claim.info
    assert 5 < member.expires_seconds <= 15  # 250 exchanges later, on a busy machine


def test_a_child_can_neither_read_nor_write_what_is_its_parents(redis_url, store_at):
    """A greenlet that survived the fork would take the parent's next answer."""
    store = store_at(redis_url)
    account = new_account()
    store.transact(account, LANE, reserving())
    ((connection,),) = store._idle.values()
    sock = connection._sock
    pid = os.fork()
    if pid == 0:
        got = b"nothing was tried"
        with contextlib.suppress(BaseException):
            store.abandon()
            got = b""
            for use in (lambda: sock.send(b"PING\r\n"), lambda: sock.recv(1)):
                with contextlib.suppress(OSError):
                    got = use()
        os._exit(1 if got else 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.transact(account, LANE, reserving()).taken == (2.0,)
    assert list(store._idle.values()) == [[connection]]
    store.abandon()  # in the process that made it, nothing
    assert store.transact(account, LANE, reserving()).taken == (3.0,)
