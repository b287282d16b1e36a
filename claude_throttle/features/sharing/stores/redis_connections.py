"""Makes connections to a Redis server, from a URL or from a client of redis-py or valkey-py.

Works with redis-py from 4.3 and with valkey-py, whose connection classes accept different settings;
what one does not accept is left out. A caller's client gives its settings only: its connections
have its own timeouts and retries, and may be in use. The trap: an error of these libraries may
quote the URL with its password, so none is passed on with its own text.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any, Callable, Optional
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from claude_throttle.errors import ConfigurationError

#: Seconds that each step of making a connection may take, and that each Sentinel may take. Callers
#: wait ``store_timeout`` at most; the connection is finished for the next one.
CONNECT_SECONDS = 1.0

#: Imports a module of redis-py by its name, "redis.sentinel" for example.
Library = Callable[[str], Any]

#: Host and port.
Address = tuple[str, int]

URL_FORMS = (
    "redis://[user:password@]host:6379/0, rediss://…, unix:///path/to/redis.sock?db=0, or "
    "redis+sentinel://host:26379,host2:26379/mymaster/0"
)

#: Settings of a client that our connections must not have: retries (redis-py then blocks for
#: seconds), and what watches the client's own connections.
NOT_OURS = ("retry", "maint_", "maintenance_", "oss_", "orig_", "event_dispatcher", "cache")

#: Settings whose values must not be shown in an error or a log.
SECRET = ("password", "ssl_password", "username")


class RedisServer:
    """Makes connections to one server, with the class and the settings of a connection pool.

    Thread-safe: nothing changes after it was made. Holds the password; ``name`` and ``secrets``
    are for showing the address, and for removing the password from other texts.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool  # a Sentinel's connections hold it only weakly
        self._class = pool.connection_class
        if inspect.iscoroutinefunction(getattr(self._class, "connect", None)):
            raise ConfigurationError("shared must be a client for threads, not one for asyncio")
        given = pool.connection_kwargs
        self._settings: dict[str, Any] = {
            **{name: value for name, value in given.items() if not name.startswith(NOT_OURS)},
            "socket_timeout": CONNECT_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "health_check_interval": 0,
            "decode_responses": False,
            # Nothing needs version 3, and the server answers its HELLO with a page of text.
            "protocol": 2,
        }
        self.name = _name_of(pool)
        self.secrets = _secrets_of(given, *_sentinel_settings(pool))
        self._drop_unknown_settings()

    def connection(self, address: Optional[Address] = None) -> Any:
        """A connection that is not established yet; to *address* if a Cluster named another one."""
        settings = self._settings
        if address is not None:
            settings = {**settings, "host": address[0], "port": address[1]}
        return self._class(**settings)

    def moved_to(self, said: str) -> Address:
        """The address in ``MOVED 3999 host:port``; without a host, that of this server."""
        host, _, port = said.rpartition(" ")[2].rpartition(":")
        return host or self._settings.get("host", "localhost"), int(port)

    def _drop_unknown_settings(self) -> None:
        """Drop settings that this version's connection class does not accept.

        Old versions have one protocol only, and no timeout for connecting to a unix socket.
        """
        for name in ("protocol", "socket_connect_timeout"):
            try:
                self._class(**self._settings)
                return
            except TypeError:
                del self._settings[name]
        self._class(**self._settings)


def server(url_or_client: Any, library: Library) -> RedisServer:
    """The server of a URL or a client. Raises :class:`ConfigurationError`, without the URL."""
    if not isinstance(url_or_client, str):
        return RedisServer(_pool_of(url_or_client))
    try:
        return RedisServer(_pool_at(url_or_client, library))
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - those of several libraries
        # Its text may be a piece of the password: where that holds a "#", it is read as the port.
        raise ConfigurationError(
            f"shared is a Redis URL that cannot be read ({type(error).__name__}); it must be one "
            f"of {URL_FORMS}, with special characters of a password as %XX"
        ) from None


def _pool_of(client: Any) -> Any:
    nodes = getattr(client, "nodes_manager", None)
    if nodes is not None:  # a Cluster: any node tells where an account is kept
        client = client.get_redis_connection(client.get_default_node())
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise ConfigurationError(
            f"shared must be a URL or a Redis client, not {type(client).__name__}"
        )
    return pool


# redis-py has no URL for Sentinel. So the part after the hosts is given to its own parser, as a URL
# of a single server, and the result to its Sentinel class.
def _pool_at(url: str, library: Library) -> Any:
    parts = urlsplit(url)
    if not parts.scheme.endswith("+sentinel"):
        return library("redis").ConnectionPool.from_url(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    sentinels = [_address(host) for host in hosts]
    name, _, db = parts.path.strip("/").partition("/")
    if not name:
        raise ConfigurationError(f"a Sentinel URL must name what it watches: {URL_FORMS}")
    options = dict(parse_qsl(parts.query))
    own: dict[str, Any] = {
        key[len("sentinel_") :]: options.pop(key)
        for key in ("sentinel_username", "sentinel_password")
        if key in options
    }
    # The library parses the options. The host in this URL is never used: Sentinel names the real
    # one for each connection.
    plain = f"redis://{_credentials(parts)}sentinel/{db or 0}?{urlencode(options, quote_via=quote)}"
    settings = dict(library("redis").ConnectionPool.from_url(plain).connection_kwargs)
    for key in ("host", "port"):
        settings.pop(key, None)
    if parts.scheme == "rediss+sentinel":
        settings["ssl"] = True
    own["socket_timeout"] = own["socket_connect_timeout"] = CONNECT_SECONDS
    # Otherwise a Sentinel that is gone is tried for seconds before the next one is asked.
    with contextlib.suppress(ConfigurationError):  # before 4.0 it never did
        own["retry"] = library("redis.retry").Retry(library("redis.backoff").NoBackoff(), 0)
    watcher = library("redis.sentinel").Sentinel(sentinels, sentinel_kwargs=own)
    return watcher.master_for(unquote(name), **settings).connection_pool


def _credentials(parts: SplitResult) -> str:
    credentials, at, _ = parts.netloc.rpartition("@")
    return credentials + at


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ConfigurationError(f"a Sentinel URL must name hosts: {URL_FORMS}")
    return parts.hostname, parts.port or 26379


def _name_of(pool: Any) -> str:
    settings = pool.connection_kwargs
    db = settings.get("db") or 0
    tls = "rediss" if "SSL" in pool.connection_class.__name__ else "redis"
    service = getattr(pool, "service_name", None)
    if service is not None:
        return f"{tls}+sentinel://{_sentinels_of(pool)}/{service}/{db}"
    if "path" in settings:
        return f"unix://{settings['path']}?db={db}"
    return f"{tls}://{settings.get('host', 'localhost')}:{settings.get('port', 6379)}/{db}"


def _sentinels_of(pool: Any) -> str:
    return ",".join(f"{one.get('host')}:{one.get('port')}" for one in _sentinel_settings(pool))


def _sentinel_settings(pool: Any) -> list[Mapping[str, Any]]:
    manager = getattr(pool, "sentinel_manager", None)
    sentinels = () if manager is None else manager.sentinels
    return [sentinel.connection_pool.connection_kwargs for sentinel in sentinels]


# As they are and as a URL has them: an error may quote either.
def _secrets_of(*settings: Mapping[str, Any]) -> tuple[str, ...]:
    values = {str(some[name]) for some in settings for name in SECRET if some.get(name)}
    return tuple({text for value in values for text in (value, quote(value, safe=""))})
