"""How an error of ours comes out of a client of ``httpx``, or of the official SDK around one.

Out of ``httpx`` it comes as it is. The SDK would take it for a lost connection: wrap it, sleep and
try again, three times in all. But it raises what its look at the *answer* raises. So it is given an
answer, which never was sent, that raises the error when the SDK asks whether it is a success.

``httpx`` and ``httpx2`` are alike, and neither is imported here: a request tells which one made it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import import_module
from typing import Any

from claude_throttle.transport.error_text import LONGEST_TEXT, readable

#: A header of each request of the official SDK.
SDK_HEADER = "x-stainless-lang"

#: What fits the library that asks for the method, by that method.
INSTEAD = {
    "handle_request": "httpx.Client(transport=throttler.transport())",
    "send": "session.mount(throttler.settings.base_url, throttler.adapter()), or "
    "throttler.mount(session)",
    "__call__": "anthropic.Anthropic(middleware=[throttler.middleware()])",
}


def raise_in_client(request: Any, error: Exception) -> Any:
    """Raise *error*, or return an answer to a *request* of the SDK that raises it there."""
    if SDK_HEADER not in request.headers:
        raise error
    text = readable(f"claude_throttle: {type(error).__name__}: {error}"[: 4 * LONGEST_TEXT])
    content = {"type": "error", "error": {"type": "api_error", "message": text}}
    # Whoever looks at it in another way finds a refusal that must not be tried again.
    answer = with_base(UnsentResponse, library_of(request).Response)(
        503,
        headers={"content-type": "application/json", "x-should-retry": "false"},
        content=json.dumps(content).encode("utf-8"),
    )
    answer.unsent = error
    return answer


def library_of(request: Any) -> Any:
    """The module ``httpx`` or ``httpx2`` that made *request*, or its class's base class."""
    kind: Any = type(request)
    return _library_of(kind)


@lru_cache(maxsize=8)
def _library_of(kind: Any) -> Any:
    made_by = next(base for base in kind.__mro__ if base.__name__ == "Request")
    module: str = made_by.__module__
    return import_module(module[: -len("._models")] if module.endswith("._models") else module)


@lru_cache(maxsize=32)
def with_base(kind: Any, *bases: Any) -> Any:
    """A subclass of *kind*, which is of this package, and of another library's *bases*."""
    return type(kind.__name__, (kind, *bases), {"__module__": kind.__module__})


def asynchronous(instead: str) -> TypeError:
    """The error for a client that would call from an event loop, with what to write *instead*."""
    return TypeError(
        "claude_throttle is synchronous: it would block the event loop, so AsyncClient and "
        f"AsyncAnthropic cannot use it; use {instead}, in asyncio.to_thread() if need be"
    )


class UnsentResponse:
    """An answer to a request that was not sent: asked whether it is a success, it raises why."""

    unsent: Exception

    @property
    def is_success(self) -> bool:
        raise self.unsent

    def raise_for_status(self) -> Any:
        """Raise the error; the SDK's releases before 0.108 ask so."""
        raise self.unsent


class ForOneClient:
    """Says what fits, to a client that was given what ``throttler`` made for another one."""

    #: The method of the throttler that made it.
    made_by: str

    @property
    def timeout(self) -> Any:
        """What the SDK asks of an ``http_client``, which this is not."""
        raise AttributeError(
            f"{self.made_by}() makes no client: write anthropic.Anthropic(http_client="
            f"{INSTEAD['handle_request']})"
        )

    def handle_request(self, request: Any) -> Any:
        """What ``httpx`` calls."""
        return raise_in_client(request, self._misplaced("handle_request"))

    async def handle_async_request(self, request: Any) -> Any:
        """What an asynchronous client of ``httpx`` calls."""
        return raise_in_client(request, asynchronous(INSTEAD["handle_request"]))

    def send(self, *_request: Any, **_options: Any) -> Any:
        """What a session of ``requests`` calls."""
        raise self._misplaced("send")

    def __call__(self, *_request: Any) -> Any:
        """What the SDK calls, with a middleware."""
        raise self._misplaced("__call__")

    def close(self) -> None:
        """What a client calls at its end; there is nothing to close."""

    def __enter__(self) -> Any:
        raise self._misplaced("handle_request")

    def __exit__(self, *_error: object) -> None:
        return None

    async def __aenter__(self) -> Any:
        raise asynchronous(INSTEAD["handle_request"])

    def _misplaced(self, asked: str) -> TypeError:
        return TypeError(f"{self.made_by}() does not fit here; write {INSTEAD[asked]}")
