"""The ``requests`` adapter of :class:`HttpTransport`: one send, without the work done per call.

``requests`` looks up the pool and the target, builds cookies and guesses an encoding for each
request; all of that is the same for each call, or not needed. ``connections`` gives the connections
themselves. The trap that this prevents: urllib3 would retry by itself, without a turn in the queue,
so its own retries are off here (``PacedRetry.once``).
"""

from __future__ import annotations

from typing import Any, Optional, TypeVar

import requests
from requests.adapters import HTTPAdapter

from claude_throttle.transport.connections import (
    keepalive_options,
    renew_locks,
    use_owned_connections,
)
from claude_throttle.transport.retry import PacedRetry

#: URLs whose pool and target are remembered. Calls have one; each batch has URLs of its own, which
#: would fill the memory of a process that runs for months.
MOST_URLS = 16

URL = Optional[str]
Found = TypeVar("Found")


class PacedAdapter(HTTPAdapter):
    """Sends each request once, over connections that another thread can end. Thread-safe.

    Its own ``PacedRetry`` never sends again: ``RetryExchange`` has one for each request and decides
    with that. Raises what ``requests`` raises. One per process: a forked child must call abandon().
    """

    def __init__(self, **options: Any) -> None:
        # By URL: requests would work these out for each call, at a tenth of its cost. Plain dicts:
        # at worst two threads find the same.
        self._pools: dict[URL, Any] = {}
        self._targets: dict[URL, str] = {}
        super().__init__(max_retries=PacedRetry.once(), **options)

    def get_connection_with_tls_context(self, request: Any, *args: Any, **options: Any) -> Any:
        pool = self._pools.get(request.url)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, *args, **options)
            _remember(self._pools, request.url, pool)
        return pool

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        # Called by requests before 2.32; newer ones call the method above.
        pool = self._pools.get(url)
        if pool is None:
            pool = super().get_connection(url, proxies)
            _remember(self._pools, url, pool)
        return pool

    def build_response(self, request: Any, raw: Any) -> requests.Response:
        """A response as requests builds it, without cookies and without guessing an encoding."""
        response = requests.Response()
        response.status_code, response.reason = raw.status, raw.reason
        response.headers = raw.headers  # urllib3's are case-insensitive, too
        response.raw, response.request, response.url = raw, request, request.url
        response.connection = self
        return response

    def abandon(self) -> None:
        """Let a forked child drop its copies of the pools. Takes no lock: a thread that does not
        exist in the child may hold any of them.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            renew_locks(manager)

    def request_url(self, request: Any, proxies: Any) -> str:
        target = self._targets.get(request.url)
        if target is None:
            target = super().request_url(request, proxies)
            _remember(self._targets, request.url, target)
        return target

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        pool_kwargs["socket_options"] = keepalive_options()
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        use_owned_connections(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        proxy_kwargs.setdefault("socket_options", keepalive_options())
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        use_owned_connections(manager)
        return manager


def _remember(found: dict[URL, Found], url: URL, value: Found) -> None:
    if len(found) < MOST_URLS:
        found[url] = value
