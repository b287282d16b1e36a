"""Answers in the order of their requests, with a bounded number of calls ahead of the reader.

It is what ``throttler.map()`` does. The bound is the point: an endless generator of requests must
not be submitted faster than its answers are read, or the memory fills with answers.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Callable, Optional

from claude_throttle.errors import ConfigurationError, InvalidCall

#: Calls kept ahead of the consumer while concurrency is unbounded: a minute's worth at 1,000 a
#: minute, so that slow answers do not starve the queue.
UNBOUNDED_LOOK_AHEAD = 1000

#: Rows in a row that an iterable may raise for; more, and it is taken to do so for ever.
MOST_FAILURES = 100


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

    With *return_exceptions* a failed call yields its exception, otherwise that is raised. A row
    that is no request, or that *requests* raises for, is such a call: those before it are finished,
    and what follows is read. When the generator ends early, by an exception or because the reader
    stopped, calls that have not been sent are cancelled. Runs in the reader's thread; nothing
    happens before the first answer is asked for.
    """
    rows = _rows(requests, return_exceptions)
    ahead: deque[Future[Any]] = deque()
    try:
        while True:
            while len(ahead) < look_ahead and (row := next(rows, None)) is not None:
                ahead.append(_submitted(submit, *row))
            if not ahead:
                return
            future = ahead.popleft()
            error = future.exception() if return_exceptions else None
            yield future.result() if error is None else error
    finally:
        for future in ahead:
            future.cancel()


def _rows(requests: Iterable[Any], go_on: bool) -> Iterator[tuple[int, Any]]:
    """The number and the request of each row; the exception in place of one that was raised."""
    if isinstance(requests, (str, bytes, Mapping)) or hasattr(requests, "iterrows"):
        instead = 'df.to_dict("records")' if hasattr(requests, "iterrows") else "[{…}, {…}]"
        raise InvalidCall(f"map() takes dicts of submit()'s keywords, one for each call: {instead}")
    source = iter(requests)
    failures = 0
    for number in itertools.count():
        try:
            row = next(source)
            failures = 0
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - it is raised where its answer would be
            row, failures = error, failures + 1
        yield number, row
        if failures and (not go_on or failures > MOST_FAILURES):
            return


def _submitted(submit: Callable[..., Future[Any]], number: int, row: Any) -> Future[Any]:
    """The future of one call; one with the exception if submit() raised: it has its place, too."""
    try:
        if isinstance(row, Mapping):
            return submit(**row)
        error: Exception = InvalidCall(_why_no_request(row))
        error.__cause__ = row if isinstance(row, Exception) else None
    except Exception as raised:  # noqa: BLE001 - it is raised where its answer would be
        error = raised
    # A TypeError is Python's own: names that are no strings. A timeout is a setting, too.
    if isinstance(error, (InvalidCall, TypeError)) or (
        isinstance(error, ConfigurationError) and "timeout" in row
    ):
        cause, error = error.__cause__, InvalidCall(f"row {number} (from 0): {error}")
        error.__cause__ = cause
    refused: Future[Any] = Future()
    refused.set_exception(error)
    return refused


def _why_no_request(row: Any) -> str:
    if isinstance(row, Exception):
        # Of its words only what can be a column's name: the others may quote the row.
        name = str(row.args[0]) if isinstance(row, KeyError) and row.args else ""
        name = f" for {name:.40}" if name.isidentifier() else ""
        return f"the iterable of requests raised {type(row).__name__}{name}"
    instead = "row._asdict()" if hasattr(row, "_asdict") else '{"messages": […], …}'
    instead = "row.to_dict()" if hasattr(row, "to_dict") else instead
    return (
        f"map() takes dicts of keywords for submit(), one for each call, not {type(row).__name__}: "
        f"write {instead}"
    )
