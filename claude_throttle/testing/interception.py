"""Requests to the API, led to a fake server: those of requests, urllib3, httpx and httpx2.

Code under test may have made its client before the test, with a real key and the real host. So the
host is changed as late as it can be done without TLS: where urllib3 and httpcore are given a
request. Libraries that mock requests or httpx do so above this, and keep what they mock. Nothing is
imported here: a library that is not loaded yet is changed when it is.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from importlib import util
from importlib.abc import MetaPathFinder
from typing import Any, Optional, Union
from urllib.parse import urlsplit

from claude_throttle.transport.endpoints import DEFAULT_PORTS

#: The header that only requests to the API have, to whatever host: a relay is asked with it, too.
MARK = "anthropic-version"

Text = Union[str, bytes, None]


class Interception(MetaPathFinder):
    """A context manager, in force for all threads. *url* is the fake's.

    *is_api* tells the API's hosts. A request with the API's header to any other host but this
    machine goes to the fake, too.
    """

    def __init__(self, url: str, is_api: Callable[[str, Optional[int]], bool]) -> None:
        self._fake = urlsplit(url)
        self._is_api = is_api
        self._changes: dict[str, Callable[[Any], None]] = {
            "urllib3.connectionpool": self._change_urllib3,
            "httpcore": self._change_httpcore,
            "httpcore2": self._change_httpcore,
        }
        #: Class, name and value of what was replaced.
        self._replaced: list[tuple[Any, str, Any]] = []
        #: By process, as a forked child must not use its parent's connections; and by whether
        #: they are ours, which a deadline can end.
        self._managers: dict[tuple[int, bool], Any] = {}

    def __enter__(self) -> Interception:
        for name, change in self._changes.items():
            if name in sys.modules:
                change(sys.modules[name])
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.meta_path.remove(self)
        while self._replaced:
            setattr(*self._replaced.pop())
        for manager in list(self._managers.values()):
            manager.clear()

    def find_spec(self, name: str, _path: Any, _target: Any = None) -> Any:
        """The spec of a library that is being imported, which will be changed then."""
        change = self._changes.pop(name, None)  # so that the search below goes past this
        spec = util.find_spec(name) if change is not None else None
        if spec is None or spec.loader is None or change is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: Any) -> None:
            execute(module)
            if self in sys.meta_path:
                change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec

    def _replace(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        original = getattr(owner, name, None)
        if original is not None:
            self._replaced.append((owner, name, original))
            setattr(owner, name, functools.wraps(original)(wrap(original)))

    def _leads(self, host: str, port: Optional[int], headers: Iterable[Text]) -> bool:
        host = host.strip("[]").rstrip(".").lower()
        if self._is_api(host, port):
            return True
        is_local = host in ("localhost", "::1") or host.startswith("127.")
        return not is_local and any(_text(name).lower() == MARK for name in headers)

    # -- urllib3, and so requests and our own throttler ------------------------------------------

    def _change_urllib3(self, module: Any) -> None:
        def wrap(original: Any) -> Any:
            def urlopen(
                pool: Any,
                method: str,
                url: str,
                body: Any = None,
                headers: Any = None,
                *rest: Any,
                **options: Any,
            ) -> Any:
                to = urlsplit(url)
                host = to.hostname or pool.host
                port = to.port or DEFAULT_PORTS.get(to.scheme, pool.port)
                if not self._leads(host, port, headers or pool.headers or ()):
                    return original(pool, method, url, body, headers, *rest, **options)
                if not rest:
                    options = {"timeout": pool.timeout, "retries": pool.retries, **options}
                path = _path(to.path) + ("?" + to.query if to.query else "")
                return original(self._pool(pool), method, path, body, headers, *rest, **options)

            return urlopen

        self._replace(module.HTTPConnectionPool, "urlopen", wrap)

    def _pool(self, pool: Any) -> Any:
        """A pool of connections to the fake, of the kind that *pool* has."""
        ours = hasattr(pool.ConnectionCls, "detach")
        which = os.getpid(), ours
        if which not in self._managers:
            manager = sys.modules["urllib3"].PoolManager(maxsize=100)
            if ours:
                sys.modules["claude_throttle.transport.connections"].use_owned_connections(manager)
            self._managers.setdefault(which, manager)
        return self._managers[which].connection_from_host(self._fake.hostname, self._fake.port)

    # -- httpcore, and so httpx and the official SDK ---------------------------------------------

    def _change_httpcore(self, module: Any) -> None:
        def wrap(original: Any) -> Any:
            def handle(pool: Any, request: Any) -> Any:
                url = request.url
                port = url.port or DEFAULT_PORTS.get(_text(url.scheme))
                if self._leads(_text(url.host), port, (name for name, _ in request.headers)):
                    request.url = module.URL(
                        scheme="http",
                        host=self._fake.hostname,
                        port=self._fake.port,
                        target=_path(_text(url.target)),
                    )
                return original(pool, request)

            return handle

        self._replace(module.ConnectionPool, "handle_request", wrap)
        self._replace(module.AsyncConnectionPool, "handle_async_request", wrap)
        for kind in ("HTTPProxy", "SOCKSProxy", "AsyncHTTPProxy", "AsyncSOCKSProxy"):
            direct = module.AsyncConnectionPool if kind[0] == "A" else module.ConnectionPool
            self._replace(getattr(module, kind, None), "create_connection", self._past(direct))

    def _past(self, direct: Any) -> Callable[[Any], Any]:
        """Makes connections to the fake *direct* ones, which no proxy is asked for."""

        def wrap(original: Any) -> Any:
            def create_connection(pool: Any, origin: Any) -> Any:
                if (_text(origin.host), origin.port) == (self._fake.hostname, self._fake.port):
                    return direct.create_connection(pool, origin)
                return original(pool, origin)

            return create_connection

        return wrap


def _path(path: str) -> str:
    """The API's path, without what a relay has before it."""
    return path[max(0, path.find("/v1/")) :] or "/"


def _text(value: Text) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
