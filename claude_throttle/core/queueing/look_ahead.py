"""Answers in the order of their requests, with a bounded number of calls ahead of the reader.

It is what ``throttler.map()`` does. The bound is the point: an endless generator of requests must
not be submitted faster than its answers are read, or the memory fills with answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Callable, Optional

from claude_throttle.errors import InvalidCall

#: Calls kept ahead of the consumer while concurrency is unbounded: a minute's worth at 1,000 a
#: minute, so that slow answers do not starve the queue.
UNBOUNDED_LOOK_AHEAD = 1000


def default_look_ahead(max_concurrency: Optional[int]) -> int:
    """Enough calls to keep every slot in use while the consumer works on an answer."""
    return UNBOUNDED_LOOK_AHEAD if max_concurrency is None else 2 * max_concurrency


def in_order(
    submit: Callable[..., Future[Any]],
    requests: Iterable[Mapping[str, Any]],
    look_ahead: int,
    return_exceptions: bool,
) -> Iterator[Any]:
    """Submit each of *requests*, *look_ahead* ahead of the reader; yield answers in their order.

    With *return_exceptions* a failed call yields its exception, otherwise that is raised. When the
    generator ends early, by an exception or because the reader stopped, calls that have not been
    sent are cancelled. Runs in the reader's thread; nothing happens before the first answer is
    asked for.
    """
    source = iter(requests)
    ahead: deque[Future[Any]] = deque()
    try:
        while True:
            while len(ahead) < look_ahead:
                request = next(source, None)
                if request is None:
                    break
                ahead.append(_submitted(submit, request))
            if not ahead:
                return
            future = ahead.popleft()
            error = future.exception() if return_exceptions else None
            yield future.result() if error is None else error
    finally:
        for future in ahead:
            future.cancel()


def _submitted(submit: Callable[..., Future[Any]], request: Mapping[str, Any]) -> Future[Any]:
    """The future of one call; one with the exception if submit() raised: it has its place, too."""
    try:
        if not isinstance(request, Mapping):
            raise InvalidCall("map() takes dicts of keywords for submit(), one for each call")
        return submit(**request)
    except Exception as error:  # noqa: BLE001 - it is raised where its answer would be
        refused: Future[Any] = Future()
        refused.set_exception(error)
        return refused
