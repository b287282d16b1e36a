"""A Redis that refuses: nothing is half done, and it is said in words, without a password."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import quote

import pytest

from claude_throttle.features.sharing.stores.contract import StoreFailed
from tests.support.store_requests import LANE, new_account, reserving


@pytest.fixture
def says():
    """``says(bytes)``: a port where everything is answered with those."""
    with contextlib.ExitStack() as stack:

        def start(answer):
            listener = socket.socket()
            stack.callback(listener.close)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            threading.Thread(target=_answer_all, args=(listener, answer), daemon=True).start()
            return listener.getsockname()[1]

        yield start


def _answer_all(listener, answer):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()


def _answer(connection, answer):
    # Old and new clients say different things first; a whole command gets one answer.
    with contextlib.suppress(OSError), connection:
        while asked := connection.recv(65536):
            for _ in range(max(1, asked.count(b"SETINFO"))):
                connection.sendall(b"+OK\r\n" if b"SETINFO" in asked else answer)


def failing(store, account=None):
    """The text of a failure."""
    with pytest.raises(StoreFailed) as caught:
        store.transact(account or new_account(), LANE, reserving())
    assert store.name in str(caught.value)
    return str(caught.value)


def test_a_read_only_replica_is_refused(start_redis, store_at):
    """In words that say what to do."""
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    assert "name the primary" in failing(store_at(replica.url))


def test_full_memory_leaves_nothing_half_done(start_redis, store_at):
    """Nothing is evicted, nothing is written, and it is over when there is room again."""
    server = start_redis("--maxmemory-policy", "noeviction")
    store = store_at(server.url)
    account = new_account()
    kept = store.transact(account, LANE, reserving())
    assert server.ask("CONFIG SET maxmemory 1").startswith(b"+OK")
    assert "maxmemory" in failing(store, account)
    assert server.ask("CONFIG SET maxmemory 0").startswith(b"+OK")
    again = store.transact(account, LANE, reserving(count=0))
    assert (again.taken, again.sequence) == (kept.taken, kept.sequence)


@pytest.mark.parametrize("kind", ["account", f"lane:{LANE}"])
def test_somebody_elses_keys_leave_nothing_half_done(start_redis, store_at, kind):
    """A key of ours that is no hash."""
    server = start_redis()
    store = store_at(server.url)
    account = new_account()
    assert server.ask(f"SET claude-throttle:{{{account}}}:{kind} x").startswith(b"+OK")
    assert "Something else" in failing(store, account)
    assert server.ask("DBSIZE").startswith(b":1\r")


def test_a_password_is_asked_for_and_never_shown(start_redis, store_at):
    """Neither the wrong one nor the right one; in no form."""
    server = start_redis("--requirepass", "right-secret")
    wrong = "wr#ng:se/cret"
    store = store_at(f"redis://:{quote(wrong, safe='')}@127.0.0.1:{server.port}/0")
    text = failing(store)
    assert "password" in text
    shown = f"{text} {store.name} {store!r}"
    assert not [part for part in (wrong, quote(wrong, safe=""), "right") if part in shown]
    assert "user and password" in failing(store_at(server.url))
    right = store_at(f"redis://:right-secret@127.0.0.1:{server.port}/0")
    assert right.transact(new_account(), LANE, reserving()).done


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "answer soon"),
        (b"-ASK 3999 127.0.0.1:1\r\n", "moving its slots"),
        (b"-CLUSTERDOWN The cluster is down\r\n", "not complete"),
        (b"-NOPERM User x has no permissions\r\n", "EVALSHA"),
        (b"-ERR something new\r\n", "something new"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "failed"),
        (b"$3\r\nabc\r\n", "failed"),
        (b"$-1\r\n", "failed"),
        (b"+OK\r\n+OK\r\n", "failed"),
        (b"", "in time"),
    ],
)
def test_strange_answers_are_failures(says, store_at, answer, expected):
    """Also those of something that is no Redis."""
    seconds = 5.0 if answer else 0.25
    store = store_at(f"redis://127.0.0.1:{says(answer)}/0", timeout_seconds=seconds)
    for _ in range(2):
        assert expected in failing(store)
